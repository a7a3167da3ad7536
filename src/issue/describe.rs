//! What a token is, if it is alive: the one check behind introspection, revocation and (later) userinfo.

use std::sync::Arc;

use hyper::body::Bytes;
use quick_cache::sync::Cache;
use serde::Serialize;

use super::{AccessClaims, LONGEST_TOKEN, RefreshToken};
use crate::clients::Client;
use crate::clock::SECOND;
use crate::cx::Cx;
use crate::error::{Error, Result};
use crate::keys::{Jws, Typ};
use crate::secret::{Prefix, sha256};
use crate::store::{artifacts, grants};

/// A token whose signature (or row) was checked. Whether it is alive is asked anew each time.
#[derive(Debug)]
pub struct Described {
    /// Its claims.
    pub claims: AccessClaims,
    /// What introspection says of it while it lives, as JSON (RFC 7662 §2.2).
    pub answer: Bytes,
    /// The key that signed it; none for an opaque one.
    kid: Option<String>,
}

impl Described {
    fn new(claims: AccessClaims, kid: Option<String>) -> Result<Self> {
        Ok(Self { answer: active(Some("Bearer"), &claims)?, claims, kid })
    }
}

/// RFC 7662 §2.2 of a live token.
fn active(token_type: Option<&'static str>, claims: &impl Serialize) -> Result<Bytes> {
    #[derive(Serialize)]
    #[expect(clippy::struct_field_names, reason = "the wire's name")]
    struct Active<'t, C> {
        active: bool,
        /// Of an access token.
        #[serde(skip_serializing_if = "Option::is_none")]
        token_type: Option<&'static str>,
        #[serde(flatten)]
        claims: &'t C,
    }
    serde_json::to_vec(&Active { active: true, token_type, claims })
        .map(|answer| answer.into_boxed_slice().into())
        .map_err(Error::internal)
}

/// Tokens seen before, by SHA-256: a signature is verified once.
pub struct KnownTokens(Cache<[u8; 32], Arc<Described>>);

impl Default for KnownTokens {
    fn default() -> Self {
        Self(Cache::new(50_000))
    }
}

/// The token, when it is ours, unexpired, not taken back, and its client and resources are still there.
/// `None` says nothing about why.
///
/// # Errors
/// 503 when something must be read and the database cannot.
pub async fn describe(cx: &Cx<'_>, token: &str) -> Result<Option<Arc<Described>>> {
    let Some(described) = recognise(cx, token).await? else { return Ok(None) };
    Ok(if is_alive(cx, &described).await? { Some(described) } else { None })
}

/// Our token, dead or alive.
pub(super) async fn recognise(cx: &Cx<'_>, token: &str) -> Result<Option<Arc<Described>>> {
    if token.len() > LONGEST_TOKEN {
        return Ok(None);
    }
    let id = sha256(token.as_bytes());
    if let Some(known) = cx.known_tokens.0.get(&id) {
        return Ok(Some(known));
    }
    let found = if Prefix::AccessToken.matches(token) { stored(cx, id).await? } else { signed(cx, token)? };
    let found = found.map(Arc::new);
    if let Some(found) = &found {
        cx.known_tokens.0.insert(id, found.clone());
    }
    Ok(found)
}

async fn stored(cx: &Cx<'_>, id: artifacts::Key) -> Result<Option<Described>> {
    let now = cx.now;
    let read = cx
        .db
        .read(move |conn| Box::pin(async move { artifacts::get(conn, artifacts::Kind::AccessToken, &id, now).await }));
    let Some(body) = read.await? else { return Ok(None) };
    let claims = serde_json::from_str(&body).map_err(Error::internal)?;
    Described::new(claims, None).map(Some)
}

/// RFC 9068 §4: `typ`, signature by one of our keys under its own algorithm, issuer. Time comes later, each time.
fn signed(cx: &Cx<'_>, token: &str) -> Result<Option<Described>> {
    let ours = || {
        let jws = Jws::parse(token, LONGEST_TOKEN).ok()?;
        if !jws.header.is_typ(Typ::AccessToken.as_str()) {
            return None;
        }
        let ring = cx.keys.ring();
        let kid = ring.verify_own(&jws).ok()?.kid.clone();
        let claims: AccessClaims = jws.claims().ok()?;
        (claims.iss == cx.issuer.as_str()).then_some((claims, kid))
    };
    ours().map(|(claims, kid)| Described::new(claims, Some(kid))).transpose()
}

/// A refresh token that works (RFC 7662 §2.2).
#[derive(Debug, Serialize)]
struct LiveRefresh {
    iss: String,
    sub: String,
    client_id: String,
    scope: String,
    iat: i64,
    exp: i64,
}

/// What introspection says of `client`'s own refresh token while it is the current one of its grant, as JSON; `None` of
/// any other. It is read from the database each time.
///
/// # Errors
/// 503 when the database cannot answer.
pub async fn describe_refresh(cx: &Cx<'_>, client: &Client, token: RefreshToken) -> Result<Option<Bytes>> {
    let (client_id, now) = (client.client_id.as_ref().to_owned(), cx.now);
    let read =
        cx.db.read(move |conn| Box::pin(async move { grants::live_of(conn, token.grant, &client_id, now).await }));
    let row = read.await?.filter(|row| row.generation == i64::from(token.generation));
    let live = row.map(|row| LiveRefresh {
        iss: cx.issuer.as_str().to_owned(),
        sub: row.sub,
        client_id: row.client_id,
        scope: row.scope,
        iat: row.rotated_at.unwrap_or(row.created_at) / SECOND,
        exp: row.expires_at / SECOND,
    });
    live.map(|live| active(None, &live)).transpose()
}

async fn is_alive(cx: &Cx<'_>, described: &Described) -> Result<bool> {
    let Described { claims, kid, .. } = described;
    let in_time = cx.now < claims.exp * SECOND;
    // A key that was taken back takes its tokens with it.
    let key_stands = kid.as_ref().is_none_or(|kid| cx.keys.ring().public(kid).is_some());
    if !in_time || !key_stands || cx.revocations.covers(claims) {
        return Ok(false);
    }
    let resources = cx.resources.load();
    if !claims.aud.iter().all(|identifier| resources.resource(identifier).is_some()) {
        return Ok(false);
    }
    Ok(cx.clients.get(&claims.client_id).await?.is_some_and(|client| !client.disabled))
}
