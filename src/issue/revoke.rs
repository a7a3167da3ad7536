//! Taking tokens back.

use super::describe::recognise;
use crate::audit::{self, Actor, Event};
use crate::clients::Client;
use crate::clock::SECOND;
use crate::cx::Cx;
use crate::error::Result;
use crate::nodes;
use crate::store::feed;
use crate::store::revocations::{self, Kind};

/// Takes back `token` if it is this client's. Whatever else it is, nothing happens (RFC 7009 §2.2): the caller
/// learns nothing of tokens that are not its own. When this returns, no running node says that the token is active.
///
/// # Errors
/// 503 when the database does not take it, or a node has not confirmed it: then the caller tries again.
pub async fn revoke(cx: &Cx<'_>, client: &Client, token: &str) -> Result<()> {
    // Without a lease this node may not know the key of a token, and would say 200 for nothing.
    cx.require_lease()?;
    let Some(found) = recognise(cx, token).await? else { return Ok(()) };
    let claims = &found.claims;
    let expires_at = claims.exp * SECOND;
    if claims.client_id != *client.client_id || expires_at <= cx.now {
        return Ok(());
    }
    let (jti, actor) = (claims.jti.clone(), Actor::client(cx, &client.client_id));
    // A token is revoked once, whatever its time: repeating it writes nothing more.
    let always = claims.iat * SECOND;
    let committed = cx.db.write(move |tx| {
        Box::pin(async move {
            if revocations::add(tx, Kind::Token, &jti, always, expires_at).await? {
                audit::record(tx, &actor, &jti, &Event::TokenRevoked).await?;
                return Ok(None);
            }
            // Somebody was first, and nodes may still be learning of it: this caller waits for the same.
            feed::head(tx).await.map(Some)
        })
    });
    let committed = committed.await?;
    match committed.seq.or(committed.value) {
        Some(seq) => nodes::acted_on(cx, seq).await,
        None => Ok(()),
    }
}
