//! The node lease and the change feed (mechanisms.md): why a node may answer from memory, and why a change that
//! takes something away is over once its caller hears 200.
//!
//! The rule in full. A node writes its lease row, then reads and applies the feed, and only then counts on the
//! lease, for less long than the row says. Whoever takes something away commits it, then waits until no
//! row holds an unexpired lease without having applied it. A node whose row the waiter did not see writes it
//! after the commit, so its read of the feed meets the change before it answers from memory again.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sqlx::postgres::PgListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Micros, SECOND, micros};
use crate::cx::Services;
use crate::error::{Error, Result};
use crate::resources::Catalog;
use crate::secret::{Id, NoRandomness, random};
use crate::store::feed::{self, Change, Follower, Kind};
use crate::store::{Db, Lock, StoreError, nodes, revocations};

/// How long a lease row promises.
const LEASE: Duration = Duration::from_secs(3);
/// How long its node counts on it: less, by what clocks of two nodes may differ after following the database's.
const COUNTED_ON: Duration = Duration::from_millis(2500);
const RENEW: Duration = Duration::from_secs(1);
const SQLITE_POLL: Duration = Duration::from_millis(100);
/// SQLite: the lock file is the lease; the row only says what was applied.
const FOREVER: Micros = Micros::MAX / 2;
/// How long feed rows are kept; who lags more reads everything anew.
pub const FEED_KEPT: Duration = Duration::from_hours(1);
/// Beyond this the wall clock and the database disagree too much.
pub const MOST_SKEW: Micros = 5 * SECOND;

/// This node: its lease, and how far it has applied the feed.
pub struct Node {
    id: Id,
    clock: Clock,
    /// Until when, on the monotonic clock, the lease may be counted on.
    counted_until: AtomicI64,
    /// How many leases there were: one more each time that one had run out before it was renewed.
    leases: AtomicU64,
    applied: watch::Sender<i64>,
    /// The oldest unapplied change is from this time; 0 when none is known.
    behind_since: AtomicI64,
    skewed: AtomicBool,
    draining: AtomicBool,
    lock: OnceLock<Lock>,
}

/// One stretch of time in which the lease never ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease(u64);

impl Node {
    /// A node without a lease yet.
    ///
    /// # Errors
    /// Without randomness for its id.
    pub fn new(clock: Clock) -> Result<Self, NoRandomness> {
        Ok(Self {
            id: random()?,
            clock,
            counted_until: AtomicI64::new(0),
            leases: AtomicU64::new(0),
            applied: watch::Sender::new(-1),
            behind_since: AtomicI64::new(0),
            skewed: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            lock: OnceLock::new(),
        })
    }

    /// Microseconds for which the lease may still be counted on; negative without one.
    pub fn lease_remaining(&self) -> Micros {
        self.counted_until.load(Ordering::Acquire) - self.clock.monotonic()
    }

    /// The lease that is held now: what is read from memory from here on is good for as long as it has no gap.
    pub fn lease(&self) -> Option<Lease> {
        // In this order: a lease that begins between the two is told as the one before, which is no good then.
        let number = self.leases.load(Ordering::Acquire);
        (self.lease_remaining() > 0).then_some(Lease(number))
    }

    /// Whether this node may answer from what it read from memory since it held `lease`. A lease that was taken since
    /// is not enough: what was read before it may have been taken back while there was none.
    ///
    /// # Errors
    /// 503 without that lease: the database has been out of reach for some seconds.
    pub fn require(&self, lease: Option<Lease>) -> Result<()> {
        if lease.is_some() && self.lease() == lease {
            return Ok(());
        }
        Err(Error::unavailable("This node is cut off from its database; try again.", 2))
    }

    /// From here on this node only finishes what it has begun.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether it is about to stop.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The last change of the feed that this node acts on.
    pub fn applied(&self) -> i64 {
        *self.applied.borrow()
    }

    /// Microseconds since the oldest change that is known and not applied; 0 when there is none.
    pub fn lag(&self) -> Micros {
        match self.behind_since.load(Ordering::Relaxed) {
            0 => 0,
            since => (self.clock.now() - since).max(0),
        }
    }

    fn extend(&self, from: Micros) {
        if self.lease_remaining() <= 0 {
            self.leases.fetch_add(1, Ordering::AcqRel);
        }
        self.counted_until.fetch_max(from + micros(COUNTED_ON), Ordering::AcqRel);
    }
}

/// Why `serve` cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another `serve` has the SQLite file.
    #[error("another `sealwright serve` runs on this database file; stop it, or use PostgreSQL for several nodes")]
    Taken,
    /// The lock file cannot be made.
    #[error("the lock file beside the database cannot be made: {0}")]
    Lock(std::io::Error),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes sure that this is the only server on a SQLite file; on PostgreSQL there may be many. First of all, before
/// anything is written.
///
/// # Errors
/// [`StartError::Taken`], [`StartError::Lock`].
pub async fn lock(services: &Services) -> Result<(), StartError> {
    let Some(path) = services.db.sqlite_path() else { return Ok(()) };
    // A command may hold it for a moment, to see whether a server runs.
    for _ in 0..10 {
        if let Some(lock) = Lock::serving(path).map_err(StartError::Lock)? {
            let _ = services.node.lock.set(lock);
            return Ok(());
        }
        tokio::time::sleep(SQLITE_POLL).await;
    }
    Err(StartError::Taken)
}

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
    if services.db.sqlite_path().is_some() {
        // Rows of servers that crashed: we hold the lock, so none of them runs.
        services.db.write(|tx| Box::pin(async move { nodes::sweep(tx, Micros::MAX).await })).await?;
    }
    let mut follower = Follower::new(&services.db).await?;
    let started = follow_clock(services, &mut follower).await?;
    renew(services).await?;
    let head = feed::head(follower.conn()).await?;
    reload(services, &mut follower).await?;
    node.applied.send_replace(head);
    catch_up(services, &mut follower).await?;
    publish_applied(services).await?;
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
    services.node.counted_until.store(0, Ordering::Release);
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
    let bound = micros(LEASE).unsigned_abs();
    let work = async {
        let started = if renewing { Some(follow_clock(services, follower).await?) } else { None };
        if renewing && services.db.sqlite_path().is_none() || services.db.write_failed() {
            renew(services).await?;
        }
        let applied = services.node.applied();
        if follower.stirred().await? {
            catch_up(services, follower).await?;
        }
        if let Some(started) = started {
            services.node.extend(started);
        }
        if services.node.applied() > applied {
            publish_applied(services).await?;
        }
        Ok(())
    };
    tokio::time::timeout(Duration::from_micros(bound), work)
        .await
        .unwrap_or_else(|_| Err(StoreError::Unavailable("the database did not answer within a lease".into())))
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

async fn renew(services: &Services) -> Result<(), StoreError> {
    let (id, applied) = (services.node.id, services.node.applied());
    // On SQLite never the same twice: a row that says what it said before is not written, and a full disk not noticed.
    let promised = if services.db.sqlite_path().is_some() { FOREVER } else { micros(LEASE) };
    let until = services.clock.now() + promised;
    services.db.write(move |tx| Box::pin(async move { nodes::renew(tx, id, until, applied).await })).await.map(drop)
}

async fn publish_applied(services: &Services) -> Result<(), StoreError> {
    let (id, applied) = (services.node.id, services.node.applied());
    services.db.write(move |tx| Box::pin(async move { nodes::applied(tx, id, applied).await })).await.map(drop)
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

async fn apply(services: &Services, follower: &mut Follower, changes: &[Change]) -> Result<(), StoreError> {
    let (mut resources, mut keys, mut clients) = (false, false, false);
    for change in changes {
        match change.kind.parse() {
            Ok(Kind::Client) => {
                services.clients.invalidate(&change.id);
                clients = true;
            }
            Ok(Kind::Resource) => resources = true,
            Ok(Kind::SigningKey) => keys = true,
            Ok(Kind::Revocation) => services.revocations.learn(revocations::get(follower.conn(), &change.id).await?),
            // A kind that only a later release writes, and acts on.
            Err(_) => {}
        }
    }
    if clients {
        services.clients.reload_origins(follower.conn()).await?;
    }
    if resources {
        services.resources.store(Arc::new(Catalog::load(follower.conn()).await?));
    }
    if keys {
        services.keys.reload(follower.conn()).await?;
    }
    Ok(())
}

async fn reload(services: &Services, follower: &mut Follower) -> Result<(), StoreError> {
    services.clients.invalidate_all();
    let conn = follower.conn();
    services.clients.reload_origins(conn).await?;
    services.resources.store(Arc::new(Catalog::load(conn).await?));
    services.keys.reload(conn).await?;
    services.revocations.learn(revocations::all(conn, services.clock.now()).await?);
    Ok(())
}

/// Waits until every running server acts on change `seq`: what a caller of a change that takes something away is
/// owed before it hears of success.
///
/// # Errors
/// 503 when that cannot be known in time. The change itself stands.
pub async fn acted_on(services: &Services, seq: i64) -> Result<()> {
    let mut applied = services.node.applied.subscribe();
    let here = async { applied.wait_for(|applied| *applied >= seq).await.is_ok() };
    if !tokio::time::timeout(LEASE + RENEW, here).await.unwrap_or(false) {
        return Err(unknown());
    }
    if services.db.sqlite_path().is_some() {
        return Ok(());
    }
    others_acted_on(&services.db, &services.clock, seq, services.node.id).await
}

/// The same for a process that is no node: a command beside running servers.
///
/// # Errors
/// 503 when that cannot be known in time. The change itself stands.
pub async fn acted_on_elsewhere(db: &Db, clock: &Clock, seq: i64) -> Result<()> {
    others_acted_on(db, clock, seq, Id::default()).await
}

async fn others_acted_on(db: &Db, clock: &Clock, seq: i64, me: Id) -> Result<()> {
    let give_up = clock.monotonic() + micros(LEASE + RENEW);
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(path) = db.sqlite_path()
            && Lock::serving(path).is_ok_and(|lock| lock.is_some())
        {
            return Ok(());
        }
        let now = clock.now();
        if db.read(move |conn| Box::pin(async move { nodes::behind(conn, now, seq, me).await })).await? == 0 {
            return Ok(());
        }
        if clock.monotonic() > give_up {
            return Err(unknown());
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

fn unknown() -> Error {
    Error::unavailable("The change is stored, but not every node has confirmed it yet; try again.", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_that_ran_out_is_not_the_next_one() {
        let clock = Clock::system();
        let node = Node::new(clock.clone()).unwrap();
        let extend = |left: Duration| node.extend(clock.monotonic() - micros(COUNTED_ON) + micros(left));
        assert!(node.lease().is_none() && node.require(None).is_err());
        extend(Duration::from_millis(200));
        let first = node.lease();
        extend(Duration::from_millis(300));
        assert!(first.is_some() && node.require(first).is_ok(), "renewed in time");
        std::thread::sleep(Duration::from_millis(400));
        assert!(node.lease().is_none() && node.require(first).is_err());
        extend(COUNTED_ON);
        assert!(node.lease().is_some(), "it may answer again");
        assert!(node.require(first).is_err(), "but not what was read before");
        assert!(node.require(None).is_err(), "nor without having held one");
    }
}
