//! People of an `apply` file: what it asks for, and how that differs from what there is.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value;

use super::Failed;
use super::file::UserSpec;
use super::state::State;
use crate::audit::FieldChange;
use crate::password::{PasswordHasher, is_phc};
use crate::secret::Secret;
use crate::store::users::UserRow;
use crate::store::{Conn, StoreError, users};
use crate::users::password;
use crate::users::{User, is_standard, username_key};
use crate::wire::ManagedBy;

/// What to do about a person's password.
#[derive(Debug)]
pub(super) enum PasswordWork {
    /// The one they have stays.
    Keep,
    /// One of the file.
    Set(Secret),
    /// One that was hashed elsewhere.
    SetHash(Secret),
}

/// What to do about a person.
pub(super) struct UserWork {
    /// The row as it will be; `sub` is empty for a new person.
    pub row: UserRow,
    pub password: PasswordWork,
    /// Whether they are switched off by this.
    pub disables: bool,
}

impl std::fmt::Debug for UserWork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {:?}", self.row.username, self.password)
    }
}

/// Everybody there is, by the username as it is compared.
pub(super) async fn load(conn: &mut Conn) -> Result<BTreeMap<String, UserRow>, StoreError> {
    Ok(users::list(conn).await?.into_iter().map(|row| (row.username_key.clone(), row)).collect())
}

/// What is wrong with the people of a file: (username, field, text).
pub(super) fn problems(specs: &[UserSpec], min_length: usize) -> Vec<(String, &'static str, String)> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    for spec in specs {
        let mut add = |field, text: String| found.push((spec.username.clone(), field, text));
        match username_key(&spec.username) {
            Err(wrong) => add("username", wrong.to_string()),
            Ok(key) if !seen.insert(key.clone()) => add("username", "is there twice in the file".to_owned()),
            Ok(_) => {}
        }
        let profile = spec.profile();
        for name in spec.standard.keys().filter(|name| !is_standard(name)) {
            add("claims", format!("{name:?} is no field and no standard claim; claims of your own stand in `claims`"));
        }
        for wrong in profile.check() {
            add(wrong.field, wrong.text);
        }
        if let Some(given) = &spec.password {
            let claims = ["name", "email", "given_name", "family_name"];
            let own = claims.iter().filter_map(|claim| profile.text(claim)).chain([spec.username.as_str()]);
            if let Err(weak) = password::check(given.expose(), own, min_length) {
                add("password", weak.to_string());
            }
        }
        if let Some(hash) = &spec.password_hash
            && !is_phc(hash.expose())
        {
            add("password_hash", "takes a PHC string of Argon2id, $argon2id$v=19$m=…,t=…,p=…$…$…".to_owned());
        }
        if spec.password.is_some() && spec.password_hash.is_some() {
            add("password_hash", "takes password or password_hash, not both".to_owned());
        }
    }
    found
}

/// How `spec` differs from what there is: the work, and the same in words.
///
/// # Errors
/// When a password cannot be compared.
pub(super) async fn diff(
    spec: &UserSpec,
    before: &State,
    hasher: &PasswordHasher,
) -> Result<(Option<UserWork>, bool, Vec<FieldChange>), Failed> {
    // The checks have found no fault in it.
    let key = username_key(&spec.username).unwrap_or_default();
    let stored = before.users.get(&key);
    let profile = spec.profile();
    let mut fields = Vec::new();
    let mut change = |field: &str, old: Option<String>, new: Option<String>| {
        if old != new {
            fields.push(FieldChange { field: field.to_owned(), old, new });
        }
    };
    let old = stored.map(User::from_row).transpose()?;
    let username = spec.username.trim().to_owned();
    change("username", old.as_ref().map(|old| old.username.clone()), Some(username.clone()));
    let none = crate::users::Profile::default();
    let was = old.as_ref().map_or(&none, |old| &old.profile);
    let groups = |groups: &[String]| (!groups.is_empty()).then(|| Value::from(groups).to_string());
    change("groups", groups(&was.groups), groups(&profile.groups));
    let names: std::collections::BTreeSet<&String> = was.claims.keys().chain(profile.claims.keys()).collect();
    for name in names {
        let text = |claims: &serde_json::Map<String, Value>| {
            claims.get(name).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        };
        change(name, text(&was.claims), text(&profile.claims));
    }
    let was_disabled = old.as_ref().is_some_and(|old| old.disabled);
    if was_disabled != spec.disabled {
        change("disabled", Some(was_disabled.to_string()), Some(spec.disabled.to_string()));
    }
    let had = stored.and_then(|stored| stored.password.as_deref());
    let password = password_work(spec, had, hasher).await?;
    if !matches!(password, PasswordWork::Keep) {
        change("password", had.map(|_| "set".to_owned()), Some("set anew".to_owned()));
    }
    let ours = ManagedBy::Apply.as_str();
    if let Some(stored) = stored {
        change("managed_by", Some(stored.managed_by.clone()), Some(ours.to_owned()));
    }
    if stored.is_some() && fields.is_empty() {
        return Ok((None, false, fields));
    }
    let profile = serde_json::to_string(&profile).map_err(|cause| StoreError::Unfit(cause.to_string()))?;
    let row = UserRow {
        sub: stored.map(|stored| stored.sub.clone()).unwrap_or_default(),
        username,
        username_key: key,
        profile,
        password: None,
        disabled: spec.disabled,
        managed_by: ours.to_owned(),
        created_at: 0,
        updated_at: 0,
    };
    let disables = spec.disabled && !was_disabled && stored.is_some();
    Ok((Some(UserWork { row, password, disables }), stored.is_none(), fields))
}

/// A password that the person has already is not set again: that would sign them out.
async fn password_work(spec: &UserSpec, had: Option<&str>, hasher: &PasswordHasher) -> Result<PasswordWork, Failed> {
    if let Some(hash) = &spec.password_hash {
        let same = had == Some(hash.expose());
        return Ok(if same { PasswordWork::Keep } else { PasswordWork::SetHash(hash.clone()) });
    }
    let Some(given) = &spec.password else { return Ok(PasswordWork::Keep) };
    let same = had.is_some() && hasher.verify(given, had, None).await?;
    Ok(if same { PasswordWork::Keep } else { PasswordWork::Set(given.clone()) })
}
