//! Writing what there is as an `apply` file. Applied to the database it came from, it changes nothing; secrets are
//! not in it, so elsewhere it has them generated anew.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::claims::ClaimSpec;
use super::credentials::DEFAULT;
use super::file::rfc3339;
use super::state::{State, StoredClient};
use crate::clients::ClientMetadata;
use crate::resources::ResourceSettings;
use crate::store::{Db, StoreError, users};
use crate::users::{Profile, User, is_standard};
use crate::wire::CredentialKind;

/// All resources, clients and claims, in the shape of an `apply` file.
#[derive(Debug, Serialize)]
pub struct Export {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    resource: Vec<ResourceOut>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    client: Vec<ClientOut>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    user: Vec<UserOut>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    claim: Vec<ClaimSpec>,
}

#[derive(Debug, Serialize)]
struct UserOut {
    username: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    disabled: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
    #[serde(flatten)]
    standard: serde_json::Map<String, Value>,
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    claims: serde_json::Map<String, Value>,
}

#[derive(Debug, Serialize)]
struct ResourceOut {
    identifier: String,
    #[serde(flatten)]
    settings: ResourceSettings,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    scopes: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
struct ClientOut {
    client_id: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    disabled: bool,
    #[serde(flatten)]
    metadata: ClientMetadata,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    client_secrets: Vec<SecretOut>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jwks: Option<JwksOut>,
}

#[derive(Debug, Serialize)]
struct SecretOut {
    label: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
}

#[derive(Debug, Serialize)]
struct JwksOut {
    keys: Vec<Value>,
}

/// People of one page.
const PAGE: i64 = 500;

/// Reads all there is: resources first, each kind sorted by its id. However many people there are, no read takes long.
///
/// # Errors
/// When the database cannot be read, or holds what this binary does not understand.
pub async fn export(db: &Db) -> Result<Export, StoreError> {
    let state = db.read(|conn| Box::pin(State::load(conn, &[]))).await?;
    let resource = state.resources.iter().map(|stored| ResourceOut {
        identifier: stored.identifier.clone(),
        settings: stored.settings.clone(),
        scopes: stored.scopes.clone(),
    });
    let resource = resource.collect();
    let user = people(db).await?;
    let client = state.clients.into_values().map(client).collect::<Result<_, _>>()?;
    let claim = state.mappers.into_iter().map(ClaimSpec::of).collect();
    Ok(Export { resource, client, user, claim })
}

async fn people(db: &Db) -> Result<Vec<UserOut>, StoreError> {
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let behind = after.clone();
        let page = db.read(move |conn| Box::pin(async move { users::page(conn, &behind, PAGE).await })).await?;
        let Some(last) = page.last() else { return Ok(found) };
        after.clone_from(&last.username_key);
        for row in &page {
            let User { username, disabled, profile: Profile { groups, claims }, .. } = User::from_row(row)?;
            let (standard, claims) = claims.into_iter().partition(|(name, _)| is_standard(name));
            found.push(UserOut { username, disabled, groups, standard, claims });
        }
    }
}

fn client(stored: StoredClient) -> Result<ClientOut, StoreError> {
    let StoredClient { row, metadata, credentials } = stored;
    let (keys, secrets): (Vec<_>, Vec<_>) =
        credentials.into_iter().partition(|credential| credential.kind == CredentialKind::Jwk.as_str());
    let mut client_secrets: Vec<SecretOut> = secrets
        .into_iter()
        .map(|secret| SecretOut { label: secret.label, expires_at: secret.expires_at.map(rfc3339) })
        .collect();
    client_secrets.sort_by(|a, b| a.label.cmp(&b.label));
    // What a file means that says nothing of secrets.
    if let [only] = client_secrets.as_slice()
        && only.label == DEFAULT
        && only.expires_at.is_none()
    {
        client_secrets.clear();
    }
    let mut keys: Vec<(String, String)> = keys.into_iter().map(|key| (key.label, key.value)).collect();
    keys.sort();
    let unfit = |cause| StoreError::Unfit(format!("a key of client {}: {cause}", row.client_id));
    let keys =
        keys.iter().map(|(_, key)| serde_json::from_str(key).map_err(unfit)).collect::<Result<Vec<Value>, _>>()?;
    let jwks = if keys.is_empty() { None } else { Some(JwksOut { keys }) };
    Ok(ClientOut { client_id: row.client_id, disabled: row.disabled, metadata, client_secrets, jwks })
}

impl Export {
    /// As TOML: a `[[resource]]` or `[[client]]` for each.
    ///
    /// # Errors
    /// When a row holds what TOML cannot say, which checks keep out.
    pub fn to_toml(&self) -> Result<String, StoreError> {
        toml::to_string(self).map_err(|cause| StoreError::Unfit(cause.to_string()))
    }

    /// The same as JSON.
    ///
    /// # Errors
    /// None in practice.
    pub fn to_json(&self) -> Result<String, StoreError> {
        serde_json::to_string_pretty(self).map_err(|cause| StoreError::Unfit(cause.to_string()))
    }
}
