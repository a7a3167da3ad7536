//! The one place where tokens are born, bound, described and taken back.

mod describe;
pub mod revocations;
mod revoke;

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::clients::Client;
use crate::clock::{Micros, SECOND};
use crate::cx::Cx;
use crate::error::{Code, Error, Result};
use crate::keys::Typ;
use crate::resources::Resource;
use crate::secret::{Prefix, Secret, random, sha256};
use crate::store::artifacts;
use crate::wire::{Algorithm, Scope, TokenFormat};

pub use describe::{Described, KnownTokens, describe};
pub use revoke::revoke;

/// No token of ours is longer: what could not be introspected and revoked is not issued. A form's value takes as much.
const LONGEST_TOKEN: usize = 16 * 1024;

/// What a grant decided: the grant reads and decides, [`tokens`] does the rest.
#[derive(Debug)]
pub struct Issue {
    /// Whose authority the token carries; the client itself for client credentials.
    pub subject: String,
    /// What it may do.
    pub scope: Scope,
    /// Where: the resources, by identifier.
    pub audience: Vec<Arc<Resource>>,
}

/// RFC 6749 §5.1.
#[derive(Debug, Serialize)]
pub struct TokenResponse {
    #[serde(serialize_with = "expose")]
    access_token: Secret,
    token_type: &'static str,
    expires_in: u32,
    #[serde(skip_serializing_if = "Scope::is_empty")]
    scope: Scope,
}

fn expose<S: serde::Serializer>(secret: &Secret, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(secret.expose())
}

/// The claims of an access token (RFC 9068 §2.2); also how an opaque one is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessClaims {
    /// The issuer.
    pub iss: String,
    /// The subject.
    pub sub: String,
    /// The audience: resource identifiers.
    pub aud: Audience,
    /// The client that asked.
    pub client_id: String,
    /// What it may do; left out when empty.
    #[serde(default, skip_serializing_if = "Scope::is_empty")]
    pub scope: Scope,
    /// Issued at, in seconds.
    pub iat: i64,
    /// Dead from, in seconds.
    pub exp: i64,
    /// Its id: 16 random bytes in base64url.
    pub jti: String,
}

/// One audience as a string, several as an array (RFC 7519 §4.1.3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Audience {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl Audience {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many.as_slice(),
        }
        .iter()
        .map(String::as_str)
    }
}

/// How the resources of one token agree that it shall be.
struct Shape {
    format: TokenFormat,
    algorithm: Algorithm,
    lifetime: u32,
}

/// Makes the tokens of an `issue`: shape → claims → signature (or row) → lease → counters → reply.
///
/// # Errors
/// `invalid_target` when the resources do not agree on one token, or there are none; 503 when this node has no
/// lease, the signing pool is full, or the database does not take an opaque token.
pub async fn tokens(cx: &Cx<'_>, client: &Client, issue: Issue) -> Result<TokenResponse> {
    let shape = shape(cx, client, &issue.audience)?;
    let issued_at = cx.now / SECOND;
    let claims = AccessClaims {
        iss: cx.issuer.as_str().to_owned(),
        sub: issue.subject,
        aud: audience(&issue.audience),
        client_id: client.client_id.as_ref().to_owned(),
        scope: issue.scope,
        iat: issued_at,
        exp: issued_at + i64::from(shape.lifetime),
        jti: BASE64_URL_SAFE_NO_PAD.encode(random::<16>()?),
    };
    let access_token = match shape.format {
        TokenFormat::Jwt => {
            let keys = cx.keys.ring();
            let signer = keys
                .active(shape.algorithm)
                .ok_or_else(|| Error::internal(format!("no active {} key", shape.algorithm)))?;
            let token = Secret::new(signer.sign(Typ::AccessToken, &claims).await?);
            if token.expose().len() > LONGEST_TOKEN {
                return Err(Error::new(Code::InvalidScope, "The token would be too long; ask for fewer scopes."));
            }
            token
        }
        TokenFormat::Opaque => opaque(cx, &claims).await?,
    };
    // The last thing before the answer: this node may speak for the others until its lease ends.
    cx.require_lease()?;
    Ok(TokenResponse { access_token, token_type: "Bearer", expires_in: shape.lifetime, scope: claims.scope })
}

async fn opaque(cx: &Cx<'_>, claims: &AccessClaims) -> Result<Secret> {
    let token = Prefix::AccessToken.generate()?;
    let id = sha256(token.expose().as_bytes());
    let body = serde_json::to_string(claims).map_err(Error::internal)?;
    let expires_at: Micros = claims.exp * SECOND;
    cx.db
        .write(move |tx| {
            Box::pin(async move { artifacts::put(tx, artifacts::Kind::AccessToken, &id, &body, expires_at).await })
        })
        .await?;
    Ok(token)
}

/// mechanisms.md, decision 4: several resources agree on format and algorithm; the shortest lifetime counts.
fn shape(cx: &Cx<'_>, client: &Client, audience: &[Arc<Resource>]) -> Result<Shape> {
    let [first, others @ ..] = audience else {
        return Err(Error::new(Code::InvalidTarget, "This client has no resource that a token could be for."));
    };
    let (format, algorithm) = (first.settings.access_token_format, first.settings.access_token_signed_response_alg);
    let agrees = |other: &Arc<Resource>| {
        other.settings.access_token_format == format
            && (format == TokenFormat::Opaque || other.settings.access_token_signed_response_alg == algorithm)
    };
    if !others.iter().all(agrees) {
        return Err(Error::new(
            Code::InvalidTarget,
            "These resources need tokens of different forms; ask for one resource at a time.",
        ));
    }
    let default = cx.access_token_lifetime;
    let of_resources = audience.iter().map(|resource| resource.settings.access_token_lifetime.unwrap_or(default)).min();
    let lifetime = client.metadata.access_token_lifetime.or(of_resources).unwrap_or(default);
    Ok(Shape { format, algorithm, lifetime })
}

fn audience(resources: &[Arc<Resource>]) -> Audience {
    match resources {
        [one] => Audience::One(one.identifier.clone()),
        many => Audience::Many(many.iter().map(|resource| resource.identifier.clone()).collect()),
    }
}
