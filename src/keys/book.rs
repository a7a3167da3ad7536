//! The signing keys of the database as the snapshot that signs and verifies.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::{KeyEntry, KeyPair, KeyRing, KeyState, MasterKey, PublicJwk, Signer, SigningQueue};
use crate::audit::{self, Actor, Event};
use crate::config;
use crate::store::signing_keys::{self, SigningKeyRow};
use crate::store::{Committed, Conn, Db, StoreError};
use crate::wire::Algorithm;

/// All signing keys: one snapshot, replaced as the feed says.
pub struct Keys {
    ring: ArcSwap<KeyRing>,
    master: MasterKey,
    queue: SigningQueue,
}

impl Keys {
    /// No keys yet; `master` opens them.
    pub fn new(master: MasterKey) -> Self {
        let queue = SigningQueue::of_this_machine();
        Self { ring: ArcSwap::from_pointee(KeyRing::new(Vec::new())), master, queue }
    }

    /// The snapshot.
    pub fn ring(&self) -> Arc<KeyRing> {
        self.ring.load_full()
    }

    /// Reads all keys anew.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn reload(&self, conn: &mut Conn) -> Result<(), StoreError> {
        let before = self.ring();
        let rows = signing_keys::list(conn).await?;
        // One row that does not open must not take the others with it; its tokens are dead and its algorithm rests.
        let read =
            |row| self.entry(row, &before).inspect_err(|cause| tracing::error!(%cause, "a key is left out")).ok();
        self.ring.store(Arc::new(KeyRing::new(rows.into_iter().filter_map(read).collect())));
        Ok(())
    }

    fn entry(&self, row: SigningKeyRow, before: &KeyRing) -> Result<KeyEntry, StoreError> {
        let unfit = |what: &dyn std::fmt::Display| StoreError::Unfit(format!("signing key {}: {what}", row.kid));
        let algorithm: Algorithm = row.alg.parse().map_err(|cause| unfit(&cause))?;
        let state: KeyState = row.state.parse().map_err(|cause| unfit(&cause))?;
        // A key pair is parsed once in the life of a process.
        let known = before.public(&row.kid).and_then(|entry| entry.signer.clone());
        let signer = match known {
            Some(signer) => Some(signer),
            None if state.verifies() => {
                let pkcs8 = self.master.open(&context(&row.kid), &row.sealed).map_err(|cause| unfit(&cause))?;
                let pair = KeyPair::from_pkcs8(algorithm, &pkcs8).map_err(|cause| unfit(&cause))?;
                let signer = Signer::new(&row.kid, &row.alg_name, pair, self.queue.clone());
                Some(Arc::new(signer.map_err(|cause| unfit(&cause))?))
            }
            None => None,
        };
        Ok(KeyEntry {
            public: PublicJwk::parse(row.public_jwk.as_bytes()).map_err(|cause| unfit(&cause))?,
            kid: row.kid,
            algorithm,
            alg_name: row.alg_name,
            state,
            created_at: row.created_at,
            activate_at: row.activate_at,
            signer,
        })
    }

    /// Makes the first key of each configured algorithm that has none. Of several nodes that start at once, one
    /// makes it and the others take it over. The algorithms of the keys that
    /// were made, and under which number the nodes learn of them.
    ///
    /// # Errors
    /// When a key cannot be made or stored.
    pub async fn ensure(&self, db: &Db, settings: &config::Keys) -> Result<Vec<Committed<Algorithm>>, StoreError> {
        let rows = db.read(|conn| Box::pin(signing_keys::list(conn))).await?;
        let has = |algorithm: &Algorithm| {
            rows.iter().any(|row| row.alg == algorithm.as_str() && row.state == KeyState::Active.as_str())
        };
        let mut made = Vec::new();
        for algorithm in settings.algorithms.iter().copied().filter(|algorithm| !has(algorithm)) {
            let row = self.make(algorithm, settings)?;
            let added = db.write(move |tx| {
                Box::pin(async move {
                    let added = signing_keys::add(tx, &row).await?;
                    if added {
                        let event = Event::SigningKeyMade { alg: row.alg.clone() };
                        audit::record(tx, &Actor::system(), &row.kid, &event).await?;
                    }
                    Ok(added)
                })
            });
            let Committed { value: added, seq } = added.await?;
            if added {
                made.push(Committed { value: algorithm, seq });
            }
        }
        Ok(made)
    }

    fn make(&self, algorithm: Algorithm, settings: &config::Keys) -> Result<SigningKeyRow, StoreError> {
        let unfit =
            |cause: &dyn std::fmt::Display| StoreError::Unfit(format!("a {algorithm} key cannot be made: {cause}"));
        let (pair, pkcs8) = KeyPair::generate(algorithm, settings.rsa_bits).map_err(|cause| unfit(&cause))?;
        let public = pair.public_jwk();
        let kid = public.thumbprint();
        let members: serde_json::Map<String, serde_json::Value> =
            public.members().map(|(name, value)| (name.to_owned(), value.into())).collect();
        let alg_name = if algorithm == Algorithm::EdDsa { settings.eddsa_name.as_str() } else { algorithm.as_str() };
        Ok(SigningKeyRow {
            alg: algorithm.as_str().to_owned(),
            alg_name: alg_name.to_owned(),
            state: KeyState::Active.as_str().to_owned(),
            public_jwk: serde_json::Value::Object(members).to_string(),
            sealed: self.master.seal(&context(&kid), &pkcs8).map_err(|cause| unfit(&cause))?,
            kid,
            created_at: 0,
            published_at: None,
            activate_at: None,
            retire_at: None,
            remove_at: None,
        })
    }
}

/// What a sealed key is bound to: its own row.
fn context(kid: &str) -> Vec<u8> {
    format!("signing_key:{kid}").into_bytes()
}
