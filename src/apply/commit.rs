//! Doing what a plan says: all of it or nothing.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::credentials::{Addition, Material};
use super::plan::{Change, Plan, Work};
use super::users::{PasswordWork, UserWork};
use super::{Failed, state};
use crate::audit::{self, Action, Actor, Event};
use crate::clients::secret::digest_to_text;
use crate::issue::LONGEST_LIFETIME;
use crate::nodes::LEASE_BOUND;
use crate::password::PasswordHasher;
use crate::secret::{Id, Prefix, Secret, random};
use crate::session;
use crate::store::clients::NewCredential;
use crate::store::{Db, StoreError, Tx, claim_mappers, clients, grants, resources, revocations, users};
use crate::users::{password, throttle};
use crate::wire::CredentialKind;

/// A file of many thousand objects takes its time.
const LONGEST_COMMIT: Duration = Duration::from_mins(1);

/// What was done.
#[derive(Debug)]
pub struct Applied {
    /// Secrets that were made: nobody can read them again.
    pub generated: Vec<Generated>,
    /// The change feed's number; `None` when nothing was to be done. Running servers act on the change once they
    /// have applied it.
    pub seq: Option<i64>,
}

/// A secret that was made.
#[derive(Debug)]
pub struct Generated {
    /// Whose it is.
    pub client_id: String,
    /// Its name among the client's credentials.
    pub label: String,
    /// The secret.
    pub secret: Secret,
}

/// Carries `plan` out in one transaction, with an audit event for each object and credential.
///
/// # Errors
/// [`Failed::Store`] when the database could not, or what the plan changes has changed since it was made:
/// nothing was applied then, unless it is [`StoreError::Unknown`].
pub async fn commit(db: &Db, mut plan: Plan, passwords: &PasswordHasher) -> Result<Applied, Failed> {
    if plan.is_empty() {
        return Ok(Applied { generated: Vec::new(), seq: None });
    }
    // Secrets are shown in the order of the file.
    let places: HashMap<String, usize> =
        plan.changes.iter().enumerate().map(|(at, change)| (change.id.clone(), at)).collect();
    // In one order, whatever the file's: of two commands at once, the second waits for the first and then finds out
    // that it has changed something; in two orders, each could wait for the other.
    plan.changes.sort_by_cached_key(|change| (change.kind, change.row()));
    // Hashing takes its time, and SQLite's writer has none.
    let mut generated = Vec::new();
    let mut credentials = VecDeque::new();
    let mut people = VecDeque::new();
    for change in &plan.changes {
        if let Work::SaveUser(work) = &change.work {
            people.push_back(hashed(work, passwords).await?);
        }
        if let Work::SaveClient { credentials: work, .. } = &change.work {
            for addition in &work.add {
                let (row, made) = prepare(addition, passwords).await?;
                credentials.push_back(row);
                let Addition { label, .. } = addition;
                generated.extend(made.map(|secret| Generated {
                    client_id: change.id.clone(),
                    label: label.clone(),
                    secret,
                }));
            }
        }
    }
    generated.sort_by_key(|made| places.get(&made.client_id));
    let Plan { changes, head } = plan;
    let done = db
        .write_within(LONGEST_COMMIT, move |tx| {
            Box::pin(async move { run(tx, &changes, head, New { credentials, people }).await })
        })
        .await;
    match done {
        Ok(done) => Ok(Applied { generated, seq: done.seq }),
        // Somebody else's row stands where the plan saw none.
        Err(cause) if cause.is_conflict() => Err(changed().into()),
        Err(cause) => Err(cause.into()),
    }
}

fn changed() -> StoreError {
    StoreError::Unfit(
        "clients, resources, claims or people have changed since they were compared; nothing was applied, run it again"
            .into(),
    )
}

/// The row of a credential, and the secret if it was made here.
async fn prepare(addition: &Addition, passwords: &PasswordHasher) -> Result<(NewCredential, Option<Secret>), Failed> {
    let mut made = None;
    let kind = addition.material.kind();
    let value = match &addition.material {
        Material::Generate => {
            let secret = Prefix::ClientSecret.generate().map_err(crate::error::Error::from)?;
            let value = digest_to_text(&secret);
            made = Some(secret);
            value
        }
        Material::Given(secret) if kind == CredentialKind::GeneratedSecret => digest_to_text(secret),
        Material::Given(secret) => passwords.hash(secret, None).await?,
        Material::Jwk(key) => key.clone(),
    };
    let id: Id = random().map_err(crate::error::Error::from)?;
    let row = NewCredential {
        id,
        kind: kind.as_str(),
        label: addition.label.clone(),
        value,
        expires_at: addition.expires_at,
    };
    Ok((row, made))
}

/// What was prepared before the transaction, in the order of the changes that need it.
struct New {
    credentials: VecDeque<NewCredential>,
    people: VecDeque<Option<String>>,
}

async fn run(tx: &mut Tx, changes: &[Change], head: i64, mut new: New) -> Result<(), StoreError> {
    let actor = Actor::command_line();
    save_resources(tx, &actor, changes).await?;
    let record = |tx: &mut Tx, object: &str, event: Event| audit::record(tx, &actor, object, &event);
    for change in changes {
        let (id, action) = (change.id.as_str(), change.action);
        match &change.work {
            Work::None | Work::RemoveResource | Work::SaveResource { .. } => {}
            Work::RemoveClient => {
                clients::delete(tx, id).await?;
                claim_mappers::delete_of_client(tx, id).await?;
                revoke_tokens(tx, id).await?;
                record(tx, id, Event::ClientRemoved)?;
            }
            Work::SaveClaim { row } => {
                claim_mappers::save(tx, row).await?;
                record(tx, id, Event::ClaimSaved { action, fields: change.fields.clone() })?;
            }
            Work::RemoveClaim { row } => {
                claim_mappers::delete(tx, row).await?;
                record(tx, id, Event::ClaimRemoved)?;
            }
            Work::SaveUser(work) => save_user(tx, &actor, change, work, new.people.pop_front().flatten()).await?,
            Work::RemoveUser { sub, updated_at } => {
                // Their row before all that hangs on it, as whoever changes them does.
                if !users::lock(tx, sub, *updated_at).await? {
                    return Err(changed());
                }
                session::end_all(tx, &actor, sub).await?;
                throttle::forget(tx, sub).await?;
                users::delete(tx, sub).await?;
                record(tx, sub, Event::UserRemoved)?;
            }
            Work::SaveClient { row, origins, credentials } => {
                clients::save(tx, row, origins).await?;
                if row.disabled {
                    revoke_tokens(tx, id).await?;
                } else if change.fields.iter().any(|field| field.field == "disabled") {
                    // What was under way at the moment when it was switched off.
                    grants::revoke_of_client(tx, id).await?;
                }
                let fields = change.fields.clone();
                record(tx, id, Event::ClientSaved { action, fields })?;
                for gone in &credentials.remove {
                    clients::remove_credential(tx, id, &gone.id).await?;
                    let (label, kind) = (gone.label.clone(), gone.kind.clone());
                    record(tx, id, Event::CredentialRemoved { label, kind })?;
                }
                for (credential, expires_at) in &credentials.expire {
                    clients::set_expiry(tx, id, credential, *expires_at).await?;
                }
                for row in new.credentials.drain(..credentials.add.len().min(new.credentials.len())) {
                    clients::add_credential(tx, id, &row).await?;
                    let kind = row.kind.to_owned();
                    record(tx, id, Event::CredentialAdded { label: row.label, kind })?;
                }
            }
        }
    }
    // PostgreSQL commits in parallel: only under the feed's lock is it sure that nobody else's change comes between.
    if state::is_as_of(tx, head).await? { Ok(()) } else { Err(changed()) }
}

/// All resources, then all their scopes by name, whosever they are: a scope can move between two resources only when
/// the old owner has let go of it, and of two commands at once that change the same ones, neither waits for the other
/// while that one waits for it.
async fn save_resources(tx: &mut Tx, actor: &Actor, changes: &[Change]) -> Result<(), StoreError> {
    let mut added = Vec::new();
    for change in changes {
        let event = match &change.work {
            Work::RemoveResource => {
                resources::delete(tx, &change.id).await?;
                Event::ResourceRemoved
            }
            Work::SaveResource { row, scopes } => {
                resources::save(tx, row).await?;
                resources::drop_scopes(tx, &change.id).await?;
                added.extend(scopes.iter().map(|(name, description)| (name, &change.id, description)));
                Event::ResourceSaved { action: change.action, fields: change.fields.clone() }
            }
            _ => continue,
        };
        audit::record(tx, actor, &change.id, &event)?;
    }
    added.sort_unstable();
    for (name, resource, description) in added {
        resources::add_scope(tx, resource, name, description).await?;
    }
    Ok(())
}

/// The hash of the password that a person gets.
async fn hashed(work: &UserWork, passwords: &PasswordHasher) -> Result<Option<String>, Failed> {
    Ok(match &work.password {
        PasswordWork::Keep => None,
        PasswordWork::Set(password) => Some(passwords.hash(password, None).await?),
        PasswordWork::Import(hash) => Some(hash.expose().to_owned()),
    })
}

async fn save_user(
    tx: &mut Tx,
    actor: &Actor,
    change: &Change,
    work: &UserWork,
    password: Option<String>,
) -> Result<(), StoreError> {
    let mut row = work.row.clone();
    let fields = change.fields.iter().map(|field| field.field.clone()).collect();
    let saved = Event::UserSaved { action: change.action, fields };
    let imports = matches!(work.password, PasswordWork::Import(_));
    if change.action == Action::Create {
        row.sub = crate::users::new_sub().map_err(|cause| StoreError::Unfit(cause.to_string()))?;
        row.password_import = password.as_deref().filter(|_| imports).map(password::import);
        row.password = password;
        users::add(tx, &row).await?;
        return audit::record(tx, actor, &row.sub, &saved);
    }
    // People have no place in the feed's check below: each row says by itself whether it is as it was compared.
    if !users::save(tx, &row).await? {
        return Err(changed());
    }
    audit::record(tx, actor, &row.sub, &saved)?;
    match password {
        Some(phc) if imports => crate::users::import_password(tx, actor, &row.sub, &phc).await?,
        Some(phc) => crate::users::set_password(tx, actor, &row.sub, &phc).await?,
        None => {}
    }
    if work.switches_off {
        session::end_all(tx, actor, &row.sub).await?;
    }
    Ok(())
}

/// Kills every token that the client holds, refresh tokens and codes among them, and those that nodes mint until they
/// have heard of it, which their lease bounds: enabling the client or making it again does not bring them back.
async fn revoke_tokens(tx: &mut Tx, client_id: &str) -> Result<(), StoreError> {
    grants::revoke_of_client(tx, client_id).await?;
    let (not_before, expires_at) = (tx.now() + LEASE_BOUND, tx.now() + LONGEST_LIFETIME);
    revocations::add(tx, revocations::Kind::Client, client_id, not_before, expires_at).await.map(drop)
}
