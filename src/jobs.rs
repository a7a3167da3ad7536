//! What a server does beside answering: flushing what gathers in memory, and sweeping what has expired.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::{Micros, SECOND, micros};
use crate::cx::Services;
use crate::issue::LONGEST_LIFETIME;
use crate::keys::schedule::Due;
use crate::metrics::in_seconds;
use crate::nodes::FEED_KEPT;
use crate::session;
use crate::store::{
    Committed, Db, JobFuture, StoreError, Tx, artifacts, attempts, audit, feed, grants, nodes, revocations, sessions,
    signing_keys,
};
use crate::wire::Algorithm;

const FLUSH: Duration = Duration::from_secs(1);
const SWEEP: Duration = Duration::from_mins(1);
/// How long samples of refusals are kept.
const SAMPLES_KEPT: Duration = Duration::from_hours(7 * 24);
/// How long counters are kept.
const COUNTERS_KEPT: Duration = Duration::from_hours(90 * 24);
/// How long retired signing keys are listed after their end.
const RETIRED_KEPT: Duration = Duration::from_hours(90 * 24);
/// Rows of one sweeping transaction: short enough that nobody waits for it.
const SMALL: i64 = 500;

/// Flushes counters, samples and stamps each second until `stop`, and once more then.
pub async fn flush(services: Arc<Services>, stop: CancellationToken) {
    loop {
        let last = tokio::time::timeout(FLUSH, stop.cancelled()).await.is_ok();
        if let Err(cause) = services.audit.flush(&services.db).await {
            tracing::warn!(%cause, "counters and audit samples wait: they could not be written");
        }
        if last {
            return;
        }
    }
}

/// Sweeps expired rows each minute, of the clock that they expire by, until `stop`.
pub async fn sweep(services: Arc<Services>, stop: CancellationToken) {
    let mut swept = services.clock.now();
    while tokio::time::timeout(FLUSH, stop.cancelled()).await.is_err() {
        let now = services.clock.now();
        // A clock that was set back is no reason to wait for it.
        if (swept..swept + micros(SWEEP)).contains(&now) {
            continue;
        }
        swept = now;
        if let Err(cause) = sweep_once(&services).await {
            tracing::warn!(%cause, "expired rows could not be swept");
        }
    }
}

/// Sweeps everything that has expired by now, in small batches.
///
/// # Errors
/// When the database does not take it; what was swept before stays swept.
pub async fn sweep_once(services: &Services) -> Result<(), StoreError> {
    let (db, now) = (&services.db, services.clock.now());
    in_batches(db, move |tx| Box::pin(artifacts::sweep(tx, now, SMALL))).await?;
    // While an access token may live, its grant is known: who takes back everything finds it.
    in_batches(db, move |tx| Box::pin(grants::sweep(tx, now - LONGEST_LIFETIME, SMALL))).await?;
    in_batches(db, move |tx| Box::pin(sessions::sweep(tx, now, SMALL))).await?;
    let settings = services.sessions;
    in_batches(db, move |tx| Box::pin(session::sweep(tx, settings, now, SMALL))).await?;
    in_batches(db, move |tx| Box::pin(attempts::sweep(tx, now, SMALL))).await?;
    // A revocation outlives its tokens by a minute: nodes' clocks may differ.
    let dead = now - 60 * SECOND;
    in_batches(db, move |tx| Box::pin(revocations::sweep(tx, dead, SMALL))).await?;
    in_batches(db, move |tx| Box::pin(feed::sweep(tx, now - micros(FEED_KEPT), SMALL))).await?;
    in_batches(db, move |tx| Box::pin(audit::sweep_samples(tx, now - micros(SAMPLES_KEPT), SMALL))).await?;
    let hour = audit::hour(now - micros(COUNTERS_KEPT));
    in_batches(db, move |tx| Box::pin(audit::sweep_counters(tx, hour, SMALL))).await?;
    in_batches(db, move |tx| Box::pin(signing_keys::sweep(tx, now - micros(RETIRED_KEPT), SMALL))).await?;
    db.write(move |tx| Box::pin(nodes::sweep(tx, now - micros(FEED_KEPT)))).await?;
    services.revocations.sweep(dead);
    Ok(())
}

/// Between two looks at the signing keys' schedule. It stands in memory: a look costs nothing.
const LOOK: Duration = Duration::from_millis(100);
/// For so long a step is left to the node that leads; one that leads may not know the algorithm yet, or hang.
const LEFT: Micros = 10 * SECOND;
/// After a step that failed: making the key for the next try is work.
const REST: Duration = Duration::from_secs(5);
/// A step that has been due for longer is told, each time that so much has passed again.
const LATE: Micros = 60 * SECOND;

/// What is due of the signing keys' schedule, as far as this node knows.
fn due(services: &Services, now: Micros) -> Vec<(Algorithm, Due)> {
    services.keys.next_steps().into_iter().filter(|(_, due)| due.at <= now).collect()
}

/// Tells when the signing keys' schedule is late, until `stop`: beside [`rotate`], which may be what hangs.
pub async fn watch_rotation(services: Arc<Services>, stop: CancellationToken) {
    let (mut since, mut told) = (None, 0);
    while tokio::time::timeout(LOOK, stop.cancelled()).await.is_err() {
        let now = services.clock.now();
        let due = due(&services, now);
        // How long it has been due for us; a clock that jumped has made nobody late.
        (since, told) = if due.is_empty() { (None, 0) } else { (since.or(Some(now)), told) };
        let late = since.map_or(0, |since| now - since);
        services.metrics.signing_key_late.set(in_seconds(late));
        if late > told + LATE {
            told = late;
            let seconds = late / SECOND;
            let steps = due.iter().map(|(algorithm, due)| format!("{algorithm}: {}", due.step)).collect::<Vec<_>>();
            tracing::warn!(seconds, steps = steps.join(", "), "the signing keys' schedule is late");
        }
    }
}

/// Moves the signing keys on by their schedule until `stop`. The node that leads makes what is due, under its lease; the
/// others learn of it by the feed. Nothing is kept between two steps, so whoever leads then makes the next; and where two
/// try the same one, the database takes one of them.
pub async fn rotate(services: Arc<Services>, stop: CancellationToken) {
    let (mut made, mut pause) = (0, LOOK);
    while tokio::time::timeout(pause, stop.cancelled()).await.is_err() {
        let now = services.clock.now();
        pause = LOOK;
        // What memory has not learnt yet is still due in it.
        if services.node.applied() < made {
            continue;
        }
        for (algorithm, next) in due(&services, now) {
            let trying = async {
                let ours = now - next.at > LEFT || services.node.leads(&services.db).await?;
                let nothing = Committed { value: None, seq: None };
                if ours { services.keys.step(&services.db, now, algorithm).await } else { Ok(nothing) }
            };
            match trying.await {
                Ok(Committed { value: Some(this), seq }) => {
                    tracing::info!(%algorithm, step = %this, "the signing keys' schedule went on");
                    made = seq.unwrap_or(made);
                }
                Ok(_) => {}
                Err(cause) => {
                    tracing::warn!(%cause, %algorithm, "a step of the signing keys waits");
                    pause = REST;
                }
            }
        }
    }
}

async fn in_batches<F>(db: &Db, batch: F) -> Result<(), StoreError>
where
    F: for<'t> Fn(&'t mut Tx) -> JobFuture<'t, u64> + Clone + Send + 'static,
{
    while db.write(batch.clone()).await?.value > 0 {}
    Ok(())
}
