//! Clients: the model, the cache in front of their rows, and how they authenticate.

pub mod assertion;
pub mod auth;
mod jwks;
pub mod metadata;
pub mod redirect;
mod registry;
pub mod replay;
pub mod secret;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::clock::{Micros, SECOND};
use crate::keys::PublicJwk;
use crate::secret::Id;
use crate::store::clients::{ClientRow, CredentialRow};
use crate::store::{StoreError, from_row};
use crate::wire::{AuthMethod, CredentialKind, ManagedBy};

pub use jwks::RemoteKeys;
pub use metadata::ClientMetadata;
pub use registry::Registry;

/// A client as requests meet it.
#[derive(Debug)]
pub struct Client {
    /// The `client_id`, shared with counters.
    pub client_id: Arc<str>,
    /// What it is.
    pub metadata: ClientMetadata,
    /// Switched off: it authenticates nowhere and its tokens are dead.
    pub disabled: bool,
    /// Nobody has vouched for it: it registered itself.
    pub unverified: bool,
    /// Its credentials, expired ones too.
    pub credentials: Box<[Credential]>,
}

impl Client {
    /// What people call it: its name, or its id where it has none.
    pub fn name(&self) -> &str {
        self.metadata.client_name.as_deref().unwrap_or(&self.client_id)
    }
}

/// One of a client's credentials.
#[derive(Debug)]
pub struct Credential {
    /// The row's id.
    pub id: Id,
    /// What is compared or verified with.
    pub proof: Proof,
    /// When it stops working.
    pub expires_at: Option<Micros>,
    last_used_at: AtomicI64,
}

/// What a credential is checked against. Public or one-way, so `Debug` may show it; it does not all the same.
pub enum Proof {
    /// SHA-256 of a secret that we generated.
    Generated(secret::Digest),
    /// A PHC string of Argon2id.
    Imported(String),
    /// A public key.
    Jwk(Box<PublicJwk>),
}

impl std::fmt::Debug for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind().as_str())
    }
}

impl Proof {
    /// What it is.
    pub fn kind(&self) -> CredentialKind {
        match self {
            Self::Generated(_) => CredentialKind::GeneratedSecret,
            Self::Imported(_) => CredentialKind::ImportedSecret,
            Self::Jwk(_) => CredentialKind::Jwk,
        }
    }

    fn from_row(row: &CredentialRow) -> Option<Self> {
        Some(match row.kind.parse().ok()? {
            CredentialKind::GeneratedSecret => Self::Generated(secret::Digest::from_text(&row.value)?),
            CredentialKind::ImportedSecret => Self::Imported(row.value.clone()),
            CredentialKind::Jwk => Self::Jwk(Box::new(PublicJwk::parse(row.value.as_bytes()).ok()?)),
        })
    }
}

impl Credential {
    /// Whether it works at `now`.
    pub fn is_live(&self, now: Micros) -> bool {
        self.expires_at.is_none_or(|end| now < end)
    }

    /// Notes that it worked. Whether that is worth a row: at most once a minute.
    pub fn touch(&self, now: Micros) -> bool {
        let before = self.last_used_at.load(Ordering::Relaxed);
        now - before >= 60 * SECOND
            && self.last_used_at.compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl Client {
    /// From its rows.
    ///
    /// # Errors
    /// When the rows hold what this binary does not understand.
    pub fn from_rows(row: &ClientRow, credentials: &[CredentialRow]) -> Result<Self, StoreError> {
        let unfit = |what: &str| StoreError::Unfit(format!("client {}: {what}", row.client_id));
        let credentials = credentials.iter().map(|credential| {
            Ok(Credential {
                id: Id::try_from(credential.id.as_slice()).map_err(|_| unfit("a credential's id"))?,
                proof: Proof::from_row(credential).ok_or_else(|| unfit("a credential's value"))?,
                expires_at: credential.expires_at,
                last_used_at: AtomicI64::new(credential.last_used_at.unwrap_or(0)),
            })
        });
        let metadata: ClientMetadata = from_row(&row.metadata).map_err(|cause| unfit(&cause.to_string()))?;
        Ok(Self {
            client_id: row.client_id.as_str().into(),
            unverified: row.managed_by == ManagedBy::Registration.as_str(),
            metadata,
            disabled: row.disabled,
            credentials: credentials.collect::<Result<_, StoreError>>()?,
        })
    }

    /// Whether it can keep a secret (RFC 6749 §2.1).
    pub fn is_confidential(&self) -> bool {
        self.metadata.token_endpoint_auth_method != AuthMethod::None
    }

    /// Whether a browser page of `origin` may call for it.
    pub fn allows_origin(&self, origin: &str) -> bool {
        self.metadata.allowed_origins.iter().any(|allowed| allowed == origin)
    }

    /// Roughly how many bytes it takes in the cache, whose own share of each entry is about 80.
    fn weight(&self) -> u64 {
        let metadata = &self.metadata;
        let lists = metadata.lists().into_iter().flatten().map(|text| size_of::<String>() + text.len()).sum::<usize>();
        let proof = |credential: &Credential| match &credential.proof {
            Proof::Generated(_) => 0,
            Proof::Imported(text) => text.len(),
            Proof::Jwk(_) => 600,
        };
        let credentials = self.credentials.iter().map(|each| size_of::<Credential>() + proof(each)).sum::<usize>();
        let texts = self.client_id.len() + self.name().len() + metadata.scope.to_string().len();
        (80 + size_of::<Self>() + texts + lists + credentials) as u64
    }
}
