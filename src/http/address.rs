//! Whose request is it: the client's address, believed only as far as our own proxies go.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use ipnet::IpNet;

/// Whether `address` is one of our proxies.
pub fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|net| net.contains(&address))
}

/// The client's address: the peer's, unless the peer is one of our proxies; then the right-most address in
/// `X-Forwarded-For` that is not. What stands further left is anybody's claim. An entry that is no address ends the
/// walk at the hop that reported it. `Forwarded` (RFC 7239) is not read. IPv4-mapped IPv6 counts as IPv4.
pub fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let mut address = peer.to_canonical();
    if !is_trusted(address, trusted) {
        return address;
    }
    // RFC 9110 §5.3: several lines are one list, in their order.
    for line in headers.get_all("x-forwarded-for").iter().rev() {
        let Ok(line) = line.to_str() else { return address };
        for entry in line.rsplit(',') {
            let Some(hop) = parse(entry.trim()) else { return address };
            address = hop;
            if !is_trusted(address, trusted) {
                return address;
            }
        }
    }
    address
}

/// An address, in brackets or with a port as some proxies write it.
fn parse(entry: &str) -> Option<IpAddr> {
    let bare = entry.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(entry);
    let address = bare.parse::<IpAddr>().or_else(|_| entry.parse::<SocketAddr>().map(|socket| socket.ip()));
    address.ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn seen(peer: &str, lines: &[&[u8]]) -> String {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("x-forwarded-for", HeaderValue::from_bytes(line).unwrap());
        }
        client_address(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn t142_a_header_from_a_stranger_is_ignored() {
        assert_eq!(seen("192.0.2.1", &[b"10.0.0.1"]), "192.0.2.1");
        assert_eq!(seen("::ffff:192.0.2.1", &[b"198.51.100.7"]), "192.0.2.1");
    }

    #[test]
    fn t142_the_right_most_untrusted_hop_is_the_client() {
        assert_eq!(seen("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(seen("10.0.0.1", &[b"198.51.100.7"]), "198.51.100.7");
        assert_eq!(seen("::ffff:10.0.0.1", &[b"198.51.100.7"]), "198.51.100.7");
        assert_eq!(seen("10.0.0.1", &[b"1.1.1.1, 198.51.100.7, 10.9.9.9"]), "198.51.100.7");
        assert_eq!(seen("10.0.0.1", &[b"1.1.1.1", b"198.51.100.7,fd00::1", b"10.9.9.9"]), "198.51.100.7");
        assert_eq!(seen("10.0.0.1", &[b"10.0.0.3, 10.0.0.2"]), "10.0.0.3");
        assert_eq!(seen("fd00::1", &[b"::ffff:198.51.100.7"]), "198.51.100.7");
        assert_eq!(seen("10.0.0.1", &[b"198.51.100.7:4711"]), "198.51.100.7");
        assert_eq!(seen("10.0.0.1", &[b"[2001:db8::1]:4711"]), "2001:db8::1");
        assert_eq!(seen("10.0.0.1", &[b"[2001:db8::1]"]), "2001:db8::1");
    }

    #[test]
    fn t142_a_malformed_entry_ends_the_walk_at_the_last_good_hop() {
        for bad in [&b"198.51.100.7, unknown"[..], b"198.51.100.7,", b"198.51.100.7, 010.0.0.1", b"198.51.100.7, \xff"]
        {
            assert_eq!(seen("10.0.0.1", &[bad]), "10.0.0.1", "{bad:?}");
        }
        assert_eq!(seen("10.0.0.1", &[b"198.51.100.7, _hidden, 10.0.0.2"]), "10.0.0.2");
    }

    proptest! {
        #[test]
        fn t142_what_a_client_sends_never_changes_its_address(forged in "[ -~]{0,80}") {
            let line = format!("{forged}, 198.51.100.7");
            prop_assert_eq!(seen("10.0.0.1", &[line.as_bytes()]), "198.51.100.7");
            let lines = [forged.as_bytes(), b"198.51.100.7"];
            prop_assert_eq!(seen("10.0.0.1", &lines), "198.51.100.7");
        }
    }
}
