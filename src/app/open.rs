//! Opening the database and the master keys: what `serve` and every other command begin with.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::StartError;
use crate::clock::Clock;
use crate::config::{Config, DatabaseUrl, MasterKeySource};
use crate::keys::{MasterKey, MasterKeys, master};
use crate::store::Db;
use crate::store::feed::Follower;

/// An open database with its master keys.
pub struct Opened {
    /// The database, migrated.
    pub db: Db,
    /// The clock that follows it.
    pub clock: Clock,
    /// What its sealed rows open with.
    pub master: Arc<MasterKeys>,
    /// What was made on the way, to be told.
    pub notes: Vec<String>,
}

/// Opens the database, brings its schema up where that is configured, and reads the master keys; one is made on
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
    let sealed_by = db.read(|conn| Box::pin(master::sealing(conn))).await?;
    let master = Arc::new(match given(config)? {
        Some(master) => master,
        None => made(config, sealed_by.as_deref(), &mut notes)?,
    });
    if sealed_by.is_none() {
        // Of several first starts, one decides; the others find out below whether they hold the same key.
        let ours = master.clone();
        db.write(move |tx| Box::pin(async move { ours.decide(tx).await.map(drop) })).await?;
    }
    has_all(&db, &master).await?;
    Ok(Opened { db, clock, master, notes })
}

/// Makes sure that `master` has the key that seals, and every other that something is still sealed under.
///
/// # Errors
/// [`StartError::MasterKeyWrong`], [`StartError::MasterKeyMissing`], or when the database cannot be read.
pub async fn has_all(db: &Db, master: &MasterKeys) -> Result<(), StartError> {
    let read = db.read(|conn| Box::pin(async move { Ok((master::sealing(conn).await?, master::census(conn).await?)) }));
    let (sealing, census) = read.await?;
    let seals = |id: &str| census.get(id).map_or_else(|| "nothing yet".to_owned(), master::told);
    if let Some(id) = sealing.filter(|id| !master.has(id)) {
        return Err(StartError::MasterKeyWrong { seals: seals(&id), id, given: master.ids() });
    }
    match census.keys().find(|id| !master.has(id)) {
        Some(id) => Err(StartError::MasterKeyMissing { seals: seals(id), id: id.clone() }),
        None => Ok(()),
    }
}

/// The master keys as configured; `None` where the file is one that is made at the first start, and is not there.
///
/// # Errors
/// [`StartError`] when there is none, or the file cannot be read.
pub fn given(config: &Config) -> Result<Option<MasterKeys>, StartError> {
    let parsed = |text: &str, place: &dyn Fn() -> String| {
        MasterKeys::parse(text).map(Some).map_err(|_| StartError::MasterKeyMalformed(place()))
    };
    match config.master_key_source().ok_or(StartError::NoMasterKey)? {
        MasterKeySource::Value(value) => {
            parsed(value.expose(), &|| format!("master_key.value ({})", config.origin("master_key.value")))
        }
        MasterKeySource::Made(path) if !path.exists() => Ok(None),
        MasterKeySource::File(path) | MasterKeySource::Made(path) => {
            let text = std::fs::read_to_string(&path).map(Zeroizing::new);
            let text = text.map_err(|cause| StartError::MasterKeyFile(path.clone(), cause))?;
            parsed(&text, &|| format!("master_key.file: {}", path.display()))
        }
    }
}

/// Makes the file with the first key, unless the database is sealed already.
fn made(config: &Config, sealed_by: Option<&str>, notes: &mut Vec<String>) -> Result<MasterKeys, StartError> {
    let Some(MasterKeySource::Made(path)) = config.master_key_source() else { return Err(StartError::NoMasterKey) };
    if let Some(id) = sealed_by {
        return Err(StartError::MasterKeyGone(path, id.to_owned()));
    }
    let key = MasterKey::generate().map_err(|cause| StartError::Internal(cause.into()))?;
    match place(&path, &key) {
        Ok(()) => {
            notes.push(format!("made the master key file {}: keep a copy in a safe place", path.display()));
            Ok(key.into())
        }
        // Another process was first.
        Err(cause) if cause.kind() == std::io::ErrorKind::AlreadyExists => {
            given(config)?.ok_or(StartError::NoMasterKey)
        }
        Err(cause) => Err(StartError::MasterKeyFile(path, cause)),
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
