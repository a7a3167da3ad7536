//! Client assertions: RFC 7523 §3 as updated by RFC 10070, and the single use of each.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use josekit::jwk::Jwk;
use josekit::jws::{ES256, EdDSA, JwsHeader, JwsSigner, PS256, RS256};
use sealwright::clock::SECOND;
use sealwright::config::{Config, Issuer};
use sealwright::keys::KeyPair;
use sealwright::wire::Algorithm;
use serde_json::{Value, json};

use crate::support::{Answer, Engine, INTROSPECT, REVOKE, SECRET, Server, TOKEN, both, encode, part, rounds};

/// RFC 7523 §2.2.
pub const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// RFC 10070.
pub const TYP: &str = "client-authentication+jwt";

/// A client's key.
pub struct Key {
    pub kid: String,
    pub algorithm: Algorithm,
    pair: KeyPair,
}

impl Key {
    pub fn new(kid: &str, algorithm: Algorithm) -> Self {
        Self { kid: kid.to_owned(), algorithm, pair: KeyPair::generate(algorithm, 2048).unwrap().0 }
    }

    pub fn ed25519(kid: &str) -> Self {
        Self::new(kid, Algorithm::EdDsa)
    }

    /// One RSA key as two: for RS256 and for PS256. It is made once for all tests: that takes its time.
    pub fn rsa(kid: &str, algorithm: Algorithm) -> Self {
        static PKCS8: LazyLock<Vec<u8>> =
            LazyLock::new(|| KeyPair::generate(Algorithm::Rs256, 2048).unwrap().1.to_vec());
        Self { kid: kid.to_owned(), algorithm, pair: KeyPair::from_pkcs8(algorithm, &PKCS8).unwrap() }
    }

    /// The public half, with `kid` and without `alg`.
    pub fn jwk(&self) -> Value {
        let mut jwk: Value =
            self.pair.public_jwk().members().map(|(name, value)| (name.to_owned(), json!(value))).collect();
        jwk["kid"] = json!(self.kid);
        jwk
    }

    pub fn header(&self) -> Value {
        json!({"alg": self.algorithm.as_str(), "typ": TYP, "kid": self.kid})
    }

    pub fn sign_bytes(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).unwrap()
    }

    pub fn sign_as(&self, header: &Value, claims: &Value) -> String {
        compact(&header.to_string(), &claims.to_string(), |message| self.sign_bytes(message))
    }

    pub fn sign(&self, claims: &Value) -> String {
        self.sign_as(&self.header(), claims)
    }
}

/// A compact JWS of these very texts.
pub fn compact(header: &str, payload: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let input = format!("{}.{}", encode(header.as_bytes()), encode(payload.as_bytes()));
    let signature = encode(&sign(input.as_bytes()));
    format!("{input}.{signature}")
}

pub fn now(server: &Server) -> i64 {
    server.clock.now() / SECOND
}

/// What `id` says in a good assertion, with a `jti` of its own.
pub fn claims(server: &Server, id: &str) -> Value {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let (now, jti) = (now(server), format!("jti-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    json!({"iss": id, "sub": id, "aud": server.issuer, "exp": now + 60, "iat": now, "jti": jti})
}

/// `value` with the members of `change`.
pub fn with(value: &Value, change: &Value) -> Value {
    let mut value = value.clone();
    for (name, member) in change.as_object().unwrap() {
        value[name] = member.clone();
    }
    value
}

pub fn without(value: &Value, name: &str) -> Value {
    let mut value = value.clone();
    value.as_object_mut().unwrap().remove(name).unwrap();
    value
}

/// An `apply` file's client with these public keys.
pub fn client(id: &str, keys: &[Value], more: &str) -> String {
    let table = |key: &Value| {
        let members: Vec<_> =
            key.as_object().unwrap().iter().map(|(name, value)| format!("{name} = {value}")).collect();
        format!("{{ {} }}", members.join(", "))
    };
    let keys: Vec<_> = keys.iter().map(table).collect();
    format!(
        "[[client]]\nclient_id = \"{id}\"\ntoken_endpoint_auth_method = \"private_key_jwt\"\nscope = \"orders:read\"\n\
         jwks = {{ keys = [{}] }}\n{more}\n",
        keys.join(", ")
    )
}

pub fn form<'a>(path: &str, assertion: &'a str) -> Vec<(&'a str, &'a str)> {
    let rest = if path == TOKEN { ("grant_type", "client_credentials") } else { ("token", "x") };
    vec![("client_assertion_type", TYPE), ("client_assertion", assertion), rest]
}

pub async fn present(server: &Server, assertion: &str) -> Answer {
    server.post(TOKEN, None, &form(TOKEN, assertion)).await
}

#[track_caller]
pub fn assert_token(answer: &Answer, id: &str) {
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(part(answer.json["access_token"].as_str().unwrap(), 1)["client_id"], id);
}

/// Each of `cases` is refused and burns nothing: `good`, of the same `jti`, works after them, once.
pub async fn refused_without_burning(server: &Server, cases: &[String], good: &str) {
    for case in cases {
        let answer = present(server, case).await;
        assert_eq!(answer.json["error"], "invalid_client", "{}: {} {}", answer.text, shown(case, 0), shown(case, 1));
        answer.assert_error(401, "invalid_client");
    }
    let answer = present(server, good).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    present(server, good).await.assert_error(401, "invalid_client");
}

/// A part of a token as text, for messages.
pub fn shown(token: &str, at: usize) -> String {
    let part = token.split('.').nth(at).unwrap_or_default();
    BASE64_URL_SAFE_NO_PAD.decode(part).map_or_else(|_| part.into(), |text| String::from_utf8_lossy(&text).into_owned())
}

async fn example_with(engine: Engine, clients: &str) -> Server {
    let (server, _) = Server::example(engine).await;
    server.apply(clients).await;
    server
}

/// Keys and signatures by OpenSSL, not by us.
struct Foreign {
    jwk: Jwk,
    signer: Box<dyn JwsSigner + Send + Sync>,
}

static FOREIGN: LazyLock<Vec<Foreign>> = LazyLock::new(|| {
    let rsa = Jwk::generate_rsa_key(2048).unwrap();
    let ec = Jwk::generate_ec_key(josekit::jwk::P_256).unwrap();
    let ed = Jwk::generate_ed_key(josekit::jwk::Ed25519).unwrap();
    vec![
        Foreign { signer: Box::new(RS256.signer_from_jwk(&rsa).unwrap()), jwk: rsa.clone() },
        Foreign { signer: Box::new(PS256.signer_from_jwk(&rsa).unwrap()), jwk: rsa },
        Foreign { signer: Box::new(ES256.signer_from_jwk(&ec).unwrap()), jwk: ec },
        Foreign { signer: Box::new(EdDSA.signer_from_jwk(&ed).unwrap()), jwk: ed },
    ]
});

both! {
    async fn t180_a_name_that_no_client_can_have_costs_no_query(engine) {
        let key = Key::ed25519("k");
        let (server, _) = Server::example(engine).await;
        let names = ["a\u{0}b".to_owned(), "\u{0}".into(), "x".repeat(129), "x".repeat(3000), "a b".into(), "\u{e9}".into(), "'--".into()];
        let before = server.services.db.statements();
        for at in 0..40 {
            for name in &names {
                let name = format!("{name}{at}");
                present(&server, &key.sign(&claims(&server, &name))).await.assert_error(401, "invalid_client");
                if !name.contains('\0') {
                    let form = [("grant_type", "client_credentials"), ("client_id", name.as_str())];
                    server.post(TOKEN, None, &form).await.assert_error(401, "invalid_client");
                    let form = [form[0], form[1], ("client_secret", "x")];
                    server.post(TOKEN, None, &form).await.assert_error(401, "invalid_client");
                    server.post(INTROSPECT, Some((&name, "x")), &[("token", "x")]).await.assert_error(401, "invalid_client");
                }
            }
        }
        // The node's own work goes on beside.
        let sent = server.services.db.statements() - before;
        assert!(sent < 140, "{sent} statements for 960 requests");
    }

    async fn rfc7523_3_a_client_authenticates_by_its_inline_keys(engine) {
        let mut clients = String::new();
        for foreign in &*FOREIGN {
            let public: Value = serde_json::to_value(foreign.jwk.to_public_key().unwrap().as_ref()).unwrap();
            clients += &client(&format!("by-{}", foreign.signer.algorithm().name()), &[public], "");
        }
        let server = example_with(engine, &clients).await;
        for foreign in &*FOREIGN {
            let id = format!("by-{}", foreign.signer.algorithm().name());
            let mut header = JwsHeader::new();
            header.set_token_type(TYP);
            let payload = claims(&server, &id).to_string();
            let assertion = josekit::jws::serialize_compact(payload.as_bytes(), &header, &*foreign.signer).unwrap();
            assert_token(&present(&server, &assertion).await, &id);
        }
        // RFC 9864 has another name for what RFC 8037 calls EdDSA.
        let key = Key::ed25519("k");
        server.apply(&client("ed", &[key.jwk()], "")).await;
        for alg in ["EdDSA", "Ed25519"] {
            let assertion = key.sign_as(&with(&key.header(), &json!({"alg": alg})), &claims(&server, "ed"));
            assert_token(&present(&server, &assertion).await, "ed");
        }
        // Its client_id beside the assertion is not needed, and may be there.
        let assertion = key.sign(&claims(&server, "ed"));
        let named = [form(TOKEN, &assertion), vec![("client_id", "ed")]].concat();
        assert_token(&server.post(TOKEN, None, &named).await, "ed");
    }

    async fn s20_the_registered_algorithm_is_the_only_one(engine) {
        let (rs, ps) = (Key::rsa("k", Algorithm::Rs256), Key::rsa("k", Algorithm::Ps256));
        let ed = Key::ed25519("e");
        let both = [rs.jwk(), ed.jwk()];
        let key_says = with(&rs.jwk(), &json!({"alg": "RS256"}));
        let clients = [
            client("any", &both, ""),
            client("ps", &both, "token_endpoint_auth_signing_alg = \"PS256\""),
            client("ed", &both, "token_endpoint_auth_signing_alg = \"EdDSA\""),
            client("key-says", &[key_says], ""),
        ];
        let server = example_with(engine, &clients.concat()).await;
        for (id, fine) in [("any", [true, true, true]), ("ps", [false, true, false]), ("ed", [false, false, true]), ("key-says", [true, false, false])] {
            for (key, fine) in [&rs, &ps, &ed].into_iter().zip(fine) {
                let answer = present(&server, &key.sign(&claims(&server, id))).await;
                assert_eq!(answer.status, if fine { 200 } else { 401 }, "{id} {}: {}", key.algorithm, answer.text);
            }
        }
        let answer = present(&server, &ed.sign_as(&with(&ed.header(), &json!({"alg": "Ed25519"})), &claims(&server, "ed"))).await;
        assert_token(&answer, "ed");
    }

    async fn t41_aud_is_the_issuer_as_a_string(engine) {
        let key = Key::ed25519("k");
        let opted = client("opted", &[key.jwk()], "client_assertion_audience = \"issuer_or_token_endpoint\"");
        let server = example_with(engine, &[client("strict", &[key.jwk()], ""), opted].concat()).await;
        let (issuer, token) = (server.issuer.clone(), format!("{}{TOKEN}", server.issuer));
        let never = [
            json!(format!("{issuer}/")),
            json!([issuer]),
            json!([issuer, "https://other.example.com"]),
            json!([token]),
            json!([issuer, token]),
            json!([]),
            json!("https://other.example.com"),
            json!(format!("https://other.example.com/?{issuer}")),
            json!(format!("{issuer}{INTROSPECT}")),
            json!(format!("{issuer}{REVOKE}")),
            json!(format!("{issuer}/oauth2/par")),
            json!(format!("{issuer}/.well-known/openid-configuration")),
            json!(format!("{token}/")),
            json!(format!("{token}?")),
            json!(format!("{issuer} ")),
            json!(issuer.replace("http://", "HTTP://")),
            json!(issuer.replace("http://", "https://")),
            json!(issuer.replace("127.0.0.1", "localhost")),
            json!(issuer.replace("http://", "")),
            json!("https://api.example.com"),
            json!("strict"),
            json!(""),
            json!(null),
            json!(7),
            json!({"aud": issuer}),
        ];
        for id in ["strict", "opted"] {
            let good = claims(&server, id);
            let mut cases: Vec<_> = never.iter().map(|aud| key.sign(&with(&good, &json!({"aud": aud})))).collect();
            cases.push(key.sign(&without(&good, "aud")));
            let by_endpoint = with(&good, &json!({"aud": token}));
            if id == "strict" {
                cases.push(key.sign(&by_endpoint));
            }
            refused_without_burning(&server, &cases, &key.sign(&good)).await;
        }
        let by_endpoint = with(&claims(&server, "opted"), &json!({"aud": token}));
        assert_token(&present(&server, &key.sign(&by_endpoint)).await, "opted");
        // Another AS that this client also uses cannot pass on what it was sent (CVE-2025-27370): not at any endpoint.
        let foreign = key.sign(&with(&claims(&server, "strict"), &json!({"aud": ["https://other.example.com", issuer]})));
        for path in [TOKEN, INTROSPECT, REVOKE] {
            server.post(path, None, &form(path, &foreign)).await.assert_error(401, "invalid_client");
        }
    }

    async fn rfc10070_typ_follows_the_clients_policy(engine) {
        let key = Key::ed25519("k");
        let strict = client("strict", &[key.jwk()], "require_client_assertion_typ = true");
        let server = example_with(engine, &[client("old", &[key.jwk()], ""), strict].concat()).await;
        let typ = |typ: Value| with(&key.header(), &json!({"typ": typ}));
        let new = ["client-authentication+jwt", "Client-Authentication+JWT", "application/client-authentication+jwt"];
        let old = [typ(json!("JWT")), typ(json!("jwt")), without(&key.header(), "typ")];
        // T-64, RFC 8725bis §3.11: a JWT of another kind is no assertion, whoever signed it.
        let never = [
            json!("at+jwt"), json!("application/at+jwt"), json!("AT+JWT"), json!("dpop+jwt"), json!("logout+jwt"), json!("secevent+jwt"),
            json!("oauth-authz-req+jwt"), json!("token-introspection+jwt"), json!("oauth-client-attestation+jwt"), json!("JWT "),
            json!("client-authentication"), json!("jwt-client-authentication+jwt"), json!(""), json!(null), json!(1), json!(["JWT"]),
        ];
        for id in ["old", "strict"] {
            for name in new {
                assert_token(&present(&server, &key.sign_as(&typ(json!(name)), &claims(&server, id))).await, id);
            }
            let good = claims(&server, id);
            let mut cases: Vec<_> = never.iter().map(|name| key.sign_as(&typ(name.clone()), &good)).collect();
            for header in &old {
                if id == "strict" {
                    cases.push(key.sign_as(header, &good));
                } else {
                    assert_token(&present(&server, &key.sign_as(header, &claims(&server, id))).await, id);
                }
            }
            refused_without_burning(&server, &cases, &key.sign(&good)).await;
        }
    }

    async fn rfc7523_3_iss_and_sub_are_the_client(engine) {
        let (key, other) = (Key::ed25519("k"), Key::ed25519("k"));
        let clients = [client("one", &[key.jwk()], ""), client("two", &[other.jwk()], "")];
        let server = example_with(engine, &clients.concat()).await;
        let good = claims(&server, "one");
        let changes = [
            json!({"iss": "two"}), json!({"sub": "two"}), json!({"iss": "two", "sub": "two"}), json!({"iss": server.issuer}),
            json!({"iss": ""}), json!({"sub": ""}), json!({"iss": null}), json!({"sub": ["one"]}), json!({"sub": 1}), json!({"iss": ["one"]}),
            // Clients without keys, and none at all.
            json!({"iss": "orders-sync", "sub": "orders-sync"}), json!({"iss": "nobody", "sub": "nobody"}),
            json!({"iss": "a\u{0}b", "sub": "a\u{0}b"}), json!({"iss": "one\u{0}", "sub": "one\u{0}"}),
        ];
        let mut cases: Vec<_> = changes.iter().map(|change| key.sign(&with(&good, change))).collect();
        cases.extend(["iss", "sub"].map(|name| key.sign(&without(&good, name))));
        // The right words under another client's key.
        cases.push(other.sign(&good));
        let assertion = key.sign(&good);
        for disagreeing in ["two", "orders-sync", "nobody", "ONE"] {
            for path in [TOKEN, INTROSPECT, REVOKE] {
                let form = [form(path, &assertion), vec![("client_id", disagreeing)]].concat();
                server.post(path, None, &form).await.assert_error(400, "invalid_request");
            }
        }
        refused_without_burning(&server, &cases, &assertion).await;
    }

    async fn s45_exp_nbf_and_iat_have_their_bounds(engine) {
        let key = Key::ed25519("k");
        let server = example_with(engine, &client("one", &[key.jwk()], "")).await;
        let good = claims(&server, "one");
        let now = now(&server);
        let refused = [
            json!({"exp": now}), json!({"exp": now - 1}), json!({"exp": now - 3600}), json!({"exp": 0}), json!({"exp": -1}),
            json!({"exp": now + 3700}), json!({"exp": now + 86_400}), json!({"exp": 1e18}), json!({"exp": 1e300}),
            json!({"exp": (now + 60).to_string()}), json!({"exp": null}), json!({"exp": [now + 60]}), json!({"exp": true}),
            json!({"nbf": now + 65}), json!({"nbf": now + 3600}), json!({"nbf": -1}), json!({"nbf": null}), json!({"nbf": "0"}), json!({"nbf": 1e300}),
            json!({"iat": now + 65}), json!({"iat": now + 3600}), json!({"iat": -1}), json!({"iat": null}), json!({"iat": "0"}), json!({"iat": 1e300}),
        ];
        let mut cases: Vec<_> = refused.iter().map(|change| key.sign(&with(&good, change))).collect();
        cases.push(key.sign(&without(&good, "exp")));
        refused_without_burning(&server, &cases, &key.sign(&good)).await;
        let accepted = [
            json!({"nbf": now + 9, "iat": now + 9}), json!({"nbf": now + 10, "iat": now + 10}), json!({"nbf": now - 60}), json!({"iat": now - 3600}),
            json!({"exp": now + 3600}), json!({"exp": f64::from(u32::try_from(now + 5).unwrap()) + 0.5}),
        ];
        for change in accepted {
            assert_token(&present(&server, &key.sign(&with(&claims(&server, "one"), &change))).await, "one");
        }
        let no_iat = without(&claims(&server, "one"), "iat");
        assert_token(&present(&server, &key.sign(&no_iat)).await, "one");
        // The bound on the other side: 61 s ahead is refused, at the moment itself.
        for name in ["nbf", "iat"] {
            let at = crate::assertions::now(&server) + 61;
            present(&server, &key.sign(&with(&claims(&server, "one"), &json!({name: at})))).await.assert_error(401, "invalid_client");
        }
    }

    async fn rfc7523_3_jti_is_required_and_bounded(engine) {
        let key = Key::ed25519("k");
        let server = example_with(engine, &client("one", &[key.jwk()], "")).await;
        let good = claims(&server, "one");
        let refused = [json!(""), json!(null), json!(7), json!(["a"]), json!({}), json!("j".repeat(257)), json!("j".repeat(4096)), json!("\u{e9}".repeat(129))];
        let mut cases: Vec<_> = refused.iter().map(|jti| key.sign(&with(&good, &json!({"jti": jti})))).collect();
        cases.push(key.sign(&without(&good, "jti")));
        refused_without_burning(&server, &cases, &key.sign(&good)).await;
        for jti in ["j".repeat(256), "../..".into(), "'; DROP TABLE artifacts; --".into(), "a\u{0}b".into(), "\u{1f511}\r\n".into()] {
            let assertion = key.sign(&with(&good, &json!({"jti": jti})));
            assert_token(&present(&server, &assertion).await, "one");
            present(&server, &assertion).await.assert_error(401, "invalid_client");
        }
    }

    async fn two_keys_at_once_and_a_key_taken_away(engine) {
        let (old, new, stranger) = (Key::ed25519("old"), Key::rsa("new", Algorithm::Ps256), Key::ed25519("old"));
        let server = example_with(engine, &client("one", &[old.jwk(), new.jwk()], "")).await;
        for key in [&old, &new] {
            assert_token(&present(&server, &key.sign(&claims(&server, "one"))).await, "one");
            let unnamed = key.sign_as(&without(&key.header(), "kid"), &claims(&server, "one"));
            assert_token(&present(&server, &unnamed).await, "one");
        }
        let good = claims(&server, "one");
        let header = |kid: Value| with(&old.header(), &json!({"kid": kid}));
        let cases = [
            // A kid that is not the key's, of another key, of no key; the right kid over a wrong key.
            old.sign_as(&header(json!("new")), &good),
            old.sign_as(&header(json!("unknown")), &good),
            old.sign_as(&header(json!("")), &good),
            old.sign_as(&header(json!("OLD")), &good),
            old.sign_as(&header(json!(null)), &good),
            stranger.sign(&good),
            stranger.sign_as(&without(&stranger.header(), "kid"), &good),
        ];
        refused_without_burning(&server, &cases, &old.sign(&good)).await;

        // Expired: from that moment on.
        let ends = server.clock.now() + 30 * SECOND;
        let committed = server.services.db.write(move |tx| Box::pin(async move {
            let (_, credentials) = sealwright::store::clients::find(tx, "one").await?.unwrap();
            let old = credentials.iter().find(|credential| credential.label == "old").unwrap();
            sealwright::store::clients::set_expiry(tx, "one", &old.id, Some(ends)).await
        })).await.unwrap();
        sealwright::nodes::acted_on(&server.services, committed.seq.unwrap()).await.unwrap();
        assert_token(&present(&server, &old.sign(&claims(&server, "one"))).await, "one");
        server.clock.advance(Duration::from_secs(31));
        let good = claims(&server, "one");
        refused_without_burning(&server, &[old.sign(&good)], &new.sign(&good)).await;

        // Taken away: from apply's return on.
        server.apply(&client("one", &[old.jwk()], "")).await;
        present(&server, &new.sign(&claims(&server, "one"))).await.assert_error(401, "invalid_client");
    }

    async fn t46_a_disabled_client_is_refused_and_nothing_is_burnt(engine) {
        let key = Key::ed25519("k");
        let server = example_with(engine, &client("one", &[key.jwk()], "disabled = true")).await;
        let assertion = key.sign(&claims(&server, "one"));
        for path in [TOKEN, INTROSPECT, REVOKE] {
            server.post(path, None, &form(path, &assertion)).await.assert_error(401, "invalid_client");
        }
        server.apply(&client("one", &[key.jwk()], "")).await;
        assert_token(&present(&server, &assertion).await, "one");
        present(&server, &assertion).await.assert_error(401, "invalid_client");
    }

    async fn t49_an_assertion_beside_another_method_is_refused_and_not_burnt(engine) {
        let key = Key::ed25519("k");
        let server = example_with(engine, &client("one", &[key.jwk()], "")).await;
        let assertion = key.sign(&claims(&server, "one"));
        let body = form(TOKEN, &assertion);
        for id in ["one", "orders-sync"] {
            server.post(TOKEN, Some((id, SECRET)), &body).await.assert_error(400, "invalid_request");
        }
        let with_secret = [body.clone(), vec![("client_id", "one"), ("client_secret", SECRET)]].concat();
        server.post(TOKEN, None, &with_secret).await.assert_error(400, "invalid_request");
        let twice = format!("{}&client_assertion={assertion}", encode(&body));
        let answer = server.http.post(format!("{}{TOKEN}", server.url)).header("content-type", crate::support::FORM).body(twice);
        Answer::of(answer.send().await.unwrap()).await.assert_error(400, "invalid_request");
        for other in ["urn:ietf:params:oauth:client-assertion-type:saml2-bearer", "urn:ietf:params:oauth:grant-type:jwt-bearer", ""] {
            let form = [("client_assertion_type", other), body[1], body[2]];
            server.post(TOKEN, None, &form).await.assert_error(400, "invalid_request");
        }
        // Another method than the registered one: no secret for this client, no assertion for that one.
        server.post(TOKEN, Some(("one", SECRET)), &[body[2]]).await.assert_error(401, "invalid_client");
        server.post(TOKEN, None, &[body[2], ("client_id", "one")]).await.assert_error(401, "invalid_client");
        let bearer = server.http.post(format!("{}{TOKEN}", server.url)).header("content-type", crate::support::FORM).header("authorization", format!("Bearer {assertion}"));
        Answer::of(bearer.body("grant_type=client_credentials").send().await.unwrap()).await.assert_error(401, "invalid_client");
        server.post(TOKEN, Some(("one", &assertion)), &[body[2]]).await.assert_error(401, "invalid_client");
        assert_token(&present(&server, &assertion).await, "one");
    }

    async fn t40_an_assertion_works_once(engine) {
        let (key, other) = (Key::ed25519("k"), Key::ed25519("k"));
        let clients = [client("one", &[key.jwk()], ""), client("two", &[other.jwk()], "")];
        let server = example_with(engine, &clients.concat()).await;
        let good = claims(&server, "one");
        let assertion = key.sign(&good);
        assert_token(&present(&server, &assertion).await, "one");
        present(&server, &assertion).await.assert_error(401, "invalid_client");
        // It is the jti that is burnt, not the text.
        let reworded = key.sign(&with(&good, &json!({"exp": now(&server) + 120, "x": 1})));
        present(&server, &reworded).await.assert_error(401, "invalid_client");
        // Another client's same jti is another jti.
        let same = with(&claims(&server, "two"), &json!({"jti": good["jti"]}));
        assert_token(&present(&server, &other.sign(&same)).await, "two");
        // Whatever becomes of the request: who authenticated has used the assertion up.
        let spent = key.sign(&claims(&server, "one"));
        let out_of_scope = [form(TOKEN, &spent), vec![("scope", "unknown")]].concat();
        server.post(TOKEN, None, &out_of_scope).await.assert_error(400, "invalid_scope");
        present(&server, &spent).await.assert_error(401, "invalid_client");
    }

    async fn t40_an_assertion_is_burnt_at_every_endpoint(engine) {
        let key = Key::ed25519("k");
        let server = example_with(engine, &client("one", &[key.jwk()], "serves = [\"https://api.example.com\"]")).await;
        let token = server.token().await;
        for first in [TOKEN, INTROSPECT, REVOKE] {
            let assertion = key.sign(&claims(&server, "one"));
            let answer = server.post(first, None, &form(first, &assertion)).await;
            assert_eq!(answer.status, 200, "{first}: {}", answer.text);
            for second in [TOKEN, INTROSPECT, REVOKE] {
                server.post(second, None, &form(second, &assertion)).await.assert_error(401, "invalid_client");
            }
        }
        let assertion = key.sign(&claims(&server, "one"));
        let ask = [form(TOKEN, &assertion)[..2].to_vec(), vec![("token", token.as_str())]].concat();
        assert_eq!(server.post(INTROSPECT, None, &ask).await.json["active"], true);
        server.post(INTROSPECT, None, &ask).await.assert_error(401, "invalid_client");
    }

    async fn t40_a_burnt_assertion_stays_burnt_for_its_life(engine) {
        let key = Key::ed25519("k");
        let server = example_with(engine, &client("one", &[key.jwk()], "")).await;
        let assertion = key.sign(&with(&claims(&server, "one"), &json!({"exp": now(&server) + 3600})));
        let unused = key.sign(&claims(&server, "one"));
        assert_token(&present(&server, &assertion).await, "one");

        // Over a restart.
        let (place, issuer, clock) = (server.place.clone(), server.issuer.clone(), server.clock.clone());
        server.stop().await;
        let change = move |config: &mut Config| config.issuer = Some(Issuer::parse(&issuer).unwrap());
        let server = Server::at(place, clock, change).await;
        present(&server, &assertion).await.assert_error(401, "invalid_client");
        assert_token(&present(&server, &unused).await, "one");

        // Over the sweep, to its last second.
        server.clock.advance(Duration::from_secs(3590));
        sealwright::jobs::sweep_once(&server.services).await.unwrap();
        let answer = present(&server, &assertion).await;
        answer.assert_error(401, "invalid_client");
        assert!(answer.text.contains("used before"), "{}", answer.text);
        server.clock.advance(Duration::from_secs(15));
        sealwright::jobs::sweep_once(&server.services).await.unwrap();
        let answer = present(&server, &assertion).await;
        answer.assert_error(401, "invalid_client");
        assert!(answer.text.contains("expired"), "{}", answer.text);
    }

    async fn t40_one_of_64_parallel_presentations_wins(engine) {
        let key = Key::ed25519("k");
        let server = example_with(engine, &client("one", &[key.jwk()], "")).await;
        let second = if engine == Engine::Postgres { Some(server.another().await) } else { None };
        for round in 0..rounds(10) {
            let assertion = key.sign(&claims(&server, "one"));
            let presented = (0..64).map(|at| {
                let node = if at % 2 == 0 { &server } else { second.as_ref().unwrap_or(&server) };
                present(node, &assertion)
            });
            let answers = join_all(presented).await;
            let won = answers.iter().filter(|answer| answer.status == 200).count();
            assert_eq!(won, 1, "round {round}");
            for answer in answers.iter().filter(|answer| answer.status != 200) {
                answer.assert_error(401, "invalid_client");
            }
        }
    }
}

/// Two nodes that burn the same ids at the same time, met in opposite orders, wait for each other and not in a circle:
/// each id has one first use, and nobody is told to come again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t40_two_nodes_that_burn_the_same_ids_do_not_deadlock() {
    let a = Server::empty(Engine::Postgres).await;
    let b = a.another().await;
    for round in 0..rounds(10) {
        let ids: Vec<_> = (0..240).map(|at| format!("{round}-{at}")).collect();
        let until = a.clock.now() + 60 * SECOND;
        let here = join_all(ids.iter().map(|id| a.services.replay.client_assertion("one", id, until)));
        let there = join_all(ids.iter().rev().map(|id| b.services.replay.client_assertion("one", id, until)));
        let (here, mut there) = tokio::join!(here, there);
        there.reverse();
        for (here, there) in here.into_iter().zip(there) {
            assert!(here.unwrap() ^ there.unwrap(), "round {round}");
        }
    }
}
