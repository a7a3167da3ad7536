//! Doing what a plan says: all of it or nothing.

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::credentials::{Addition, Material};
use super::plan::{Change, Plan, Work};
use super::{Failed, state};
use crate::clients::secret::{SecretHasher, digest_to_text};
use crate::secret::{Id, Prefix, Secret, random};
use crate::store::audit::EventRow;
use crate::store::clients::NewCredential;
use crate::store::{Db, StoreError, Tx, audit as events, clients, resources};
use crate::wire::CredentialKind;

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
/// [`Failed::Store`] when the database could not, or a client or resource has changed since the plan was made:
/// nothing was applied then, unless it is [`StoreError::Unknown`].
pub async fn commit(db: &Db, plan: Plan, hasher: &SecretHasher) -> Result<Applied, Failed> {
    if plan.is_empty() {
        return Ok(Applied { generated: Vec::new(), seq: None });
    }
    // Hashing takes its time, and SQLite's writer has none.
    let mut generated = Vec::new();
    let mut credentials = VecDeque::new();
    for change in &plan.changes {
        if let Work::SaveClient { credentials: work, .. } = &change.work {
            for addition in &work.add {
                let (row, made) = prepare(addition, hasher)?;
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
    let Plan { changes, head } = plan;
    let done = db.write(move |tx| Box::pin(async move { run(tx, &changes, head, credentials).await })).await;
    match done {
        Ok(done) => Ok(Applied { generated, seq: done.seq }),
        // Somebody else's row stands where the plan saw none.
        Err(cause) if cause.is_conflict() => Err(changed().into()),
        Err(cause) => Err(cause.into()),
    }
}

fn changed() -> StoreError {
    StoreError::Unfit(
        "clients or resources have changed since they were compared; nothing was applied, run it again".into(),
    )
}

/// The row of a credential, and the secret if it was made here.
fn prepare(addition: &Addition, hasher: &SecretHasher) -> Result<(NewCredential, Option<Secret>), Failed> {
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
        Material::Given(secret) => hasher.hash_imported(secret)?,
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

async fn run(tx: &mut Tx, changes: &[Change], head: i64, mut new: VecDeque<NewCredential>) -> Result<(), StoreError> {
    if !state::is_as_of(tx, head).await? {
        return Err(changed());
    }
    // A scope can move between resources only when the old owner has let go of it.
    for change in changes {
        match &change.work {
            Work::RemoveResource => resources::delete(tx, &change.id).await?,
            Work::SaveResource { .. } => resources::drop_scopes(tx, &change.id).await?,
            _ => {}
        }
    }
    for change in changes {
        match &change.work {
            Work::None => {}
            Work::RemoveResource => audit(tx, "resource.removed", &change.id, json!({})).await?,
            Work::RemoveClient => {
                clients::delete(tx, &change.id).await?;
                audit(tx, "client.removed", &change.id, json!({})).await?;
            }
            Work::SaveResource { row, scopes } => {
                resources::save(tx, row).await?;
                resources::add_scopes(tx, &change.id, scopes).await?;
                audit(tx, "resource.saved", &change.id, details(change)).await?;
            }
            Work::SaveClient { row, origins, credentials } => {
                clients::save(tx, row, origins).await?;
                audit(tx, "client.saved", &change.id, details(change)).await?;
                for gone in &credentials.remove {
                    clients::remove_credential(tx, &change.id, &gone.id).await?;
                    let words = json!({ "label": gone.label, "kind": gone.kind });
                    audit(tx, "credential.removed", &change.id, words).await?;
                }
                for (id, expires_at) in &credentials.expire {
                    clients::set_expiry(tx, &change.id, id, *expires_at).await?;
                }
                for row in new.drain(..credentials.add.len().min(new.len())) {
                    clients::add_credential(tx, &change.id, &row).await?;
                    let words = json!({ "label": row.label, "kind": row.kind });
                    audit(tx, "credential.added", &change.id, words).await?;
                }
            }
        }
    }
    // PostgreSQL commits in parallel: what others committed while this went on is visible by now.
    if state::is_as_of(tx, head).await? { Ok(()) } else { Err(changed()) }
}

fn details(change: &Change) -> Value {
    json!({ "action": change.action, "fields": change.fields })
}

/// The one place where `apply` writes to the audit trail.
async fn audit(tx: &mut Tx, kind: &str, object: &str, details: Value) -> Result<(), StoreError> {
    let id: Id = random().map_err(|cause| StoreError::Unfit(cause.to_string()))?;
    let event = EventRow {
        at: tx.now(),
        kind: kind.to_owned(),
        actor: "cli".to_owned(),
        object: object.to_owned(),
        address: String::new(),
        request_id: String::new(),
        details: details.to_string(),
    };
    events::add(tx, id, &event).await
}
