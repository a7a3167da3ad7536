//! Argon2id (RFC 9106) for what people choose and for secrets that were chosen elsewhere, computed on a bounded pool.

use std::net::IpAddr;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version};
use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;

use crate::error::{Error, Result};
use crate::pool::Pool;
use crate::secret::{NoRandomness, Secret, random};

/// How much work a guess costs, and how much of it may go on at once.
#[derive(Clone, Copy, Debug)]
pub struct HashSettings {
    /// Memory for one hash, in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub iterations: u32,
    /// Hashes at once; each takes `memory_kib`.
    pub concurrency: usize,
    /// Hashes that may wait; more are answered 503.
    pub queue: usize,
}

/// Whether `text` is a PHC string of Argon2id that can be checked at a cost that a request can bear: 1 GiB and 100
/// passes at most.
pub fn is_phc(text: &str) -> bool {
    let Ok(hash) = PasswordHash::new(text) else { return false };
    let fits = |name: &str, most: u32| hash.params.get_decimal(name).is_some_and(|value| value <= most);
    hash.algorithm.as_str() == "argon2id"
        && fits("m", 1_048_576)
        && fits("t", 100)
        && fits("p", 16)
        && hash.salt.is_some()
        && hash.hash.is_some()
}

/// Makes and checks password hashes, as PHC strings. Clones share one pool.
#[derive(Clone)]
pub struct PasswordHasher {
    argon2: Argon2<'static>,
    pool: Pool,
    /// A well-formed hash that nothing fits.
    dummy: String,
}

impl PasswordHasher {
    /// A hasher with a pool of its own.
    ///
    /// # Errors
    /// 500 when the settings are out of Argon2's ranges or there is no randomness.
    pub fn new(settings: HashSettings) -> Result<Self> {
        let HashSettings { memory_kib, iterations, concurrency, queue } = settings;
        let params =
            Params::new(memory_kib, iterations, 1, None).map_err(|cause| Error::internal(cause.to_string()))?;
        let (salt, hash) = (random::<16>()?, random::<32>()?);
        let (salt, hash) = (BASE64_STANDARD_NO_PAD.encode(salt), BASE64_STANDARD_NO_PAD.encode(hash));
        Ok(Self {
            argon2: Argon2::new(Algorithm::Argon2id, Version::V0x13, params),
            pool: Pool::new(concurrency, queue),
            dummy: format!("$argon2id$v=19$m={memory_kib},t={iterations},p=1${salt}${hash}"),
        })
    }

    /// The PHC string of `password` with a new salt. `from` is the address that asks for it, `None` for ourselves.
    ///
    /// # Errors
    /// 503 when too many hashes wait; 500 without randomness.
    pub async fn hash(&self, password: &Secret, from: Option<IpAddr>) -> Result<String> {
        let salt: [u8; 16] = random().map_err(|cause: NoRandomness| Error::internal(cause))?;
        let (argon2, password) = (self.argon2.clone(), password.clone());
        let work = move || argon2.hash_password_with_salt(password.expose().as_bytes(), &salt);
        let hash = self.pool.permit(from).await?.run(work).await?;
        hash.map(|hash| hash.to_string()).map_err(|cause| Error::internal(cause.to_string()))
    }

    /// Whether `password` fits the PHC string `known`, at the cost that the string names. `None`, for who does not
    /// exist or has no password, costs one hash all the same and is never right.
    ///
    /// # Errors
    /// 503 when too many hashes wait.
    pub async fn verify(&self, password: &Secret, known: Option<&str>, from: Option<IpAddr>) -> Result<bool> {
        let (argon2, password, exists) = (self.argon2.clone(), password.clone(), known.is_some());
        let known = known.unwrap_or(&self.dummy).to_owned();
        let work = move || {
            let fits = |known| argon2.verify_password(password.expose().as_bytes(), &known).is_ok();
            PasswordHash::new(&known).is_ok_and(fits)
        };
        Ok(self.pool.permit(from).await?.run(work).await? && exists)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    const LIGHT: HashSettings = HashSettings { memory_kib: 64, iterations: 1, concurrency: 1, queue: 2 };

    /// T-121, T-122: what somebody unknown is compared with costs as much as the real thing, and nothing fits it.
    #[tokio::test]
    async fn t122_the_dummy_is_a_hash_of_the_same_cost() {
        let hasher = PasswordHasher::new(LIGHT).unwrap();
        let real = Secret::new("real");
        let known = hasher.hash(&real, None).await.unwrap();
        let cost = |phc: &str| phc.split('$').take(4).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(cost(&known), cost(&hasher.dummy));
        assert!(PasswordHash::new(&hasher.dummy).is_ok());
        assert!(!hasher.verify(&real, None, None).await.unwrap());
        assert!(hasher.verify(&real, Some(&known), None).await.unwrap());
        assert!(!hasher.verify(&Secret::new("other"), Some(&known), None).await.unwrap());
        assert!(!hasher.verify(&real, Some("no hash"), None).await.unwrap());
        assert_ne!(known, hasher.hash(&real, None).await.unwrap(), "each has a salt of its own");
    }

    /// T-184, T-122: hashes wait in one bounded queue, also those for nobody.
    #[tokio::test]
    async fn t184_a_flood_of_guesses_is_bounded() {
        let hasher = PasswordHasher::new(LIGHT).unwrap();
        let (guess, held) = (Secret::new("a guess"), hasher.pool.permit(None).await.unwrap());
        let known = |n: usize| n.is_multiple_of(2).then_some("$argon2id$");
        let guesses = (0..16).map(|n| hasher.verify(&guess, known(n), None));
        let free = async { drop(held) };
        let (answers, ()) = tokio::join!(futures_util::future::join_all(guesses), free);
        let refused: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
        assert_eq!(refused.len(), 14);
        assert!(refused.iter().all(|error| error.code == Code::TemporarilyUnavailable));
    }
}
