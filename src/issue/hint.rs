//! ID tokens that come back as hints (OpenID Connect Core §3.1.2.1, RP-Initiated Logout §2).

use serde::Deserialize;

use super::{Audience, LONGEST_TOKEN};
use crate::keys::{Jws, KeyRing};

/// Whom an ID token of ours speaks of. Expired ones are hints, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// The person.
    pub sub: String,
    /// The sign-in.
    pub sid: Option<String>,
    /// The clients that it was for.
    pub aud: Vec<String>,
}

/// What makes an ID token one, as no other token of ours has all of it (RFC 8725bis §3.12).
#[derive(Deserialize)]
struct IdClaims {
    iss: String,
    sub: String,
    aud: Audience,
    #[serde(default)]
    sid: Option<String>,
    #[serde(rename = "exp")]
    _exp: i64,
    #[serde(rename = "iat")]
    _iat: i64,
    #[serde(rename = "auth_time")]
    _auth_time: i64,
}

/// Reads an ID token that a key of ours signed for `issuer`; `None` for anything else, access tokens among it.
pub fn hint(ring: &KeyRing, issuer: &str, text: &str) -> Option<Hint> {
    let jws = Jws::parse(text, LONGEST_TOKEN).ok()?;
    if !jws.header.is_typ("JWT") {
        return None;
    }
    ring.verify_own(&jws).ok()?;
    let claims: IdClaims = jws.claims().ok()?;
    let aud = claims.aud.iter().map(str::to_owned).collect();
    (claims.iss == issuer).then_some(Hint { sub: claims.sub, sid: claims.sid, aud })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::keys::{KeyEntry, KeyPair, KeyState, Signer, SigningQueue, Typ};
    use crate::store::signing_keys::Times;
    use crate::wire::Algorithm;
    use serde_json::{Value, json};

    fn ring() -> KeyRing {
        let (pair, _) = KeyPair::generate(Algorithm::EdDsa, 2048).unwrap();
        let (public, kid) = (pair.public_jwk().clone(), pair.public_jwk().thumbprint());
        let signer = Signer::new(&kid, "EdDSA", pair, SigningQueue::of_this_machine()).unwrap();
        KeyRing::new(vec![KeyEntry {
            kid,
            algorithm: Algorithm::EdDsa,
            alg_name: "EdDSA".into(),
            state: KeyState::Active,
            created_at: 0,
            times: Times::default(),
            public,
            signer: Some(Arc::new(signer)),
        }])
    }

    async fn token(ring: &KeyRing, typ: Typ, without: &str, issuer: &str) -> String {
        let mut claims = json!({
            "iss": issuer, "sub": "u", "aud": ["web"], "sid": "s", "exp": 1, "iat": 1, "auth_time": 1, "nonce": "n",
        });
        claims.as_object_mut().unwrap().remove(without);
        ring.active(Algorithm::EdDsa).unwrap().sign::<Value>(typ, &claims).await.unwrap()
    }

    #[tokio::test]
    async fn t64_a_hint_is_an_id_token_of_ours_and_nothing_else() {
        const ISSUER: &str = "https://issuer.example";
        let (ours, theirs) = (ring(), ring());
        let good = token(&ours, Typ::Jwt, "", ISSUER).await;
        let expected = Hint { sub: "u".into(), sid: Some("s".into()), aud: vec!["web".into()] };
        assert_eq!(hint(&ours, ISSUER, &good), Some(expected), "long expired, and a hint all the same");
        assert!(hint(&ours, ISSUER, &token(&ours, Typ::Jwt, "sid", ISSUER).await).is_some());
        for missing in ["iss", "sub", "aud", "exp", "iat", "auth_time"] {
            assert_eq!(hint(&ours, ISSUER, &token(&ours, Typ::Jwt, missing, ISSUER).await), None, "{missing}");
        }
        assert_eq!(hint(&ours, ISSUER, &token(&ours, Typ::AccessToken, "", ISSUER).await), None);
        assert_eq!(hint(&ours, "https://other.example", &good), None);
        assert_eq!(hint(&theirs, ISSUER, &good), None);
        assert_eq!(hint(&ours, ISSUER, &good[..good.len() - 2]), None);
        assert_eq!(hint(&ours, ISSUER, ""), None);
    }
}
