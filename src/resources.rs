//! Resources (APIs): who a token is for, what its scopes mean, what it looks like. All of them are in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::checks::{Invalid, check_identifier, check_lifetime, check_text};
use crate::claims;
use crate::config::Issuer;
use crate::store::resources::{self, ResourceRow};
use crate::store::{Conn, StoreError, from_row};
use crate::wire::{Algorithm, ManagedBy, Scope, TokenFormat, USERINFO_PATH};

/// What a resource asks of its tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ResourceSettings {
    /// What people call it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Lifetime of its access tokens in seconds; left out, the configured default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_token_lifetime: Option<u32>,
    /// What its tokens are signed with.
    pub access_token_signed_response_alg: Algorithm,
    /// Whether its tokens say what they are, or are asked about.
    pub access_token_format: TokenFormat,
}

impl Default for ResourceSettings {
    /// `EdDSA`: one RS256 signature costs what thirty Ed25519 ones do.
    fn default() -> Self {
        Self {
            name: None,
            access_token_lifetime: None,
            access_token_signed_response_alg: Algorithm::EdDsa,
            access_token_format: TokenFormat::Jwt,
        }
    }
}

impl ResourceSettings {
    /// Everything that is wrong with it by itself.
    pub fn check(&self, identifier: &str, max_lifetime: u32, algorithms: &[Algorithm]) -> Vec<Invalid> {
        let mut wrong: Vec<Invalid> = check_identifier("identifier", identifier).err().into_iter().collect();
        wrong.extend(self.name.as_deref().and_then(|name| check_text("name", name).err()));
        wrong.extend(check_lifetime("access_token_lifetime", self.access_token_lifetime, max_lifetime).err());
        if !algorithms.contains(&self.access_token_signed_response_alg) {
            let text = format!("{} is not among the configured keys.algorithms", self.access_token_signed_response_alg);
            wrong.push(Invalid::new("access_token_signed_response_alg", text));
        }
        wrong
    }
}

/// A resource with its scopes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// The audience of its tokens.
    pub identifier: String,
    /// What it asks of its tokens.
    pub settings: ResourceSettings,
    /// Scope → what it means, in the words of who made it; of our own, the pages' catalogue has the words.
    pub scopes: BTreeMap<String, String>,
    /// Who made it.
    pub managed_by: ManagedBy,
    /// One of the server's own: it takes tokens of any form, and no file or administrator defines it.
    pub built_in: bool,
}

impl Resource {
    fn from_row(row: &ResourceRow, scopes: BTreeMap<String, String>) -> Result<Self, serde_json::Error> {
        Ok(Self {
            identifier: row.identifier.clone(),
            settings: from_row(&row.settings)?,
            scopes,
            managed_by: row.managed_by.parse().map_err(serde::de::Error::custom)?,
            built_in: false,
        })
    }
}

/// All resources, as of one moment.
#[derive(Debug, Default)]
pub struct Catalog {
    by_identifier: BTreeMap<String, Arc<Resource>>,
    by_scope: HashMap<String, Arc<Resource>>,
}

impl Catalog {
    /// Reads all of them.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn load(conn: &mut Conn) -> Result<Self, StoreError> {
        let (rows, scopes) = resources::list(conn).await?;
        let mut words: HashMap<String, BTreeMap<String, String>> = HashMap::new();
        for scope in scopes {
            words.entry(scope.resource).or_default().insert(scope.name, scope.description);
        }
        let mut catalog = Self::default();
        for row in rows {
            let resource = match Resource::from_row(&row, words.remove(&row.identifier).unwrap_or_default()) {
                Ok(resource) => Arc::new(resource),
                // One row that this binary does not understand must not take the others with it.
                Err(cause) => {
                    tracing::error!(resource = %row.identifier, %cause, "a resource cannot be read; it gets no tokens");
                    continue;
                }
            };
            catalog = catalog.with(resource);
        }
        Ok(catalog)
    }

    /// With one more, which owns its scopes from now on.
    #[must_use]
    pub fn with(mut self, resource: Arc<Resource>) -> Self {
        for scope in resource.scopes.keys() {
            self.by_scope.insert(scope.clone(), resource.clone());
        }
        self.by_identifier.insert(resource.identifier.clone(), resource);
        self
    }

    /// With the server's own: the userinfo endpoint of `issuer`, which owns the OpenID scopes (mechanisms.md,
    /// decision 4).
    #[must_use]
    pub fn with_built_in(self, issuer: &Issuer) -> Self {
        let userinfo = Arc::new(Resource {
            identifier: issuer.endpoint(USERINFO_PATH),
            settings: ResourceSettings::default(),
            scopes: claims::SCOPES.iter().map(|name| ((*name).to_owned(), String::new())).collect(),
            managed_by: ManagedBy::System,
            built_in: true,
        });
        self.with(userinfo)
    }

    /// The resource with this identifier.
    pub fn resource(&self, identifier: &str) -> Option<&Arc<Resource>> {
        self.by_identifier.get(identifier)
    }

    /// The resource that owns `scope`.
    pub fn owner(&self, scope: &str) -> Option<&Arc<Resource>> {
        self.by_scope.get(scope)
    }

    /// The resources that own the tokens of `scope`, each once, by identifier.
    pub fn owners(&self, scope: &Scope) -> Vec<Arc<Resource>> {
        let found: BTreeMap<&str, &Arc<Resource>> = scope
            .iter()
            .filter_map(|token| self.owner(token))
            .map(|owner| (owner.identifier.as_str(), owner))
            .collect();
        found.into_values().cloned().collect()
    }

    /// All of them, by identifier.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.by_identifier.values()
    }
}
