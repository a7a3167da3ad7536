//! The fuzz targets: plain functions over any bytes, their seeds and their words. A target panics where the code is
//! wrong. The tests drive them by a small mutator of their own (fuzz.rs), long runs by libFuzzer (`tests/fuzz`). F-23.

use std::path::Path;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use josekit::jwk::Jwk;
use josekit::jwk::alg::ec::EcCurve;
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

/// What is fuzzed, from where, and with which words.
pub struct Target {
    pub name: &'static str,
    /// Panics where the code is wrong.
    pub run: fn(&[u8]),
    /// Good input and nearly good input.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// What the input is made of.
    pub words: &'static [&'static [u8]],
}

pub const TARGETS: [Target; 9] = [
    Target { name: "form", run: form, seeds: form_seeds, words: FORM_WORDS },
    Target { name: "authorization", run: authorization, seeds: authorization_seeds, words: AUTHORIZATION_WORDS },
    Target { name: "scope", run: scope, seeds: scope_seeds, words: SCOPE_WORDS },
    Target { name: "jws", run: jws, seeds: jws_seeds, words: JWS_WORDS },
    Target { name: "jws_content", run: jws_content, seeds: jws_content_seeds, words: JWS_CONTENT_WORDS },
    Target { name: "jwk", run: jwk, seeds: jwk_seeds, words: JWK_WORDS },
    Target { name: "apply_toml", run: apply_toml, seeds: apply_toml_seeds, words: APPLY_TOML_WORDS },
    Target { name: "apply_json", run: apply_json, seeds: apply_json_seeds, words: APPLY_JSON_WORDS },
    Target { name: "config", run: config, seeds: config_seeds, words: CONFIG_WORDS },
];

fn owned<const N: usize>(seeds: [&[u8]; N]) -> Vec<Vec<u8>> {
    seeds.map(<[u8]>::to_vec).to_vec()
}

/// Parses or refuses; what it parses is what the URL standard's parser sees, in the same order.
fn form(bytes: &[u8]) {
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
fn authorization(bytes: &[u8]) {
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
fn scope(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(scope) = text.parse::<Scope>() else { return };
    assert_eq!(scope.to_string().parse::<Scope>().unwrap(), scope);
    let mut tokens: Vec<_> = text.split(' ').filter(|token| !token.is_empty()).collect();
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(scope.iter().collect::<Vec<_>>(), tokens);
    assert!(scope.iter().all(|token| token.is_ascii() && !token.contains(['"', '\\'])));
}

/// RFC 8037 appendix A: the same key in every run, so that what a fuzzer has found stays signed.
const PAIR: &str = r#"{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
    "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

/// One Ed25519 key pair, ours and josekit's.
struct Peer {
    signer: EddsaJwsSigner,
    verifier: EddsaJwsVerifier,
    keys: JwkSet,
}

static PEER: LazyLock<Peer> = LazyLock::new(|| {
    let pair = Jwk::from_bytes(PAIR).unwrap();
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
fn jws(bytes: &[u8]) {
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
fn jws_content(bytes: &[u8]) {
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
fn jwk(bytes: &[u8]) {
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

fn apply_toml(bytes: &[u8]) {
    applied(bytes, Format::Toml);
}

fn apply_json(bytes: &[u8]) {
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
fn config(bytes: &[u8]) {
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

fn form_seeds() -> Vec<Vec<u8>> {
    owned([
        b"grant_type=client_credentials&scope=orders%3Aread+orders%3Awrite&resource=https%3A%2F%2Fapi.example.com",
        b"resource=a&resource=b&audience=%C3%A4&audience=+&x=",
        b"client_id=a%20b+c&client_secret=hunter2",
        b"&&a=b&=&c&d==&",
        b"a=%f0%9f%98%80&b=%00",
        b"token=eyJ.e30.AAAA&token_type_hint=access_token",
        b"a%C3=%A4&scope=a&sc%6Fpe=b",
    ])
}

const FORM_WORDS: &[&[u8]] = &[b"&", b"=", b"%", b"%00", b"%C3%A4", b"%c3", b"%2", b"+", b"resource=", b"a=", b"\xff"];

fn authorization_seeds() -> Vec<Vec<u8>> {
    let encoded = |text: &str| format!("Basic {}\nclient_id=a", BASE64_STANDARD.encode(text));
    let seeds = [
        encoded("orders-sync:s%3A%25%2F"),
        encoded("a+b%3Ac:d"),
        encoded(":"),
        encoded("\u{e4}:x"),
        "Bearer x\n".into(),
        "basic   YTpi\n".into(),
    ];
    seeds.map(String::into_bytes).to_vec()
}

const AUTHORIZATION_WORDS: &[&[u8]] =
    &[b"Basic ", b"YTpi", b"Og==", b"=", b"/w==", b"JTAw", b"JQ==", b" ", b"\n", b"client_id=b"];

fn scope_seeds() -> Vec<Vec<u8>> {
    owned([b"orders:read orders:write", b"a b a", b"", b"!#[]~", b"openid https://a.example/x"])
}

const SCOPE_WORDS: &[&[u8]] = &[b" ", b"  ", b"\"", b"\\", b"a", b"\xc3\xa4", b"\x7f", b"\0"];

const HEADERS: [&str; 4] = [
    r#"{"alg":"EdDSA","typ":"at+jwt"}"#,
    r#"{"typ":"application/client-authentication+jwt","alg":"EdDSA","crit":["exp"]}"#,
    r#"{"alg":"none"}"#,
    r#"{"alg":"EdDSA","b64":false,"zip":"DEF","jku":"https://a.example"}"#,
];
const CLAIMS: [&str; 3] =
    [r#"{"iss":"a","sub":"a","aud":"b","exp":1.5e9,"jti":"x","n":{"a":[1,null,true]}}"#, r#"{"a":1,"a":2}"#, "[]"];

/// Or a comparison shows nothing.
fn both_take(token: &str) {
    let good = Jws::parse(token, 16 * 1024).unwrap();
    assert!(PEER.keys.verify(&good, &[Algorithm::EdDsa]).is_ok());
    assert!(josekit::jws::deserialize_compact(token, &PEER.verifier).is_ok());
}

fn jws_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<String> =
        HEADERS.iter().flat_map(|header| CLAIMS.map(|claims| signed(header.as_bytes(), claims.as_bytes()))).collect();
    both_take(&seeds[0]);
    seeds.extend(["..".into(), "e30.e30.AA".into(), "eyJhbGciOiJub25lIn0.e30.".into()]);
    seeds.into_iter().map(String::into_bytes).collect()
}

const JWS_WORDS: &[&[u8]] = &[b".", b"..", b"=", b"e30", b"A", b"-", b"_", b"+", b"/", b"\n", b"eyJhbGciOiJub25lIn0"];

fn jws_content_seeds() -> Vec<Vec<u8>> {
    both_take(&signed(HEADERS[0].as_bytes(), CLAIMS[0].as_bytes()));
    let seeds = HEADERS.iter().flat_map(|header| CLAIMS.map(|claims| format!("{header}\n{claims}")));
    seeds.map(String::into_bytes).collect()
}

const JWS_CONTENT_WORDS: &[&[u8]] = &[
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

fn jwk_seeds() -> Vec<Vec<u8>> {
    let rsa = Jwk::generate_rsa_key(2048).unwrap().to_public_key().unwrap().to_string();
    let ec = Jwk::generate_ec_key(EcCurve::P256).unwrap();
    let ec_public = ec.to_public_key().unwrap().to_string();
    let ed = Jwk::generate_ed_key(EdCurve::Ed25519).unwrap().to_public_key().unwrap().to_string();
    let full = ed.replacen('{', r#"{"kid":"a","alg":"EdDSA","key_ops":["verify"],"#, 1);
    let set = format!(r#"{{"keys":[{rsa},{ec_public},{ed},{{"kty":"oct"}}]}}"#);
    let seeds = [rsa, ec.to_string(), ec_public, ed, full, set];
    for seed in [&seeds[0], &seeds[2], &seeds[3], &seeds[4]] {
        assert!(PublicJwk::parse(seed.as_bytes()).is_ok(), "{seed}");
    }
    assert_eq!(JwkSet::parse(seeds[5].as_bytes()).unwrap().keys.len(), 3);
    seeds.map(String::into_bytes).to_vec()
}

const JWK_WORDS: &[&[u8]] = &[
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

fn apply_toml_seeds() -> Vec<Vec<u8>> {
    let all = br#"
[[resource]]
identifier = "https://api.example.com"
name = "Orders API"
scopes = { "orders:read" = "Read orders", "orders:write" = "Change orders" }
access_token_lifetime = 300
access_token_signed_response_alg = "EdDSA"

[[client]]
client_id = "orders-sync"
grant_types = ["client_credentials"]
token_endpoint_auth_method = "client_secret_basic"
client_secret = "imported-secret-of-at-least-32-characters"   # leave out to have one generated
scope = "orders:read orders:write"
resources = ["https://api.example.com"]
serves = ["https://api.example.com"]
"#;
    let more = br#"
[[client]]
client_id = "jwt"
token_endpoint_auth_method = "private_key_jwt"
jwks = { keys = [{ kty = "OKP", crv = "Ed25519", x = "AAAA" }] }
client_secrets = [{ label = "a", secret = "hunter2", expires_at = "2126-01-01T00:00:00Z" }]
allowed_origins = ["https://app.example.com"]
"#;
    owned([all, more, b"", b"\xef\xbb\xbf[[client]]"])
}

const APPLY_TOML_WORDS: &[&[u8]] = &[
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

fn apply_json_seeds() -> Vec<Vec<u8>> {
    owned([
        br#"{"resource":[{"identifier":"https://api.example.com","scopes":{"a":"b"},"access_token_lifetime":300}],
            "client":[{"client_id":"a","client_secret":"hunter2hunter2hunter2hunter2hunter2","scope":"a"}]}"#,
        b"{\"client\":\n[{\"client_id\":\n5}]}",
        b"{}",
    ])
}

const APPLY_JSON_WORDS: &[&[u8]] =
    &[b"{", b"}", b"[", b"]", b"\"", b"\\", b"\\u0000", b"null", b"1e999", b"\"client_id\":", b"\n", b"[[[[[[[[[["];

fn config_seeds() -> Vec<Vec<u8>> {
    owned([
        b"issuer = \"https://id.example.com\"\n[http]\nlisten = [\"localhost:8080\"]\ntrusted_proxies = [\"10.0.0.0/8\"]\nmax_body_bytes = 65536\n[database]\nurl = \"postgres://a:hunter2@localhost/b\"\n",
        b"issuer = \"http://localhost\"\n---\nSEALWRIGHT_HTTP__LISTEN=127.0.0.1:1,[::1]:2\nSEALWRIGHT_KEYS__ALGORITHMS=RS256,EdDSA\nSEALWRIGHT_DATABASE__URL=hunter2\n",
        b"[log]\nfilter = \"info,sqlx=warn\"\nformat = \"pretty\"\n[secrets]\nargon2_memory_kib = 8000\n---\nSEALWRIGHT_MASTER_KEY__VALUE=hunter2\n",
        b"",
    ])
}

const CONFIG_WORDS: &[&[u8]] = &[
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
