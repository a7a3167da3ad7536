//! What moves keys from one state to the next: each change is one transaction, decided on the rows that it reads, made by
//! conditional updates, told to every node and recorded. Whoever is second changes nothing.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::master::{MasterKeys, SIGNING_KEY};
use super::schedule::{Due, KeyState, Life, Schedule, Step, ended};
use crate::audit::{self, Actor, Event};
use crate::clock::Micros;
use crate::store::signing_keys::{self, SigningKeyRow, Times};
use crate::store::{StoreError, Tx};
use crate::wire::Algorithm;

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
        let (now, keys) = (tx.now(), self.keys(tx).await?);
        let due = self.schedule.next(self.algorithm, &keys).filter(|due| due.at <= now);
        let made = match (due, fresh) {
            (Some(Due { step: Step::Publish, .. }), Some(fresh)) => {
                let active = in_state(&keys, KeyState::Active).map(|active| active.times);
                self.publish(tx, active.as_ref(), fresh).await?.then_some(Step::Publish)
            }
            (Some(Due { step: Step::Activate, .. }), Some(fresh)) => {
                self.switch(tx, &keys, fresh).await?.then_some(Step::Activate)
            }
            (Some(Due { step: Step::Retire, .. }), _) => {
                let over = |key: &&Life| key.state == KeyState::Retiring && key.times.remove_at <= now;
                let mut any = false;
                for key in keys.iter().filter(over) {
                    any |= self.pass(tx, key, KeyState::Retired, key.times).await?;
                }
                any.then_some(Step::Retire)
            }
            // Not due any more, or another step came between.
            _ => None,
        };
        Ok(made)
    }

    /// Moves to the standby at once, and publishes `fresh` as the next. `anyway`: also to one that verifiers may not
    /// know yet, or to `fresh` itself where there is no standby.
    pub(super) async fn rotate(
        &self,
        tx: &mut Tx,
        fresh: Fresh,
        anyway: bool,
    ) -> Result<Result<Turned, Refusal>, StoreError> {
        let keys = self.keys(tx).await?;
        if !anyway {
            match in_state(&keys, KeyState::Published).map(|standby| self.schedule.known_from(&standby.times)) {
                None => return Ok(Err(Refusal::NoStandby)),
                Some(known) if tx.now() < known => return Ok(Err(Refusal::Unknown(known))),
                Some(_) => {}
            }
        }
        if !self.switch(tx, &keys, fresh).await? {
            return Err(overtaken());
        }
        self.turned(tx).await.map(Ok)
    }

    /// Ends a retiring key before its time: it leaves the JWKS, and nothing that it signed is good any more.
    pub(super) async fn retire(&self, tx: &mut Tx, kid: &str) -> Result<Result<Turned, Refusal>, StoreError> {
        let (now, keys) = (tx.now(), self.keys(tx).await?);
        let Some(key) = keys.iter().find(|key| key.kid == kid && key.state == KeyState::Retiring) else {
            return self.refusal(tx, kid).await.map(Err);
        };
        if !self.pass(tx, key, KeyState::Retired, ended(now, key.times)).await? {
            return Err(overtaken());
        }
        self.turned(tx).await.map(Ok)
    }

    /// Takes a key out of the JWKS whose private half somebody else may have. Where it was the active one the standby
    /// takes over, known or not, and `fresh` is published; without a standby `fresh` signs at once.
    pub(super) async fn revoke(
        &self,
        tx: &mut Tx,
        kid: &str,
        fresh: Fresh,
    ) -> Result<Result<Turned, Refusal>, StoreError> {
        let (now, mut keys) = (tx.now(), self.keys(tx).await?);
        let Some(at) = keys.iter().position(|key| key.kid == kid) else {
            return self.refusal(tx, kid).await.map(Err);
        };
        let leaked = keys.remove(at);
        if !self.pass(tx, &leaked, KeyState::Revoked, ended(now, leaked.times)).await? {
            return Err(overtaken());
        }
        match leaked.state {
            KeyState::Active => drop(self.switch(tx, &keys, fresh).await?),
            KeyState::Published => {
                let active = in_state(&keys, KeyState::Active).map(|active| active.times);
                self.publish(tx, active.as_ref(), fresh).await?;
            }
            _ => {}
        }
        self.turned(tx).await.map(Ok)
    }

    /// Publishes `fresh`, a key that was made elsewhere, as the one that signs next. The one that would have never signed,
    /// and leaves the JWKS.
    pub(super) async fn adopt(&self, tx: &mut Tx, fresh: Fresh) -> Result<Result<Turned, Refusal>, StoreError> {
        let known = signing_keys::list(tx).await?.into_iter().find(|key| key.kid == fresh.row.kid);
        if let Some(known) = known {
            return Ok(Err(Refusal::Known(known.alg_name, known.state)));
        }
        let (now, keys) = (tx.now(), self.keys(tx).await?);
        if let Some(standby) = in_state(&keys, KeyState::Published)
            && !self.pass(tx, standby, KeyState::Retired, ended(now, standby.times)).await?
        {
            return Err(overtaken());
        }
        let active = in_state(&keys, KeyState::Active).map(|active| active.times);
        if !self.publish(tx, active.as_ref(), fresh).await? {
            return Err(overtaken());
        }
        self.turned(tx).await.map(Ok)
    }

    /// The first key of an algorithm where no verifier has ever seen one of ours, and its standby. Of several nodes
    /// that start at once, one makes them. Whether this one did.
    pub(super) async fn begin(&self, tx: &mut Tx, first: Fresh, fresh: Fresh) -> Result<bool, StoreError> {
        let times = self.schedule.active(self.algorithm, tx.now(), tx.now());
        let begun = self.add(tx, first, KeyState::Active, times).await?;
        if begun {
            self.publish(tx, Some(&times), fresh).await?;
        }
        Ok(begun)
    }

    /// The active key retires and the standby takes over; without one, `fresh` does. Otherwise `fresh` is the next
    /// standby. `false`: somebody was first, and nothing has changed.
    async fn switch(&self, tx: &mut Tx, keys: &[Life], fresh: Fresh) -> Result<bool, StoreError> {
        let now = tx.now();
        if let Some(active) = in_state(keys, KeyState::Active)
            && !self.pass(tx, active, KeyState::Retiring, self.schedule.retiring(now, active.times)).await?
        {
            return Ok(false);
        }
        match in_state(keys, KeyState::Published) {
            Some(standby) => {
                let times = self.schedule.active(self.algorithm, now, standby.times.published_at);
                if !self.pass(tx, standby, KeyState::Active, times).await? {
                    return Err(overtaken());
                }
                self.publish(tx, Some(&times), fresh).await?;
                Ok(true)
            }
            None => self.add(tx, fresh, KeyState::Active, self.schedule.active(self.algorithm, now, now)).await,
        }
    }

    async fn publish(&self, tx: &mut Tx, active: Option<&Times>, fresh: Fresh) -> Result<bool, StoreError> {
        let times = self.schedule.standby(self.algorithm, tx.now(), active);
        self.add(tx, fresh, KeyState::Published, times).await
    }

    async fn add(&self, tx: &mut Tx, fresh: Fresh, state: KeyState, times: Times) -> Result<bool, StoreError> {
        let sealed = self.master.seal(tx, SIGNING_KEY, fresh.row.kid.as_bytes(), &fresh.pkcs8).await?;
        let row = SigningKeyRow { state: state.to_string(), times, sealed, ..fresh.row };
        let added = signing_keys::add(tx, &row).await?;
        if added {
            let alg = self.algorithm;
            let made = if fresh.imported {
                Event::SigningKeyImported { alg }
            } else {
                Event::SigningKeyMade { alg, state: state.as_str() }
            };
            audit::record(tx, &self.actor, &row.kid, &made).await?;
        }
        Ok(added)
    }

    /// The one way from one state to another.
    async fn pass(&self, tx: &mut Tx, key: &Life, to: KeyState, times: Times) -> Result<bool, StoreError> {
        let passed = signing_keys::pass(tx, &key.kid, (key.state.as_str(), to.as_str()), times).await?;
        if passed {
            audit::record(tx, &self.actor, &key.kid, &self.event(to, times)).await?;
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

    async fn turned(&self, tx: &mut Tx) -> Result<Turned, StoreError> {
        let keys = self.keys(tx).await?;
        let kid = |state| in_state(&keys, state).map(|key| key.kid.clone());
        Ok(Turned { active: kid(KeyState::Active), standby: kid(KeyState::Published) })
    }
}

/// Where in their lives the keys of `algorithm` are. A state that only a later release knows is left to it.
pub fn lives(rows: &[SigningKeyRow], algorithm: Algorithm) -> Vec<Life> {
    let own = rows.iter().filter(|row| row.alg == algorithm.as_str());
    own.filter_map(|row| Some(Life { kid: row.kid.clone(), state: row.state.parse().ok()?, times: row.times }))
        .collect()
}

fn in_state(keys: &[Life], state: KeyState) -> Option<&Life> {
    keys.iter().find(|key| key.state == state)
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
