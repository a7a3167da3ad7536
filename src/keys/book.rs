//! The signing keys of the database as the snapshot that signs and verifies, and the changes to them.

use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::future::try_join_all;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::import::Imported;
use super::master::SIGNING_KEY;
use super::pair::KeyError;
use super::rotate::{Fresh, Refusal, Turn, Turned, lives};
use super::schedule::{Due, KeyState, Schedule, Step};
use super::{KeyEntry, KeyPair, KeyRing, MasterKeys, PublicJwk, Signer, SigningQueue};
use crate::audit::Actor;
use crate::clock::Micros;
use crate::config::{self, Config};
use crate::store::signing_keys::{self, SigningKeyRow, Times};
use crate::store::{Committed, Conn, Db, StoreError};
use crate::wire::Algorithm;

/// How much a key is made after everything else that wants a core (nice(2)): by this, 3 % of a busy core make it.
const ASIDE: i32 = 15;

/// All signing keys: one snapshot, replaced as the feed says.
pub struct Keys {
    ring: ArcSwap<KeyRing>,
    master: Arc<MasterKeys>,
    queue: SigningQueue,
    schedule: Schedule,
    settings: config::Keys,
}

/// What a change by hand came to.
pub type ByHand = Result<Committed<Result<Turned, Refusal>>, StoreError>;

impl Keys {
    /// No keys yet; `master` opens them.
    pub fn new(master: Arc<MasterKeys>, config: &Config) -> Self {
        Self {
            ring: ArcSwap::from_pointee(KeyRing::new(Vec::new())),
            master,
            queue: SigningQueue::of_this_machine(),
            schedule: Schedule::new(config),
            settings: config.keys.clone(),
        }
    }

    /// What opens and seals them.
    pub fn master(&self) -> &Arc<MasterKeys> {
        &self.master
    }

    /// The snapshot.
    pub fn ring(&self) -> Arc<KeyRing> {
        self.ring.load_full()
    }

    /// When keys go on.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// The next step of each algorithm, as far as this node knows.
    pub fn next_steps(&self) -> Vec<(Algorithm, Due)> {
        let ring = self.ring();
        let next = |algorithm: &Algorithm| Some((*algorithm, self.schedule.next(*algorithm, &ring.lives(*algorithm))?));
        Algorithm::ALL.iter().filter_map(next).collect()
    }

    /// Reads all keys anew: those whose state is another one than before, each with its algorithm; none at the start.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn reload(&self, conn: &mut Conn) -> Result<Vec<(Algorithm, KeyState)>, StoreError> {
        let before = self.ring();
        let mut rows = signing_keys::list(conn).await?;
        let passed = |row: &SigningKeyRow| {
            let (algorithm, state): (Algorithm, KeyState) = (row.alg.parse().ok()?, row.state.parse().ok()?);
            let was = before.public(&row.kid).map(|entry| entry.state);
            // What ended before this node knew it is history.
            let is_new = was.map_or(state.verifies(), |was| was != state);
            (is_new && !before.entries().is_empty()).then_some((algorithm, state))
        };
        let passed = rows.iter().filter_map(passed).collect();
        rows.retain(|row| row.state.parse().is_ok_and(KeyState::verifies));
        // One row that cannot be read must not take the others with it; its tokens are dead and its algorithm rests.
        let read =
            |row| self.entry(row, &before).inspect_err(|cause| tracing::error!(%cause, "a key is left out")).ok();
        self.ring.store(Arc::new(KeyRing::new(rows.into_iter().filter_map(read).collect())));
        Ok(passed)
    }

    fn entry(&self, row: SigningKeyRow, before: &KeyRing) -> Result<KeyEntry, StoreError> {
        let unfit = |what: &dyn std::fmt::Display| StoreError::Unfit(format!("signing key {}: {what}", row.kid));
        let algorithm: Algorithm = row.alg.parse().map_err(|cause| unfit(&cause))?;
        let state: KeyState = row.state.parse().map_err(|cause| unfit(&cause))?;
        // A key pair is parsed once in the life of a process, and dropped when it signs no more.
        let known = before.public(&row.kid).and_then(|entry| entry.signer.clone());
        let signer = match known {
            _ if !state.signs() => None,
            Some(signer) => Some(signer),
            // What it signed elsewhere is good: its public half is all that this takes.
            None => (self.signer(&row, algorithm).map(Arc::new))
                .inspect_err(|cause| tracing::error!(kid = row.kid, %cause, "a signing key cannot sign here"))
                .ok(),
        };
        Ok(KeyEntry {
            public: PublicJwk::parse(row.public_jwk.as_bytes()).map_err(|cause| unfit(&cause))?,
            kid: row.kid,
            algorithm,
            alg_name: row.alg_name,
            state,
            created_at: row.created_at,
            times: row.times,
            signer,
        })
    }

    fn signer(&self, row: &SigningKeyRow, algorithm: Algorithm) -> Result<Signer, StoreError> {
        let unfit = |cause: &dyn std::fmt::Display| StoreError::Unfit(format!("its private half: {cause}"));
        let sealed = row.sealed.as_deref().ok_or_else(|| unfit(&"it is gone"))?;
        let pkcs8 = self.master.open(SIGNING_KEY, row.kid.as_bytes(), sealed).map_err(|cause| unfit(&cause))?;
        let pair = KeyPair::from_pkcs8(algorithm, &pkcs8).map_err(|cause| unfit(&cause))?;
        Signer::new(&row.kid, &row.alg_name, pair, self.queue.clone()).map_err(|cause| unfit(&cause))
    }

    /// Makes the keys of every configured algorithm at the first start: one that signs at once, because no verifier can
    /// have a copy of our JWKS yet, and a standby. At any other start the job makes the steps that are due; an algorithm
    /// that is new then signs when verifiers know its key. The algorithms whose first keys were made, and under which
    /// number the nodes learn of them.
    ///
    /// # Errors
    /// When a key cannot be made or stored.
    pub async fn ensure(&self, db: &Db) -> Result<Committed<Vec<Algorithm>>, StoreError> {
        if !db.read(|conn| Box::pin(signing_keys::list(conn))).await?.is_empty() {
            return Ok(Committed { value: Vec::new(), seq: None });
        }
        // In one order, so that nodes that start at once wait for each other and never in a circle.
        let mut algorithms = self.schedule.algorithms().to_vec();
        algorithms.sort_unstable();
        let both = algorithms.iter().flat_map(|algorithm| [self.make(*algorithm), self.make(*algorithm)]);
        let mut made = try_join_all(both).await?.into_iter();
        let turns: Vec<Turn> = algorithms.iter().map(|algorithm| self.turn(*algorithm, Actor::system())).collect();
        let begun = db.write(move |tx| {
            Box::pin(async move {
                let mut begun = Vec::new();
                for turn in turns {
                    let (Some(first), Some(standby)) = (made.next(), made.next()) else { break };
                    if turn.begin(tx, first, standby).await? {
                        begun.push(turn.algorithm);
                    }
                }
                Ok(begun)
            })
        });
        begun.await
    }

    /// Makes the step of `algorithm` that is due `now`, if there is one and no other node was first.
    ///
    /// # Errors
    /// When the database does not take it, or a key cannot be made. Another try makes it whole.
    pub async fn step(
        &self,
        db: &Db,
        now: Micros,
        algorithm: Algorithm,
    ) -> Result<Committed<Option<Step>>, StoreError> {
        // Before a key is made, which may take a second: another node may have been first.
        let rows = db.read(|conn| Box::pin(signing_keys::live(conn))).await?;
        let Some(due) = self.schedule.next(algorithm, &lives(&rows, algorithm)).filter(|due| due.at <= now) else {
            return Ok(Committed { value: None, seq: None });
        };
        let takes_a_key = matches!(due.step, Step::Publish | Step::Activate);
        let fresh = if takes_a_key { Some(self.make_aside(algorithm).await?) } else { None };
        let turn = self.turn(algorithm, Actor::system());
        db.write(move |tx| Box::pin(async move { turn.step(tx, fresh).await })).await
    }

    /// Moves `algorithm` to its standby at once, and publishes the next. `anyway`: also where verifiers may not know
    /// the standby yet, or there is none.
    ///
    /// # Errors
    /// When the database does not take it, or a key cannot be made.
    pub async fn rotate(&self, db: &Db, algorithm: Algorithm, anyway: bool, actor: Actor) -> ByHand {
        let (turn, fresh) = (self.turn(algorithm, actor), self.make(algorithm).await?);
        db.write(move |tx| Box::pin(async move { turn.rotate(tx, fresh, anyway).await })).await
    }

    /// Ends the retiring key `kid` of `algorithm` before its time.
    ///
    /// # Errors
    /// When the database does not take it.
    pub async fn retire(&self, db: &Db, algorithm: Algorithm, kid: &str, actor: Actor) -> ByHand {
        let (turn, kid) = (self.turn(algorithm, actor), kid.to_owned());
        db.write(move |tx| Box::pin(async move { turn.retire(tx, &kid).await })).await
    }

    /// Takes back the key `kid` of `algorithm` and with it all that it signed. Where it was the one that signs, the
    /// standby does from now on.
    ///
    /// # Errors
    /// When the database does not take it, or a key cannot be made.
    pub async fn revoke(&self, db: &Db, algorithm: Algorithm, kid: &str, actor: Actor) -> ByHand {
        let (turn, kid, fresh) = (self.turn(algorithm, actor), kid.to_owned(), self.make(algorithm).await?);
        db.write(move |tx| Box::pin(async move { turn.revoke(tx, &kid, fresh).await })).await
    }

    /// Publishes a key that was made elsewhere as the next one of its algorithm, in the place of the standby.
    ///
    /// # Errors
    /// When the database does not take it.
    pub async fn adopt(&self, db: &Db, imported: Imported, actor: Actor) -> ByHand {
        let Imported { pair, pkcs8, alg_name } = imported;
        let fresh = Fresh { row: self.row(&pair, alg_name), pkcs8, imported: true };
        let turn = self.turn(pair.algorithm(), actor);
        db.write(move |tx| Box::pin(async move { turn.adopt(tx, fresh).await })).await
    }

    fn turn(&self, algorithm: Algorithm, actor: Actor) -> Turn {
        Turn { schedule: self.schedule.clone(), master: self.master.clone(), algorithm, actor }
    }

    /// A new key, at once, off the async workers.
    async fn make(&self, algorithm: Algorithm) -> Result<Fresh, StoreError> {
        let bits = self.settings.rsa_bits;
        let made = tokio::task::spawn_blocking(move || KeyPair::generate(algorithm, bits)).await;
        self.fresh(algorithm, made.unwrap_or(Err(KeyError::Library)))
    }

    /// A new key for a step that nobody waits for. An RSA key takes some tenths of a second of a core: requests go first.
    async fn make_aside(&self, algorithm: Algorithm) -> Result<Fresh, StoreError> {
        let bits = self.settings.rsa_bits;
        let (answer, made) = oneshot::channel();
        let work = move || {
            // On Linux this is of the thread alone. Where it is not allowed, the key is made all the same.
            let _ = rustix::process::nice(ASIDE);
            let _ = answer.send(KeyPair::generate(algorithm, bits));
        };
        let begun = std::thread::Builder::new().name("new-key".to_owned()).spawn(work);
        let made = if begun.is_ok() { made.await.unwrap_or(Err(KeyError::Library)) } else { Err(KeyError::Library) };
        self.fresh(algorithm, made)
    }

    fn fresh(
        &self,
        algorithm: Algorithm,
        made: Result<(KeyPair, Zeroizing<Vec<u8>>), KeyError>,
    ) -> Result<Fresh, StoreError> {
        let (pair, pkcs8) =
            made.map_err(|cause| StoreError::Unfit(format!("a {algorithm} key cannot be made: {cause}")))?;
        Ok(Fresh { row: self.row(&pair, None), pkcs8, imported: false })
    }

    /// The row of a key, but for what whoever adds it says: its state and times, and its seal.
    fn row(&self, pair: &KeyPair, alg_name: Option<String>) -> SigningKeyRow {
        let (algorithm, public) = (pair.algorithm(), pair.public_jwk());
        let members: serde_json::Map<String, serde_json::Value> =
            public.members().map(|(name, value)| (name.to_owned(), value.into())).collect();
        let eddsa_name = self.settings.eddsa_name.as_str();
        let default = if algorithm == Algorithm::EdDsa { eddsa_name } else { algorithm.as_str() };
        SigningKeyRow {
            kid: public.thumbprint(),
            alg: algorithm.as_str().to_owned(),
            alg_name: alg_name.unwrap_or_else(|| default.to_owned()),
            state: KeyState::Published.to_string(),
            public_jwk: serde_json::Value::Object(members).to_string(),
            sealed: None,
            created_at: 0,
            times: Times::default(),
        }
    }
}
