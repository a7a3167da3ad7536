//! Time. One clock per [`App`](crate::app::App): the machine's monotonic clock plus an offset to the
//! database's clock, so that all nodes agree on expiry whatever their own wall clocks say.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Microseconds since the Unix epoch, UTC: how every time is kept in memory and in the database.
pub type Micros = i64;

/// One second in [`Micros`].
pub const SECOND: Micros = 1_000_000;

/// A shared clock; cloning it is cheap and every clone tells the same time.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    started: Instant,
    /// What the reference clock (the database's, or this machine's) said, minus `monotonic` at that moment.
    offset: AtomicI64,
    /// How far tests have moved time forward.
    shift: AtomicI64,
}

impl Clock {
    /// A clock that follows this machine's wall clock until [`Clock::follow`] corrects it.
    pub fn system() -> Self {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
        let started = Instant::now();
        Self(Arc::new(Inner { started, offset: AtomicI64::new(wall()), shift: AtomicI64::new(0) }))
    }

    /// The current time, by the database's clock as last observed.
    pub fn now(&self) -> Micros {
        self.monotonic() + self.0.offset.load(Ordering::Relaxed) + self.0.shift.load(Ordering::Relaxed)
    }

    /// Microseconds since this clock was made. Never jumps; tests cannot move it. Leases are judged by it.
    pub fn monotonic(&self) -> Micros {
        micros(self.0.started.elapsed())
    }

    /// Takes over the reference clock's reading `reference`, seen when [`Clock::monotonic`] was `at`.
    pub fn follow(&self, reference: Micros, at: Micros) {
        self.0.offset.store(reference - at, Ordering::Relaxed);
    }

    /// Follows this machine's wall clock: what a node does whose database is a local file.
    pub fn follow_system(&self) {
        self.follow(wall(), self.monotonic());
    }

    /// How far this machine's wall clock is ahead of the followed clock.
    pub fn skew(&self) -> Micros {
        wall() - (self.monotonic() + self.0.offset.load(Ordering::Relaxed))
    }

    /// Moves this clock forward by `by`; for tests, which must not wait.
    pub fn advance(&self, by: Duration) {
        self.0.shift.fetch_add(micros(by), Ordering::Relaxed);
    }
}

/// A duration in [`Micros`], saturating.
pub fn micros(duration: Duration) -> Micros {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
fn wall() -> Micros {
    micros(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_reference_and_moves_only_forward_in_tests() {
        let clock = Clock::system();
        clock.follow(1_000 * SECOND, clock.monotonic());
        let before = clock.now();
        assert!((1_000 * SECOND..1_001 * SECOND).contains(&before));
        let twin = clock.clone();
        twin.advance(Duration::from_mins(1));
        assert!(clock.now() >= before + 60 * SECOND);
    }
}
