//! A client's credentials: what a file asks for, and how that differs from what there is.

use std::collections::HashSet;

use serde_json::Value;

use super::Failed;
use super::file::{ClientSpec, SecretSpec, rfc3339};
use crate::audit::FieldChange;
use crate::checks::check_text;
use crate::clients::secret::{MOST_IMPORTED, digest_to_text};
use crate::clock::Micros;
use crate::keys::PublicJwk;
use crate::password::PasswordHasher;
use crate::secret::{Prefix, Secret, equal};
use crate::store::clients::CredentialRow;
use crate::wire::{AuthMethod, CredentialKind};

/// The methods by which a client presents a secret.
pub(super) const SECRETS: [AuthMethod; 2] = [AuthMethod::ClientSecretBasic, AuthMethod::ClientSecretPost];

/// The label of a client's only secret, when nobody gave it one.
pub(super) const DEFAULT: &str = "default";

/// What to do with a client's credentials, in this order.
#[derive(Debug, Default)]
pub(super) struct CredentialWork {
    pub remove: Vec<Removal>,
    pub add: Vec<Addition>,
    /// (id, when it stops working)
    pub expire: Vec<(Vec<u8>, Option<Micros>)>,
}

#[derive(Debug)]
pub(super) struct Removal {
    pub id: Vec<u8>,
    pub label: String,
    pub kind: String,
}

#[derive(Debug)]
pub(super) struct Addition {
    pub label: String,
    pub material: Material,
    pub expires_at: Option<Micros>,
}

#[derive(Debug)]
pub(super) enum Material {
    /// A secret to be generated.
    Generate,
    /// A secret of the file.
    Given(Secret),
    /// A public key.
    Jwk(String),
}

impl Material {
    pub(super) fn kind(&self) -> CredentialKind {
        match self {
            Self::Generate => CredentialKind::GeneratedSecret,
            Self::Given(secret) if Prefix::ClientSecret.matches(secret.expose()) => CredentialKind::GeneratedSecret,
            Self::Given(_) => CredentialKind::ImportedSecret,
            Self::Jwk(_) => CredentialKind::Jwk,
        }
    }
}

/// What is wrong with the credentials that `spec` gives to a client that has `stored`: (field, text).
pub(super) fn problems(spec: &ClientSpec, stored: &[CredentialRow]) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    if spec.client_secret.is_some() && spec.client_secrets.is_some() {
        found.push(("client_secrets", "takes client_secret or client_secrets, not both".to_owned()));
    }
    if let Some(text) = spec.client_secret.as_ref().and_then(wrong_secret) {
        found.push(("client_secret", text.to_owned()));
    }
    if spec.client_secrets.as_ref().is_some_and(Vec::is_empty) {
        found.push(("client_secrets", "takes one at least; leave it out to keep those there are".to_owned()));
    }
    let mut labels = HashSet::new();
    for given in spec.client_secrets.iter().flatten() {
        if check_text("label", &given.label).is_err() {
            found.push(("client_secrets", "a label takes 1 to 200 visible characters".to_owned()));
        } else if !labels.insert(&given.label) {
            found.push(("client_secrets", format!("the label {:?} is there twice", given.label)));
        }
        if let Some(text) = given.secret.as_ref().and_then(wrong_secret) {
            found.push(("client_secrets", format!("{:?} {text}", given.label)));
        }
    }
    let named = named_secrets(spec).unwrap_or_default();
    if named.iter().filter(|given| given.is_imported(stored)).count() > MOST_IMPORTED {
        let text = format!(
            "takes {MOST_IMPORTED} imported secrets at most, because every wrong guess is compared with each; leave \
             `secret` out to have one generated"
        );
        found.push(("client_secrets", text));
    }
    if spec.jwks.as_ref().is_some_and(|jwks| jwks.keys.is_empty()) {
        found.push(("jwks", "takes one key at least".to_owned()));
    }
    let mut labels = HashSet::new();
    for (at, key) in spec.jwks.iter().flat_map(|jwks| &jwks.keys).enumerate() {
        match label_of(key) {
            Err(text) => found.push(("jwks", format!("key {}: {text}", at + 1))),
            Ok(label) if !labels.contains(&label) => drop(labels.insert(label)),
            Ok(label) => found.push(("jwks", format!("the kid {label:?} is there twice"))),
        }
    }
    found
}

fn wrong_secret(secret: &Secret) -> Option<&'static str> {
    let text = secret.expose();
    if !(32..=256).contains(&text.chars().count()) {
        Some("takes a secret of 32 to 256 characters")
    } else if text.chars().any(char::is_control) {
        Some("takes a secret without control characters")
    } else {
        None
    }
}

/// A public JWK's `kid`, else its thumbprint.
fn label_of(key: &Value) -> Result<String, String> {
    let parsed = PublicJwk::parse(key.to_string().as_ref()).map_err(|cause| cause.to_string())?;
    if key.as_object().is_some_and(|members| members.values().any(Value::is_null)) {
        return Err("no member may be null".to_owned());
    }
    let label = parsed.kid().map_or_else(|| parsed.thumbprint(), str::to_owned);
    check_text("kid", &label).map_err(|_| "its kid takes 1 to 200 visible characters".to_owned())?;
    Ok(label)
}

/// How the credentials of `spec` differ from `stored`: the work, and the same in words.
pub(super) async fn diff(
    spec: &ClientSpec,
    stored: &[CredentialRow],
    passwords: &PasswordHasher,
) -> Result<(CredentialWork, Vec<FieldChange>), Failed> {
    let mut work = CredentialWork::default();
    let mut words = Vec::new();
    let mut kept = HashSet::new();
    let method = spec.metadata.token_endpoint_auth_method;
    if SECRETS.contains(&method) {
        let secrets = || stored.iter().filter(|row| is_secret(row));
        match named_secrets(spec) {
            Some(named) => {
                for given in named {
                    match secrets().find(|row| row.label == given.label) {
                        Some(row) if fits(given.secret, row, passwords).await? => {
                            kept.insert(&row.id);
                            if row.expires_at != given.expires_at {
                                work.expire.push((row.id.clone(), given.expires_at));
                                words.push(expiry_changed(row, given.expires_at));
                            }
                        }
                        _ => work.add.push(given.addition()),
                    }
                }
            }
            None => kept.extend(secrets().map(|row| &row.id)),
        }
        if work.add.is_empty() && kept.is_empty() {
            work.add.push(Addition { label: DEFAULT.to_owned(), material: Material::Generate, expires_at: None });
        }
    }
    if method == AuthMethod::PrivateKeyJwt {
        for key in spec.jwks.iter().flat_map(|jwks| &jwks.keys) {
            // The checks have found no fault in any of them.
            let label = label_of(key).unwrap_or_default();
            let same = |row: &&CredentialRow| {
                !is_secret(row)
                    && row.label == label
                    && serde_json::from_str::<Value>(&row.value).is_ok_and(|known| known == *key)
            };
            match stored.iter().find(same) {
                Some(row) => drop(kept.insert(&row.id)),
                None => work.add.push(Addition { label, material: Material::Jwk(key.to_string()), expires_at: None }),
            }
        }
    }
    for row in stored.iter().filter(|row| !kept.contains(&row.id)) {
        work.remove.push(Removal { id: row.id.clone(), label: row.label.clone(), kind: row.kind.clone() });
    }
    words.extend(exchanged(&work, stored));
    Ok((work, words))
}

/// The secrets that the file names; `client_secret` is short for one.
fn named_secrets(spec: &ClientSpec) -> Option<Vec<Named<'_>>> {
    let short = spec
        .client_secret
        .as_ref()
        .map(|secret| vec![Named { label: DEFAULT, secret: Some(secret), expires_at: None }]);
    short.or_else(|| {
        let listed = spec.client_secrets.as_ref()?.iter();
        Some(
            listed
                .map(|SecretSpec { label, secret, expires_at }| Named {
                    label,
                    secret: secret.as_ref(),
                    expires_at: *expires_at,
                })
                .collect(),
        )
    })
}

struct Named<'a> {
    label: &'a str,
    secret: Option<&'a Secret>,
    expires_at: Option<Micros>,
}

impl Named<'_> {
    /// Whether it is, or stays, one that was chosen elsewhere.
    fn is_imported(&self, stored: &[CredentialRow]) -> bool {
        let imported = CredentialKind::ImportedSecret;
        match self.secret {
            Some(_) => self.addition().material.kind() == imported,
            None => stored.iter().any(|row| row.label == self.label && row.kind == imported.as_str()),
        }
    }

    fn addition(&self) -> Addition {
        let material = self.secret.map_or(Material::Generate, |secret| Material::Given(secret.clone()));
        Addition { label: self.label.to_owned(), material, expires_at: self.expires_at }
    }
}

fn is_secret(row: &CredentialRow) -> bool {
    row.kind != CredentialKind::Jwk.as_str()
}

/// Whether the stored secret is the one that the file names; one named without its text is whatever is there.
async fn fits(named: Option<&Secret>, row: &CredentialRow, passwords: &PasswordHasher) -> Result<bool, Failed> {
    let Some(secret) = named else { return Ok(true) };
    if Prefix::ClientSecret.matches(secret.expose()) {
        let known = row.kind == CredentialKind::GeneratedSecret.as_str();
        return Ok(known && equal(digest_to_text(secret).as_bytes(), row.value.as_bytes()));
    }
    Ok(row.kind == CredentialKind::ImportedSecret.as_str() && passwords.verify(secret, Some(&row.value), None).await?)
}

fn expiry_changed(row: &CredentialRow, to: Option<Micros>) -> FieldChange {
    let text = |at: Option<Micros>| Some(at.map_or_else(|| "never".to_owned(), rfc3339));
    FieldChange {
        field: format!("{} expires_at", field(&row.kind, &row.label)),
        old: text(row.expires_at),
        new: text(to),
    }
}

/// Removals and additions in words; one of each under the same label is a replacement.
fn exchanged(work: &CredentialWork, stored: &[CredentialRow]) -> Vec<FieldChange> {
    let describe = |kind: &str, expires_at: Option<Micros>| {
        let kind = kind.replace('_', " ");
        Some(expires_at.map_or_else(|| kind.clone(), |at| format!("{kind} until {}", rfc3339(at))))
    };
    let expiry = |removal: &Removal| stored.iter().find(|row| row.id == removal.id).and_then(|row| row.expires_at);
    let mut words: Vec<FieldChange> = work
        .remove
        .iter()
        .map(|gone| FieldChange {
            field: field(&gone.kind, &gone.label),
            old: describe(&gone.kind, expiry(gone)),
            new: None,
        })
        .collect();
    for addition in &work.add {
        let kind = addition.material.kind().as_str();
        let (field, new) =
            (field(kind, &addition.label), describe(kind, addition.expires_at).map(|text| format!("new {text}")));
        match words.iter_mut().find(|change| change.field == field) {
            Some(change) => change.new = new,
            None => words.push(FieldChange { field, old: None, new }),
        }
    }
    words
}

fn field(kind: &str, label: &str) -> String {
    let list = if kind == CredentialKind::Jwk.as_str() { "jwks" } else { "client_secrets" };
    format!("{list} {label:?}")
}
