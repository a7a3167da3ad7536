//! One issuer, whole: its database opened, its services made, its routes served, its jobs run.

mod management;
mod open;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::Request;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::audit::Audit;
use crate::clients::replay::Replay;
use crate::clients::secret::SecretHasher;
use crate::clients::{Registry, RemoteKeys};
use crate::clock::{Micros, SECOND};
use crate::config::{Config, Problem, open_files};
use crate::cx::Services;
use crate::http::layers::{Edge, EdgeSettings};
use crate::http::listen::{self, ListenError, Server};
use crate::http::tls::{Acceptor, TlsError};
use crate::http::{Limits, no_page};
use crate::issue::KnownTokens;
use crate::issue::revocations::Revocations;
use crate::keys::{Keys, MacKeys};
use crate::look::Look;
use crate::metrics::Metrics;
use crate::nodes::{self, Node};
use crate::oauth::{self, OAuth, Published};
use crate::outbound::{Outbound, OutboundError};
use crate::password::{HashSettings, PasswordHasher};
use crate::store::{StoreError, Together};
use crate::visitors::{self, Visitors};
use crate::{account, error, jobs, oidc, pages, session};

pub use management::Health;
pub use open::{Opened, given, has_all, open};

/// Why a server or a command cannot start. Each text says what mends it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No issuer is configured.
    #[error("issuer is not set: give the https URL under which clients reach this server (SEALWRIGHT_ISSUER)")]
    NoIssuer,
    /// The database cannot be opened, read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The schema is older than this binary.
    #[error("the database is not migrated to this version; run `sealwright migrate`, or set database.migrate = true")]
    NotMigrated,
    /// There is no master key.
    #[error("there is no master key: set master_key.file or master_key.value (32 bytes, as 64 hex digits)")]
    NoMasterKey,
    /// The master key cannot be read or made.
    #[error("master_key.file: {0} cannot be read or made: {1}")]
    MasterKeyFile(PathBuf, std::io::Error),
    /// The master key file is gone, and the database has sealed rows.
    #[error(
        "master_key.file: {0} is missing, and this database is sealed with the master key {1}; put it back from your \
         backup"
    )]
    MasterKeyGone(PathBuf, String),
    /// A master key is not 32 bytes.
    #[error(
        "{0} is not a master key: it takes 32 bytes, as 64 hex digits or 43 characters of base64url, and each key on a \
         line of its own; `openssl rand -hex 32` makes one for a new database"
    )]
    MasterKeyMalformed(String),
    /// The master key is another one.
    #[error(
        "this is not the master key that this database is sealed with: {id} seals {seals}, and {given} is configured; \
         check master_key.file and database.url"
    )]
    MasterKeyWrong {
        /// The id of the one that seals.
        id: String,
        /// What it seals.
        seals: String,
        /// The ids of those that are there.
        given: String,
    },
    /// A master key was removed too early.
    #[error(
        "the master key {id} is missing, and it still seals {seals}; put it back, below the first one, and run \
         `sealwright keys reseal` before you remove it"
    )]
    MasterKeyMissing {
        /// The id of the missing one.
        id: String,
        /// What it seals.
        seals: String,
    },
    /// The limit of open files leaves no room for the connections that are configured.
    #[error("{0}")]
    Connections(Problem),
    /// A listener.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The lock or the lease.
    #[error(transparent)]
    Node(#[from] nodes::StartError),
    /// The outgoing client.
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    /// The branding of pages.
    #[error("{0}")]
    Look(String),
    /// Anything else.
    #[error("{0:?}")]
    Internal(error::Error),
}

impl From<error::Error> for StartError {
    fn from(cause: error::Error) -> Self {
        Self::Internal(cause)
    }
}

/// One issuer, started: its listeners are bound, [`App::run`] serves them.
pub struct App {
    services: Arc<Services>,
    listening: Vec<(&'static str, Vec<TcpListener>, Server)>,
    tls: Option<Arc<Acceptor>>,
    /// Ends the jobs, after the listeners have drained.
    finish: CancellationToken,
    jobs: TaskTracker,
}

impl App {
    /// Opens everything, takes the lease, makes the first signing keys, and binds the listeners.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(config: &Config, opened: Opened) -> Result<Self, StartError> {
        let metrics = Arc::new(Metrics::new());
        let tls = acceptor(config)?.map(Arc::new);
        let max_connections = config.connections(open_files()).map_err(StartError::Connections)?;
        if max_connections < config.http.max_connections {
            let (wanted, open_files) = (config.http.max_connections, open_files());
            tracing::warn!(max_connections, wanted, open_files, "fewer connections, to fit the limit of open files");
        }
        // A taken port is told before anything is made.
        let http = listen::bind("http.listen", &config.http.listen).await?;
        let https = listen::bind("tls.listen", config.tls_listen()).await?;
        let management = listen::bind("management.listen", &config.management.listen).await?;

        let mac = MacKeys::load(&opened.db, &opened.master).await?;
        let services = Arc::new(services(config, opened, mac, metrics.clone())?);
        nodes::lock(&services).await?;
        let made = services.keys.ensure(&services.db).await?;
        made.value.iter().for_each(|algorithm| tracing::info!(%algorithm, "made a signing key and its standby"));
        // Nodes that started at the same moment know the keys before they sign.
        if let Some(seq) = made.seq {
            nodes::acted_on_elsewhere(&services.db, &services.clock, seq).await?;
        }
        let follower = nodes::join(&services).await?;

        let finish = CancellationToken::new();
        let jobs = TaskTracker::new();
        jobs.spawn(nodes::follow(services.clone(), follower, finish.clone()));
        jobs.spawn(jobs::flush(services.clone(), finish.clone()));
        jobs.spawn(jobs::sweep(services.clone(), finish.clone()));
        jobs.spawn(jobs::rotate(services.clone(), finish.clone()));
        jobs.spawn(jobs::watch_rotation(services.clone(), finish.clone()));
        if let Some(tls) = &tls {
            jobs.spawn(tls.clone().watch(Duration::from_secs(1), finish.clone()));
        }

        let limits = Limits {
            max_connections,
            header_timeout: seconds(config.http.header_timeout_seconds),
            keep_alive: Duration::from_secs(75),
            drain: seconds(config.http.drain_seconds),
        };
        let settings = EdgeSettings {
            trusted_proxies: config.http.trusted_proxies.clone(),
            request_timeout: seconds(config.http.request_timeout_seconds),
            max_requests: max_connections,
            https: services.issuer.is_https(),
            log_requests: config.log.requests,
        };
        let published = Published::new(config.keys.jwks_max_age_seconds);
        let public = oauth::routes(Arc::new(OAuth {
            services: services.clone(),
            max_body: config.http.max_body_bytes,
            published,
        }));
        // The session layer is on people's routes only.
        let people = oauth::authorize::routes(services.clone())
            .merge(account::routes(services.clone()))
            .merge(oidc::people_routes(services.clone()))
            .layer(session::layer(&services))
            .layer(axum::middleware::from_fn_with_state(services.clone(), pages::dress));
        let public =
            public.merge(oidc::routes(services.clone())).merge(account::open_routes(services.clone())).merge(people);
        let unknown = {
            let services = services.clone();
            async move |request: Request| pages::unknown(&services, &request)
        };
        let public = Edge::new(settings.clone(), metrics.clone())?.wrap(public, unknown);
        let quiet = EdgeSettings { log_requests: false, https: false, ..settings };
        let private = Edge::new(quiet, metrics.clone())?.wrap(management::routes(services.clone()), no_page);
        let server = |name, router: &Router, tls: Option<Arc<Acceptor>>| Server {
            name,
            router: router.clone(),
            tls,
            limits,
            metrics: metrics.clone(),
        };
        let listening = vec![
            ("http", http, server("http", &public, None)),
            ("tls", https, server("tls", &public, tls.clone())),
            ("management", management, server("management", &private, None)),
        ];
        Ok(Self { services, listening, tls, finish, jobs })
    }

    /// The services, for tests that look behind the answers.
    pub fn services(&self) -> &Arc<Services> {
        &self.services
    }

    /// Where it listens: `http`, `tls` or `management`, and the address.
    pub fn addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        let bound =
            self.listening.iter().flat_map(|(name, listeners, _)| listeners.iter().map(|listener| (*name, listener)));
        bound.filter_map(|(name, listener)| listener.local_addr().ok().map(|address| (name, address))).collect()
    }

    /// What reloads the certificate, where there is one; for SIGHUP.
    pub fn tls(&self) -> Option<Arc<Acceptor>> {
        self.tls.clone()
    }

    /// Serves until `stop`; then drains, flushes what gathered, and gives the lease back.
    pub async fn run(self, stop: CancellationToken) {
        let serving = TaskTracker::new();
        let (mut management_stop, drained) = (None, CancellationToken::new());
        for (name, listeners, server) in self.listening {
            if name == "management" {
                // Operators watch the drain; this listener goes last.
                management_stop = Some(tokio::spawn(listen::serve(listeners, server, drained.clone())));
            } else if !listeners.is_empty() {
                serving.spawn(listen::serve(listeners, server, stop.clone()));
            }
        }
        serving.close();
        stop.cancelled().await;
        self.services.node.drain();
        serving.wait().await;
        self.finish.cancel();
        self.jobs.close();
        self.jobs.wait().await;
        drained.cancel();
        if let Some(management) = management_stop {
            let _ = management.await;
        }
    }
}

/// What takes TLS connections, where a certificate is configured.
///
/// # Errors
/// When certificate and key cannot be used.
pub fn acceptor(config: &Config) -> Result<Option<Acceptor>, TlsError> {
    let files = config.tls.certificate.clone().zip(config.tls.private_key.clone());
    files.map(|(certificate, key)| Acceptor::load(certificate, key)).transpose()
}

fn services(config: &Config, opened: Opened, mac: MacKeys, metrics: Arc<Metrics>) -> Result<Services, StartError> {
    let Opened { db, clock, master, .. } = opened;
    let outbound = Outbound::new(&config.outbound)?;
    let passwords = PasswordHasher::new(hash_settings(config))?;
    Ok(Services {
        issuer: config.issuer.clone().ok_or(StartError::NoIssuer)?,
        metrics,
        keys: Keys::new(master, config),
        mac,
        sessions: session::Settings {
            idle: micros(config.sessions.idle_seconds),
            absolute: micros(config.sessions.absolute_seconds),
            end_grants: config.sessions.end_grants,
            visitors: visitors::Settings {
                of_network: config.sessions.waiting_per_address.into(),
                in_all: config.sessions.waiting.into(),
            },
        },
        visitors: Visitors::default(),
        look: Look::new(config).map_err(StartError::Look)?,
        resources: ArcSwap::default(),
        claim_mappers: ArcSwap::default(),
        clients: Registry::new(db.clone()),
        remote_keys: RemoteKeys::new(outbound, seconds(config.outbound.jwks_refresh_seconds)),
        hasher: SecretHasher::new(passwords.clone())?,
        passwords,
        min_password_length: min_password_length(config),
        replay: Replay::start(db.clone()),
        redemptions: Together::start(&db),
        rotations: Together::start(&db),
        revocations: Revocations::default(),
        known_tokens: KnownTokens::default(),
        audit: Audit::default(),
        node: Node::new(clock.clone()).map_err(error::Error::from)?,
        tokens: config.tokens.clone(),
        db,
        clock,
    })
}

/// Argon2id as configured.
pub fn hash_settings(config: &Config) -> HashSettings {
    HashSettings {
        memory_kib: config.secrets.argon2_memory_kib,
        iterations: config.secrets.argon2_iterations,
        concurrency: config.argon2_concurrency(),
        queue: config.secrets.argon2_queue,
    }
}

/// The fewest characters of a password that a person chooses.
pub fn min_password_length(config: &Config) -> usize {
    usize::try_from(config.passwords.min_length).unwrap_or(usize::MAX)
}

fn micros(seconds: u32) -> Micros {
    Micros::from(seconds) * SECOND
}

fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into())
}
