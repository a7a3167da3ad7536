//! Taking tokens back.

use super::code::id_text;
use super::describe::recognise;
use super::{LONGEST_LIFETIME, RefreshToken};
use crate::audit::{self, Actor, Event};
use crate::clients::Client;
use crate::clock::SECOND;
use crate::cx::Cx;
use crate::error::Result;
use crate::nodes::{self, LEASE_BOUND};
use crate::secret::Id;
use crate::store::revocations::{self, Kind};
use crate::store::{StoreError, Tx, feed, grants};
use crate::wire::EndGrants;

/// Takes back `token` if it is this client's: an access token alone, a refresh token with its grant and every access
/// token of it (RFC 7009 §2.1). Whatever else it is, nothing happens (§2.2): the caller learns nothing of tokens that
/// are not its own. When this returns, no running node says that the token is active.
///
/// # Errors
/// 503 when the database does not take it, or a node has not confirmed it: then the caller tries again.
pub async fn revoke(cx: &Cx<'_>, client: &Client, token: &str) -> Result<()> {
    // Without a lease this node may not know the key of a token, and would say 200 for nothing.
    cx.require_lease()?;
    let actor = Actor::client(cx, &client.client_id);
    let committed = if let Some(token) = RefreshToken::open(&cx.mac, token) {
        let client_id = client.client_id.as_ref().to_owned();
        let revoking = cx.db.write(move |tx| {
            Box::pin(async move {
                let now = tx.now();
                match grants::live_of(tx, token.grant, &client_id, now).await? {
                    Some(_) => revoke_grant(tx, &token.grant, &actor, "the client revoked it").await,
                    None => feed::head(tx).await.map(Some),
                }
            })
        });
        revoking.await?
    } else {
        let Some(found) = recognise(cx, token).await? else { return Ok(()) };
        let claims = &found.claims;
        let expires_at = claims.exp * SECOND;
        if claims.client_id != *client.client_id || expires_at <= cx.now {
            return Ok(());
        }
        let jti = claims.jti.clone();
        // A token is revoked once, whatever its time: repeating it writes nothing more.
        let always = claims.iat * SECOND;
        let revoking = cx.db.write(move |tx| {
            Box::pin(async move {
                if revocations::add(tx, Kind::Token, &jti, always, expires_at).await? {
                    audit::record(tx, &actor, &jti, &Event::TokenRevoked)?;
                    return Ok(None);
                }
                // Somebody was first, and nodes may still be learning of it: this caller waits for the same.
                feed::head(tx).await.map(Some)
            })
        });
        revoking.await?
    };
    match committed.seq.or(committed.value) {
        Some(seq) => nodes::acted_on(cx, seq).await,
        None => Ok(()),
    }
}

/// Takes a grant back: its code, its refresh token, and every access token of it. Where somebody was first, up to which
/// change the caller waits for the same.
pub(super) async fn revoke_grant(
    tx: &mut Tx,
    id: &Id,
    actor: &Actor,
    reason: &'static str,
) -> Result<Option<i64>, StoreError> {
    if !grants::revoke(tx, id).await? {
        return feed::head(tx).await.map(Some);
    }
    let now = tx.now();
    revocations::add(tx, Kind::Grant, &id_text(id), now, now + LEASE_BOUND + LONGEST_LIFETIME).await?;
    audit::record(tx, actor, &id_text(id), &Event::GrantRevoked { reason })?;
    Ok(None)
}

/// Takes back what came of a sign-in that ends, in the transaction that ends it; the caller waits for its `seq` as for
/// any revocation. Codes under way go, and so do the grants that `what` names; by default all but those with
/// `offline_access`: the person allowed these to go on while they are away (OpenID Connect Back-Channel Logout §2.7).
///
/// # Errors
/// When the database does not take it.
pub async fn revoke_of_session(tx: &mut Tx, sid: &str, what: EndGrants, actor: &Actor) -> Result<(), StoreError> {
    for (id, scope, redeemed) in grants::of_session(tx, sid).await? {
        let offline = scope.split(' ').any(|token| token == "offline_access");
        if !redeemed || what.ends(offline) {
            revoke_grant(tx, &id, actor, "the sign-in ended").await?;
        }
    }
    Ok(())
}

/// Takes back all that a person granted a client, in the transaction in which they say so; the caller waits for its
/// `seq`, or, where all of it was taken back before, for the change that this gives.
///
/// # Errors
/// When the database does not take it.
pub async fn revoke_of_person_at(
    tx: &mut Tx,
    sub: &str,
    client_id: &str,
    actor: &Actor,
) -> Result<Option<i64>, StoreError> {
    for id in grants::of_user_at(tx, sub, client_id).await? {
        revoke_grant(tx, &id, actor, "the person took it back").await?;
    }
    feed::head(tx).await.map(Some)
}

/// Takes back everything of a person, in the transaction that switches them off, removes them or gives them another
/// password; the caller waits for its `seq` as for any revocation. Grant by grant, so that what they get after it, in
/// the same second too, is good.
///
/// # Errors
/// When the database does not take it.
pub async fn revoke_of_user(tx: &mut Tx, sub: &str, actor: &Actor) -> Result<(), StoreError> {
    for id in grants::of_user(tx, sub).await? {
        revoke_grant(tx, &id, actor, "everything of the person ended").await?;
    }
    Ok(())
}
