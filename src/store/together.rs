//! Changes of one kind that many callers ask for at once. On SQLite they are made together, several rows a statement:
//! each statement there is two changes of threads, which cost more than what it does. On PostgreSQL each is a
//! transaction of its own, so that none waits for a row that another one wants.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot};

use super::{Committed, Db, Engine, JobFuture, StoreError, Tx};
use crate::clock::Micros;

/// The most in one commit.
const BATCH: usize = 256;
const QUEUE: usize = 4096;

/// A change that can be made together with others of its kind.
pub trait Change: Send + Sync + 'static {
    /// What comes of it.
    type Done: Send + 'static;

    /// What it is done to. Of several to one object each is made after the one before it.
    fn object(&self) -> &[u8];

    /// Makes changes to different objects; what came of each, in their order. Where one fails, none of them stands, and
    /// each is made alone.
    fn make<'t>(tx: &'t mut Tx, changes: Vec<&'t Self>) -> JobFuture<'t, Vec<Self::Done>>;
}

/// Where changes of one kind meet.
pub struct Together<C: Change> {
    db: Db,
    queue: Option<mpsc::Sender<Waiting<C>>>,
}

type Outcome<C> = Result<Committed<<C as Change>::Done>, StoreError>;

struct Waiting<C: Change> {
    change: Arc<C>,
    /// On the monotonic clock: its caller is told something else soon after.
    start_by: Micros,
    answer: oneshot::Sender<Outcome<C>>,
}

impl<C: Change> Together<C> {
    /// Starts the task that makes them, where there is one; it ends when this is dropped.
    pub fn start(db: &Db) -> Self {
        let queue = matches!(db.engine, Engine::Sqlite(_)).then(|| {
            let (queue, waiting) = mpsc::channel(QUEUE);
            tokio::spawn(run(db.clone(), waiting));
            queue
        });
        Self { db: db.clone(), queue }
    }

    /// Makes `change`, and answers after COMMIT; the number in the change feed is that of all that were made with it. One
    /// that was begun goes on when the caller goes away, and no other is begun for nobody.
    ///
    /// # Errors
    /// As [`Db::write`].
    pub async fn write(&self, change: C) -> Outcome<C> {
        let (change, start_by) = (Arc::new(change), self.db.start_by());
        let Some(queue) = &self.queue else { return alone(&self.db, change, start_by).await };
        let (answer, answered) = oneshot::channel();
        let deadline = self.db.shared.deadline;
        match tokio::time::timeout(deadline, queue.send(Waiting { change, start_by, answer })).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(StoreError::Unavailable("the writer has stopped".into())),
            Err(_) => return Err(StoreError::Unavailable("the writer's queue is full".into())),
        }
        match tokio::time::timeout(deadline * 2, answered).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(StoreError::Unknown("the writer went away".into())),
            Err(_) => Err(StoreError::Unknown("a change took too long".into())),
        }
    }

    /// How many wait.
    pub fn queued(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.max_capacity() - queue.capacity())
    }
}

async fn run<C: Change>(db: Db, mut queue: mpsc::Receiver<Waiting<C>>) {
    let mut waiting: Vec<Waiting<C>> = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut waiting, BATCH).await > 0 {
        waiting.retain(|waiting| !waiting.answer.is_closed());
        let changes = waiting.iter().map(|waiting| waiting.change.clone()).collect();
        let Some(start_by) = waiting.iter().map(|waiting| waiting.start_by).min() else { continue };
        match all(&db, changes, start_by).await {
            Ok(Committed { value, seq }) => {
                for (waiting, value) in waiting.drain(..).zip(value) {
                    let _ = waiting.answer.send(Ok(Committed { value, seq }));
                }
            }
            // One of them failed, and nothing was done. Together again, so that the writer has one commit for all.
            Err(StoreError::Refused(_) | StoreError::Statement(_) | StoreError::Unfit(_)) if waiting.len() > 1 => {
                waiting.retain(|waiting| !waiting.answer.is_closed());
                join_all(waiting.drain(..).map(async |Waiting { change, start_by, answer }| {
                    let _ = answer.send(alone(&db, change, start_by).await);
                }))
                .await;
            }
            Err(cause) => {
                let last = waiting.pop();
                for waiting in waiting.drain(..) {
                    let _ = waiting.answer.send(Err(cause.again()));
                }
                if let Some(last) = last {
                    let _ = last.answer.send(Err(cause));
                }
            }
        }
    }
}

async fn alone<C: Change>(db: &Db, change: Arc<C>, start_by: Micros) -> Outcome<C> {
    let Committed { mut value, seq } = all(db, vec![change], start_by).await?;
    value.pop().map(|value| Committed { value, seq }).ok_or_else(nothing)
}

async fn all<C: Change>(
    db: &Db,
    changes: Vec<Arc<C>>,
    start_by: Micros,
) -> Result<Committed<Vec<C::Done>>, StoreError> {
    let job = db.write_by(start_by, db.shared.deadline, move |tx| {
        Box::pin(async move {
            let mut done = Vec::with_capacity(changes.len());
            let mut left: Vec<usize> = (0..changes.len()).collect();
            while !left.is_empty() {
                let mut objects = HashSet::with_capacity(left.len());
                let (now, later): (Vec<usize>, Vec<usize>) =
                    left.iter().partition(|&&at| objects.insert(changes[at].object()));
                let made = C::make(tx, now.iter().map(|&at| &*changes[at]).collect()).await?;
                // Each answer finds its caller by its place.
                if made.len() != now.len() {
                    return Err(nothing());
                }
                done.extend(now.into_iter().zip(made));
                left = later;
            }
            done.sort_unstable_by_key(|(at, _)| *at);
            Ok(done.into_iter().map(|(_, done)| done).collect())
        })
    });
    job.await
}

fn nothing() -> StoreError {
    StoreError::Unfit("a change came to nothing".into())
}
