//! Addresses: the issuer, what listeners listen on, and where the database is.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use url::{Host, Url};

use super::value::{Raw, Rule, Setting};
use crate::secret::Secret;

/// The issuer identifier (RFC 8414 §2): an https (or http) URL without user, query, fragment and trailing slash, in
/// its normal form, because verifiers compare it byte by byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    text: String,
    path: usize,
    https: bool,
    loopback: bool,
}

impl Issuer {
    /// Parses an issuer; `Err` says what is wrong. Plain http is accepted here and judged by
    /// [`Config::validate`](super::Config::validate), which knows the mode.
    pub fn parse(text: &str) -> Result<Self, String> {
        // The URL is not quoted before we know that it carries no password.
        let url = Url::parse(text).map_err(|error| format!("is not a URL: {error}"))?;
        if !matches!(url.scheme(), "https" | "http") {
            return Err(format!("has the scheme {:?}; allowed: https", url.scheme()));
        }
        if !url.username().is_empty() || url.password().is_some() || text.contains('@') {
            return Err("carries a user name or password, which an issuer may not".to_owned());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("has a query or a fragment, which an issuer may not".to_owned());
        }
        if text.ends_with('/') {
            return Err("ends with a slash; leave it out".to_owned());
        }
        let normal = url.as_str().strip_suffix('/').unwrap_or(url.as_str());
        if normal != text {
            return Err(format!("is not in its normal form; write {normal}"));
        }
        let path = url.path().trim_end_matches('/');
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if path.split('/').skip(1).any(|segment| segment.is_empty() || !segment.bytes().all(plain)) {
            return Err(
                "has a path with other characters than letters, digits and -._~ between single slashes".to_owned()
            );
        }
        let loopback = match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => return Err("has no host".to_owned()),
        };
        Ok(Self { path: text.len() - path.len(), https: url.scheme() == "https", loopback, text: text.to_owned() })
    }

    /// The whole identifier, as it stands in `iss`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The path, `""` or `/tenant`: what our endpoints' paths begin with.
    pub fn path(&self) -> &str {
        &self.text[self.path..]
    }

    /// Whether people and services reach us by TLS.
    pub fn is_https(&self) -> bool {
        self.https
    }

    /// Whether the host is `localhost`, in 127.0.0.0/8, or `[::1]`.
    pub fn is_loopback(&self) -> bool {
        self.loopback
    }

    /// The URL of the endpoint at `path` (`/oauth2/token`).
    pub fn endpoint(&self, path: &str) -> String {
        format!("{}{path}", self.text)
    }
}

impl fmt::Display for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Setting for Issuer {
    fn kind() -> String {
        "URL".to_owned()
    }

    fn read(raw: &Raw) -> Result<Self, String> {
        Self::parse(&String::read(raw)?)
    }

    fn show(&self) -> String {
        self.text.show()
    }
}

/// One item of a `listen` list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// `localhost:PORT`: 127.0.0.1 and, where there is one, `[::1]`.
    Localhost(u16),
    /// One IP address and a port.
    Address(SocketAddr),
}

impl Listen {
    /// The address that is there in any case.
    pub fn address(self) -> SocketAddr {
        match self {
            Self::Localhost(port) => (Ipv4Addr::LOCALHOST, port).into(),
            Self::Address(address) => address,
        }
    }

    /// Whether it can be reached from this machine only.
    pub fn is_loopback(self) -> bool {
        self.address().ip().to_canonical().is_loopback()
    }
}

impl FromStr for Listen {
    type Err = String;

    /// `Err` says what is wrong.
    fn from_str(text: &str) -> Result<Self, String> {
        let read = match text.strip_prefix("localhost:") {
            Some(port) => port.parse().ok().map(Self::Localhost),
            None => text.parse().ok().map(Self::Address),
        };
        read.ok_or_else(|| format!("{text:?} is not an address to listen on"))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Localhost(port) => write!(f, "localhost:{port}"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl Setting for Listen {
    fn kind() -> String {
        String::kind()
    }

    fn read(raw: &Raw) -> Result<Self, String> {
        String::read(raw)?.parse()
    }

    fn show(&self) -> String {
        self.to_string().show()
    }
}

/// What every `listen` list's items are, in words.
pub(super) fn listener() -> Rule<Listen> {
    Rule::new("an IP address or localhost, and a port: localhost:8080, 0.0.0.0:8080, [::]:8443", |_| Ok(()))
}

/// Where the data is.
#[derive(Clone, Debug)]
pub enum DatabaseUrl {
    /// The embedded database, in this file.
    Sqlite(PathBuf),
    /// A server; the URL may carry a password.
    Postgres(Secret),
}

/// What may stand behind the `?` of a PostgreSQL URL.
const POSTGRES_PARAMETERS: [&str; 13] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "statement-cache-capacity",
    "user",
];

impl DatabaseUrl {
    /// Parses `sqlite:PATH`, `postgres://…` or `postgresql://…`. `Err` says what is wrong and never quotes the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix("sqlite:") {
            // sqlite://file and sqlite:///folder/file are what other programs write.
            let path = rest.strip_prefix("//").unwrap_or(rest);
            return match path {
                "" => Err("names no file after sqlite:".to_owned()),
                ":memory:" => Err("must be a file, because several connections share it".to_owned()),
                path if path.contains('?') => Err("takes no parameters after the file".to_owned()),
                path => Ok(Self::Sqlite(path.into())),
            };
        }
        if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
            return Err("is neither a SQLite nor a PostgreSQL URL; allowed: sqlite:PATH, postgres://…".to_owned());
        }
        match Url::parse(text) {
            // The driver would log a parameter that it does not know, with its value.
            Ok(url) if url.query_pairs().any(|(name, _)| !POSTGRES_PARAMETERS.contains(&name.as_ref())) => {
                Err(format!("has a parameter that is none of {}", POSTGRES_PARAMETERS.join(", ")))
            }
            Ok(_) => Ok(Self::Postgres(Secret::new(text))),
            Err(error) => Err(format!("is not a URL: {error}")),
        }
    }

    /// Whether it carries a password.
    pub fn has_password(&self) -> bool {
        let Self::Postgres(url) = self else { return false };
        Url::parse(url.expose())
            .is_ok_and(|url| url.password().is_some() || url.query_pairs().any(|(name, _)| name == "password"))
    }

    /// Kind and place in words, without user, password and parameters.
    pub fn describe(&self) -> String {
        match self {
            Self::Sqlite(path) => format!("SQLite, {}", path.display()),
            Self::Postgres(url) => Url::parse(url.expose()).map_or_else(
                |_| "PostgreSQL".to_owned(),
                |url| {
                    let host = url.host_str().filter(|host| !host.is_empty()).unwrap_or("a local socket");
                    format!(
                        "PostgreSQL, {host} port {}, database {:?}",
                        url.port().unwrap_or(5432),
                        &url.path()[1.min(url.path().len())..]
                    )
                },
            ),
        }
    }
}

impl Setting for DatabaseUrl {
    const SECRET: bool = true;

    fn kind() -> String {
        "URL".to_owned()
    }

    fn read(raw: &Raw) -> Result<Self, String> {
        Self::parse(Secret::read(raw)?.expose())
    }

    fn show(&self) -> String {
        match self {
            Self::Sqlite(path) => format!("sqlite:{}", path.display()).show(),
            Self::Postgres(_) => String::new(),
        }
    }
}
