//! Work that is too slow for the async workers: so much of it at once, on threads of its own, and so much waiting. Who
//! waits is served by address, in turn, so that a flood from one delays another's by one piece of work and no more.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::error::{Error, Result};

/// A bounded pool of threads; clones are the same pool.
///
/// The place in the queue depends on the address that asks and on nothing else: a turn that depended on whether a
/// client or a person exists would tell who floods the queue which names are known.
#[derive(Clone, Debug)]
pub struct Pool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Threads that nobody has; none while somebody waits.
    free: usize,
    /// One for each address that waits; whose turn is next stands first. None is empty.
    lines: VecDeque<Line>,
}

#[derive(Debug)]
struct Line {
    from: Option<IpAddr>,
    waiting: VecDeque<oneshot::Sender<Permit>>,
}

/// Leave to use one thread now, given back when dropped.
#[derive(Debug)]
#[must_use = "a permit that is dropped reserves nothing"]
pub struct Permit(Option<Arc<Shared>>);

impl Pool {
    /// A pool that works on `threads` threads (at least 1) while at most `queue` others wait.
    pub fn new(threads: usize, queue: usize) -> Self {
        let state = State { free: threads.max(1), lines: VecDeque::new() };
        Self(Arc::new(Shared { queue, state: Mutex::new(state) }))
    }

    /// Waits for a thread. `from` is the address that asks, `None` where the work is this server's own; IPv6 counts by
    /// networks of 64 bits. Where the queue is full, the address that has most waiting gives up its last place to one
    /// that has fewer; this server's own work gives up none.
    ///
    /// # Errors
    /// `temporarily_unavailable`, try again in 1 s, when there is no place or it was given up.
    pub async fn permit(&self, from: Option<IpAddr>) -> Result<Permit> {
        let turn = {
            let mut state = self.0.state();
            if state.free > 0 {
                state.free -= 1;
                return Ok(Permit(Some(self.0.clone())));
            }
            state.make_room(from.map(network), self.0.queue).ok_or_else(busy)?;
            state.join(from.map(network))
        };
        turn.await.map_err(|_| busy())
    }

    /// How many wait at this moment.
    pub fn waiting(&self) -> usize {
        let state = self.0.state();
        state.lines.iter().flat_map(|line| &line.waiting).filter(|turn| !turn.is_closed()).count()
    }
}

impl Permit {
    /// Does `work` on a thread. The permit goes with it: when the caller goes away, the thread is busy until the work
    /// is done.
    ///
    /// # Errors
    /// `server_error` when `work` panics.
    pub async fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let work = move || {
            let done = work();
            drop(self);
            done
        };
        tokio::task::spawn_blocking(work).await.map_err(Error::internal)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(pool) = self.0.take() else { return };
        let mut state = pool.state();
        while let Some(turn) = state.next() {
            match turn.send(Self(Some(pool.clone()))) {
                Ok(()) => return,
                // It went away while it waited; the thread is still ours to give.
                Err(mut unused) => unused.0 = None,
            }
        }
        state.free += 1;
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Room for one more of `from` where `queue` have a place; `None` when there is none.
    fn make_room(&mut self, from: Option<IpAddr>, queue: usize) -> Option<()> {
        // Who went away leaves its place.
        self.lines.iter_mut().for_each(|line| line.waiting.retain(|turn| !turn.is_closed()));
        self.lines.retain(|line| !line.waiting.is_empty());
        if self.lines.iter().map(|line| line.waiting.len()).sum::<usize>() < queue {
            return Some(());
        }
        let ours = self.lines.iter().find(|line| line.from == from).map_or(0, |line| line.waiting.len());
        let others = self.lines.iter_mut().filter(|line| line.from.is_some());
        let longest = others.max_by_key(|line| line.waiting.len())?;
        if longest.waiting.len() <= ours + 1 {
            return None;
        }
        longest.waiting.pop_back().map(drop)
    }

    /// Waits at the end of the line of `from`.
    fn join(&mut self, from: Option<IpAddr>) -> oneshot::Receiver<Permit> {
        let (turn, receiver) = oneshot::channel();
        match self.lines.iter_mut().find(|line| line.from == from) {
            Some(own) => own.waiting.push_back(turn),
            None => self.lines.push_back(Line { from, waiting: [turn].into() }),
        }
        receiver
    }

    /// Whose turn it is; its line goes to the end.
    fn next(&mut self) -> Option<oneshot::Sender<Permit>> {
        let mut line = self.lines.pop_front()?;
        let turn = line.waiting.pop_front();
        if !line.waiting.is_empty() {
            self.lines.push_back(line);
        }
        turn
    }
}

fn busy() -> Error {
    Error::unavailable("Too many requests wait for this; try again.", 1)
}

/// What one party commands: an IPv4 address, or an IPv6 network of 64 bits.
pub fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;

    use super::*;
    use crate::error::Code;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// One who waits, or what it was told at once.
    fn wait(pool: &Pool, from: impl Into<Option<IpAddr>>) -> Result<BoxFuture<'static, Result<Permit>>, Error> {
        let (pool, from) = (pool.clone(), from.into());
        let mut turn = async move { pool.permit(from).await }.boxed();
        match (&mut turn).now_or_never() {
            None => Ok(turn),
            Some(told) => Err(told.err().unwrap()),
        }
    }

    fn is_served(turn: &mut BoxFuture<'static, Result<Permit>>) -> Option<Result<Permit>> {
        turn.now_or_never()
    }

    /// T-184: what does not fit into the queue is told to come again; nothing waits without bound.
    #[tokio::test]
    async fn t184_the_queue_is_bounded_and_who_goes_away_leaves_its_place() {
        let pool = Pool::new(1, 2);
        let from = address("192.0.2.1");
        let held = pool.permit(Some(from)).await.unwrap();
        for _ in 0..8 {
            let waiting = [wait(&pool, from).unwrap(), wait(&pool, from).unwrap()];
            let refused = wait(&pool, from).err().unwrap();
            assert_eq!((refused.code, refused.retry_after), (Code::TemporarilyUnavailable, Some(1)));
            assert_eq!(pool.waiting(), 2);
            drop(waiting);
            assert_eq!(pool.waiting(), 0);
        }
        // A thread is not given to who went away, also not where the turn had come already.
        let (gone, mut next, mut last) = (wait(&pool, from).unwrap(), wait(&pool, from).unwrap(), None);
        drop(gone);
        drop(held);
        last.replace(wait(&pool, from).unwrap());
        drop(next.as_mut().now_or_never().unwrap().unwrap());
        drop(last);
        drop(pool.permit(Some(from)).await.unwrap());
        let nobody_waits = Pool::new(1, 0);
        let _held = nobody_waits.permit(None).await.unwrap();
        assert!(wait(&nobody_waits, None).is_err());
    }

    /// T-184: a flood of guesses from one address delays another's first check by one piece of work.
    #[tokio::test]
    async fn t184_addresses_are_served_in_turn() {
        let pool = Pool::new(1, 64);
        let held = pool.permit(None).await.unwrap();
        let (flood, victim) = (address("192.0.2.1"), address("198.51.100.7"));
        let mut guesses: Vec<_> = (0..60).map(|_| wait(&pool, flood).unwrap()).collect();
        let mut check = wait(&pool, victim).unwrap();
        drop(held);
        let guess = is_served(&mut guesses[0]).unwrap().unwrap();
        assert!(is_served(&mut check).is_none() && is_served(&mut guesses[1]).is_none());
        drop(guess);
        let check = is_served(&mut check).unwrap().unwrap();
        assert!(is_served(&mut guesses[1]).is_none());
        drop(check);
        assert!(is_served(&mut guesses[1]).unwrap().is_ok());
    }

    /// T-184: whoever fills the queue loses its last places to others, down to the same share.
    #[tokio::test]
    async fn t184_a_full_queue_has_room_for_another_address() {
        let pool = Pool::new(1, 4);
        let _held = pool.permit(None).await.unwrap();
        let one_network = |n: usize| address(&format!("2001:db8:0:1::{n:x}"));
        let mut flood: Vec<_> = (0..4).map(|n| wait(&pool, one_network(n)).unwrap()).collect();
        assert!(wait(&pool, one_network(5)).is_err());
        let mut others: Vec<_> = (0..2).map(|_| wait(&pool, address("198.51.100.7")).unwrap()).collect();
        for turn in &mut flood[2..] {
            assert_eq!(is_served(turn).unwrap().unwrap_err().code, Code::TemporarilyUnavailable);
        }
        assert!(flood[..2].iter_mut().chain(&mut others).all(|turn| is_served(turn).is_none()));
        // Each has its half: neither takes more from the other.
        assert!(wait(&pool, address("198.51.100.7")).is_err() && wait(&pool, one_network(0)).is_err());
        assert!(wait(&pool, address("2001:db8:0:2::")).is_ok());
    }

    #[tokio::test]
    async fn work_that_panics_gives_its_thread_back() {
        let pool = Pool::new(1, 0);
        let failed = pool.permit(None).await.unwrap().run(|| panic!("on purpose")).await;
        assert_eq!(failed.unwrap_err().code, Code::ServerError);
        assert_eq!(pool.permit(None).await.unwrap().run(|| 7).await.unwrap(), 7);
    }
}
