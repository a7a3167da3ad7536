//! What a token will be, before anything is used up or signed: pure, so that a transaction can hold it.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::{AccessClaims, Audience, Grant, LONGEST_TOKEN, Terms};
use crate::clients::Client;
use crate::clock::{Micros, SECOND};
use crate::cx::Cx;
use crate::error::{Code, Error, Result};
use crate::resources::Resource;
use crate::secret::{Prefix, Secret, random, sha256};
use crate::store::{StoreError, Tx, artifacts};
use crate::wire::{Algorithm, TokenFormat};

/// The names of an access token's claims, its times, and what stands between them.
const MEMBERS: usize = 256;
/// RSA of 4096 bits signs in 683 characters.
const HEADER_AND_SIGNATURE: usize = 1024;

/// What drafting needs to know.
pub(super) struct Mint {
    pub(super) client: Arc<Client>,
    issuer: String,
    default_lifetime: u32,
    longest_lifetime: u32,
    now: Micros,
}

/// An access token that only lacks its signature.
pub(super) struct Draft {
    pub(super) claims: AccessClaims,
    pub(super) lifetime: u32,
    pub(super) minted: Minted,
}

/// What the token's text is.
#[derive(Clone)]
pub(super) enum Minted {
    /// Signed with this algorithm.
    Jwt(Algorithm),
    /// A reference; the row says the rest.
    Opaque(Secret),
}

impl Mint {
    pub(super) fn new(cx: &Cx<'_>, client: &Arc<Client>) -> Self {
        Self {
            client: client.clone(),
            issuer: cx.issuer.as_str().to_owned(),
            default_lifetime: cx.tokens.access_token_lifetime_seconds,
            longest_lifetime: cx.tokens.max_access_token_lifetime_seconds,
            now: cx.now,
        }
    }

    /// The access token that `terms` say: of `grant`'s person, or the client's own.
    ///
    /// # Errors
    /// `invalid_target` when the resources do not agree on one token, or there are none.
    pub(super) fn draft(&self, terms: Terms, grant: Option<&Grant>) -> Result<Draft> {
        let (shape, lifetime) = self.shape(&terms.audience)?;
        let minted = match shape {
            (TokenFormat::Jwt, algorithm) => Minted::Jwt(algorithm),
            (TokenFormat::Opaque, _) => Minted::Opaque(Prefix::AccessToken.generate()?),
        };
        // mechanisms.md, "Ids of tokens": a person's names its grant, with which it is taken back.
        let jti = match grant {
            Some(grant) => BASE64_URL_SAFE_NO_PAD.encode([&grant.id[..], &random::<8>()?].concat()),
            None => BASE64_URL_SAFE_NO_PAD.encode(random::<16>()?),
        };
        let client_id = self.client.client_id.as_ref().to_owned();
        let issued_at = self.now / SECOND;
        let claims = AccessClaims {
            iss: self.issuer.clone(),
            sub: grant.map_or_else(|| client_id.clone(), |grant| grant.sub.clone()),
            aud: audience(&terms.audience),
            client_id,
            scope: terms.scope,
            iat: issued_at,
            exp: issued_at + i64::from(lifetime),
            jti,
            auth_time: grant.map(|grant| grant.facts.auth_time),
            acr: grant.and_then(|grant| grant.facts.acr.clone()),
        };
        // Here, before anything is used up.
        if matches!(minted, Minted::Jwt(_)) && longest_text(&claims) > LONGEST_TOKEN {
            return Err(Error::new(Code::InvalidScope, "The token would be too long; ask for fewer scopes."));
        }
        Ok(Draft { claims, lifetime, minted })
    }

    /// mechanisms.md, decision 4: several resources agree on format and algorithm; the shortest lifetime counts.
    fn shape(&self, audience: &[Arc<Resource>]) -> Result<((TokenFormat, Algorithm), u32)> {
        // Our own endpoints take tokens of any form; where they stand alone, their own settings count.
        let mut deciding: Vec<&Arc<Resource>> = audience.iter().filter(|resource| !resource.built_in).collect();
        if deciding.is_empty() {
            deciding.extend(audience);
        }
        let [first, others @ ..] = deciding.as_slice() else {
            return Err(Error::new(Code::InvalidTarget, "This client has no resource that a token could be for."));
        };
        let (format, algorithm) = (first.settings.access_token_format, first.settings.access_token_signed_response_alg);
        let agrees = |other: &&Arc<Resource>| {
            other.settings.access_token_format == format
                && (format == TokenFormat::Opaque || other.settings.access_token_signed_response_alg == algorithm)
        };
        if !others.iter().all(agrees) {
            return Err(Error::new(
                Code::InvalidTarget,
                "These resources need tokens of different forms; ask for one resource at a time.",
            ));
        }
        let shortest = deciding.iter().map(|resource| self.of_resource(resource)).min();
        Ok(((format, algorithm), self.lifetime(shortest)))
    }

    fn of_resource(&self, resource: &Resource) -> u32 {
        resource.settings.access_token_lifetime.unwrap_or(self.default_lifetime)
    }

    /// The client's own lifetime, or that of the resources, or the default.
    fn lifetime(&self, of_resources: Option<u32>) -> u32 {
        let lifetime = self.client.metadata.access_token_lifetime.or(of_resources).unwrap_or(self.default_lifetime);
        // A row may be older than the configuration; signing keys are published for as long as this one says.
        lifetime.min(self.longest_lifetime)
    }
}

/// How long the longest-lived access token lives that `client` can get for any of `resources`, in seconds: it may ask
/// for one of them alone (RFC 8707 §2.2).
pub fn longest_lifetime(cx: &Cx<'_>, client: &Arc<Client>, resources: &[String]) -> u32 {
    let (mint, catalog) = (Mint::new(cx, client), cx.resources.load());
    let found = resources.iter().filter_map(|identifier| catalog.resource(identifier));
    mint.lifetime(found.map(|resource| mint.of_resource(resource)).max())
}

impl Draft {
    /// Keeps the row of an opaque token; a signed one is kept nowhere.
    pub(super) async fn keep(&self, tx: &mut Tx) -> Result<(), StoreError> {
        let Minted::Opaque(token) = &self.minted else { return Ok(()) };
        let body = serde_json::to_string(&self.claims).map_err(|cause| StoreError::Unfit(cause.to_string()))?;
        let id = sha256(token.expose().as_bytes());
        artifacts::put(tx, artifacts::Kind::AccessToken, &id, &body, self.claims.exp * SECOND).await
    }
}

/// At least the length of the signed token: base64url of its claims, and room for its header and the longest signature.
fn longest_text(claims: &AccessClaims) -> usize {
    let scope: usize = claims.scope.iter().map(|token| token.len() + 1).sum();
    let audience: usize = claims.aud.iter().map(|resource| resource.len() + 3).sum();
    let others = [&claims.iss, &claims.sub, &claims.client_id, &claims.jti].map(String::len).iter().sum::<usize>();
    (scope + audience + others + MEMBERS).div_ceil(3) * 4 + HEADER_AND_SIGNATURE
}

fn audience(resources: &[Arc<Resource>]) -> Audience {
    match resources {
        [one] => Audience::One(one.identifier.clone()),
        many => Audience::Many(many.iter().map(|resource| resource.identifier.clone()).collect()),
    }
}
