//! What applying a file would change.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::check::{self, After};
use super::claims;
use super::credentials::{self, CredentialWork};
use super::file::{ApplyFile, ClientSpec, ResourceSpec};
use super::state::{State, StoredClient};
use super::users::{self, UserWork};
use super::{Failed, Options};
use crate::audit::{Action, FieldChange};
use crate::clock::Micros;
use crate::password::PasswordHasher;
use crate::resources::Resource;
use crate::store::claim_mappers::MapperRow;
use crate::store::clients::ClientRow;
use crate::store::resources::ResourceRow;
use crate::store::users::UserRow;
use crate::store::{Db, StoreError};
use crate::users::username_key;
use crate::wire::ManagedBy;

/// What a change is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A resource; the id is its identifier.
    Resource,
    /// A client; the id is its `client_id`.
    Client,
    /// A claim; the id is its name, its scope, and its client where it is for one alone.
    Claim,
    /// A person; the id is their username.
    User,
}

/// What happens to one object.
#[derive(Debug, Serialize)]
pub struct Change {
    /// What it is.
    pub kind: Kind,
    /// Which one.
    pub id: String,
    /// What happens to it.
    pub action: Action,
    /// In detail; empty when it is removed or unchanged.
    pub fields: Vec<FieldChange>,
    #[serde(skip)]
    pub(super) work: Work,
}

#[derive(Debug)]
pub(super) enum Work {
    None,
    SaveResource { row: ResourceRow, scopes: Vec<(String, String)> },
    RemoveResource,
    SaveClient { row: ClientRow, origins: Vec<String>, credentials: CredentialWork },
    RemoveClient,
    SaveClaim { row: MapperRow },
    RemoveClaim { row: MapperRow },
    SaveUser(UserWork),
    RemoveUser { sub: String, updated_at: Micros },
}

/// What applying a file would change, as of one state of the database.
#[derive(Debug, Serialize)]
pub struct Plan {
    /// Resources first; what the file names in its order, then what is pruned.
    pub changes: Vec<Change>,
    /// The head of the change feed that this is as of.
    #[serde(skip)]
    pub(super) head: i64,
}

impl Change {
    /// By what its row is found. Files may write one username in several ways.
    pub(super) fn row(&self) -> String {
        let compared = if self.kind == Kind::User { username_key(&self.id).ok() } else { None };
        compared.unwrap_or_else(|| self.id.clone())
    }
}

impl Plan {
    /// Whether everything is as the file says already.
    pub fn is_empty(&self) -> bool {
        self.changes.iter().all(|change| change.action == Action::Unchanged)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.changes.iter().try_for_each(|change| write!(f, "{change}"))
    }
}

/// Lines: `+` made, `~` changed, `-` removed, `=` as it was; then each field.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.action {
            Action::Create => '+',
            Action::Change => '~',
            Action::Remove => '-',
            Action::Unchanged => '=',
        };
        let kind = match self.kind {
            Kind::Resource => "resource",
            Kind::Client => "client",
            Kind::Claim => "claim",
            Kind::User => "user",
        };
        writeln!(f, "{sign} {kind} {}", self.id)?;
        for FieldChange { field, old, new } in &self.fields {
            match (old, new) {
                (None, new @ Some(_)) => writeln!(f, "    {field}: {}", shown(new.as_ref()))?,
                (old, new) => writeln!(f, "    {field}: {} -> {}", shown(old.as_ref()), shown(new.as_ref()))?,
            }
        }
        Ok(())
    }
}

/// A list stands as it would in a file; of what looks like one and is none, every character shows.
fn shown(value: Option<&String>) -> String {
    match value {
        None => "(none)".to_owned(),
        Some(list) if serde_json::from_str::<Vec<Value>>(list).is_ok() => list.clone(),
        Some(text) => format!("{text:?}"),
    }
}

/// Compares `file` with the database, and changes nothing.
///
/// # Errors
/// [`Failed::Problems`] with everything that is wrong with the file; [`Failed::Store`] when the database cannot be
/// read.
pub async fn plan(
    db: &Db,
    file: &ApplyFile,
    options: &Options<'_>,
    passwords: &PasswordHasher,
) -> Result<Plan, Failed> {
    let named = users::keys(&file.user);
    let before = db.read(move |conn| Box::pin(async move { State::load(conn, &named).await })).await?;
    let after = check::all(file, &before, options, passwords).map_err(Failed::Problems)?;
    let mut changes = Vec::new();
    for spec in &file.resource {
        let stored = before.resources.resource(&spec.identifier).map(AsRef::as_ref);
        changes.push(resource(spec, stored)?);
    }
    let named: HashSet<&str> = file.resource.iter().map(|spec| spec.identifier.as_str()).collect();
    for stored in before.resources.iter().filter(|stored| !named.contains(stored.identifier.as_str())) {
        if options.prune && stored.managed_by == ManagedBy::Apply {
            changes.push(removed(Kind::Resource, &stored.identifier, Work::RemoveResource));
        }
    }
    for spec in &file.client {
        changes.push(client(spec, before.clients.get(&spec.client_id), &after, passwords).await?);
    }
    let named: HashSet<&str> = file.client.iter().map(|spec| spec.client_id.as_str()).collect();
    for (client_id, stored) in before.clients.iter().filter(|(client_id, _)| !named.contains(client_id.as_str())) {
        if options.prune && stored.is_applied() {
            changes.push(removed(Kind::Client, client_id, Work::RemoveClient));
        }
    }
    people(file, &before, passwords, &mut changes).await?;
    if options.prune {
        for UserRow { sub, username, updated_at, .. } in users::pruned(db, &file.user).await? {
            changes.push(removed(Kind::User, &username, Work::RemoveUser { sub, updated_at }));
        }
    }
    changes.extend(claims::plan(file, &before, options.prune));
    Ok(Plan { changes, head: before.head })
}

async fn people(
    file: &ApplyFile,
    before: &State,
    hasher: &PasswordHasher,
    changes: &mut Vec<Change>,
) -> Result<(), Failed> {
    for spec in &file.user {
        let (work, is_new, fields) = users::diff(spec, before, hasher).await?;
        let action = action(is_new, &fields);
        let work = work.map_or(Work::None, Work::SaveUser);
        changes.push(Change { kind: Kind::User, id: spec.username.trim().to_owned(), action, fields, work });
    }
    Ok(())
}

pub(super) fn removed(kind: Kind, id: &str, work: Work) -> Change {
    Change { kind, id: id.to_owned(), action: Action::Remove, fields: Vec::new(), work }
}

pub(super) fn action(is_new: bool, fields: &[FieldChange]) -> Action {
    match (is_new, fields.is_empty()) {
        (true, _) => Action::Create,
        (false, false) => Action::Change,
        (false, true) => Action::Unchanged,
    }
}

fn resource(spec: &ResourceSpec, stored: Option<&Resource>) -> Result<Change, StoreError> {
    let old = stored.map(|stored| json(&stored.settings)).transpose()?;
    let new = json(&spec.settings)?;
    let mut fields = differences(old.as_ref(), &new);
    let none = BTreeMap::new();
    let had = stored.map_or(&none, |stored| &stored.scopes);
    let names: BTreeSet<&String> = had.keys().chain(spec.scopes.keys()).collect();
    for name in names {
        let (old, new) = (had.get(name).cloned(), spec.scopes.get(name).cloned());
        if old != new {
            fields.push(FieldChange { field: format!("scopes {name:?}"), old, new });
        }
    }
    fields.extend(stored.and_then(|stored| taken_over(stored.managed_by.as_str())));
    let action = action(stored.is_none(), &fields);
    let work = if action == Action::Unchanged {
        Work::None
    } else {
        let row = ResourceRow {
            identifier: spec.identifier.clone(),
            settings: new.to_string(),
            managed_by: ManagedBy::Apply.to_string(),
        };
        let scopes = spec.scopes.iter().map(|(name, description)| (name.clone(), description.clone())).collect();
        Work::SaveResource { row, scopes }
    };
    Ok(Change { kind: Kind::Resource, id: spec.identifier.clone(), action, fields, work })
}

async fn client(
    spec: &ClientSpec,
    stored: Option<&StoredClient>,
    after: &After,
    passwords: &PasswordHasher,
) -> Result<Change, Failed> {
    let mut metadata = spec.metadata.clone();
    if metadata.resources.is_empty() {
        metadata.resources = after.owners_of(&metadata.scope).into();
    }
    let old = stored.map(|stored| json(&stored.metadata)).transpose()?;
    let new = json(&metadata)?;
    let mut fields = differences(old.as_ref(), &new);
    let was_disabled = stored.is_some_and(|stored| stored.row.disabled);
    if was_disabled != spec.disabled {
        let (old, new) = (stored.map(|_| was_disabled.to_string()), Some(spec.disabled.to_string()));
        fields.push(FieldChange { field: "disabled".to_owned(), old, new });
    }
    let known = stored.map_or(&[][..], |stored| &stored.credentials);
    let (credentials, words) = credentials::diff(spec, known, passwords).await?;
    fields.extend(words);
    fields.extend(stored.and_then(|stored| taken_over(&stored.row.managed_by)));
    let action = action(stored.is_none(), &fields);
    let work = if action == Action::Unchanged {
        Work::None
    } else {
        let row = ClientRow {
            client_id: spec.client_id.clone(),
            metadata: new.to_string(),
            disabled: spec.disabled,
            managed_by: ManagedBy::Apply.to_string(),
        };
        Work::SaveClient { row, origins: metadata.allowed_origins.into(), credentials }
    };
    Ok(Change { kind: Kind::Client, id: spec.client_id.clone(), action, fields, work })
}

/// What somebody else made is the file's from now on, and said so.
pub(super) fn taken_over(managed_by: &str) -> Option<FieldChange> {
    let ours = ManagedBy::Apply.as_str();
    let change = |old: &str| FieldChange {
        field: "managed_by".to_owned(),
        old: Some(old.to_owned()),
        new: Some(ours.to_owned()),
    };
    if managed_by == ours { None } else { Some(change(managed_by)) }
}

fn json(of: &impl Serialize) -> Result<Value, StoreError> {
    serde_json::to_value(of).map_err(|cause| StoreError::Unfit(cause.to_string()))
}

/// The members that differ between two objects; without an old one, those that the new one has.
fn differences(old: Option<&Value>, new: &Value) -> Vec<FieldChange> {
    let members = |object: Option<&Value>| object.and_then(Value::as_object).cloned().unwrap_or_default();
    let (was, will) = (members(old), members(Some(new)));
    let gone = was.keys().filter(|field| !will.contains_key(*field));
    will.keys()
        .chain(gone)
        .filter(|field| was.get(*field) != will.get(*field))
        .map(|field| FieldChange {
            field: field.clone(),
            old: was.get(field).map(text),
            new: will.get(field).map(text),
        })
        .collect()
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
