use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use super::*;
use crate::config::Config;
use proptest::prelude::*;
use rustls::pki_types::PrivateKeyDer;

/// A server on `address` that counts its connections and lets `answer` speak on each.
struct Listener {
    port: u16,
    accepted: Arc<AtomicUsize>,
}

impl Listener {
    fn start(address: &str, answer: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let accepted = Arc::new(AtomicUsize::new(0));
        let (count, answer) = (Arc::clone(&accepted), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                let answer = Arc::clone(&answer);
                std::thread::spawn(move || answer(stream));
            }
        });
        Self { port, accepted }
    }

    /// Answers every request with these bytes.
    fn saying(response: impl Into<Vec<u8>>) -> Self {
        let response = response.into();
        Self::start("127.0.0.1", move |mut stream| {
            read_head(&mut stream);
            let _ = stream.write_all(&response);
        })
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/jwks?token=hunter2", self.port)
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

fn read_head(stream: &mut impl Read) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).into_owned()
}

fn settings() -> config::Outbound {
    let timeout_seconds = 2;
    config::Outbound { allow_http: true, timeout_seconds, max_body_bytes: 4096, ..Config::default().outbound }
}

fn guarded() -> Outbound {
    Outbound::new(&settings()).unwrap()
}

/// May reach 127.0.0.1, and nothing else that is private.
fn local() -> Outbound {
    Outbound::new(&config::Outbound { allow_networks: vec!["127.0.0.1/32".parse().unwrap()], ..settings() }).unwrap()
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";

#[tokio::test]
async fn a_document_is_fetched_with_nothing_but_what_is_needed() {
    let (send, seen) = std::sync::mpsc::channel();
    let listener = Listener::start("127.0.0.1", move |mut stream| {
        send.send(read_head(&mut stream)).unwrap();
        let _ = stream.write_all(OK.as_bytes());
    });
    assert_eq!(local().get(&listener.url(), "application/jwk-set+json").await.unwrap(), b"{}");
    let head = seen.recv().unwrap().to_ascii_lowercase();
    assert!(head.starts_with("get /jwks?token=hunter2 http/1.1\r\n"), "{head}");
    assert!(head.contains("accept: application/jwk-set+json\r\n"), "{head}");
    for header in ["accept-encoding", "cookie", "referer", "authorization"] {
        assert!(!head.contains(header), "{header}");
    }
}

/// The environment of a process cannot be changed from within, so the test above runs again in one that has a proxy.
#[test]
fn a_proxy_in_the_environment_is_not_used() {
    let proxy = Listener::saying("HTTP/1.1 502 Proxied\r\ncontent-length: 0\r\n\r\n");
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "outbound::tests::a_document_is_fetched_with_nothing_but_what_is_needed"]);
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        again.env(name, format!("http://127.0.0.1:{}", proxy.port));
    }
    let output = again.env_remove("no_proxy").env_remove("NO_PROXY").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
    assert_eq!(proxy.accepted(), 0);
}

/// T-81: no connection reaches a listener on a private address, however the address is written.
#[tokio::test]
async fn t81_no_connection_reaches_a_private_address() {
    let v4 = Listener::saying(OK);
    let v6 = Listener::start("::1", |_| {});
    let (port, port6) = (v4.port, v6.port);
    let outbound = guarded();
    let hosts = [
        "127.0.0.1",
        "127.1",
        "127.8.8.8",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "0",
        "0.0.0.0",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b:1::127.0.0.1]",
        "[2002:7f00:1::]",
        "%31%32%37.0.0.1",
        "①②⑦.0.0.1",
        "127。0。0。1",
        "169.254.169.254",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "[fe80::1]",
        "[fd00::1]",
        "255.255.255.255",
        "224.0.0.1",
    ];
    for host in hosts {
        let error = outbound.get(&format!("http://{host}:{port}/"), "*/*").await.unwrap_err();
        // Names that a strict resolver does not know are as good as refused.
        assert!(
            matches!(error, OutboundError::Address | OutboundError::Url | OutboundError::Name),
            "{host}: {error:?}"
        );
    }
    for host in ["[::1]", "[0:0:0:0:0:0:0:1]", "localhost", "[::]"] {
        assert!(outbound.get(&format!("http://{host}:{port6}/"), "*/*").await.is_err(), "{host}");
    }
    // An allowed network is that network and no other.
    let allowed = local();
    for host in ["[::ffff:127.0.0.1]", "127.0.0.2", "0.0.0.0", "[64:ff9b::127.0.0.1]"] {
        let error = allowed.get(&format!("http://{host}:{port}/"), "*/*").await.unwrap_err();
        assert!(matches!(error, OutboundError::Address), "{host}: {error:?}");
    }
    assert_eq!((v4.accepted(), v6.accepted()), (0, 0));
    assert_eq!(allowed.get(&v4.url(), "*/*").await.unwrap(), b"{}");
    assert_eq!(v4.accepted(), 1);
}

#[test]
fn t81_only_https_urls_without_tricks_are_tried() {
    let https_only = Outbound::new(&Config::default().outbound).unwrap();
    for url in ["https://example.com/jwks", "https://example.com:8443/a?b=c", "https://8.8.8.8/"] {
        assert!(https_only.check(url).is_ok(), "{url}");
    }
    for url in ["http://example.com/", "file:///etc/passwd", "gopher://example.com/", "ftp://example.com/", "data:,x"] {
        assert!(matches!(https_only.check(url), Err(OutboundError::Scheme)), "{url}");
    }
    let bad = [
        "",
        "/jwks",
        "example.com",
        "https://",
        "https://user@example.com/",
        "https://user:pass@example.com/",
        "https://:pass@example.com/",
        "https://example.com/#f",
        "https://example.com/#",
        " https://example.com/",
        "https://example.com/ ",
        "https://exa\tmple.com/",
        "https://example.com/\n",
        "https:\\\\example.com\\",
        "https://example.com\0/",
        "https://exämple.com/",
        "https://[::1%25eth0]/",
        "https://1.2.3.4.5/",
    ];
    for url in bad {
        assert!(matches!(https_only.check(url), Err(OutboundError::Url)), "{url:?}");
    }
}

static TURNS: AtomicUsize = AtomicUsize::new(0);

/// A name that is public on the first lookup and private from then on.
fn rebinding(_: String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> {
    let private: IpAddr = [127, 0, 0, 1].into();
    // TEST-NET would be refused, and a truly public address must not be contacted by a test: 240.0.0.1 is allowed
    // below to stand for one; no machine routes it.
    let public: IpAddr = [240, 0, 0, 1].into();
    let first = TURNS.fetch_add(1, Ordering::SeqCst) == 0;
    Box::pin(std::future::ready(Ok(vec![if first { public } else { private }])))
}

#[tokio::test]
async fn t81_a_rebinding_name_never_reaches_the_private_address() {
    let listener = Listener::saying(OK);
    let allow_networks = vec!["240.0.0.0/8".parse().unwrap()];
    let settings = config::Outbound { allow_networks, timeout_seconds: 1, ..settings() };
    let outbound = Outbound::with(&settings, &[], rebinding).unwrap();
    let url = format!("http://rebind.test:{}/", listener.port);
    let first = outbound.get(&url, "*/*").await.unwrap_err();
    assert!(matches!(first, OutboundError::Connect(_) | OutboundError::Timeout), "{first:?}");
    assert_eq!(TURNS.load(Ordering::SeqCst), 1);
    assert!(matches!(outbound.get(&url, "*/*").await, Err(OutboundError::Address)));
    assert_eq!(listener.accepted(), 0);
}

/// Two addresses: the private one, which must be dropped, and one that may be reached.
fn mixed(_: String) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>> {
    Box::pin(std::future::ready(Ok(vec![[127, 0, 0, 2].into(), [127, 0, 0, 1].into()])))
}

#[tokio::test]
async fn t81_private_addresses_beside_permitted_ones_are_dropped() {
    let listener = Listener::saying(OK);
    let Ok(private) = TcpListener::bind(("127.0.0.2", listener.port)) else { return };
    private.set_nonblocking(true).unwrap();
    let settings = config::Outbound { allow_networks: vec!["127.0.0.1/32".parse().unwrap()], ..settings() };
    let outbound = Outbound::with(&settings, &[], mixed).unwrap();
    assert_eq!(outbound.get(&format!("http://mixed.test:{}/", listener.port), "*/*").await.unwrap(), b"{}");
    assert_eq!(private.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn t81_redirects_are_not_followed() {
    let target = Listener::saying(OK);
    for status in [301, 302, 303, 307, 308] {
        let answer = format!("HTTP/1.1 {status} Go\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", target.url());
        let redirect = Listener::saying(answer);
        let error = local().get(&redirect.url(), "*/*").await.unwrap_err();
        assert!(matches!(error, OutboundError::Status(found) if found == status), "{error:?}");
        assert_eq!(redirect.accepted(), 1);
    }
    assert_eq!(target.accepted(), 0);
}

/// T-83: a server that drips, or says nothing at all, is bounded by time.
#[tokio::test]
async fn t83_slow_answers_are_bounded_in_time() {
    let drip = Listener::start("127.0.0.1", |mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n");
        while stream.write_all(b" ").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let silent = Listener::start("127.0.0.1", |stream| {
        std::thread::sleep(Duration::from_secs(3));
        drop(stream);
    });
    let allow_networks = vec!["127.0.0.1/32".parse().unwrap()];
    let outbound = Outbound::new(&config::Outbound { allow_networks, timeout_seconds: 1, ..settings() }).unwrap();
    for listener in [drip, silent] {
        let error = outbound.get(&listener.url(), "*/*").await.unwrap_err();
        assert!(matches!(error, OutboundError::Timeout), "{error:?}");
    }
}

/// T-83: a huge body is refused by its announced length, or when it has grown too long.
#[tokio::test]
async fn t83_large_answers_are_bounded_in_size() {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let endless = Listener::start("127.0.0.1", move |mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[b' '; 1024]).is_ok() {
            count.fetch_add(1024, Ordering::SeqCst);
        }
    });
    let announced = Listener::saying("HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n{");
    let chunked = Listener::start("127.0.0.1", |mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        while stream.write_all(b"400\r\n").and_then(|()| stream.write_all(&[b' '; 1026])).is_ok() {}
    });
    for listener in [&endless, &announced] {
        let error = local().get(&listener.url(), "*/*").await.unwrap_err();
        assert!(matches!(error, OutboundError::TooLarge), "{error:?}");
    }
    let error = local().get(&chunked.url(), "*/*").await.unwrap_err();
    assert!(matches!(error, OutboundError::TooLarge | OutboundError::Exchange(_)), "{error:?}");
    // What the kernel buffers, not a gibibyte.
    assert!(sent.load(Ordering::SeqCst) < 64 << 20);

    let exact = format!("HTTP/1.1 200 OK\r\ncontent-length: 4096\r\n\r\n{}", " ".repeat(4096));
    assert_eq!(local().get(&Listener::saying(exact).url(), "*/*").await.unwrap().len(), 4096);
    // A compressed body stays what it is: nothing here unpacks it.
    let gzip = "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc";
    assert_eq!(local().get(&Listener::saying(gzip).url(), "*/*").await.unwrap(), b"abc");
}

#[tokio::test]
async fn only_200_counts_and_errors_say_nothing_of_address_and_answer() {
    let mut errors = Vec::new();
    for status in ["204 No", "206 Part", "304 Same", "404 hunter2", "500 hunter2"] {
        let listener = Listener::saying(format!("HTTP/1.1 {status}\r\nx: hunter2\r\ncontent-length: 0\r\n\r\n"));
        errors.push(local().get(&listener.url(), "*/*").await.unwrap_err());
    }
    assert!(errors.iter().all(|error| matches!(error, OutboundError::Status(_))), "{errors:?}");
    for answer in ["hunter2", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhunter2", ""] {
        errors.push(local().get(&Listener::saying(answer).url(), "*/*").await.unwrap_err());
    }
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    errors.push(local().get(&format!("http://127.0.0.1:{closed}/hunter2"), "*/*").await.unwrap_err());
    assert!(matches!(errors.last(), Some(OutboundError::Connect(_))), "{errors:?}");
    for error in errors {
        assert!(!error.to_string().contains("hunter2") && !error.to_string().contains("127.0"), "{error}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
}

/// A TLS server on 127.0.0.1 with a new self-signed certificate for `name`, and that certificate.
fn tls_listener(name: &str) -> (Listener, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = Listener::start("127.0.0.1", move |stream| {
        let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, stream);
        if !read_head(&mut stream).is_empty() {
            let _ = stream.write_all(OK.as_bytes());
            let _ = stream.flush();
        }
    });
    (listener, certificate)
}

/// T-83: TLS that does not verify is refused: an unknown issuer, another name, no TLS at all.
#[tokio::test]
async fn t83_invalid_tls_is_refused() {
    let allow_networks = vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
    let trusting = |roots: &[&CertificateDer<'static>]| {
        let roots: Vec<_> = roots.iter().map(|root| (*root).clone()).collect();
        let allow_networks = allow_networks.clone();
        let settings = config::Outbound { allow_http: false, allow_networks, ..settings() };
        Outbound::with(&settings, &roots, system_lookup).unwrap()
    };
    let (good, root) = tls_listener("localhost");
    let (other_name, other_root) = tls_listener("other.test");
    let plain = Listener::start("127.0.0.1", |mut stream| {
        let _ = stream.read(&mut [0; 16]);
        let _ = stream.write_all(OK.as_bytes());
    });
    let url = |listener: &Listener| format!("https://localhost:{}/hunter2", listener.port);

    assert_eq!(trusting(&[&root]).get(&url(&good), "*/*").await.unwrap(), b"{}");
    for (roots, listener) in
        [(vec![], &good), (vec![&other_root], &good), (vec![&other_root], &other_name), (vec![&root], &plain)]
    {
        let error = trusting(&roots).get(&url(listener), "*/*").await.unwrap_err();
        assert!(matches!(error, OutboundError::Connect(_)), "{error:?}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
    let nonsense = CertificateDer::from(vec![1, 2, 3]);
    assert!(Outbound::with(&settings(), &[nonsense], system_lookup).is_err());
}

#[test]
fn rfc6890_special_addresses_are_not_global() {
    let special = [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.0",
        "10.255.255.255",
        "100.64.0.0",
        "100.127.255.255",
        "127.0.0.1",
        "127.255.255.255",
        "169.254.0.0",
        "169.254.169.254",
        "172.16.0.0",
        "172.31.255.255",
        "192.0.0.1",
        "192.0.0.171",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.0.0",
        "192.168.255.255",
        "198.18.0.0",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::8.8.8.8",
        "::ffff:127.0.0.1",
        "::ffff:8.8.8.8",
        "64:ff9b::127.0.0.1",
        "64:ff9b::10.0.0.1",
        "64:ff9b::169.254.169.254",
        "64:ff9b:1::8.8.8.8",
        "64:ff9b:0:1::8.8.8.8",
        "100::1",
        "100:0:0:1::1",
        "2001::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001:2::1",
        "2001:10::1",
        "2001:20::1",
        "2001:1ff:ffff::1",
        "2001:db8::1",
        "2002:7f00:1::1",
        "2002:808:808::1",
        "3fff::1",
        "3fff:fff::1",
        "4000::1",
        "5f00::1",
        "fc00::1",
        "fdff::1",
        "fe80::1",
        "febf::1",
        "fec0::1",
        "ff02::1",
        "ffff::1",
    ];
    for address in special {
        assert!(!is_global(address.parse().unwrap()), "{address}");
    }
    let global = [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "192.0.3.0",
        "192.88.98.1",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "198.51.99.1",
        "203.0.112.1",
        "223.255.255.255",
        "2000::1",
        "2001:200::1",
        "2001:4860:4860::8888",
        "2606:4700::1111",
        "2a00::1",
        "3ffe::1",
        "3fff:1000::1",
        "64:ff9b::8.8.8.8",
    ];
    for address in global {
        assert!(is_global(address.parse().unwrap()), "{address}");
    }
}

static GUARDED: LazyLock<Outbound> = LazyLock::new(guarded);

proptest! {
    #[test]
    fn checking_a_url_never_panics_and_never_lets_a_private_literal_through(text in ".{0,60}", host in any::<u32>()) {
        let _ = GUARDED.check(&text);
        let _ = GUARDED.check(&format!("https://{text}/"));
        let address = Ipv4Addr::from(host);
        for form in [address.to_string(), host.to_string(), format!("{host:#x}"), format!("0{host:o}")] {
            prop_assert_eq!(GUARDED.check(&format!("https://{form}/")).is_ok(), is_global(address.into()), "{}", form);
        }
    }
}

#[tokio::test]
async fn rfc6749_2_3_1_id_and_secret_are_form_encoded_before_basic() {
    let (send, seen) = std::sync::mpsc::channel();
    let listener = Listener::start("127.0.0.1", move |mut stream| {
        let head = read_head(&mut stream);
        let mut body = [0; 16];
        stream.read_exact(&mut body).unwrap();
        send.send((head, String::from_utf8_lossy(&body).into_owned())).unwrap();
        let _ = stream.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\n{}");
    });
    let secret = Secret::new("p:%ä");
    let answer = local().post_form(&listener.url(), &[("a b", "&="), ("c", "+")], Some(("a:b", &secret))).await;
    assert_eq!(answer.unwrap(), (401, b"{}".to_vec()));
    let (head, body) = seen.recv().unwrap();
    assert_eq!(body, "a+b=%26%3D&c=%2B");
    // base64 of a%3Ab:p%3A%25%C3%A4
    assert!(head.contains("YSUzQWI6cCUzQSUyNSVDMyVBNA=="), "{head}");
    assert!(head.contains("application/x-www-form-urlencoded"), "{head}");
}
