//! Checks between keys and against the mode, and what the server would do in words.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use ipnet::IpNet;

use super::problem::Problem;
use super::{Config, Listen, MasterKeySource, Mode};
use crate::look::Look;
use crate::wire::{Algorithm, EdDsaName};

struct Checks<'a> {
    config: &'a Config,
    problems: Vec<Problem>,
}

impl Config {
    /// What is wrong between keys, or in this mode; empty when `serve` may start. Looks at the files that are named.
    pub fn validate(&self, mode: Mode) -> Vec<Problem> {
        let mut checks = Checks { config: self, problems: Vec::new() };
        checks.listeners();
        checks.tls();
        checks.master_key();
        checks.algorithms();
        checks.rotation();
        checks.times();
        checks.branding();
        match mode {
            Mode::Production => checks.production(),
            Mode::Development => checks.development(),
        }
        checks.problems
    }

    /// What the server would do, for `sealwright check`: what, and how. Names no secret.
    pub fn summary(&self) -> Vec<(&'static str, String)> {
        let or = |text: String, none: &str| if text.is_empty() { none.to_owned() } else { text };
        let networks = |list: &[IpNet]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let database = self.database.url.describe();
        let migration = if self.migrates() { "migrated at start" } else { "migrated by `sealwright migrate`" };
        let algorithm = |algorithm: &Algorithm| match algorithm {
            Algorithm::Rs256 | Algorithm::Ps256 => format!("{algorithm} ({} bit)", self.keys.rsa_bits),
            Algorithm::EdDsa if self.keys.eddsa_name != EdDsaName::EdDsa => {
                format!("{algorithm} (as {})", self.keys.eddsa_name)
            }
            _ => algorithm.to_string(),
        };
        let master_key = match self.master_key_source() {
            Some(MasterKeySource::Value(_)) => format!("given ({})", self.origin("master_key.value")),
            Some(MasterKeySource::File(file)) => format!("file {}", file.display()),
            Some(MasterKeySource::Made(file)) => format!("file {}, made at the first start", file.display()),
            None => "missing".to_owned(),
        };
        let outbound = if self.outbound.allow_http { "https and http" } else { "https" };
        let requests = if self.log.requests { "every request" } else { "no requests" };
        vec![
            ("issuer", self.issuer.as_ref().map_or_else(|| "not set".to_owned(), ToString::to_string)),
            ("http", or(listed(&self.http.listen), "off")),
            (
                "tls",
                or(
                    listed(self.tls_listen()),
                    if self.tls.certificate.is_some() { "off" } else { "off (no certificate)" },
                ),
            ),
            ("management", or(listed(&self.management.listen), "off")),
            ("trusted proxies", or(networks(&self.http.trusted_proxies), "none")),
            ("database", format!("{database}; {migration}")),
            ("master key", master_key),
            ("signing keys", self.keys.algorithms.iter().map(algorithm).collect::<Vec<_>>().join(", ")),
            (
                "rotation of keys",
                format!(
                    "published {} s or more, signing {} s, published for another {} s",
                    self.keys.published_seconds, self.keys.active_seconds, self.keys.retiring_seconds
                ),
            ),
            (
                "access tokens",
                format!(
                    "live {} s unless a client or resource says otherwise, {} s at most",
                    self.tokens.access_token_lifetime_seconds, self.tokens.max_access_token_lifetime_seconds
                ),
            ),
            (
                "outbound requests",
                format!(
                    "{outbound}, to public addresses and {}",
                    or(networks(&self.outbound.allow_networks), "no others")
                ),
            ),
            ("log", format!("{}, filter {}, {requests}", self.log.format, self.log.filter)),
        ]
    }
}

impl Checks<'_> {
    fn refuse(&mut self, key: &str, text: impl Into<String>) {
        self.problems.push(Problem { key: key.to_owned(), origin: self.config.origin(key), text: text.into() });
    }

    fn listeners(&mut self) {
        if self.config.http.listen.is_empty() && self.config.tls_listen().is_empty() {
            self.refuse(
                "http.listen",
                "is empty and there is no TLS listener either, so nobody could reach the server",
            );
        }
    }

    fn tls(&mut self) {
        match (&self.config.tls.certificate, &self.config.tls.private_key) {
            (Some(_), None) => self.refuse("tls.private_key", "is missing; tls.certificate needs it"),
            (None, Some(_)) => self.refuse("tls.certificate", "is missing; tls.private_key needs it"),
            (Some(certificate), Some(private_key)) => {
                self.readable("tls.certificate", certificate);
                self.readable("tls.private_key", private_key);
            }
            (None, None) => {}
        }
    }

    fn readable(&mut self, key: &str, file: &Path) {
        if let Err(error) = std::fs::File::open(file) {
            self.refuse(key, format!("cannot open {}: {error}", file.display()));
        }
    }

    fn master_key(&mut self) {
        if self.config.master_key.value.is_some() && self.config.master_key.file.is_some() {
            let file = self.config.origin("master_key.file");
            self.refuse("master_key.value", format!("is given beside master_key.file ({file}); keep one of the two"));
        }
        match self.config.master_key_source() {
            None => self.refuse(
                "master_key.file",
                "must be set on PostgreSQL (or master_key.value): all nodes need the same key, so none makes its own. \
                 Make one with: (umask 077; openssl rand -hex 32 > sealwright.key)",
            ),
            Some(MasterKeySource::File(file)) => self.readable("master_key.file", &file),
            Some(MasterKeySource::Made(_) | MasterKeySource::Value(_)) => {}
        }
    }

    fn algorithms(&mut self) {
        let algorithms = &self.config.keys.algorithms;
        for needed in [Algorithm::Rs256, Algorithm::EdDsa] {
            if !algorithms.contains(&needed) {
                self.refuse("keys.algorithms", format!("lacks {needed}, which is always needed"));
            }
        }
        if let Some((_, twice)) = algorithms.iter().enumerate().find(|(at, item)| algorithms[..*at].contains(item)) {
            self.refuse("keys.algorithms", format!("names {twice} twice"));
        }
    }

    /// I5: who goes by the JWKS's max-age knows a key before it signs, and until its last token has expired.
    fn rotation(&mut self) {
        let config = self.config;
        let (keys, lead, outlast) = (&config.keys, config.keys_lead_seconds(), config.keys_outlast_seconds());
        for &algorithm in &keys.algorithms {
            let (published, active) = (keys.published_seconds.of(algorithm), keys.active_seconds.of(algorithm));
            if published < lead {
                self.refuse(
                    "keys.published_seconds",
                    format!(
                        "is {published} for {algorithm}; it takes {lead} until every verifier knows a key \
                         (keys.jwks_max_age_seconds, a commit, a lease)"
                    ),
                );
            } else if active < published {
                let text =
                    format!("is {active} for {algorithm}, and shorter than keys.published_seconds ({published})");
                self.refuse("keys.active_seconds", text);
            }
        }
        let retiring = |algorithm: &Algorithm| keys.retiring_seconds.of(*algorithm);
        if let Some(short) = keys.algorithms.iter().find(|algorithm| retiring(algorithm) < outlast) {
            self.refuse(
                "keys.retiring_seconds",
                format!(
                    "is {} for {short}; it must be at least {outlast}, until the last token of a key has expired \
                     (tokens.max_access_token_lifetime_seconds, keys.jwks_max_age_seconds, a request, a lease)",
                    retiring(short)
                ),
            );
        }
    }

    fn branding(&mut self) {
        if let Err(text) = Look::new(self.config) {
            self.refuse("branding.logo", text.trim_start_matches("branding.logo: "));
        }
    }

    fn times(&mut self) {
        let sessions = &self.config.sessions;
        if sessions.idle_seconds > sessions.absolute_seconds {
            let most = sessions.absolute_seconds;
            self.refuse("sessions.idle_seconds", format!("is longer than sessions.absolute_seconds ({most})"));
        }
        let tokens = &self.config.tokens;
        if tokens.access_token_lifetime_seconds > tokens.max_access_token_lifetime_seconds {
            let max = tokens.max_access_token_lifetime_seconds;
            self.refuse(
                "tokens.access_token_lifetime_seconds",
                format!("is longer than tokens.max_access_token_lifetime_seconds ({max})"),
            );
        }
        let request = self.config.http.request_timeout_seconds;
        if self.config.database.deadline_milliseconds >= request * 1_000 {
            self.refuse(
                "database.deadline_milliseconds",
                format!("must be shorter than http.request_timeout_seconds ({request}), so that a slow database is answered 503"),
            );
        }
    }

    fn production(&mut self) {
        match &self.config.issuer {
            None => self.refuse("issuer", "must be set to the URL that clients know this server by, https://…"),
            Some(issuer) if !issuer.is_https() && !issuer.is_loopback() => self.refuse(
                "issuer",
                "must be https off this machine: over plain http everybody on the way reads secrets and tokens and can \
                 hand out keys of their own. Behind a proxy that does TLS, it is the proxy's https URL",
            ),
            Some(_) => {}
        }
        if let (Some(_), Some(file)) = (&self.config.tls.certificate, &self.config.tls.private_key) {
            self.private("tls.private_key", file, "could pose as this server");
        }
        let opens = "could open every secret in the database";
        match self.config.master_key_source() {
            Some(MasterKeySource::File(file) | MasterKeySource::Made(file)) => {
                self.private("master_key.file", &file, opens);
            }
            Some(MasterKeySource::Value(_)) => self.private_source("master_key.value", opens),
            None => {}
        }
        if self.config.database.url.has_password() {
            self.private_source("database.url", "could read and change the database");
        }
        if self.config.outbound.allow_http {
            self.refuse(
                "outbound.allow_http",
                "is only for development: over plain http anybody on the way can replace a client's keys by their own",
            );
        }
        let everything = |list: &[IpNet]| list.iter().any(|network| network.prefix_len() == 0);
        if everything(&self.config.http.trusted_proxies) {
            self.refuse(
                "http.trusted_proxies",
                "trusts every address, so every client could name any address as its own",
            );
        }
        if everything(&self.config.outbound.allow_networks) {
            self.refuse(
                "outbound.allow_networks",
                "allows every address, so a client's jwks_uri could reach inside your network",
            );
        }
    }

    /// Refuses a file that others than its owner can read or write. One that does not exist is not this check's matter.
    fn private(&mut self, key: &str, file: &Path, danger: &str) {
        let Ok(found) = std::fs::metadata(file) else { return };
        let mode = found.mode() & 0o777;
        if is_open(mode, is_ours(&found)) {
            let file = file.display();
            self.refuse(
                key,
                format!(
                    "{file} is open to others than its owner (mode {mode:04o}), who {danger}; run: chmod 600 {file}"
                ),
            );
        }
    }

    /// The same of the file that the value of `key` stands in, if it is in one.
    fn private_source(&mut self, key: &str, danger: &str) {
        if let Some(file) = self.config.origin(key).file() {
            self.private(key, file, danger);
        }
    }

    fn development(&mut self) {
        let config = self.config;
        let listeners = [
            ("http.listen", &config.http.listen[..]),
            ("tls.listen", config.tls_listen()),
            ("management.listen", &config.management.listen),
        ];
        for (key, listen) in listeners {
            for address in listen.iter().filter(|address| !address.is_loopback()) {
                self.refuse(
                    key,
                    format!("{address} can be reached from other machines; --dev has known demo data and serves loopback only"),
                );
            }
        }
    }
}

/// Whether others may read or write a file of this mode. Who was given a file by its owner (root's in `/etc`, a volume of
/// Kubernetes) has it by the group, and by nothing else.
pub(super) fn is_open(mode: u32, ours: bool) -> bool {
    mode & if ours { 0o066 } else { 0o026 } != 0
}

/// Whether the file is of the user that this process runs as.
fn is_ours(file: &Metadata) -> bool {
    rustix::process::geteuid().as_raw() == file.uid()
}

fn listed(listen: &[Listen]) -> String {
    listen.iter().map(Listen::to_string).collect::<Vec<_>>().join(", ")
}
