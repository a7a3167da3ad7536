//! The edge as somebody hostile meets it: forged headers, over-long and malformed input, smuggling. T-140, T-142,
//! T-180, T-180b, T-185.

use std::fmt::Write as _;
use std::time::Duration;

use sealwright::store::audit;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::process::Node;
use crate::support::{
    Answer, EXAMPLE, Engine, FORM, INTROSPECT, REVOKE, SECRET, Server, TOKEN, basic, both, encode, part,
};

/// Longer than anything here may take: beyond it the server hangs.
const HANGS: Duration = Duration::from_secs(30);
const JWKS: &str = "/.well-known/jwks.json";
const DOCUMENTS: [&str; 3] = ["/.well-known/openid-configuration", "/.well-known/oauth-authorization-server", JWKS];

/// An answer as it stood on the wire.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// Status line and headers, names in lower case.
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn text(&self) -> String {
        format!("{}{}", self.head, String::from_utf8_lossy(&self.body))
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    }
}

/// One HTTP/1.1 connection that sends any bytes; opened anew when the server has closed it.
pub struct Wire {
    address: String,
    stream: Option<TcpStream>,
}

impl Wire {
    /// To `url` (`http://127.0.0.1:1234/…`), later.
    pub fn new(url: &str) -> Self {
        Self { address: authority(url).to_owned(), stream: None }
    }

    /// Sends one request and reads its answer; `None` when the server closed the connection without one.
    pub async fn ask(&mut self, request: &[u8]) -> Option<Reply> {
        let reused = self.stream.is_some();
        match timeout(HANGS, self.try_ask(request)).await.expect("the server hangs") {
            // It had closed the connection after the answer before.
            None if reused => timeout(HANGS, self.try_ask(request)).await.expect("the server hangs"),
            reply => reply,
        }
    }

    async fn try_ask(&mut self, request: &[u8]) -> Option<Reply> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => TcpStream::connect(&self.address).await.unwrap(),
        };
        // A server that refuses by the head alone may have closed before it took everything.
        let _ = stream.write_all(request).await;
        let mut read = Vec::new();
        let head_end = loop {
            if let Some(at) = read.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut read).await.ok()? == 0 {
                return None;
            }
        };
        let mut body = read.split_off(head_end);
        let mut head = String::new();
        for line in String::from_utf8(read).unwrap().lines() {
            let (name, value) = line.split_once(": ").unwrap_or((line, ""));
            let _ = write!(head, "{}{}{value}\r\n", name.to_lowercase(), if value.is_empty() { "" } else { ": " });
        }
        let mut reply = Reply { status: head[9..12].parse().unwrap(), head, body: Vec::new() };
        let bodiless = request.starts_with(b"HEAD ") || [204, 304].contains(&reply.status);
        let length = reply.header("content-length").filter(|_| !bodiless).map_or(0, |text| text.parse().unwrap());
        while body.len() < length && stream.read_buf(&mut body).await.is_ok_and(|read| read > 0) {}
        assert_eq!(body.len(), length, "{}", reply.head);
        reply.body = body;
        if reply.header("connection") != Some("close") {
            self.stream = Some(stream);
        }
        Some(reply)
    }
}

fn authority(url: &str) -> &str {
    url.strip_prefix("http://").unwrap().split('/').next().unwrap()
}

/// Everything that comes back until the server closes, or is silent for a while after it has answered.
pub async fn exchange(url: &str, request: &[u8]) -> String {
    let (mut from, mut to) = TcpStream::connect(authority(url)).await.unwrap().into_split();
    let request = request.to_vec();
    let writing = tokio::spawn(async move {
        let _ = to.write_all(&request).await;
        to
    });
    let mut answer = Vec::new();
    loop {
        let patience = if answer.is_empty() { HANGS } else { Duration::from_millis(150) };
        match timeout(patience, from.read_buf(&mut answer)).await {
            Err(_) => {
                assert!(!answer.is_empty(), "the server hangs");
                break;
            }
            Ok(Ok(0) | Err(_)) => break,
            Ok(Ok(_)) => {}
        }
    }
    writing.abort();
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(path: &str, headers: &str) -> Vec<u8> {
    let host = if headers.to_lowercase().starts_with("host:") { "" } else { "Host: a\r\n" };
    format!("GET {path} HTTP/1.1\r\n{host}{headers}\r\n").into_bytes()
}

pub fn post(path: &str, headers: &str, form: &[(&str, &str)]) -> Vec<u8> {
    let host = if headers.to_lowercase().starts_with("host:") { "" } else { "Host: a\r\n" };
    let body = encode(form);
    format!(
        "POST {path} HTTP/1.1\r\n{host}{headers}Content-Type: {FORM}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

pub fn authorized(id: &str, secret: &str) -> String {
    format!("Authorization: {}\r\n", basic(id, secret))
}

const CC: (&str, &str) = ("grant_type", "client_credentials");

/// What a request may say of who we are.
const FORGED: [&str; 13] = [
    "Host: evil.test\r\n",
    "Host: evil.test:4443\r\n",
    "Host: user@evil.test\r\n",
    "Host: \r\n",
    "X-Forwarded-Host: evil.test\r\n",
    "X-Forwarded-Host: evil.test\r\nX-Forwarded-Host: evil.test\r\n",
    "X-Forwarded-Proto: https\r\nX-Forwarded-Port: 4443\r\n",
    "X-Forwarded-Scheme: https\r\nX-Forwarded-Server: evil.test\r\n",
    "X-Forwarded-Prefix: /evil\r\n",
    "Forwarded: for=6.6.6.6;host=evil.test;proto=https\r\n",
    "X-Host: evil.test\r\nX-HTTP-Host-Override: evil.test\r\nX-Original-Host: evil.test\r\n",
    "X-Original-URL: /evil\r\nX-Rewrite-URL: /evil\r\n",
    "Referer: https://evil.test/\r\nOrigin: https://evil.test\r\n",
];
/// And in its target.
const PLACES: [&str; 3] = ["", "http://evil.test", "https://evil.test:4443"];

/// T-140: whoever believes the request about who we are gives tokens and links to an attacker.
async fn stays_on_its_issuer(server: &Server, gateway: &str) {
    let mut wire = Wire::new(&server.url);
    let mut honest = Vec::new();
    for path in DOCUMENTS {
        honest.push(wire.ask(&get(path, "")).await.unwrap().body);
    }
    for (headers, place) in FORGED.iter().flat_map(|headers| PLACES.map(|place| (*headers, place))) {
        for (path, honest) in DOCUMENTS.iter().zip(&honest) {
            let reply = wire.ask(&get(&format!("{place}{path}"), headers)).await.unwrap();
            assert_eq!((reply.status, &reply.body), (200, honest), "{headers}{place}");
            assert!(!reply.text().contains("evil"), "{headers}{place} {}", reply.text());
        }
        let ask = |path: &str, auth: &str, form: &[(&str, &str)]| {
            post(&format!("{place}{path}"), &format!("{headers}{auth}"), form)
        };
        let reply = wire.ask(&ask(TOKEN, &authorized("orders-sync", SECRET), &[CC])).await.unwrap();
        assert_eq!(reply.status, 200, "{headers}{place} {}", reply.text());
        let token = reply.json()["access_token"].as_str().unwrap().to_owned();
        assert_eq!(part(&token, 1)["iss"], server.issuer.as_str(), "{headers}{place}");
        let found =
            wire.ask(&ask(INTROSPECT, &authorized("edge-gateway", gateway), &[("token", &token)])).await.unwrap();
        assert_eq!(found.json()["iss"], server.issuer.as_str(), "{headers}{place} {}", found.text());
        for (status, request) in [
            (401, ask(TOKEN, &authorized("orders-sync", "wrong"), &[CC])),
            (400, ask(REVOKE, &authorized("orders-sync", SECRET), &[])),
            (405, get(&format!("{place}{TOKEN}"), headers)),
            (404, get(&format!("{place}/nowhere"), headers)),
            (404, get(&format!("{place}/evil"), headers)),
        ] {
            let reply = wire.ask(&request).await.unwrap();
            assert_eq!(reply.status, status, "{headers}{place} {}", reply.text());
            assert!(!reply.text().contains("evil") && reply.header("location").is_none(), "{}", reply.text());
        }
    }
    for twice in ["Host: a\r\nHost: a\r\n", "Host: a\r\nHost: evil.test\r\n"] {
        let reply = wire.ask(&get(DOCUMENTS[0], twice)).await.unwrap();
        assert_eq!((reply.status, reply.header("connection")), (400, Some("close")), "{}", reply.text());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t140_the_issuer_is_the_configured_one_whatever_a_request_says() {
    let (server, gateway) = Server::example(Engine::Sqlite).await;
    stays_on_its_issuer(&server, &gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t140_the_issuer_is_the_configured_one_behind_a_trusted_proxy_too() {
    let trusting = |config: &mut sealwright::config::Config| {
        config.http.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    };
    let server = Server::with(Engine::Sqlite, trusting).await;
    let gateway = server.apply(EXAMPLE).await[0].secret.expose().to_owned();
    stays_on_its_issuer(&server, &gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t140_the_issuer_is_the_configured_one_over_http2_too() {
    let (server, _) = Server::example(Engine::Sqlite).await;
    let address = authority(&server.url).parse().unwrap();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).http2_prior_knowledge();
    let client = client.resolve("evil.test", address).build().unwrap();
    for path in DOCUMENTS {
        let honest = server.get(path).await.text;
        let port = address.port();
        let answer = client.get(format!("http://evil.test:{port}{path}")).send().await.unwrap();
        assert_eq!(answer.version(), http::Version::HTTP_2);
        assert_eq!(answer.text().await.unwrap(), honest);
    }
}

both! {
    /// T-140, for people: where they are sent, what their forms lead to and whose cookies they get is ours, whatever a
    /// request says of us.
    async fn t140_people_stay_on_the_configured_issuer_too(engine) {
        for trusts in [false, true] {
            let server = Server::with(engine, |config| {
                config.sessions.waiting_per_address = 10_000;
                if trusts {
                    config.http.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
                }
            })
            .await;
            server.apply(&format!("{EXAMPLE}{}", crate::authorize::CLIENTS)).await;
            let mut wire = Wire::new(&server.url);
            let authorize =
                |changes: &[(&str, &str)]| format!("/oauth2/authorize?{}", encode(&crate::authorize::request(changes)));
            let (flow, refused, posted) = (
                authorize(&[]),
                authorize(&[("scope", "admin")]),
                authorize(&[("scope", "admin"), ("response_mode", "form_post")]),
            );
            let ours = |path: &str| format!("{}{path}", server.issuer);
            for headers in FORGED {
                for place in PLACES {
                    let mut ask = async |path: &str, status: u16| {
                        let reply = wire.ask(&get(&format!("{place}{path}"), headers)).await.unwrap();
                        assert_eq!(reply.status, status, "{headers}{place}{path} {}", reply.text());
                        assert!(!reply.text().to_lowercase().contains("evil"), "{headers}{place}{path} {}", reply.text());
                        assert!(!reply.head.to_lowercase().contains("domain="), "{}", reply.head);
                        reply
                    };
                    assert_eq!(
                        ask("/account", 303).await.header("location"),
                        Some(ours("/login").as_str()),
                        "{headers}{place}"
                    );
                    let to_login = ask(&flow, 303).await;
                    assert!(to_login.header("location").unwrap().starts_with(&ours("/login?flow=")), "{headers}{place}");
                    let to_client = ask(&refused, 303).await;
                    let issuer: String = url::form_urlencoded::byte_serialize(server.issuer.as_bytes()).collect();
                    let expected = format!("&iss={issuer}");
                    assert!(
                        to_client.header("location").unwrap().ends_with(&expected),
                        "{headers}{place} {}",
                        to_client.head
                    );
                    let form = ask(&posted, 200).await;
                    assert!(form.text().contains(&format!("value=\"{}\"", server.issuer)), "{headers}{place}");
                    let login = ask("/login", 200).await;
                    assert!(login.text().contains("action=\"/login\"") && login.text().contains("href=\"/static/"));
                    assert!(login.header("set-cookie").is_some_and(|cookie| cookie.starts_with("sealwright=")));
                    ask("/logout", 200).await;
                    ask("/login?flow=x", 400).await;
                }
            }
        }
    }
}

/// Revokes a token with these headers; the address and the request id in its audit event, and the answer's id.
async fn audited(server: &Server, headers: &str) -> (String, String, String) {
    let token = server.token().await;
    let request = post(REVOKE, &format!("{headers}{}", authorized("orders-sync", SECRET)), &[("token", &token)]);
    let reply = Wire::new(&server.url).ask(&request).await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    let jti = part(&token, 1)["jti"].as_str().unwrap().to_owned();
    let rows = server.services.db.read(|conn| Box::pin(audit::latest(conn, 100))).await.unwrap();
    let row = rows.into_iter().find(|row| row.object == jti).unwrap();
    (row.address, row.request_id, reply.header("x-request-id").unwrap().to_owned())
}

/// The address in the audit sample of a refusal with these headers. Samples are few each second: asks until one is kept.
async fn sampled(server: &Server, headers: &str) -> String {
    for _ in 0..100 {
        let request = post(TOKEN, &format!("{headers}{}", authorized("orders-sync", "wrong")), &[CC]);
        let reply = Wire::new(&server.url).ask(&request).await.unwrap();
        assert_eq!(reply.status, 401, "{}", reply.text());
        let id = reply.header("x-request-id").unwrap();
        server.services.audit.flush(&server.services.db).await.unwrap();
        let rows = server.services.db.read(|conn| Box::pin(audit::latest(conn, 100))).await.unwrap();
        if let Some(row) = rows.into_iter().find(|row| row.request_id == id) {
            assert_eq!((row.kind.as_str(), row.object.as_str()), ("request.refused", "orders-sync"));
            return row.address;
        }
    }
    panic!("no sample was kept");
}

const CHAINS: [&str; 9] = [
    "X-Forwarded-For: 6.6.6.6\r\n",
    "X-Forwarded-For: 127.0.0.1\r\n",
    "X-Forwarded-For: 6.6.6.6, 198.51.100.7\r\n",
    "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 198.51.100.7, 127.0.0.2\r\n",
    "X-Forwarded-For: 6.6.6.6, unknown\r\n",
    "X-Forwarded-For: 6.6.6.6, 198.51.100.7'--\r\n",
    "Forwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nClient-IP: 6.6.6.6\r\nTrue-Client-IP: 6.6.6.6\r\n",
    "X-Forwarded-For: [2001:db8::1]:4711\r\n",
    "x-forwarded-for: 6.6.6.6,,\r\n",
];

both! {
    async fn t142_a_forged_chain_does_not_reach_the_audit_trail(engine) {
        let (server, _) = Server::example(engine).await;
        for chain in CHAINS {
            let headers = format!("{chain}X-Request-Id: forged\r\n");
            let (address, recorded, answered) = audited(&server, &headers).await;
            assert_eq!(address, "127.0.0.1", "{chain}");
            assert_eq!(recorded, answered);
            assert_ne!(recorded, "forged");
        }
        assert_eq!(sampled(&server, CHAINS[2]).await, "127.0.0.1");
    }

    async fn t142_a_trusted_proxy_is_believed_as_far_as_it_can_see(engine) {
        let server = Server::with(engine, |config| {
            config.http.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
        }).await;
        server.apply(EXAMPLE).await;
        let seen = [
            "6.6.6.6", "127.0.0.1", "198.51.100.7", "198.51.100.7", "127.0.0.1", "127.0.0.1", "127.0.0.1",
            "2001:db8::1", "127.0.0.1",
        ];
        for (chain, expected) in CHAINS.iter().zip(seen) {
            let (address, recorded, answered) = audited(&server, &format!("{chain}X-Request-Id: from.proxy-1\r\n")).await;
            assert_eq!(address, expected, "{chain}");
            assert_eq!((recorded.as_str(), answered.as_str()), ("from.proxy-1", "from.proxy-1"));
        }
        assert_eq!(sampled(&server, CHAINS[2]).await, "198.51.100.7");
    }
}

/// What each of the three endpoints wants to hear.
fn good(path: &str) -> &'static [(&'static str, &'static str)] {
    if path == TOKEN { &[CC, ("scope", "orders:read")] } else { &[("token", "x")] }
}

/// A form body of this path with one parameter replaced or added.
fn with_parameter(path: &str, name: &str, value: &str) -> String {
    let kept: Vec<_> = good(path).iter().copied().filter(|(known, _)| *known != name).collect();
    format!("{}&{name}={value}", encode(&kept))
}

fn raw_post(path: &str, auth: &str, body: &str) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\n{auth}Content-Type: {FORM}\r\n");
    format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

both! {
    async fn t180_what_is_over_size_is_refused_and_changes_nothing(engine) {
        // By the bound of the body, and by those of the form when the body may be longer.
        for (max_body, statuses) in [(65_536, &[413][..]), (16 << 20, &[400])] {
            let server = Server::with(engine, |config| config.http.max_body_bytes = max_body).await;
            server.apply(EXAMPLE).await;
            let token = server.token().await;
            let long = "a".repeat(1 << 20);
            let parameters: String = (0..100_000).fold(String::new(), |mut all, at| {
                let _ = write!(all, "p{at}=1&");
                all
            });
            let resources = "resource=https%3A%2F%2Fapi.example.com&".repeat(100_000);
            let names = [
                "grant_type", "scope", "resource", "audience", "client_id", "client_secret", "client_assertion",
                "client_assertion_type", "token", "token_type_hint", "anything",
            ];
            let auth = authorized("orders-sync", SECRET);
            let mut wire = Wire::new(&server.url);
            for path in [TOKEN, INTROSPECT, REVOKE] {
                let mut bodies: Vec<_> = names.iter().map(|name| with_parameter(path, name, &long)).collect();
                bodies.push(with_parameter(path, &long, "x"));
                bodies.push(with_parameter(path, "scope", &"orders:read+".repeat(100_000)));
                bodies.push(with_parameter(path, "scope", &"%20".repeat(400_000)));
                // The right token beside what is refused: the refusal comes first.
                bodies.push(format!("{parameters}token={token}"));
                bodies.push(format!("{resources}token={token}"));
                for body in bodies {
                    for auth in [auth.as_str(), ""] {
                        let reply = wire.ask(&raw_post(path, auth, &body)).await.unwrap();
                        let begin = &body[..80];
                        assert!(statuses.contains(&reply.status), "{path} {begin}: {}", reply.text());
                        assert_eq!(reply.json()["error"], "invalid_request", "{path} {begin}");
                        assert!(reply.body.len() < 300, "{path} {begin}: the answer grows with the request");
                    }
                }
            }
            // Within the form's bounds: 8,000 scopes, 100 resources.
            for (body, error) in [
                (with_parameter(TOKEN, "scope", &"a+".repeat(8000)), "invalid_scope"),
                (with_parameter(TOKEN, "scope", "a".repeat(16_000).as_str()), "invalid_scope"),
                (with_parameter(TOKEN, "resource", "https%3A%2F%2Fx&resource=x".repeat(60).as_str()), "invalid_target"),
            ] {
                let reply = wire.ask(&raw_post(TOKEN, &auth, &body)).await.unwrap();
                assert_eq!((reply.status, reply.json()["error"].as_str()), (400, Some(error)), "{}", reply.text());
            }
            let services = &server.services;
            services.audit.flush(&services.db).await.unwrap();
            let rows = services.db.read(|conn| Box::pin(audit::latest(conn, 1000))).await.unwrap();
            assert!(rows.iter().any(|row| row.kind == "request.refused"));
            assert!(rows.iter().all(|row| row.kind != "token.revoked"));
            let issued = services.db.read(|conn| Box::pin(audit::counted(conn, "token", "orders-sync", "ok"))).await;
            assert_eq!(issued.unwrap(), 1, "only the one good request got a token");
            let found = server.post(INTROSPECT, Some(("orders-sync", SECRET)), &[("token", &token)]).await;
            assert_eq!(found.json["active"], true);
        }
    }
}

/// What is configured reaches the listener: none of these bounds would bite at its default.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bounds_of_the_listener_are_those_that_are_configured() {
    let server = Server::with(Engine::Sqlite, |config| {
        config.http.max_connections = 1;
        config.http.header_timeout_seconds = 1;
        config.http.request_timeout_seconds = 1;
        config.http.drain_seconds = 0;
    })
    .await;
    let connect = async || TcpStream::connect(authority(&server.url)).await.unwrap();
    let everything = async |mut stream: TcpStream| {
        let mut answer = Vec::new();
        timeout(Duration::from_secs(8), stream.read_to_end(&mut answer)).await.expect("it stays open").unwrap_or(0);
        String::from_utf8(answer).unwrap()
    };
    let begin = format!("POST {TOKEN} HTTP/1.1\r\nHost: a\r\nContent-Type: {FORM}\r\nContent-Length: 9\r\n");

    // max_connections: the second waits for the first to go.
    let mut first = connect().await;
    first.write_all(&get(JWKS, "")).await.unwrap();
    assert!(first.read(&mut [0; 4096]).await.unwrap() > 0);
    let mut second = connect().await;
    second.write_all(&get(JWKS, "Connection: close\r\n")).await.unwrap();
    assert!(timeout(Duration::from_millis(300), second.readable()).await.is_err(), "two at once");
    drop(first);
    assert!(everything(second).await.starts_with("HTTP/1.1 200"));

    // header_timeout_seconds
    let mut half_a_head = connect().await;
    half_a_head.write_all(b"GET / HTTP/1.1\r\nX: ").await.unwrap();
    assert_eq!(everything(half_a_head).await, "");

    // request_timeout_seconds: sooner than the body's own three.
    let mut half_a_body = connect().await;
    half_a_body.write_all(format!("{begin}\r\na=").as_bytes()).await.unwrap();
    let answer = everything(half_a_body).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("The request took too long."), "{answer}");

    // One connection may have many requests; at work are as many as there may be connections.
    let stream = hyper_util::rt::TokioIo::new(connect().await);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut http2, connection) = hyper::client::conn::http2::handshake(executor, stream).await.unwrap();
    tokio::spawn(connection);
    let mut post = |body| {
        let request = http::Request::post(format!("http://a{TOKEN}")).header("content-type", FORM);
        http2.send_request(request.body(body).unwrap())
    };
    let endless = futures_util::stream::pending::<Result<&[u8], std::convert::Infallible>>();
    let at_work = tokio::spawn(post(axum::body::Body::from_stream(endless)));
    loop {
        let answer = post(axum::body::Body::empty()).await.unwrap().into_body();
        let answer = axum::body::to_bytes(axum::body::Body::new(answer), 1024).await.unwrap();
        if String::from_utf8_lossy(&answer).contains("too many requests") {
            break;
        }
        assert!(!at_work.is_finished(), "{answer:?}");
    }
    assert_eq!(at_work.await.unwrap().unwrap().status(), 503);
    drop(http2);

    // drain_seconds: what is at work, as "100 Continue" says, is not let finish.
    let mut at_work = connect().await;
    at_work.write_all(format!("{begin}Expect: 100-continue\r\n\r\n").as_bytes()).await.unwrap();
    let mut told = [0; 25];
    timeout(HANGS, at_work.read_exact(&mut told)).await.unwrap().unwrap();
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    server.stop().await;
    assert_eq!(everything(at_work).await, "");
}

/// F-17: what is over size is not kept, with 64 senders at once of 4 MB in one parameter, or in a body without a length.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t180_what_is_over_size_takes_no_memory() {
    let node = Node::new(Engine::Sqlite).await;
    let server = node.start().await;
    let peak = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.run.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().to_owned();
        line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap()
    };
    let flood = async |requests: [&[u8]; 2]| {
        let asked = (0..64).map(|at| exchange(&server.url, requests[at % 2]));
        futures_util::future::join_all(asked).await
    };
    // What threads and connections take in any case.
    flood([&get(JWKS, ""), &raw_post(TOKEN, "", "x")]).await;
    let before = peak();
    let long = raw_post(TOKEN, "", &with_parameter(TOKEN, "scope", &"a".repeat(4 << 20)));
    let chunks = format!("4000\r\n{}\r\n", "a".repeat(0x4000)).repeat(256);
    let head = format!("POST {TOKEN} HTTP/1.1\r\nHost: a\r\nContent-Type: {FORM}\r\n");
    let endless = format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunks}").into_bytes();
    for _ in 0..3 {
        // Whose answer went down with the connection, because it was still sending, has none.
        let answers = flood([&long, &endless]).await;
        assert!(answers.iter().all(|answer| answer.is_empty() || answer.starts_with("HTTP/1.1 413 ")), "{answers:?}");
    }
    let after = peak();
    assert!(after < before + (32 << 10), "{before} kB became {after} kB, of {} that were sent", 3 * 64 * (4 << 10));
}

/// F-17: 2 GiB are refused by the claim, and a body without a length by what has come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t180_a_body_of_2_gib_is_refused_before_it_comes() {
    let (server, _) = Server::example(Engine::Sqlite).await;
    for path in [TOKEN, INTROSPECT, REVOKE] {
        let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: {FORM}\r\n");
        let reply = exchange(&server.url, format!("{head}Content-Length: 2147483648\r\n\r\na=b").as_bytes()).await;
        assert!(reply.starts_with("HTTP/1.1 413 "), "{path}: {reply}");

        let mut stream = TcpStream::connect(authority(&server.url)).await.unwrap();
        stream.write_all(format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes()).await.unwrap();
        let chunk = format!("4000\r\n{}\r\n", "a".repeat(0x4000));
        let (mut from, mut to) = stream.split();
        let mut sent = 0_usize;
        let endless = async {
            while to.write_all(chunk.as_bytes()).await.is_ok() {
                sent += chunk.len();
            }
        };
        let mut answer = Vec::new();
        let reading = async { while from.read_buf(&mut answer).await.is_ok_and(|read| read > 0) {} };
        timeout(HANGS, async { tokio::join!(endless, reading) }).await.expect("an endless body is taken");
        assert!(answer.starts_with(b"HTTP/1.1 413 "), "{path}: {}", String::from_utf8_lossy(&answer));
        assert!(sent < 64 << 20, "{path}: {sent} bytes were taken");
    }
    server.token().await;
}

/// The paths that the program's source gives a name, people's pages among them.
fn declared() -> Vec<String> {
    fn of(folder: &std::path::Path, paths: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                of(&path, paths);
                continue;
            }
            let text = std::fs::read_to_string(path).unwrap();
            let named = text.split("_PATH: &str = \"").skip(1);
            paths.extend(named.map(|rest| rest.split('"').next().unwrap().to_owned()));
        }
    }
    let mut paths = Vec::new();
    of(std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut paths);
    for known in [TOKEN, JWKS, "/login", "/consent", "/account/password", "/logout"] {
        assert!(paths.iter().any(|path| path == known), "{known}: {paths:?}");
    }
    paths
}

/// Every route there is: what discovery names, what it cannot name, pages of later features, and none.
async fn routes(server: &Server) -> Vec<(String, String)> {
    let document = server.get(DOCUMENTS[0]).await.json;
    let mut paths: Vec<String> = document
        .as_object()
        .unwrap()
        .iter()
        .filter(|(name, _)| name.ends_with("_endpoint") || name.ends_with("_uri"))
        .map(|(_, url)| url.as_str().unwrap().strip_prefix(&server.issuer).unwrap().to_owned())
        .collect();
    assert!(paths.len() >= 4, "{paths:?}");
    paths.extend(DOCUMENTS.iter().map(ToString::to_string));
    paths.extend(["/", "/nowhere", "*", "//", "/oauth2/token/", "/oauth2/%74oken"].map(str::to_owned));
    paths.extend(declared());
    paths.extend(["/static/sealwright.css", "/static/nothing"].map(str::to_owned));
    paths.sort();
    paths.dedup();
    let of = |url: &str, path: &str| (authority(url).to_owned(), path.to_owned());
    let public = paths.iter().map(|path| of(&server.url, path));
    let private = ["/health/live", "/health/ready", "/metrics", "/nowhere"].map(|path| of(&server.management, path));
    public.chain(private).collect()
}

const METHODS: [&str; 10] = ["GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "FROB"];

const HEADERS: [&str; 22] = [
    "Authorization",
    "Cookie",
    "Content-Type",
    "Content-Length",
    "Content-Encoding",
    "Transfer-Encoding",
    "Accept",
    "Accept-Encoding",
    "Accept-Language",
    "DPoP",
    "Range",
    "If-None-Match",
    "If-Modified-Since",
    "Origin",
    "Access-Control-Request-Method",
    "Access-Control-Request-Headers",
    "Host",
    "Expect",
    "Upgrade",
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Request-Id",
];

const VALUES: [&[u8]; 26] = [
    b"",
    b"\xff\xfe",
    b"\"",
    b"99999999999999999999",
    b"\t",
    b"Bearer",
    b"Bearer ",
    b"Basic",
    b"Basic ",
    b"Basic %%%",
    b"Basic Og==",
    b"Basic /w==",
    b"Basic JTAwOiUwMA==",
    b"DPoP eyJ.e30.",
    b";",
    b",,,",
    b"=;=;",
    b"bytes=-",
    b"bytes=5-1,18446744073709551616-",
    b"*",
    b"W/\"",
    b"a/b;q=x",
    b"application/x-www-form-urlencoded; charset=\xfc",
    b"-1",
    b"http://[::1",
    b"{\"a\":[",
];

/// T-180b: whatever one header says, on every route and by every method, is no failure of ours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t180b_malformed_headers_are_never_a_5xx_on_any_route() {
    let trusting = |config: &mut sealwright::config::Config| {
        config.http.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    };
    let server = Server::with(Engine::Sqlite, trusting).await;
    server.apply(EXAMPLE).await;
    let auth = basic("orders-sync", SECRET);
    let long = "A".repeat(16 << 10);
    let body = encode(&[CC, ("token", "x")]);
    let usual = [
        ("Host", "a"),
        ("Content-Type", FORM),
        ("Authorization", auth.as_str()),
        ("Content-Length", &body.len().to_string()),
    ]
    .map(|(name, value)| (name, value.to_owned()));
    let mut asked = 0;
    for (address, path) in routes(&server).await {
        let mut wire = Wire { address, stream: None };
        for method in METHODS {
            let values = if ["GET", "POST"].contains(&method) { &VALUES[..] } else { &VALUES[..4] };
            for header in HEADERS {
                for value in values.iter().copied().chain([long.as_bytes()]) {
                    let mut request = format!("{method} {path} HTTP/1.1\r\n").into_bytes();
                    for (name, value) in usual.iter().filter(|(name, _)| *name != header) {
                        request.extend(format!("{name}: {value}\r\n").into_bytes());
                    }
                    request.extend([header.as_bytes(), b": ", value, b"\r\n\r\n", body.as_bytes()].concat());
                    let reply = wire.ask(&request).await;
                    asked += 1;
                    assert!(
                        reply.as_ref().is_none_or(|reply| reply.status < 500),
                        "{}\n{}",
                        String::from_utf8_lossy(&request),
                        reply.unwrap().text()
                    );
                    // What follows on this connection would be the rest of the body.
                    if ["Content-Length", "Transfer-Encoding", "Expect"].contains(&header) {
                        wire.stream = None;
                    }
                }
            }
        }
    }
    assert!(asked > 10_000, "{asked}");
    let metrics = server.http.get(format!("{}/metrics", server.management)).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("sealwright_http_panics_total 0"), "{metrics}");
    server.token().await;
}

/// RFC 9110 §9.3.2, §15.5.6: HEAD where GET is, 405 with `Allow` elsewhere, on every route.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t170_a_method_that_a_route_does_not_take_is_405() {
    let (server, _) = Server::example(Engine::Sqlite).await;
    let mut wire = Wire::new(&server.url);
    for (path, taken) in [
        (TOKEN, &["POST", "OPTIONS"][..]),
        (INTROSPECT, &["POST"]),
        (REVOKE, &["POST", "OPTIONS"]),
        (JWKS, &["GET", "HEAD", "OPTIONS"]),
        (DOCUMENTS[0], &["GET", "HEAD", "OPTIONS"]),
    ] {
        for method in METHODS.iter().filter(|method| **method != "CONNECT" && !taken.contains(method)) {
            let overridden = "X-HTTP-Method-Override: POST\r\nX-HTTP-Method: POST\r\nX-Method-Override: GET\r\n";
            let auth = authorized("orders-sync", SECRET);
            let request = format!("{method} {path}?_method=POST HTTP/1.1\r\nHost: a\r\n{overridden}{auth}\r\n");
            let reply = wire.ask(request.as_bytes()).await.unwrap();
            assert_eq!(reply.status, 405, "{method} {path} {}", reply.text());
            assert!(
                reply
                    .header("allow")
                    .is_some_and(|allow| taken.iter().all(|method| allow.contains(method)) || allow.contains(taken[0])),
                "{}",
                reply.text()
            );
        }
    }
}

/// Requests that two readers could cut in two ways, and whole ones whose body, of `hidden` bytes, nobody reads: each a
/// name and the bytes before what is hidden.
pub fn smuggling_corpus(auth: &str, hidden: usize) -> Vec<(&'static str, String)> {
    let form = format!("Host: a\r\n{auth}Content-Type: {FORM}\r\n");
    let start = format!("POST {TOKEN} HTTP/1.1\r\n{form}");
    let body = "grant_type=client_credentials";
    let (length, size) = (body.len(), format!("{:x}", body.len()));
    let chunked = format!("{size}\r\n{body}\r\n0\r\n\r\n");
    let chunky = |line: &str| format!("{start}{line}\r\n\r\n{chunked}");
    let lengthy = |line: &str| format!("{start}{line}\r\n\r\n{body}");
    let hidden_in =
        |line: &str, headers: &str| format!("{line} HTTP/1.1\r\nHost: a\r\n{headers}Content-Length: {hidden}\r\n\r\n");
    vec![
        ("two lengths", lengthy(&format!("Content-Length: {length}\r\nContent-Length: 0"))),
        ("two lengths in one", lengthy(&format!("Content-Length: {length}, 0"))),
        ("signed length", lengthy(&format!("Content-Length: +{length}"))),
        ("length with a tail", lengthy(&format!("Content-Length: {length}x"))),
        ("length in two words", lengthy(&format!("Content-Length: {length} 0"))),
        ("octal-looking length", lengthy("Content-Length: 0x1d")),
        ("empty length", lengthy("Content-Length: ")),
        ("negative length", lengthy("Content-Length: -1")),
        ("overflowing length", lengthy("Content-Length: 18446744073709551645")),
        ("length with a vertical tab", lengthy(&format!("Content-Length: \u{b}{length}"))),
        ("space before the colon", lengthy(&format!("Content-Length : {length}"))),
        ("tab before the colon", lengthy(&format!("Content-Length\t: {length}"))),
        ("folded length", lengthy(&format!("Content-Length:\r\n {length}"))),
        ("folded line", lengthy(&format!("X: a\r\n\tb\r\nContent-Length: {length}"))),
        ("CR alone", lengthy(&format!("X: a\rContent-Length: 0\r\nContent-Length: {length}"))),
        ("NUL in a value", lengthy(&format!("X: a\0b\r\nContent-Length: {length}"))),
        ("NUL in a name", lengthy(&format!("X\0: a\r\nContent-Length: {length}"))),
        ("space before the first header", format!("POST {TOKEN} HTTP/1.1\r\n X: a\r\n{form}\r\n")),
        ("chunked and a length", chunky("Content-Length: 5\r\nTransfer-Encoding: chunked")),
        ("a length and chunked", chunky("Transfer-Encoding: chunked\r\nContent-Length: 5")),
        ("chunked and a zero length", chunky("Content-Length: 0\r\nTransfer-Encoding: chunked")),
        ("chunked not last", chunky("Transfer-Encoding: chunked, identity")),
        ("identity", chunky("Transfer-Encoding: identity")),
        ("chunked twice", chunky("Transfer-Encoding: chunked, chunked")),
        ("two codings in two lines", chunky("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked")),
        ("unknown coding", chunky("Transfer-Encoding: xchunked")),
        ("coding with a tail", chunky("Transfer-Encoding: chunked;q=1")),
        ("coding with a vertical tab", chunky("Transfer-Encoding: \u{b}chunked")),
        ("coding with a NUL", chunky("Transfer-Encoding: chunked\0")),
        ("quoted coding", chunky("Transfer-Encoding: \"chunked\"")),
        ("space before the coding's colon", chunky("Transfer-Encoding : chunked")),
        ("folded coding", chunky("Transfer-Encoding:\r\n chunked")),
        ("empty coding and a length", lengthy(&format!("Transfer-Encoding:\r\nContent-Length: {length}"))),
        ("no chunk size", format!("{start}Transfer-Encoding: chunked\r\n\r\n\r\n{body}\r\n0\r\n\r\n")),
        ("signed chunk size", format!("{start}Transfer-Encoding: chunked\r\n\r\n+{chunked}")),
        ("chunk size with 0x", format!("{start}Transfer-Encoding: chunked\r\n\r\n0x{chunked}")),
        ("overflowing chunk size", format!("{start}Transfer-Encoding: chunked\r\n\r\n10000000000000000{chunked}")),
        ("chunk longer than said", format!("{start}Transfer-Encoding: chunked\r\n\r\n2\r\n{body}\r\n0\r\n\r\n")),
        ("chunk ended by LF", format!("{start}Transfer-Encoding: chunked\r\n\r\n{size}\r\n{body}\n0\r\n\r\n")),
        ("chunk size ended by LF", format!("{start}Transfer-Encoding: chunked\r\n\r\n{size}\n{body}\r\n0\r\n\r\n")),
        (
            "chunk extension with LF",
            format!("{start}Transfer-Encoding: chunked\r\n\r\n{size};a\nb\r\n{body}\r\n0\r\n\r\n"),
        ),
        (
            "chunk extension without end",
            format!("{start}Transfer-Encoding: chunked\r\n\r\n{size};{}", "a".repeat(1 << 20)),
        ),
        ("chunked in HTTP/1.0", format!("POST {TOKEN} HTTP/1.0\r\n{form}Transfer-Encoding: chunked\r\n\r\n{chunked}")),
        ("no host", format!("POST {TOKEN} HTTP/1.1\r\nContent-Length: 0\r\n\r\n")),
        ("two hosts", lengthy(&format!("Host: b\r\nContent-Length: {length}"))),
        ("two authorizations", lengthy(&format!("{auth}Content-Length: {length}"))),
        ("version 1.2", start.replace("HTTP/1.1", "HTTP/1.2") + "\r\n"),
        ("version 2.0", start.replace("HTTP/1.1", "HTTP/2.0") + "\r\n"),
        ("no version", format!("POST {TOKEN}\r\n{form}\r\n")),
        ("space in the target", format!("POST {TOKEN} x HTTP/1.1\r\n{form}\r\n")),
        ("two spaces", format!("POST  {TOKEN} HTTP/1.1\r\n{form}\r\n")),
        ("NUL in the target", format!("POST {TOKEN}\0 HTTP/1.1\r\n{form}\r\n")),
        ("a head of a megabyte", format!("{start}X: {}\r\n\r\n", "a".repeat(1 << 20))),
        ("300 headers", format!("{start}{}\r\n", "X: a\r\n".repeat(300))),
        // Well-formed, with the hidden request as a body that nobody reads.
        ("in a body that no page takes", hidden_in("POST /nowhere", "")),
        ("in a body of GET", hidden_in(&format!("GET {JWKS}"), "")),
        ("in a body of HEAD", hidden_in(&format!("HEAD {JWKS}"), "")),
        ("in a body of a preflight", hidden_in(&format!("OPTIONS {TOKEN}"), "")),
        ("in a body of a wrong method", hidden_in(&format!("PUT {TOKEN}"), "")),
        ("in a body of another type", hidden_in(&format!("POST {TOKEN}"), "Content-Type: text/plain\r\n")),
        (
            "in a body with a coding",
            hidden_in(&format!("POST {TOKEN}"), &format!("Content-Type: {FORM}\r\nContent-Encoding: gzip\r\n")),
        ),
        ("in a body that is refused", hidden_in(&format!("POST {TOKEN}"), &format!("Content-Type: {FORM}\r\n"))),
        ("in a body that is expected", hidden_in(&format!("POST {TOKEN}"), "Expect: 100-continue\r\n")),
        (
            "in a body of an upgrade",
            hidden_in(
                &format!("GET {JWKS}"),
                "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
            ),
        ),
    ]
}

/// T-185: after each of these nothing that was hidden in it has happened, and the next connection is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t185_nothing_is_smuggled_into_the_real_server() {
    let server = Server::with(Engine::Sqlite, |config| {
        config.http.header_timeout_seconds = 1;
        config.http.request_timeout_seconds = 5;
    })
    .await;
    server.apply(EXAMPLE).await;
    let token = server.token().await;
    let auth = authorized("orders-sync", SECRET);
    let hidden = post(REVOKE, &auth, &[("token", &token)]);
    let hidden = std::str::from_utf8(&hidden).unwrap();
    for (name, request) in smuggling_corpus(&auth, hidden.len()) {
        let answer = exchange(&server.url, format!("{request}{hidden}").as_bytes()).await;
        assert!(answer.matches("HTTP/1.").count() <= 1, "{name}: {answer}");
        assert!(!answer.starts_with("HTTP/1.1 5"), "{name}: {answer}");
        let found = post(INTROSPECT, &auth, &[("token", &token)]);
        let found = Wire::new(&server.url).ask(&found).await.unwrap();
        assert_eq!((found.status, &found.json()["active"]), (200, &true.into()), "{name}: {answer}");
        let good = Wire::new(&server.url).ask(&post(TOKEN, &auth, &[CC])).await.unwrap();
        assert_eq!(good.status, 200, "{name}");
    }
    // The same behind a whole request is a request of its own: the proof that the others hid something that bites.
    let whole = post(TOKEN, &auth, &[CC]);
    let request = format!("{}{hidden}", std::str::from_utf8(&whole).unwrap());
    let answer = exchange(&server.url, request.as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 2, "{answer}");
    let found = server.post(INTROSPECT, Some(("orders-sync", SECRET)), &[("token", &token)]).await;
    assert_eq!(found.json["active"], false);
}

/// HTTP/2 without TLS and without asking first, as gateways speak it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc9113_3_3_http2_with_prior_knowledge_is_served() {
    let (server, gateway) = Server::example(Engine::Sqlite).await;
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).http2_prior_knowledge().build().unwrap();
    let ask = async |path: &str, id: &str, secret: &str, body: String| {
        let request = client.post(format!("{}{path}", server.url)).header("content-type", FORM).body(body);
        let response = request.header("authorization", basic(id, secret)).send().await.unwrap();
        assert_eq!(response.version(), http::Version::HTTP_2);
        Answer::of(response).await
    };
    let answer = ask(TOKEN, "orders-sync", SECRET, encode(&[CC])).await;
    let token = answer.json["access_token"].as_str().unwrap().to_owned();
    let active = async || ask(INTROSPECT, "edge-gateway", &gateway, encode(&[("token", &token)])).await.json;
    assert_eq!(active().await["active"], true);
    ask(TOKEN, "orders-sync", "wrong", encode(&[CC])).await.assert_error(401, "invalid_client");
    ask(TOKEN, "orders-sync", SECRET, "a".repeat(1 << 20)).await.assert_error(413, "invalid_request");
    ask(TOKEN, "orders-sync", SECRET, "a=1&".repeat(100)).await.assert_error(400, "invalid_request");
    assert_eq!(ask(REVOKE, "orders-sync", SECRET, encode(&[("token", &token)])).await.status, 200);
    assert_eq!(active().await["active"], false);
    let jwks = client.get(format!("{}{JWKS}", server.url)).send().await.unwrap();
    assert_eq!((jwks.version(), jwks.status().as_u16()), (http::Version::HTTP_2, 200));
}
