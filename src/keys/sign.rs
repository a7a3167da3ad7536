//! Making tokens: compact JWS with one key, its headers encoded beforehand.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;

use super::pair::{KeyError, KeyPair};
use super::queue::{Place, SigningQueue};
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

/// One signing key, ready to make tokens.
#[derive(Debug)]
pub struct Signer {
    kid: String,
    alg_name: String,
    pair: Arc<KeyPair>,
    /// The encoded header of each [`Typ`], in its order, with the dot that follows.
    headers: Vec<String>,
    queue: SigningQueue,
}

impl Signer {
    /// A signer under the name `kid`. `alg_name` is what headers say: the algorithm's word, or `Ed25519` (RFC 9864)
    /// for an [`Algorithm::EdDsa`] key.
    ///
    /// # Errors
    /// [`KeyError::AlgorithmName`] when `alg_name` is not a name of the key's algorithm.
    pub fn new(kid: &str, alg_name: &str, pair: KeyPair, queue: SigningQueue) -> Result<Self, KeyError> {
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
        Ok(Self { kid: kid.to_owned(), alg_name: alg_name.to_owned(), pair: Arc::new(pair), headers, queue })
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

    /// Keeps a place for one signature. Take it before consuming anything that may be used only once, so that an
    /// overload burns nothing. `None` for keys that sign quickly: they need none.
    ///
    /// # Errors
    /// `temporarily_unavailable`, try again in 1 s, when too many wait already.
    pub fn place(&self) -> Result<Option<Place>> {
        self.is_slow().then(|| self.queue.place()).transpose()
    }

    /// Makes a token of `claims`, which must serialise to a JSON object.
    ///
    /// # Errors
    /// As [`Signer::place`]; `server_error` when the claims do not serialise or the library fails.
    pub async fn sign<C: Serialize + Sync>(&self, typ: Typ, claims: &C) -> Result<String> {
        self.sign_at(self.place()?, typ, claims).await
    }

    /// As [`Signer::sign`], at a place that was kept before. A slow key without one takes it now, which then may fail
    /// as [`Signer::place`] does.
    ///
    /// # Errors
    /// As [`Signer::sign`].
    pub async fn sign_at<C: Serialize + Sync>(&self, place: Option<Place>, typ: Typ, claims: &C) -> Result<String> {
        let mut token = self.unsigned(typ, claims)?;
        let signature = if self.is_slow() {
            let place = place.map_or_else(|| self.queue.place(), Ok)?;
            let signature;
            (signature, token) = place.sign(self.pair.clone(), token).await?;
            signature
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
    pub fn is_slow(&self) -> bool {
        matches!(self.algorithm(), Algorithm::Rs256 | Algorithm::Ps256)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use crate::keys::Jws;
    use serde_json::{Value, json};

    fn signer(algorithm: Algorithm, alg_name: &str, queue: &SigningQueue) -> Signer {
        let (pair, _) = KeyPair::generate(algorithm, 2048).unwrap();
        Signer::new("k\"1", alg_name, pair, queue.clone()).unwrap()
    }

    #[tokio::test]
    async fn a_token_carries_its_header_and_claims_and_verifies() {
        let queue = SigningQueue::new(2, 8);
        for (algorithm, name) in [
            (Algorithm::Rs256, "RS256"),
            (Algorithm::Ps256, "PS256"),
            (Algorithm::Es256, "ES256"),
            (Algorithm::EdDsa, "EdDSA"),
            (Algorithm::EdDsa, "Ed25519"),
        ] {
            let signer = signer(algorithm, name, &queue);
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
        let queue = SigningQueue::new(1, 0);
        for name in ["RS256", "ES256", "eddsa", "none", ""] {
            let (pair, _) = KeyPair::generate(Algorithm::EdDsa, 0).unwrap();
            assert_eq!(Signer::new("k", name, pair, queue.clone()).err(), Some(KeyError::AlgorithmName), "{name}");
        }
    }

    #[tokio::test]
    async fn overload_is_refused_before_anything_is_consumed_and_ends_with_the_load() {
        let queue = SigningQueue::new(1, 1);
        let (slow, quick) = (signer(Algorithm::Rs256, "RS256", &queue), signer(Algorithm::EdDsa, "EdDSA", &queue));
        let (held, other) = (slow.place().unwrap(), slow.place().unwrap());
        let refused = slow.sign(Typ::Jwt, &json!({})).await.unwrap_err();
        assert_eq!((refused.code, refused.retry_after), (Code::TemporarilyUnavailable, Some(1)));
        // Quick keys go on meanwhile, and keep no place.
        assert!(quick.place().unwrap().is_none());
        quick.sign(Typ::Jwt, &json!({})).await.unwrap();
        // Who has no place gets none later.
        assert!(slow.sign_at(None, Typ::Jwt, &json!({})).await.is_err());

        slow.sign_at(held, Typ::Jwt, &json!({})).await.unwrap();
        slow.sign(Typ::Jwt, &json!({})).await.unwrap();
        drop(other);
    }

    #[test]
    fn signing_is_something_a_server_may_spawn() {
        fn assert_send<T: Send>(_: &T) {}
        let signer = signer(Algorithm::EdDsa, "EdDSA", &SigningQueue::new(1, 1));
        let claims = json!({});
        assert_send(&signer.sign(Typ::Jwt, &claims));
    }
}
