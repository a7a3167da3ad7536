//! Changing the database: one closure, one transaction, one answer after COMMIT.

use std::collections::{BTreeSet, HashSet};
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot};

use super::audit::{self, EventRow};
use super::conn::Raw;
use super::{Conn, Db, Engine, StoreError, feed};
use crate::clock::Micros;
use crate::secret::Id;

/// The most changes of one kind in one commit.
const BATCH: usize = 256;
const QUEUE: usize = 4096;

/// What a database closure returns. It awaits nothing but the database: SQLite's writer runs it between two
/// statements of other callers.
pub type JobFuture<'t, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 't>>;

/// A transaction. What it records and announces is written to the audit trail and the change feed by its last statements.
pub struct Tx {
    conn: Conn,
    now: Micros,
    recorded: Vec<(Id, EventRow)>,
    announced: BTreeSet<(feed::Kind, String)>,
}

/// A value and, when its transaction announced something, the feed's sequence number.
#[derive(Clone, Copy, Debug)]
pub struct Committed<T> {
    /// What the closure returned.
    pub value: T,
    /// Under which number nodes will learn of it.
    pub seq: Option<i64>,
}

impl Tx {
    pub(super) fn new(conn: Conn, now: Micros) -> Self {
        Self { conn, now, recorded: Vec::new(), announced: BTreeSet::new() }
    }

    /// The time of this transaction.
    pub fn now(&self) -> Micros {
        self.now
    }

    /// Records an event with this transaction: it is written, or nothing of the transaction is.
    pub fn record(&mut self, id: Id, event: EventRow) {
        self.recorded.push((id, event));
    }

    /// The place in this transaction of the event that is recorded next, from 0.
    pub fn next_place(&self) -> usize {
        self.recorded.len()
    }

    /// Tells every node, by the change feed, that `id` of `kind` changed. A mass change is one announcement.
    pub fn announce(&mut self, kind: feed::Kind, id: impl Into<String>) {
        self.announced.insert((kind, id.into()));
    }

    /// Runs one job and writes what it recorded and announced: the feed's lock is taken as late as can be.
    pub(super) async fn run<T>(
        &mut self,
        job: impl for<'t> FnOnce(&'t mut Self) -> JobFuture<'t, T>,
    ) -> Result<Committed<T>, StoreError> {
        self.recorded.clear();
        self.announced.clear();
        let value = std::panic::AssertUnwindSafe(job(self))
            .catch_unwind()
            .await
            .unwrap_or_else(|_| Err(StoreError::Unfit("a database job panicked".into())))?;
        let recorded = std::mem::take(&mut self.recorded);
        audit::add(self, &recorded).await?;
        let announced = std::mem::take(&mut self.announced);
        let seq = if announced.is_empty() { None } else { Some(feed::append(self, &announced).await?) };
        Ok(Committed { value, seq })
    }

    pub(super) fn into_conn(self) -> Conn {
        self.conn
    }

    pub(super) fn set_now(&mut self, now: Micros) {
        self.now = now;
    }
}

impl Deref for Tx {
    type Target = Conn;
    fn deref(&self) -> &Conn {
        &self.conn
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut Conn {
        &mut self.conn
    }
}

impl Db {
    /// Runs `job` in a transaction and answers after COMMIT. The job goes on when the caller goes away.
    ///
    /// # Errors
    /// What `job` met (everything is rolled back); [`StoreError::Unavailable`] when it did not start in time;
    /// [`StoreError::Unknown`] when it started and nobody knows how it ended.
    pub async fn write<T, F>(&self, job: F) -> Result<Committed<T>, StoreError>
    where
        T: Send + 'static,
        F: for<'t> FnOnce(&'t mut Tx) -> JobFuture<'t, T> + Send + 'static,
    {
        self.write_within(self.shared.deadline, job).await
    }

    /// The same for a large change that may take up to `limit` once it has begun: commands only, never a request.
    ///
    /// # Errors
    /// As [`Db::write`].
    pub async fn write_within<T, F>(&self, limit: Duration, job: F) -> Result<Committed<T>, StoreError>
    where
        T: Send + 'static,
        F: for<'t> FnOnce(&'t mut Tx) -> JobFuture<'t, T> + Send + 'static,
    {
        self.write_by(self.start_by(), limit, job).await
    }

    /// The same for one that was asked for earlier.
    pub(super) async fn write_by<T, F>(
        &self,
        start_by: Micros,
        limit: Duration,
        job: F,
    ) -> Result<Committed<T>, StoreError>
    where
        T: Send + 'static,
        F: for<'t> FnOnce(&'t mut Tx) -> JobFuture<'t, T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        match &self.engine {
            Engine::Sqlite(sqlite) => sqlite.submit(start_by, job, answer).await?,
            Engine::Postgres(_) => {
                let db = self.clone();
                tokio::spawn(async move {
                    let outcome = tokio::time::timeout(limit, db.write_postgres(job)).await;
                    let late = |_| Err(StoreError::Unknown("a change took too long".into()));
                    let _ = answer.send(outcome.unwrap_or_else(late));
                });
            }
        }
        // A job that began is let finish; its own statements have the same bound.
        match tokio::time::timeout(self.shared.deadline + limit, answered).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(StoreError::Unknown("the writer went away".into())),
            Err(_) => Err(StoreError::Unknown("a change took too long".into())),
        }
    }

    async fn write_postgres<T, F>(&self, job: F) -> Result<Committed<T>, StoreError>
    where
        F: for<'t> FnOnce(&'t mut Tx) -> JobFuture<'t, T>,
    {
        let Engine::Postgres(pool) = &self.engine else {
            return Err(StoreError::Unfit("not a PostgreSQL database".into()));
        };
        let raw = Raw::PostgresTx(pool.begin().await?);
        let mut tx = Tx::new(Conn::new(raw, self.shared.clone()), self.now());
        // An error drops the transaction, which rolls it back.
        let committed = tx.run(job).await?;
        if committed.seq.is_some() {
            feed::ring(&mut tx).await?;
        }
        if let Raw::PostgresTx(raw) = tx.into_conn().into_raw() {
            raw.commit().await.map_err(|cause| StoreError::Unknown(cause.to_string()))?;
        }
        if committed.seq.is_some() {
            self.shared.doorbell.notify_one();
        }
        Ok(committed)
    }
}

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

/// Where changes of one kind meet that many callers ask for at once. On SQLite they are made together, several rows a
/// statement: each statement there is two changes of threads, which cost more than what it does. On PostgreSQL each is a
/// transaction of its own, so that none waits for a row that another one wants.
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
    while gather(&mut queue, &mut waiting, BATCH).await {
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

/// Waits for something in `queue` and adds up to `most` of what is there to `batch`, which is empty; false when nothing
/// comes any more. Whoever is about to ask comes along, since a batch costs little more than one: the tasks that are ready
/// have a turn, and another one for as long as the batch at least doubles by it. One turn is microseconds where nobody is
/// ready, and on a busy worker some milliseconds.
pub async fn gather<T>(queue: &mut mpsc::Receiver<T>, batch: &mut Vec<T>, most: usize) -> bool {
    let mut came = queue.recv_many(batch, most).await;
    let any = came > 0;
    while came > 0 && came * 2 >= batch.len() && batch.len() < most {
        tokio::task::yield_now().await;
        let before = batch.len();
        while batch.len() < most
            && let Ok(one) = queue.try_recv()
        {
            batch.push(one);
        }
        came = batch.len() - before;
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On one thread, tasks have their turns in order: the batch holds whoever was ready when it began, and who came of
    /// them, and no more than it may.
    #[tokio::test]
    async fn who_is_about_to_ask_comes_along() {
        let (ask, mut queue) = mpsc::channel(8);
        for n in 0..3 {
            let ask = ask.clone();
            tokio::spawn(async move {
                for _ in 0..n {
                    tokio::task::yield_now().await;
                }
                ask.send(n).await.unwrap();
            });
        }
        let mut batch = Vec::new();
        assert!(gather(&mut queue, &mut batch, 8).await);
        assert_eq!(batch, [0, 1, 2]);
        for n in 0..8 {
            ask.send(n).await.unwrap();
        }
        for expected in [&[0, 1, 2, 3, 4][..], &[5, 6, 7]] {
            batch.clear();
            assert!(gather(&mut queue, &mut batch, 5).await);
            assert_eq!(batch, expected);
        }
        drop(ask);
        assert!(!gather(&mut queue, &mut batch, 8).await);
    }

    /// Where somebody comes at each turn without end, those who came first are not kept waiting for them.
    #[tokio::test]
    async fn a_stream_of_others_keeps_nobody_waiting() {
        let (ask, mut queue) = mpsc::channel(1000);
        tokio::spawn(async move {
            while ask.send(()).await.is_ok() {
                tokio::task::yield_now().await;
            }
        });
        let mut batch = Vec::new();
        assert!(gather(&mut queue, &mut batch, 1000).await);
        assert!(batch.len() < 8, "{}", batch.len());
    }
}
