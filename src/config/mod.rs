//! The configuration: what a process needs to start. Each key is defined once, in the list below; its type, parsing,
//! environment name, checks and reference come from that definition.

mod address;
mod check;
mod define;
mod files;
mod problem;
mod source;
mod value;

#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZero;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ipnet::IpNet;
use tracing_subscriber::EnvFilter;
use zeroize::Zeroizing;

pub use address::{DatabaseUrl, Issuer, Listen};
pub use define::{Key, reference};
pub use files::open_files;
pub use problem::{Errors, Origin, Problem};

use crate::secret::Secret;
use crate::wire::{Algorithm, EdDsaName, EndGrants, vocabulary};
use address::listener;
use define::{PREFIX, settings};
use source::{Origins, Sources};
pub use value::ByAlgorithm;
use value::{Rule, Setting, each, for_each_algorithm, if_set, one_of, within};

settings! {
    /// The issuer identifier, which stands in every token and in front of every endpoint's path. Required, except with
    /// `--dev`; plain `http` only on a loopback host.
    issuer: Option<Issuer> = None, Rule::new("https://HOST, with :PORT and /PATH where needed", |_| Ok(()));

    /// HTTP.
    section http: Http {
        /// Where plain HTTP is served; `localhost` is 127.0.0.1 and `::1`, an empty list turns it off.
        listen: Vec<Listen> = vec![Listen::Localhost(8080)], each(listener());
        /// The networks of the proxies in front of us; only from them the client's address is taken from a header.
        trusted_proxies: Vec<IpNet> = Vec::new();
        /// The most connections of each listener at one time; more of them wait to be accepted. Each is an open file:
        /// what is set here must fit into this process's limit, and the default is lowered to fit.
        max_connections: usize = 10_000, within(1..=1_000_000);
        /// The largest request body, in bytes.
        max_body_bytes: usize = 65_536, within(1_024..=16_777_216);
        /// How long a client may take to send the header of a request, and before it for the TLS handshake.
        header_timeout_seconds: u32 = 10, within(1..=300);
        /// How long a request may take in all. A revocation waits up to 3 seconds for a node that died.
        request_timeout_seconds: u32 = 10, within(5..=300);
        /// How long open requests may go on after SIGTERM.
        drain_seconds: u32 = 10, within(0..=3_600);
    }

    /// HTTP over TLS.
    section tls: Tls {
        /// Where HTTP over TLS is served; opened only when a certificate is set.
        listen: Vec<Listen> = vec![Listen::Address((Ipv6Addr::UNSPECIFIED, 8443).into())], each(listener());
        /// The file with the certificate chain, PEM, the server's own certificate first; read again when it changes.
        certificate: Option<PathBuf> = None;
        /// The file with the certificate's private key, PEM; only its owner may read it.
        private_key: Option<PathBuf> = None;
    }

    /// Health and metrics.
    section management: Management {
        /// Where `/health/live`, `/health/ready` and `/metrics` are served, without authentication; an empty list turns
        /// it off.
        listen: Vec<Listen> = vec![Listen::Address((Ipv4Addr::LOCALHOST, 9090).into())], each(listener());
    }

    /// The database.
    section database: Database {
        /// `sqlite:PATH` for the embedded database, `postgres://…` for PostgreSQL. Secret, because it may carry a
        /// password.
        url: DatabaseUrl = DatabaseUrl::Sqlite("sealwright.db".into());
        /// The most connections of requests at one time; on PostgreSQL a server has two more of its own.
        max_connections: u32 = 16, within(1..=1_000);
        /// How long one call of the database may take before the request is answered 503.
        deadline_milliseconds: u32 = 5_000, within(100..=60_000);
        /// Whether `serve` brings the database to this release's schema. By default yes on SQLite and no on PostgreSQL,
        /// where `sealwright migrate` does it.
        migrate: Option<bool> = None;
    }

    /// The keys that seal everything secret in the database.
    section master_key: MasterKey {
        /// The file that holds the master key; only its owner may read it. Of several, one a line, the first is the one
        /// that `sealwright keys reseal` seals everything with; all open. On SQLite it is by default `sealwright.key`
        /// beside the database, made at the first start; on PostgreSQL it has no default.
        file: Option<PathBuf> = None;
        /// The master key itself, instead of a file; of several, parted by commas, the first counts as in the file.
        value: Option<Secret> = None, if_set(Rule::new(
            "32 bytes, as 64 hexadecimal digits or 43 characters of base64url",
            |value: &Secret| match master_keys_bytes(value.expose()) {
                Some(_) => Ok(()),
                None => Err("is not a master key".to_owned()),
            },
        ));
    }

    /// Signing keys.
    section keys: Keys {
        /// The algorithms that we keep signing keys for. `RS256` and `EdDSA` are always needed.
        algorithms: Vec<Algorithm> = vec![Algorithm::Rs256, Algorithm::EdDsa];
        /// The size of new RSA keys.
        rsa_bits: u32 = 2_048, one_of(&[2_048, 3_072, 4_096]);
        /// The name that new Ed25519 keys sign under: most verifiers know `EdDSA`, RFC 9864 names it `Ed25519`.
        eddsa_name: EdDsaName = EdDsaName::EdDsa;
        /// How long verifiers may keep our public keys without asking again.
        jwks_max_age_seconds: u32 = 300, within(0..=86_400);
        /// How long a key is published, at the least, before the schedule has it sign. Like the next two keys, one number
        /// for all algorithms, or a list with exceptions, such as `[86400, "RS256=172800"]`.
        published_seconds: ByAlgorithm = ByAlgorithm::all(86_400), for_each_algorithm(within(1..=31_536_000));
        /// How long a key signs before the next one takes over.
        active_seconds: ByAlgorithm = ByAlgorithm::all(2_592_000), for_each_algorithm(within(1..=315_360_000));
        /// How long a key that signs no more stays published: at the least until the last of its tokens has expired.
        retiring_seconds: ByAlgorithm = ByAlgorithm::all(90_000), for_each_algorithm(within(30..=31_536_000));
    }

    /// Tokens.
    section tokens: Tokens {
        /// How long access tokens live where neither client nor resource says otherwise.
        access_token_lifetime_seconds: u32 = 300, within(30..=86_400);
        /// The longest lifetime that a client or a resource may ask for.
        max_access_token_lifetime_seconds: u32 = 3_600, within(30..=86_400);
        /// How long ID tokens live: they are read at once, and no proof of anything later.
        id_token_lifetime_seconds: u32 = 300, within(30..=86_400);
        /// How long a refresh token lives that is not used.
        refresh_token_idle_seconds: u32 = 2_592_000, within(300..=315_360_000);
        /// How long refresh tokens live in all, from the redemption of the code, however often they are used.
        refresh_token_lifetime_seconds: u32 = 31_536_000, within(300..=315_360_000);
        /// How long after its use a refresh token still gets the same successor again, for a client that lost the answer.
        /// Later, or when the successor was used, that is reuse, and the whole grant is taken back. 0: always.
        refresh_retry_seconds: u32 = 10, within(0..=60);
    }

    /// How long people stay signed in at a browser.
    section sessions: Sessions {
        /// How long somebody stays signed in who does not use it.
        idle_seconds: u32 = 1_800, within(60..=31_536_000);
        /// How long in all; then they sign in again, however much they use it.
        absolute_seconds: u32 = 43_200, within(60..=31_536_000);
        /// Which grants end with a sign-in: `online` are those that do not work while the person is away (without
        /// `offline_access`).
        end_grants: EndGrants = EndGrants::Online;
        /// What one address (IPv6: a network of 64 bits) may have waiting for somebody to sign in: a sign-in that was begun
        /// counts as one, and as two at a browser that was not here before. More are answered 429.
        waiting_per_address: u32 = 1_000, within(2..=1_000_000);
        /// The same of all addresses together; more are answered 503. Each takes up to 16 KiB in the database.
        waiting: u32 = 100_000, within(2..=10_000_000);
    }

    /// Passwords that people choose.
    section passwords: Passwords {
        /// The fewest characters of one. They are the only rule beside that it is not one that others try first.
        min_length: u32 = 15, within(8..=64);
    }

    /// How the pages look that people see.
    section branding: Branding {
        /// Whose pages these are.
        name: String = "Sealwright".to_owned(), Rule::new("1 to 60 visible characters", |name: &String| {
            let fine = (1..=60).contains(&name.trim().chars().count()) && !name.chars().any(char::is_control);
            if fine { Ok(()) } else { Err(format!("{name:?} is not a name")) }
        });
        /// A logo, SVG or PNG, at most 64 KiB; it is served by us, beside the name.
        logo: Option<PathBuf> = None;
        /// The colour of buttons and links, dark enough for white letters on it.
        color: String = "#2348a5".to_owned(), Rule::new("#RRGGBB, with a contrast of 4.5 against white", |color: &String| {
            crate::look::check_color(color)
        });
    }

    /// How secrets that people choose, and imported ones, are hashed (Argon2id).
    section secrets: Secrets {
        /// Memory of one hash, in KiB.
        argon2_memory_kib: u32 = 19_456, within(7_168..=1_048_576);
        /// Passes over that memory.
        argon2_iterations: u32 = 2, within(1..=100);
        /// How many hashes are computed at one time; by default one fewer than there are processor cores, at least one.
        argon2_concurrency: Option<usize> = None, if_set(within(1..=1_024));
        /// How many more may wait, addresses in turn; beyond them a request of the address that has most waiting is
        /// answered 503.
        argon2_queue: usize = 64, within(0..=100_000);
    }

    /// Requests that we send, such as those for a client's `jwks_uri`.
    section outbound: Outbound {
        /// Networks that we may connect to although they are private, loopback or otherwise not public.
        allow_networks: Vec<IpNet> = Vec::new();
        /// Whether plain `http` is allowed. Only for development.
        allow_http: bool = false;
        /// How long a request may take in all.
        timeout_seconds: u32 = 5, within(1..=60);
        /// The largest answer that we read, in bytes.
        max_body_bytes: usize = 524_288, within(1_024..=16_777_216);
        /// The least time between two fetches of one client's `jwks_uri` because of an unknown `kid`.
        jwks_refresh_seconds: u32 = 30, within(1..=3_600);
    }

    /// The log.
    section log: Log {
        /// One JSON object a line, or text for people.
        format: LogFormat = LogFormat::Json;
        /// What is logged: a level, or levels by module, such as `info,sqlx=warn`; read again at SIGHUP.
        filter: String = "info".to_owned(), Rule::new(
            "a level (error, warn, info, debug, trace, off) or MODULE=LEVEL, parted by commas",
            |text: &String| EnvFilter::try_new(text).map(drop).map_err(|error| format!("{text:?} is not a filter: {error}")),
        );
        /// Whether every request is logged.
        requests: bool = true;
    }
}

vocabulary! {
    /// How log lines look.
    pub enum LogFormat {
        /// One JSON object a line.
        Json = "json",
        /// Text for people.
        Pretty = "pretty",
    }
}

/// Longer than any node goes on by what it knew before a change, in seconds.
pub const LEASE_BOUND_SECONDS: u32 = 5;

/// What the server is run for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `serve`: what is only safe on a developer's machine is refused.
    Production,
    /// `serve --dev`: nothing but this machine may reach it.
    Development,
}

/// Where the master key is to be found.
#[derive(Clone, Debug)]
pub enum MasterKeySource {
    /// The keys as text, in the form that [`master_keys_bytes`] reads.
    Value(Secret),
    /// A file that must exist.
    File(PathBuf),
    /// A file beside the SQLite database, made at the first start.
    Made(PathBuf),
}

impl Default for Config {
    fn default() -> Self {
        Self::read(&mut Sources::default())
    }
}

impl Config {
    /// Reads defaults, then `file` (TOML), then the `SEALWRIGHT_…` variables among `env`; later wins. `Err` holds
    /// everything that is wrong with any single key; what is wrong between keys, or in a mode, [`Config::validate`] tells.
    pub fn load(file: Option<&Path>, env: impl IntoIterator<Item = (String, String)>) -> Result<Self, Errors> {
        let mut sources = Sources::default();
        if let Some(file) = file {
            sources.file(file);
        }
        sources.environment(env);
        let config = Self::read(&mut sources);
        if sources.problems.is_empty() { Ok(config) } else { Err(Errors(sources.problems)) }
    }

    /// Where the value of the key `name` came from.
    pub fn origin(&self, name: &str) -> Origin {
        self.origins.get(name).cloned().unwrap_or(Origin::Default)
    }

    /// The addresses of the TLS listener: none without a certificate.
    pub fn tls_listen(&self) -> &[Listen] {
        if self.tls.certificate.is_some() { &self.tls.listen } else { &[] }
    }

    /// Whether `serve` migrates the database itself.
    pub fn migrates(&self) -> bool {
        self.database.migrate.unwrap_or(matches!(self.database.url, DatabaseUrl::Sqlite(_)))
    }

    /// Where the master key is; `None` on PostgreSQL when nobody said, which [`Config::validate`] refuses.
    pub fn master_key_source(&self) -> Option<MasterKeySource> {
        match (&self.master_key.value, &self.master_key.file, &self.database.url) {
            (Some(value), _, _) => Some(MasterKeySource::Value(value.clone())),
            (None, Some(file), DatabaseUrl::Postgres(_)) => Some(MasterKeySource::File(file.clone())),
            (None, Some(file), DatabaseUrl::Sqlite(_)) => Some(MasterKeySource::Made(file.clone())),
            (None, None, DatabaseUrl::Sqlite(database)) => {
                Some(MasterKeySource::Made(database.with_file_name("sealwright.key")))
            }
            (None, None, DatabaseUrl::Postgres(_)) => None,
        }
    }

    /// How long a key is published before every verifier that goes by `keys.jwks_max_age_seconds` knows it, in seconds:
    /// a commit may take as long as the database's deadline, and a node may go on with what it knew for as long as its
    /// lease.
    pub fn keys_lead_seconds(&self) -> u32 {
        let commit = self.database.deadline_milliseconds.div_ceil(1_000);
        self.keys.jwks_max_age_seconds + LEASE_BOUND_SECONDS + commit
    }

    /// How long a key must stay published after it last signed, in seconds: a node may not have heard yet and sign on,
    /// what it signs lives as long as a token may, and verifiers keep what they fetched.
    pub fn keys_outlast_seconds(&self) -> u32 {
        let longest = self.tokens.max_access_token_lifetime_seconds.max(self.tokens.id_token_lifetime_seconds);
        longest + self.keys.jwks_max_age_seconds + LEASE_BOUND_SECONDS + self.http.request_timeout_seconds
    }

    /// How many Argon2 hashes are computed at one time.
    pub fn argon2_concurrency(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, NonZero::get);
        self.secrets.argon2_concurrency.unwrap_or_else(|| (cores() - 1).max(1))
    }
}

/// The variables of this process that [`Config::load`] looks at. Unlike `std::env::vars` it does not mind what others
/// put into the environment.
pub fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| {
            let name = name.into_string().ok().filter(|name| name.starts_with(PREFIX))?;
            Some((name, value.to_string_lossy().into_owned()))
        })
        .collect()
}

/// The keys that stand in `text`, parted by white space or commas; `None` when one is malformed, or there is none.
pub fn master_keys_bytes(text: &str) -> Option<Vec<Zeroizing<[u8; 32]>>> {
    let words = text.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty());
    words.map(master_key_bytes).collect::<Option<Vec<_>>>().filter(|keys| !keys.is_empty())
}

/// The 32 bytes that `text` writes as 64 hexadecimal digits or as 43 characters of base64url without padding.
pub fn master_key_bytes(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let mut key = Zeroizing::new([0; 32]);
    if text.len() == 64 {
        for (byte, pair) in key.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digit = |letter: u8| char::from(letter).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        return Some(key);
    }
    let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).ok()?);
    key.copy_from_slice((bytes.len() == 32).then_some(bytes.as_slice())?);
    Some(key)
}
