//! The life of a signing key by schedule: every rule of when it goes on stands here, and nothing else does. The job, the
//! commands and the model of the tests all ask [`Schedule::next`].
//!
//! published → active → retiring → retired. Each configured algorithm has an active key and a published one, its standby.
//! When the active key's time is over the standby takes over, and the next standby is published in the same
//! transaction. The old key stays published until the last of its tokens has expired. An algorithm that was taken out of
//! the configuration gets no new key, and the ones that it has live to their ends.
//!
//! Why no verifier that goes by the JWKS's `max-age` meets a key that it does not know (reliability.md I5): a key signs
//! only when it has been published for `lead`, which is the cache time, and longer than a commit and a lease may take.
//! Before that much time every node with a lease has shown it, and every copy of the JWKS without it has expired; a node
//! without a lease gives out copies that expire at once (and is not ready, so that balancers pass it by). And no good token loses its key: a node that has not heard
//! that its key retires signs on with it for less than a lease, and `retiring` is longer than that and than any token
//! lives.

use crate::clock::{Micros, SECOND};
use crate::config::{ByAlgorithm, Config};
use crate::store::signing_keys::Times;
use crate::wire::{Algorithm, vocabulary};

vocabulary! {
    /// A signing key's life, in order.
    pub enum KeyState {
        /// In the published set, so that resources know it before it signs.
        Published = "published",
        /// Signs.
        Active = "active",
        /// Signs no more; what it signed is still good.
        Retiring = "retiring",
        /// Everything it signed has expired.
        Retired = "retired",
        /// Withdrawn: nothing it signed is good.
        Revoked = "revoked",
    }
}

impl KeyState {
    /// Whether keys in this state are published and believed. Includes [`KeyState::Published`]: another node may
    /// have heard earlier that the key is active.
    pub fn verifies(self) -> bool {
        matches!(self, Self::Published | Self::Active | Self::Retiring)
    }

    /// Whether keys in this state sign, or will.
    pub fn signs(self) -> bool {
        matches!(self, Self::Published | Self::Active)
    }

    /// What brings a key into this state: a word of [`Step`], or `revoke`.
    pub fn reached_by(self) -> &'static str {
        match self {
            Self::Published => Step::Publish.as_str(),
            Self::Active => Step::Activate.as_str(),
            Self::Retiring => Step::End.as_str(),
            Self::Retired => Step::Retire.as_str(),
            Self::Revoked => "revoke",
        }
    }
}

vocabulary! {
    /// What happens by schedule.
    pub enum Step {
        /// A standby is published where there is none.
        Publish = "publish",
        /// The standby takes over, the active key begins to retire, and the next standby is published.
        Activate = "activate",
        /// The active key begins to retire, with none after it: its algorithm was taken out of the configuration.
        End = "end",
        /// A key whose tokens have expired leaves the JWKS.
        Retire = "retire",
    }
}

/// Where in its life a key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// Which key.
    pub kid: String,
    /// Its state.
    pub state: KeyState,
    /// What is planned for it, and what was.
    pub times: Times,
}

/// The next step of an algorithm's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// What it is.
    pub step: Step,
    /// When it may be made, and is to be.
    pub at: Micros,
}

/// How long a key is in which state.
#[derive(Clone, Debug)]
pub struct Schedule {
    algorithms: Vec<Algorithm>,
    lead: Micros,
    published: ByAlgorithm,
    active: ByAlgorithm,
    retiring: ByAlgorithm,
}

impl Schedule {
    /// As configured.
    pub fn new(config: &Config) -> Self {
        Self {
            algorithms: config.keys.algorithms.clone(),
            lead: seconds(config.keys_lead_seconds()),
            published: config.keys.published_seconds.clone(),
            active: config.keys.active_seconds.clone(),
            retiring: config.keys.retiring_seconds.clone(),
        }
    }

    /// The algorithms that have keys.
    pub fn algorithms(&self) -> &[Algorithm] {
        &self.algorithms
    }

    /// Whether keys of `algorithm` are made.
    pub fn has(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    /// The next step for the keys of `algorithm`, if there is ever one. `keys` may hold those of any state.
    pub fn next(&self, algorithm: Algorithm, keys: &[Life]) -> Option<Due> {
        let active = keys.iter().find(|key| key.state == KeyState::Active);
        let standby = match keys.iter().find(|key| key.state == KeyState::Published) {
            Some(standby) => {
                let known = self.known_from(&standby.times);
                // While nobody signs, only the verifiers are waited for.
                let at = if active.is_some() { known.max(standby.times.activate_at) } else { known };
                Some(Due { step: Step::Activate, at })
            }
            None if self.has(algorithm) => Some(Due { step: Step::Publish, at: 0 }),
            None => active.map(|active| Due { step: Step::End, at: active.times.retire_at }),
        };
        let retiring = keys.iter().filter(|key| key.state == KeyState::Retiring);
        let retire = retiring.map(|key| Due { step: Step::Retire, at: key.times.remove_at });
        standby.into_iter().chain(retire).min_by_key(|due| due.at)
    }

    /// From when on every verifier that goes by our `max-age` knows a key with these times.
    pub fn known_from(&self, times: &Times) -> Micros {
        times.published_at + self.lead
    }

    /// Of a key that is published now, to follow the `active` one.
    pub fn standby(&self, algorithm: Algorithm, now: Micros, active: Option<&Times>) -> Times {
        let published = now + seconds(self.published.of(algorithm));
        let activate_at = active.map_or(published, |active| published.max(active.retire_at));
        self.signing_from(algorithm, activate_at, now)
    }

    /// Of a key that begins to sign now, and was published at `published_at`.
    pub fn active(&self, algorithm: Algorithm, now: Micros, published_at: Micros) -> Times {
        self.signing_from(algorithm, now, published_at)
    }

    /// Of a key that signs no more from now on.
    pub fn retiring(&self, algorithm: Algorithm, now: Micros, was: Times) -> Times {
        Times { retire_at: now, remove_at: now + seconds(self.retiring.of(algorithm)), ..was }
    }

    fn signing_from(&self, algorithm: Algorithm, activate_at: Micros, published_at: Micros) -> Times {
        let retire_at = activate_at + seconds(self.active.of(algorithm));
        Times { published_at, activate_at, retire_at, remove_at: retire_at + seconds(self.retiring.of(algorithm)) }
    }
}

/// The rest of a key's life that its last tokens had, when it leaves the JWKS now.
pub fn ended(now: Micros, was: Times) -> Times {
    Times { retire_at: was.retire_at.min(now), remove_at: now, ..was }
}

fn seconds(seconds: u32) -> Micros {
    Micros::from(seconds) * SECOND
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::model::schedule;

    const ALG: Algorithm = Algorithm::EdDsa;

    #[test]
    fn each_step_is_due_by_the_times_of_the_rows_and_no_earlier() {
        let schedule = schedule();
        let (now, key) = (1_000_000 * SECOND, |kid: &str, state, times| Life { kid: kid.to_owned(), state, times });
        let first = schedule.active(ALG, now, now);
        let standby = schedule.standby(ALG, now, Some(&first));
        assert_eq!((first.retire_at, standby.activate_at), (now + 1_000 * SECOND, now + 1_000 * SECOND));
        let next = |keys: &[Life]| schedule.next(ALG, keys).map(|due| (due.step, due.at));
        let active = key("a", KeyState::Active, first);
        // There is always a standby, and of other algorithms none.
        assert_eq!(next(&[]), Some((Step::Publish, 0)));
        assert_eq!(next(std::slice::from_ref(&active)), Some((Step::Publish, 0)));
        assert_eq!(schedule.next(Algorithm::Rs256, &[]), None);
        let pair = [active.clone(), key("b", KeyState::Published, standby)];
        assert_eq!(next(&pair), Some((Step::Activate, first.retire_at)));
        // One that was late, published a moment before, is waited for; and where nobody signs, no longer than that.
        let late = schedule.standby(ALG, first.retire_at - SECOND, Some(&first));
        assert_eq!(late.activate_at, first.retire_at + 399 * SECOND);
        let hurried = Times { activate_at: now, ..late };
        let known = first.retire_at + 309 * SECOND;
        assert_eq!(schedule.known_from(&late), known);
        assert_eq!(next(&[active.clone(), key("b", KeyState::Published, hurried)]), Some((Step::Activate, known)));
        assert_eq!(next(&[key("b", KeyState::Published, late)]), Some((Step::Activate, known)));
        // What retires first is first; who has retired or was revoked is not looked at.
        let old = schedule.retiring(ALG, now, first);
        assert_eq!(old.remove_at, now + 615 * SECOND);
        let mut three = pair.to_vec();
        three.extend([
            key("c", KeyState::Retiring, old),
            key("d", KeyState::Retired, first),
            key("e", KeyState::Revoked, first),
        ]);
        assert_eq!(next(&three), Some((Step::Retire, old.remove_at)));
    }

    #[test]
    fn each_algorithm_has_its_own_times() {
        let settings =
            [("PUBLISHED", "1000, RS256=2000"), ("ACTIVE", "3000, RS256=4000"), ("RETIRING", "5000, RS256=6000")];
        let settings = settings.map(|(name, value)| (format!("SEALWRIGHT_KEYS__{name}_SECONDS"), value.to_owned()));
        let schedule = Schedule::new(&Config::load(None, settings).unwrap());
        for (algorithm, published, active, retiring) in
            [(Algorithm::EdDsa, 1_000, 3_000, 5_000), (Algorithm::Rs256, 2_000, 4_000, 6_000)]
        {
            let [published, active, retiring] = [published, active, retiring].map(|time| time * SECOND);
            let standby = schedule.standby(algorithm, 7, None);
            let (activate_at, retire_at) = (7 + published, 7 + published + active);
            let remove_at = retire_at + retiring;
            assert_eq!(standby, Times { published_at: 7, activate_at, retire_at, remove_at }, "{algorithm}");
            let ended = schedule.retiring(algorithm, 9, standby);
            assert_eq!(ended, Times { retire_at: 9, remove_at: 9 + retiring, ..standby }, "{algorithm}");
        }
    }
}
