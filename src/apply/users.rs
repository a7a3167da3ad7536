//! People of an `apply` file: what it asks for, and how that differs from what there is.

use std::collections::HashSet;

use serde_json::Value;

use super::file::UserSpec;
use super::state::State;
use super::{Failed, Options};
use crate::audit::FieldChange;
use crate::password::PasswordHasher;
use crate::secret::Secret;
use crate::store::users::UserRow;
use crate::store::{Db, StoreError, users};
use crate::users::password;
use crate::users::{User, is_standard, username_key};
use crate::wire::ManagedBy;

/// What to do about a person's password.
#[derive(Debug)]
pub(super) enum PasswordWork {
    /// The one they have stays.
    Keep,
    /// One of the file, as it is to be hashed.
    Set(Secret),
    /// One that was hashed elsewhere.
    Import(Secret),
}

/// What to do about a person.
pub(super) struct UserWork {
    /// The row as it will be; `sub` is empty for a new person. `updated_at` is as it was read.
    pub row: UserRow,
    pub password: PasswordWork,
    /// Whether they are switched off by this.
    pub switches_off: bool,
}

impl std::fmt::Debug for UserWork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {:?}", self.row.username, self.password)
    }
}

/// People of one page.
const PAGE: i64 = 500;

/// The usernames of a file as they are compared.
pub(super) fn keys(specs: &[UserSpec]) -> Vec<String> {
    specs.iter().filter_map(|spec| username_key(&spec.username).ok()).collect()
}

/// Whom pruning removes: those whom `apply` made and the file does not name, by username.
///
/// # Errors
/// When the database cannot be read.
pub(super) async fn pruned(db: &Db, specs: &[UserSpec]) -> Result<Vec<UserRow>, StoreError> {
    let named: HashSet<String> = keys(specs).into_iter().collect();
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let behind = after.clone();
        let ours = ManagedBy::Apply.as_str();
        let page =
            db.read(move |conn| Box::pin(async move { users::of_maker(conn, ours, &behind, PAGE).await })).await?;
        let Some(last) = page.last() else { break };
        after.clone_from(&last.sub);
        found.extend(page.into_iter().filter(|row| !named.contains(&row.username_key)));
    }
    found.sort_unstable_by(|a, b| a.username_key.cmp(&b.username_key));
    Ok(found)
}

/// What is wrong with the people of a file: (username, field, text).
pub(super) fn problems(
    specs: &[UserSpec],
    options: &Options<'_>,
    hasher: &PasswordHasher,
) -> Vec<(String, &'static str, String)> {
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
            let own = profile.own_words(&spec.username);
            let own = own.iter().map(String::as_str).chain([options.service, options.issuer]);
            if let Err(weak) = password::check(given, own, options.min_password_length) {
                add("password", weak.to_string());
            }
        }
        if let Some(hash) = &spec.password_hash
            && let Err(unfit) = hasher.accepts(hash.expose())
        {
            add("password_hash", unfit.to_string());
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
    let disabled = spec.disabled.unwrap_or(was_disabled);
    if was_disabled != disabled {
        change("disabled", Some(was_disabled.to_string()), Some(disabled.to_string()));
    }
    let password = password_work(spec, stored, hasher).await?;
    if !matches!(password, PasswordWork::Keep) {
        let had = stored.and_then(|stored| stored.password.as_ref());
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
        password_changed_at: None,
        password_import: None,
        disabled,
        managed_by: ours.to_owned(),
        created_at: 0,
        updated_at: stored.map_or(0, |stored| stored.updated_at),
    };
    let switches_off = disabled && !was_disabled && stored.is_some();
    Ok((Some(UserWork { row, password, switches_off }), stored.is_none(), fields))
}

/// A password that the person has already is not set again: that would sign them out.
async fn password_work(
    spec: &UserSpec,
    stored: Option<&UserRow>,
    hasher: &PasswordHasher,
) -> Result<PasswordWork, Failed> {
    let had = stored.and_then(|stored| stored.password.as_deref());
    if let Some(hash) = &spec.password_hash {
        // It may have been hashed anew since it was imported.
        let import = password::import(hash.expose());
        let imported = stored.is_some_and(|stored| stored.password_import.as_ref() == Some(&import));
        let same = had == Some(hash.expose()) || had.is_some() && imported;
        return Ok(if same { PasswordWork::Keep } else { PasswordWork::Import(hash.clone()) });
    }
    let Some(given) = &spec.password else { return Ok(PasswordWork::Keep) };
    let given = password::prepare(given);
    let same = had.is_some() && hasher.verify(&given, had, None).await?;
    Ok(if same { PasswordWork::Keep } else { PasswordWork::Set(given) })
}
