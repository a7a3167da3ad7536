//! Opening the database and the master key: what `serve` and every other command begin with.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::StartError;
use crate::clock::Clock;
use crate::config::{Config, DatabaseUrl, MasterKeySource};
use crate::keys::MasterKey;
use crate::store::feed::Follower;
use crate::store::{Db, meta};

/// The key of the fact by which a database knows its master key.
const CHECK: &str = "master_key_check";

/// An open database with its master key.
pub struct Opened {
    /// The database, migrated.
    pub db: Db,
    /// The clock that follows it.
    pub clock: Clock,
    /// What its sealed rows open with.
    pub master: MasterKey,
    /// What was made on the way, to be told.
    pub notes: Vec<String>,
}

/// Opens the database, brings its schema up where that is configured, and reads the master key, which is made on
/// SQLite when there was none. Waits, when `patient`, for somebody to migrate a PostgreSQL database.
///
/// # Errors
/// See [`StartError`].
pub async fn open(config: &Config, clock: Clock, patient: bool) -> Result<Opened, StartError> {
    let mut notes = Vec::new();
    if let DatabaseUrl::Sqlite(path) = &config.database.url
        && !path.exists()
    {
        notes.push(format!("made the database {}", path.display()));
    }
    let db = Db::open((&config.database).into(), clock.clone()).await?;
    if config.migrates() {
        db.migrate().await?;
    }
    while !db.is_migrated().await? {
        if !patient {
            return Err(StartError::NotMigrated);
        }
        tracing::warn!("waiting: {}", StartError::NotMigrated);
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    // Leases are judged by the database's clock, by commands too.
    Follower::new(&db).await?.set(&clock).await?;
    let sealed = db.read(|conn| Box::pin(meta::get(conn, CHECK))).await?;
    let master = master_key(config, sealed.is_some(), &mut notes)?;
    let check = BASE64_URL_SAFE_NO_PAD.encode(master.check_value());
    let ours = check.clone();
    // Of several first starts, one decides; the others find out here whether they hold the same key.
    let decided = match sealed {
        Some(sealed) => sealed,
        None => db.write(move |tx| Box::pin(async move { meta::decide(tx, CHECK, &ours).await })).await?.value,
    };
    if decided != check {
        return Err(StartError::MasterKeyWrong);
    }
    Ok(Opened { db, clock, master, notes })
}

fn master_key(config: &Config, sealed: bool, notes: &mut Vec<String>) -> Result<MasterKey, StartError> {
    let malformed = |_| StartError::MasterKeyMalformed;
    match config.master_key_source().ok_or(StartError::NoMasterKey)? {
        MasterKeySource::Value(value) => MasterKey::parse(value.expose()).map_err(malformed),
        MasterKeySource::File(path) => read(&path),
        MasterKeySource::Made(path) if path.exists() => read(&path),
        MasterKeySource::Made(path) if sealed => Err(StartError::MasterKeyGone(path)),
        MasterKeySource::Made(path) => {
            let failed = |cause| StartError::MasterKeyFile(path.clone(), cause);
            let key = MasterKey::generate().map_err(|cause| StartError::Internal(cause.into()))?;
            match place(&path, &key) {
                Ok(()) => {
                    notes.push(format!("made the master key file {}: keep a copy in a safe place", path.display()));
                    Ok(key)
                }
                // Another process was first.
                Err(cause) if cause.kind() == std::io::ErrorKind::AlreadyExists => read(&path),
                Err(cause) => Err(failed(cause)),
            }
        }
    }
}

/// Puts the file there whole, with its content on the disk, or not at all; never over another.
fn place(path: &Path, key: &MasterKey) -> std::io::Result<()> {
    let beside = path.with_extension(format!("{}.new", std::process::id()));
    let _ = std::fs::remove_file(&beside);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    let placed = writeln!(file, "{}", key.to_text().expose())
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::hard_link(&beside, path));
    std::fs::remove_file(&beside)?;
    placed
}

fn read(path: &Path) -> Result<MasterKey, StartError> {
    let text = std::fs::read_to_string(path).map_err(|cause| StartError::MasterKeyFile(path.to_owned(), cause))?;
    MasterKey::parse(zeroize::Zeroizing::new(text).trim()).map_err(|_| StartError::MasterKeyMalformed)
}
