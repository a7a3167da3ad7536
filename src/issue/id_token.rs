//! ID tokens (OpenID Connect Core §2): who the person is, for the client and nobody else.

use aws_lc_rs::digest::{SHA256, SHA512, digest};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Serialize;
use serde_json::{Map, Value};

use super::Grant;
use crate::claims::{self, Place};
use crate::clients::Client;
use crate::clock::SECOND;
use crate::cx::Cx;
use crate::users::User;
use crate::wire::Algorithm;

/// The claims of an ID token.
#[derive(Serialize)]
pub(super) struct IdClaims {
    iss: String,
    sub: String,
    aud: String,
    azp: String,
    exp: i64,
    iat: i64,
    auth_time: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    nonce: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    acr: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    amr: Vec<String>,
    at_hash: String,
    sid: String,
    /// What the person's row says.
    #[serde(flatten)]
    told: Map<String, Value>,
}

impl IdClaims {
    /// What the client is told of `user`, who gave the `grant`, beside `access_token`.
    pub(super) fn of(cx: &Cx<'_>, client: &Client, (user, grant): (&User, &Grant), access_token: &str) -> Self {
        let now = cx.now / SECOND;
        Self {
            iss: cx.issuer.as_str().to_owned(),
            sub: grant.sub.clone(),
            aud: client.client_id.as_ref().to_owned(),
            azp: client.client_id.as_ref().to_owned(),
            exp: now + i64::from(cx.tokens.id_token_lifetime_seconds),
            iat: now,
            auth_time: grant.facts.auth_time,
            nonce: grant.facts.nonce.clone(),
            acr: grant.facts.acr.clone(),
            amr: grant.facts.amr.clone(),
            at_hash: half_hash(client.metadata.id_token_signed_response_alg, access_token),
            sid: grant.sid.clone(),
            told: claims::of(cx, user, client, (&grant.scope, &grant.facts.claims), Place::IdToken),
        }
    }
}

/// OpenID Connect Core §3.1.3.6: the left half of the hash that the ID token's algorithm uses. Ed25519 hashes by SHA-512.
fn half_hash(algorithm: Algorithm, text: &str) -> String {
    let hash = match algorithm {
        Algorithm::Rs256 | Algorithm::Es256 | Algorithm::Ps256 => &SHA256,
        Algorithm::EdDsa => &SHA512,
    };
    let hash = digest(hash, text.as_bytes());
    BASE64_URL_SAFE_NO_PAD.encode(&hash.as_ref()[..hash.as_ref().len() / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of OpenID Connect Core §A.4 for `at_hash`.
    #[test]
    fn oidc_core_a4_at_hash() {
        let token = "jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y";
        assert_eq!(half_hash(Algorithm::Rs256, token), "77QmUPtjPfzWtF2AnpK9RQ");
        assert_eq!(half_hash(Algorithm::EdDsa, token).len(), 43);
    }
}
