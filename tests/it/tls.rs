//! The TLS listener of the whole server: versions, protocols, HSTS, and certificates that change under it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use rcgen::{CertificateParams, KeyPair, SerialNumber};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};
use sealwright::config::{Config, Issuer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::process::{self, Node, Process};
use crate::support::{Answer, EXAMPLE, Engine, FORM, SECRET, Server, TOKEN, basic, encode, part, until};

/// A self-signed certificate for localhost with its key.
pub struct Made {
    pub pem: String,
    pub key: String,
    pub der: CertificateDer<'static>,
}

pub fn made(serial: u64) -> Made {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
    params.serial_number = Some(SerialNumber::from(serial));
    let certificate = params.self_signed(&key).unwrap();
    Made { pem: certificate.pem(), key: key.serialize_pem(), der: certificate.der().clone() }
}

/// A server with a TLS listener, and the files of its certificate.
struct Secured {
    server: Server,
    port: u16,
    certificate: PathBuf,
    key: PathBuf,
}

impl Secured {
    async fn start(first: &Made, https: bool) -> Self {
        let folder = std::env::temp_dir()
            .join(format!("sealwright_tls_{:016x}", u64::from_be_bytes(sealwright::secret::random().unwrap())));
        std::fs::create_dir(&folder).unwrap();
        let (certificate, key, port) = (folder.join("tls.pem"), folder.join("key.pem"), process::port());
        write(&certificate, &first.pem);
        write(&key, &first.key);
        let (certificate_file, key_file) = (certificate.clone(), key.clone());
        let server = Server::with(Engine::Sqlite, move |config: &mut Config| {
            if https {
                config.issuer = Some(Issuer::parse(&format!("https://localhost:{port}")).unwrap());
            }
            config.tls.listen = vec![format!("127.0.0.1:{port}").parse().unwrap()];
            config.tls.certificate = Some(certificate_file);
            config.tls.private_key = Some(key_file);
        })
        .await;
        server.apply(EXAMPLE).await;
        Self { server, port, certificate, key }
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port)
    }

    /// A connection of its own, and the certificate that the server showed.
    async fn connect(&self, trusted: &[&Made]) -> (TlsStream<TcpStream>, CertificateDer<'static>) {
        connect(self.port, trusted).await
    }

    /// Waits until new connections are shown `wanted`.
    async fn shows(&self, wanted: &Made, trusted: &[&Made]) {
        let begun = Instant::now();
        while self.connect(trusted).await.1 != wanted.der {
            assert!(begun.elapsed() < Duration::from_secs(30), "the new certificate is not taken");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn connect(port: u16, trusted: &[&Made]) -> (TlsStream<TcpStream>, CertificateDer<'static>) {
    let config = client_config(trusted, rustls::DEFAULT_VERSIONS);
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned();
    (stream, shown)
}

impl Drop for Secured {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.certificate.parent().unwrap());
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

fn client_config(trusted: &[&Made], versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for certificate in trusted {
        roots.add(certificate.der.clone()).unwrap();
    }
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

fn client(trusted: &Made, protocol: &str, version: &'static SupportedProtocolVersion) -> reqwest::Client {
    let mut config = client_config(&[trusted], &[version]);
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let builder = reqwest::Client::builder().no_proxy().tls_backend_preconfigured(config);
    builder.timeout(Duration::from_secs(20)).build().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_is_served_over_tls_1_2_and_1_3_by_http_1_1_and_2() {
    let certificate = made(1);
    let secured = Secured::start(&certificate, true).await;
    for version in [&version::TLS12, &version::TLS13] {
        for (protocol, http) in [("http/1.1", http::Version::HTTP_11), ("h2", http::Version::HTTP_2)] {
            let client = client(&certificate, protocol, version);
            let form = encode(&[("grant_type", "client_credentials")]);
            let request = client.post(secured.url(TOKEN)).header("content-type", FORM).body(form);
            let response = request.header("authorization", basic("orders-sync", SECRET)).send().await.unwrap();
            assert_eq!(response.version(), http);
            let answer = Answer::of(response).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
            let token = answer.json["access_token"].as_str().unwrap();
            assert_eq!(part(token, 1)["iss"], secured.url("").as_str());
        }
    }
}

/// RFC 6797: an https issuer says so on every answer, on the listener behind a proxy as well; an http one never.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc6797_7_1_an_https_issuer_sends_hsts() {
    let certificate = made(1);
    for https in [true, false] {
        let secured = Secured::start(&certificate, https).await;
        let client = client(&certificate, "h2", &version::TLS13);
        for path in ["/.well-known/jwks.json", "/nowhere", TOKEN] {
            for answer in [
                client.get(secured.url(path)).send().await.unwrap(),
                secured.server.http.get(format!("{}{path}", secured.server.url)).send().await.unwrap(),
            ] {
                let sent = answer.headers().get("strict-transport-security").map(|value| value.to_str().unwrap());
                assert_eq!(sent, https.then_some("max-age=31536000"), "{path}");
            }
        }
    }
}

/// A whole request over an open connection.
async fn request(stream: &mut TlsStream<TcpStream>) -> String {
    stream.write_all(b"GET /.well-known/jwks.json HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"]}") {
        assert!(stream.read_buf(&mut read).await.unwrap() > 0, "closed: {}", String::from_utf8_lossy(&read));
    }
    String::from_utf8(read).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_changes_is_shown_to_new_connections_and_a_broken_one_is_not() {
    let (first, second, third) = (made(1), made(2), made(3));
    let trusted = [&first, &second, &third];
    let secured = Secured::start(&first, true).await;
    let (mut open, shown) = secured.connect(&trusted).await;
    assert_eq!(shown, first.der);
    assert!(request(&mut open).await.starts_with("HTTP/1.1 200"));

    write(&secured.key, &second.key);
    write(&secured.certificate, &second.pem);
    secured.shows(&second, &trusted).await;
    assert!(request(&mut open).await.starts_with("HTTP/1.1 200"), "an open connection goes on");

    // Garbage, an empty file, a certificate of another key, no file: each is passed over. The files are looked at once
    // a second, so each has its chance.
    for (name, text) in [("garbage", "-----BEGIN"), ("empty", ""), ("of another key", first.pem.as_str())] {
        write(&secured.certificate, text);
        tokio::time::sleep(Duration::from_millis(1300)).await;
        assert_eq!(secured.connect(&trusted).await.1, second.der, "{name}");
    }
    std::fs::remove_file(&secured.certificate).unwrap();
    tokio::time::sleep(Duration::from_millis(1300)).await;
    assert_eq!(secured.connect(&trusted).await.1, second.der, "no file");

    // After all that, a good one is taken.
    write(&secured.key, &third.key);
    write(&secured.certificate, &third.pem);
    secured.shows(&third, &trusted).await;
    assert!(request(&mut open).await.starts_with("HTTP/1.1 200"), "an open connection goes on");
}

/// Makes the files of both as long as one another.
fn disguise([one, two]: &mut [Made; 2]) {
    for (a, b) in [(&mut one.pem, &mut two.pem), (&mut one.key, &mut two.key)] {
        let longest = a.len().max(b.len());
        for text in [a, b] {
            text.extend(std::iter::repeat_n('\n', longest - text.len()));
        }
    }
}

/// The real program. What its own looking at the files cannot notice, SIGHUP has it read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_reads_the_certificate_again() {
    let mut both = [made(1), made(2)];
    disguise(&mut both);
    // As long and as old as one another: from outside, the files are the same.
    let written_at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let [first, second] = &both;
    let node = Node::new(Engine::Sqlite).await;
    let (port, folder) = (process::port(), node.place.folder.clone());
    let put = |made: &Made| {
        for (name, text) in [("tls.pem", &made.pem), ("key.pem", &made.key)] {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            std::fs::File::options().write(true).open(&path).unwrap().set_modified(written_at).unwrap();
        }
    };
    put(first);
    let mut serve = node.command(&["serve"]);
    serve.env("SEALWRIGHT_TLS__LISTEN", format!("127.0.0.1:{port}"));
    serve.env("SEALWRIGHT_TLS__CERTIFICATE", folder.join("tls.pem"));
    serve.env("SEALWRIGHT_TLS__PRIVATE_KEY", folder.join("key.pem"));
    let mut process = Process::start(serve, node.port, node.management).await;
    let shown = async || connect(port, &[first, second]).await.1;
    assert_eq!(shown().await, first.der);

    put(second);
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(shown().await, first.der, "only a signal can tell");
    let (mut open, _) = connect(port, &[first, second]).await;
    process.run.signal("HUP");
    until("the new certificate is shown", async || shown().await == second.der).await;
    assert!(request(&mut open).await.starts_with("HTTP/1.1 200"), "an open connection goes on");

    // A bad one is told, and the one in use stays.
    std::fs::write(folder.join("tls.pem"), "-----BEGIN").unwrap();
    process.run.signal("HUP");
    until("it is told", async || process.run.stderr().contains("SIGHUP: the TLS certificate in use stays")).await;
    assert_eq!(shown().await, second.der);
    assert_eq!(process.terminate(), 0);
}

/// A `ClientHello` of at most `version`, with these extensions.
fn hello(version: u8, extensions: &[u8]) -> Vec<u8> {
    let length = |bytes: &[u8]| u8::try_from(bytes.len()).unwrap();
    let suites = [0xc0, 0x13, 0xc0, 0x14, 0xc0, 0x2f, 0xc0, 0x2b, 0x00, 0x2f, 0x00, 0x35];
    let mut body = vec![3, version];
    body.extend([7; 32]);
    body.extend([0, 0, length(&suites)]);
    body.extend(suites);
    body.extend([1, 0]);
    if !extensions.is_empty() {
        body.extend([0, length(extensions)]);
        body.extend(extensions);
    }
    let handshake = [&[1, 0, 0, length(&body)], body.as_slice()].concat();
    [&[0x16, 3, 1, 0, length(&handshake)], handshake.as_slice()].concat()
}

/// What the server says to it before it closes the connection.
async fn said_to(secured: &Secured, hello: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", secured.port)).await.unwrap();
    stream.write_all(hello).await.unwrap();
    let (mut answer, mut read) = (Vec::new(), 1);
    while read > 0 {
        let more = tokio::time::timeout(Duration::from_secs(20), stream.read_buf(&mut answer)).await;
        read = more.expect("the connection stays open").unwrap_or(0);
    }
    answer
}

/// RFC 9325 §3.1.1. The alert is fatal (2): `protocol_version` (70), or `handshake_failure` (40) when the hello lacks
/// what TLS 1.2 demands, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc9325_3_1_1_tls_1_1_and_older_are_refused() {
    let certificate = made(1);
    let secured = Secured::start(&certificate, true).await;
    // signature_algorithms: ecdsa_secp256r1_sha256; supported_groups: secp256r1; ec_point_formats: uncompressed.
    let extensions = [0, 13, 0, 4, 0, 2, 4, 3, 0, 10, 0, 4, 0, 2, 0, 23, 0, 11, 0, 2, 1, 0];
    for version in [0, 1, 2] {
        let answer = said_to(&secured, &hello(version, &extensions)).await;
        assert_eq!((answer.first(), &answer[5..]), (Some(&0x15), &[2, 70][..]), "3.{version}: {answer:?}");
        let answer = said_to(&secured, &hello(version, &[])).await;
        assert!(answer.first() == Some(&0x15) && answer[5] == 2 && [40, 70].contains(&answer[6]), "{answer:?}");
    }
    // The same hello with TLS 1.2 in it is taken: the server answers with a handshake (22).
    let mut stream = TcpStream::connect(("127.0.0.1", secured.port)).await.unwrap();
    stream.write_all(&hello(3, &extensions)).await.unwrap();
    let mut first = [0];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(first, [22]);
    assert_eq!(secured.connect(&[&certificate]).await.1, certificate.der);
}

/// Notes whether the server asks for a certificate.
#[derive(Debug, Default)]
struct Asked(AtomicBool);

impl rustls::client::ResolvesClientCert for Asked {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        self.0.store(true, Ordering::SeqCst);
        None
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A browser would show its picker to people.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tls_listener_never_asks_for_a_client_certificate() {
    let certificate = made(1);
    let secured = Secured::start(&certificate, true).await;
    for version in [&version::TLS12, &version::TLS13] {
        let asked = Arc::new(Asked::default());
        let mut config = client_config(&[&certificate], &[version]);
        config.client_auth_cert_resolver = asked.clone();
        let stream = TcpStream::connect(("127.0.0.1", secured.port)).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        assert!(request(&mut stream).await.starts_with("HTTP/1.1 200"));
        assert!(!asked.0.load(Ordering::SeqCst));
    }
}
