//! The database. One file per kind of row, the SQL text beside the function that runs it, one text for both
//! engines: SQLite (one file, one writer task) and PostgreSQL (a pool).
//!
//! Reading: `db.reader().await?`, then the functions of the row files. Changing: [`Db::write`], whose closure
//! gets a [`Tx`]; what is announced with [`Tx::announce`] reaches every node by the change feed.

pub mod artifacts;
pub mod attempts;
pub mod audit;
pub mod claim_mappers;
pub mod clients;
mod conn;
pub mod consents;
mod error;
pub mod feed;
pub mod grants;
pub mod mac_keys;
pub mod meta;
mod migrate;
pub mod nodes;
pub mod resources;
pub mod revocations;
mod row;
pub mod sealed;
pub mod sessions;
pub mod signing_keys;
mod sqlite;
pub mod users;
mod write;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{Connection, Executor, PgConnection};
use tokio::sync::Notify;

use crate::clock::{Clock, Micros, micros};
use crate::config;
use crate::secret::Secret;

/// Where the database is.
pub use crate::config::DatabaseUrl as Location;
pub use conn::Conn;
pub use error::StoreError;
pub use row::from_row;
pub use sqlite::Lock;
pub use write::{Change, Committed, JobFuture, Together, Tx, gather};

/// How the database is used.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it is.
    pub location: Location,
    /// The largest number of connections (SQLite: readers; the writer is one more).
    pub max_connections: u32,
    /// How long one call may take, waiting included.
    pub deadline: Duration,
}

impl From<&config::Database> for Options {
    fn from(config: &config::Database) -> Self {
        Self {
            location: config.url.clone(),
            max_connections: config.max_connections,
            deadline: Duration::from_millis(config.deadline_milliseconds.into()),
        }
    }
}

/// The database of one issuer. Cloning is cheap.
#[derive(Clone)]
pub struct Db {
    engine: Engine,
    shared: Arc<Shared>,
}

#[derive(Clone)]
enum Engine {
    Sqlite(sqlite::Sqlite),
    Postgres(PgPool),
}

struct Shared {
    location: Location,
    deadline: Duration,
    clock: Clock,
    /// Rung after each commit of this process that announced something.
    doorbell: Notify,
    statements: AtomicU64,
    write_failed: AtomicBool,
}

impl Db {
    /// Opens the database; SQLite's file is made when it is missing. Does not migrate.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when it cannot be reached; the text says why, and names `database.url`.
    pub async fn open(options: Options, clock: Clock) -> Result<Self, StoreError> {
        let place = options.location.describe();
        Self::connect(options, clock).await.map_err(|cause| {
            let cause = if let StoreError::Unavailable(text) = cause { text } else { cause.to_string() };
            StoreError::Unavailable(format!(
                "{place}, cannot be opened: {cause}; check database.url, and what it names"
            ))
        })
    }

    async fn connect(options: Options, clock: Clock) -> Result<Self, StoreError> {
        let shared = Arc::new(Shared {
            location: options.location.clone(),
            deadline: options.deadline,
            clock,
            doorbell: Notify::new(),
            statements: AtomicU64::new(0),
            write_failed: AtomicBool::new(false),
        });
        let engine = match &options.location {
            Location::Sqlite(path) => Engine::Sqlite(sqlite::Sqlite::open(path, &options, shared.clone()).await?),
            Location::Postgres(url) => Engine::Postgres(postgres_pool(url, &options)?),
        };
        let db = Self { engine, shared };
        if let Engine::Postgres(_) = &db.engine {
            // The pool would try until the deadline, and then tell that it has passed, and not why.
            db.connection().await?;
        }
        Ok(db)
    }

    /// A connection to read with. SQLite's cannot write.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when none is free before the deadline.
    pub async fn reader(&self) -> Result<Conn, StoreError> {
        let wait = self.shared.deadline;
        let conn = match &self.engine {
            Engine::Sqlite(sqlite) => {
                tokio::time::timeout(wait, sqlite.reader()).await.map(|got| got.map(conn::Raw::SqliteReader))
            }
            Engine::Postgres(pool) => {
                tokio::time::timeout(wait, pool.acquire()).await.map(|got| got.map(conn::Raw::Postgres))
            }
        };
        match conn {
            Ok(Ok(raw)) => Ok(Conn::new(raw, self.shared.clone())),
            Ok(Err(cause)) => Err(cause.into()),
            Err(_) => Err(StoreError::Unavailable("no connection was free in time".into())),
        }
    }

    /// A connection that nobody else waits for: on PostgreSQL outside the pool, to write with as well; SQLite's is a
    /// reader. It is closed when dropped.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the database does not answer before the deadline.
    async fn connection(&self) -> Result<Conn, StoreError> {
        let Engine::Postgres(pool) = &self.engine else { return self.reader().await };
        let options = pool.connect_options();
        let connecting = async {
            let mut conn = PgConnection::connect_with(&options).await?;
            durable(&mut conn).await.map(|()| conn)
        };
        let connected = tokio::time::timeout(self.shared.deadline, connecting).await;
        let late = |_| StoreError::Unavailable("the database did not answer in time".into());
        Ok(Conn::new(conn::Raw::PostgresOwn(connected.map_err(late)??), self.shared.clone()))
    }

    /// Reads with `job` under the deadline.
    ///
    /// # Errors
    /// What `job` met, or [`StoreError::Unavailable`] when the deadline passed.
    pub async fn read<T, F>(&self, job: F) -> Result<T, StoreError>
    where
        F: for<'c> FnOnce(&'c mut Conn) -> JobFuture<'c, T>,
    {
        // On the heap: a handler that could read would else carry four kilobytes for it through every call that does not.
        let work = Box::pin(async {
            let mut conn = self.reader().await?;
            job(&mut conn).await
        });
        tokio::time::timeout(self.shared.deadline, work)
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable("a query took too long".into())))
    }

    /// Brings the schema up to this binary's.
    ///
    /// # Errors
    /// When a migration fails, or the database was changed by hand.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        migrate::run(self).await
    }

    /// Whether the schema is at least this binary's.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn is_migrated(&self) -> Result<bool, StoreError> {
        migrate::is_current(self).await
    }

    /// Waits until this process has committed something that it announced.
    pub async fn doorbell(&self) {
        self.shared.doorbell.notified().await;
    }

    /// How many statements this process has sent; tests hold the hot path to zero by it.
    pub fn statements(&self) -> u64 {
        self.shared.statements.load(Ordering::Relaxed)
    }

    /// Whether the last commit failed: full, gone, read-only. A node's lease rests on writing too.
    pub fn write_failed(&self) -> bool {
        self.shared.write_failed.load(Ordering::Relaxed)
    }

    /// The file, when this is SQLite.
    pub fn sqlite_path(&self) -> Option<&Path> {
        match &self.shared.location {
            Location::Sqlite(path) => Some(path),
            Location::Postgres(_) => None,
        }
    }

    /// Connections in use and idle, and changes that wait for the writer.
    pub fn load(&self) -> Load {
        let (size, idle, queue) = match &self.engine {
            Engine::Sqlite(sqlite) => (sqlite.pool().size(), sqlite.pool().num_idle(), sqlite.queued()),
            Engine::Postgres(pool) => (pool.size(), pool.num_idle(), 0),
        };
        let idle = u32::try_from(idle).unwrap_or(u32::MAX);
        Load { busy: size.saturating_sub(idle), idle, queue }
    }

    fn now(&self) -> Micros {
        self.shared.clock.now()
    }

    /// Until when a change that is asked for now must have begun, on the monotonic clock.
    fn start_by(&self) -> Micros {
        self.shared.clock.monotonic() + micros(self.shared.deadline)
    }
}

/// How busy the database connections are.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Connections at work.
    pub busy: u32,
    /// Connections waiting for work.
    pub idle: u32,
    /// Changes that wait for SQLite's writer.
    pub queue: usize,
}

fn postgres_pool(url: &Secret, options: &Options) -> Result<PgPool, StoreError> {
    // The cause may quote the URL, and the URL may hold a password.
    let connect: PgConnectOptions =
        url.expose().parse().map_err(|_| StoreError::Unfit("database.url is not a PostgreSQL URL".into()))?;
    let milliseconds = options.deadline.as_millis().to_string();
    let connect = connect.application_name("sealwright").options([
        ("statement_timeout", milliseconds.as_str()),
        ("lock_timeout", milliseconds.as_str()),
        ("idle_in_transaction_session_timeout", "15000"),
    ]);
    let pool = PgPoolOptions::new()
        .max_connections(options.max_connections)
        .acquire_timeout(options.deadline)
        .test_before_acquire(false)
        .after_connect(|conn, _| Box::pin(durable(conn)))
        // A connection whose query was given up may never answer again: then it is cut, not kept waiting for.
        .after_release(|conn, _| {
            Box::pin(async move {
                let pinged = tokio::time::timeout(Duration::from_secs(1), conn.ping()).await;
                pinged.map_or(Err(sqlx::Error::PoolTimedOut), |pong| pong.map(|()| true))
            })
        })
        .connect_lazy_with(connect);
    Ok(pool)
}

/// What was answered outlives a crash of the database's machine, whatever the server's setting; a stricter one stays.
async fn durable(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    let set = "SELECT set_config('synchronous_commit', 'on', FALSE) \
               WHERE current_setting('synchronous_commit') NOT IN ('on', 'remote_apply')";
    conn.execute(set).await.map(drop)
}

/// Every SQL text, for the test that prepares each of them on both engines: (name, text).
pub fn queries() -> impl Iterator<Item = (&'static str, &'static str)> {
    [
        artifacts::QUERIES,
        attempts::QUERIES,
        audit::QUERIES,
        claim_mappers::QUERIES,
        clients::QUERIES,
        consents::QUERIES,
        feed::QUERIES,
        grants::QUERIES,
        mac_keys::QUERIES,
        meta::QUERIES,
        migrate::QUERIES,
        nodes::QUERIES,
        resources::QUERIES,
        revocations::QUERIES,
        sealed::QUERIES,
        sessions::QUERIES,
        signing_keys::QUERIES,
        users::QUERIES,
    ]
    .into_iter()
    .flatten()
    .copied()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use futures_util::FutureExt;

    use super::*;

    async fn fresh() -> (Db, PathBuf) {
        let folder = std::env::temp_dir()
            .join(format!("sealwright-store-{:x}", u128::from_be_bytes(crate::secret::random().unwrap())));
        std::fs::create_dir(&folder).unwrap();
        let options = Options {
            location: Location::Sqlite(folder.join("test.db")),
            max_connections: 4,
            deadline: Duration::from_secs(5),
        };
        let db = Db::open(options, Clock::system()).await.unwrap();
        assert!(!db.is_migrated().await.unwrap());
        db.migrate().await.unwrap();
        assert!(db.is_migrated().await.unwrap());
        (db, folder)
    }

    #[tokio::test]
    async fn a_job_that_fails_takes_nothing_else_with_it() {
        let (db, folder) = fresh().await;
        let good = db.write(|tx| Box::pin(meta::decide(tx, "a", "1")));
        let bad = db.write(|tx| {
            Box::pin(async move {
                meta::decide(tx, "b", "1").await?;
                Err::<(), _>(StoreError::Unfit("no".into()))
            })
        });
        let panics = db.write::<(), _>(|_| Box::pin(async { panic!("on purpose") }));
        let late = db.write(|tx| Box::pin(meta::decide(tx, "c", "1")));
        let (good, bad, panics, late) = tokio::join!(good, bad, panics, late);
        assert_eq!(good.unwrap().value, "1");
        assert!(bad.is_err() && panics.is_err());
        assert_eq!(late.unwrap().value, "1");
        let mut conn = db.reader().await.unwrap();
        assert_eq!(meta::get(&mut conn, "b").await.unwrap(), None);
        assert_eq!(meta::get(&mut conn, "c").await.unwrap().as_deref(), Some("1"));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn readers_cannot_write_and_changes_are_numbered_in_order() {
        let (db, folder) = fresh().await;
        let mut conn = db.reader().await.unwrap();
        let refused = sqlx::query("DELETE FROM meta");
        let conn::On::Sqlite(raw) = conn.on() else { panic!("not SQLite") };
        assert!(refused.execute(raw).await.is_err());
        for n in 1..=3 {
            let committed = db.write(move |tx| {
                Box::pin(async move {
                    tx.announce(feed::Kind::Client, format!("c{n}"));
                    Ok(())
                })
            });
            assert_eq!(committed.await.unwrap().seq, Some(n));
        }
        let changes = feed::since(&mut conn, 1).await.unwrap();
        assert_eq!(changes.iter().map(|change| change.id.as_str()).collect::<Vec<_>>(), ["c2", "c3"]);
        std::fs::remove_dir_all(folder).unwrap();
    }

    /// What was answered outlives a crash of the machine.
    #[tokio::test]
    async fn the_writer_waits_for_the_disk_at_each_commit() {
        let (db, folder) = fresh().await;
        let read = db.write(|tx| {
            Box::pin(async move {
                let conn::On::Sqlite(conn) = tx.on() else { panic!("not SQLite") };
                let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *conn).await?;
                let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(conn).await?;
                Ok((mode, synchronous))
            })
        });
        // 2 is FULL: the log is synced before a commit is answered.
        assert_eq!(read.await.unwrap().value, ("wal".to_owned(), 2));
        std::fs::remove_dir_all(folder).unwrap();
    }

    /// The time of a transaction is that of its batch: changes of one commit have it in common.
    #[tokio::test]
    async fn changes_that_wait_are_one_commit() {
        let (db, folder) = fresh().await;
        let waiting = (0..100).map(|n| {
            db.write(move |tx| {
                Box::pin(async move {
                    tx.announce(feed::Kind::Client, format!("c{n}"));
                    Ok(())
                })
            })
        });
        // On one thread: the writer runs when all of them wait.
        let committed = futures_util::future::join_all(waiting).await;
        let numbers: Vec<_> = committed.into_iter().map(|change| change.unwrap().seq.unwrap()).collect();
        assert_eq!(numbers, (1..=100).collect::<Vec<_>>());
        let changes = feed::since(&mut db.reader().await.unwrap(), 0).await.unwrap();
        assert_eq!(changes.len(), 100);
        assert!(changes.iter().all(|change| change.at == changes[0].at), "several commits");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn a_job_whose_deadline_has_passed_is_not_begun() {
        let (_, folder) = fresh().await;
        let options = Options {
            location: Location::Sqlite(folder.join("test.db")),
            max_connections: 1,
            deadline: Duration::from_millis(500),
        };
        let db = Db::open(options, Clock::system()).await.unwrap();
        let long = db.write(|tx| {
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(700)).await;
                meta::decide(tx, "a", "1").await
            })
        });
        let late = db.write(|tx| Box::pin(meta::decide(tx, "b", "1")));
        let (long, late) = tokio::join!(long, late);
        assert_eq!(long.unwrap().value, "1", "what has begun is let finish");
        assert!(matches!(late, Err(StoreError::Unavailable(_) | StoreError::Unknown(_))));
        let next = db.write(|tx| Box::pin(meta::decide(tx, "c", "1")));
        assert_eq!(next.await.unwrap().value, "1");
        assert_eq!(meta::get(&mut db.reader().await.unwrap(), "b").await.unwrap(), None);
        std::fs::remove_dir_all(folder).unwrap();
    }

    /// Who was first decides, and "no" fails.
    struct Decide(&'static str, &'static str);

    impl Change for Decide {
        /// What was decided, and how many others were made with it.
        type Done = (String, usize);

        fn object(&self) -> &[u8] {
            self.0.as_bytes()
        }

        fn make<'t>(tx: &'t mut Tx, changes: Vec<&'t Self>) -> JobFuture<'t, Vec<Self::Done>> {
            Box::pin(async move {
                let mut done = Vec::new();
                for Self(name, value) in &changes {
                    let decided = meta::decide(tx, name, value).await?;
                    if *value == "no" {
                        return Err(StoreError::Refused(crate::error::Error::invalid_request("No.")));
                    }
                    done.push((decided, changes.len()));
                }
                Ok(done)
            })
        }
    }

    #[tokio::test]
    async fn changes_are_made_together_and_those_to_one_object_one_after_the_other() {
        let (db, folder) = fresh().await;
        let together = Together::start(&db);
        let asked = [("a", "1"), ("b", "2"), ("a", "3"), ("c", "4"), ("a", "5")];
        // On one thread: they are made when all of them wait.
        let made = asked.map(|(name, value)| together.write(Decide(name, value)));
        let made = futures_util::future::join_all(made).await.into_iter().map(|made| made.unwrap().value);
        let expected = [("1", 3), ("2", 3), ("1", 1), ("4", 3), ("1", 1)];
        assert_eq!(made.collect::<Vec<_>>(), expected.map(|(value, others)| (value.to_owned(), others)));
        let names: Vec<&'static str> = (0..100).map(|n| &*format!("n{n}").leak()).collect();
        let made = futures_util::future::join_all(names.iter().map(|name| together.write(Decide(name, name)))).await;
        for (at, made) in made.into_iter().enumerate() {
            assert_eq!(made.unwrap().value, (names[at].to_owned(), 100));
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn a_change_whose_caller_left_or_whose_deadline_has_passed_is_not_begun() {
        let (db, folder) = fresh().await;
        let together = Together::start(&db);
        let gone = together.write(Decide("gone", "1")).now_or_never();
        assert!(gone.is_none() && together.queued() == 1);
        assert_eq!(together.write(Decide("here", "1")).await.unwrap().value.1, 1);
        let long = db.write(|tx| {
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(700)).await;
                meta::decide(tx, "long", "1").await
            })
        });
        let late = db.write_by(db.shared.clock.monotonic() + 100_000, Duration::from_secs(5), |tx| {
            Box::pin(meta::decide(tx, "late", "1"))
        });
        let (long, late) = tokio::join!(long, late);
        assert!(long.is_ok() && matches!(late, Err(StoreError::Unavailable(_))));
        let mut conn = db.reader().await.unwrap();
        for name in ["gone", "late"] {
            assert_eq!(meta::get(&mut conn, name).await.unwrap(), None);
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    /// Each event has its own columns, however many one job records; those of a job that fails are nowhere.
    #[tokio::test]
    async fn what_a_job_records_is_written_with_it_and_with_no_other() {
        let (db, folder) = fresh().await;
        let record = |from: i64, to: i64, stands: bool| {
            db.write(move |tx| {
                Box::pin(async move {
                    for n in from..to {
                        let text = |what: &str| format!("{what}{n}");
                        let event = audit::EventRow {
                            at: n,
                            kind: text("kind"),
                            actor: text("actor"),
                            object: text("object"),
                            address: text("address"),
                            request_id: text("request"),
                            details: text("details"),
                        };
                        tx.record(u128::try_from(n).unwrap().to_be_bytes(), event);
                    }
                    if stands { Ok(()) } else { Err(StoreError::Unfit("no".into())) }
                })
            })
        };
        let (one, failed, other) = tokio::join!(record(0, 19, true), record(100, 119, false), record(19, 21, true));
        assert!(one.is_ok() && failed.is_err() && other.is_ok());
        let mut events = audit::latest(&mut db.reader().await.unwrap(), 1000).await.unwrap();
        events.reverse();
        assert_eq!(events.len(), 21);
        for (n, event) in events.iter().enumerate() {
            let audit::EventRow { at, kind, actor, object, address, request_id, details } = event;
            assert_eq!(*at, i64::try_from(n).unwrap());
            for (what, found) in [
                ("kind", kind),
                ("actor", actor),
                ("object", object),
                ("address", address),
                ("request", request_id),
                ("details", details),
            ] {
                assert_eq!(*found, format!("{what}{n}"));
            }
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn a_change_that_fails_takes_none_of_those_made_with_it() {
        let (db, folder) = fresh().await;
        let together = Together::start(&db);
        let made = [("a", "1"), ("b", "no"), ("c", "3")].map(|(name, value)| together.write(Decide(name, value)));
        let made = futures_util::future::join_all(made).await;
        assert!(matches!(made[1], Err(StoreError::Refused(_))));
        for at in [0, 2] {
            assert_eq!(made[at].as_ref().unwrap().value.1, 1, "alone");
        }
        let mut conn = db.reader().await.unwrap();
        for (name, value) in [("a", Some("1")), ("b", None), ("c", Some("3"))] {
            assert_eq!(meta::get(&mut conn, name).await.unwrap().as_deref(), value);
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn an_id_burns_once_also_twice_in_one_batch() {
        let (db, folder) = fresh().await;
        let ids: Vec<(artifacts::Key, Micros)> = (0..70u8).map(|n| ([n % 40; 32], i64::MAX)).collect();
        let first = db.write(move |tx| {
            Box::pin(async move { artifacts::burn(tx, artifacts::Kind::ClientAssertion, &ids).await })
        });
        assert_eq!(first.await.unwrap().value.len(), 40);
        let again = vec![([7; 32], i64::MAX), ([99; 32], i64::MAX)];
        let second = db.write(move |tx| {
            Box::pin(async move { artifacts::burn(tx, artifacts::Kind::ClientAssertion, &again).await })
        });
        assert_eq!(second.await.unwrap().value.into_iter().collect::<Vec<_>>(), [[99; 32]]);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
