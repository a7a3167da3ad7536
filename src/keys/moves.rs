//! What a change makes of the keys of one algorithm: pure, so that the model of the tests makes the very moves that the
//! database is told.

use super::rotate::Refusal;
use super::schedule::{KeyState, Life, Schedule, Step, ended};
use crate::clock::Micros;
use crate::store::signing_keys::Times;
use crate::wire::Algorithm;

/// One row's part of a change. They are made in their order and in one transaction, all of them or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    /// A key goes on, if it still is in the state that it was read in.
    Pass {
        /// As it was read.
        key: Life,
        /// Its next state.
        to: KeyState,
        /// Its times from then on.
        times: Times,
    },
    /// A new key is there, if none is in its state. A change has at most one of these.
    Add {
        /// Published, or active where verifiers cannot be waited for.
        state: KeyState,
        /// Its times.
        times: Times,
    },
}

/// The keys of an algorithm as a transaction has read them. `keys` may hold those of any state.
#[derive(Clone, Copy)]
pub struct Plan<'k> {
    /// When keys go on.
    pub schedule: &'k Schedule,
    /// Whose keys they are.
    pub algorithm: Algorithm,
    /// The transaction's time.
    pub now: Micros,
    /// The keys.
    pub keys: &'k [Life],
}

impl Plan<'_> {
    /// The step that is due, if one is.
    pub fn step(&self) -> Option<(Step, Vec<Move>)> {
        let due = self.schedule.next(self.algorithm, self.keys).filter(|due| due.at <= self.now)?;
        let over = |key: &&Life| key.state == KeyState::Retiring && key.times.remove_at <= self.now;
        let moves = match due.step {
            Step::Publish => vec![self.publish()],
            Step::Activate => self.switch(),
            Step::Retire => self.keys.iter().filter(over).map(|key| pass(key, KeyState::Retired, key.times)).collect(),
        };
        Some((due.step, moves))
    }

    /// The standby takes over at once. `anyway`: also one that verifiers may not know yet, or a new key where there is
    /// no standby.
    ///
    /// # Errors
    /// Without `anyway`, [`Refusal::NoStandby`] and [`Refusal::Unknown`].
    pub fn rotate(&self, anyway: bool) -> Result<Vec<Move>, Refusal> {
        if !anyway {
            let standby = self.in_state(KeyState::Published).ok_or(Refusal::NoStandby)?;
            let known = self.schedule.known_from(&standby.times);
            if self.now < known {
                return Err(Refusal::Unknown(known));
            }
        }
        Ok(self.switch())
    }

    /// A retiring key ends before its time: it leaves the JWKS, and nothing that it signed is good any more. `None`:
    /// `kid` is not retiring.
    pub fn retire(&self, kid: &str) -> Option<Vec<Move>> {
        let key = self.keys.iter().find(|key| key.kid == kid && key.state == KeyState::Retiring)?;
        Some(vec![pass(key, KeyState::Retired, ended(self.now, key.times))])
    }

    /// A key whose private half somebody else may have leaves the JWKS. Where it was the active one the standby takes
    /// over, known or not; without a standby, a new key. `None`: the JWKS does not have `kid`.
    pub fn revoke(&self, kid: &str) -> Option<Vec<Move>> {
        let leaked = self.keys.iter().find(|key| key.kid == kid && key.state.verifies())?;
        let others: Vec<Life> = self.keys.iter().filter(|key| key.kid != kid).cloned().collect();
        let (others, mut moves) =
            (Plan { keys: &others, ..*self }, vec![pass(leaked, KeyState::Revoked, ended(self.now, leaked.times))]);
        match leaked.state {
            KeyState::Active => moves.extend(others.switch()),
            KeyState::Published => moves.push(others.publish()),
            _ => {}
        }
        Some(moves)
    }

    /// A key that was made elsewhere takes the place of the standby, which would have never signed.
    pub fn adopt(&self) -> Vec<Move> {
        let standby = self.in_state(KeyState::Published);
        let left = standby.map(|standby| pass(standby, KeyState::Retired, ended(self.now, standby.times)));
        left.into_iter().chain([self.publish()]).collect()
    }

    /// The active key begins to retire and the standby takes over, with a new one behind it; without a standby, a new
    /// key takes over.
    fn switch(&self) -> Vec<Move> {
        let active = self.in_state(KeyState::Active);
        let retiring = active.map(|active| {
            pass(active, KeyState::Retiring, self.schedule.retiring(self.algorithm, self.now, active.times))
        });
        let mut moves: Vec<Move> = retiring.into_iter().collect();
        let standby = self.in_state(KeyState::Published);
        let published_at = standby.map_or(self.now, |standby| standby.times.published_at);
        let times = self.schedule.active(self.algorithm, self.now, published_at);
        if let Some(standby) = standby {
            let next = self.schedule.standby(self.algorithm, self.now, Some(&times));
            let next = Move::Add { state: KeyState::Published, times: next };
            moves.extend([pass(standby, KeyState::Active, times), next]);
        } else {
            moves.push(Move::Add { state: KeyState::Active, times });
        }
        moves
    }

    fn publish(&self) -> Move {
        let active = self.in_state(KeyState::Active).map(|active| &active.times);
        Move::Add { state: KeyState::Published, times: self.schedule.standby(self.algorithm, self.now, active) }
    }

    fn in_state(&self, state: KeyState) -> Option<&Life> {
        self.keys.iter().find(|key| key.state == state)
    }
}

fn pass(key: &Life, to: KeyState, times: Times) -> Move {
    Move::Pass { key: key.clone(), to, times }
}
