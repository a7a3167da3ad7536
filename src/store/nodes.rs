//! Rows of running nodes: until when their lease runs, what they have applied, and which master keys they have.

use super::conn::{execute, fetch, queries};
use super::{Conn, StoreError, Tx};
use crate::clock::Micros;
use crate::secret::Id;

queries! {
    RENEW = "INSERT INTO nodes (id, lease_until, applied_seq, started_at, master_keys) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until, applied_seq = excluded.applied_seq \
             WHERE nodes.lease_until <= excluded.lease_until";
    APPLIED = "UPDATE nodes SET applied_seq = $2 WHERE id = $1 AND applied_seq < $2";
    BEHIND = "SELECT COUNT(*) FROM nodes WHERE lease_until > $1 AND applied_seq < $2 AND id <> $3";
    ELDEST = "SELECT id FROM nodes WHERE lease_until > $1 ORDER BY started_at, id LIMIT 1";
    MASTER_KEYS = "SELECT master_keys FROM nodes WHERE lease_until > $1";
    REMOVE = "DELETE FROM nodes WHERE id = $1";
    SWEEP = "DELETE FROM nodes WHERE lease_until < $1";
}

/// What a node says of itself.
#[derive(Clone, Debug)]
pub struct NodeRow {
    /// Its id.
    pub id: Id,
    /// Until when its lease runs.
    pub lease_until: Micros,
    /// How far it has applied the feed.
    pub applied_seq: i64,
    /// When it first said so.
    pub started_at: Micros,
    /// The ids of the master keys that it can open with, parted by spaces.
    pub master_keys: String,
}

/// Takes or renews the lease of a node; one that comes late shortens nothing.
pub async fn renew(conn: &mut Conn, node: &NodeRow) -> Result<(), StoreError> {
    let NodeRow { id, lease_until, applied_seq, started_at, master_keys } = node;
    execute!(conn, RENEW, &id[..], lease_until, applied_seq, started_at, master_keys).map(drop)
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

/// The node that has been there for longest of those that hold a lease at `now`.
pub async fn eldest(conn: &mut Conn, now: Micros) -> Result<Option<Id>, StoreError> {
    let row: Option<(Vec<u8>,)> = fetch!(optional, conn, ELDEST, now)?;
    Ok(row.and_then(|(id,)| Id::try_from(id).ok()))
}

/// The master keys of each node that holds a lease at `now`: ids, parted by spaces.
pub async fn master_keys(conn: &mut Conn, now: Micros) -> Result<Vec<String>, StoreError> {
    let rows: Vec<(String,)> = fetch!(all, conn, MASTER_KEYS, now)?;
    Ok(rows.into_iter().map(|(ids,)| ids).collect())
}

/// Forgets node `id`: it has stopped.
pub async fn remove(tx: &mut Tx, id: Id) -> Result<(), StoreError> {
    execute!(tx, REMOVE, &id[..]).map(drop)
}

/// Forgets nodes whose lease ended before `before`.
pub async fn sweep(tx: &mut Tx, before: Micros) -> Result<u64, StoreError> {
    execute!(tx, SWEEP, before)
}
