//! Client secrets. Generated ones (256 random bits) are kept as SHA-256; imported ones as Argon2id, computed on a
//! bounded pool and, once it fitted, remembered in memory under a key of this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm as Variant, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use moka::sync::Cache;
use tokio::sync::Semaphore;

use super::{Credential, Proof};
use crate::error::{Error, Result};
use crate::secret::{Id, NoRandomness, Prefix, Secret, equal, random, sha256};

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

/// The bounded pool for Argon2id and the memory of what it found right.
pub struct SecretHasher {
    argon2: Argon2<'static>,
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
    queue: usize,
    /// A well-formed hash that nothing fits: unknown clients cost what known ones do.
    dummy: String,
    key: hmac::Key,
    remembered: Cache<Id, Digest>,
}

/// What a secret is recognised by: 32 bytes that compare in constant time and in no other way, for want of `==`.
#[derive(Clone)]
pub struct Digest([u8; 32]);

impl Digest {
    fn of(secret: &Secret) -> Self {
        Self(sha256(secret.expose().as_bytes()))
    }

    /// HMAC-SHA256 under `key`.
    fn keyed(key: &hmac::Key, secret: &Secret) -> Self {
        let mut tag = [0; 32];
        tag.copy_from_slice(hmac::sign(key, secret.expose().as_bytes()).as_ref());
        Self(tag)
    }

    pub(super) fn from_text(text: &str) -> Option<Self> {
        BASE64_URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok().map(Self)
    }

    fn is(&self, other: &Self) -> bool {
        equal(&self.0, &other.0)
    }
}

/// The text that is stored for a generated secret.
pub fn digest_to_text(secret: &Secret) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(Digest::of(secret).0)
}

impl SecretHasher {
    /// A pool with these bounds.
    ///
    /// # Errors
    /// 500 when the settings are out of Argon2's ranges or there is no randomness.
    pub fn new(settings: HashSettings) -> Result<Self> {
        let params = Params::new(settings.memory_kib, settings.iterations, 1, None)
            .map_err(|cause| Error::internal(cause.to_string()))?;
        let argon2 = Argon2::new(Variant::Argon2id, Version::V0x13, params);
        let (salt, hash) = (random::<16>()?, random::<32>()?);
        let (salt, hash) = (BASE64_STANDARD_NO_PAD.encode(salt), BASE64_STANDARD_NO_PAD.encode(hash));
        let HashSettings { memory_kib, iterations, .. } = settings;
        let dummy = format!("$argon2id$v=19$m={memory_kib},t={iterations},p=1${salt}${hash}");
        Ok(Self {
            argon2,
            permits: Arc::new(Semaphore::new(settings.concurrency)),
            waiting: AtomicUsize::new(0),
            queue: settings.queue,
            dummy,
            key: hmac::Key::new(hmac::HMAC_SHA256, &random::<32>()?),
            remembered: Cache::new(100_000),
        })
    }

    /// Hashes a secret that was chosen elsewhere; takes its time, on the caller's thread.
    ///
    /// # Errors
    /// 500 without randomness.
    pub fn hash_imported(&self, secret: &Secret) -> Result<String> {
        hash(&self.argon2, secret.expose().as_bytes())
    }

    /// The first of `credentials` that `presented` fits. The time taken depends on the form of `presented` and on
    /// nothing else: what looks generated is compared by SHA-256, anything else costs one Argon2id at least, also
    /// when there is no credential at all.
    ///
    /// # Errors
    /// 503 when too many hashes wait.
    pub async fn find<'c>(&self, presented: &Secret, credentials: &[&'c Credential]) -> Result<Option<&'c Credential>> {
        if Prefix::ClientSecret.matches(presented.expose()) {
            let digest = Digest::of(presented);
            // Every credential is compared, whichever fits.
            return Ok(credentials.iter().fold(None, |found, credential| match &credential.proof {
                Proof::Generated(known) if known.is(&digest) => found.or(Some(*credential)),
                _ => found,
            }));
        }
        let tag = Digest::keyed(&self.key, presented);
        let imported = || {
            credentials.iter().filter_map(|credential| match &credential.proof {
                Proof::Imported(phc) => Some((*credential, phc)),
                _ => None,
            })
        };
        for (credential, _) in imported() {
            if self.remembered.get(&credential.id).is_some_and(|known| known.is(&tag)) {
                return Ok(Some(credential));
            }
        }
        let mut worked = false;
        for (credential, phc) in imported() {
            worked = true;
            if self.verify(presented, phc).await? {
                self.remembered.insert(credential.id, tag);
                return Ok(Some(credential));
            }
        }
        if !worked {
            self.verify(presented, &self.dummy).await?;
        }
        Ok(None)
    }

    /// Whether `presented` fits the PHC string `phc`, on the pool.
    ///
    /// # Errors
    /// 503 when too many wait.
    pub async fn verify(&self, presented: &Secret, phc: &str) -> Result<bool> {
        let busy = || Error::unavailable("Too many secrets are being checked; try again.", 1);
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
        let permit = if waiting < self.queue { self.permits.clone().acquire_owned().await.ok() } else { None };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        let permit = permit.ok_or_else(busy)?;
        let (argon2, presented, phc) = (self.argon2.clone(), presented.clone(), phc.to_owned());
        let fits = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            PasswordHash::new(&phc)
                .is_ok_and(|known| argon2.verify_password(presented.expose().as_bytes(), &known).is_ok())
        });
        fits.await.map_err(Error::internal)
    }
}

fn hash(argon2: &Argon2<'_>, secret: &[u8]) -> Result<String> {
    let salt: [u8; 16] = random().map_err(|cause: NoRandomness| Error::internal(cause))?;
    let hash = argon2.hash_password_with_salt(secret, &salt).map_err(|cause| Error::internal(cause.to_string()))?;
    Ok(hash.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    /// T-48: what secrets are recognised by has no `==`, which would stop at the first difference. Each line compiles
    /// only while its type is not `PartialEq`: with it, two implementations would fit.
    #[test]
    fn t48_secrets_have_no_other_comparison_than_the_constant_time_one() {
        trait NotEq<Which> {
            fn holds() {}
        }
        impl<T> NotEq<()> for T {}
        impl<T: PartialEq> NotEq<u8> for T {}
        <Secret as NotEq<_>>::holds();
        <Digest as NotEq<_>>::holds();
        <Proof as NotEq<_>>::holds();
        <Credential as NotEq<_>>::holds();
    }

    #[test]
    fn t48_every_byte_of_a_digest_counts() {
        let digest = Digest::of(&Secret::new("a"));
        assert!(digest.is(&digest.clone()));
        for at in 0..32 {
            let mut other = digest.clone();
            other.0[at] ^= 1;
            assert!(!digest.is(&other), "{at}");
        }
        let stored = Digest::from_text(&digest_to_text(&Secret::new("a"))).unwrap();
        assert!(stored.is(&digest));
        assert!(Digest::from_text("").is_none() && Digest::from_text(&"A".repeat(42)).is_none());
    }

    const LIGHT: HashSettings = HashSettings { memory_kib: 64, iterations: 1, concurrency: 1, queue: 2 };

    /// T-122: what an unknown client is compared with costs as much as the real thing, and nothing fits it.
    #[tokio::test]
    async fn t122_the_dummy_is_a_hash_of_the_same_cost() {
        let hasher = SecretHasher::new(LIGHT).unwrap();
        let real = hasher.hash_imported(&Secret::new("real")).unwrap();
        let cost = |phc: &str| phc.split('$').take(4).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(cost(&real), cost(&hasher.dummy));
        assert!(PasswordHash::new(&hasher.dummy).is_ok());
        assert!(!hasher.verify(&Secret::new("real"), &hasher.dummy).await.unwrap());
        assert!(hasher.verify(&Secret::new("real"), &real).await.unwrap());
    }

    /// T-184: what does not fit into the queue is told to come again; nothing waits without bound.
    #[tokio::test]
    async fn t184_a_flood_of_guesses_is_bounded() {
        let hasher = SecretHasher::new(LIGHT).unwrap();
        let guess = Secret::new("a guess");
        let answers = futures_util::future::join_all((0..16).map(|_| hasher.verify(&guess, &hasher.dummy))).await;
        let refused = answers.iter().filter_map(|answer| answer.as_ref().err()).collect::<Vec<_>>();
        assert!(!refused.is_empty() && answers.iter().any(Result::is_ok));
        assert!(refused.iter().all(|error| error.code == Code::TemporarilyUnavailable));
        assert_eq!(hasher.waiting.load(Ordering::Relaxed), 0);
    }
}
