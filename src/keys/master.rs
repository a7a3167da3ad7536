//! The master keys of a process, and all that they seal. Every key opens what it sealed; the one that seals is the
//! database's choice, so that no node seals with a key that another does not have yet.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use super::seal::{MalformedMasterKey, MasterKey, OpenError};
use crate::audit::{self, Actor, Event};
use crate::config::master_keys_bytes;
use crate::store::sealed::{self, Table};
use crate::store::{Conn, Db, Lock, StoreError, Tx, meta, nodes};

/// Under this name a database keeps which master key seals: its id, a space, and its check value.
const SEALS: &str = "master_key";

/// Something that is kept sealed: a table's column `sealed`.
#[derive(Clone, Copy)]
pub struct Place {
    /// The first word of what a sealed value is bound to.
    word: &'static str,
    /// What operators call one of it.
    name: &'static str,
    table: Table,
}

/// Private keys that sign tokens.
pub const SIGNING_KEY: Place = Place { word: "signing_key", name: "signing key", table: sealed::SIGNING_KEYS };
/// Keys of message authentication codes.
pub const MAC_KEY: Place = Place { word: "mac_key", name: "MAC key", table: sealed::MAC_KEYS };

/// Everything that is kept sealed.
const PLACES: [Place; 2] = [SIGNING_KEY, MAC_KEY];

impl Place {
    /// What the value in the row `id` is bound to.
    fn context(self, id: &[u8]) -> Vec<u8> {
        [self.word.as_bytes(), b":", id].concat()
    }
}

/// The master keys that this process was given, the newest first; there is at least one.
pub struct MasterKeys(Vec<MasterKey>);

/// What one master key seals: how many rows of each place, by its name.
pub type Seals = BTreeMap<&'static str, i64>;

impl From<MasterKey> for MasterKeys {
    fn from(only: MasterKey) -> Self {
        Self(vec![only])
    }
}

impl MasterKeys {
    /// Reads the keys from a setting or a file's text, parted by white space or commas; each as [`MasterKey::parse`].
    ///
    /// # Errors
    /// When the text is anything else, or has none.
    pub fn parse(text: &str) -> Result<Self, MalformedMasterKey> {
        let keys = master_keys_bytes(text).ok_or(MalformedMasterKey)?;
        Ok(Self(keys.iter().map(|key| MasterKey::from_bytes(key)).collect()))
    }

    /// The ids, the newest first, parted by spaces.
    pub fn ids(&self) -> String {
        self.0.iter().map(|key| key.id().to_string()).collect::<Vec<_>>().join(" ")
    }

    /// The key that was configured first.
    pub fn newest(&self) -> &MasterKey {
        &self.0[0]
    }

    /// Whether the key of this id is one of them.
    pub fn has(&self, id: &str) -> bool {
        self.0.iter().any(|key| key.id().to_string() == id)
    }

    /// Opens the value in row `id` of `place`.
    ///
    /// # Errors
    /// See [`OpenError`]; it names the key that sealed the value.
    pub fn open(&self, place: Place, id: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let context = place.context(id);
        let mut opened = Err(OpenError::Malformed);
        for key in &self.0 {
            opened = key.open(&context, sealed);
            if !matches!(opened, Err(OpenError::OtherKey { .. })) {
                break;
            }
        }
        opened
    }

    /// Seals `plaintext` for the row `id` of `place`, with the key that the database says. Until the transaction ends
    /// that stays the key that seals: so nothing new is under an old key once `keys reseal` has gone through the rows.
    ///
    /// # Errors
    /// [`StoreError::Unfit`] without that key, or without randomness; [`StoreError`] of the database.
    pub async fn seal(&self, tx: &mut Tx, place: Place, id: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, StoreError> {
        let key = self.sealing(tx).await?;
        seal(key, place, id, plaintext)
    }

    /// Says that the newest key seals, unless another does already; how the database knows the one that does.
    ///
    /// # Errors
    /// [`StoreError`] of the database.
    pub async fn decide(&self, conn: &mut Conn) -> Result<String, StoreError> {
        meta::decide(conn, SEALS, &mark(self.newest())).await
    }

    /// The key that seals; the newest, where nothing was sealed yet. It stays that until the transaction ends.
    ///
    /// # Errors
    /// [`StoreError::Unfit`] when it is not one of these keys.
    pub async fn sealing(&self, conn: &mut Conn) -> Result<&MasterKey, StoreError> {
        let mark = self.decide(conn).await?;
        let found = self.0.iter().find(|key| crate::secret::equal(self::mark(key).as_bytes(), mark.as_bytes()));
        found.ok_or_else(|| {
            let id = mark.split(' ').next().unwrap_or_default();
            StoreError::Unfit(format!(
                "the master key {id} seals this database, and this process does not have it (it has {})",
                self.ids()
            ))
        })
    }
}

/// The id of the key that a database says seals; `None` before its first start.
///
/// # Errors
/// When the database cannot be read.
pub async fn sealing(conn: &mut Conn) -> Result<Option<String>, StoreError> {
    let mark = meta::get(conn, SEALS).await?;
    Ok(mark.map(|mark| mark.split(' ').next().unwrap_or_default().to_owned()))
}

/// What each master key seals, by its id.
///
/// # Errors
/// When the database cannot be read.
pub async fn census(conn: &mut Conn) -> Result<BTreeMap<String, Seals>, StoreError> {
    let mut census: BTreeMap<String, Seals> = BTreeMap::new();
    for place in &PLACES {
        for counted in sealed::count(conn, &place.table).await? {
            census.entry(hex(&counted.sealed_by)).or_default().insert(place.name, counted.rows);
        }
    }
    Ok(census)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// In words: `3 signing keys and 1 MAC key`; `nothing`.
pub fn told(seals: &Seals) -> String {
    let some = seals.iter().filter(|(_, rows)| **rows > 0);
    let words = some.map(|(name, rows)| format!("{rows} {name}{}", if *rows == 1 { "" } else { "s" }));
    let words: Vec<String> = words.collect();
    if words.is_empty() { "nothing".to_owned() } else { words.join(" and ") }
}

/// What came of making the newest key the one that seals.
#[derive(Debug, PartialEq, Eq)]
pub enum Turned {
    /// It seals now, and did before, too.
    Already,
    /// It seals from now on; before, this one did.
    From(String),
    /// So many running servers do not have it: nothing was changed.
    Lacking(usize),
}

/// Makes the newest of `keys` the one that seals, unless a running server does not have it. A server that has no lease at
/// this moment is not seen: it tells its keys and asks for [`MasterKeys::sealing`] before it counts on its next one.
///
/// # Errors
/// [`StoreError::Unfit`] when `keys` lack the one that seals now; [`StoreError`] of the database.
pub async fn turn(db: &Db, keys: Arc<MasterKeys>) -> Result<Turned, StoreError> {
    let file = db.sqlite_path().map(ToOwned::to_owned);
    let turned = db.write(move |tx| {
        Box::pin(async move {
            let (old, new) = (keys.sealing(tx).await?, keys.newest());
            if old.id() == new.id() {
                return Ok(Turned::Already);
            }
            // On SQLite a server that crashed leaves a row that says nothing.
            let nobody = file.and_then(|file| Lock::is_serving(&file).ok()) == Some(Some(false));
            let now = tx.now();
            let servers = if nobody { Vec::new() } else { nodes::master_keys(tx, now).await? };
            let new_id = new.id().to_string();
            let lacking = servers.iter().filter(|has| has.split(' ').all(|id| id != new_id)).count();
            if lacking > 0 {
                return Ok(Turned::Lacking(lacking));
            }
            meta::replace(tx, SEALS, &mark(old), &mark(new)).await?;
            let from = old.id().to_string();
            audit::record(tx, &Actor::command_line(), &new_id, &Event::MasterKeyTurned { from: from.clone() })?;
            Ok(Turned::From(from))
        })
    });
    turned.await.map(|committed| committed.value)
}

/// What [`reseal`] did.
#[derive(Debug, Default)]
pub struct Resealed {
    /// How many rows of each place are under the newest key now, and were not before.
    pub rewritten: Seals,
    /// What could not be opened, and why.
    pub left: Vec<String>,
}

/// Puts everything that another key sealed under the newest of `keys`, which must be the one that seals; row
/// by row, each only if it still is what was read. When it is broken off, the next call goes on where it was.
///
/// # Errors
/// When the database cannot be read or written.
pub async fn reseal(db: &Db, keys: &MasterKeys) -> Result<Resealed, StoreError> {
    let (new, mut done) = (keys.newest(), Resealed::default());
    for place in PLACES {
        let (under, mut last) = (new.id().0, Vec::new());
        loop {
            let after = last.clone();
            let page = db
                .read(move |conn| Box::pin(async move { sealed::not_under(conn, &place.table, &under, &after).await }));
            let page = page.await?;
            let Some((id, _)) = page.last() else { break };
            last.clone_from(id);
            for (id, old) in page {
                let text = match keys.open(place, &id, &old) {
                    Ok(text) => text,
                    Err(cause) => {
                        done.left.push(format!("{} {}: {cause}", place.name, readable(&id)));
                        continue;
                    }
                };
                let new = seal(new, place, &id, &text)?;
                let replace =
                    db.write(move |tx| Box::pin(async move { sealed::replace(tx, &place.table, &old, &new).await }));
                *done.rewritten.entry(place.name).or_default() += i64::from(replace.await?.value);
            }
        }
    }
    Ok(done)
}

fn seal(key: &MasterKey, place: Place, id: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, StoreError> {
    key.seal(&place.context(id), plaintext).map_err(|cause| StoreError::Unfit(cause.to_string()))
}

/// How a database knows a key: by its id, and by a value that nobody learns it from.
fn mark(key: &MasterKey) -> String {
    format!("{} {}", key.id(), BASE64_URL_SAFE_NO_PAD.encode(key.check_value()))
}

/// Texts as they are, other ids in hexadecimal digits.
fn readable(id: &[u8]) -> String {
    match std::str::from_utf8(id) {
        Ok(text) if text.chars().all(|c| c.is_ascii_graphic()) && !text.is_empty() => text.to_owned(),
        _ => hex(id),
    }
}
