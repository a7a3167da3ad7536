//! Rows of the audit trail and the exact counters beside it.

use sqlx::FromRow;

use super::conn::{execute, execute_rows, fetch, queries};
use super::{Conn, StoreError, Tx};
use crate::clock::{Micros, SECOND};
use crate::secret::Id;

/// Several counters of one hour, event and outcome in one statement.
macro_rules! count {
    ($first:literal $($more:literal)*) => {
        concat!(
            "INSERT INTO usage_counters (hour, event, outcome, client_id, n) VALUES ($1, $2, $3, ", $first, ")",
            $(", ($1, $2, $3, ", $more, ")",)*
            " ON CONFLICT (hour, event, client_id, outcome) DO UPDATE SET n = usage_counters.n + excluded.n"
        )
    };
}

/// How many counters the long text has.
const MANY: usize = 16;

/// Several events in one statement; once, also where their first writing had an unknown end.
macro_rules! add {
    ($first:literal $($more:literal)*) => {
        concat!(
            "INSERT INTO audit_events (id, at, kind, actor, object, address, request_id, details) VALUES (", $first, ")",
            $(", (", $more, ")",)*
            " ON CONFLICT (id) DO NOTHING"
        )
    };
}

/// How many events the long text has.
const EVENTS: usize = 8;

queries! {
    ADD_ONE = add!("$1, $2, $3, $4, $5, $6, $7, $8");
    ADD_MANY = add!(
        "$1, $2, $3, $4, $5, $6, $7, $8"
        "$9, $10, $11, $12, $13, $14, $15, $16"
        "$17, $18, $19, $20, $21, $22, $23, $24"
        "$25, $26, $27, $28, $29, $30, $31, $32"
        "$33, $34, $35, $36, $37, $38, $39, $40"
        "$41, $42, $43, $44, $45, $46, $47, $48"
        "$49, $50, $51, $52, $53, $54, $55, $56"
        "$57, $58, $59, $60, $61, $62, $63, $64"
    );
    LATEST = "SELECT at, kind, actor, object, address, request_id, details FROM audit_events ORDER BY id DESC LIMIT $1";
    COUNT_ONE = count!("$4, $5");
    COUNT_MANY = count!(
        "$4, $5" "$6, $7" "$8, $9" "$10, $11" "$12, $13" "$14, $15" "$16, $17" "$18, $19"
        "$20, $21" "$22, $23" "$24, $25" "$26, $27" "$28, $29" "$30, $31" "$32, $33" "$34, $35"
    );
    SWEEP_SAMPLES = "DELETE FROM audit_events WHERE id IN \
                     (SELECT id FROM audit_events WHERE kind = 'request.refused' AND at < $1 ORDER BY at LIMIT $2)";
    SWEEP_COUNTERS = "DELETE FROM usage_counters WHERE (hour, event, client_id, outcome) IN \
                      (SELECT hour, event, client_id, outcome FROM usage_counters WHERE hour < $1 \
                      ORDER BY hour, event, client_id, outcome LIMIT $2)";
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

/// Writes events; each once, also where its first writing had an unknown end.
pub(super) async fn add(tx: &mut Tx, events: &[(Id, EventRow)]) -> Result<(), StoreError> {
    let (chunks, rest) = events.as_chunks::<EVENTS>();
    for chunk in chunks {
        execute_rows!(tx, ADD_MANY, [], chunk.iter(), |(id, event)| [
            &id[..],
            event.at,
            &event.kind,
            &event.actor,
            &event.object,
            &event.address,
            &event.request_id,
            &event.details
        ])?;
    }
    for (id, event) in rest {
        let EventRow { at, kind, actor, object, address, request_id, details } = event;
        execute!(tx, ADD_ONE, &id[..], at, kind, actor, object, address, request_id, details)?;
    }
    Ok(())
}

/// The latest `limit` events, newest first.
pub async fn latest(conn: &mut Conn, limit: i64) -> Result<Vec<EventRow>, StoreError> {
    fetch!(all, conn, LATEST, limit)
}

/// Forgets up to `limit` samples of refusals from before `before`; the counters keep their number for longer.
pub async fn sweep_samples(tx: &mut Tx, before: Micros, limit: i64) -> Result<u64, StoreError> {
    execute!(tx, SWEEP_SAMPLES, before, limit)
}

/// The hour that `at` is in, since the epoch.
pub fn hour(at: Micros) -> i64 {
    at.div_euclid(3600 * SECOND)
}

/// What a counter counts. Those that one statement can count are next to each other in their order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Counter {
    /// Hours since the epoch.
    pub hour: i64,
    /// What happened.
    pub event: &'static str,
    /// How it ended: `ok` or an error code.
    pub outcome: &'static str,
    /// To which known client; empty for an unknown one.
    pub client_id: std::sync::Arc<str>,
}

impl Counter {
    fn group(&self) -> (i64, &'static str, &'static str) {
        (self.hour, self.event, self.outcome)
    }
}

/// Adds to counters, each of which may be among `counted` once. They are best in their order.
pub async fn count(tx: &mut Tx, counted: &[(Counter, i64)]) -> Result<(), StoreError> {
    for group in counted.chunk_by(|(a, _), (b, _)| a.group() == b.group()) {
        for chunk in group.chunks(MANY) {
            let (hour, event, outcome) = chunk[0].0.group();
            if chunk.len() == MANY {
                execute_rows!(tx, COUNT_MANY, [hour, event, outcome], chunk.iter(), |(counter, n)| [
                    &*counter.client_id,
                    *n
                ])?;
                continue;
            }
            for (counter, n) in chunk {
                execute!(tx, COUNT_ONE, hour, event, outcome, &*counter.client_id, *n)?;
            }
        }
    }
    Ok(())
}

/// Forgets up to `limit` counters of hours before `hour`.
pub async fn sweep_counters(tx: &mut Tx, hour: i64, limit: i64) -> Result<u64, StoreError> {
    execute!(tx, SWEEP_COUNTERS, hour, limit)
}

/// The sum of a counter over all hours.
pub async fn counted(conn: &mut Conn, event: &str, client_id: &str, outcome: &str) -> Result<i64, StoreError> {
    let (n,): (i64,) = fetch!(one, conn, COUNTED, event, client_id, outcome)?;
    Ok(n)
}
