//! The change feed: what changed, in the order of commits, for every node to follow.

use std::collections::BTreeSet;

use sqlx::FromRow;
use sqlx::postgres::PgListener;
use sqlx::{Executor, Row};

use super::conn::{On, execute, fetch, queries};
use super::{Conn, Db, JobFuture, Location, StoreError, Tx};
use crate::clock::{Clock, Micros};
use crate::wire::vocabulary;

vocabulary! {
    /// What a change is about.
    pub enum Kind {
        /// A client or one of its credentials; the id is the `client_id`.
        Client = "client",
        /// A resource or its scopes; the id is the identifier.
        Resource = "resource",
        /// A claim mapper; the id is its claim, scope and client.
        ClaimMapper = "claim_mapper",
        /// A signing key; the id is the `kid`.
        SigningKey = "signing_key",
        /// A revocation; the id is `kind:id` as in [`super::revocations`].
        Revocation = "revocation",
    }
}

queries! {
    NEXT = "UPDATE change_head SET seq = seq + 1 WHERE one = 1 RETURNING seq";
    LOCK = "UPDATE change_head SET seq = seq WHERE one = 1 RETURNING seq";
    HEAD = "SELECT seq FROM change_head WHERE one = 1";
    ADD = "INSERT INTO changes (seq, kind, id, at) VALUES ($1, $2, $3, $4)";
    SINCE = "SELECT seq, kind, id, at FROM changes WHERE seq > $1 AND seq <= $2 ORDER BY seq";
    SWEEP = "DELETE FROM changes WHERE seq IN (SELECT seq FROM changes WHERE at < $1 ORDER BY seq LIMIT $2)";
}

/// PostgreSQL's doorbell; the poll is the truth. One channel for a database: another schema's bell only wakes us.
const CHANNEL: &str = "sealwright_changes";
const RING: &str = "SELECT pg_notify('sealwright_changes', '')";
/// Differs after another connection has committed; SQLite only.
const DATA_VERSION: &str = "PRAGMA data_version";
/// PostgreSQL's clock in microseconds.
const POSTGRES_NOW: &str = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)";

/// One change of the feed.
#[derive(Clone, Debug, FromRow)]
pub struct Change {
    /// The feed's sequence number; changes of one transaction share it.
    pub seq: i64,
    /// What it is about: a word of [`Kind`], or one that only a later release knows.
    pub kind: String,
    /// Which one.
    pub id: String,
    /// When it was written.
    pub at: Micros,
}

/// Takes the next sequence number, and with it the feed's lock until the commit; so it comes last.
pub(super) async fn append(tx: &mut Tx, announced: &BTreeSet<(Kind, String)>) -> Result<i64, StoreError> {
    let (seq,): (i64,) = fetch!(one, tx, NEXT)?;
    let now = tx.now();
    for (kind, id) in announced {
        execute!(tx, ADD, seq, kind.as_str(), id, now)?;
    }
    Ok(seq)
}

pub(super) async fn ring(tx: &mut Tx) -> Result<(), StoreError> {
    if let On::Postgres(conn) = tx.on() {
        conn.execute(RING).await?;
    }
    Ok(())
}

/// The changes of the next 200 transactions after `seq`, whole and in order.
pub async fn since(conn: &mut Conn, seq: i64) -> Result<Vec<Change>, StoreError> {
    fetch!(all, conn, SINCE, seq, seq.saturating_add(200))
}

/// The number of the last committed change.
pub async fn head(conn: &mut Conn) -> Result<i64, StoreError> {
    let (seq,): (i64,) = fetch!(one, conn, HEAD)?;
    Ok(seq)
}

/// The number of the last change, with nobody adding another until this transaction ends: for changes that rest on
/// what they read before.
pub async fn lock(tx: &mut Tx) -> Result<i64, StoreError> {
    let (seq,): (i64,) = fetch!(one, tx, LOCK)?;
    Ok(seq)
}

/// Forgets up to `limit` changes older than `before`.
pub async fn sweep(tx: &mut Tx, before: Micros, limit: i64) -> Result<u64, StoreError> {
    execute!(tx, SWEEP, before, limit)
}

/// The connection by which a node follows the feed and keeps its lease, kept for its life: SQLite's `data_version`
/// compares with what the same connection saw before, and on PostgreSQL a lease waits behind nobody's requests.
pub struct Follower {
    conn: Conn,
    data_version: i64,
}

impl Follower {
    /// A follower that has seen nothing yet.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn new(db: &Db) -> Result<Self, StoreError> {
        Ok(Self { conn: db.connection().await?, data_version: -1 })
    }

    /// The connection, to read with.
    pub fn conn(&mut self) -> &mut Conn {
        &mut self.conn
    }

    /// Runs the one statement of `job` about this node itself: by this connection, or by SQLite's writer.
    ///
    /// # Errors
    /// What `job` met; on SQLite as [`Db::write`].
    pub async fn write<F>(&mut self, db: &Db, job: F) -> Result<(), StoreError>
    where
        F: for<'c> FnOnce(&'c mut Conn) -> JobFuture<'c, ()> + Send + 'static,
    {
        match &db.shared.location {
            Location::Sqlite(_) => db.write(move |tx| job(tx)).await.map(drop),
            Location::Postgres(_) => job(&mut self.conn).await,
        }
    }

    /// Whether something may have changed since the last call. On PostgreSQL always: the poll is the truth.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn stirred(&mut self) -> Result<bool, StoreError> {
        let On::Sqlite(conn) = self.conn.on() else { return Ok(true) };
        let version: i64 = sqlx::query(DATA_VERSION).fetch_one(conn).await?.try_get(0)?;
        let stirred = version != self.data_version;
        self.data_version = version;
        Ok(stirred)
    }

    /// Forgets what was seen: it could not be acted on.
    pub fn forget(&mut self) {
        self.data_version = -1;
    }

    /// Sets `clock` by the database's, or by this machine's where the database is a file. The monotonic time before
    /// anything was asked.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn set(&mut self, clock: &Clock) -> Result<Micros, StoreError> {
        let before = clock.monotonic();
        match self.conn.on() {
            On::Sqlite(_) => clock.follow_system(),
            On::Postgres(conn) => {
                let now = sqlx::query(POSTGRES_NOW).fetch_one(conn).await?.try_get(0)?;
                clock.follow(now, before.midpoint(clock.monotonic()));
            }
        }
        Ok(before)
    }
}

impl Db {
    /// PostgreSQL's doorbell of other nodes' changes; `None` on SQLite.
    ///
    /// # Errors
    /// When the listener cannot connect.
    pub async fn listener(&self) -> Result<Option<PgListener>, StoreError> {
        let Location::Postgres(url) = &self.shared.location else { return Ok(None) };
        let listen = async {
            let mut listener = PgListener::connect(url.expose()).await?;
            listener.listen(CHANNEL).await?;
            Ok(Some(listener))
        };
        let late = |_| Err(StoreError::Unavailable("the doorbell did not answer in time".into()));
        tokio::time::timeout(self.shared.deadline, listen).await.unwrap_or_else(late)
    }
}
