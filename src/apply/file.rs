//! `apply` files: what can be written in them, and reading them from TOML or JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::claims::ClaimSpec;
use super::fields::{Own, put, split};
use crate::clients::ClientMetadata;
use crate::clock::Micros;
use crate::resources::ResourceSettings;
use crate::secret::Secret;
use crate::users::Profile;

/// What is to be. Later kinds get a list each.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApplyFile {
    /// Resources (APIs), as `[[resource]]`.
    pub resource: Vec<ResourceSpec>,
    /// Clients, as `[[client]]`.
    pub client: Vec<ClientSpec>,
    /// Claims of people beyond the standard ones, as `[[claim]]`.
    pub claim: Vec<ClaimSpec>,
    /// People, as `[[user]]`.
    pub user: Vec<UserSpec>,
}

/// A person, whole: claims and groups that are not here are taken away. Only the password, and whether they are switched
/// off, stay when nothing is said of them.
#[derive(Debug, serde::Deserialize)]
pub struct UserSpec {
    /// What they sign in by; it is how they are found again, whatever its case.
    pub username: String,
    /// Whether they are switched off. Left out, it stays as it is: a command may have switched them off meanwhile.
    pub disabled: Option<bool>,
    /// Their password. Left out, the one they have stays; a new person cannot sign in until they get one.
    pub password: Option<Secret>,
    /// The same, hashed elsewhere by Argon2id at no more than our own cost: a PHC string.
    pub password_hash: Option<Secret>,
    /// The groups that they are in.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Claims of our own.
    #[serde(default)]
    pub claims: Map<String, Value>,
    /// Standard claims (OpenID Connect Core §5.1), under their names; anything else is refused by the checks, so that a
    /// mistyped `password` becomes no claim.
    #[serde(flatten)]
    pub standard: Map<String, Value>,
}

impl UserSpec {
    /// What is known of them.
    pub fn profile(&self) -> Profile {
        let claims = self.claims.clone().into_iter().chain(self.standard.clone());
        Profile { groups: self.groups.clone(), claims: claims.collect() }
    }
}

/// A resource, whole: scopes that it does not list are taken away.
#[derive(Debug)]
pub struct ResourceSpec {
    /// The audience of its tokens.
    pub identifier: String,
    /// Scope → what it means, in words.
    pub scopes: BTreeMap<String, String>,
    /// The rest, under the names of [`ResourceSettings`].
    pub settings: ResourceSettings,
}

/// A client, whole: a field that it leaves out has its default. Only secrets stay when none is named.
#[derive(Debug)]
pub struct ClientSpec {
    /// The `client_id`.
    pub client_id: String,
    /// Whether it is switched off.
    pub disabled: bool,
    /// Short for one secret labelled `default`.
    pub client_secret: Option<Secret>,
    /// Its secrets; labels that are not here are removed. Left out (and no `client_secret`): those it has stay, and
    /// a client that has none gets a generated one labelled `default`.
    pub client_secrets: Option<Vec<SecretSpec>>,
    /// RFC 7591 §2: its public keys, with `private_key_jwt`; the label of each is its `kid` or its thumbprint.
    pub jwks: Option<Jwks>,
    /// The rest, under the names of [`ClientMetadata`]. `resources` left out means: those that own its scopes.
    pub metadata: ClientMetadata,
}

/// One of several secrets.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretSpec {
    /// Its name among the client's credentials.
    pub label: String,
    /// The secret, 32 to 256 characters. Left out, the one with this label stays, or one is generated.
    pub secret: Option<Secret>,
    /// When it stops working: an RFC 3339 text or a TOML date-time with an offset.
    #[serde(default, deserialize_with = "expiry")]
    pub expires_at: Option<Micros>,
}

/// A JWK Set (RFC 7517 §5) of public keys, not yet checked: it may hold a private key by mistake, so it is not shown.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jwks {
    /// The keys, as they stand in the file.
    pub keys: Vec<serde_json::Value>,
}

impl fmt::Debug for Jwks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} keys]", self.keys.len())
    }
}

#[derive(Default)]
struct OfResource {
    identifier: Option<String>,
    scopes: Option<BTreeMap<String, String>>,
}

impl<'de> Own<'de> for OfResource {
    const FIELDS: &'static [&'static str] = &["identifier", "scopes"];

    fn take<A: MapAccess<'de>>(&mut self, field: &'static str, map: &mut A) -> Result<(), A::Error> {
        match field {
            "identifier" => put(&mut self.identifier, field, map),
            _ => put(&mut self.scopes, field, map),
        }
    }
}

impl<'de> Deserialize<'de> for ResourceSpec {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let (own, settings): (OfResource, _) = split(from)?;
        let identifier = own.identifier.ok_or_else(|| D::Error::missing_field("identifier"))?;
        Ok(Self { identifier, scopes: own.scopes.unwrap_or_default(), settings })
    }
}

#[derive(Default)]
struct OfClient {
    client_id: Option<String>,
    disabled: Option<bool>,
    client_secret: Option<Secret>,
    client_secrets: Option<Vec<SecretSpec>>,
    jwks: Option<Jwks>,
}

impl<'de> Own<'de> for OfClient {
    const FIELDS: &'static [&'static str] = &["client_id", "disabled", "client_secret", "client_secrets", "jwks"];

    fn take<A: MapAccess<'de>>(&mut self, field: &'static str, map: &mut A) -> Result<(), A::Error> {
        match field {
            "client_id" => put(&mut self.client_id, field, map),
            "disabled" => put(&mut self.disabled, field, map),
            "client_secret" => put(&mut self.client_secret, field, map),
            "client_secrets" => put(&mut self.client_secrets, field, map),
            _ => put(&mut self.jwks, field, map),
        }
    }
}

impl<'de> Deserialize<'de> for ClientSpec {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let (own, metadata): (OfClient, _) = split(from)?;
        Ok(Self {
            client_id: own.client_id.ok_or_else(|| D::Error::missing_field("client_id"))?,
            disabled: own.disabled.unwrap_or(false),
            client_secret: own.client_secret,
            client_secrets: own.client_secrets,
            jwks: own.jwks,
            metadata,
        })
    }
}

fn expiry<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Micros>, D::Error> {
    struct Moment;
    impl<'de> Visitor<'de> for Moment {
        type Value = Micros;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a time with an offset, as 2027-01-31T12:00:00Z (RFC 3339)")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Micros, E> {
            let micros = OffsetDateTime::parse(text, &Rfc3339)
                .ok()
                .and_then(|moment| Micros::try_from(moment.unix_timestamp_nanos() / 1000).ok());
            // The text is not quoted: a secret may have slipped into this field.
            micros.ok_or_else(|| E::custom("takes a time with an offset, as 2027-01-31T12:00:00Z (RFC 3339)"))
        }

        /// A TOML date-time.
        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Micros, A::Error> {
            let moment = toml::value::Datetime::deserialize(MapAccessDeserializer::new(map))?;
            self.visit_str(&moment.to_string())
        }
    }
    from.deserialize_any(Moment).map(Some)
}

/// A time as RFC 3339 writes it, in UTC.
pub(super) fn rfc3339(at: Micros) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at) * 1000)
        .ok()
        .and_then(|moment| moment.format(&Rfc3339).ok())
        .unwrap_or_else(|| at.to_string())
}

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// TOML 1.
    Toml,
    /// JSON: the same names, one object.
    Json,
}

impl Format {
    /// By the extension of `path`, else by what `text` begins with.
    pub fn of(path: Option<&Path>, text: &str) -> Self {
        match path.and_then(Path::extension).and_then(|extension| extension.to_str()) {
            Some(extension) if extension.eq_ignore_ascii_case("json") => Self::Json,
            Some(extension) if extension.eq_ignore_ascii_case("toml") => Self::Toml,
            _ if text.trim_start_matches('\u{feff}').trim_start().starts_with('{') => Self::Json,
            _ => Self::Toml,
        }
    }
}

/// A file that cannot be read: where, and why. Quotes no value of a secret's field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct FileError {
    /// From 1; 0 when it is about no place.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// The field, where it is known and the text does not name it.
    pub field: Option<String>,
    /// What is wrong.
    pub text: String,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}, column {}: ", self.line, self.column)?;
        }
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.text)
    }
}

/// Reads an `apply` file.
///
/// # Errors
/// The first thing that is not TOML or JSON, not known, or not of the type it should be.
pub fn parse(text: &str, format: Format) -> Result<ApplyFile, FileError> {
    let text = text.trim_start_matches('\u{feff}');
    match format {
        Format::Toml => toml::from_str(text).map_err(|cause| {
            let Some(start) = cause.span().map(|span| span.start) else {
                return FileError { line: 0, column: 0, field: None, text: without_value(cause.message()) };
            };
            let before = text.get(..start).unwrap_or(text);
            let line = before.rsplit('\n').next().unwrap_or_default();
            FileError {
                line: before.matches('\n').count() + 1,
                column: line.chars().count() + 1,
                field: line.trim_end().strip_suffix('=').and_then(|head| last_word(head.trim_end())),
                text: without_value(cause.message()),
            }
        }),
        Format::Json => serde_json::from_str(text).map_err(|cause| {
            let line = text.split('\n').nth(cause.line().saturating_sub(1)).unwrap_or_default();
            let before = line.get(..cause.column()).unwrap_or(line);
            let said = cause.to_string();
            FileError {
                line: cause.line(),
                column: before.chars().count(),
                field: if cause.is_data() { json_field(before) } else { None },
                text: without_value(said.rsplit_once(" at line ").map_or(said.as_str(), |(said, _)| said)),
            }
        }),
    }
}

/// The message without the value that did not fit: it may be a secret.
fn without_value(message: &str) -> String {
    let shown = ["invalid type: ", "invalid value: ", "invalid length "].iter().any(|start| message.starts_with(start));
    match message.rsplit_once(", expected ") {
        Some((_, expected)) if shown => format!("takes {expected}"),
        _ => message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect(),
    }
}

/// The last `"word":` of a line.
fn json_field(line: &str) -> Option<String> {
    line.rmatch_indices(':').find_map(|(at, _)| {
        let name = line[..at].trim_end().strip_suffix('"')?;
        let word = last_word(name)?;
        name.strip_suffix(word.as_str())?.strip_suffix('"').filter(|head| !head.ends_with('\\')).map(|_| word)
    })
}

fn last_word(text: &str) -> Option<String> {
    let word = text.rsplit(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).next().unwrap_or_default();
    if word.is_empty() { None } else { Some(word.to_owned()) }
}
