//! A connection of either engine, and the macros that run one SQL text on both.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, Postgres, SqliteConnection, Transaction};

use super::Shared;

/// A connection that the functions of the row files work on.
pub struct Conn {
    raw: Raw,
    shared: Arc<Shared>,
}

pub(super) enum Raw {
    SqliteReader(PoolConnection<sqlx::Sqlite>),
    SqliteWriter(SqliteConnection),
    Postgres(PoolConnection<Postgres>),
    /// Outside the pool.
    PostgresOwn(PgConnection),
    PostgresTx(Transaction<'static, Postgres>),
}

/// What the macros dispatch on: the compiler makes both arms from one text.
pub(super) enum On<'c> {
    Sqlite(&'c mut SqliteConnection),
    Postgres(&'c mut PgConnection),
}

impl Conn {
    pub(super) fn new(raw: Raw, shared: Arc<Shared>) -> Self {
        Self { raw, shared }
    }

    /// The engine's connection, for one statement.
    pub(super) fn on(&mut self) -> On<'_> {
        self.shared.statements.fetch_add(1, Ordering::Relaxed);
        match &mut self.raw {
            Raw::SqliteReader(conn) => On::Sqlite(conn),
            Raw::SqliteWriter(conn) => On::Sqlite(conn),
            Raw::Postgres(conn) => On::Postgres(conn),
            Raw::PostgresOwn(conn) => On::Postgres(conn),
            Raw::PostgresTx(conn) => On::Postgres(conn),
        }
    }

    pub(super) fn into_raw(self) -> Raw {
        self.raw
    }
}

/// How many rows the texts have that are for many.
pub(super) const MANY: usize = 32;

/// The rows of a text of [`MANY`], of which there are not more: a short list is filled up with its own last row, which
/// counts once all the same.
pub(super) fn filled<T>(rows: &[T]) -> impl Iterator<Item = &T> {
    rows.iter().chain(rows.last().into_iter().cycle()).take(MANY)
}

/// Declares this file's SQL texts and lists them for the test that prepares each on both engines.
macro_rules! queries {
    ($($name:ident = $sql:expr;)+) => {
        $(const $name: &str = $sql;)+
        pub(super) const QUERIES: &[(&str, &str)] =
            &[$((concat!(module_path!(), "::", stringify!($name)), $name)),+];
    };
}

/// Runs a statement: the number of rows it changed.
macro_rules! execute {
    ($conn:expr, $sql:expr $(, $bind:expr)* $(,)?) => {
        match $conn.on() {
            $crate::store::conn::On::Sqlite(conn) => {
                sqlx::query($sql)$(.bind($bind))*.execute(conn).await.map(|done| done.rows_affected())
            }
            $crate::store::conn::On::Postgres(conn) => {
                sqlx::query($sql)$(.bind($bind))*.execute(conn).await.map(|done| done.rows_affected())
            }
        }
        .map_err($crate::store::StoreError::from)
    };
}

/// Runs a statement whose text goes on for each of `$rows`: `execute_rows!(tx, SQL, [first, …], rows, |row| [cell, …])`.
macro_rules! execute_rows {
    ($conn:expr, $sql:expr, [$($bind:expr),*], $rows:expr, |$row:pat_param| [$($cell:expr),+]) => {
        match $conn.on() {
            $crate::store::conn::On::Sqlite(conn) => {
                let query = sqlx::query($sql)$(.bind($bind))*;
                let query = $rows.fold(query, |query, $row| query$(.bind($cell))+);
                query.execute(conn).await.map(|done| done.rows_affected())
            }
            $crate::store::conn::On::Postgres(conn) => {
                let query = sqlx::query($sql)$(.bind($bind))*;
                let query = $rows.fold(query, |query, $row| query$(.bind($cell))+);
                query.execute(conn).await.map(|done| done.rows_affected())
            }
        }
        .map_err($crate::store::StoreError::from)
    };
}

/// Runs a query whose text goes on for each of `$rows`, as [`execute_rows`], and gives every row as [`fetch`].
macro_rules! fetch_rows {
    ($conn:expr, $sql:expr, [$($bind:expr),*], $rows:expr, |$row:pat_param| [$($cell:expr),+]) => {
        match $conn.on() {
            $crate::store::conn::On::Sqlite(conn) => {
                let query = sqlx::query_as($sql)$(.bind($bind))*;
                $rows.fold(query, |query, $row| query$(.bind($cell))+).fetch_all(conn).await
            }
            $crate::store::conn::On::Postgres(conn) => {
                let query = sqlx::query_as($sql)$(.bind($bind))*;
                $rows.fold(query, |query, $row| query$(.bind($cell))+).fetch_all(conn).await
            }
        }
        .map_err($crate::store::StoreError::from)
    };
}

/// Runs a query and gives its rows as a type that is `FromRow` on both engines. `fetch!(optional, …)` gives
/// at most one, `fetch!(all, …)` every row, `fetch!(one, …)` fails without one.
macro_rules! fetch {
    (one, $($rest:tt)*) => { fetch!(@fetch_one, $($rest)*) };
    (optional, $($rest:tt)*) => { fetch!(@fetch_optional, $($rest)*) };
    (all, $($rest:tt)*) => { fetch!(@fetch_all, $($rest)*) };
    (@$how:ident, $conn:expr, $sql:expr $(, $bind:expr)* $(,)?) => {
        match $conn.on() {
            $crate::store::conn::On::Sqlite(conn) => sqlx::query_as($sql)$(.bind($bind))*.$how(conn).await,
            $crate::store::conn::On::Postgres(conn) => sqlx::query_as($sql)$(.bind($bind))*.$how(conn).await,
        }
        .map_err($crate::store::StoreError::from)
    };
}

pub(super) use {execute, execute_rows, fetch, fetch_rows, queries};
