//! Everything opaque and short-lived: a kind, an id, an expiry, a body. Kinds never mix.

use std::collections::HashSet;

use super::conn::{MANY, execute, execute_rows, fetch, filled, queries};
use super::{Conn, StoreError, Tx};
use crate::clock::Micros;
use crate::secret::random_text;
use crate::wire::vocabulary;

vocabulary! {
    /// What an artifact is.
    pub enum Kind {
        /// The `jti` of a client assertion that was used; the id is a hash of client and `jti`.
        ClientAssertion = "client_assertion",
        /// An opaque access token; the id is its SHA-256, the body its description as JSON.
        AccessToken = "access_token",
        /// An authorization request that was posted, checked, on its way to a GET; the id is a SHA-256, the body
        /// `Asked` as JSON.
        AuthorizationRequest = "authorization_request",
        /// A sign-in on its way; the id is a SHA-256, the body a `Flow` as JSON.
        AuthorizationFlow = "authorization_flow",
    }
}

/// Several single uses in one statement; `$1` is the kind, `$2` the body of those that this statement writes. The first
/// of each id wins.
macro_rules! burn {
    ($first:literal $($more:literal)*) => {
        concat!(
            "INSERT INTO artifacts (kind, id, body, expires_at) VALUES ($1, ", $first, ")",
            $(", ($1, ", $more, ")",)*
            " ON CONFLICT (kind, id) DO NOTHING"
        )
    };
}

queries! {
    PUT = "INSERT INTO artifacts (kind, id, body, expires_at, source) VALUES ($1, $2, $3, $4, $5)";
    GET = "SELECT body FROM artifacts WHERE kind = $1 AND id = $2 AND expires_at > $3";
    PATCH = "UPDATE artifacts SET body = $3, expires_at = $5 WHERE kind = $1 AND id = $2 AND expires_at > $4";
    TAKE = "DELETE FROM artifacts WHERE kind = $1 AND id = $2 AND expires_at > $3 RETURNING body";
    BURN_ONE = burn!("$3, $2, $4");
    BURN_MANY = burn!(
        "$3, $2, $4" "$5, $2, $6" "$7, $2, $8" "$9, $2, $10"
        "$11, $2, $12" "$13, $2, $14" "$15, $2, $16" "$17, $2, $18"
        "$19, $2, $20" "$21, $2, $22" "$23, $2, $24" "$25, $2, $26"
        "$27, $2, $28" "$29, $2, $30" "$31, $2, $32" "$33, $2, $34"
        "$35, $2, $36" "$37, $2, $38" "$39, $2, $40" "$41, $2, $42"
        "$43, $2, $44" "$45, $2, $46" "$47, $2, $48" "$49, $2, $50"
        "$51, $2, $52" "$53, $2, $54" "$55, $2, $56" "$57, $2, $58"
        "$59, $2, $60" "$61, $2, $62" "$63, $2, $64" "$65, $2, $66"
    );
    WAITING_OF = "SELECT COUNT(*) FROM \
                  (SELECT 1 FROM artifacts WHERE source = $1 AND expires_at > $2 LIMIT $3) AS waiting";
    WAITING = "SELECT COUNT(*) FROM \
               (SELECT 1 FROM artifacts WHERE source IS NOT NULL AND expires_at > $1 LIMIT $2) AS waiting";
    SWEEP = "DELETE FROM artifacts WHERE (kind, id) IN \
             (SELECT kind, id FROM artifacts WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2)";
}

/// The id of an artifact: a SHA-256.
pub type Key = [u8; 32];

/// Stores a new artifact.
pub async fn put(tx: &mut Tx, kind: Kind, id: &Key, body: &str, expires_at: Micros) -> Result<(), StoreError> {
    execute!(tx, PUT, kind.as_str(), &id[..], body, expires_at, None::<&str>).map(drop)
}

/// Stores a new artifact that anybody could leave here, and counts it as of `source`.
pub async fn put_from(
    tx: &mut Tx,
    (kind, id): (Kind, &Key),
    body: &str,
    expires_at: Micros,
    source: &str,
) -> Result<(), StoreError> {
    execute!(tx, PUT, kind.as_str(), &id[..], body, expires_at, Some(source)).map(drop)
}

/// How many live artifacts are counted as of `source`, or of anybody; not more than `most` are counted.
pub async fn waiting(conn: &mut Conn, source: Option<&str>, now: Micros, most: i64) -> Result<i64, StoreError> {
    let (count,): (i64,) = match source {
        Some(source) => fetch!(one, conn, WAITING_OF, source, now, most)?,
        None => fetch!(one, conn, WAITING, now, most)?,
    };
    Ok(count)
}

/// The body of a live artifact.
pub async fn get(conn: &mut Conn, kind: Kind, id: &Key, now: Micros) -> Result<Option<String>, StoreError> {
    let row: Option<(String,)> = fetch!(optional, conn, GET, kind.as_str(), &id[..], now)?;
    Ok(row.map(|(body,)| body))
}

/// Gives a live artifact another body and another end; false when there is none.
pub async fn patch(
    tx: &mut Tx,
    (kind, id): (Kind, &Key),
    body: &str,
    now: Micros,
    expires_at: Micros,
) -> Result<bool, StoreError> {
    Ok(execute!(tx, PATCH, kind.as_str(), &id[..], body, now, expires_at)? > 0)
}

/// Takes a live artifact away, once: of several that try, one gets its body.
pub async fn take(tx: &mut Tx, kind: Kind, id: &Key, now: Micros) -> Result<Option<String>, StoreError> {
    let row: Option<(String,)> = fetch!(optional, tx, TAKE, kind.as_str(), &id[..], now)?;
    Ok(row.map(|(body,)| body))
}

/// Uses ids up, each once and for all: those that nobody had used before. `ids` are (id, when it may be forgotten).
pub async fn burn(tx: &mut Tx, kind: Kind, ids: &[(Key, Micros)]) -> Result<HashSet<Key>, StoreError> {
    let mut first = HashSet::with_capacity(ids.len());
    // What this call writes says so, and no other call does.
    let mark = random_text::<16>().map_err(|cause| StoreError::Unfit(cause.to_string()))?;
    for chunk in ids.chunks(MANY) {
        let asked: HashSet<Key> = chunk.iter().map(|(id, _)| *id).collect();
        let burnt = match chunk {
            [] => 0,
            [(id, expires_at)] => execute!(tx, BURN_ONE, kind.as_str(), &mark, &id[..], *expires_at)?,
            chunk => execute_rows!(tx, BURN_MANY, [kind.as_str(), &mark], filled(chunk), |(id, at)| [&id[..], *at])?,
        };
        if usize::try_from(burnt).is_ok_and(|burnt| burnt == asked.len()) {
            first.extend(asked);
            continue;
        }
        // Rows that come back one by one cost more than all of the statement, so they are asked for only where somebody
        // tried what was used.
        for id in asked {
            if get(tx, kind, &id, Micros::MIN).await?.is_some_and(|body| body == mark) {
                first.insert(id);
            }
        }
    }
    Ok(first)
}

/// Forgets up to `limit` artifacts that expired before `now`.
pub async fn sweep(tx: &mut Tx, now: Micros, limit: i64) -> Result<u64, StoreError> {
    execute!(tx, SWEEP, now, limit)
}
