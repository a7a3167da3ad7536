//! SQLite: one writer task that drains its queue into one commit, and a pool that can only read.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Executor, SqliteConnection};
use tokio::sync::{mpsc, oneshot, watch};

use super::conn::{On, Raw};
use super::write::{Committed, JobFuture, Tx};
use super::{Conn, Options, Shared, StoreError};
use crate::clock::Micros;

/// The largest number of jobs in one commit: more only adds to the first one's wait.
const BATCH: usize = 256;
const QUEUE: usize = 4096;
/// Between two checkpoints while something is written.
const CHECKPOINT: Duration = Duration::from_millis(200);

#[derive(Clone)]
pub(super) struct Sqlite {
    connect: Arc<SqliteConnectOptions>,
    readers: SqlitePool,
    jobs: mpsc::Sender<Job>,
    deadline: Duration,
}

/// A job, its latest start, and what to tell its caller once the commit is decided.
struct Job {
    start_by: Micros,
    run: Box<dyn for<'t> FnOnce(Start<'t>) -> EndedFuture<'t> + Send>,
}

type EndedFuture<'t> = Pin<Box<dyn Future<Output = Ended> + Send + 't>>;

enum Start<'t> {
    Now(&'t mut Tx),
    TooLate,
}

struct Ended {
    /// Whether the job's statements stand.
    keep: bool,
    announced: bool,
    answer: Box<dyn FnOnce(Result<(), StoreError>) + Send>,
}

impl Sqlite {
    pub(super) async fn open(path: &Path, options: &Options, shared: Arc<Shared>) -> Result<Self, StoreError> {
        let connect = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(options.deadline)
            .statement_cache_capacity(256)
            .pragma("trusted_schema", "OFF")
            // 32 MB of 4 KiB pages, of which all but the last are in the database by then: see `checkpoint_loop`.
            .pragma("wal_autocheckpoint", "8000")
            .pragma("journal_size_limit", "67108864");
        // Only its owner reads it; SQLite gives the files beside it the same mode.
        match OpenOptions::new().create_new(true).write(true).mode(0o600).open(path) {
            // Closed before SQLite opens it: a process that closes any handle of a file loses all its POSIX locks on it,
            // and without SQLite's the next program that reads the database removes the log under this one.
            Ok(made) => drop(made),
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {}
            Err(cause) => return Err(StoreError::Unavailable(cause.to_string())),
        }
        let (writer, checkpointer) = (connect.connect().await?, connect.connect().await?);
        let readers = SqlitePoolOptions::new()
            // One more: the change feed keeps its own.
            .max_connections(options.max_connections + 1)
            .acquire_timeout(options.deadline)
            .test_before_acquire(false)
            .connect_lazy_with(connect.clone().pragma("query_only", "ON"));
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (committed, commits) = watch::channel(());
        tokio::spawn(checkpoint_loop(checkpointer, commits));
        let writer = Conn::new(Raw::SqliteWriter(writer), shared.clone());
        tokio::spawn(write_loop(writer, queue, shared.clone(), committed));
        Ok(Self { connect: Arc::new(connect), readers, jobs, deadline: options.deadline })
    }

    pub(super) async fn reader(&self) -> Result<PoolConnection<sqlx::Sqlite>, sqlx::Error> {
        self.readers.acquire().await
    }

    /// A connection of its own that may write: migrations only.
    pub(super) async fn connect(&self) -> Result<SqliteConnection, sqlx::Error> {
        self.connect.connect().await
    }

    pub(super) fn pool(&self) -> &SqlitePool {
        &self.readers
    }

    pub(super) fn queued(&self) -> usize {
        self.jobs.max_capacity() - self.jobs.capacity()
    }

    /// Queues `job`; `answer` is called after the commit that holds it.
    pub(super) async fn submit<T, F>(
        &self,
        start_by: Micros,
        job: F,
        answer: oneshot::Sender<Result<Committed<T>, StoreError>>,
    ) -> Result<(), StoreError>
    where
        T: Send + 'static,
        F: for<'t> FnOnce(&'t mut Tx) -> JobFuture<'t, T> + Send + 'static,
    {
        let job = Job { start_by, run: Box::new(move |start| Box::pin(perform(job, answer, start))) };
        match tokio::time::timeout(self.deadline, self.jobs.send(job)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(StoreError::Unavailable("the writer has stopped".into())),
            Err(_) => Err(StoreError::Unavailable("the writer's queue is full".into())),
        }
    }
}

async fn perform<T, F>(job: F, answer: oneshot::Sender<Result<Committed<T>, StoreError>>, start: Start<'_>) -> Ended
where
    T: Send + 'static,
    F: for<'t> FnOnce(&'t mut Tx) -> JobFuture<'t, T> + Send + 'static,
{
    let outcome = match start {
        Start::Now(tx) => tx.run(job).await,
        Start::TooLate => Err(StoreError::Unavailable("the writer was too busy".into())),
    };
    Ended {
        keep: outcome.is_ok(),
        announced: outcome.as_ref().is_ok_and(|committed| committed.seq.is_some()),
        // The caller may have gone away; its change stands all the same.
        answer: Box::new(move |commit| drop(answer.send(commit.and(outcome)))),
    }
}

/// Moves what was committed from the log into the database while the writer goes on: left to the writer's commits, that
/// is a wait for the disk of a tenth of a second and more, for everybody, each time that the log is full. A commit still
/// does it where this did not keep up; only then can the log begin anew.
async fn checkpoint_loop(mut conn: SqliteConnection, mut commits: watch::Receiver<()>) {
    while commits.changed().await.is_ok() {
        tokio::time::sleep(CHECKPOINT).await;
        // Where it fails, so do the commits, and they tell.
        let _ = conn.execute("PRAGMA wal_checkpoint(PASSIVE)").await;
    }
    let _ = conn.close().await;
}

async fn write_loop(conn: Conn, mut queue: mpsc::Receiver<Job>, shared: Arc<Shared>, committed: watch::Sender<()>) {
    let mut tx = Tx::new(conn, shared.clock.now());
    let mut batch = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        tx.set_now(shared.clock.now());
        // Every command is a change of threads, and a savepoint keeps a copy of each page: one text ends a job and begins
        // the next, and a job that has the transaction to itself needs no savepoint.
        let alone = batch.len() == 1;
        let mut next = if alone { "BEGIN IMMEDIATE" } else { "BEGIN IMMEDIATE; SAVEPOINT job" };
        let (mut begun, mut end) = (Ok(()), None);
        let mut ended = Vec::with_capacity(batch.len());
        for job in batch.drain(..) {
            let in_time = shared.clock.monotonic() <= job.start_by;
            if in_time && begun.is_ok() {
                begun = command(&mut tx, next).await;
            }
            if !in_time || begun.is_err() {
                ended.push((job.run)(Start::TooLate).await);
                continue;
            }
            let job = (job.run)(Start::Now(&mut tx)).await;
            // One job fails alone: what it did goes, the others' work stays.
            (next, end) = match (job.keep, alone) {
                (true, _) => ("RELEASE job; SAVEPOINT job", Some("COMMIT")),
                (false, true) => ("", Some("ROLLBACK")),
                (false, false) => ("ROLLBACK TO job", Some("ROLLBACK TO job; COMMIT")),
            };
            ended.push(job);
        }
        let outcome = match (begun, end) {
            (Ok(()), Some(end)) => commit(&mut tx, end).await,
            (Ok(()), None) => Ok(()),
            // Where a savepoint cannot be closed, SQLite has rolled the whole transaction back (a full disk does that),
            // and nothing more may run in it.
            (Err(cause), _) => {
                let _ = command(&mut tx, "ROLLBACK").await;
                Err(cause)
            }
        };
        shared.write_failed.store(outcome.is_err(), Ordering::Relaxed);
        committed.send_replace(());
        if outcome.is_ok() && ended.iter().any(|job| job.announced) {
            shared.doorbell.notify_one();
        }
        for job in ended {
            (job.answer)(outcome.as_ref().copied().map_err(StoreError::again));
        }
    }
    if let Raw::SqliteWriter(conn) = tx.into_conn().into_raw() {
        let _ = conn.close().await;
    }
}

/// Ends a transaction by `text`. A COMMIT that failed is unknown, never "not done".
async fn commit(tx: &mut Tx, text: &'static str) -> Result<(), StoreError> {
    let Err(cause) = command(tx, text).await else { return Ok(()) };
    let _ = command(tx, "ROLLBACK").await;
    Err(StoreError::Unknown(cause.to_string()))
}

async fn command(tx: &mut Tx, text: &'static str) -> Result<(), StoreError> {
    match tx.on() {
        // A query, unlike a bare text, is kept prepared.
        On::Sqlite(conn) => sqlx::query(text).execute(conn).await.map(drop).map_err(StoreError::from),
        On::Postgres(_) => Err(StoreError::Unfit("the writer is SQLite's".into())),
    }
}

/// An exclusive lock on a file beside the database, held until dropped or the process ends.
#[derive(Debug)]
pub struct Lock {
    /// The open file is the lock.
    file: File,
    path: PathBuf,
    /// Whether taking it made the file.
    made: bool,
}

impl Lock {
    /// The lock of the one `serve` on a SQLite file. `None`: another process has it.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub fn serving(database: &Path) -> io::Result<Option<Self>> {
        let lock = Self::open(database, "lock")?;
        match lock.file.try_lock() {
            // A file that was removed meanwhile is nobody's lock.
            Ok(()) => Ok(lock.holds().then_some(lock)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(cause)) => Err(cause),
        }
    }

    /// Whether a `serve` has the lock; `None` without a lock file, which says nothing.
    ///
    /// # Errors
    /// When the lock file cannot be opened.
    pub fn is_serving(database: &Path) -> io::Result<Option<bool>> {
        match OpenOptions::new().write(true).open(lock_path(database, "lock")) {
            Ok(file) => match file.try_lock() {
                Ok(()) => Ok(Some(false)),
                Err(TryLockError::WouldBlock) => Ok(Some(true)),
                Err(TryLockError::Error(cause)) => Err(cause),
            },
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(cause),
        }
    }

    /// The lock under which migrations run; waits for it.
    pub(super) fn migrating(database: &Path) -> io::Result<Self> {
        let lock = Self::open(database, "migrate-lock")?;
        lock.file.lock()?;
        Ok(lock)
    }

    /// Whether the file that is locked is still the one that others find. Where it was removed or replaced, another
    /// process may hold the lock as well.
    pub fn holds(&self) -> bool {
        let which = |found: io::Result<Metadata>| found.map(|file| (file.dev(), file.ino())).ok();
        let locked = which(self.file.metadata());
        locked.is_some() && locked == which(std::fs::metadata(&self.path))
    }

    /// Whether there was no lock file before: a server that runs may have lost its own.
    pub fn made_its_file(&self) -> bool {
        self.made
    }

    fn open(database: &Path, suffix: &str) -> io::Result<Self> {
        let path = lock_path(database, suffix);
        let open = |create_new| {
            OpenOptions::new().create(true).create_new(create_new).truncate(false).write(true).mode(0o600).open(&path)
        };
        let (made, file) = match open(true) {
            Ok(file) => (true, file),
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => (false, open(false)?),
            Err(cause) => return Err(cause),
        };
        Ok(Self { file, path, made })
    }
}

/// One file has one lock, by whatever path it is reached.
fn lock_path(database: &Path, suffix: &str) -> PathBuf {
    let mut path = database.canonicalize().unwrap_or_else(|_| database.to_owned());
    path.as_mut_os_string().push(format!(".{suffix}"));
    path
}
