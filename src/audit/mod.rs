//! Who did what. Changes are recorded in the transaction that makes them; what is too frequent for a row each
//! (client-credentials tokens, introspections, refusals) is counted exactly and sampled, flushed each second.

mod event;

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::clients::Credential;
use crate::clock::{Micros, SECOND};
use crate::cx::Cx;
use crate::error::{Code, Error};
use crate::secret::{Id, NoRandomness, random};
use crate::store::audit::{self, Counter, EventRow};
use crate::store::{Db, StoreError, Tx, clients};
use crate::wire::vocabulary;

pub use event::{Action, Event, FieldChange};

/// Refusals that get a row of their own, per minute; all are counted.
const SAMPLES: i64 = 60;
/// The last place in a transaction that an id has room for (10 bits). Events after it share it, in no order.
const LAST_PLACE: u64 = (1 << 10) - 1;
const MINUTE: Micros = 60 * SECOND;
/// Counters, events or stamps of one transaction.
const CHUNK: usize = 500;
/// Different counters between two flushes; beyond it the client is no longer told apart.
const MOST_COUNTERS: usize = 100_000;
/// Events that wait while the database cannot take them; beyond it the newest are lost, and the log says how many.
const MOST_SAMPLES: usize = 10_000;

/// Who did it, and from where.
#[derive(Clone, Debug)]
pub struct Actor {
    name: String,
    address: String,
    request_id: String,
}

impl Actor {
    /// The server itself.
    pub fn system() -> Self {
        Self { name: "system".into(), address: String::new(), request_id: String::new() }
    }

    /// Somebody at this machine's command line.
    pub fn command_line() -> Self {
        Self { name: "cli".into(), ..Self::system() }
    }

    /// A person, in a request.
    pub fn person(cx: &Cx<'_>, sub: &str) -> Self {
        Self { name: format!("user:{sub}"), ..Self::client(cx, "") }
    }

    /// The same request, of the person `sub`.
    #[must_use]
    pub fn named(self, sub: &str) -> Self {
        Self { name: format!("user:{sub}"), ..self }
    }

    /// A client, in a request.
    pub fn client(cx: &Cx<'_>, client_id: &str) -> Self {
        Self {
            name: format!("client:{client_id}"),
            address: cx.peer.to_string(),
            request_id: cx.request_id.as_ref().to_owned(),
        }
    }
}

/// Records `event`, done by `actor` to `object`, in the transaction of what it records.
///
/// # Errors
/// Without randomness. Where the row cannot be written, nothing else of the transaction stands either.
pub fn record(tx: &mut Tx, actor: &Actor, object: &str, event: &Event) -> Result<(), StoreError> {
    let id = id(tx.now(), tx.next_place()).map_err(|cause| StoreError::Unfit(cause.to_string()))?;
    tx.record(id, row(tx.now(), actor, object, event)?);
    Ok(())
}

/// The id of an event: its time and its place in its transaction, so that ids are in the order of events and the index
/// grows at its end; then 8 random bytes.
fn id(at: Micros, place: usize) -> Result<Id, NoRandomness> {
    // Micros in 54 bits are five centuries.
    let time = u64::try_from(at).unwrap_or_default() << 10;
    let place = u64::try_from(place).map_or(LAST_PLACE, |place| place.min(LAST_PLACE));
    let mut id: Id = random()?;
    id[..8].copy_from_slice(&(time | place).to_be_bytes());
    Ok(id)
}

fn row(at: Micros, actor: &Actor, object: &str, event: &Event) -> Result<EventRow, StoreError> {
    let text = serde_json::to_string(event).map_err(|cause| StoreError::Unfit(cause.to_string()))?;
    // The tag comes first, and is a column of its own.
    let (kind, details) = text
        .strip_prefix(r#"{"event":""#)
        .and_then(|tagged| tagged.split_once('"'))
        .ok_or_else(|| StoreError::Unfit("an event without its kind".to_owned()))?;
    Ok(EventRow {
        at,
        kind: kind.to_owned(),
        actor: actor.name.clone(),
        object: object.to_owned(),
        address: actor.address.clone(),
        request_id: actor.request_id.clone(),
        details: format!("{{{}", details.strip_prefix(',').unwrap_or(details)),
    })
}

vocabulary! {
    /// What is counted.
    pub enum Counted {
        /// An authorization request: answered by a code, or refused.
        Authorization = "authorization",
        /// A request for a token.
        Token = "token",
        /// An introspection.
        Introspection = "introspection",
        /// A revocation.
        Revocation = "revocation",
        /// A question about a person.
        Userinfo = "userinfo",
        /// An attempt at signing in.
        SignIn = "sign_in",
    }
}

/// Counters, samples and last-used stamps that wait for the next flush.
#[derive(Default)]
pub struct Audit {
    counters: Mutex<HashMap<Counter, i64>>,
    samples: Mutex<Vec<(Id, EventRow)>>,
    lost: AtomicU64,
    sampled: AtomicI64,
    sampled_minute: AtomicI64,
    used: Mutex<HashMap<Id, Micros>>,
}

impl Audit {
    /// Counts a request of `client` (none: unknown) that ended as `outcome`; a refusal may be sampled.
    pub fn count(&self, cx: &Cx<'_>, what: Counted, client: Option<&Arc<str>>, outcome: Result<(), &Error>) {
        let word = outcome.map_or_else(|error| error.code.as_str(), |()| "ok");
        self.add(cx.now, what, client, word);
        if let Err(error) = outcome
            && !matches!(error.code, Code::TemporarilyUnavailable | Code::TooManyRequests | Code::Crowded)
        {
            self.sample(cx, client.map_or("", AsRef::as_ref), what, word);
        }
    }

    /// Records, with the next flush, that something was refused to `object` as `error`: so many a minute.
    pub fn sample(&self, cx: &Cx<'_>, object: &str, what: Counted, error: &'static str) {
        if self.may_sample(cx.now) {
            self.note(cx, object, &Event::Refused { what: what.as_str(), error });
        }
    }

    /// Counts an attempt at signing in that ended as `outcome`.
    pub fn count_attempt(&self, cx: &Cx<'_>, what: Counted, outcome: &'static str) {
        cx.metrics.sign_in(outcome);
        self.add(cx.now, what, None, outcome);
    }

    /// Records `event`, done by somebody unknown to `object`, with the next flush: where a row in the request would
    /// tell by its time that `object` exists.
    pub fn note(&self, cx: &Cx<'_>, object: &str, event: &Event) {
        let actor = Actor { name: "anonymous".into(), ..Actor::client(cx, "") };
        let (Ok(row), Ok(id)) = (row(cx.now, &actor, object, event), id(cx.now, 0)) else { return };
        self.keep([(id, row)]);
    }

    /// Keeps events for the next flush, as many as there is room for.
    fn keep(&self, events: impl IntoIterator<Item = (Id, EventRow)>) {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        for event in events {
            if samples.len() < MOST_SAMPLES {
                samples.push(event);
            } else {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn may_sample(&self, now: Micros) -> bool {
        let minute = now / MINUTE;
        if self.sampled_minute.swap(minute, Ordering::Relaxed) != minute {
            self.sampled.store(0, Ordering::Relaxed);
        }
        self.sampled.fetch_add(1, Ordering::Relaxed) < SAMPLES
    }

    fn add(&self, now: Micros, what: Counted, client: Option<&Arc<str>>, outcome: &'static str) {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let client_id = match client {
            Some(client) if counters.len() < MOST_COUNTERS => client.clone(),
            _ => "".into(),
        };
        *counters.entry(Counter { hour: audit::hour(now), event: what.as_str(), client_id, outcome }).or_insert(0) += 1;
    }

    /// Notes that a credential worked.
    pub fn used(&self, credential: &Credential, now: Micros) {
        if credential.touch(now) {
            self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(credential.id, now);
        }
    }

    /// Writes what has gathered, in small transactions. What could not be written waits for the next time.
    ///
    /// # Errors
    /// When the database does not take it.
    pub async fn flush(&self, db: &Db) -> Result<(), StoreError> {
        let counters = std::mem::take(&mut *self.counters.lock().unwrap_or_else(PoisonError::into_inner));
        let mut counters: Vec<(Counter, i64)> = counters.into_iter().collect();
        // All nodes take the rows in one order: transactions that meet wait for each other, and never in a circle.
        counters.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let mut outcome = Ok(());
        while !counters.is_empty() && outcome.is_ok() {
            let chunk = counters.split_off(counters.len().saturating_sub(CHUNK));
            outcome = self.write_counters(db, chunk).await;
        }
        self.put_back(counters);
        outcome?;
        self.write_rest(db).await
    }

    async fn write_counters(&self, db: &Db, chunk: Vec<(Counter, i64)>) -> Result<(), StoreError> {
        let waiting = chunk.clone();
        let written = db.write(move |tx| Box::pin(async move { audit::count(tx, &chunk).await }));
        let outcome = written.await.map(drop);
        // What may have been written is not counted twice.
        if let Err(cause) = &outcome
            && !matches!(cause, StoreError::Unknown(_))
        {
            self.put_back(waiting);
        }
        outcome
    }

    fn put_back(&self, waiting: Vec<(Counter, i64)>) {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        for (counter, n) in waiting {
            *counters.entry(counter).or_insert(0) += n;
        }
    }

    /// Events and stamps. Each event has its id already: one whose writing had an unknown end is not written twice.
    async fn write_rest(&self, db: &Db) -> Result<(), StoreError> {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            tracing::error!(lost, "audit events were lost: the database took none for too long");
        }
        let mut events = std::mem::take(&mut *self.samples.lock().unwrap_or_else(PoisonError::into_inner));
        while !events.is_empty() {
            let chunk: Vec<(Id, EventRow)> = events.drain(..events.len().min(CHUNK)).collect();
            let waiting = chunk.clone();
            let written = db.write(move |tx| {
                Box::pin(async move {
                    for (id, event) in chunk {
                        tx.record(id, event);
                    }
                    Ok(())
                })
            });
            if let Err(cause) = written.await {
                self.keep(waiting.into_iter().chain(events));
                return Err(cause);
            }
        }
        self.write_stamps(db).await
    }

    /// All with the time of the last: they came since the flush before this one.
    async fn write_stamps(&self, db: &Db) -> Result<(), StoreError> {
        let used = std::mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner));
        let Some(at) = used.values().max().copied() else { return Ok(()) };
        let mut ids: Vec<Id> = used.into_keys().collect();
        ids.sort_unstable();
        for chunk in ids.chunks(CHUNK) {
            let chunk = chunk.to_vec();
            db.write(move |tx| Box::pin(async move { clients::used(tx, &chunk, at).await })).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::wire::GrantType;

    #[test]
    fn ids_are_in_order_of_time_and_within_a_transaction() {
        let ids = [(0, 0), (7, 0), (7, 1), (7, 1022), (7, 5000), (8, 0), (4_000_000_000_000_000, 0)];
        let ids = ids.map(|(at, place)| id(at, place).unwrap());
        assert!(ids.is_sorted(), "{ids:?}");
        assert_ne!(id(7, 5000).unwrap(), id(7, 5000).unwrap());
    }

    #[test]
    fn a_row_has_the_kind_and_the_rest_of_an_event_apart() {
        let issued = Event::TokensIssued {
            grant_type: GrantType::RefreshToken,
            sub: "a \"person\", {event}".into(),
            scope: String::new(),
            jti: "j".into(),
        };
        for (event, kind, rest) in [
            (Event::ClientRemoved, "client.removed", json!({})),
            (Event::GrantRevoked { reason: "why" }, "grant.revoked", json!({ "reason": "why" })),
            (
                issued,
                "tokens.issued",
                json!({ "grant_type": "refresh_token", "sub": "a \"person\", {event}", "scope": "", "jti": "j" }),
            ),
        ] {
            let row = row(7, &Actor::command_line(), "o", &event).unwrap();
            assert_eq!((row.at, row.kind.as_str(), row.actor.as_str(), row.object.as_str()), (7, kind, "cli", "o"));
            assert_eq!(serde_json::from_str::<Value>(&row.details).unwrap(), rest);
        }
    }
}
