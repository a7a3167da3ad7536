//! The one place where tokens are born, bound, described and taken back.

mod code;
mod describe;
mod draft;
mod facts;
mod grant;
mod hint;
mod id_token;
mod refresh;
pub mod revocations;
mod revoke;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clients::Client;
use crate::clock::{Micros, SECOND};
use crate::cx::Cx;
use crate::error::{Code, Error, Result};
use crate::keys::{KeyRing, Place, Signer, Typ};
use crate::resources::Resource;
use crate::secret::Secret;
use crate::wire::{Algorithm, Scope, TokenFormat};

pub use code::{Facts, code, outlives_sign_in};
pub use describe::{Described, KnownTokens, describe, describe_refresh};
pub use draft::longest_lifetime;
use draft::{Draft, Mint, Minted};
pub use facts::facts_of;
use grant::Renewed;
pub use grant::{Grant, Redemption};
pub use hint::{Hint, hint};
use id_token::IdClaims;
pub use refresh::{RefreshToken, Rotation};
pub use revoke::{revoke, revoke_of_person_at, revoke_of_session, revoke_of_user};

/// No token of ours is longer: what could not be introspected and revoked is not issued. A form's value takes as much.
const LONGEST_TOKEN: usize = 16 * 1024;
/// Between two looks at a full queue.
const SHORT: Duration = Duration::from_millis(20);
/// No access token lives longer: the upper end of `tokens.max_access_token_lifetime_seconds`.
pub const LONGEST_LIFETIME: Micros = 86_400 * SECOND;

/// What a grant decided: the grant reads and decides, [`tokens`] does the rest.
pub enum Issue {
    /// The client acts for itself.
    Own(Terms),
    /// A code is exchanged. What it stands for is known only once it is used up, so the grant says how to judge that.
    Redeem {
        /// SHA-256 of the code.
        code: [u8; 32],
        /// What its grant makes of it. Refused or not, the code is used up.
        judge: Judge,
    },
    /// A refresh token is exchanged for the next.
    Rotate {
        /// The one presented.
        token: RefreshToken,
        /// What its grant makes of it. Refused, the token stays as it was.
        judge: Judge,
    },
}

/// What a token is to be.
#[derive(Debug)]
pub struct Terms {
    /// What it may do.
    pub scope: Scope,
    /// Where: the resources, by identifier.
    pub audience: Vec<Arc<Resource>>,
}

/// Makes terms of what a person granted. It runs inside a transaction: it reads nothing but what it holds.
pub type Judge = Box<dyn Fn(&Grant) -> Result<Terms> + Send + Sync>;

/// RFC 6749 §5.1, OpenID Connect Core §3.1.3.3.
#[derive(Debug, Serialize)]
pub struct TokenResponse {
    #[serde(serialize_with = "expose")]
    access_token: Secret,
    token_type: &'static str,
    expires_in: u32,
    #[serde(skip_serializing_if = "Scope::is_empty")]
    scope: Scope,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "expose_some")]
    refresh_token: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "expose_some")]
    id_token: Option<Secret>,
}

fn expose<S: serde::Serializer>(secret: &Secret, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(secret.expose())
}

#[expect(clippy::ref_option, reason = "serde passes a reference")]
fn expose_some<S: serde::Serializer>(secret: &Option<Secret>, to: S) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(Secret::expose).serialize(to)
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
    /// Its id, in base64url: 16 random bytes; a person's: the grant's id and 8 random bytes.
    pub jti: String,
    /// When the person proved who they are, in seconds (RFC 9068 §2.2.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_time: Option<i64>,
    /// The authentication context class that this reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acr: Option<String>,
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

/// Makes the tokens of an `issue`: terms → one transaction (consume, judge, keep, record) → signatures → lease → reply.
/// The client's own need no transaction, but for an opaque token.
///
/// # Errors
/// What the grant refused; `invalid_grant` for a code or refresh token that is used, expired, revoked or another
/// client's; `invalid_target` when the resources do not agree on one token, or there are none; 503 when this node has
/// no lease, the signing queue is full, or the database does not take it.
pub async fn tokens(cx: &Cx<'_>, client: &Arc<Client>, issue: Issue) -> Result<TokenResponse> {
    let mint = Mint::new(cx, client);
    match issue {
        Issue::Own(terms) => own(cx, mint.draft(terms, None)?).await,
        // On the heap: a client's own request need not carry room for them.
        Issue::Redeem { code, judge } => Box::pin(redeemed(cx, client, mint, code, judge)).await,
        Issue::Rotate { token, judge } => Box::pin(rotated(cx, client, mint, token, judge)).await,
    }
}

async fn redeemed(cx: &Cx<'_>, client: &Client, mint: Mint, code: [u8; 32], judge: Judge) -> Result<TokenResponse> {
    let places = places(cx, client, client.metadata.scope.contains("openid"))?;
    let renewed = grant::redeem(cx, mint, code, judge).await?;
    of_person(cx, client, renewed, places).await
}

async fn rotated(cx: &Cx<'_>, client: &Client, mint: Mint, token: RefreshToken, judge: Judge) -> Result<TokenResponse> {
    let id_token = client.metadata.id_token_on_refresh && client.metadata.scope.contains("openid");
    let places = places(cx, client, id_token)?;
    let mut renewed = refresh::rotate(cx, mint, token, judge).await?;
    // OpenID Connect Core §12.2: the nonce is the first ID token's only.
    renewed.grant.facts.nonce = None;
    of_person(cx, client, renewed, places).await
}

async fn own(cx: &Cx<'_>, draft: Draft) -> Result<TokenResponse> {
    let (draft, access_token) = match draft.minted.clone() {
        Minted::Jwt(algorithm) => {
            let token = sign(cx, algorithm, Typ::AccessToken, &draft.claims).await?;
            (draft, Secret::new(token))
        }
        Minted::Opaque(token) => {
            let keeping = cx.db.write(move |tx| {
                Box::pin(async move {
                    draft.keep(tx).await?;
                    Ok(draft)
                })
            });
            (keeping.await?.value, token)
        }
    };
    reply(cx, draft, access_token)
}

/// What was used up for these tokens is gone, so from here on nothing is refused that can be waited for.
async fn of_person(cx: &Cx<'_>, client: &Client, renewed: Renewed, mut places: Vec<Place>) -> Result<TokenResponse> {
    let Renewed { draft, grant, refresh, person, .. } = renewed;
    let (access_token, id_token) = loop {
        let (access_token, signed_by) = match draft.minted.clone() {
            Minted::Jwt(algorithm) => {
                let (token, signer) = sign_at_last(cx, algorithm, &mut places, Typ::AccessToken, &draft.claims).await?;
                (Secret::new(token), Some(signer))
            }
            Minted::Opaque(token) => (token, None),
        };
        let id_token = if let Some(person) = &person {
            let claims = IdClaims::of(cx, client, (person, &grant), access_token.expose());
            let algorithm = client.metadata.id_token_signed_response_alg;
            Some(Secret::new(sign_at_last(cx, algorithm, &mut places, Typ::Jwt, &claims).await?.0))
        } else {
            None
        };
        // The ID token waited, too, and it names this very access token (`at_hash`).
        if signed_by.is_none_or(|signer| stands(cx, &signer)) {
            break (access_token, id_token);
        }
    };
    let refresh_token = refresh.map(|token| token.seal(&cx.mac));
    Ok(TokenResponse { refresh_token, id_token, ..reply(cx, draft, access_token)? })
}

fn reply(cx: &Cx<'_>, draft: Draft, access_token: Secret) -> Result<TokenResponse> {
    // The last thing before the answer: this node may speak for the others until its lease ends.
    cx.require_lease()?;
    Ok(TokenResponse {
        access_token,
        token_type: "Bearer",
        expires_in: draft.lifetime,
        scope: draft.claims.scope,
        refresh_token: None,
        id_token: None,
    })
}

/// A JWT of `claims`, for which nothing was used up.
///
/// # Errors
/// 503 when no key of `algorithm` signs, or too many signatures wait.
pub async fn sign<C: Serialize + Sync>(cx: &Cx<'_>, algorithm: Algorithm, typ: Typ, claims: &C) -> Result<String> {
    loop {
        let signer = signer(&cx.keys.ring(), algorithm)?;
        let token = signer.sign(typ, claims).await?;
        if stands(cx, &signer) {
            return Ok(token);
        }
    }
}

fn signer(ring: &KeyRing, algorithm: Algorithm) -> Result<Arc<Signer>> {
    // An algorithm that was configured a moment ago: its first key signs when verifiers know it.
    ring.active(algorithm)
        .cloned()
        .ok_or_else(|| Error::unavailable("No key of this algorithm signs at this time; try again.", 10))
}

/// Whether what `signer` signed may leave: while it waited for its turn, the key may have been revoked. One that began
/// to retire is still published.
fn stands(cx: &Cx<'_>, signer: &Signer) -> bool {
    cx.keys.ring().public(signer.kid()).is_some()
}

/// Places for the slow signatures that may come of a grant to `client`, kept before anything is used up: shedding load
/// burns nobody's code. What the grant covers is not known yet, so an access token has a place where the client could
/// get one that is signed slowly.
fn places(cx: &Cx<'_>, client: &Client, id_token: bool) -> Result<Vec<Place>> {
    let (catalog, ring, metadata) = (cx.resources.load(), cx.keys.ring(), &client.metadata);
    let signer = |resource: &Arc<Resource>| {
        let (format, algorithm) =
            (resource.settings.access_token_format, resource.settings.access_token_signed_response_alg);
        ring.active(algorithm).filter(|signer| format == TokenFormat::Jwt && signer.is_slow())
    };
    let listed = metadata.resources.iter().filter_map(|identifier| catalog.resource(identifier));
    let access = catalog.owners(&metadata.scope).iter().chain(listed).find_map(signer);
    let id = ring.active(metadata.id_token_signed_response_alg).filter(|_| id_token);
    access.into_iter().chain(id).filter_map(|signer| signer.place().transpose()).collect()
}

/// Signs what something was used up for, at a place that was kept before; where that is not enough, a full queue is
/// waited for as long as the request lasts. With the key that signed.
async fn sign_at_last<C: Serialize + Sync>(
    cx: &Cx<'_>,
    algorithm: Algorithm,
    places: &mut Vec<Place>,
    typ: Typ,
    claims: &C,
) -> Result<(String, Arc<Signer>)> {
    loop {
        let signer = signer(&cx.keys.ring(), algorithm)?;
        let kept = if signer.is_slow() { places.pop() } else { None };
        let place = match kept {
            Some(place) => Some(place),
            None => loop {
                match signer.place() {
                    Err(busy) if busy.code == Code::TemporarilyUnavailable => tokio::time::sleep(SHORT).await,
                    taken => break taken?,
                }
            },
        };
        let token = signer.sign_at(place, typ, claims).await?;
        if stands(cx, &signer) {
            return Ok((token, signer));
        }
    }
}
