//! Rows of the audit trail and the exact counters beside it.

use sqlx::FromRow;

use super::conn::{execute, fetch, queries};
use super::{Conn, StoreError, Tx};
use crate::clock::Micros;
use crate::secret::Id;

queries! {
    ADD = "INSERT INTO audit_events (id, at, kind, actor, object, address, request_id, details) \
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (id) DO NOTHING";
    LATEST = "SELECT at, kind, actor, object, address, request_id, details FROM audit_events ORDER BY at DESC LIMIT $1";
    COUNT = "INSERT INTO usage_counters (hour, event, client_id, outcome, n) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (hour, event, client_id, outcome) DO UPDATE SET n = usage_counters.n + excluded.n";
    SWEEP_SAMPLES = "DELETE FROM audit_events WHERE id IN \
                     (SELECT id FROM audit_events WHERE kind = 'request.refused' AND at < $1 ORDER BY at LIMIT $2)";
    COUNTED = "SELECT CAST(COALESCE(SUM(n), 0) AS BIGINT) FROM usage_counters \
               WHERE event = $1 AND client_id = $2 AND outcome = $3";
}

/// One event as it is kept.
#[derive(Clone, Debug, FromRow)]
pub struct EventRow {
    /// When.
    pub at: Micros,
    /// Which event: a word of `audit::Event`.
    pub kind: String,
    /// Who did it: `client:…`, `cli`, `system`.
    pub actor: String,
    /// What it was done to.
    pub object: String,
    /// From which address, or empty.
    pub address: String,
    /// In which request, or empty.
    pub request_id: String,
    /// The rest, as JSON.
    pub details: String,
}

/// Writes an event, in the transaction of what it records; once, also where its first writing had an unknown end.
pub async fn add(tx: &mut Tx, id: Id, event: &EventRow) -> Result<(), StoreError> {
    let EventRow { at, kind, actor, object, address, request_id, details } = event;
    execute!(tx, ADD, &id[..], at, kind, actor, object, address, request_id, details).map(drop)
}

/// The latest `limit` events, newest first.
pub async fn latest(conn: &mut Conn, limit: i64) -> Result<Vec<EventRow>, StoreError> {
    fetch!(all, conn, LATEST, limit)
}

/// Forgets up to `limit` samples of refusals from before `before`; the counters keep their number.
pub async fn sweep_samples(tx: &mut Tx, before: Micros, limit: i64) -> Result<u64, StoreError> {
    execute!(tx, SWEEP_SAMPLES, before, limit)
}

/// What a counter counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Counter {
    /// Hours since the epoch.
    pub hour: i64,
    /// What happened.
    pub event: &'static str,
    /// To which known client; empty for an unknown one.
    pub client_id: std::sync::Arc<str>,
    /// How it ended: `ok` or an error code.
    pub outcome: &'static str,
}

/// Adds `n` to a counter.
pub async fn count(tx: &mut Tx, counter: &Counter, n: i64) -> Result<(), StoreError> {
    let Counter { hour, event, client_id, outcome } = counter;
    execute!(tx, COUNT, hour, *event, client_id.as_ref(), *outcome, n).map(drop)
}

/// The sum of a counter over all hours.
pub async fn counted(conn: &mut Conn, event: &str, client_id: &str, outcome: &str) -> Result<i64, StoreError> {
    let (n,): (i64,) = fetch!(one, conn, COUNTED, event, client_id, outcome)?;
    Ok(n)
}
