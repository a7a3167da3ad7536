//! Rows of running nodes: until when their lease runs and what they have applied.

use super::conn::{execute, fetch, queries};
use super::{Conn, StoreError, Tx};
use crate::clock::Micros;
use crate::secret::Id;

queries! {
    RENEW = "INSERT INTO nodes (id, lease_until, applied_seq, started_at) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until, applied_seq = excluded.applied_seq \
             WHERE nodes.lease_until <= excluded.lease_until";
    APPLIED = "UPDATE nodes SET applied_seq = $2 WHERE id = $1 AND applied_seq < $2";
    BEHIND = "SELECT COUNT(*) FROM nodes WHERE lease_until > $1 AND applied_seq < $2 AND id <> $3";
    REMOVE = "DELETE FROM nodes WHERE id = $1";
    SWEEP = "DELETE FROM nodes WHERE lease_until < $1";
}

/// Takes or renews, at `now`, the lease of node `id`; one that comes late shortens nothing.
pub async fn renew(conn: &mut Conn, id: Id, now: Micros, until: Micros, applied: i64) -> Result<(), StoreError> {
    execute!(conn, RENEW, &id[..], until, applied, now).map(drop)
}

/// Says that node `id` has applied the feed up to `seq`.
pub async fn applied(conn: &mut Conn, id: Id, seq: i64) -> Result<(), StoreError> {
    execute!(conn, APPLIED, &id[..], seq).map(drop)
}

/// How many nodes other than `me` hold a lease at `now` and have not applied `seq`.
pub async fn behind(conn: &mut Conn, now: Micros, seq: i64, me: Id) -> Result<i64, StoreError> {
    let (count,): (i64,) = fetch!(one, conn, BEHIND, now, seq, &me[..])?;
    Ok(count)
}

/// Forgets node `id`: it has stopped.
pub async fn remove(tx: &mut Tx, id: Id) -> Result<(), StoreError> {
    execute!(tx, REMOVE, &id[..]).map(drop)
}

/// Forgets nodes whose lease ended before `before`.
pub async fn sweep(tx: &mut Tx, before: Micros) -> Result<u64, StoreError> {
    execute!(tx, SWEEP, before)
}
