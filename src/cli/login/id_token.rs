//! Whether an ID token can be believed (OpenID Connect Core §3.1.3.7).

use aws_lc_rs::digest::{SHA256, SHA512, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::clock::{Micros, SECOND};
use crate::keys::{JwkSet, Jws};
use crate::wire::Algorithm;

/// The longest ID token that is read.
const LONGEST: usize = 64 * 1024;
/// How far two clocks may be apart.
const SKEW: Micros = 60 * SECOND;

/// What the token must be about.
pub(super) struct Expected<'a> {
    pub(super) issuer: &'a str,
    pub(super) client_id: &'a str,
    pub(super) nonce: &'a str,
    /// The access token that came with it; empty for none.
    pub(super) access_token: &'a str,
    pub(super) now: Micros,
}

/// The claims of `token`, when one of `keys` (a JWK Set) signed it and it is as `expected`; else what is wrong with it.
pub(super) fn verify(token: &str, keys: &[u8], expected: &Expected<'_>) -> Result<Value, String> {
    let jws = Jws::parse(token, LONGEST).map_err(|cause| cause.to_string())?;
    let keys = JwkSet::parse(keys).map_err(|cause| format!("the issuer's key set: {cause}"))?;
    keys.verify(&jws, Algorithm::ALL).map_err(|cause| cause.to_string())?;
    let claims: Value = jws.claims().map_err(|cause| cause.to_string())?;
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let seconds = |name: &str| claims.get(name).and_then(Value::as_i64).map(|at| at.saturating_mul(SECOND));
    if text("iss") != Some(expected.issuer) {
        return Err("iss is another issuer".to_owned());
    }
    let (alone, several) = match claims.get("aud") {
        Some(Value::String(one)) => (one == expected.client_id, false),
        Some(Value::Array(all)) => (all.iter().any(|one| one == expected.client_id), all.len() > 1),
        _ => (false, false),
    };
    if !alone {
        return Err("aud does not name this client".to_owned());
    }
    match text("azp") {
        None if several => return Err("it is for several audiences and has no azp".to_owned()),
        Some(azp) if azp != expected.client_id => return Err("azp is another client".to_owned()),
        _ => {}
    }
    if text("sub").is_none_or(str::is_empty) {
        return Err("sub is missing".to_owned());
    }
    if seconds("exp").is_none_or(|exp| exp.saturating_add(SKEW) <= expected.now) {
        return Err("it has expired, or has no exp".to_owned());
    }
    if seconds("iat").is_none_or(|iat| iat > expected.now.saturating_add(SKEW)) {
        return Err("it is from the future, or has no iat".to_owned());
    }
    if text("nonce") != Some(expected.nonce) {
        return Err("nonce is not the one that was sent".to_owned());
    }
    if let Some(at_hash) = text("at_hash")
        && jws.header.algorithm().is_none_or(|algorithm| at_hash != half_hash(algorithm, expected.access_token))
    {
        return Err("at_hash is of another access token".to_owned());
    }
    Ok(claims)
}

/// OpenID Connect Core §3.1.3.6: the left half of the hash that the algorithm uses; Ed25519 uses SHA-512.
fn half_hash(algorithm: Algorithm, text: &str) -> String {
    let by = if algorithm == Algorithm::EdDsa { &SHA512 } else { &SHA256 };
    let hash = digest(by, text.as_bytes());
    URL_SAFE_NO_PAD.encode(&hash.as_ref()[..hash.as_ref().len() / 2])
}

#[cfg(test)]
mod tests {

    use serde_json::json;

    use super::*;
    use crate::keys::{KeyPair, Signer, SigningQueue, Typ};

    #[tokio::test]
    async fn core_3_1_3_7_each_claim_counts() {
        let (pair, _) = KeyPair::generate(Algorithm::Es256, 2048).unwrap();
        let mut public: serde_json::Map<String, Value> =
            pair.public_jwk().members().map(|(name, value)| (name.to_owned(), Value::from(value))).collect();
        public.insert("kid".into(), Value::from("k"));
        let keys = json!({ "keys": [public] }).to_string();
        let signer = Signer::new("k", "ES256", pair, SigningQueue::of_this_machine()).unwrap();
        let expected =
            Expected { issuer: "https://id", client_id: "app", nonce: "n", access_token: "token", now: 1_000 * SECOND };
        let at_hash = half_hash(Algorithm::Es256, "token");
        let good = json!({ "iss": "https://id", "aud": "app", "sub": "s", "exp": 1_100, "iat": 999, "nonce": "n",
            "at_hash": at_hash });
        let check = async |name: &str, value: Value| {
            let mut claims = good.clone();
            claims[name] = value;
            verify(&signer.sign(Typ::Jwt, &claims).await.unwrap(), keys.as_bytes(), &expected)
        };
        assert!(check("aud", json!("app")).await.is_ok());
        assert!(check("aud", json!(["app"])).await.is_ok());
        for (name, value) in [
            ("iss", json!("https://id/")),
            ("aud", json!("other")),
            ("aud", json!(["app", "other"])),
            ("aud", json!([])),
            ("azp", json!("other")),
            ("sub", json!("")),
            ("sub", Value::Null),
            ("exp", json!(900)),
            ("exp", json!("1100")),
            ("iat", json!(1_100)),
            ("nonce", json!("m")),
            ("nonce", Value::Null),
            ("at_hash", json!("x")),
        ] {
            assert!(check(name, value.clone()).await.is_err(), "{name} {value}");
        }
        let token = signer.sign(Typ::Jwt, &good).await.unwrap();
        assert!(verify(&token, br#"{"keys":[]}"#, &expected).is_err());
        assert!(verify(&token[..token.len() - 4], keys.as_bytes(), &expected).is_err());
    }
}
