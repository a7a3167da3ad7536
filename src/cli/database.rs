//! Opening the database for commands that need nothing else of the server, and no master key.

use super::output::Failure;
use crate::clock::Clock;
use crate::config::{Config, DatabaseUrl};
use crate::store::{Db, Options};

/// Opens the database, and makes SQLite's file when it is missing.
pub async fn open(config: &Config) -> Result<Db, Failure> {
    let options = Options { max_connections: 2, ..(&config.database).into() };
    Ok(Db::open(options, Clock::system()).await?)
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
