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
            Step::Publish => self.publish(),
            Step::Activate | Step::End => self.switch(),
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
    /// over, known or not; without a standby, a new key, if its algorithm has any. `None`: the JWKS does not have `kid`.
    pub fn revoke(&self, kid: &str) -> Option<Vec<Move>> {
        let leaked = self.keys.iter().find(|key| key.kid == kid && key.state.verifies())?;
        let others: Vec<Life> = self.keys.iter().filter(|key| key.kid != kid).cloned().collect();
        let (others, mut moves) =
            (Plan { keys: &others, ..*self }, vec![pass(leaked, KeyState::Revoked, ended(self.now, leaked.times))]);
        match leaked.state {
            KeyState::Active => moves.extend(others.switch()),
            KeyState::Published => moves.extend(others.publish()),
            _ => {}
        }
        Some(moves)
    }

    /// A key that was made elsewhere takes the place of the standby, which would have never signed.
    pub fn adopt(&self) -> Vec<Move> {
        let standby = self.in_state(KeyState::Published);
        let left = standby.map(|standby| pass(standby, KeyState::Retired, ended(self.now, standby.times)));
        left.into_iter().chain(self.publish()).collect()
    }

    /// The active key begins to retire and the standby takes over, with a new one behind it; without a standby, a new
    /// key takes over. Of an algorithm that is not configured there are no new ones.
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
            moves.push(pass(standby, KeyState::Active, times));
            moves.extend(self.add(KeyState::Published, self.schedule.standby(self.algorithm, self.now, Some(&times))));
        } else {
            moves.extend(self.add(KeyState::Active, times));
        }
        moves
    }

    fn publish(&self) -> Vec<Move> {
        let active = self.in_state(KeyState::Active).map(|active| &active.times);
        self.add(KeyState::Published, self.schedule.standby(self.algorithm, self.now, active)).into_iter().collect()
    }

    fn add(&self, state: KeyState, times: Times) -> Option<Move> {
        self.schedule.has(self.algorithm).then_some(Move::Add { state, times })
    }

    fn in_state(&self, state: KeyState) -> Option<&Life> {
        self.keys.iter().find(|key| key.state == state)
    }
}

fn pass(key: &Life, to: KeyState, times: Times) -> Move {
    Move::Pass { key: key.clone(), to, times }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SECOND;
    use crate::keys::model::schedule;

    /// Its keys live to their ends, and a leak is one.
    #[test]
    fn an_algorithm_that_is_not_configured_gets_no_key() {
        let (schedule, then) = (schedule(), 1_000_000 * SECOND);
        let (configured, other) = (Algorithm::EdDsa, Algorithm::Es256);
        let first = schedule.active(configured, then, then);
        let key = |kid: &str, state, times| Life { kid: kid.to_owned(), state, times };
        let active = key("a", KeyState::Active, first);
        let standby = key("b", KeyState::Published, schedule.standby(configured, then, Some(&first)));
        let last = [active.clone()];
        let both = [active, standby];
        let plan = |algorithm, keys| Plan { schedule: &schedule, algorithm, now: first.retire_at, keys };
        let adds = |moves: &[Move]| moves.iter().filter(|made| matches!(made, Move::Add { .. })).count();
        let passes = |moves: &[Move]| -> Vec<KeyState> {
            let to = |made: &Move| if let Move::Pass { to, .. } = made { Some(*to) } else { None };
            moves.iter().filter_map(to).collect()
        };

        let (step, moves) = plan(other, &both).step().unwrap();
        assert_eq!((step, passes(&moves)), (Step::Activate, vec![KeyState::Retiring, KeyState::Active]));
        assert_eq!((adds(&moves), adds(&plan(configured, &both).step().unwrap().1)), (0, 1));
        let (step, moves) = plan(other, &last).step().unwrap();
        assert_eq!((step, passes(&moves), adds(&moves)), (Step::End, vec![KeyState::Retiring], 0));
        assert_eq!(plan(configured, &last).step().unwrap().0, Step::Publish);
        assert_eq!(Plan { now: first.retire_at - 1, ..plan(other, &last) }.step(), None);

        for (keys, kid, expected) in [
            (&last[..], "a", vec![KeyState::Revoked]),
            (&both[..], "a", vec![KeyState::Revoked, KeyState::Active]),
            (&both[..], "b", vec![KeyState::Revoked]),
        ] {
            let moves = plan(other, keys).revoke(kid).unwrap();
            assert_eq!((passes(&moves), adds(&moves)), (expected.clone(), 0));
            let moves = plan(configured, keys).revoke(kid).unwrap();
            assert_eq!((passes(&moves), adds(&moves)), (expected, 1));
        }
    }
}
