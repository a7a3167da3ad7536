//! Fuzz targets: plain functions over any bytes, driven here by a small deterministic mutator and, in long runs, by
//! anything else that makes bytes. A target panics where the code is wrong. F-23.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use josekit::jwk::Jwk;
use josekit::jwk::alg::ed::EdCurve;
use josekit::jws::alg::eddsa::{EddsaJwsSigner, EddsaJwsVerifier};
use josekit::jws::{EdDSA, JwsSigner as _, JwsVerifier as _};
use sealwright::apply::{self, Format};
use sealwright::clients::auth;
use sealwright::config::{Config, Mode};
use sealwright::form::Form;
use sealwright::keys::{JwkSet, Jws, PublicJwk};
use sealwright::wire::{Algorithm, Scope};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{EXAMPLE, Engine, FORM, SECRET, Server, TOKEN, basic, rounds};

/// Parses or refuses; what it parses is what the URL standard's parser sees, in the same order.
pub fn form(bytes: &[u8]) {
    let Ok(form) = Form::parse(bytes) else { return };
    let theirs: Vec<_> = url::form_urlencoded::parse(bytes).filter(|(_, value)| !value.is_empty()).collect();
    for (name, _) in &theirs {
        let expected: Vec<_> =
            theirs.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_ref()).collect();
        assert_eq!(form.all(name).collect::<Vec<_>>(), expected, "{name}");
        assert!(expected.len() == 1 || ["resource", "audience"].contains(&name.as_ref()), "{name} stands twice");
    }
    let names: Vec<_> = url::form_urlencoded::parse(bytes).map(|(name, _)| name).collect();
    assert_eq!(format!("{form:?}"), format!("{names:?}"), "names are shown and nothing else");
}

/// The first line is an `Authorization` header, the rest a form.
pub fn authorization(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (header, rest) = text.split_once('\n').unwrap_or((&text, ""));
    let Ok(form) = Form::parse(rest.as_bytes()) else { return };
    let named = auth::named(Some(header), &form);
    // RFC 6749 §2.3.1, in the words of other people's parsers.
    let theirs =
        header.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic")).and_then(|(_, encoded)| {
            let decoded = String::from_utf8(BASE64_STANDARD.decode(encoded.trim_start_matches(' ')).ok()?).ok()?;
            let (id, _) = decoded.split_once(':')?;
            let pair = format!("a={id}");
            (!id.contains('&')).then(|| url::form_urlencoded::parse(pair.as_bytes()).next().unwrap().1.into_owned())
        });
    if let (Some(ours), Some(theirs)) = (&named, &theirs) {
        assert!(ours == theirs || form.get("client_id") == Some(ours), "{ours:?} {theirs:?}");
    }
}

/// What parses prints, and parses to itself; its tokens are those of the text.
pub fn scope(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(scope) = text.parse::<Scope>() else { return };
    assert_eq!(scope.to_string().parse::<Scope>().unwrap(), scope);
    let mut tokens: Vec<_> = text.split(' ').filter(|token| !token.is_empty()).collect();
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(scope.iter().collect::<Vec<_>>(), tokens);
    assert!(scope.iter().all(|token| token.is_ascii() && !token.contains(['"', '\\'])));
}

/// One Ed25519 key pair, ours and josekit's.
struct Peer {
    signer: EddsaJwsSigner,
    verifier: EddsaJwsVerifier,
    keys: JwkSet,
}

static PEER: LazyLock<Peer> = LazyLock::new(|| {
    let pair = Jwk::generate_ed_key(EdCurve::Ed25519).unwrap();
    let public = pair.to_public_key().unwrap();
    let set = format!("{{\"keys\":[{public}]}}");
    Peer {
        signer: EdDSA.signer_from_jwk(&pair).unwrap(),
        verifier: EdDSA.verifier_from_jwk(&public).unwrap(),
        keys: JwkSet::parse(set.as_bytes()).unwrap(),
    }
});

fn signed(header: &[u8], payload: &[u8]) -> String {
    let input = format!("{}.{}", BASE64_URL_SAFE_NO_PAD.encode(header), BASE64_URL_SAFE_NO_PAD.encode(payload));
    let signature = PEER.signer.sign(input.as_bytes()).unwrap();
    format!("{input}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

/// A token as text: what we say is signed, josekit says too, with the same payload.
pub fn jws(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(jws) = Jws::parse(&text, 16 * 1024) else { return };
    let again: Vec<_> = text.split('.').map(|part| BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).collect();
    assert_eq!((again.len(), &again[1], &again[2]), (3, &jws.payload, &jws.signature));
    let _ = (jws.header.is_typ("at+jwt"), jws.header.algorithm(), jws.claims::<Value>());
    let good = PEER.keys.verify(&jws, &[Algorithm::EdDsa]).is_ok();
    let theirs = PEER.verifier.verify(jws.signing_input.as_bytes(), &jws.signature).is_ok();
    assert!(!good || theirs, "we take a signature that josekit refuses");
    let header: Value = serde_json::from_slice(&again[0]).unwrap();
    let named = header["alg"] == "EdDSA" || header["alg"] == "Ed25519";
    assert!(good == (theirs && named) || header.get("kid").is_some(), "josekit takes a signature that we refuse");
}

/// A header and a payload, parted by a line break, under a good signature: what we take, josekit takes as well.
pub fn jws_content(bytes: &[u8]) {
    let at = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (header, payload) = (&bytes[..at], bytes.get(at + 1..).unwrap_or_default());
    let text = signed(header, payload);
    let Ok(jws) = Jws::parse(&text, 64 * 1024) else { return };
    if PEER.keys.verify(&jws, &[Algorithm::EdDsa]).is_err() {
        return;
    }
    assert_eq!(jws.payload, payload);
    // josekit also checks the types of members that we do not read.
    let unread = ["jku", "jwk", "x5u", "x5c", "x5t", "x5t#S256", "cty", "url", "nonce", "kid"];
    let value: Value = serde_json::from_slice(header).unwrap();
    if value["alg"] == "EdDSA" && unread.iter().all(|name| value.get(name).is_none()) {
        let (theirs, _) = josekit::jws::deserialize_compact(&text, &PEER.verifier).unwrap();
        assert_eq!(theirs, payload);
    }
    if let Ok(claims) = jws.claims::<Value>() {
        assert_eq!(claims, serde_json::from_slice::<Value>(payload).unwrap());
    }
}

/// A key, or a set of them; what parses has a thumbprint and shows nothing private.
pub fn jwk(bytes: &[u8]) {
    if let Ok(key) = PublicJwk::parse(bytes) {
        assert_eq!(key.thumbprint().len(), 43);
        assert!(key.algorithms().count() > 0);
        assert!(key.members().all(|(name, _)| ["crv", "kty", "x", "y", "n", "e"].contains(&name)));
        assert!(Jwk::from_bytes(bytes).is_ok(), "josekit does not see a key");
        let value: Value = serde_json::from_slice(bytes).unwrap();
        assert!(["d", "p", "q", "dp", "dq", "qi", "k"].iter().all(|name| value.get(name).is_none()));
    }
    if let Ok(set) = JwkSet::parse(bytes) {
        assert!(set.keys.len() + set.skipped.len() <= JwkSet::MAX_KEYS);
    }
}

pub fn apply_toml(bytes: &[u8]) {
    applied(bytes, Format::Toml);
}

pub fn apply_json(bytes: &[u8]) {
    applied(bytes, Format::Json);
}

/// A refusal points into the text, in one line.
fn applied(bytes: &[u8], format: Format) {
    let text = String::from_utf8_lossy(bytes);
    if let Err(refused) = apply::parse(&text, format) {
        assert!(refused.line <= text.matches('\n').count() + 2, "{refused}");
        assert!(!refused.to_string().contains('\n'), "{refused}");
    }
}

/// A configuration file and, below a line of dashes, variables of the environment.
pub fn config(bytes: &[u8]) {
    static FILE: LazyLock<std::path::PathBuf> =
        LazyLock::new(|| std::env::temp_dir().join(format!("sealwright_fuzz_{}.toml", std::process::id())));
    let text = String::from_utf8_lossy(bytes);
    let (file, environment) = text.split_once("\n---\n").unwrap_or((&text, ""));
    std::fs::write(&*FILE, file).unwrap();
    // Not those that name a file to read: a fuzzer may name any.
    let variables = environment.lines().filter_map(|line| line.split_once('='));
    let variables = variables.filter(|(name, _)| !name.to_ascii_uppercase().ends_with("_FILE"));
    match Config::load(Some(Path::new(&*FILE)), variables.map(|(name, value)| (name.to_owned(), value.to_owned()))) {
        Ok(config) => {
            let _ = (config.validate(Mode::Production), config.validate(Mode::Development), config.summary());
        }
        Err(problems) => assert!(!problems.0.is_empty()),
    }
    let _ = std::fs::remove_file(&*FILE);
}

/// Marsaglia's xorshift64: the same bytes on every machine and in every run.
struct Mutator {
    state: u64,
}

impl Mutator {
    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap()
    }

    fn pick<'a>(&mut self, from: &[&'a [u8]]) -> &'a [u8] {
        from[self.below(from.len())]
    }

    /// A seed with one to eight edits.
    fn mutate(&mut self, seeds: &[&[u8]], words: &[&[u8]]) -> Vec<u8> {
        const BYTES: &[u8] = b"\0\t\n\r \"%&'+,-./0:;=?@[\\]_{}~\x7f\x80\xc3\xff";
        let mut bytes = self.pick(seeds).to_vec();
        for _ in 0..=self.below(8) {
            let at = self.below(bytes.len() + 1);
            let end = at + self.below((bytes.len() - at).min(40) + 1);
            match self.below(9) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 if at < bytes.len() => bytes[at] = BYTES[self.below(BYTES.len())],
                2 => bytes.insert(at, BYTES[self.below(BYTES.len())]),
                3 => drop(bytes.drain(at..end)),
                4 => {
                    let again = bytes[at..end].to_vec();
                    bytes.splice(at..at, again);
                }
                5 => bytes.truncate(at),
                6 => {
                    let other = self.pick(seeds);
                    let from = self.below(other.len() + 1);
                    bytes.truncate(at);
                    bytes.extend_from_slice(&other[from..]);
                }
                _ => {
                    let word = self.pick(words);
                    bytes.splice(at..end, word.iter().copied());
                }
            }
        }
        bytes.truncate(8192);
        bytes
    }
}

/// Runs `target` on each seed and on many mutants of them; shows the bytes that it panics on.
fn drive(target: fn(&[u8]), seeds: &[&[u8]], words: &[&[u8]]) {
    let mut mutator = Mutator { state: 0x9e37_79b9_7f4a_7c15 };
    let run = |bytes: &[u8]| {
        let ended = catch_unwind(AssertUnwindSafe(|| target(bytes)));
        assert!(ended.is_ok(), "panicked on b\"{}\"", bytes.escape_ascii());
    };
    for seed in seeds {
        run(seed);
    }
    for _ in 0..rounds(20_000) {
        run(&mutator.mutate(seeds, words));
    }
}

#[test]
fn f23_form() {
    let seeds: [&[u8]; 7] = [
        b"grant_type=client_credentials&scope=orders%3Aread+orders%3Awrite&resource=https%3A%2F%2Fapi.example.com",
        b"resource=a&resource=b&audience=%C3%A4&audience=+&x=",
        b"client_id=a%20b+c&client_secret=hunter2",
        b"&&a=b&=&c&d==&",
        b"a=%f0%9f%98%80&b=%00",
        b"token=eyJ.e30.AAAA&token_type_hint=access_token",
        b"a%C3=%A4&scope=a&sc%6Fpe=b",
    ];
    drive(form, &seeds, &[b"&", b"=", b"%", b"%00", b"%C3%A4", b"%c3", b"%2", b"+", b"resource=", b"a=", b"\xff"]);
}

#[test]
fn f23_basic_header() {
    let encoded = |text: &str| format!("Basic {}\nclient_id=a", BASE64_STANDARD.encode(text));
    let seeds = [
        encoded("orders-sync:s%3A%25%2F"),
        encoded("a+b%3Ac:d"),
        encoded(":"),
        encoded("\u{e4}:x"),
        "Bearer x\n".into(),
        "basic   YTpi\n".into(),
    ];
    let seeds: Vec<&[u8]> = seeds.iter().map(String::as_bytes).collect();
    drive(
        authorization,
        &seeds,
        &[b"Basic ", b"YTpi", b"Og==", b"=", b"/w==", b"JTAw", b"JQ==", b" ", b"\n", b"client_id=b"],
    );
}

#[test]
fn f23_scope() {
    let seeds: [&[u8]; 5] = [b"orders:read orders:write", b"a b a", b"", b"!#[]~", b"openid https://a.example/x"];
    drive(scope, &seeds, &[b" ", b"  ", b"\"", b"\\", b"a", b"\xc3\xa4", b"\x7f", b"\0"]);
}

const HEADERS: [&str; 4] = [
    r#"{"alg":"EdDSA","typ":"at+jwt"}"#,
    r#"{"typ":"application/client-authentication+jwt","alg":"EdDSA","crit":["exp"]}"#,
    r#"{"alg":"none"}"#,
    r#"{"alg":"EdDSA","b64":false,"zip":"DEF","jku":"https://a.example"}"#,
];
const CLAIMS: [&str; 3] =
    [r#"{"iss":"a","sub":"a","aud":"b","exp":1.5e9,"jti":"x","n":{"a":[1,null,true]}}"#, r#"{"a":1,"a":2}"#, "[]"];

#[test]
fn f23_jws() {
    let mut seeds: Vec<String> =
        HEADERS.iter().flat_map(|header| CLAIMS.map(|claims| signed(header.as_bytes(), claims.as_bytes()))).collect();
    // Both take the good one, or the comparison shows nothing.
    let good = Jws::parse(&seeds[0], 16 * 1024).unwrap();
    assert!(PEER.keys.verify(&good, &[Algorithm::EdDsa]).is_ok());
    assert!(josekit::jws::deserialize_compact(&seeds[0], &PEER.verifier).is_ok());
    seeds.extend(["..".into(), "e30.e30.AA".into(), "eyJhbGciOiJub25lIn0.e30.".into()]);
    let seeds: Vec<&[u8]> = seeds.iter().map(String::as_bytes).collect();
    drive(jws, &seeds, &[b".", b"..", b"=", b"e30", b"A", b"-", b"_", b"+", b"/", b"\n", b"eyJhbGciOiJub25lIn0"]);
}

#[test]
fn f23_jws_content() {
    let seeds: Vec<String> =
        HEADERS.iter().flat_map(|header| CLAIMS.map(|claims| format!("{header}\n{claims}"))).collect();
    let seeds: Vec<&[u8]> = seeds.iter().map(String::as_bytes).collect();
    let words: [&[u8]; 15] = [
        b"\"alg\"",
        b"\"EdDSA\"",
        b"\"none\"",
        b"null",
        b"{",
        b"}",
        b"[",
        b",",
        b":",
        b"\"",
        b"\\u0061",
        b"\\",
        b"1e999",
        b"\"typ\"",
        b"[[[[[[[[",
    ];
    drive(jws_content, &seeds, &words);
}

#[test]
fn f23_jwk() {
    let rsa = Jwk::generate_rsa_key(2048).unwrap().to_public_key().unwrap().to_string();
    let ec = Jwk::generate_ec_key(josekit::jwk::alg::ec::EcCurve::P256).unwrap();
    let ec_public = ec.to_public_key().unwrap().to_string();
    let ed = Jwk::generate_ed_key(EdCurve::Ed25519).unwrap().to_public_key().unwrap().to_string();
    let full = ed.replacen('{', r#"{"kid":"a","alg":"EdDSA","key_ops":["verify"],"#, 1);
    let set = format!(r#"{{"keys":[{rsa},{ec_public},{ed},{{"kty":"oct"}}]}}"#);
    let seeds = [rsa, ec.to_string(), ec_public, ed, full, set];
    for seed in [&seeds[0], &seeds[2], &seeds[3], &seeds[4]] {
        assert!(PublicJwk::parse(seed.as_bytes()).is_ok(), "{seed}");
    }
    assert_eq!(JwkSet::parse(seeds[5].as_bytes()).unwrap().keys.len(), 3);
    let seeds: Vec<&[u8]> = seeds.iter().map(String::as_bytes).collect();
    let words: [&[u8]; 18] = [
        b"\"kty\"",
        b"\"OKP\"",
        b"\"EC\"",
        b"\"RSA\"",
        b"\"oct\"",
        b"\"crv\"",
        b"\"P-256\"",
        b"\"Ed25519\"",
        b"\"X25519\"",
        b"\"d\":\"AA\",",
        b"\"k\":\"AA\",",
        b"\"use\":\"enc\",",
        b"\"alg\":\"PS256\",",
        b"\"e\":\"AQ\"",
        b"{",
        b"}",
        b"null",
        b"AAAA",
    ];
    drive(jwk, &seeds, &words);
}

#[test]
fn f23_apply_toml() {
    let more = r#"
[[client]]
client_id = "jwt"
token_endpoint_auth_method = "private_key_jwt"
jwks = { keys = [{ kty = "OKP", crv = "Ed25519", x = "AAAA" }] }
client_secrets = [{ label = "a", secret = "hunter2", expires_at = "2126-01-01T00:00:00Z" }]
allowed_origins = ["https://app.example.com"]
"#;
    let words: [&[u8]; 12] = [
        b"[[client]]\n",
        b"[[resource]]\n",
        b"client_id",
        b" = ",
        b"\"\"\"",
        b"'",
        b"\n",
        b"1e400",
        b"2126-01-01",
        b"{ ",
        b"[[",
        b"disabled = true\n",
    ];
    drive(apply_toml, &[EXAMPLE.as_bytes(), more.as_bytes(), b"", b"\xef\xbb\xbf[[client]]"], &words);
}

#[test]
fn f23_apply_json() {
    let seeds: [&[u8]; 3] = [
        br#"{"resource":[{"identifier":"https://api.example.com","scopes":{"a":"b"},"access_token_lifetime":300}],
            "client":[{"client_id":"a","client_secret":"hunter2hunter2hunter2hunter2hunter2","scope":"a"}]}"#,
        b"{\"client\":\n[{\"client_id\":\n5}]}",
        b"{}",
    ];
    let words: [&[u8]; 12] =
        [b"{", b"}", b"[", b"]", b"\"", b"\\", b"\\u0000", b"null", b"1e999", b"\"client_id\":", b"\n", b"[[[[[[[[[["];
    drive(apply_json, &seeds, &words);
}

#[test]
fn f23_config() {
    let seeds: [&[u8]; 4] = [
        b"issuer = \"https://id.example.com\"\n[http]\nlisten = [\"localhost:8080\"]\ntrusted_proxies = [\"10.0.0.0/8\"]\nmax_body_bytes = 65536\n[database]\nurl = \"postgres://a:hunter2@localhost/b\"\n",
        b"issuer = \"http://localhost\"\n---\nSEALWRIGHT_HTTP__LISTEN=127.0.0.1:1,[::1]:2\nSEALWRIGHT_KEYS__ALGORITHMS=RS256,EdDSA\nSEALWRIGHT_DATABASE__URL=hunter2\n",
        b"[log]\nfilter = \"info,sqlx=warn\"\nformat = \"pretty\"\n[secrets]\nargon2_memory_kib = 8000\n---\nSEALWRIGHT_MASTER_KEY__VALUE=hunter2\n",
        b"",
    ];
    let words: [&[u8]; 16] = [
        b"[",
        b"]",
        b"\"",
        b"'''",
        b" = ",
        b"\n",
        b"\n---\n",
        b"SEALWRIGHT_",
        b"__",
        b"99999999999999999999",
        b"-1",
        b"[tls]\n",
        b"::1",
        b"https://",
        b"=",
        b"inf",
    ];
    drive(config, &seeds, &words);
}

/// Heads of requests, and what follows them, as bytes on a connection: never a 5xx, a panic or a connection for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f23_http_requests() {
    let (server, _) = Server::example(Engine::Sqlite).await;
    let address = server.url.strip_prefix("http://").unwrap();
    let auth = basic("orders-sync", SECRET);
    let head = format!("Host: a\r\nAuthorization: {auth}\r\nContent-Type: {FORM}\r\n");
    let seeds = [
        format!("POST {TOKEN} HTTP/1.1\r\n{head}Content-Length: 29\r\n\r\ngrant_type=client_credentials"),
        format!(
            "POST /oauth2/introspect HTTP/1.1\r\n{head}Transfer-Encoding: chunked\r\n\r\n7\r\ntoken=x\r\n0\r\n\r\n"
        ),
        "GET /.well-known/jwks.json HTTP/1.1\r\nHost: a\r\nIf-None-Match: \"a\", W/\"b\"\r\nRange: bytes=0-1\r\n\r\n"
            .into(),
        format!(
            "OPTIONS {TOKEN} HTTP/1.1\r\nHost: a\r\nOrigin: https://a\r\nAccess-Control-Request-Method: POST\r\n\r\n"
        ),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x05\x01\x05\0\0\0\x01\u{2}\u{4}\u{6}".into(),
    ];
    let seeds: Vec<&[u8]> = seeds.iter().map(String::as_bytes).collect();
    let words: [&[u8]; 16] = [
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\r",
        b" ",
        b":",
        b"Content-Length: ",
        b"Transfer-Encoding: chunked\r\n",
        b"HTTP/1.0",
        b"HTTP/2.0",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"Expect: 100-continue\r\n",
        b"Upgrade: h2c\r\n",
        b"0\r\n\r\n",
        b"%",
        b"\0\0\x04\x08\0\0\0\0\0",
    ];
    let mut mutator = Mutator { state: 0x2545_f491_4f6c_dd1d };
    for round in 0..rounds(20_000) / 8 {
        let request = mutator.mutate(&seeds, &words);
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.write_all(&request).await;
        let _ = stream.shutdown().await;
        let read = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "round {round}: the connection stays open: {}", request.escape_ascii());
        let failed = answer.windows(10).any(|window| window == b"HTTP/1.1 5");
        assert!(!failed, "round {round}: {}\n{}", request.escape_ascii(), String::from_utf8_lossy(&answer));
    }
    let metrics = server.http.get(format!("{}/metrics", server.management)).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("sealwright_http_panics_total 0"), "{metrics}");
    server.token().await;
}
