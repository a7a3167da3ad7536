//! The node lease and the change feed (mechanisms.md): why a node may answer from memory, and why a change that
//! takes something away is over once its caller hears 200.
//!
//! The rule in full. A node writes its lease row, then reads and applies the feed, and only then counts on the
//! lease, for less long than the row says. Whoever takes something away commits it, then waits until no
//! row holds an unexpired lease without having applied it. A node whose row the waiter did not see writes it
//! after the commit, so its read of the feed meets the change before it answers from memory again.

mod follow;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::{Clock, Micros, SECOND, micros};
use crate::config::LEASE_BOUND_SECONDS;
use crate::cx::Services;
use crate::error::{Error, Result};
use crate::secret::{Id, NoRandomness, random};
use crate::store::{Db, Lock, StoreError, nodes};

pub use follow::{follow, join};

/// How long a lease row promises.
const LEASE: Duration = Duration::from_secs(3);
/// Longer than any node goes on by what it knew before a change.
pub const LEASE_BOUND: Micros = LEASE_BOUND_SECONDS as Micros * SECOND;
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
    /// SQLite: the lock of the only server.
    lock: Mutex<Option<Lock>>,
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
            lock: Mutex::default(),
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

    /// Whether it is this node's part to do what one of all nodes does: it holds a lease, and has for longest.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn leads(&self, db: &Db) -> std::result::Result<bool, StoreError> {
        if self.lease().is_none() || db.sqlite_path().is_some() {
            return Ok(self.lease().is_some());
        }
        let now = self.clock.now();
        let eldest = db.read(move |conn| Box::pin(nodes::eldest(conn, now))).await?;
        Ok(eldest == Some(self.id))
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

    /// Whether no other server can have the SQLite file. Where one can, the lease is over.
    fn holds_lock(&self) -> bool {
        let holds = self.lock().as_ref().is_none_or(Lock::holds);
        if !holds {
            self.end_lease();
        }
        holds
    }

    fn lock(&self) -> MutexGuard<'_, Option<Lock>> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end_lease(&self) {
        self.counted_until.store(0, Ordering::Release);
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

/// Makes sure that this is the only server on a SQLite file; on PostgreSQL there may be many. This comes before
/// anything else is written.
///
/// # Errors
/// [`StartError::Taken`], [`StartError::Lock`], or when the database cannot be written.
pub async fn lock(services: &Services) -> Result<(), StartError> {
    let Some(path) = services.db.sqlite_path() else { return Ok(()) };
    // A command may hold it for a moment, to see whether a server runs.
    for _ in 0..10 {
        if let Some(lock) = Lock::serving(path).map_err(StartError::Lock)? {
            let had_no_file = lock.made_its_file();
            *services.node.lock() = Some(lock);
            // Rows of servers that crashed: we hold the lock, so none of them runs,
            let crashed = services.db.write(|tx| Box::pin(async move { nodes::sweep(tx, Micros::MAX).await })).await?;
            // unless its lock file was removed under it; then it finds that out before its lease ends.
            if had_no_file && crashed.value > 0 {
                tracing::warn!("a server was not stopped, and its lock file is gone: waiting until its lease must end");
                tokio::time::sleep(LEASE).await;
            }
            return Ok(());
        }
        tokio::time::sleep(SQLITE_POLL).await;
    }
    Err(StartError::Taken)
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
        // There are no others while the lock is held.
        return if services.node.holds_lock() { Ok(()) } else { Err(unknown()) };
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
        let serving = db.sqlite_path().and_then(|path| Lock::is_serving(path).ok());
        if serving == Some(Some(false)) {
            return Ok(());
        }
        let now = clock.now();
        if db.read(move |conn| Box::pin(async move { nodes::behind(conn, now, seq, me).await })).await? == 0 {
            return Ok(());
        }
        if clock.monotonic() > give_up {
            // Without its lock file a server has no lease for longer than this; what its row says is not so.
            return if serving == Some(None) { Ok(()) } else { Err(unknown()) };
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
