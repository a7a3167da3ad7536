//! Client assertions: RFC 7523 §3 as updated by RFC 10070.

use std::sync::Arc;

use serde::Deserialize;

use super::{Client, Proof};
use crate::clock::{Micros, SECOND};
use crate::cx::Cx;
use crate::error::{Code, Error, Result};
use crate::keys::{Jws, PublicJwk, json};
use crate::secret::Id;
use crate::wire::{Algorithm, AssertionAudience, AuthMethod};

const LONGEST: usize = 16 * 1024;
/// How far a client's clock may be ahead of ours; FAPI 2.0 wants 10 s taken and 60 s refused.
const AHEAD: Micros = 30 * SECOND;
/// The longest time that an assertion may have left: its `jti` is kept for that long.
const LONGEST_LIFE: Micros = 3600 * SECOND + AHEAD;
const LONGEST_JTI: usize = 256;
/// RFC 10070.
const TYP: &str = "client-authentication+jwt";

/// `aud` is a string: arrays are where audience injection came from (CVE-2025-27370).
#[derive(Debug, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: String,
    exp: f64,
    #[serde(default, deserialize_with = "json::present")]
    nbf: Option<f64>,
    #[serde(default, deserialize_with = "json::present")]
    iat: Option<f64>,
    jti: String,
}

/// The use of an assertion that is good in everything else, not yet burnt.
#[must_use = "an assertion that is not burnt can be used again"]
pub struct Use {
    jti: String,
    forget_at: Micros,
}

/// What a good assertion proves.
pub struct Proven {
    /// Who made it.
    pub client: Arc<Client>,
    /// Its use.
    pub single_use: Use,
    /// The credential of the client that it was signed by; `None` for a key of its `jwks_uri`.
    pub credential: Option<Id>,
}

/// The client that made `assertion`, which names it by `sub`; a `client_id` beside it must agree.
/// The order counts: the signature before anything is believed; and the use is burnt by the caller after all other
/// checks, so that a refused assertion burns nothing.
///
/// # Errors
/// `invalid_client`. Before the signature fits the text says nothing; after it, what is wrong.
pub async fn verify(cx: &Cx<'_>, client_id: Option<&str>, assertion: &str) -> Result<Proven> {
    let jws = Jws::parse(assertion, LONGEST).map_err(|cause| Error::invalid_client().because(cause))?;
    let claims: Claims = jws.claims().map_err(|cause| Error::invalid_client().because(cause))?;
    if client_id.is_some_and(|named| named != claims.sub) {
        return Err(Error::invalid_request("client_id is not the subject of the assertion."));
    }
    let client = cx.clients.get(&claims.sub).await?;
    let client = client.filter(|client| client.metadata.token_endpoint_auth_method == AuthMethod::PrivateKeyJwt);
    let client = client.ok_or_else(Error::invalid_client)?;
    let credential = signed_by(cx, &client, &jws).await?;
    check_typ(&client, &jws)?;
    let forget_at = check_claims(cx, &client, &claims)?;
    Ok(Proven { client, single_use: Use { jti: claims.jti, forget_at }, credential })
}

impl Use {
    /// Burns it, durably.
    ///
    /// # Errors
    /// `invalid_client` when it was burnt before; 503 when the database does not answer.
    pub async fn burn(self, cx: &Cx<'_>, client: &Client) -> Result<()> {
        let first = cx.replay.client_assertion(&client.client_id, &self.jti, self.forget_at).await?;
        if first { Ok(()) } else { Err(refused("the jti was used before")) }
    }
}

fn refused(why: &'static str) -> Error {
    Error::new(Code::InvalidClient, format!("The client assertion was refused: {why}."))
}

/// The credential whose key it is; `None` for a key of the client's `jwks_uri`.
async fn signed_by(cx: &Cx<'_>, client: &Client, jws: &Jws<'_>) -> Result<Option<Id>> {
    let registered = client.metadata.token_endpoint_auth_signing_alg;
    let allowed: &[Algorithm] = registered.as_ref().map_or(Algorithm::ALL, std::slice::from_ref);
    let algorithm = jws.header.algorithm().filter(|alg| allowed.contains(alg)).ok_or_else(Error::invalid_client)?;
    if let Some(uri) = &client.metadata.jwks_uri {
        return cx.remote_keys.verify(cx, uri, jws, allowed).await.map(|()| None);
    }
    let fits = |key: &PublicJwk| {
        let named = jws.header.kid.as_deref().zip(key.kid()).is_none_or(|(wanted, kid)| wanted == kid);
        named && key.verify(algorithm, jws.signing_input.as_bytes(), &jws.signature).is_ok()
    };
    let mut live = client.credentials.iter().filter(|credential| credential.is_live(cx.now));
    let credential = live.find(|credential| matches!(&credential.proof, Proof::Jwk(key) if fits(key)));
    credential.map(|credential| Some(credential.id)).ok_or_else(Error::invalid_client)
}

/// RFC 8725bis §3.11: a JWT of another kind is no assertion. Without `typ`, or with the old `JWT`, only for clients
/// that may.
fn check_typ(client: &Client, jws: &Jws<'_>) -> Result<()> {
    let old = jws.header.typ.is_none() || jws.header.is_typ("JWT");
    if jws.header.is_typ(TYP) || old && !client.metadata.require_client_assertion_typ {
        return Ok(());
    }
    Err(refused("its typ is not client-authentication+jwt"))
}

/// RFC 7523 §3 in its order. When the `jti` may be forgotten.
fn check_claims(cx: &Cx<'_>, client: &Client, claims: &Claims) -> Result<Micros> {
    if claims.iss != claims.sub {
        return Err(refused("iss and sub are not the same client"));
    }
    let issuer = claims.aud == cx.issuer.as_str();
    let endpoint = client.metadata.client_assertion_audience == AssertionAudience::IssuerOrTokenEndpoint
        && claims.aud == cx.issuer.endpoint(crate::wire::TOKEN_PATH);
    if !issuer && !endpoint {
        return Err(refused("aud is not the issuer of this server"));
    }
    let exp = time(claims.exp).ok_or_else(|| refused("exp is not a time"))?;
    if exp <= cx.now {
        return Err(refused("it has expired"));
    }
    if exp > cx.now + LONGEST_LIFE {
        return Err(refused("exp is more than an hour ahead"));
    }
    for (given, why) in [(claims.nbf, "nbf is in the future"), (claims.iat, "iat is in the future")] {
        if given.is_some_and(|given| time(given).is_none_or(|at| at > cx.now + AHEAD)) {
            return Err(refused(why));
        }
    }
    if claims.jti.is_empty() || claims.jti.len() > LONGEST_JTI {
        return Err(refused("jti is empty or longer than 256 bytes"));
    }
    // Longer than any request takes from its first look at the time to its last.
    Ok(exp + 300 * SECOND)
}

/// A `NumericDate` (RFC 7519 §2) of this side of the year 5138.
fn time(seconds: f64) -> Option<Micros> {
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
    (0.0..1e11).contains(&seconds).then_some((seconds * 1e6) as Micros)
}
