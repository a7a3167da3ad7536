//! Public keys that clients publish at their `jwks_uri`: fetched through the guarded client, cached, and fetched
//! anew at most once per interval when a token names a key that we do not know.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::sync::Semaphore;

use crate::clock::{Micros, SECOND, micros};
use crate::cx::Cx;
use crate::error::{Error, Result};
use crate::keys::{JwkError, JwkSet, Jws, VerifyError};
use crate::outbound::{Outbound, OutboundError};
use crate::wire::Algorithm;

/// A set is fetched anew after this long.
const FRESH: Micros = 600 * SECOND;
/// While the client's server does not answer, its last set is believed for this long.
const STALE: Micros = 3600 * SECOND;
const MOST_SETS: usize = 10_000;
/// Fetches at one time, of all clients together: so many sockets and bodies slow servers can cost us, and no more.
const MOST_FETCHES: usize = 32;
/// How long a fetch waits for its place among them. Then it counts as failed, but for [`SECOND`] only.
const PATIENCE: Duration = Duration::from_millis(500);

/// The cache of fetched key sets.
pub struct RemoteKeys {
    outbound: Outbound,
    interval: Micros,
    places: Arc<Semaphore>,
    sets: Cache<String, Arc<Entry>>,
}

/// What is known of one address, and whose turn it is to find out more.
#[derive(Default)]
struct Entry {
    known: Mutex<Known>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Clone, Default)]
struct Known {
    set: Option<Arc<JwkSet>>,
    read_at: Micros,
    /// From when the next fetch is allowed.
    next_at: Micros,
}

#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("too many key sets are being fetched")]
    Busy,
    #[error(transparent)]
    Unreachable(#[from] OutboundError),
    #[error(transparent)]
    Malformed(#[from] JwkError),
}

impl Known {
    /// The set, while it is believed.
    fn usable(&self, now: Micros) -> Option<Arc<JwkSet>> {
        self.set.clone().filter(|_| now - self.read_at <= STALE)
    }

    fn is_due(&self, now: Micros, refresh: bool) -> bool {
        now >= self.next_at && (refresh || self.set.is_none() || now - self.read_at > FRESH)
    }
}

impl Entry {
    fn known(&self) -> Known {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl RemoteKeys {
    /// An empty cache; `interval` is the least time between two fetches of one address.
    pub fn new(outbound: Outbound, interval: Duration) -> Self {
        let places = Arc::new(Semaphore::new(MOST_FETCHES));
        Self { outbound, interval: micros(interval), places, sets: Cache::new(MOST_SETS) }
    }

    /// Checks that a key published at `uri` signed `jws` with one of the algorithms `allowed`.
    ///
    /// # Errors
    /// `invalid_client`.
    pub async fn verify(&self, cx: &Cx<'_>, uri: &str, jws: &Jws<'_>, allowed: &[Algorithm]) -> Result<()> {
        let (set, fetched_now) = self.set(cx, uri, false).await;
        match verify(set.as_deref(), jws, allowed) {
            // An unknown kid may be a new key.
            Err(VerifyError::UnknownKey) if !fetched_now => {
                let (set, _) = self.set(cx, uri, true).await;
                verify(set.as_deref(), jws, allowed)
            }
            outcome => outcome,
        }
        .map_err(|cause| Error::invalid_client().because(cause))
    }

    /// The set at `uri`, and whether it was fetched now: when it is old, when there is none, or to `refresh` it, but
    /// once per interval only. Requests that cannot go on without it wait for one fetch.
    async fn set(&self, cx: &Cx<'_>, uri: &str, refresh: bool) -> (Option<Arc<JwkSet>>, bool) {
        let Ok(entry) = self.sets.get_or_insert_with(uri, || Ok::<_, Infallible>(Arc::default()));
        let (known, now) = (entry.known(), cx.clock.now());
        if !known.is_due(now, refresh) {
            return (known.usable(now), false);
        }
        let turn = match (known.usable(now), entry.turn.clone().try_lock_owned()) {
            (_, Ok(turn)) => turn,
            (Some(set), Err(_)) if !refresh => return (Some(set), false),
            _ => entry.turn.clone().lock_owned().await,
        };
        let (known, now) = (entry.known(), cx.clock.now());
        if !known.is_due(now, refresh) {
            return (known.usable(now), false);
        }
        // On its own: were it dropped with a request that goes away, anybody could begin fetches and break them off,
        // and keep a client's keys from being read.
        let fetch = fetch(self.outbound.clone(), self.places.clone(), uri.to_owned());
        let (task, metrics, interval) = (entry.clone(), cx.metrics.clone(), self.interval);
        let request_id = cx.request_id.clone();
        let fetched = tokio::spawn(async move {
            let outcome = fetch.await;
            metrics.outbound_request(if outcome.is_ok() { "ok" } else { "failed" });
            let mut known = task.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.next_at = now + if matches!(outcome, Err(FetchError::Busy)) { SECOND } else { interval };
            match outcome {
                Ok(set) => (known.set, known.read_at) = (Some(Arc::new(set)), now),
                Err(cause) => tracing::warn!(%cause, %request_id, "a client's jwks_uri could not be read"),
            }
            drop(turn);
        });
        // It does not panic; if it did, there would be no newer set.
        let _ = fetched.await;
        (entry.known().usable(now), true)
    }
}

async fn fetch(outbound: Outbound, places: Arc<Semaphore>, uri: String) -> Result<JwkSet, FetchError> {
    let _place = tokio::time::timeout(PATIENCE, places.acquire()).await.map_err(|_| FetchError::Busy)?;
    let text = outbound.get(&uri, "application/jwk-set+json, application/json").await?;
    Ok(JwkSet::parse(&text)?)
}

fn verify(set: Option<&JwkSet>, jws: &Jws<'_>, allowed: &[Algorithm]) -> Result<(), VerifyError> {
    set.ok_or(VerifyError::UnknownKey)?.verify(jws, allowed).map(drop)
}
