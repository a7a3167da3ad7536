//! The database beside running servers: opening it for commands that need nothing else of the server, and no master
//! key; and waiting until servers act on what was changed.

use super::output::Failure;
use crate::clock::Clock;
use crate::config::{Config, DatabaseUrl};
use crate::nodes;
use crate::store::{Db, Options, StoreError};

/// Opens the database, and makes SQLite's file when it is missing.
pub async fn open(config: &Config) -> Result<Db, StoreError> {
    let options = Options { max_connections: 2, ..(&config.database).into() };
    Db::open(options, Clock::system()).await
}

/// Opens a database that is there and has this release's schema, to read from it.
pub async fn open_ready(config: &Config) -> Result<Db, Failure> {
    if let DatabaseUrl::Sqlite(path) = &config.database.url
        && !path.exists()
    {
        let path = path.display();
        return Err(Failure::failed(format!(
            "there is no database {path}; `sealwright serve` makes it at its first start. Is this the right folder, \
             and the right database.url?"
        )));
    }
    let db = open(config).await?;
    if db.is_migrated().await? {
        return Ok(db);
    }
    Err(Failure::failed("the database does not have this release's schema yet; run: sealwright migrate"))
}

/// Waits until running servers act on change `seq`, where there was one.
pub async fn acted_on(db: &Db, clock: &Clock, seq: Option<i64>) -> Result<(), Failure> {
    let Some(seq) = seq else { return Ok(()) };
    nodes::acted_on_elsewhere(db, clock, seq).await.map_err(|cause| {
        Failure::failed(format!(
            "the change is stored, but not every running server has confirmed it ({}); each acts on it within seconds \
             of reaching the database",
            cause.detail()
        ))
    })
}
