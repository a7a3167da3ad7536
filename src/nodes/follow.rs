//! Following the feed: the loop that keeps a node's lease and its memory true.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::postgres::PgListener;
use tokio_util::sync::CancellationToken;

use super::{FOREVER, LEASE, MOST_SKEW, RENEW, SQLITE_POLL, StartError};
use crate::claims::Mappers;
use crate::clock::{Micros, SECOND, micros};
use crate::cx::Services;
use crate::resources::Catalog;
use crate::store::feed::{self, Change, Follower, Kind};
use crate::store::nodes::NodeRow;
use crate::store::{Lock, StoreError, nodes, revocations};

/// Takes the first lease and reads everything into memory; then [`follow`] keeps it so.
///
/// # Errors
/// When the database cannot be read in time.
pub async fn join(services: &Services) -> Result<Follower, StartError> {
    let late = |_| Err(StoreError::Unavailable("the database did not answer in time".into()).into());
    tokio::time::timeout(Duration::from_secs(30), join_now(services)).await.unwrap_or_else(late)
}

async fn join_now(services: &Services) -> Result<Follower, StartError> {
    let node = &services.node;
    let mut follower = Follower::new(&services.db).await?;
    let started = follow_clock(services, &mut follower).await?;
    renew(services, &mut follower).await?;
    confirm(services, &mut follower).await?;
    let head = feed::head(follower.conn()).await?;
    reload(services, &mut follower).await?;
    node.applied.send_replace(head);
    catch_up(services, &mut follower).await?;
    publish_applied(services, &mut follower).await?;
    node.extend(started);
    Ok(follower)
}

/// Follows the feed and keeps the lease until `stop`; then gives the lease back.
pub async fn follow(services: Arc<Services>, mut follower: Follower, stop: CancellationToken) {
    let sqlite = services.db.sqlite_path().is_some();
    let pause = if sqlite { SQLITE_POLL } else { RENEW / 2 };
    let mut bell = None;
    let mut renewed_at = services.clock.monotonic();
    while !stop.is_cancelled() {
        if !sqlite && bell.is_none() {
            bell =
                services.db.listener().await.inspect_err(|cause| tracing::warn!(%cause, "no doorbell")).ok().flatten();
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
            () = services.db.doorbell() => {}
            heard = ring(bell.as_mut()) => if !heard { bell = None },
        }
        if !services.node.holds_lock() {
            tokio::select! {
                () = stop.cancelled() => break,
                () = retake(&services, &mut follower) => follower.forget(),
            }
        }
        let started = services.clock.monotonic();
        let due = sqlite || started - renewed_at >= micros(RENEW) * 9 / 10;
        match step(&services, &mut follower, due).await {
            Ok(()) if due => renewed_at = started,
            Ok(()) => {}
            Err(cause) => {
                tracing::error!(%cause, "the change feed cannot be followed");
                (bell, renewed_at) = (None, 0);
                follower.forget();
                tokio::time::sleep(Duration::from_millis(200)).await;
                // The connection may be the trouble.
                if let Ok(fresh) = Follower::new(&services.db).await {
                    follower = fresh;
                }
            }
        }
    }
    services.node.end_lease();
    let id = services.node.id;
    let _ = services.db.write(move |tx| Box::pin(async move { nodes::remove(tx, id).await })).await;
}

async fn ring(bell: Option<&mut PgListener>) -> bool {
    match bell {
        Some(bell) => bell.recv().await.is_ok(),
        None => std::future::pending().await,
    }
}

async fn step(services: &Services, follower: &mut Follower, renewing: bool) -> Result<(), StoreError> {
    let work = async {
        let started = if renewing { Some(follow_clock(services, follower).await?) } else { None };
        // After the time from which the lease is counted: who makes a new lock file waits for less than that.
        if !services.node.holds_lock() {
            return Err(StoreError::Unavailable("the lock file is gone".into()));
        }
        if renewing && services.db.sqlite_path().is_none() || services.db.write_failed() {
            renew(services, follower).await?;
        }
        let applied = services.node.applied();
        if follower.stirred().await? {
            catch_up(services, follower).await?;
        }
        // Nobody waits for a node that has no lease and gets none.
        if services.node.applied() > applied {
            publish_applied(services, follower).await?;
        }
        if let Some(started) = started {
            // Between two leases nobody saw which master keys we have.
            if services.node.lease_remaining() <= 0 {
                confirm(services, follower).await?;
            }
            services.node.extend(started);
        }
        Ok(())
    };
    tokio::time::timeout(LEASE, work)
        .await
        .unwrap_or_else(|_| Err(StoreError::Unavailable("the database did not answer within a lease".into())))
}

/// The lock file was removed or replaced, so another server may run on this database. Waits until the lock can be had
/// again, and until whoever else lost it that way has no lease either; what changed meanwhile stands in the feed.
async fn retake(services: &Services, follower: &mut Follower) {
    let Some(path) = services.db.sqlite_path() else { return };
    tracing::error!(
        database = %path.display(),
        "the lock file beside the database was removed or replaced: this server answers 503 until it has the lock again"
    );
    loop {
        match Lock::serving(path) {
            Ok(Some(lock)) => {
                *services.node.lock() = Some(lock);
                tokio::time::sleep(LEASE).await;
                // Another server may have swept our row.
                while let Err(cause) = renew(services, follower).await {
                    tracing::error!(%cause, "this server has the lock again, and cannot write the database");
                    tokio::time::sleep(RENEW).await;
                }
                return tracing::info!("this server has the lock again");
            }
            Ok(None) => {}
            Err(cause) => tracing::error!(%cause, "the lock file cannot be made"),
        }
        tokio::time::sleep(RENEW).await;
    }
}

/// Follows the database's clock, and says so when this machine's is far from it.
async fn follow_clock(services: &Services, follower: &mut Follower) -> Result<Micros, StoreError> {
    let before = follower.set(&services.clock).await?;
    let (node, skewed) = (&services.node, services.clock.skew().abs() > MOST_SKEW);
    if node.skewed.swap(skewed, Ordering::Relaxed) != skewed {
        tracing::warn!(seconds = services.clock.skew() / SECOND, skewed, "this machine's clock and the database's");
    }
    Ok(before)
}

async fn renew(services: &Services, follower: &mut Follower) -> Result<(), StoreError> {
    let now = services.clock.now();
    // On SQLite never the same twice: a row that says what it said before is not written, and a full disk not noticed.
    let until = now + if services.db.sqlite_path().is_some() { FOREVER } else { micros(LEASE) };
    let row = NodeRow {
        id: services.node.id,
        lease_until: until,
        applied_seq: services.node.applied(),
        started_at: now,
        master_keys: services.keys.master().ids(),
    };
    follower.write(&services.db, move |conn| Box::pin(async move { nodes::renew(conn, &row).await })).await
}

/// Makes sure that we have the master key that seals. Whoever makes another the one that seals from here on sees in our
/// row, which was written before, which ones we have.
async fn confirm(services: &Services, follower: &mut Follower) -> Result<(), StoreError> {
    let keys = services.keys.master().clone();
    follower.write(&services.db, move |conn| Box::pin(async move { keys.sealing(conn).await.map(drop) })).await
}

async fn publish_applied(services: &Services, follower: &mut Follower) -> Result<(), StoreError> {
    let (id, applied) = (services.node.id, services.node.applied());
    follower.write(&services.db, move |conn| Box::pin(nodes::applied(conn, id, applied))).await
}

/// Applies what is new, in order. Numbers have no gaps: one that is missing was swept before we read it.
async fn catch_up(services: &Services, follower: &mut Follower) -> Result<(), StoreError> {
    loop {
        let applied = services.node.applied();
        let head = feed::head(follower.conn()).await?;
        if head <= applied {
            services.node.behind_since.store(0, Ordering::Relaxed);
            return Ok(());
        }
        let changes = feed::since(follower.conn(), applied).await?;
        let now_applied = match (changes.first(), changes.last()) {
            (Some(first), Some(last)) if has_no_gap(applied, &changes) => {
                services.node.behind_since.store(first.at, Ordering::Relaxed);
                apply(services, follower, &changes).await?;
                last.seq
            }
            _ => {
                reload(services, follower).await?;
                head
            }
        };
        services.node.applied.send_replace(now_applied);
    }
}

/// Numbers are given without gaps, so where one is missing it was swept.
fn has_no_gap(applied: i64, changes: &[Change]) -> bool {
    let mut last = applied;
    changes.iter().all(|change| std::mem::replace(&mut last, change.seq) + 1 >= change.seq)
}

/// Revocations of one batch from which on all are read anew.
const MANY: usize = 100;

async fn apply(services: &Services, follower: &mut Follower, changes: &[Change]) -> Result<(), StoreError> {
    let (mut resources, mut keys, mut clients, mut mappers) = (false, false, false, false);
    let is_revocation = |change: &&Change| change.kind == Kind::Revocation.as_str();
    // Many at once are read at once: one by one they could take longer than a lease.
    let many = changes.iter().filter(is_revocation).count() > MANY;
    if many {
        services.revocations.learn(revocations::all(follower.conn(), services.clock.now()).await?);
    }
    for change in changes {
        match change.kind.parse() {
            Ok(Kind::Client) => {
                services.clients.invalidate(&change.id);
                clients = true;
            }
            Ok(Kind::Resource) => resources = true,
            Ok(Kind::ClaimMapper) => mappers = true,
            Ok(Kind::SigningKey) => keys = true,
            Ok(Kind::Revocation) if many => {}
            Ok(Kind::Revocation) => services.revocations.learn(revocations::get(follower.conn(), &change.id).await?),
            // A kind that only a later release writes, and acts on.
            Err(_) => {}
        }
    }
    if clients {
        services.clients.reload_origins(follower.conn()).await?;
    }
    if mappers {
        services.claim_mappers.store(Arc::new(Mappers::load(follower.conn()).await?));
    }
    // Discovery tells of both, and is rendered anew with the catalog.
    if resources || mappers {
        let catalog = Catalog::load(follower.conn()).await?;
        services.resources.store(Arc::new(catalog.with_built_in(&services.issuer)));
    }
    if keys {
        reload_keys(services, follower).await?;
    }
    Ok(())
}

async fn reload(services: &Services, follower: &mut Follower) -> Result<(), StoreError> {
    let conn = follower.conn();
    services.clients.reload(conn).await?;
    services.claim_mappers.store(Arc::new(Mappers::load(conn).await?));
    let catalog = Catalog::load(conn).await?;
    services.resources.store(Arc::new(catalog.with_built_in(&services.issuer)));
    services.revocations.learn(revocations::all(conn, services.clock.now()).await?);
    reload_keys(services, follower).await
}

async fn reload_keys(services: &Services, follower: &mut Follower) -> Result<(), StoreError> {
    for (algorithm, state) in services.keys.reload(follower.conn()).await? {
        services.metrics.signing_key_step(algorithm, state.reached_by());
    }
    Ok(())
}
