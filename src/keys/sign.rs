//! Making tokens: compact JWS with one key, its headers encoded beforehand.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::pair::{KeyError, KeyPair};
use crate::error::{Error, Result};
use crate::wire::{Algorithm, vocabulary};

vocabulary! {
    /// What a token says it is (RFC 8725bis §3.11): the `typ` of its header.
    pub enum Typ {
        /// An access token (RFC 9068 §2.1).
        AccessToken = "at+jwt",
        /// An ID token and others that have no type of their own.
        Jwt = "JWT",
    }
}

/// Where slow signatures (RSA) are made: off the async workers, at most one per core at a time, with a bounded queue
/// before it. Share one pool among all signers of a process.
#[derive(Debug)]
pub struct SigningPool {
    cores: Arc<Semaphore>,
    waiting: AtomicUsize,
    max_waiting: usize,
}

/// Leave to make one signature now. Belongs to the pool, not to a key: a rotation in between does not matter.
#[derive(Debug)]
#[must_use = "a permit that is dropped reserves nothing"]
pub struct Permit(Option<OwnedSemaphorePermit>);

impl SigningPool {
    /// How many may wait for each core unless told otherwise: with 2048-bit keys a wait of under 0.1 s.
    pub const WAITING_PER_CORE: usize = 256;

    /// A pool that signs on `cores` threads (at least 1) while at most `max_waiting` others wait.
    pub fn new(cores: usize, max_waiting: usize) -> Self {
        Self { cores: Arc::new(Semaphore::new(cores.max(1))), waiting: AtomicUsize::new(0), max_waiting }
    }

    /// A pool over all cores of this machine.
    pub fn for_this_machine() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self::new(cores, cores * Self::WAITING_PER_CORE)
    }

    /// How many wait for a core at this moment; for metrics.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.cores).try_acquire_owned() {
            return Ok(permit);
        }
        let place = Place::take(self).ok_or_else(|| Error::unavailable("Too many signatures are waiting.", 1))?;
        let permit = Arc::clone(&self.cores).acquire_owned().await.map_err(Error::internal)?;
        drop(place);
        Ok(permit)
    }
}

/// A place in the pool's queue; given back also when the caller goes away while waiting.
struct Place<'a>(&'a SigningPool);

impl<'a> Place<'a> {
    fn take(pool: &'a SigningPool) -> Option<Self> {
        let place = Self(pool);
        (pool.waiting.fetch_add(1, Ordering::Relaxed) < pool.max_waiting).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One signing key, ready to make tokens.
#[derive(Debug)]
pub struct Signer {
    kid: String,
    alg_name: String,
    pair: Arc<KeyPair>,
    /// The encoded header of each [`Typ`], in its order, with the dot that follows.
    headers: Vec<String>,
    pool: Arc<SigningPool>,
}

impl Signer {
    /// A signer under the name `kid`. `alg_name` is what headers say: the algorithm's word, or `Ed25519` (RFC 9864)
    /// for an [`Algorithm::EdDsa`] key.
    ///
    /// # Errors
    /// [`KeyError::AlgorithmName`] when `alg_name` is not a name of the key's algorithm.
    pub fn new(kid: &str, alg_name: &str, pair: KeyPair, pool: Arc<SigningPool>) -> Result<Self, KeyError> {
        #[derive(Serialize)]
        struct ProtectedHeader<'a> {
            alg: &'a str,
            typ: Typ,
            kid: &'a str,
        }
        if Algorithm::named(alg_name) != Some(pair.algorithm()) {
            return Err(KeyError::AlgorithmName);
        }
        let header = |typ: &Typ| {
            let header = serde_json::to_vec(&ProtectedHeader { alg: alg_name, typ: *typ, kid });
            header.map(|header| URL_SAFE_NO_PAD.encode(header) + ".").map_err(|_| KeyError::Library)
        };
        let headers = Typ::ALL.iter().map(header).collect::<Result<_, _>>()?;
        Ok(Self { kid: kid.to_owned(), alg_name: alg_name.to_owned(), pair: Arc::new(pair), headers, pool })
    }

    /// The key's name in headers and in the published set.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The key's algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.pair.algorithm()
    }

    /// What headers and the published set call the algorithm.
    pub fn alg_name(&self) -> &str {
        &self.alg_name
    }

    /// The key pair.
    pub fn pair(&self) -> &KeyPair {
        &self.pair
    }

    /// Reserves one signature. Take it before consuming anything that may be used only once, so that an overload
    /// burns nothing. Costs nothing for keys that sign quickly.
    ///
    /// # Errors
    /// `temporarily_unavailable`, try again in 1 s, when too many wait already.
    pub async fn permit(&self) -> Result<Permit> {
        Ok(Permit(if self.is_slow() { Some(self.pool.permit().await?) } else { None }))
    }

    /// Makes a token of `claims`, which must serialise to a JSON object.
    ///
    /// # Errors
    /// As [`Signer::permit`]; `server_error` when the claims do not serialise or the library fails.
    pub async fn sign<C: Serialize + Sync>(&self, typ: Typ, claims: &C) -> Result<String> {
        self.sign_with(self.permit().await?, typ, claims).await
    }

    /// As [`Signer::sign`], with a permit taken before. A permit taken for a quick key is exchanged if this key is
    /// slow, which then may fail as [`Signer::permit`] does.
    ///
    /// # Errors
    /// As [`Signer::sign`].
    pub async fn sign_with<C: Serialize + Sync>(&self, permit: Permit, typ: Typ, claims: &C) -> Result<String> {
        let mut token = self.unsigned(typ, claims)?;
        let signature = if self.is_slow() {
            let permit = match permit.0 {
                Some(permit) => permit,
                None => self.pool.permit().await?,
            };
            let pair = Arc::clone(&self.pair);
            // The permit moves along: if the caller goes away, the core is busy until the signature is done.
            let work = move || {
                let signature = pair.sign(token.as_bytes());
                drop(permit);
                (token, signature)
            };
            let (returned, signature) = tokio::task::spawn_blocking(work).await.map_err(Error::internal)?;
            token = returned;
            signature?
        } else {
            self.pair.sign(token.as_bytes())?
        };
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }

    /// Header, dot, payload; with room for the signature.
    fn unsigned<C: Serialize>(&self, typ: Typ, claims: &C) -> Result<String> {
        let header = &self.headers[typ as usize];
        let payload = serde_json::to_vec(claims).map_err(Error::internal)?;
        let mut token = String::with_capacity(header.len() + payload.len() * 4 / 3 + 4 + 700);
        token.push_str(header);
        URL_SAFE_NO_PAD.encode_string(payload, &mut token);
        Ok(token)
    }

    /// Whether one signature takes so long (RSA: about 0.3 ms, Ed25519 0.01) that it would hold up a worker.
    fn is_slow(&self) -> bool {
        matches!(self.algorithm(), Algorithm::Rs256 | Algorithm::Ps256)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use crate::keys::Jws;
    use serde_json::{Value, json};

    fn signer(algorithm: Algorithm, alg_name: &str, pool: &Arc<SigningPool>) -> Signer {
        let (pair, _) = KeyPair::generate(algorithm, 2048).unwrap();
        Signer::new("k\"1", alg_name, pair, Arc::clone(pool)).unwrap()
    }

    #[tokio::test]
    async fn a_token_carries_its_header_and_claims_and_verifies() {
        let pool = Arc::new(SigningPool::for_this_machine());
        for (algorithm, name) in [
            (Algorithm::Rs256, "RS256"),
            (Algorithm::Ps256, "PS256"),
            (Algorithm::Es256, "ES256"),
            (Algorithm::EdDsa, "EdDSA"),
            (Algorithm::EdDsa, "Ed25519"),
        ] {
            let signer = signer(algorithm, name, &pool);
            for &typ in Typ::ALL {
                let claims = json!({"sub": "a", "n": [1, 2]});
                let token = signer.sign(typ, &claims).await.unwrap();
                let jws = Jws::parse(&token, 4096).unwrap();
                assert_eq!((jws.header.alg.as_str(), jws.header.kid.as_deref()), (name, Some("k\"1")));
                assert!(jws.header.is_typ(typ.as_str()));
                assert_eq!(jws.claims::<Value>().unwrap(), claims);
                let public = signer.pair().public_jwk();
                public.verify(algorithm, jws.signing_input.as_bytes(), &jws.signature).unwrap();
                assert!(token.capacity() >= token.len() && token.len() < 1024);
            }
        }
    }

    #[test]
    fn a_signer_takes_only_names_of_its_algorithm() {
        let pool = Arc::new(SigningPool::new(1, 0));
        for name in ["RS256", "ES256", "eddsa", "none", ""] {
            let (pair, _) = KeyPair::generate(Algorithm::EdDsa, 0).unwrap();
            assert_eq!(Signer::new("k", name, pair, Arc::clone(&pool)).err(), Some(KeyError::AlgorithmName), "{name}");
        }
    }

    #[tokio::test]
    async fn overload_is_refused_before_anything_is_consumed_and_ends_with_the_load() {
        let pool = Arc::new(SigningPool::new(1, 1));
        let (slow, quick) = (signer(Algorithm::Rs256, "RS256", &pool), signer(Algorithm::EdDsa, "EdDSA", &pool));
        let held = slow.permit().await.unwrap();

        let mut waiter = Box::pin(slow.permit());
        tokio::select! {
            biased;
            _ = &mut waiter => panic!("the only core is taken"),
            () = std::future::ready(()) => {}
        }
        assert_eq!(pool.waiting(), 1);
        let refused = slow.sign(Typ::Jwt, &json!({})).await.unwrap_err();
        assert_eq!((refused.code, refused.retry_after), (Code::TemporarilyUnavailable, Some(1)));
        assert_eq!(pool.waiting(), 1);
        // Quick keys go on meanwhile.
        quick.sign(Typ::Jwt, &json!({})).await.unwrap();
        // A permit that a quick key gave is worth nothing to a slow one.
        let empty = quick.permit().await.unwrap();
        assert!(slow.sign_with(empty, Typ::Jwt, &json!({})).await.is_err());

        drop(waiter);
        assert_eq!(pool.waiting(), 0);
        slow.sign_with(held, Typ::Jwt, &json!({})).await.unwrap();
        slow.sign(Typ::Jwt, &json!({})).await.unwrap();
    }

    #[test]
    fn signing_is_something_a_server_may_spawn() {
        fn assert_send<T: Send>(_: &T) {}
        let signer = signer(Algorithm::EdDsa, "EdDSA", &Arc::new(SigningPool::new(1, 1)));
        let claims = json!({});
        assert_send(&signer.sign(Typ::Jwt, &claims));
    }
}
