//! What moves keys from one state to the next: each change is one transaction, decided on the rows that it reads, made by
//! conditional updates, told to every node and recorded. Whoever is second changes nothing.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::master::{MasterKeys, SIGNING_KEY};
use super::moves::{Move, Plan};
use super::schedule::{KeyState, Life, Schedule, Step};
use crate::audit::{self, Actor, Event};
use crate::clock::Micros;
use crate::store::signing_keys::{self, SigningKeyRow, Times};
use crate::store::{StoreError, Tx};
use crate::wire::Algorithm;

/// What a change by hand came to, inside its transaction.
type Told = Result<Result<Turned, Refusal>, StoreError>;

/// One change of the keys of one algorithm.
pub struct Turn {
    pub(super) schedule: Schedule,
    pub(super) master: Arc<MasterKeys>,
    pub(super) algorithm: Algorithm,
    pub(super) actor: Actor,
}

/// A key that is not in the database yet.
pub struct Fresh {
    /// Its row, without state, times and seal.
    pub(super) row: SigningKeyRow,
    /// Its PKCS#8 document, which is sealed when the row is written.
    pub(super) pkcs8: Zeroizing<Vec<u8>>,
    /// Whether it was made elsewhere.
    pub(super) imported: bool,
}

/// The keys of an algorithm after a change by hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turned {
    /// The one that signs now.
    pub active: Option<String>,
    /// The one that will.
    pub standby: Option<String>,
}

/// Why a change by hand is not made; nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no published key to move to.
    NoStandby,
    /// Verifiers may not know the standby before that time.
    Unknown(Micros),
    /// The key is not in the state for it, but in this one; `None`: there is no such key.
    State(Option<KeyState>),
    /// The key is here already, for the algorithm of this name and in this state.
    Known(String, String),
}

impl Turn {
    /// Makes the step that is due now, if one is. `fresh` is a key made for it, which publishing and activating need.
    pub(super) async fn step(&self, tx: &mut Tx, fresh: Option<Fresh>) -> Result<Option<Step>, StoreError> {
        let keys = self.keys(tx).await?;
        let Some((step, moves)) = self.plan(tx, &keys).step() else { return Ok(None) };
        Ok(self.make(tx, moves, fresh).await?.then_some(step))
    }

    /// Moves to the standby at once, and publishes `fresh` as the next. `anyway`: also to one that verifiers may not
    /// know yet, or to `fresh` itself where there is no standby.
    pub(super) async fn rotate(&self, tx: &mut Tx, fresh: Fresh, anyway: bool) -> Told {
        let keys = self.keys(tx).await?;
        match self.plan(tx, &keys).rotate(anyway) {
            Ok(moves) => self.by_hand(tx, moves, Some(fresh)).await,
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    /// Ends a retiring key before its time: it leaves the JWKS, and nothing that it signed is good any more.
    pub(super) async fn retire(&self, tx: &mut Tx, kid: &str) -> Told {
        let keys = self.keys(tx).await?;
        match self.plan(tx, &keys).retire(kid) {
            Some(moves) => self.by_hand(tx, moves, None).await,
            None => self.refusal(tx, kid).await.map(Err),
        }
    }

    /// Takes a key out of the JWKS whose private half somebody else may have. Where it was the active one the standby
    /// takes over, known or not, and `fresh` is published; without a standby `fresh` signs at once.
    pub(super) async fn revoke(&self, tx: &mut Tx, kid: &str, fresh: Fresh) -> Told {
        let keys = self.keys(tx).await?;
        match self.plan(tx, &keys).revoke(kid) {
            Some(moves) => self.by_hand(tx, moves, Some(fresh)).await,
            None => self.refusal(tx, kid).await.map(Err),
        }
    }

    /// Publishes `fresh`, a key that was made elsewhere, as the one that signs next. The one that would have never signed,
    /// and leaves the JWKS.
    pub(super) async fn adopt(&self, tx: &mut Tx, fresh: Fresh) -> Told {
        let known = signing_keys::list(tx).await?.into_iter().find(|key| key.kid == fresh.row.kid);
        if let Some(known) = known {
            return Ok(Err(Refusal::Known(known.alg_name, known.state)));
        }
        let keys = self.keys(tx).await?;
        let moves = self.plan(tx, &keys).adopt();
        self.by_hand(tx, moves, Some(fresh)).await
    }

    /// The first key of an algorithm where no verifier has ever seen one of ours, and its standby. Of several nodes
    /// that start at once, one makes them. Whether this one did.
    pub(super) async fn begin(&self, tx: &mut Tx, first: Fresh, fresh: Fresh) -> Result<bool, StoreError> {
        let times = self.schedule.active(self.algorithm, tx.now(), tx.now());
        let begun = self.add(tx, first, KeyState::Active, times).await?;
        if begun {
            let times = self.schedule.standby(self.algorithm, tx.now(), Some(&times));
            self.add(tx, fresh, KeyState::Published, times).await?;
        }
        Ok(begun)
    }

    fn plan<'k>(&'k self, tx: &Tx, keys: &'k [Life]) -> Plan<'k> {
        Plan { schedule: &self.schedule, algorithm: self.algorithm, now: tx.now(), keys }
    }

    /// Makes `moves`, with `fresh` as the key that is new. `false`: somebody was first, and nothing has changed.
    async fn make(&self, tx: &mut Tx, moves: Vec<Move>, mut fresh: Option<Fresh>) -> Result<bool, StoreError> {
        if fresh.is_none() && moves.iter().any(|change| matches!(change, Move::Add { .. })) {
            return Ok(false);
        }
        for (at, change) in moves.into_iter().enumerate() {
            let made = match change {
                Move::Pass { key, to, times } => self.pass(tx, &key, to, times).await?,
                Move::Add { state, times } => match fresh.take() {
                    Some(fresh) => self.add(tx, fresh, state, times).await?,
                    None => false,
                },
            };
            match (made, at) {
                (true, _) => {}
                (false, 0) => return Ok(false),
                (false, _) => return Err(overtaken()),
            }
        }
        Ok(true)
    }

    async fn by_hand(&self, tx: &mut Tx, moves: Vec<Move>, fresh: Option<Fresh>) -> Told {
        if !self.make(tx, moves, fresh).await? {
            return Err(overtaken());
        }
        let keys = self.keys(tx).await?;
        let kid = |state| keys.iter().find(|key| key.state == state).map(|key| key.kid.clone());
        Ok(Ok(Turned { active: kid(KeyState::Active), standby: kid(KeyState::Published) }))
    }

    async fn add(&self, tx: &mut Tx, fresh: Fresh, state: KeyState, times: Times) -> Result<bool, StoreError> {
        let sealed = self.master.seal(tx, SIGNING_KEY, fresh.row.kid.as_bytes(), &fresh.pkcs8).await?;
        let row = SigningKeyRow { state: state.to_string(), times, sealed: Some(sealed), ..fresh.row };
        let added = signing_keys::add(tx, &row).await?;
        if added {
            let alg = self.algorithm;
            let made = if fresh.imported {
                Event::SigningKeyImported { alg }
            } else {
                Event::SigningKeyMade { alg, state: state.as_str() }
            };
            audit::record(tx, &self.actor, &row.kid, &made)?;
        }
        Ok(added)
    }

    /// The one way from one state to another.
    async fn pass(&self, tx: &mut Tx, key: &Life, to: KeyState, times: Times) -> Result<bool, StoreError> {
        let passed = signing_keys::pass(tx, &key.kid, (key.state.as_str(), to.as_str()), times).await?;
        if passed {
            audit::record(tx, &self.actor, &key.kid, &self.event(to, times))?;
        }
        Ok(passed)
    }

    fn event(&self, to: KeyState, times: Times) -> Event {
        let alg = self.algorithm;
        match to {
            KeyState::Published => Event::SigningKeyMade { alg, state: to.as_str() },
            KeyState::Active => Event::SigningKeyActivated { alg },
            KeyState::Retiring => Event::SigningKeyRetiring { alg, until: times.remove_at },
            KeyState::Retired => Event::SigningKeyRetired { alg },
            KeyState::Revoked => Event::SigningKeyRevoked { alg },
        }
    }

    /// Its keys that the JWKS shows.
    async fn keys(&self, tx: &mut Tx) -> Result<Vec<Life>, StoreError> {
        Ok(lives(&signing_keys::live(tx).await?, self.algorithm))
    }

    /// Why nothing can be done to a key that is not in the state for it.
    async fn refusal(&self, tx: &mut Tx, kid: &str) -> Result<Refusal, StoreError> {
        let keys = lives(&signing_keys::list(tx).await?, self.algorithm);
        Ok(Refusal::State(keys.iter().find(|key| key.kid == kid).map(|key| key.state)))
    }
}

/// Where in their lives the keys of `algorithm` are. A state that only a later release knows is left to it.
pub fn lives(rows: &[SigningKeyRow], algorithm: Algorithm) -> Vec<Life> {
    let own = rows.iter().filter(|row| row.alg == algorithm.as_str());
    own.filter_map(|row| Some(Life { kid: row.kid.clone(), state: row.state.parse().ok()?, times: row.times }))
        .collect()
}

/// Everything of this transaction is undone; whoever was first has committed something else.
fn overtaken() -> StoreError {
    StoreError::Unavailable("somebody else is changing the signing keys at this moment; try again".into())
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoStandby => f.write_str("there is no published key to move to"),
            Self::Unknown(_) => f.write_str("verifiers may not know the next key yet"),
            Self::State(Some(state)) => write!(f, "the key is {state}"),
            Self::Known(alg, state) => {
                write!(f, "the key is here already, for {alg}, and is {state}; one key serves one algorithm, once")
            }
            Self::State(None) => f.write_str("there is no such key"),
        }
    }
}
