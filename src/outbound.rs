//! The only HTTP client. It fetches documents from addresses that others chose (`jwks_uri` and the like), so it must
//! not be talked into reaching what only this machine can reach (SSRF), nor into waiting or reading without end.
//!
//! Names are resolved here, once per connection, and the connection goes to the very addresses that were checked: a
//! name that answers differently the next time (rebinding) gains nothing.

use std::error::Error as _;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use rustls::pki_types::CertificateDer;
use url::{Host, Url, form_urlencoded};

use crate::config;
use crate::secret::Secret;

/// Why there is no document. Texts carry neither the address, which may hold a secret, nor anything of the answer.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// Not an absolute URL, or one with a user, a fragment, or characters that do not belong there.
    #[error("not a URL that may be fetched (absolute, without user information and fragment)")]
    Url,
    /// Another scheme than `https`.
    #[error("only https may be fetched")]
    Scheme,
    /// The host is, or its name means, an address that is not public and not allowed by the configuration.
    #[error("the host has no public address, and its network is not in the list of allowed ones")]
    Address,
    /// The name does not resolve.
    #[error("the host's name does not resolve")]
    Name,
    /// No connection, TLS that does not verify included.
    #[error("no connection to the host, or its certificate is not trusted")]
    Connect(#[source] reqwest::Error),
    /// Not done in the time allowed.
    #[error("the host did not answer in time")]
    Timeout,
    /// Any status but 200; a redirect is one too.
    #[error("the host answered with HTTP status {0}, not 200")]
    Status(u16),
    /// The body is longer than allowed.
    #[error("the document is too large")]
    TooLarge,
    /// The answer broke off or was not HTTP.
    #[error("the exchange with the host failed")]
    Exchange(#[source] reqwest::Error),
    /// The client could not be set up.
    #[error("the HTTP client could not be set up")]
    Setup(#[source] reqwest::Error),
}

/// The guarded client; share one.
#[derive(Clone, Debug)]
pub struct Outbound {
    client: reqwest::Client,
    guard: Guard,
    allow_http: bool,
    timeout: Duration,
    max_body_bytes: usize,
}

impl Outbound {
    /// Sets the client up. Trusts the platform's root certificates.
    ///
    /// # Errors
    /// [`OutboundError::Setup`].
    pub fn new(settings: &config::Outbound) -> Result<Self, OutboundError> {
        Self::with(settings, &[], system_lookup)
    }

    /// On a machine without root certificates only `extra_roots` are trusted.
    #[expect(clippy::disallowed_methods, reason = "the one HTTP client, with its guard")]
    fn with(
        settings: &config::Outbound,
        extra_roots: &[CertificateDer<'static>],
        lookup: Lookup,
    ) -> Result<Self, OutboundError> {
        // reqwest takes the process's provider. One may be there already, which is ours too: there is no other.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let guard = Guard { allow_networks: settings.allow_networks.clone(), lookup };
        let roots = extra_roots.iter().map(|root| reqwest::Certificate::from_der(root));
        let roots: Vec<_> = roots.collect::<Result<_, _>>().map_err(OutboundError::Setup)?;
        let builder = || {
            reqwest::Client::builder()
                .user_agent(concat!("sealwright/", env!("CARGO_PKG_VERSION")))
                .dns_resolver(guard.clone())
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                .referer(false)
                // A proxy from the environment would resolve names itself, past the guard.
                .no_proxy()
                .http1_only()
                .pool_max_idle_per_host(0)
        };
        let client = builder().tls_certs_merge(roots.clone()).build().or_else(|cause| {
            tracing::warn!(%cause, "no root certificates from the platform; https to public hosts will be refused");
            builder().tls_certs_only(roots).build().map_err(OutboundError::Setup)
        })?;
        let config::Outbound { allow_http, max_body_bytes, .. } = *settings;
        let timeout = Duration::from_secs(settings.timeout_seconds.into());
        Ok(Self { client, guard, allow_http, timeout, max_body_bytes })
    }

    /// Fetches `url` and returns its body, when the answer is 200. `accept` is the media type asked for.
    ///
    /// # Errors
    /// See [`OutboundError`].
    pub async fn get(&self, url: &str, accept: &str) -> Result<Vec<u8>, OutboundError> {
        let url = self.check(url)?;
        tokio::time::timeout(self.timeout, self.fetch(url, accept)).await.unwrap_or(Err(OutboundError::Timeout))
    }

    /// Posts a form and returns status and body, whatever the status. With `basic`, as the client of this id and secret
    /// (RFC 6749 §2.3.1: both are form-encoded first).
    ///
    /// # Errors
    /// See [`OutboundError`]; not for a status.
    pub async fn post_form(
        &self,
        url: &str,
        form: &[(&str, &str)],
        basic: Option<(&str, &Secret)>,
    ) -> Result<(u16, Vec<u8>), OutboundError> {
        let url = self.check(url)?;
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let mut request = self.client.post(url).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body);
        if let Some((id, secret)) = basic {
            let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
            request = request.basic_auth(encoded(id), Some(encoded(secret.expose())));
        }
        let exchange = async {
            let response = request.header(ACCEPT, "application/json").send().await.map_err(send_error)?;
            Ok((response.status().as_u16(), self.read(response).await?))
        };
        tokio::time::timeout(self.timeout, exchange).await.unwrap_or(Err(OutboundError::Timeout))
    }

    /// Whether [`Outbound::get`] would try this URL at all; looks no name up. For refusing bad settings where they
    /// are made.
    ///
    /// # Errors
    /// [`OutboundError::Url`], [`OutboundError::Scheme`], [`OutboundError::Address`].
    pub fn check(&self, url: &str) -> Result<Url, OutboundError> {
        // The parser would drop tabs and line breaks and turn backslashes around; we want the text we were given.
        if !url.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') {
            return Err(OutboundError::Url);
        }
        let url = Url::parse(url).map_err(|_| OutboundError::Url)?;
        match url.scheme() {
            "https" => {}
            "http" if self.allow_http => {}
            _ => return Err(OutboundError::Scheme),
        }
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            return Err(OutboundError::Url);
        }
        // The parser has already brought decimal, octal and hexadecimal addresses into their one form.
        let address = match url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            Some(Host::Domain(_)) => None,
            None => return Err(OutboundError::Url),
        };
        if address.is_some_and(|address| !self.guard.permits(address)) {
            return Err(OutboundError::Address);
        }
        Ok(url)
    }

    async fn fetch(&self, url: Url, accept: &str) -> Result<Vec<u8>, OutboundError> {
        let response = self.client.get(url).header(ACCEPT, accept).send().await.map_err(send_error)?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(OutboundError::Status(response.status().as_u16()));
        }
        self.read(response).await
    }

    async fn read(&self, mut response: reqwest::Response) -> Result<Vec<u8>, OutboundError> {
        let limit = self.max_body_bytes;
        if response.content_length().is_some_and(|length| length > limit as u64) {
            return Err(OutboundError::TooLarge);
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(exchange_error)? {
            if chunk.len() > limit - body.len() {
                return Err(OutboundError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

fn exchange_error(error: reqwest::Error) -> OutboundError {
    OutboundError::Exchange(error.without_url())
}

fn send_error(error: reqwest::Error) -> OutboundError {
    let mut source = error.source();
    while let Some(cause) = source {
        if cause.is::<NoPermittedAddress>() {
            return OutboundError::Address;
        }
        source = cause.source();
    }
    if error.is_dns() {
        OutboundError::Name
    } else if error.is_connect() {
        OutboundError::Connect(error.without_url())
    } else {
        exchange_error(error)
    }
}

/// Looks a name up: all its addresses.
type Lookup = fn(String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

fn system_lookup(name: String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> {
    Box::pin(async move {
        let found = tokio::net::lookup_host((name, 0)).await?;
        Ok(found.map(|address| address.ip()).collect())
    })
}

/// Stands between names and connections: passes on only addresses that may be reached.
#[derive(Clone)]
struct Guard {
    allow_networks: Vec<IpNet>,
    lookup: Lookup,
}

impl Guard {
    fn permits(&self, address: IpAddr) -> bool {
        is_global(address) || self.allow_networks.iter().any(|network| network.contains(&address))
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guard({:?})", self.allow_networks)
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let found = (guard.lookup)(name.as_str().to_owned()).await?;
            let permitted: Vec<_> = found.into_iter().filter(|address| guard.permits(*address)).collect();
            if permitted.is_empty() {
                return Err(NoPermittedAddress.into());
            }
            let addresses: Addrs = Box::new(permitted.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(addresses)
        })
    }
}

#[derive(Debug, thiserror::Error)]
#[error("no permitted address")]
struct NoPermittedAddress;

/// Whether `address` is one that anybody on the Internet can reach, by IANA's registries of special addresses
/// (RFC 6890 and successors). When in doubt: no.
pub fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_global_v4(address),
        IpAddr::V6(address) => is_global_v6(address),
    }
}

fn is_global_v4(address: Ipv4Addr) -> bool {
    !matches!(
        address.octets(),
        // This network, private, loopback; multicast, reserved, broadcast.
        [0 | 10 | 127 | 224..=255, ..]
            // Carrier-grade NAT (RFC 6598); link-local, where clouds keep their metadata; private.
            | [100, 64..=127, ..] | [169, 254, ..] | [172, 16..=31, ..] | [192, 168, ..]
            // Protocol assignments, benchmarks, 6to4 relays (withdrawn by RFC 7526).
            | [192, 0, 0 | 2, _] | [198, 18..=19, ..] | [192, 88, 99, _]
            // Documentation.
            | [198, 51, 100, _] | [203, 0, 113, _]
    )
}

fn is_global_v6(address: Ipv6Addr) -> bool {
    match address.segments() {
        // NAT64's well-known prefix (RFC 6052) is how an IPv6-only machine reaches IPv4: as good as what is embedded.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => is_global_v4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low))),
        // Protocol assignments with Teredo (2001::/32), and 6to4 (2002::/16), withdrawn: both have an IPv4 address
        // inside. Documentation, twice.
        [0x2001, 0..=0x1ff | 0xdb8, ..] | [0x2002, ..] | [0x3fff, 0..=0xfff, ..] => false,
        // Only 2000::/3 is handed out. This leaves out loopback, mapped and compatible IPv4, local-use NAT64
        // (64:ff9b:1::/48), discard (100::/64), unique-local, link-local and multicast.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests;
