//! Argon2id (RFC 9106) for what people choose and for secrets that were chosen elsewhere, computed on a bounded pool.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Block, Params, Version};
use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;

use crate::error::{Error, Result};
use crate::pool::{Permit, Pool};
use crate::secret::{NoRandomness, Secret, equal, random};

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

/// A PHC string that was made elsewhere and is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It is none, or of another algorithm.
    #[error("takes a PHC string of Argon2id, $argon2id$v=19$m=…,t=…,p=…$…$…")]
    Malformed,
    /// It costs more than our own: whoever guesses could tell it from a name that nobody has, and it would take more
    /// memory than a hash may.
    #[error(
        "costs m={memory_kib},t={iterations}; it may cost what our own hashes do, m={}, and m times t {} \
         (secrets.argon2_memory_kib, secrets.argon2_iterations): raise those first",
        .most.0, .most.1
    )]
    Dear {
        /// Its memory, in KiB.
        memory_kib: u32,
        /// Its passes over that memory.
        iterations: u32,
        /// The most memory in KiB, and the most memory times passes.
        most: (u32, u64),
    },
}

/// Makes and checks password hashes, as PHC strings. Clones share one pool.
#[derive(Clone)]
pub struct PasswordHasher {
    argon2: Argon2<'static>,
    pool: Pool,
    /// A well-formed hash that nothing fits.
    dummy: String,
    /// What was computed for guesses, as [`cost`] has it.
    spent: Arc<AtomicU64>,
    memory: Arc<Memory>,
}

/// What hashes are computed in. While others wait it goes from one to the next: what is given back to the allocator stays
/// with the process for a while, and in a flood that would be more than the hashes at work have. There is never more of it
/// than hashes at once; where those who waited went away, it stays until the next hash.
#[derive(Default)]
struct Memory(Mutex<Vec<Vec<Block>>>);

impl Memory {
    /// At least so many blocks, whatever is in them.
    fn take(&self, blocks: usize) -> Result<Vec<Block>, argon2::Error> {
        let kept = self.kept().pop();
        if let Some(memory) = kept.filter(|memory| memory.len() >= blocks) {
            return Ok(memory);
        }
        let mut memory = Vec::new();
        memory.try_reserve_exact(blocks).map_err(|_| argon2::Error::OutOfMemory)?;
        memory.resize(blocks, Block::new());
        Ok(memory)
    }

    fn keep(&self, memory: Vec<Block>) {
        self.kept().push(memory);
    }

    fn forget(&self) {
        drop(std::mem::take(&mut *self.kept()));
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Vec<Block>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leave to compute one hash now.
#[must_use = "a turn that is dropped is another's"]
pub struct Turn {
    hasher: PasswordHasher,
    permit: Permit,
}

/// Memory times passes: what a hash costs.
fn cost(params: &Params) -> u64 {
    u64::from(params.m_cost()) * u64::from(params.t_cost())
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
        let mut hasher = Self {
            argon2: Argon2::new(Algorithm::Argon2id, Version::V0x13, params),
            pool: Pool::new(concurrency, queue),
            dummy: String::new(),
            spent: Arc::default(),
            memory: Arc::default(),
        };
        hasher.dummy = hasher.phc(random()?, random()?);
        Ok(hasher)
    }

    /// Waits until a hash may be computed. `from` is the address that asks for it, `None` for ourselves.
    ///
    /// # Errors
    /// 503 when too many hashes wait.
    pub async fn turn(&self, from: Option<IpAddr>) -> Result<Turn> {
        let permit = self.pool.permit(from).await?;
        Ok(Turn { hasher: self.clone(), permit })
    }

    /// The PHC string of `password` with a new salt.
    ///
    /// # Errors
    /// As [`PasswordHasher::turn`]; 500 without randomness.
    pub async fn hash(&self, password: &Secret, from: Option<IpAddr>) -> Result<String> {
        let salt: [u8; 16] = random().map_err(|cause: NoRandomness| Error::internal(cause))?;
        let (hasher, password) = (self.clone(), password.clone());
        let work = move || {
            let (argon2, password, mut hash) = (&hasher.argon2, password.expose().as_bytes(), [0; 32]);
            let made =
                hasher.in_memory(0, |memory| argon2.hash_password_into_with_memory(password, &salt, &mut hash, memory));
            made.flatten().map(|()| hash)
        };
        let hash = self.pool.permit(from).await?.run(work).await?;
        let hash = hash.map_err(|cause| Error::internal(cause.to_string()))?;
        Ok(self.phc(salt, hash))
    }

    /// The PHC string of one of our own hashes.
    fn phc(&self, salt: [u8; 16], hash: [u8; 32]) -> String {
        let (params, salt, hash) =
            (self.argon2.params(), BASE64_STANDARD_NO_PAD.encode(salt), BASE64_STANDARD_NO_PAD.encode(hash));
        format!("$argon2id$v=19$m={},t={},p=1${salt}${hash}", params.m_cost(), params.t_cost())
    }

    /// Does `work`, one hash and what belongs to it, in at least so many blocks of memory, and in no fewer than our own
    /// hashes take: what it is done for cannot be told from how long that takes.
    fn in_memory<T>(&self, blocks: usize, work: impl FnOnce(&mut [Block]) -> T) -> Result<T, argon2::Error> {
        let own = self.argon2.params().block_count();
        let mut memory = self.memory.take(blocks.max(own))?;
        let done = work(&mut memory);
        if self.pool.waiting() == 0 {
            self.memory.forget();
        } else if memory.len() == own {
            self.memory.keep(memory);
        }
        Ok(done)
    }

    /// [`Turn::verify`], as soon as there is one.
    ///
    /// # Errors
    /// As [`PasswordHasher::turn`].
    pub async fn verify(&self, password: &Secret, known: Option<&str>, from: Option<IpAddr>) -> Result<bool> {
        self.turn(from).await?.verify(password, known).await
    }

    /// Whether this PHC string, made elsewhere, may become somebody's.
    ///
    /// # Errors
    /// Why not.
    pub fn accepts(&self, phc: &str) -> Result<(), Unfit> {
        let hash = PasswordHash::new(phc).map_err(|_| Unfit::Malformed)?;
        let (argon2, ..) = read(&hash).ok_or(Unfit::Malformed)?;
        let params = argon2.params();
        // What is left out would be taken as Argon2's default.
        let whole = ["m", "t", "p"].into_iter().all(|name| hash.params.get_decimal(name).is_some());
        if hash.algorithm.as_str() != "argon2id" || !whole {
            return Err(Unfit::Malformed);
        }
        let own = self.argon2.params();
        let (memory_kib, iterations) = (params.m_cost(), params.t_cost());
        if memory_kib > own.m_cost() || cost(params) > cost(own) {
            return Err(Unfit::Dear { memory_kib, iterations, most: (own.m_cost(), cost(own)) });
        }
        Ok(())
    }

    /// Whether this PHC string is as we make them now.
    pub fn is_own(&self, phc: &str) -> bool {
        phc.split('$').take(4).eq(self.dummy.split('$').take(4))
    }

    /// What was computed to compare guesses until now, as memory in KiB times passes; tests hold every guess to the same.
    pub fn spent(&self) -> u64 {
        self.spent.load(Ordering::Relaxed)
    }

    /// Whether `password` fits `known`. What that costs less than one of our own hashes is spent beside it, so that
    /// nobody can tell one that was made elsewhere, or by earlier settings.
    fn fits(&self, password: &Secret, known: &str) -> bool {
        let (password, known) = (password.expose().as_bytes(), PasswordHash::new(known).ok());
        let known = known.as_ref().and_then(read);
        let blocks = known.as_ref().map_or(0, |(theirs, ..)| theirs.params().block_count());
        let compared = self.in_memory(blocks, |memory| {
            let (mut fits, mut spent) = (false, 0);
            if let Some((theirs, salt, expected)) = known {
                let mut computed = vec![0; expected.len()];
                if theirs.hash_password_into_with_memory(password, salt, &mut computed, &mut *memory).is_ok() {
                    (fits, spent) = (equal(&computed, expected), cost(theirs.params()));
                }
            }
            let own = self.argon2.params();
            let rest = cost(own).saturating_sub(spent) / u64::from(own.t_cost());
            // Less than Argon2 takes at the least is nothing.
            if let Some(params) =
                u32::try_from(rest).ok().and_then(|rest| Params::new(rest, own.t_cost(), 1, None).ok())
            {
                let mut unused = [0; 32];
                let padding = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
                let _ = std::hint::black_box(padding.hash_password_into_with_memory(
                    password,
                    &[0; 16],
                    &mut unused,
                    memory,
                ));
                spent += cost(padding.params());
            }
            self.spent.fetch_add(spent, Ordering::Relaxed);
            fits
        });
        compared.unwrap_or(false)
    }
}

/// How a PHC string was made, its salt and its hash; `None` where it does not say so, or we cannot make such.
fn read(phc: &PasswordHash) -> Option<(Argon2<'static>, &[u8], &[u8])> {
    let algorithm = Algorithm::try_from(phc.algorithm.as_str()).ok()?;
    let version = phc.version.map_or(Ok(Version::default()), Version::try_from).ok()?;
    let argon2 = Argon2::new(algorithm, version, Params::try_from(phc).ok()?);
    Some((argon2, phc.salt.as_ref()?, phc.hash.as_ref()?.as_bytes()))
}

impl Turn {
    /// Whether `password` fits the PHC string `known`. It costs one of our own hashes, whatever `known` is; `None`, for
    /// who does not exist or has no password, is never right.
    ///
    /// # Errors
    /// None that a caller could mend.
    pub async fn verify(self, password: &Secret, known: Option<&str>) -> Result<bool> {
        let Self { hasher, permit } = self;
        let (password, exists) = (password.clone(), known.is_some());
        let known = known.unwrap_or(&hasher.dummy).to_owned();
        Ok(permit.run(move || hasher.fits(&password, &known)).await? && exists)
    }
}

#[cfg(test)]
mod tests {
    use argon2::{PasswordHasher as _, PasswordVerifier as _};

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

    /// T-121: what was imported, or made by earlier settings, costs what our own do, is recognised, and never more.
    #[tokio::test]
    async fn t121_a_hash_from_elsewhere_is_bounded_by_our_own() {
        let own = PasswordHasher::new(HashSettings { memory_kib: 256, iterations: 2, ..LIGHT }).unwrap();
        let made = |memory_kib, iterations| {
            let params = Params::new(memory_kib, iterations, 1, None).unwrap();
            let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
            argon2.hash_password_with_salt(b"real", b"a salt of theirs").unwrap().to_string()
        };
        for (memory_kib, iterations) in [(8, 1), (64, 8), (256, 1), (256, 2), (255, 2)] {
            let theirs = made(memory_kib, iterations);
            assert_eq!(own.accepts(&theirs), Ok(()), "{theirs}");
            assert!(own.verify(&Secret::new("real"), Some(&theirs), None).await.unwrap(), "{theirs}");
            assert!(!own.verify(&Secret::new("other"), Some(&theirs), None).await.unwrap(), "{theirs}");
            assert_eq!(own.is_own(&theirs), (memory_kib, iterations) == (256, 2));
        }
        for (memory_kib, iterations) in [(257, 1), (256, 3), (128, 5)] {
            let refused = own.accepts(&made(memory_kib, iterations)).unwrap_err();
            assert_eq!(refused, Unfit::Dear { memory_kib, iterations, most: (256, 512) });
            let told = refused.to_string();
            assert!(
                told.contains("m=256") && told.contains("512") && told.contains("secrets.argon2_memory_kib"),
                "{told}"
            );
        }
        for bad in [
            "",
            "x",
            "$argon2i$v=19$m=64,t=1,p=1$c29tZXNhbHQ$aGFzaGhhc2hoYXNo",
            "$argon2id$v=19$m=64,t=1$c29tZXNhbHQ$aGFzaA",
            "$argon2id$v=18$m=64,t=1,p=1$c29tZXNhbHQ$aGFzaGhhc2hoYXNo",
            "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ",
        ] {
            assert_eq!(own.accepts(bad), Err(Unfit::Malformed), "{bad}");
        }
    }

    /// RFC 9106: the library agrees, whatever was in the memory before, about hashes of every kind.
    #[tokio::test]
    async fn rfc9106_hashes_are_those_of_the_library() {
        let own = PasswordHasher::new(HashSettings { memory_kib: 256, iterations: 2, ..LIGHT }).unwrap();
        let phc = own.hash(&Secret::new("real"), None).await.unwrap();
        assert!(own.argon2.verify_password(b"real", &*phc).is_ok() && own.accepts(&phc) == Ok(()) && own.is_own(&phc));
        for (algorithm, version, lanes, length) in [
            (Algorithm::Argon2id, Version::V0x13, 1, 32),
            (Algorithm::Argon2id, Version::V0x10, 2, 64),
            (Algorithm::Argon2i, Version::V0x13, 4, 10),
            (Algorithm::Argon2d, Version::V0x10, 1, 16),
        ] {
            let argon2 = Argon2::new(algorithm, version, Params::new(64, 2, lanes, Some(length)).unwrap());
            let theirs = argon2.hash_password_with_salt(b"real", b"a salt of theirs").unwrap().to_string();
            for (password, fits) in [("real", true), ("other", false), ("real", true)] {
                // Others wait, so the memory is that of the hash before.
                let mut used = vec![Block::new(); own.argon2.params().block_count()];
                own.argon2.fill_memory(b"before", &[7; 16], &mut used).unwrap();
                own.memory.keep(used);
                assert_eq!(own.verify(&Secret::new(password), Some(&theirs), None).await.unwrap(), fits, "{theirs}");
            }
        }
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
