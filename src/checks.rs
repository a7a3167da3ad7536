//! What a value of a client's or resource's metadata may be, whoever gives it: a file, a person, a request.

use url::{Host, Url};

/// A field that cannot stand, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {text}")]
pub struct Invalid {
    /// The metadata name.
    pub field: &'static str,
    /// What is wrong and what would be right.
    pub text: String,
}

impl Invalid {
    /// A field and what is wrong with it.
    pub fn new(field: &'static str, text: impl Into<String>) -> Self {
        Self { field, text: text.into() }
    }
}

/// 1 to 200 characters, none of them a control character or a bidirectional override.
pub fn check_text(field: &'static str, text: &str) -> Result<(), Invalid> {
    let hidden = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if text.trim().is_empty() || text.chars().count() > 200 || text.chars().any(hidden) {
        return Err(Invalid::new(field, "takes 1 to 200 visible characters"));
    }
    Ok(())
}

/// Seconds from 1 to the configured ceiling.
pub fn check_lifetime(field: &'static str, seconds: Option<u32>, max: u32) -> Result<(), Invalid> {
    match seconds {
        Some(seconds) if !(1..=max).contains(&seconds) => {
            Err(Invalid::new(field, format!("takes 1 to {max} seconds (tokens.max_access_token_lifetime_seconds)")))
        }
        _ => Ok(()),
    }
}

/// An absolute https URL (or http, where allowed) without user info and fragment.
pub fn check_uri(field: &'static str, uri: &str, allow_http: bool) -> Result<(), Invalid> {
    let url = parse_plain(uri).ok_or_else(|| Invalid::new(field, "takes an absolute https URL"))?;
    let fine = (url.scheme() == "https" || allow_http && url.scheme() == "http")
        && url.host().is_some()
        && url.username().is_empty()
        && url.password().is_none()
        && url.fragment().is_none();
    if fine { Ok(()) } else { Err(Invalid::new(field, "takes an absolute https URL without user info and fragment")) }
}

/// RFC 8707 §2: an absolute URI without fragment; here also of printable ASCII and at most 500 characters.
pub fn check_identifier(field: &'static str, uri: &str) -> Result<(), Invalid> {
    let printable = uri.bytes().all(|byte| (0x21..=0x7e).contains(&byte));
    if uri.len() > 500 || !printable || uri.contains(['#', '"', '\\']) || Url::parse(uri).is_err() {
        return Err(Invalid::new(field, "takes an absolute URI without fragment, at most 500 characters (RFC 8707)"));
    }
    Ok(())
}

/// An origin as a browser sends it: scheme, host, port unless it is the default one. http only on loopback.
pub fn check_origin(origin: &str) -> Result<(), Invalid> {
    let wrong =
        || Invalid::new("allowed_origins", "takes origins as a browser sends them, like https://app.example.com");
    let url = parse_plain(origin).ok_or_else(wrong)?;
    let scheme = url.scheme() == "https" || url.scheme() == "http" && is_loopback(&url);
    if scheme && url.origin().ascii_serialization() == origin { Ok(()) } else { Err(wrong()) }
}

/// Whether the host is `localhost`, in 127.0.0.0/8, or `[::1]`.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// The URL, unless the parser had to drop or change white space to read it.
fn parse_plain(text: &str) -> Option<Url> {
    if text.len() > 2000 || text.bytes().any(|byte| byte <= b' ' || byte == b'\\' || byte >= 0x7f) {
        return None;
    }
    Url::parse(text).ok()
}
