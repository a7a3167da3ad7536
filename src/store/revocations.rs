//! Rows of what was taken back. All of them are in every node's memory.

use sqlx::FromRow;

use super::conn::{execute, fetch, queries};
use super::{Conn, StoreError, Tx, feed};
use crate::clock::Micros;
use crate::wire::vocabulary;

vocabulary! {
    /// What was taken back.
    pub enum Kind {
        /// One token; the id is its `jti`.
        Token = "token",
        /// Everything of one grant; the id is the grant's, in base64url.
        Grant = "grant",
        /// Everything of a client that was issued before `not_before`; the id is the `client_id`.
        Client = "client",
    }
}

queries! {
    ADD = "INSERT INTO revocations (kind, id, not_before, expires_at) VALUES ($1, $2, $3, $4) \
           ON CONFLICT (kind, id) DO UPDATE SET not_before = excluded.not_before, expires_at = excluded.expires_at \
           WHERE revocations.not_before < excluded.not_before OR revocations.expires_at < excluded.expires_at";
    ALL = "SELECT kind, id, not_before, expires_at FROM revocations WHERE expires_at > $1";
    GET = "SELECT kind, id, not_before, expires_at FROM revocations WHERE kind = $1 AND id = $2";
    SWEEP = "DELETE FROM revocations WHERE (kind, id) IN \
             (SELECT kind, id FROM revocations WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2)";
}

/// A revocation as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct RevocationRow {
    /// A word of [`Kind`].
    pub kind: String,
    /// Which one.
    pub id: String,
    /// Tokens issued before this are dead.
    pub not_before: Micros,
    /// When the last token it speaks of has expired.
    pub expires_at: Micros,
}

/// Takes back what was issued before `not_before`; a later `not_before` wins. Whether that was new.
pub async fn add(
    tx: &mut Tx,
    kind: Kind,
    id: &str,
    not_before: Micros,
    expires_at: Micros,
) -> Result<bool, StoreError> {
    let new = execute!(tx, ADD, kind.as_str(), id, not_before, expires_at)? > 0;
    if new {
        tx.announce(feed::Kind::Revocation, format!("{kind}:{id}"));
    }
    Ok(new)
}

/// Every revocation that still matters.
pub async fn all(conn: &mut Conn, now: Micros) -> Result<Vec<RevocationRow>, StoreError> {
    fetch!(all, conn, ALL, now)
}

/// The revocation that the feed announced as `kind:id`.
pub async fn get(conn: &mut Conn, announced: &str) -> Result<Option<RevocationRow>, StoreError> {
    let Some((kind, id)) = announced.split_once(':') else { return Ok(None) };
    fetch!(optional, conn, GET, kind, id)
}

/// Forgets up to `limit` revocations whose tokens have all expired.
pub async fn sweep(tx: &mut Tx, now: Micros, limit: i64) -> Result<u64, StoreError> {
    execute!(tx, SWEEP, now, limit)
}
