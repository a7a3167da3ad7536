//! What every service is handed: the parts of one issuer, the time, and who asks.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::audit::Audit;
use crate::claims::Mappers;
use crate::clients::replay::Replay;
use crate::clients::secret::SecretHasher;
use crate::clients::{Registry, RemoteKeys};
use crate::clock::{Clock, Micros};
use crate::config::{Issuer, Tokens};
use crate::error::Result;
use crate::issue::revocations::Revocations;
use crate::issue::{KnownTokens, Redemption, Rotation};
use crate::keys::{Keys, MacKeys};
use crate::look::Look;
use crate::metrics::Metrics;
use crate::nodes::{Lease, Node};
use crate::password::PasswordHasher;
use crate::resources::Catalog;
use crate::session;
use crate::store::{Db, Together};
use crate::visitors::Visitors;

/// The services of one issuer. There is nothing global: many issuers in one process are many of these.
pub struct Services {
    /// Who we are.
    pub issuer: Issuer,
    /// The database.
    pub db: Db,
    /// The time.
    pub clock: Clock,
    /// What operators watch.
    pub metrics: Arc<Metrics>,
    /// Signing keys.
    pub keys: Keys,
    /// Keys of what we hand out and take back without keeping it.
    pub mac: MacKeys,
    /// APIs and their scopes.
    pub resources: ArcSwap<Catalog>,
    /// Claims of operators' own.
    pub claim_mappers: ArcSwap<Mappers>,
    /// Clients.
    pub clients: Registry,
    /// Public keys that clients publish.
    pub remote_keys: RemoteKeys,
    /// How long people stay signed in.
    pub sessions: session::Settings,
    /// What strangers have left.
    pub visitors: Visitors,
    /// How pages look.
    pub look: Look,
    /// Argon2id for passwords and imported secrets.
    pub passwords: PasswordHasher,
    /// The fewest characters of a password that a person chooses.
    pub min_password_length: usize,
    /// Client secrets.
    pub hasher: SecretHasher,
    /// Ids that may be used once.
    pub replay: Replay,
    /// Codes that are redeemed at once.
    pub redemptions: Together<Redemption>,
    /// Refresh tokens that are exchanged at once.
    pub rotations: Together<Rotation>,
    /// What was taken back.
    pub revocations: Revocations,
    /// Tokens whose signature was checked.
    pub known_tokens: KnownTokens,
    /// The audit trail.
    pub audit: Audit,
    /// This node's lease and its place in the change feed.
    pub node: Node,
    /// How long tokens live.
    pub tokens: Tokens,
}

/// One request's view of the services.
pub struct Cx<'s> {
    services: &'s Services,
    /// This node's lease when the request came, before anything was read from memory for it.
    lease: Option<Lease>,
    /// The time of this request.
    pub now: Micros,
    /// Where it comes from.
    pub peer: IpAddr,
    /// What its log lines and audit events are found by.
    pub request_id: Arc<str>,
}

impl<'s> Cx<'s> {
    /// A view of `services` now.
    pub fn new(services: &'s Services, peer: IpAddr, request_id: Arc<str>) -> Self {
        Self { services, lease: services.node.lease(), now: services.clock.now(), peer, request_id }
    }

    /// The last thing before an answer from memory: this node held its lease from the request's beginning until now.
    ///
    /// # Errors
    /// As [`Node::require`].
    pub fn require_lease(&self) -> Result<()> {
        self.node.require(self.lease)
    }
}

impl Deref for Cx<'_> {
    type Target = Services;
    fn deref(&self) -> &Services {
        self.services
    }
}
