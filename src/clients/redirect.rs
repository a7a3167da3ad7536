//! Redirect URIs: which ones a client may register, and which of them a request means (RFC 9700 §2.1, RFC 8252 §7).
//!
//! There is no pattern of any kind: what is registered is compared byte by byte, and only the port of a native
//! client's loopback address is free.

use std::net::IpAddr;

use url::{Host, Url};

use crate::checks::{Invalid, is_loopback};
use crate::wire::ApplicationType;

/// Longest redirect URI, in bytes.
const LONGEST: usize = 1000;
/// The loopback addresses whose port is free for native clients. `localhost` is a name like any other (RFC 8252 §8.3).
const LOOPBACK: [&str; 2] = ["http://127.0.0.1", "http://[::1]"];
/// Parameters of our own answers: a URI that has one already would make two readings of the answer possible.
const OURS: [&str; 6] = ["code", "state", "iss", "error", "error_description", "response"];

/// Checks one redirect URI at registration: https; http on loopback only; for native clients also private-use schemes
/// in reverse-domain form. In its normal form, without fragment, user info and `*`.
///
/// # Errors
/// What is wrong with `uri`, for `field`.
pub fn check(field: &'static str, uri: &str, kind: ApplicationType) -> Result<(), Invalid> {
    let wrong = |text: &str| Err(Invalid::new(field, format!("has a URI that {text}")));
    // The characters that readers of URIs disagree about are none of RFC 3986's.
    let plain = |byte: u8| matches!(byte, 0x21..=0x7e) && !b"\\\"<>^`{|}*".contains(&byte);
    if uri.len() > LONGEST || !uri.bytes().all(plain) {
        return wrong("is longer than 1000 characters, or has others than RFC 3986 allows; there are no wildcards");
    }
    let Ok(url) = Url::parse(uri) else { return wrong("is not absolute") };
    if uri.contains('#') {
        return wrong("has a fragment");
    }
    if authority(uri).contains('@') {
        return wrong("carries user info");
    }
    // Anything else would be read as more than a host where the page's policy names it (CSP `form-action`).
    let in_names = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    if url.domain().is_some_and(|host| !host.bytes().all(in_names)) {
        return wrong("has a host that is no DNS name");
    }
    match url.scheme() {
        "https" => {}
        "http" if is_loopback(&url) => {}
        "http" => return wrong("is plain http and not on loopback"),
        // RFC 8252 §7.1: a domain of theirs in reverse, so that no two applications meet.
        scheme if kind == ApplicationType::Native && is_private_use(scheme) => {}
        _ if kind == ApplicationType::Native => {
            return wrong("has another scheme than https, http on loopback, or a private-use one like com.example.app");
        }
        _ => return wrong("has another scheme than https (http on loopback)"),
    }
    // Lower-case host, no default port, no `..`: browsers go where the text says, and nowhere else.
    if url.as_str() != uri {
        return Err(Invalid::new(field, format!("has a URI that is not in its normal form; write {url}")));
    }
    if url.query_pairs().any(|(name, _)| OURS.contains(&name.as_ref())) {
        return wrong("has a parameter that answers of ours have, too");
    }
    Ok(())
}

/// Whether `uri` is one of those `registered`: the same bytes; for a native client's loopback address any port
/// (RFC 8252 §7.3), everything else the same.
pub fn is_among(registered: &[String], kind: ApplicationType, uri: &str) -> bool {
    registered.iter().any(|known| known == uri || kind == ApplicationType::Native && is_same_but_port(known, uri))
}

fn is_same_but_port(registered: &str, uri: &str) -> bool {
    LOOPBACK.iter().any(|loopback| {
        let after = |text: &'_ str| text.strip_prefix(loopback).and_then(after_port).map(str::to_owned);
        matches!((after(registered), after(uri)), (Some(ours), Some(theirs)) if ours == theirs)
    })
}

/// What follows an optional port: a path, a query, or nothing.
fn after_port(rest: &str) -> Option<&str> {
    let rest = match rest.strip_prefix(':') {
        None => rest,
        Some(rest) => {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (port, rest) = rest.split_at(digits);
            // One spelling per port: no empty one, no zeros before it.
            if port.starts_with('0') || port.parse::<u16>().is_err() {
                return None;
            }
            rest
        }
    };
    (rest.is_empty() || rest.starts_with(['/', '?'])).then_some(rest)
}

/// Whether who is answered at a registered `uri` is a program of the person's own machine: it is this machine under any
/// name, or a private-use scheme. Wider than [`is_loopback`], which says where plain http may be registered.
pub fn is_on_device(uri: &str) -> bool {
    let is_here = |address: IpAddr| address.is_loopback() || address.is_unspecified();
    let Ok(url) = Url::parse(uri) else { return true };
    // Plain http is registered on loopback alone.
    url.scheme() != "https"
        || match url.host() {
            // RFC 6761 §6.3: every name under `localhost`.
            Some(Host::Domain(name)) => name.trim_end_matches('.').rsplit('.').next() == Some("localhost"),
            Some(Host::Ipv4(address)) => is_here(address.into()),
            Some(Host::Ipv6(address)) => is_here(address.to_canonical()),
            None => true,
        }
}

fn authority(uri: &str) -> &str {
    let rest = uri.split_once("://").map_or("", |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

/// RFC 8252 §7.1: at least two labels of letters, digits and hyphens.
fn is_private_use(scheme: &str) -> bool {
    let label =
        |label: &str| !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    scheme.contains('.') && scheme.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_by_any_name_is_on_the_device() {
        for (uri, on_device) in [
            ("http://127.0.0.1:7/cb", true),
            ("http://[::1]/cb", true),
            ("http://localhost:7070/cb", true),
            ("https://localhost:7070/cb", true),
            ("https://app.localhost./cb", true),
            ("https://0.0.0.0/cb", true),
            ("https://[::]/cb", true),
            ("https://[::ffff:7f00:1]/cb", true),
            ("com.example.app://bank.example.com/cb", true),
            ("https://app.example.com/cb", false),
            ("https://localhost.example.com/cb", false),
            ("https://192.0.2.1/cb", false),
        ] {
            assert_eq!(is_on_device(uri), on_device, "{uri}");
        }
    }

    fn is_fine(uri: &str, kind: ApplicationType) -> bool {
        check("redirect_uris", uri, kind).is_ok()
    }

    #[test]
    fn t03_t07_what_may_be_registered() {
        for uri in [
            "https://rp.test/cb",
            "https://rp.test/",
            "https://rp.test:8443/cb?tenant=a",
            "http://localhost:3000/cb",
            "http://127.0.0.1/cb",
            "http://127.0.0.1:4000/cb",
            "http://[::1]:4000/cb",
        ] {
            assert!(is_fine(uri, ApplicationType::Web) && is_fine(uri, ApplicationType::Native), "{uri}");
        }
        for uri in ["com.example.app:/oauth2redirect", "com.example.app://callback", "org.example-x.a1:/"] {
            assert!(is_fine(uri, ApplicationType::Native), "{uri}");
            assert!(!is_fine(uri, ApplicationType::Web), "{uri}");
        }
        for uri in [
            "https://a;sandbox/cb",
            "https://a,b.test/cb",
            "https://a'b.test/cb",
            "javascript:alert(1)",
            "JavaScript:alert(1)",
            "java\tscript:alert(1)",
            "data:text/html,x",
            "vbscript:x",
            "file:///etc/passwd",
            "blob:https://rp.test/x",
            "about:blank",
            "myapp:/cb",
            "myapp://cb",
            ".app:/cb",
            "a..b:/cb",
            "Com.Example.App:/cb",
            " https://rp.test/cb",
            "\thttps://rp.test/cb",
            "\nhttps://rp.test/cb",
            "https://rp.test/cb ",
            "https://rp.test/*",
            "https://*.rp.test/cb",
            "https://rp.test/cb?*",
            "https://rp.test/cb#f",
            "https://rp.test/cb#",
            "https://u@rp.test/cb",
            "https://u:p@rp.test/cb",
            "https://@rp.test/cb",
            "https://RP.test/cb",
            "https://rp.test:443/cb",
            "https://rp.test",
            "https://rp.test/a/../cb",
            "https://rp.test/%2e%2e/cb",
            "https:/rp.test/cb",
            "https:rp.test/cb",
            "https://rp.test\\cb",
            "https://r\u{e4}.test/cb",
            "http://rp.test/cb",
            "http://127.1/cb",
            "http://2130706433/cb",
            "http://0x7f000001/cb",
            "http://[::ffff:127.0.0.1]/cb",
            "http://[0:0:0:0:0:0:0:1]/cb",
            "http://localhost.evil.test/cb",
            "http://localhostevil/cb",
            "http://127.0.0.1.evil.test/cb",
            "//rp.test/cb",
            "/cb",
            "cb",
            "",
            "https://rp.test/cb?code=1",
            "https://rp.test/cb?%73tate=1",
        ] {
            assert!(!is_fine(uri, ApplicationType::Web) && !is_fine(uri, ApplicationType::Native), "{uri:?}");
        }
        assert!(!is_fine(&format!("https://rp.test/{}", "a".repeat(1000)), ApplicationType::Web));
    }

    #[test]
    fn t02_only_the_port_of_a_native_loopback_address_is_free() {
        for registered in ["http://127.0.0.1/cb", "http://127.0.0.1:7777/cb"] {
            let registered = [registered.to_owned()];
            for uri in ["http://127.0.0.1/cb", "http://127.0.0.1:1/cb", "http://127.0.0.1:65535/cb"] {
                assert!(is_among(&registered, ApplicationType::Native, uri), "{uri}");
                assert_eq!(is_among(&registered, ApplicationType::Web, uri), uri == registered[0], "{uri}");
            }
            for uri in [
                "http://127.0.0.1:/cb",
                "http://127.0.0.1:080/cb",
                "http://127.0.0.1:65536/cb",
                "http://127.0.0.1:+80/cb",
                "http://127.0.0.1:80@evil.test/cb",
                "http://127.0.0.1@evil.test/cb",
                "http://127.0.0.1:80/cb/",
                "http://127.0.0.1:80/CB",
                "http://127.0.0.1:80/cb?x=1",
                "http://127.0.0.1:80/cb#",
                "http://127.0.0.1:80",
                "http://127.0.0.1:80\\cb",
                "http://127.0.0.1.evil.test/cb",
                "http://127.0.0.11/cb",
                "http://127.1/cb",
                "http://2130706433/cb",
                "http://[::1]/cb",
                "http://[::ffff:127.0.0.1]/cb",
                "http://localhost/cb",
                "http://localhost:80/cb",
                "HTTP://127.0.0.1/cb",
                "https://127.0.0.1/cb",
            ] {
                assert!(!is_among(&registered, ApplicationType::Native, uri), "{uri}");
            }
        }
        // A name is no address: its port stays.
        let named = ["http://localhost:5000/cb".to_owned()];
        assert!(is_among(&named, ApplicationType::Native, "http://localhost:5000/cb"));
        assert!(!is_among(&named, ApplicationType::Native, "http://localhost:5001/cb"));
    }
}
