//! Changing the database: one closure, one transaction, one answer after COMMIT.

use std::collections::BTreeSet;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::oneshot;

use super::audit::{self, EventRow};
use super::conn::Raw;
use super::{Conn, Db, Engine, StoreError, feed};
use crate::clock::Micros;
use crate::secret::Id;

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
