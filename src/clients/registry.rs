//! Clients in memory: which ids there are, as hashes of all of them, and the clients themselves in a read-through cache.
//! Misses are coalesced, and a fill that is older than a change of the feed is dropped.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::Client;
use crate::store::{Conn, Db, StoreError, clients};

/// Clients in memory take at most this much of it, roughly.
const CACHED_BYTES: u64 = 96 * 1024 * 1024;
/// What most clients take at least; see [`Client::weight`].
const SMALL_CLIENT: u64 = 600;
const STRIPES: usize = 64;
/// Ids that are read at a time.
const PAGE: i64 = 10_000;

/// Clients in memory.
pub struct Registry {
    db: Db,
    cached: Cache<Arc<str>, Arc<Client>, Weight>,
    /// Filling and invalidating both hold it, so a fill that began before a change never lands after it.
    index: Mutex<Index>,
    loading: Vec<tokio::sync::Mutex<()>>,
    /// What ids are hashed with, drawn anew for each process: nobody can choose an id that meets another's hash.
    key: RandomState,
    origins: ArcSwap<HashSet<String>>,
}

#[derive(Clone)]
struct Weight;

impl Weighter<Arc<str>, Arc<Client>> for Weight {
    fn weight(&self, _: &Arc<str>, client: &Arc<Client>) -> u64 {
        client.weight()
    }
}

#[derive(Default)]
struct Index {
    /// Counts invalidations.
    changes: u64,
    /// Hashes of the ids of all clients that there are, so that an unknown one is refused at the cost of a known one:
    /// 9 bytes for each of twice as many at most. One too many costs a read of the database; none is missing that the
    /// feed has told of.
    ids: HashSet<u64>,
}

impl Registry {
    /// Knows no client until [`Registry::reload`].
    pub fn new(db: Db) -> Self {
        Self {
            db,
            cached: Cache::with_weighter(
                usize::try_from(CACHED_BYTES / SMALL_CLIENT).unwrap_or(usize::MAX),
                CACHED_BYTES,
                Weight,
            ),
            index: Mutex::default(),
            loading: (0..STRIPES).map(|_| tokio::sync::Mutex::new(())).collect(),
            key: RandomState::new(),
            origins: ArcSwap::default(),
        }
    }

    /// The client, from memory where it is there. An id that nobody has costs no query.
    ///
    /// # Errors
    /// When it must be read and the database cannot.
    pub async fn get(&self, client_id: &str) -> Result<Option<Arc<Client>>, StoreError> {
        if let Some(client) = self.cached.get(client_id) {
            return Ok(Some(client));
        }
        let hash = self.key.hash_one(client_id);
        if !self.index().ids.contains(&hash) {
            return Ok(None);
        }
        let stripe = usize::try_from(hash % STRIPES as u64).unwrap_or(0);
        let _loading = self.loading[stripe].lock().await;
        if let Some(client) = self.cached.get(client_id) {
            return Ok(Some(client));
        }
        loop {
            let before = self.index().changes;
            let id = client_id.to_owned();
            let rows = self.db.read(move |conn| Box::pin(async move { clients::find(conn, &id).await })).await?;
            let client =
                rows.map(|(row, credentials)| Client::from_rows(&row, &credentials).map(Arc::new)).transpose()?;
            let mut index = self.index();
            if index.changes != before {
                continue;
            }
            match &client {
                Some(client) => self.cached.insert(client.client_id.clone(), client.clone()),
                // It was removed.
                None => {
                    index.ids.remove(&hash);
                }
            }
            return Ok(client);
        }
    }

    /// Forgets a client that changed, was added or was removed; which of them it was, the next fill finds out.
    pub fn invalidate(&self, client_id: &str) {
        let mut index = self.index();
        index.changes += 1;
        index.ids.insert(self.key.hash_one(client_id));
        self.cached.remove(client_id);
    }

    /// Reads anew which clients there are, and forgets what was known of them.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn reload(&self, conn: &mut Conn) -> Result<(), StoreError> {
        let (mut ids, mut last) = (HashSet::new(), String::new());
        loop {
            let page = clients::ids(conn, &last, PAGE).await?;
            ids.extend(page.iter().map(|id| self.key.hash_one(id)));
            match page.into_iter().next_back() {
                Some(id) => last = id,
                None => break,
            }
        }
        self.replace(ids);
        self.reload_origins(conn).await
    }

    fn replace(&self, ids: HashSet<u64>) {
        let mut index = self.index();
        *index = Index { changes: index.changes + 1, ids };
        self.cached.clear();
    }

    /// Reads anew which browser origins some client registered.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn reload_origins(&self, conn: &mut Conn) -> Result<(), StoreError> {
        let origins = clients::origins(conn).await?;
        self.origins.store(Arc::new(origins.into_iter().collect()));
        Ok(())
    }

    /// Whether some client registered `origin`: what a preflight, which names no client, can be told.
    pub fn knows_origin(&self, origin: &str) -> bool {
        self.origins.load().contains(origin)
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;
    use crate::store::clients::ClientRow;
    use crate::store::{Location, Options};

    async fn save(db: &Db, id: &str) {
        let row = ClientRow {
            client_id: id.to_owned(),
            metadata: "{}".to_owned(),
            disabled: false,
            managed_by: "apply".to_owned(),
        };
        db.write(move |tx| Box::pin(async move { clients::save(tx, &row, &[]).await })).await.unwrap();
    }

    #[tokio::test]
    async fn t122_only_ids_that_exist_are_read() {
        let folder = std::env::temp_dir()
            .join(format!("sealwright-registry-{:x}", u128::from_be_bytes(crate::secret::random().unwrap())));
        std::fs::create_dir(&folder).unwrap();
        let location = Location::Sqlite(folder.join("test.db"));
        let options = Options { location, max_connections: 2, deadline: Duration::from_secs(20) };
        let db = Db::open(options, Clock::system()).await.unwrap();
        db.migrate().await.unwrap();
        save(&db, "one").await;
        let registry = Registry::new(db.clone());
        let mut conn = db.reader().await.unwrap();
        registry.reload(&mut conn).await.unwrap();
        let sent = async |id: &str, exists: bool| {
            let before = db.statements();
            assert_eq!(registry.get(id).await.unwrap().is_some(), exists, "{id}");
            db.statements() - before
        };
        for n in 0..1_000 {
            assert_eq!(sent(&format!("unknown-{n}"), false).await, 0);
        }
        assert_eq!(sent("a NUL \0 does not reach the database", false).await, 0);
        assert_eq!((sent("one", true).await, sent("one", true).await), (2, 0));
        // Added: nobody knows it until the feed tells.
        save(&db, "two").await;
        assert_eq!(sent("two", false).await, 0);
        registry.invalidate("two");
        assert_eq!((sent("two", true).await, sent("two", true).await), (2, 0));
        // Removed: it is looked for once.
        db.write(|tx| Box::pin(async move { clients::delete(tx, "two").await })).await.unwrap();
        registry.invalidate("two");
        assert_eq!((sent("two", false).await, sent("two", false).await), (1, 0));
        registry.reload(&mut conn).await.unwrap();
        assert_eq!((sent("one", true).await, sent("two", false).await), (2, 0));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_hundred_thousand_clients_are_known_in_less_than_two_megabytes() {
        let key = RandomState::new();
        let ids: HashSet<u64> = (0..100_000).map(|n| key.hash_one(format!("client-{n}"))).collect();
        assert_eq!(ids.len(), 100_000);
        // A slot is a hash and a byte; seven of eight may be taken.
        let slots = (ids.capacity() * 8 / 7).next_power_of_two();
        assert!(slots * 9 < 2_000_000, "{slots} slots");
    }
}
