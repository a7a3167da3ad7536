//! The authorization endpoint before anybody signs in: whom it answers, where, and what it refuses.

use std::collections::BTreeSet;

use reqwest::Method;
use sqlx::Connection;
use url::Url;

use crate::browser::{forms, parameter};
use crate::support::{Answer, CHALLENGE, EXAMPLE, Engine, FORM, Server, both, encode};

/// Clients of people.
pub const CLIENTS: &str = r#"
[[client]]
client_id = "web"
client_name = "Web shop"
client_uri = "https://rp.test/about"
grant_types = ["authorization_code", "refresh_token"]
token_endpoint_auth_method = "client_secret_basic"
client_secret = "imported-secret-of-at-least-32-characters"
redirect_uris = ["https://rp.test/cb", "https://rp.test/with?a=b"]
scope = "openid profile email offline_access orders:read orders:write"
resources = ["https://api.example.com"]

[[client]]
client_id = "native"
application_type = "native"
grant_types = ["authorization_code"]
token_endpoint_auth_method = "none"
redirect_uris = ["http://127.0.0.1/cb", "http://[::1]/cb", "http://localhost:7070/cb", "com.example.app:/cb"]
scope = "openid"
"#;

/// A server with the clients above.
pub async fn server(engine: Engine) -> Server {
    let server = Server::empty(engine).await;
    server.apply(&format!("{EXAMPLE}{CLIENTS}")).await;
    server
}

/// A good request of `web`, with `changes`; an empty value leaves a parameter out.
pub fn request<'a>(changes: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut parameters = vec![
        ("client_id", "web"),
        ("redirect_uri", "https://rp.test/cb"),
        ("response_type", "code"),
        ("scope", "openid orders:read"),
        ("state", "a state"),
        ("code_challenge", CHALLENGE),
        ("code_challenge_method", "S256"),
    ];
    parameters.retain(|(name, _)| !changes.iter().any(|(changed, _)| changed == name));
    parameters.extend(changes.iter().filter(|(_, value)| !value.is_empty()));
    parameters
}

async fn send(server: &Server, method: &Method, encoded: &str) -> Answer {
    let url = format!("{}/oauth2/authorize", server.url);
    let request = match *method {
        Method::GET => server.http.get(format!("{url}?{encoded}")),
        _ => server.http.post(url).header("content-type", FORM).body(encoded.to_owned()),
    };
    Answer::of(request.send().await.unwrap()).await
}

/// A body that is not read to its end: the answer may be lost with the connection, so the try is made again on
/// another.
pub async fn send_too_much(server: &Server, body: String) -> Answer {
    for _ in 0..20 {
        let post = crate::support::client().post(format!("{}/oauth2/authorize", server.url));
        if let Ok(answer) = post.header("content-type", FORM).body(body.clone()).send().await {
            return Answer::of(answer).await;
        }
    }
    panic!("no answer in twenty tries");
}

/// The page, in its own words, without the request's id.
#[track_caller]
fn assert_page(answer: &Answer, status: u16, what: &str) -> String {
    assert_eq!(answer.status, status, "{what}: {}", answer.text);
    assert_eq!(answer.header("location"), None, "{what}");
    assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"), "{what}");
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
    assert_eq!(answer.header("x-frame-options"), Some("DENY"));
    let policy = answer.header("content-security-policy").unwrap();
    assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"), "{policy}");
    let id = answer.header("x-request-id").unwrap();
    assert!(answer.text.contains(id), "the page tells the request id");
    answer.text.replace(id, "")
}

/// What the client is told in a redirect or a form.
fn told(answer: &Answer, mode: &str) -> (String, Vec<(String, String)>) {
    let pairs = |text: &str| url::form_urlencoded::parse(text.as_bytes()).into_owned().collect();
    if mode == "form_post" {
        assert_eq!(answer.status, 200, "{}", answer.text);
        let form = forms(&answer.text).remove(0);
        return (form.action, form.hidden);
    }
    assert_eq!(answer.status, 303, "{}", answer.text);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
    let location = answer.header("location").unwrap();
    let (base, rest) = location.split_once(if mode == "fragment" { '#' } else { '?' }).unwrap();
    (base.to_owned(), pairs(rest))
}

#[track_caller]
fn assert_told(server: &Server, answer: &Answer, mode: &str, error: &str) {
    let (base, pairs) = told(answer, mode);
    assert_eq!(base, "https://rp.test/cb");
    let get = |name: &str| {
        let found: Vec<_> = pairs.iter().filter(|(known, _)| known == name).collect();
        assert!(found.len() < 2, "{name} stands twice");
        found.first().map(|(_, value)| value.as_str())
    };
    assert_eq!(get("error"), Some(error), "{pairs:?}");
    assert_eq!(get("state"), Some("a state"));
    assert_eq!(get("iss"), Some(server.issuer.as_str()));
    assert_eq!(get("code"), None);
}

/// What may slip between two characters.
const INSERTED: &[&str] = &[
    " ",
    "\t",
    "\n",
    "\r\n",
    ".",
    "..",
    "/",
    "//",
    "/../",
    "/./",
    "\\",
    ";",
    "?",
    "#",
    "@",
    ":",
    ":443",
    "*",
    "%2e%2e",
    "%2E%2E/",
    "%252e%252e",
    "%2f",
    "%5c",
    "%09",
    "%0d%0a",
    "%00",
    "%23",
    "\u{ff0e}",
    "\u{ff0f}",
    "\u{3002}",
    "\u{200b}",
    "xn--",
    "evil@",
    "[",
    "%25en0",
];

/// What other servers took for `https://rp.test/cb`.
const OTHERS: &[&str] = &[
    "https://rp.test",
    "https://rp.test/",
    "https://rp.test/cb/../evil",
    "https://rp.test/cb%2f..%2fevil",
    "https://rp.test.evil.test/cb",
    "https://evil.test/https://rp.test/cb",
    "https://rp.test:443/cb",
    "https://rp.test:8443/cb",
    "https://rp.test@evil.test/cb",
    "https://evil.test@rp.test/cb",
    "https://evil.test\\@rp.test/cb",
    "https://evil.test#@rp.test/cb",
    "http://rp.test/cb",
    "//rp.test/cb",
    "/cb",
    "cb",
    "javascript:alert(1)",
    "JavaScript:alert(1)//https://rp.test/cb",
    "data:text/html,x",
    "https://xn--rp-.test/cb",
    "https://r\u{ff50}.test/cb",
    "https://rp\u{3002}test/cb",
    "https://rXtest/cb",
    "https://[::1%25en0]/cb",
    "https://rp.test/cb?",
    "https://rp.test/cb#",
    "https://rp.test/cb?x=1",
    "https://rp.test/with",
    "https://rp.test/with?a=b&c=d",
    "https://rp.test/with?a=B",
    "https://rp.test/with?a%3Db",
    "https://rp.test/cb https://evil.test",
    "https://rp.test/cb,https://evil.test",
    "com.example.app:/cb",
    "about:blank",
    "null",
];

/// Every way that one change makes another URI of `good`; deterministic.
pub fn mutants(good: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let percent = |byte: u8, rounds: usize| {
        let mut text = format!("%{byte:02x}");
        for _ in 1..rounds {
            text = text.replace('%', "%25");
        }
        text
    };
    for (at, byte) in good.bytes().enumerate() {
        let (before, after) = (&good[..at], &good[at + 1..]);
        let c = char::from(byte);
        let flipped = if c.is_ascii_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
        found.insert(format!("{before}{after}"));
        found.insert(format!("{before}{c}{c}{after}"));
        found.insert(format!("{before}{flipped}{after}"));
        for rounds in 1..=3 {
            found.insert(format!("{before}{}{after}", percent(byte, rounds)));
        }
    }
    for at in 0..=good.len() {
        found.extend(INSERTED.iter().map(|text| format!("{}{text}{}", &good[..at], &good[at..])));
    }
    found.extend(OTHERS.iter().map(|other| (*other).to_owned()));
    found.remove(good);
    found
}

/// T-02: everything but the port of a native client's loopback address.
const NOT_LOOPBACK: &[&str] = &[
    "http://127.0.0.1:80@evil.test/cb",
    "http://127.0.0.1@evil.test/cb",
    "http://127.0.0.1.evil.test/cb",
    "http://127.0.0.1:80.evil.test/cb",
    "http://127.1/cb",
    "http://127.0.1/cb",
    "http://2130706433/cb",
    "http://0x7f000001/cb",
    "http://0177.0.0.1/cb",
    "http://127.0.0.01/cb",
    "http://[::ffff:127.0.0.1]/cb",
    "http://[0:0:0:0:0:0:0:1]/cb",
    "http://localhost/cb",
    "http://localhost:7071/cb",
    "http://localhost:80@evil.test/cb",
    "http://localhost.evil.test/cb",
    "http://localhostevil/cb",
    "http://localhost:7070.evil.test/cb",
    "http://127.0.0.2/cb",
    "https://127.0.0.1/cb",
    "HTTP://127.0.0.1/cb",
    "http://127.0.0.1:/cb",
    "http://127.0.0.1:080/cb",
    "http://127.0.0.1:65536/cb",
    "http://127.0.0.1:-1/cb",
    "http://127.0.0.1:1/CB",
    "http://127.0.0.1:1/cb/",
    "http://127.0.0.1:1/cb?x=1",
    "http://127.0.0.1:1/cb#",
    "http://127.0.0.1:1/",
    "http://127.0.0.1:1",
    "http://127.0.0.1:1\\cb",
    "http://127.0.0.1:1/x/../cb",
    "http://127.0.0.1 :1/cb",
    "http://127.0.0.1%3a1/cb",
    "com.example.app:/cb/",
    "com.example.app:/CB",
    "com.example.app://cb",
    "Com.Example.App:/cb",
    "com.example.app.evil:/cb",
    "com.example.ap:/cb",
    "com.example.app:/cb?x=1",
];

/// T-01, T-02, T-04: one verdict table, by each response mode, method, and in requests that are refused anyhow.
async fn verdicts(server: &Server, client_id: &str, good: &[&str], bad: impl IntoIterator<Item = String>) -> usize {
    let ways: Vec<(&str, Method, &str)> = ["", "query", "fragment", "form_post"]
        .into_iter()
        .flat_map(|mode| [Method::GET, Method::POST].map(|method| (mode, method)))
        .flat_map(|(mode, method)| ["openid", "not-a-scope"].map(|scope| (mode, method.clone(), scope)))
        .collect();
    let encoded = |uri: &str, mode: &str, scope: &str| {
        let changes = [("client_id", client_id), ("redirect_uri", uri), ("response_mode", mode), ("scope", scope)];
        encode(&request(&changes))
    };
    let mut words = BTreeSet::new();
    let mut refused = 0;
    for uri in bad {
        refused += 1;
        for (mode, method, scope) in &ways {
            let answer = send(server, method, &encoded(&uri, mode, scope)).await;
            words.insert(assert_page(&answer, 400, &format!("{uri:?} {mode} {method} {scope}")));
        }
    }
    assert_eq!(words.len(), 1, "one page for every reason");
    assert!(!words.first().unwrap().contains("evil"), "nothing of the request is shown");
    for uri in good {
        for (mode, method, scope) in &ways {
            let answer = send(server, method, &encoded(uri, mode, scope)).await;
            assert!([200, 303].contains(&answer.status), "{uri} {mode} {method} {scope}: {}", answer.text);
            if *scope == "not-a-scope" {
                let form = *mode == "form_post" && uri.starts_with("http");
                let action = format!("action=\"{uri}\"");
                let there = if form {
                    answer.text.contains(&action)
                } else {
                    answer.header("location").unwrap().starts_with(uri)
                };
                assert!(there, "{uri} {mode} {method}: {answer:?}");
            }
        }
    }
    refused
}

both! {
    async fn t01_t04_only_the_registered_redirect_uri_itself_is_answered(engine) {
        let server = server(engine).await;
        let bad = mutants("https://rp.test/cb");
        let refused = verdicts(&server, "web", &["https://rp.test/cb", "https://rp.test/with?a=b"], bad).await;
        assert!(refused >= 300, "{refused}");
    }

    async fn t02_t04_a_native_client_chooses_the_port_and_nothing_else(engine) {
        let server = server(engine).await;
        let good = ["http://127.0.0.1/cb", "http://127.0.0.1:1/cb", "http://127.0.0.1:65535/cb", "http://[::1]:5000/cb", "http://localhost:7070/cb", "com.example.app:/cb"];
        verdicts(&server, "native", &good, NOT_LOOPBACK.iter().map(|uri| (*uri).to_owned())).await;
    }

    async fn a_client_that_cannot_be_answered_gets_one_page_for_every_reason(engine) {
        let server = server(engine).await;
        let all = request(&[]);
        let without = |name: &str| encode(&all.iter().copied().filter(|(known, _)| *known != name).collect::<Vec<_>>());
        let with = |name: &str, value: &str| format!("{}&{name}={value}", encode(&all));
        let mut words = BTreeSet::new();
        let bad = [
            String::new(),
            without("client_id"),
            without("redirect_uri"),
            encode(&request(&[("client_id", "nobody")])),
            encode(&request(&[("client_id", "\u{0}")])),
            encode(&request(&[("client_id", "orders-sync")])),
            encode(&request(&[("client_id", "native")])),
            with("client_id", "web"),
            with("redirect%5Furi", "https%3A%2F%2Frp.test%2Fcb"),
            "client_id=web&redirect_uri=%zz".into(),
        ];
        for (at, text) in bad.iter().enumerate() {
            for method in [Method::GET, Method::POST] {
                words.insert(assert_page(&send(&server, &method, text).await, 400, &format!("{at} {method}")));
            }
        }
        execute(&server, "UPDATE clients SET disabled = true WHERE client_id = 'web'").await;
        server.services.clients.invalidate("web");
        words.insert(assert_page(&send(&server, &Method::GET, &encode(&all)).await, 400, "disabled"));
        assert_eq!(words.len(), 1);
    }

    async fn rfc6749_4_1_2_1_every_other_refusal_goes_back_to_the_client(engine) {
        let server = server(engine).await;
        let long = "x".repeat(17 * 1024);
        let cases: &[(&[(&str, &str)], &str)] = &[
            (&[("response_type", "")], "invalid_request"),
            (&[("response_type", "token")], "unsupported_response_type"),
            (&[("scope", "openid admin")], "invalid_scope"),
            (&[("resource", "https://unknown.example.com")], "invalid_target"),
            (&[("code_challenge", "")], "invalid_request"),
            (&[("code_challenge_method", "plain")], "invalid_request"),
            (&[("prompt", "none login")], "invalid_request"),
            (&[("request", "a.b.c")], "request_not_supported"),
            (&[("request_uri", "urn:x")], "request_uri_not_supported"),
            (&[("registration", "{}")], "registration_not_supported"),
            (&[("claims", "[")], "invalid_request"),
            (&[("id_token_hint", "x")], "invalid_request"),
            (&[("nonce", &long)], "invalid_request"),
        ];
        for (changes, error) in cases {
            for mode in ["query", "fragment", "form_post"] {
                for method in [Method::GET, Method::POST] {
                    let mut changes = changes.to_vec();
                    changes.push(("response_mode", mode));
                    let answer = send(&server, &method, &encode(&request(&changes))).await;
                    assert_told(&server, &answer, mode, error);
                }
            }
        }
        let answer = send(&server, &Method::GET, &encode(&request(&[("response_mode", "query.jwt")]))).await;
        assert_told(&server, &answer, "query", "invalid_request");
        // A query that is registered stays.
        let changes = [("redirect_uri", "https://rp.test/with?a=b"), ("scope", "admin")];
        let answer = send(&server, &Method::GET, &encode(&request(&changes))).await;
        assert!(answer.header("location").unwrap().starts_with("https://rp.test/with?a=b&error=invalid_scope&"));
    }

    async fn rfc6749_3_1_a_repeated_parameter_is_refused_and_the_client_told(engine) {
        let server = server(engine).await;
        for (name, value) in [("scope", "openid"), ("response_type", "code"), ("sc%6Fpe", "openid"), ("x", "1&x=2"), ("nonce", "%zz")] {
            let text = format!("{}&{name}={value}", encode(&request(&[])));
            for method in [Method::GET, Method::POST] {
                assert_told(&server, &send(&server, &method, &text).await, "query", "invalid_request");
            }
        }
        // Which state is the client's is not guessed.
        let text = format!("{}&state=other", encode(&request(&[])));
        let answer = send(&server, &Method::GET, &text).await;
        let url = Url::parse(answer.header("location").unwrap()).unwrap();
        assert_eq!((parameter(&url, "error").as_deref(), parameter(&url, "state")), (Some("invalid_request"), None));
        assert_eq!(parameter(&url, "iss").as_deref(), Some(server.issuer.as_str()));
        let many = format!("{}{}", encode(&request(&[])), "&resource=https%3A%2F%2Fapi.example.com".repeat(2));
        let answer = send(&server, &Method::POST, &many).await;
        assert!(answer.header("location").unwrap().contains("stored="), "RFC 8707 §2: resource may be repeated");
    }

    async fn t112_whom_nobody_vouches_for_gets_nobody_by_an_error(engine) {
        let server = server(engine).await;
        execute(&server, "UPDATE clients SET managed_by = 'registration' WHERE client_id = 'web'").await;
        server.services.clients.invalidate("web");
        for changes in [&[("scope", "admin")][..], &[("response_type", "token")], &[("prompt", "none"), ("max_age", "x")]] {
            for method in [Method::GET, Method::POST] {
                assert_page(&send(&server, &method, &encode(&request(changes))).await, 400, &format!("{changes:?}"));
            }
        }
    }

    async fn t03_t07_what_may_not_be_a_redirect_uri_is_not_applied(engine) {
        let server = server(engine).await;
        let bad = [
            "https://rp.test/*", "https://*.rp.test/cb", "javascript:alert(1)", "JavaScript:alert(1)", "data:text/html,x", "vbscript:x", "file:///etc/passwd",
            "blob:https://rp.test/x", " https://rp.test/cb", "\\thttps://rp.test/cb", "\\nhttps://rp.test/cb", "https://rp.test/cb#f", "https://u:p@rp.test/cb", "http://rp.test/cb",
        ];
        for uri in bad {
            for field in ["redirect_uris", "post_logout_redirect_uris", "logo_uri", "policy_uri", "tos_uri", "client_uri"] {
                let value = if field.ends_with('s') { format!("[\"{uri}\"]") } else { format!("\"{uri}\"") };
                let more = if field == "redirect_uris" { "" } else { "redirect_uris = [\"https://ok.test/cb\"]" };
                let text = format!("[[client]]\nclient_id = \"evil\"\ngrant_types = [\"authorization_code\"]\n{more}\n{field} = {value}\n");
                let allowed = matches!(field, "logo_uri" | "policy_uri" | "tos_uri" | "client_uri") && ["https://rp.test/*", "https://*.rp.test/cb", "http://rp.test/cb"].contains(&uri);
                match server.try_apply(&text, false).await {
                    Err(problems) => assert!(problems.contains(field), "{field} {uri}: {problems}"),
                    Ok(_) => assert!(allowed, "{field} {uri}"),
                }
            }
        }
    }

    async fn a_posted_request_goes_on_by_get_without_its_parameters(engine) {
        let server = server(engine).await;
        let answer = send(&server, &Method::POST, &encode(&request(&[("login_hint", "somebody@example.com")]))).await;
        assert_eq!((answer.status, answer.header("set-cookie")), (303, None), "the session is not touched");
        let location = answer.header("location").unwrap();
        assert!(location.starts_with(&format!("{}/oauth2/authorize?stored=", server.issuer)), "{location}");
        assert!(!location.contains("somebody") && !location.contains("client_id"));
        for other in ["stored=AAAA", "stored=", "flow=AAAA", "flow=AAAA&flow=AAAA", &format!("flow={}", location.rsplit('=').next().unwrap())] {
            let page = send(&server, &Method::GET, other).await;
            assert!([400, 500].contains(&page.status) && page.header("location").is_none(), "{other}");
        }
    }

    async fn t180_sizes_are_bounded(engine) {
        let server = server(engine).await;
        let (long, many) = ("x".repeat(1 << 20), "&p=1".repeat(100_000));
        for name in ["client_id", "redirect_uri", "state", "scope", "claims", "request", "unknown"] {
            let text = encode(&request(&[(name, &long)]));
            assert_page(&send_too_much(&server, text).await, 413, name);
        }
        assert_page(&send_too_much(&server, many).await, 413, "many");
        let few = format!("{}{}", encode(&request(&[])), (0..150).map(|n| format!("&p{n}=1")).collect::<Vec<_>>().concat());
        assert_told(&server, &send(&server, &Method::GET, &few).await, "query", "invalid_request");
        let scopes = (0..2000).map(|n| format!("s{n}")).collect::<Vec<_>>().join(" ");
        let text = encode(&request(&[("scope", &scopes)]));
        assert_told(&server, &send(&server, &Method::POST, &text).await, "query", "invalid_scope");
    }

    async fn what_is_no_form_gets_a_page(engine) {
        let server = server(engine).await;
        let url = format!("{}/oauth2/authorize", server.url);
        for kind in ["application/json", "text/plain", "multipart/form-data; boundary=x"] {
            let answer = server.http.post(&url).header("content-type", kind).body(encode(&request(&[]))).send().await.unwrap();
            assert_page(&Answer::of(answer).await, 400, kind);
        }
    }

    async fn s11_no_other_origin_reads_the_endpoint(engine) {
        let server = server(engine).await;
        let url = format!("{}/oauth2/authorize?{}", server.url, encode(&request(&[("scope", "admin")])));
        let answer = server.http.get(&url).header("origin", "https://rp.test").send().await.unwrap();
        assert!(answer.headers().keys().all(|name| !name.as_str().starts_with("access-control")));
        let preflight = server.http.request(Method::OPTIONS, &url).header("origin", "https://rp.test").send().await.unwrap();
        assert!(preflight.headers().keys().all(|name| !name.as_str().starts_with("access-control")));
    }

    /// T-64 among hints: an access token is no ID token, whoever's it is.
    async fn t64_an_access_token_is_no_hint(engine) {
        let server = server(engine).await;
        let token = server.token().await;
        let answer = send(&server, &Method::POST, &encode(&request(&[("id_token_hint", &token)]))).await;
        assert_told(&server, &answer, "query", "invalid_request");
    }
}

/// One statement on the server's database, as an operator might.
pub async fn execute(server: &Server, sql: &'static str) {
    let url = &server.place.url;
    if url.starts_with("sqlite") {
        let mut conn = sqlx::SqliteConnection::connect(url).await.unwrap();
        sqlx::query(sql).execute(&mut conn).await.unwrap();
    } else {
        let mut conn = sqlx::PgConnection::connect(url).await.unwrap();
        sqlx::query(sql).execute(&mut conn).await.unwrap();
    }
}

#[test]
fn t01_the_mutants_are_many_and_never_the_good_one() {
    let mutants = mutants("https://rp.test/cb");
    assert!(mutants.len() >= 300 && !mutants.contains("https://rp.test/cb"), "{}", mutants.len());
}
