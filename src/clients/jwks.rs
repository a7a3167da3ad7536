//! Public keys that clients publish at their `jwks_uri`: fetched through the guarded client, cached, and fetched
//! anew at most once per interval when a token names a key that we do not know.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::Mutex;

use crate::clock::{Micros, SECOND, micros};
use crate::cx::Cx;
use crate::error::{Error, Result};
use crate::keys::{JwkSet, Jws, VerifyError};
use crate::outbound::Outbound;
use crate::wire::Algorithm;

/// A set is fetched anew after this long.
const FRESH: Micros = 600 * SECOND;
/// While the client's server does not answer, its last set is believed for this long.
const STALE: Micros = 3600 * SECOND;
const MOST_SETS: u64 = 10_000;

/// The cache of fetched key sets.
pub struct RemoteKeys {
    outbound: Outbound,
    interval: Micros,
    sets: Cache<String, Arc<Mutex<Fetched>>>,
}

#[derive(Clone, Default)]
struct Fetched {
    set: Option<Arc<JwkSet>>,
    read_at: Micros,
    tried_at: Option<Micros>,
}

impl RemoteKeys {
    /// An empty cache; `interval` is the least time between two fetches of one address.
    pub fn new(outbound: Outbound, interval: Duration) -> Self {
        Self { outbound, interval: micros(interval), sets: Cache::new(MOST_SETS) }
    }

    /// Checks that a key published at `uri` signed `jws` with one of the algorithms `allowed`.
    ///
    /// # Errors
    /// `invalid_client`.
    pub async fn verify(&self, cx: &Cx<'_>, uri: &str, jws: &Jws<'_>, allowed: &[Algorithm]) -> Result<()> {
        let (set, fetched_now) = self.set(cx, uri, |fetched| cx.now - fetched.read_at > FRESH).await;
        match verify(set.as_deref(), jws, allowed) {
            // An unknown kid may be a new key.
            Err(VerifyError::UnknownKey) if !fetched_now => {
                let (set, _) = self.set(cx, uri, |_| true).await;
                verify(set.as_deref(), jws, allowed)
            }
            outcome => outcome,
        }
        .map_err(|cause| Error::invalid_client().because(cause))
    }

    /// The set at `uri`, fetched when `wanted` and not tried within the interval; and whether it was fetched now.
    /// Requests that need the same set wait for one fetch.
    async fn set(&self, cx: &Cx<'_>, uri: &str, wanted: impl Fn(&Fetched) -> bool) -> (Option<Arc<JwkSet>>, bool) {
        let entry = self.sets.get_with_by_ref(uri, Arc::default);
        let mut fetched = entry.lock().await;
        let now = cx.clock.now();
        let may = fetched.tried_at.is_none_or(|tried| now - tried >= self.interval);
        let due = may && (fetched.set.is_none() || wanted(&fetched));
        if due {
            fetched.tried_at = Some(now);
            match self.fetch(uri).await {
                Ok(set) => {
                    fetched.set = Some(Arc::new(set));
                    fetched.read_at = now;
                    cx.metrics.outbound_request("ok");
                }
                Err(cause) => {
                    cx.metrics.outbound_request("failed");
                    tracing::warn!(%cause, request_id = %cx.request_id, "a client's jwks_uri could not be read");
                }
            }
        }
        let usable = now - fetched.read_at <= STALE;
        (fetched.set.clone().filter(|_| usable), due)
    }

    async fn fetch(&self, uri: &str) -> Result<JwkSet, Box<dyn std::error::Error + Send + Sync>> {
        let text = self.outbound.get(uri, "application/jwk-set+json, application/json").await?;
        Ok(JwkSet::parse(&text)?)
    }
}

fn verify(set: Option<&JwkSet>, jws: &Jws<'_>, allowed: &[Algorithm]) -> Result<(), VerifyError> {
    set.ok_or(VerifyError::UnknownKey)?.verify(jws, allowed).map(drop)
}
