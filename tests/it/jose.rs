//! JOSE under attack and under foreign eyes: hostile tokens in every slot (RFC 8725bis), and real tokens read by
//! josekit (OpenSSL) and the oauth2 crate.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::hmac;
use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use josekit::jwk::Jwk;
use josekit::jws::{ES256, EdDSA, JwsVerifier, PS256, RS256};
use oauth2::basic::BasicClient;
use oauth2::{AuthType, ClientId, ClientSecret, Scope, TokenResponse, TokenUrl};
use sealwright::keys::{MasterKey, Signer};
use sealwright::store::signing_keys;
use sealwright::wire::Algorithm;
use serde_json::{Value, json};

use crate::assertions::{
    Key, TYP, assert_token, claims, client, compact, form, present, refused_without_burning, shown, with, without,
};
use crate::jwks_uri::{Say, Site, allow_loopback};
use crate::support::{
    Answer, EXAMPLE, Engine, FORM, INTROSPECT, MASTER_KEY, SECRET, Server, TOKEN, both, encode, part,
};

const INACTIVE: &str = "{\"active\":false}";

fn b64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// What an attacker may take for the HMAC key: everything that is public about `jwk`, and nothing at all.
fn hmac_keys(jwk: &Value) -> Vec<Vec<u8>> {
    let bytes = |name: &str| BASE64_URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap();
    let (raw, spki) = match jwk["kty"].as_str().unwrap() {
        "RSA" => {
            let key = PublicKeyComponents { n: bytes("n"), e: bytes("e") };
            let parsed = key.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256).unwrap();
            (vec![bytes("n"), jwk["n"].as_str().unwrap().into()], parsed)
        }
        "EC" => {
            let point = [vec![4], bytes("x"), bytes("y")].concat();
            let parsed = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point).unwrap();
            (vec![point, bytes("x"), jwk["x"].as_str().unwrap().into()], parsed)
        }
        _ => {
            let parsed = ParsedPublicKey::new(&ED25519, bytes("x")).unwrap();
            (vec![bytes("x"), jwk["x"].as_str().unwrap().into()], parsed)
        }
    };
    let der = spki.as_der().unwrap().as_ref().to_vec();
    let base64 = BASE64_STANDARD.encode(&der);
    let lines: Vec<_> = base64.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----", lines.join("\n"));
    let mut keys = vec![
        Vec::new(),
        vec![0; 32],
        format!("{pem}\n").into_bytes(),
        pem.into_bytes(),
        der,
        jwk.to_string().into_bytes(),
        serde_json::to_vec_pretty(jwk).unwrap(),
        jwk["kid"].as_str().unwrap().into(),
    ];
    keys.extend(raw);
    keys
}

/// `claims` under each HMAC algorithm and each of [`hmac_keys`], with and without the `kid`.
fn hmac_confused(jwk: &Value, typ: &str, claims: &Value) -> Vec<String> {
    let mut tokens = Vec::new();
    for (name, algorithm) in [("HS256", hmac::HMAC_SHA256), ("HS384", hmac::HMAC_SHA384), ("HS512", hmac::HMAC_SHA512)]
    {
        for key in hmac_keys(jwk) {
            let key = hmac::Key::new(algorithm, &key);
            let header = json!({"alg": name, "typ": typ, "kid": jwk["kid"]});
            for header in [without(&header, "kid"), header] {
                let sign = |message: &[u8]| hmac::sign(&key, message).as_ref().to_vec();
                tokens.push(compact(&header.to_string(), &claims.to_string(), sign));
            }
        }
    }
    tokens
}

/// Tokens that only a careless reader takes for the one of `header` and `claims`, most of them truly signed.
fn hostile(header: &Value, claims: &Value, sign: &dyn Fn(&[u8]) -> Vec<u8>) -> Vec<String> {
    let (head, payload) = (header.to_string(), claims.to_string());
    let good = compact(&head, &payload, sign);
    let [h, p, s] = good.split('.').collect::<Vec<_>>()[..] else { panic!() };
    let signature = BASE64_URL_SAFE_NO_PAD.decode(s).unwrap();
    let altered = |change: Value| compact(&with(header, &change).to_string(), &payload, sign);
    let texts = |head: &str, payload: &str| compact(head, payload, sign);
    let signed = |input: String| format!("{input}.{}", b64(sign(input.as_bytes())));
    let mut tokens = vec![good.clone() + "=", format!("{h}=.{p}.{s}"), format!("{h}.{p}=.{s}")];

    // T-61: alg is one exact name; a truly signed token under another name is another token.
    let own = header["alg"].as_str().unwrap();
    let names = ["none", "None", "NONE", "nOnE", "", " none", "HS256", "ES512", "RS512", "ES256K", "EdDSA ", "eddsa"];
    for name in names.into_iter().chain(["RS256", "PS256", "ES256", "EdDSA"]).filter(|name| *name != own) {
        let token = altered(json!({"alg": name}));
        let unsigned = token.rsplit_once('.').unwrap().0.to_owned();
        tokens.extend([token, format!("{unsigned}."), unsigned]);
    }
    for alg in [json!(null), json!([own]), json!([]), json!(1), json!({"alg": own}), json!(true)] {
        tokens.push(altered(json!({"alg": alg})));
    }
    tokens.push(texts(&without(header, "alg").to_string(), &payload));
    tokens.push(texts(&head.replacen('{', "{\"alg\":\"none\",", 1), &payload));
    tokens.push(texts(&head.replacen('}', ",\"alg\":\"none\"}", 1), &payload));
    tokens.push(texts(&head.replacen('{', "{\"\\u0061lg\":\"none\",", 1), &payload));
    // GHSA-5739-39v2-5754: the JSON serialization, with its unprotected header.
    let flat = json!({"protected": h, "payload": p, "signature": s});
    let bare = json!({"header": header, "payload": p, "signature": s});
    let empty = json!({"protected": b64("{}"), "header": header, "payload": p, "signature": s});
    let general = json!({"payload": p, "signatures": [{"protected": h, "signature": s}]});
    tokens.extend([flat, bare, empty, general].map(|json| json.to_string()));
    tokens.push(format!("{{}}.{p}.{s}"));
    // Parts too many, too few, and others' alphabets.
    tokens.extend([format!("{good}.{s}"), format!("{h}.{p}"), format!("{h}.{p}."), format!(".{p}.{s}"), "..".into()]);
    tokens.extend([format!("{h}..{s}"), format!("{good}.."), format!("{h}.{h}.{p}.{s}.{s}"), b64(&good)]);
    tokens.push(format!("{h}.{p}.{}", BASE64_STANDARD.encode(&signature)));
    // White space, anywhere.
    for space in [" ", "\n", "\r\n", "\t", "\u{a0}", "\u{feff}"] {
        tokens.extend([format!("{space}{good}"), format!("{good}{space}"), format!("{h}.{space}{p}.{s}")]);
        tokens.push(signed(format!("{h}{space}.{p}")));
    }
    // Padding that is truly signed.
    let padded = |text: &str| base64::prelude::BASE64_URL_SAFE.encode(text);
    for (h, p) in [(padded(&head), b64(&payload)), (b64(&head), padded(&payload))] {
        if h.contains('=') || p.contains('=') {
            tokens.push(signed(format!("{h}.{p}")));
        }
    }
    // Extensions that change what is signed, or demand to be understood.
    for change in [
        json!({"crit": []}),
        json!({"crit": ["exp"], "exp": 1}),
        json!({"crit": null}),
        json!({"crit": ["alg"]}),
        json!({"b64": true}),
        json!({"b64": false}),
        json!({"crit": ["b64"], "b64": true}),
        json!({"crit": ["b64"], "b64": false}),
        json!({"crit": ["http://example.invalid/UNDEFINED"], "http://example.invalid/UNDEFINED": true}),
        json!({"typ": null}),
        json!({"typ": 1}),
        json!({"kid": null}),
        json!({"kid": 1}),
        json!({"kid": [header["kid"]]}),
    ] {
        tokens.push(altered(change));
    }
    let unencoded = with(header, &json!({"crit": ["b64"], "b64": false})).to_string();
    tokens.push(signed(format!("{}.{payload}", b64(unencoded))));
    // Two readers of a repeated name may each take another one of the values.
    let (name, value) = claims.as_object().unwrap().iter().next().unwrap();
    tokens.push(texts(&head, &payload.replacen('{', &format!("{{\"{name}\":{value},"), 1)));
    tokens.push(texts(&head, &payload.replacen('{', "{\"exp\":1,", 1)));
    tokens.push(texts(&head, &payload.replacen('{', "{\"x\":{\"a\":1,\"a\":2},", 1)));
    // Not objects, not JSON, not text.
    for other in ["", "[]", "null", "\"x\"", "1", "{", &format!("[{payload}]"), &format!("{payload}x")] {
        tokens.extend([texts(&head, other), texts(other, &payload)]);
    }
    tokens.push(texts(&format!("\u{feff}{head}"), &payload));
    tokens.push(texts(&head, &format!("\u{feff}{payload}")));
    let deep = format!("{{\"x\":{}{},", "[".repeat(200), "]".repeat(200));
    tokens.push(texts(&head, &payload.replacen('{', &deep, 1)));
    tokens.push(signed(format!("{h}.{}", b64(b"{\"\xff\":1}"))));
    // Signatures: cut, longer, zero (CVE-2022-21449), all ones, one bit away; and the same bytes in other letters.
    let mut flipped = signature.clone();
    flipped[0] ^= 1;
    for other in [
        signature[1..].to_vec(),
        signature[..signature.len() - 1].to_vec(),
        [&signature[..], &[0]].concat(),
        [&[0], &signature[..]].concat(),
        vec![0; signature.len()],
        vec![0xff; signature.len()],
        vec![0],
        flipped,
        signature.iter().rev().copied().collect(),
    ] {
        tokens.push(format!("{h}.{p}.{}", b64(other)));
    }
    for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".chars() {
        if !good.ends_with(last) && signature.len() % 3 != 0 {
            tokens.push(format!("{}{last}", &good[..good.len() - 1]));
        }
    }
    tokens.retain(|token| *token != good);
    tokens
}

/// The clients of one key each, and their keys.
async fn three_clients(engine: Engine) -> (Server, String, Vec<Key>) {
    let (server, gateway) = Server::example(engine).await;
    let keys = vec![Key::ed25519("ed"), Key::new("ec", Algorithm::Es256), Key::rsa("rs", Algorithm::Rs256)];
    for key in &keys {
        server.apply(&client(&key.kid, &[key.jwk()], "")).await;
    }
    (server, gateway, keys)
}

/// The server's own keys, as it publishes them.
async fn published(server: &Server) -> Vec<Value> {
    let keys = server.get("/.well-known/jwks.json").await.json["keys"].as_array().unwrap().clone();
    assert_eq!(keys.len(), 2 * Algorithm::ALL.len(), "one that signs and one that will, of each");
    keys
}

fn signer(server: &Server, kid: &Value) -> std::sync::Arc<Signer> {
    let ring = server.services.keys.ring();
    ring.entries().iter().find(|entry| entry.kid == *kid).unwrap().signer.clone().unwrap()
}

async fn inactive(server: &Server, gateway: &str, tokens: &[String]) {
    for token in tokens {
        let answer = server.introspect(gateway, token).await;
        assert_eq!((answer.status, answer.text.as_str()), (200, INACTIVE), "{token}: {}", shown(token, 0));
    }
}

both! {
    async fn t60_public_keys_are_no_hmac_keys_for_assertions(engine) {
        let (server, _, keys) = three_clients(engine).await;
        for key in &keys {
            let good = claims(&server, &key.kid);
            let public = with(&key.jwk(), &json!({"alg": key.algorithm.as_str()}));
            let mut cases = hmac_confused(&key.jwk(), TYP, &good);
            cases.extend(hmac_confused(&public, TYP, &good));
            refused_without_burning(&server, &cases, &key.sign(&good)).await;
        }
        // Nor is a client's secret: there is no client_secret_jwt here.
        let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
        let header = json!({"alg": "HS256", "typ": TYP}).to_string();
        let assertion = compact(&header, &claims(&server, "orders-sync").to_string(), |message| hmac::sign(&key, message).as_ref().to_vec());
        present(&server, &assertion).await.assert_error(401, "invalid_client");
    }

    async fn t60_our_public_keys_are_no_hmac_keys_for_access_tokens(engine) {
        let (server, gateway) = Server::example(engine).await;
        let claims = part(&server.token().await, 1);
        for jwk in published(&server).await {
            inactive(&server, &gateway, &hmac_confused(&jwk, "at+jwt", &claims)).await;
        }
    }

    async fn t61_s30_a_hostile_assertion_is_refused_and_burns_nothing(engine) {
        let (server, _, keys) = three_clients(engine).await;
        for key in &keys {
            let good = claims(&server, &key.kid);
            let cases = hostile(&key.header(), &good, &|message| key.sign_bytes(message));
            refused_without_burning(&server, &cases, &key.sign(&good)).await;
        }
    }

    async fn t61_s30_a_hostile_access_token_is_inactive(engine) {
        let (server, gateway) = Server::example(engine).await;
        let claims = part(&server.token().await, 1);
        for jwk in published(&server).await {
            let signer = signer(&server, &jwk["kid"]);
            let sign = |message: &[u8]| signer.pair().sign(message).unwrap();
            let header = json!({"alg": jwk["alg"], "typ": "at+jwt", "kid": jwk["kid"]});
            inactive(&server, &gateway, &hostile(&header, &claims, &sign)).await;
            // What they were made of is a token: each was refused for what was done to it.
            let good = compact(&header.to_string(), &claims.to_string(), sign);
            assert_eq!(server.introspect(&gateway, &good).await.json["active"], true);
        }
    }

    async fn t60_t61_a_hostile_id_token_hint_is_none(engine) {
        let server = Server::empty(engine).await;
        let claims = json!({"iss": server.issuer, "sub": "u", "aud": "web", "exp": 1, "iat": 1, "auth_time": 1});
        for jwk in published(&server).await {
            let signer = signer(&server, &jwk["kid"]);
            let sign = |message: &[u8]| signer.pair().sign(message).unwrap();
            let header = json!({"alg": jwk["alg"], "typ": "JWT", "kid": jwk["kid"]});
            let hint = |token: &str| sealwright::issue::hint(&server.services.keys.ring(), &server.issuer, token);
            assert!(hint(&compact(&header.to_string(), &claims.to_string(), sign)).is_some());
            for token in hmac_confused(&jwk, "JWT", &claims).into_iter().chain(hostile(&header, &claims, &sign)) {
                assert_eq!(hint(&token), None, "{token}: {}", shown(&token, 0));
            }
        }
    }

    async fn s20_one_key_has_one_algorithm(engine) {
        let (server, gateway) = Server::example(engine).await;
        let claims = part(&server.token().await, 1);
        let keys = published(&server).await;
        // Every kid under every alg, signed by the key of the kid and by the key of the alg.
        for named in &keys {
            for other in keys.iter().filter(|other| other["kid"] != named["kid"]) {
                let header = json!({"alg": other["alg"], "typ": "at+jwt", "kid": named["kid"]}).to_string();
                // The key of the kid under its own algorithm is no confusion: that is its token.
                for by in [named, other].into_iter().filter(|by| by["kid"] != named["kid"] || other["alg"] != named["alg"]) {
                    let signer = signer(&server, &by["kid"]);
                    let token = compact(&header, &claims.to_string(), |message| signer.pair().sign(message).unwrap());
                    inactive(&server, &gateway, &[token]).await;
                }
            }
            let unnamed = json!({"alg": named["alg"], "typ": "at+jwt"}).to_string();
            let signer = signer(&server, &named["kid"]);
            inactive(&server, &gateway, &[compact(&unnamed, &claims.to_string(), |message| signer.pair().sign(message).unwrap())]).await;
        }
        // The RS256 key truly signing PS256, and the other way round: right for the key, wrong for its name.
        let rows = server.services.db.read(|conn| Box::pin(signing_keys::list(conn))).await.unwrap();
        let master = MasterKey::parse(MASTER_KEY).unwrap();
        for (own, other) in [(Algorithm::Rs256, Algorithm::Ps256), (Algorithm::Ps256, Algorithm::Rs256)] {
            let row = rows.iter().find(|row| row.alg == own.as_str()).unwrap();
            let pkcs8 = master.open(format!("signing_key:{}", row.kid).as_bytes(), row.sealed.as_ref().unwrap()).unwrap();
            for (alg, active) in [(own, true), (other, false)] {
                let pair = sealwright::keys::KeyPair::from_pkcs8(alg, &pkcs8).unwrap();
                let header = json!({"alg": alg.as_str(), "typ": "at+jwt", "kid": row.kid}).to_string();
                let token = compact(&header, &claims.to_string(), |message| pair.sign(message).unwrap());
                assert_eq!(server.introspect(&gateway, &token).await.json["active"], active, "{own} as {alg}");
            }
        }
    }

    async fn t70_kid_is_data_and_no_key_is_fetched_from_a_header(engine) {
        let site = Site::start(Say::Keys(Vec::new())).await;
        let server = Server::with(engine, allow_loopback).await;
        server.apply(EXAMPLE).await;
        let (key, evil) = (Key::ed25519("k"), Key::ed25519("evil"));
        site.say(Say::Keys(vec![evil.jwk()]));
        server.apply(&client("one", &[key.jwk()], "")).await;
        let claims_of_token = part(&server.token().await, 1);
        let good = claims(&server, "one");
        let mut cases = Vec::new();
        for kid in ["../../../etc/passwd", "..\\..\\nul", "/dev/null", "k' OR '1'='1", "' UNION SELECT kid FROM signing_keys --", "\"", "k\u{0}", "\u{0}", "%00", "k ", " k", "K", "\u{202e}k", "$(id)", "{{7*7}}", site.url.as_str()] {
            cases.push(key.sign_as(&with(&key.header(), &json!({"kid": kid})), &good));
        }
        cases.push(key.sign_as(&with(&key.header(), &json!({"kid": "k".repeat(11_000)})), &good));
        // The attacker's key in the header, or where to get it.
        for change in [json!({"jku": site.url}), json!({"x5u": site.url}), json!({"jwk": evil.jwk()}), json!({"jku": site.url, "x5u": site.url, "jwk": evil.jwk(), "x5c": [BASE64_STANDARD.encode(b"x")]})] {
            for kid in ["evil", "k"] {
                cases.push(evil.sign_as(&with(&evil.header(), &with(&change, &json!({"kid": kid}))), &good));
            }
        }
        refused_without_burning(&server, &cases, &key.sign(&good)).await;
        // Under the right key they are words that nobody reads.
        let decorated = with(&key.header(), &json!({"jku": site.url, "x5u": site.url, "jwk": evil.jwk(), "x5t": "x"}));
        assert_token(&present(&server, &key.sign_as(&decorated, &claims(&server, "one"))).await, "one");

        // A mebibyte of kid does not fit any request, and says so; its connection is of no more use.
        let huge = key.sign_as(&with(&key.header(), &json!({"kid": "k".repeat(1 << 20)})), &good);
        let answer = crate::support::client().post(format!("{}{TOKEN}", server.url)).header("content-type", FORM).body(encode(&form(TOKEN, &huge))).send().await;
        if let Ok(answer) = answer {
            Answer::of(answer).await.assert_error(413, "invalid_request");
        }
        // One of 30 KiB fits the body and is too long for a parameter.
        let long = key.sign_as(&with(&key.header(), &json!({"kid": "k".repeat(30_000)})), &good);
        present(&server, &long).await.assert_error(400, "invalid_request");

        // Introspection.
        let ring = server.services.keys.ring();
        let signer = ring.active(Algorithm::EdDsa).unwrap();
        for kid in ["../../../etc/passwd", "' OR '1'='1", "\u{0}", &format!("{}\u{0}", signer.kid()), &"k".repeat(4000), &"k".repeat(9000)] {
            for change in [json!({}), json!({"jku": site.url, "x5u": site.url, "jwk": evil.jwk()})] {
                let header = with(&json!({"alg": "EdDSA", "typ": "at+jwt", "kid": kid}), &change).to_string();
                for token in [
                    compact(&header, &claims_of_token.to_string(), |message| signer.pair().sign(message).unwrap()),
                    compact(&header, &claims_of_token.to_string(), |message| evil.sign_bytes(message)),
                ] {
                    let answer = server.post(INTROSPECT, Some(("orders-sync", SECRET)), &[("token", &token)]).await;
                    assert_eq!((answer.status, answer.text.as_str()), (200, INACTIVE));
                }
            }
        }
        assert_eq!(site.hits(), 0);
    }

    async fn t64_a_jwt_of_one_kind_is_nothing_in_anothers_place(engine) {
        let (server, gateway) = Server::example(engine).await;
        let claims_of_token = part(&server.token().await, 1);
        let ring = server.services.keys.ring();
        for &algorithm in Algorithm::ALL {
            let signer = ring.active(algorithm).unwrap();
            let sign = |header: &Value, claims: &Value| compact(&header.to_string(), &claims.to_string(), |message| signer.pair().sign(message).unwrap());
            let header = json!({"alg": signer.alg_name(), "typ": "at+jwt", "kid": signer.kid()});
            assert_eq!(server.introspect(&gateway, &sign(&header, &claims_of_token)).await.json["active"], true);
            let mut tokens = vec![sign(&without(&header, "typ"), &claims_of_token)];
            for typ in ["JWT", "jwt", "logout+jwt", "client-authentication+jwt", "token-introspection+jwt", "dpop+jwt", "secevent+jwt", "oauth-authz-req+jwt", "at+jwt ", "xat+jwt", ""] {
                tokens.push(sign(&with(&header, &json!({"typ": typ})), &claims_of_token));
            }
            // S-26: our key, another issuer; and each claim of an access token missing (T-67).
            for iss in ["https://other.example.com", "", &format!("{}/", server.issuer)] {
                tokens.push(sign(&header, &with(&claims_of_token, &json!({"iss": iss}))));
            }
            for name in ["iss", "sub", "aud", "client_id", "iat", "exp", "jti"] {
                tokens.push(sign(&header, &without(&claims_of_token, name)));
            }
            for change in [json!({"client_id": "nobody"}), json!({"client_id": ["orders-sync"]}), json!({"aud": "https://other.example.com"}), json!({"aud": {}}), json!({"exp": "9999999999"}), json!({"exp": 1}), json!({"scope": ["orders:read"]})] {
                tokens.push(sign(&header, &with(&claims_of_token, &change)));
            }
            inactive(&server, &gateway, &tokens).await;
        }
        // An ID token's claims, typed as one.
        let id_token = json!({"iss": server.issuer, "sub": "orders-sync", "aud": "orders-sync", "iat": claims_of_token["iat"], "exp": claims_of_token["exp"], "nonce": "n"});
        let id_token = ring.active(Algorithm::Rs256).unwrap().sign(sealwright::keys::Typ::Jwt, &id_token).await.unwrap();
        inactive(&server, &gateway, std::slice::from_ref(&id_token)).await;

        // As a client assertion: nothing that we sign, even for a client whose keys are said to be ours, and whatever
        // audience and issuer its claims have.
        let key = Key::ed25519("k");
        let ours: Vec<Value> = published(&server).await;
        server.apply(&[client("one", &[key.jwk()], ""), client("mirror", &ours, "")].concat()).await;
        let good = claims(&server, "one");
        let at = with(&key.header(), &json!({"typ": "at+jwt"}));
        let access_token = server.token().await;
        let cases = [access_token.clone(), id_token, key.sign_as(&at, &good)];
        refused_without_burning(&server, &cases, &key.sign(&good)).await;
        let mirrored = with(&claims_of_token, &claims(&server, "mirror"));
        let token = ring.active(Algorithm::EdDsa).unwrap().sign(sealwright::keys::Typ::AccessToken, &mirrored).await.unwrap();
        present(&server, &token).await.assert_error(401, "invalid_client");
        // And an assertion is no access token.
        inactive(&server, &gateway, &[key.sign(&good), key.sign_as(&at, &good), key.sign_as(&at, &claims_of_token)]).await;
    }

    async fn josekit_verifies_what_we_issue(engine) {
        let server = Server::empty(engine).await;
        let resources = Algorithm::ALL.iter().map(|alg| {
            format!("[[resource]]\nidentifier = \"https://{alg}.example.com\"\naccess_token_signed_response_alg = \"{alg}\"\nscopes = {{ \"s:{alg}\" = \"All\" }}\n")
        });
        let mut file: Vec<_> = resources.collect();
        let all: Vec<_> = Algorithm::ALL.iter().map(|alg| format!("s:{alg}")).collect();
        file.push(format!("[[client]]\nclient_id = \"all\"\nclient_secret = \"{SECRET}\"\nscope = \"{}\"\n", all.join(" ")));
        server.apply(&file.concat()).await;
        let keys = published(&server).await;
        for alg in Algorithm::ALL {
            let form = [("grant_type", "client_credentials"), ("scope", &format!("s:{alg}"))];
            let answer = server.post(TOKEN, Some(("all", SECRET)), &form).await;
            let token = answer.json["access_token"].as_str().unwrap_or_else(|| panic!("{}", answer.text));
            let verifier = |key: &Value| -> Box<dyn JwsVerifier> {
                let Value::Object(members) = key.clone() else { panic!() };
                let jwk = Jwk::from_map(members).unwrap();
                match alg {
                    Algorithm::Rs256 => Box::new(RS256.verifier_from_jwk(&jwk).unwrap()),
                    Algorithm::Ps256 => Box::new(PS256.verifier_from_jwk(&jwk).unwrap()),
                    Algorithm::Es256 => Box::new(ES256.verifier_from_jwk(&jwk).unwrap()),
                    Algorithm::EdDsa => Box::new(EdDSA.verifier_from_jwk(&jwk).unwrap()),
                }
            };
            let kid = &part(token, 0)["kid"];
            let key = keys.iter().find(|key| key["kid"] == *kid).unwrap();
            let (payload, header) = josekit::jwt::decode_with_verifier(token, &*verifier(key)).unwrap();
            assert_eq!(header.token_type(), Some("at+jwt"));
            assert_eq!(header.algorithm(), Some(alg.as_str()));
            assert_eq!(payload.issuer(), Some(server.issuer.as_str()));
            assert_eq!(payload.subject(), Some("all"));
            assert_eq!(payload.audience(), Some(vec![format!("https://{alg}.example.com").as_str()]));
            let (rest, last) = token.split_at(token.len() - 20);
            let tampered = format!("{rest}{}", last.chars().rev().collect::<String>());
            assert!(josekit::jwt::decode_with_verifier(&tampered, &*verifier(key)).is_err());
        }
    }

    async fn the_oauth2_crate_gets_tokens(engine) {
        let (server, gateway) = Server::example(engine).await;
        // A secret and an id that form encoding changes (RFC 6749 §2.3.1).
        let secret = "a secret: with + % & = \u{e9} and 32 characters";
        server.apply(&format!("[[client]]\nclient_id = \"poster:a/b\"\ntoken_endpoint_auth_method = \"client_secret_post\"\nclient_secret = \"{secret}\"\nscope = \"orders:read\"\n\n[[client]]\nclient_id = \"basic:a/b~c\"\nclient_secret = \"{secret}\"\nscope = \"orders:read\"\n")).await;
        let send = |request: oauth2::HttpRequest| {
            let http = server.http.clone();
            async move {
                let (parts, body) = request.into_parts();
                let answer = http.request(parts.method, parts.uri.to_string()).headers(parts.headers).body(body).send().await?;
                let mut response = http::Response::builder().status(answer.status());
                response.headers_mut().unwrap().extend(answer.headers().clone());
                Ok::<_, reqwest::Error>(response.body(answer.bytes().await?.to_vec()).unwrap())
            }
        };
        for (id, secret, auth) in [("orders-sync", SECRET, AuthType::BasicAuth), ("basic:a/b~c", secret, AuthType::BasicAuth), ("poster:a/b", secret, AuthType::RequestBody)] {
            let client = BasicClient::new(ClientId::new(id.into()))
                .set_client_secret(ClientSecret::new(secret.into()))
                .set_token_uri(TokenUrl::new(format!("{}{TOKEN}", server.url)).unwrap())
                .set_auth_type(auth.clone());
            let tokens = client.exchange_client_credentials().add_scope(Scope::new("orders:read".into())).request_async(&send).await.unwrap();
            assert_eq!(tokens.expires_in(), Some(std::time::Duration::from_mins(5)));
            assert_eq!(tokens.scopes(), Some(&vec![Scope::new("orders:read".into())]));
            assert_eq!(server.introspect(&gateway, tokens.access_token().secret()).await.json["client_id"], id);

            let wrong = client.set_client_secret(ClientSecret::new("wrong".into()));
            let refused = wrong.exchange_client_credentials().request_async(&send).await.unwrap_err();
            let oauth2::RequestTokenError::ServerResponse(refused) = refused else { panic!("{refused:?}") };
            assert_eq!(refused.error(), &oauth2::basic::BasicErrorResponseType::InvalidClient);
        }
    }
}
