//! Where slow signatures (RSA) wait and are made: on threads beside the async workers, first come, first served.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::pair::{KeyError, KeyPair};
use crate::error::{Error, Result};

/// The most signatures that are answered together: with keys of 2048 bits that is some hundredths of a second.
const BURST: usize = 32;

/// A bounded queue of signatures and the threads that make them; clones are the same queue.
#[derive(Clone, Debug)]
pub struct SigningQueue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    threads: usize,
    length: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Job>,
    /// Places that are kept for signatures that do not wait yet.
    kept: usize,
    /// Threads at work.
    busy: usize,
}

#[derive(Debug)]
struct Job {
    pair: Arc<KeyPair>,
    message: String,
    answer: oneshot::Sender<Signed>,
}

/// The signature, and its message back.
type Signed = (Result<Vec<u8>, KeyError>, String);

/// A place in the queue for one signature, kept before anything is used up for it.
#[derive(Debug)]
#[must_use = "a place that is dropped is another's"]
pub struct Place(Arc<Shared>);

impl SigningQueue {
    /// One thread per core of this machine. Share one queue among all signers of a process. With 2048-bit keys the wait
    /// in it is under 0.1 s.
    pub fn of_this_machine() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self::new(cores, cores * 256)
    }

    /// A queue for `length` signatures beside those that `threads` threads (at least 1) work on.
    pub fn new(threads: usize, length: usize) -> Self {
        Self(Arc::new(Shared { threads: threads.max(1), length, state: Mutex::default() }))
    }

    /// Keeps a place.
    ///
    /// # Errors
    /// `temporarily_unavailable`, try again in 1 s, when there is none.
    pub fn place(&self) -> Result<Place> {
        let mut state = self.0.state();
        // Who went away leaves its place.
        state.waiting.retain(|job| !job.answer.is_closed());
        if state.kept + state.waiting.len() + state.busy >= self.0.length + self.0.threads {
            return Err(Error::unavailable("Too many requests wait for this; try again.", 1));
        }
        state.kept += 1;
        Ok(Place(self.0.clone()))
    }
}

impl Place {
    /// Signs `message`, and gives it back with the signature.
    ///
    /// # Errors
    /// `server_error` when the library fails.
    pub(super) async fn sign(self, pair: Arc<KeyPair>, message: String) -> Result<(Vec<u8>, String)> {
        let (answer, signed) = oneshot::channel();
        let shared = self.0.clone();
        {
            let mut state = shared.state();
            state.waiting.push_back(Job { pair, message, answer });
            if state.busy < shared.threads {
                state.busy += 1;
                let shared = shared.clone();
                tokio::task::spawn_blocking(move || shared.work());
            }
        }
        // It waits now, and no longer has a place kept.
        drop(self);
        let (signature, message) = signed.await.map_err(Error::internal)?;
        Ok((signature?, message))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.state().kept -= 1;
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a thread does: it signs until nobody waits, and answers when it has made as many signatures as wait for it
    /// still, or [`BURST`]. On a busy core, two changes of threads for each signature cost a fifth of it; and what comes
    /// together is used up together (`store::Together`).
    fn work(&self) {
        let mut done = Vec::new();
        loop {
            let (job, waiting) = self.next();
            if self.answers(done.len(), waiting) {
                give(std::mem::take(&mut done));
            }
            let Some(job) = job else { return };
            if !job.answer.is_closed() {
                let sign = AssertUnwindSafe(|| job.pair.sign(job.message.as_bytes()));
                let signature = catch_unwind(sign).unwrap_or(Err(KeyError::Library));
                done.push((job.answer, (signature, job.message)));
            }
        }
    }

    /// Whether a thread that has `done` signatures answers them while so many wait.
    fn answers(&self, done: usize, waiting: usize) -> bool {
        done >= waiting.div_ceil(self.threads).min(BURST)
    }

    /// The next, and how many wait, itself among them; `None` when nobody waits, and then this thread is no longer counted
    /// as one at work: who comes after finds a thread of its own.
    fn next(&self) -> (Option<Job>, usize) {
        let mut state = self.state();
        let waiting = state.waiting.len();
        let job = state.waiting.pop_front();
        state.busy -= usize::from(job.is_none());
        (job, waiting)
    }
}

/// Answers, by one task: sent from this thread, each answer would wake a worker by itself.
fn give(done: Vec<(oneshot::Sender<Signed>, Signed)>) {
    if done.is_empty() {
        return;
    }
    tokio::spawn(async move {
        for (answer, signed) in done {
            // Who went away does not miss it.
            drop(answer.send(signed));
        }
    });
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::join_all;

    use super::*;
    use crate::error::Code;
    use crate::wire::Algorithm;

    fn pair() -> Arc<KeyPair> {
        Arc::new(KeyPair::generate(Algorithm::Es256, 0).unwrap().0)
    }

    /// What something will be used up for is refused before, and not between: who has a place signs, however many come.
    #[tokio::test]
    async fn a_place_is_one_signature_and_the_queue_is_bounded() {
        let (queue, pair) = (SigningQueue::new(1, 2), pair());
        for _ in 0..8 {
            let places = [queue.place().unwrap(), queue.place().unwrap(), queue.place().unwrap()];
            let refused = queue.place().unwrap_err();
            assert_eq!((refused.code, refused.retry_after), (Code::TemporarilyUnavailable, Some(1)));
            let [unused, others @ ..] = places;
            drop(unused);
            drop(queue.place().unwrap());
            for signed in join_all(others.map(|place| place.sign(pair.clone(), "message".into()))).await {
                let (signature, message) = signed.unwrap();
                assert_eq!(message, "message");
                pair.public_jwk().verify(Algorithm::Es256, b"message", &signature).unwrap();
            }
        }
        let state = queue.0.state();
        assert_eq!((state.kept, state.waiting.len()), (0, 0));
    }

    /// More signatures than one burst, and than threads, by many at once: each has its own message's.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn each_gets_the_signature_of_its_own_message_and_none_is_left_waiting() {
        let (queue, pair) = (SigningQueue::new(2, 256), pair());
        for _ in 0..16 {
            let one = async |n: usize| queue.place().unwrap().sign(pair.clone(), n.to_string()).await.unwrap();
            for (n, (signature, message)) in join_all((0..64).map(one)).await.into_iter().enumerate() {
                assert_eq!(message, n.to_string());
                pair.public_jwk().verify(Algorithm::Es256, message.as_bytes(), &signature).unwrap();
            }
        }
    }

    /// Who comes first is not kept until all are done: on each thread, as many are answered as it has before it still.
    #[test]
    fn many_are_answered_in_parts() {
        let parts = |threads: usize, waiting: usize| {
            let (queue, mut parts, mut done) = (SigningQueue::new(threads, 0), Vec::new(), 0);
            // Of those who wait, each thread takes its share.
            for waiting in (0..=waiting).rev().step_by(threads) {
                if queue.0.answers(done, waiting) {
                    parts.push(std::mem::take(&mut done));
                }
                done += 1;
            }
            parts
        };
        assert_eq!(parts(1, 1), [1]);
        assert_eq!(parts(1, 8), [4, 2, 1, 1]);
        assert_eq!(parts(2, 16), [4, 2, 1, 1]);
        assert_eq!(parts(1, 100), [32, 32, 18, 9, 5, 2, 1, 1]);
    }

    #[tokio::test]
    async fn who_goes_away_while_it_waits_leaves_its_place() {
        let (queue, pair) = (SigningQueue::new(1, 0), pair());
        for _ in 0..4 {
            // Asked for on this thread, which is not free to answer before the caller is gone.
            let waiting = queue.place().unwrap().sign(pair.clone(), "x".into()).now_or_never();
            assert!(waiting.is_none_or(|signed| signed.is_ok()));
            let place = loop {
                match queue.place() {
                    Ok(place) => break place,
                    Err(_) => tokio::task::yield_now().await,
                }
            };
            place.sign(pair.clone(), "y".into()).await.unwrap();
            while queue.0.state().busy > 0 {
                tokio::task::yield_now().await;
            }
        }
    }
}
