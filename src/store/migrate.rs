//! Migrations, inside the binary, one text for both engines.

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{AssertSqlSafe, Connection, Executor, SqlSafeStr};

use super::conn::{fetch, queries};
use super::sqlite::Lock;
use super::{Db, Engine, StoreError};

/// (version, name, text). Append only; expand first, contract one release later.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "spine", include_str!("../../migrations/0001_spine.sql")),
    (2, "people", include_str!("../../migrations/0002_people.sql")),
];

queries! {
    APPLIED = "SELECT MAX(version) FROM _sqlx_migrations WHERE success";
}

fn migrator(sqlite: bool) -> Migrator {
    let migrations = MIGRATIONS.iter().map(|(version, name, text)| {
        // Texts are compared and sorted by their bytes, on SQLite by itself; on PostgreSQL the system's rules for a
        // language differ between machines, and an index that was made by others is broken.
        let text = if sqlite {
            text.replace("BYTEA", "BLOB")
        } else {
            text.replace(" TEXT", " TEXT COLLATE \"C\"").replace(" WITHOUT ROWID", "")
        };
        Migration::new(*version, (*name).into(), MigrationType::Simple, AssertSqlSafe(text).into_sql_str(), false)
    });
    let mut migrator = Migrator::with_migrations(migrations.collect());
    // The previous binary runs on the next schema.
    migrator.set_ignore_missing(true);
    migrator
}

pub(super) async fn run(db: &Db) -> Result<(), StoreError> {
    let failed = |cause: sqlx::migrate::MigrateError| StoreError::Unfit(format!("migration failed: {cause}"));
    match &db.engine {
        // sqlx's lock is a no-op on SQLite; the change itself goes through a connection of its own.
        Engine::Sqlite(sqlite) => {
            let path = db.sqlite_path().map(std::path::Path::to_owned).unwrap_or_default();
            let lock = tokio::task::spawn_blocking(move || Lock::migrating(&path)).await;
            let _lock = lock.map_err(|cause| StoreError::Unfit(cause.to_string()))?.map_err(|cause| {
                StoreError::Unavailable(format!("the migration lock beside the database cannot be taken: {cause}"))
            })?;
            let mut conn = sqlite.connect().await?;
            migrator(true).run(&mut conn).await.map_err(failed)?;
            conn.close().await?;
            Ok(())
        }
        Engine::Postgres(pool) => {
            let mut conn = pool.acquire().await?.detach();
            // Another node may be migrating, and a table may be large: this takes the time that it takes.
            conn.execute("SET statement_timeout = 0; SET lock_timeout = 0").await?;
            migrator(false).run(&mut conn).await.map_err(failed)?;
            conn.close().await?;
            Ok(())
        }
    }
}

pub(super) async fn is_current(db: &Db) -> Result<bool, StoreError> {
    let found: Result<(Option<i64>,), _> = db.read(|conn| Box::pin(async move { fetch!(one, conn, APPLIED) })).await;
    match found {
        Ok((version,)) => Ok(version >= MIGRATIONS.last().map(|last| last.0)),
        // A database that was never migrated has no such table.
        Err(cause) if cause.is_missing_table() => Ok(false),
        Err(cause) => Err(cause),
    }
}
