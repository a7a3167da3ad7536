//! The read-through cache of clients: misses are coalesced, unknown ids are remembered in bounded number, and a
//! fill that is older than a change of the feed is dropped.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use moka::sync::Cache;

use super::Client;
use super::metadata::check_client_id;
use crate::store::{Conn, Db, StoreError, clients};

/// Known clients take at most this much memory, roughly.
const KNOWN_BYTES: u64 = 96 * 1024 * 1024;
const UNKNOWN: u64 = 10_000;
const STRIPES: usize = 64;

/// Clients in memory.
pub struct Registry {
    db: Db,
    known: Cache<Arc<str>, Arc<Client>>,
    unknown: Cache<Arc<str>, ()>,
    /// Counts invalidations. Filling and invalidating both hold it, so a fill that began before a change never lands after it.
    changes: Mutex<u64>,
    loading: Vec<tokio::sync::Mutex<()>>,
    stripe: RandomState,
    origins: ArcSwap<HashSet<String>>,
}

impl Registry {
    /// An empty cache over `db`.
    pub fn new(db: Db) -> Self {
        Self {
            db,
            known: Cache::builder()
                .max_capacity(KNOWN_BYTES)
                .weigher(|_, client: &Arc<Client>| client.weight())
                .build(),
            unknown: Cache::new(UNKNOWN),
            changes: Mutex::new(0),
            loading: (0..STRIPES).map(|_| tokio::sync::Mutex::new(())).collect(),
            stripe: RandomState::new(),
            origins: ArcSwap::default(),
        }
    }

    /// The client, from memory where it is there.
    ///
    /// # Errors
    /// When it must be read and the database cannot.
    pub async fn get(&self, client_id: &str) -> Result<Option<Arc<Client>>, StoreError> {
        if let Some(client) = self.known.get(client_id) {
            return Ok(Some(client));
        }
        // What cannot be a client's id costs no query and no memory, and its NUL does not reach the database.
        if check_client_id(client_id).is_err() || self.unknown.contains_key(client_id) {
            return Ok(None);
        }
        let stripe = usize::try_from(self.stripe.hash_one(client_id) % STRIPES as u64).unwrap_or(0);
        let _loading = self.loading[stripe].lock().await;
        if let Some(client) = self.known.get(client_id) {
            return Ok(Some(client));
        }
        if self.unknown.contains_key(client_id) {
            return Ok(None);
        }
        loop {
            let before = *self.changes.lock().unwrap_or_else(PoisonError::into_inner);
            let id = client_id.to_owned();
            let rows = self.db.read(move |conn| Box::pin(async move { clients::find(conn, &id).await })).await?;
            let client =
                rows.map(|(row, credentials)| Client::from_rows(&row, &credentials).map(Arc::new)).transpose()?;
            let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
            if *changes != before {
                continue;
            }
            match &client {
                Some(client) => self.known.insert(client.client_id.clone(), client.clone()),
                None => self.unknown.insert(client_id.into(), ()),
            }
            return Ok(client);
        }
    }

    /// Forgets a client that changed.
    pub fn invalidate(&self, client_id: &str) {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        *changes += 1;
        self.known.invalidate(client_id);
        self.unknown.invalidate(client_id);
    }

    /// Forgets all of them.
    pub fn invalidate_all(&self) {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        *changes += 1;
        self.known.invalidate_all();
        self.unknown.invalidate_all();
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
}
