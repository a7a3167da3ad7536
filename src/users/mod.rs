//! People: who they are, and how they prove it.

pub mod known;
pub mod password;
pub mod prove;
pub mod throttle;
mod username;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::audit::{self, Actor, Event};
use crate::checks::{Invalid, check_text};
use crate::claims;
use crate::clock::Micros;
use crate::secret::random;
use crate::session;
use crate::store::users::{self, UserRow};
use crate::store::{Db, StoreError, Tx, from_row};
use crate::wire::ManagedBy;

pub use username::{InvalidUsername, username_key};

/// What is known of a person, as claims (OpenID Connect Core §5.1) and groups.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Profile {
    /// The groups that the person is in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Standard claims under their names (`name`, `email`, `email_verified`, `address` …) and claims of our own.
    #[serde(flatten)]
    pub claims: Map<String, Value>,
}

/// OpenID Connect Core §5.1: texts of one line.
const TEXTS: &[&str] = &[
    "name",
    "given_name",
    "family_name",
    "middle_name",
    "nickname",
    "preferred_username",
    "email",
    "gender",
    "birthdate",
    "zoneinfo",
    "locale",
    "phone_number",
];
const URLS: &[&str] = &["profile", "picture", "website"];
const BOOLEANS: &[&str] = &["email_verified", "phone_number_verified"];
/// OpenID Connect Core §5.1.1.
const ADDRESS: &[&str] = &["formatted", "street_address", "locality", "region", "postal_code", "country"];
/// Said of every person by the server itself, or a field of its own.
const RESERVED: &[&str] = &["updated_at", "groups"];
/// A profile goes into tokens and answers: this is the most of it, as JSON.
const MOST_BYTES: usize = 16 * 1024;

impl Profile {
    /// Everything that is wrong with it: standard claims have their types, claims of our own a name that no token has.
    pub fn check(&self) -> Vec<Invalid> {
        let mut wrong: Vec<Invalid> =
            self.claims.iter().filter_map(|(name, value)| check_claim(name, value).err()).collect();
        wrong.extend(self.groups.iter().filter_map(|group| check_text("groups", group).err()));
        if serde_json::to_vec(self).map_or(true, |json| json.len() > MOST_BYTES) {
            wrong.push(Invalid::new("claims", format!("take {MOST_BYTES} bytes at most, as JSON")));
        }
        wrong
    }

    /// What others try first as a password of this person, beside well-known words.
    pub fn own_words(&self, username: &str) -> Vec<String> {
        let claims = ["name", "email", "given_name", "family_name"];
        claims.iter().filter_map(|claim| self.text(claim)).chain([username]).map(str::to_owned).collect()
    }

    /// The claim of this name, if it is a text.
    pub fn text(&self, claim: &str) -> Option<&str> {
        self.claims.get(claim).and_then(Value::as_str)
    }
}

/// Whether this is a claim of OpenID Connect Core §5.1.
pub fn is_standard(claim: &str) -> bool {
    claim == "address" || [TEXTS, URLS, BOOLEANS].iter().any(|claims| claims.contains(&claim))
}

fn check_claim(name: &str, value: &Value) -> Result<(), Invalid> {
    let invalid = |text: &str| Err(Invalid::new("claims", format!("{name:?} {text}")));
    let is_line = |value: &Value| value.as_str().is_some_and(|text| check_text("claims", text).is_ok());
    if claims::is_of_tokens(name) || RESERVED.contains(&name) {
        return invalid("is what tokens say of themselves, no claim of a person");
    }
    if !(1..=64).contains(&name.len()) || !name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"') {
        return invalid("is no claim's name: 1 to 64 visible ASCII characters");
    }
    if name == "email" && !value.as_str().is_some_and(is_email) {
        return invalid("takes an e-mail address");
    }
    if TEXTS.contains(&name) && !is_line(value) {
        return invalid("takes a text of 1 to 200 visible characters");
    }
    if URLS.contains(&name) && !value.as_str().is_some_and(is_web_url) {
        return invalid("takes an http or https URL");
    }
    if BOOLEANS.contains(&name) && !value.is_boolean() {
        return invalid("takes true or false");
    }
    if name == "address" {
        // A postal address has lines.
        let is_part = |(part, value): (&String, &Value)| {
            let lines =
                value.as_str().is_some_and(|text| !text.is_empty() && text.lines().all(|line| line.len() <= 200));
            ADDRESS.contains(&part.as_str()) && lines
        };
        if !value.as_object().is_some_and(|parts| !parts.is_empty() && parts.iter().all(is_part)) {
            return invalid(
                "takes a table of texts: formatted, street_address, locality, region, postal_code, country",
            );
        }
    }
    if value.is_null() { invalid("may not be null") } else { Ok(()) }
}

fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    let plain = |part: &str| !part.is_empty() && !part.chars().any(|c| c.is_whitespace() || c.is_control());
    text.len() <= 254 && plain(local) && plain(domain) && !domain.contains('@')
}

fn is_web_url(text: &str) -> bool {
    url::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "https" | "http")) && text.len() <= 2048
}

/// A person as requests meet them.
#[derive(Clone, Debug)]
pub struct User {
    /// The subject: a UUID.
    pub sub: String,
    /// What they sign in by.
    pub username: String,
    /// What is known of them.
    pub profile: Profile,
    /// Switched off: signs in nowhere, gets no tokens.
    pub disabled: bool,
    /// Who made them.
    pub managed_by: ManagedBy,
    /// When anything of this, or their password, was last changed.
    pub updated_at: Micros,
}

impl User {
    /// From their row.
    ///
    /// # Errors
    /// When the row holds what this binary does not understand.
    pub fn from_row(row: &UserRow) -> Result<Self, StoreError> {
        let unfit = |what: String| StoreError::Unfit(format!("user {}: {what}", row.sub));
        Ok(Self {
            sub: row.sub.clone(),
            username: row.username.clone(),
            profile: from_row(&row.profile).map_err(|cause| unfit(cause.to_string()))?,
            disabled: row.disabled,
            managed_by: row.managed_by.parse().map_err(|_| unfit("managed_by".to_owned()))?,
            updated_at: row.updated_at,
        })
    }
}

/// The person with this subject.
///
/// # Errors
/// When the database cannot be read.
pub async fn find(db: &Db, sub: &str) -> Result<Option<Arc<User>>, StoreError> {
    let sub = sub.to_owned();
    let row = db.read(move |conn| Box::pin(async move { users::find(conn, &sub).await })).await?;
    row.map(|row| User::from_row(&row).map(Arc::new)).transpose()
}

/// A new subject: a random UUID (RFC 9562 §5.4), which no `client_id` may look like.
///
/// # Errors
/// Without randomness.
pub fn new_sub() -> crate::error::Result<String> {
    Ok(uuid::Builder::from_random_bytes(random()?).into_uuid().to_string())
}

/// Switches a person off or on, in the transaction of `tx`. Off, their sign-ins and all that came of them end, and
/// nothing of that comes back with switching them on.
///
/// # Errors
/// When the database cannot.
pub async fn set_disabled(tx: &mut Tx, actor: &Actor, sub: &str, disabled: bool) -> Result<bool, StoreError> {
    let new = users::set_disabled(tx, sub, disabled).await?;
    if new {
        let event = if disabled { Event::UserDisabled } else { Event::UserEnabled };
        audit::record(tx, actor, sub, &event)?;
    }
    if disabled {
        session::end_all(tx, actor, sub).await?;
    }
    Ok(new)
}

/// Gives a person another password. Whoever knew the old one is signed out everywhere, no browser is known any more, and
/// wrong attempts at it are forgotten.
///
/// # Errors
/// When the database cannot.
pub async fn set_password(tx: &mut Tx, actor: &Actor, sub: &str, phc: &str) -> Result<(), StoreError> {
    replace_password(tx, actor, sub, (phc, None)).await
}

/// The same with a PHC string of elsewhere, which the hasher accepts. By it the password is known again when it was
/// hashed anew.
///
/// # Errors
/// When the database cannot.
pub async fn import_password(tx: &mut Tx, actor: &Actor, sub: &str, phc: &str) -> Result<(), StoreError> {
    let import = password::import(phc);
    replace_password(tx, actor, sub, (phc, Some(&import))).await
}

async fn replace_password(
    tx: &mut Tx,
    actor: &Actor,
    sub: &str,
    (phc, import): (&str, Option<&str>),
) -> Result<(), StoreError> {
    users::set_password(tx, sub, phc, import).await?;
    throttle::forget(tx, sub).await?;
    audit::record(tx, actor, sub, &Event::PasswordSet)?;
    session::end_all(tx, actor, sub).await
}

/// Gives a person the password that they chose themselves, while the one that they proved (its hash) stands: else
/// false, and nothing changes. Everybody who knew that one is signed out, here too; the caller signs the person in anew.
///
/// # Errors
/// When the database cannot.
pub async fn change_password(
    tx: &mut Tx,
    actor: &Actor,
    sub: &str,
    (present, new): (&str, &str),
) -> Result<bool, StoreError> {
    if users::stands(tx, sub, present).await?.is_none() {
        return Ok(false);
    }
    users::set_password(tx, sub, new, None).await?;
    throttle::forget(tx, sub).await?;
    audit::record(tx, actor, sub, &Event::PasswordChanged)?;
    session::end_all(tx, actor, sub).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oidc_core_5_1_standard_claims_have_their_types() {
        let profile = |text: &str| serde_json::from_str::<Profile>(text).unwrap();
        let good = r#"{"groups": ["staff"], "name": "Ada", "email": "ada@example.com", "email_verified": true,
            "address": {"formatted": "1 Way\nTown", "country": "UK"}, "picture": "https://x.example/a.png", "badge": [7]}"#;
        assert!(profile(good).check().is_empty(), "{:?}", profile(good).check());
        for bad in [
            r#"{"name": 7}"#,
            r#"{"name": ""}"#,
            r#"{"name": "a\u202eb"}"#,
            r#"{"email": "nobody"}"#,
            r#"{"email_verified": "true"}"#,
            r#"{"address": "1 Way"}"#,
            r#"{"address": {"planet": "Earth"}}"#,
            r#"{"picture": "javascript:alert(1)"}"#,
            r#"{"sub": "x"}"#,
            r#"{"active": true}"#,
            r#"{"updated_at": 1}"#,
            r#"{"groups": [""]}"#,
            r#"{"badge": null}"#,
            r#"{"a b": 1}"#,
        ] {
            assert_eq!(profile(bad).check().len(), 1, "{bad}");
        }
        assert!(!profile(&format!(r#"{{"long": "{}"}}"#, "x".repeat(MOST_BYTES))).check().is_empty());
    }
}
