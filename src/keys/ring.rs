//! All signing keys at one moment: who signs, who verifies, and the key set that we publish.

use std::sync::Arc;

use hyper::body::Bytes;
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::jwk::{PublicJwk, VerifyError};
use super::jws::Jws;
use super::schedule::{KeyState, Life};
use super::sign::Signer;
use crate::clock::Micros;
use crate::store::signing_keys::Times;
use crate::wire::Algorithm;

/// One signing key with what its row says.
#[derive(Clone, Debug)]
pub struct KeyEntry {
    /// The key's name: its RFC 7638 thumbprint.
    pub kid: String,
    /// The algorithm it signs with.
    pub algorithm: Algorithm,
    /// What headers and the published set call that: the algorithm's word, or `Ed25519` (RFC 9864).
    pub alg_name: String,
    /// Where in its life it is.
    pub state: KeyState,
    /// When it was made.
    pub created_at: Micros,
    /// When its life goes on.
    pub times: Times,
    /// The public half.
    pub public: PublicJwk,
    /// The private half of keys that sign, or will; `None` also where this process cannot open it.
    pub signer: Option<Arc<Signer>>,
}

/// An immutable snapshot of the signing keys.
#[derive(Debug)]
pub struct KeyRing {
    entries: Vec<KeyEntry>,
    jwks: Bytes,
}

impl KeyRing {
    /// A ring of those `entries` that verify; retired and revoked ones are left out.
    pub fn new(mut entries: Vec<KeyEntry>) -> Self {
        entries.retain(|entry| entry.state.verifies());
        // By algorithm, then name: states may change without changing the document.
        entries.sort_by(|a, b| (a.algorithm, &a.kid).cmp(&(b.algorithm, &b.kid)));
        // Text keys and text values: serialising cannot fail.
        let jwks = Bytes::from(serde_json::to_vec(&KeySet(&entries)).unwrap_or_default());
        Self { entries, jwks }
    }

    /// The keys, by algorithm and name.
    pub fn entries(&self) -> &[KeyEntry] {
        &self.entries
    }

    /// The key that signs with `algorithm`.
    pub fn active(&self, algorithm: Algorithm) -> Option<&Arc<Signer>> {
        let active = |entry: &&KeyEntry| entry.algorithm == algorithm && entry.state == KeyState::Active;
        self.entries.iter().find(active).and_then(|entry| entry.signer.as_ref())
    }

    /// Where in their lives the keys of `algorithm` are.
    pub fn lives(&self, algorithm: Algorithm) -> Vec<Life> {
        let own = self.entries.iter().filter(|entry| entry.algorithm == algorithm);
        own.map(|entry| Life { kid: entry.kid.clone(), state: entry.state, times: entry.times }).collect()
    }

    /// The believed key of this name.
    pub fn public(&self, kid: &str) -> Option<&KeyEntry> {
        self.entries.iter().find(|entry| entry.kid == kid)
    }

    /// Checks that one of our keys signed `jws`. Nothing else of the token is checked.
    ///
    /// # Errors
    /// [`VerifyError::UnknownKey`] without a `kid` of ours, [`VerifyError::Algorithm`] when `alg` is not that key's,
    /// [`VerifyError::Signature`].
    pub fn verify_own(&self, jws: &Jws<'_>) -> Result<&KeyEntry, VerifyError> {
        let entry = jws.header.kid.as_deref().and_then(|kid| self.public(kid)).ok_or(VerifyError::UnknownKey)?;
        if jws.header.algorithm() != Some(entry.algorithm) {
            return Err(VerifyError::Algorithm);
        }
        entry.public.verify(entry.algorithm, jws.signing_input.as_bytes(), &jws.signature)?;
        Ok(entry)
    }

    /// The published key set (RFC 7517 §5), rendered once.
    pub fn jwks(&self) -> &Bytes {
        &self.jwks
    }
}

struct KeySet<'a>(&'a [KeyEntry]);

impl Serialize for KeySet<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let keys: Vec<_> = self.0.iter().map(PublishedKey).collect();
        let mut set = to.serialize_map(Some(1))?;
        set.serialize_entry("keys", &keys)?;
        set.end()
    }
}

struct PublishedKey<'a>(&'a KeyEntry);

impl Serialize for PublishedKey<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let entry = self.0;
        let mut key = to.serialize_map(None)?;
        // S-20: always with kid, alg and use, so that no verifier has to guess.
        key.serialize_entry("kid", &entry.kid)?;
        key.serialize_entry("use", "sig")?;
        key.serialize_entry("alg", &entry.alg_name)?;
        for (name, value) in entry.public.members() {
            key.serialize_entry(name, value)?;
        }
        key.end()
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;
    use crate::keys::{JwkSet, KeyPair, SigningQueue, Typ};
    use serde_json::{Value, json};

    fn entry(algorithm: Algorithm, state: KeyState) -> KeyEntry {
        let (pair, _) = KeyPair::generate(algorithm, 2048).unwrap();
        let (public, kid) = (pair.public_jwk().clone(), pair.public_jwk().thumbprint());
        let alg_name = algorithm.as_str().to_owned();
        let signer = Signer::new(&kid, &alg_name, pair, SigningQueue::of_this_machine()).unwrap();
        KeyEntry {
            kid,
            algorithm,
            alg_name,
            state,
            created_at: 0,
            times: Times::default(),
            public,
            signer: Some(Arc::new(signer)),
        }
    }

    #[test]
    fn the_published_set_is_stable_and_complete() {
        let entries: Vec<_> = KeyState::ALL.iter().map(|&state| entry(Algorithm::EdDsa, state)).collect();
        let ring = KeyRing::new(entries.clone());
        let set: Value = serde_json::from_slice(ring.jwks()).unwrap();
        let keys = set["keys"].as_array().unwrap();
        assert_eq!(keys.len(), 3);
        for key in keys {
            let mut names: Vec<_> = key.as_object().unwrap().keys().map(String::as_str).collect();
            names.sort_unstable();
            assert_eq!(names, ["alg", "crv", "kid", "kty", "use", "x"]);
            assert_eq!((&key["use"], &key["alg"]), (&json!("sig"), &json!("EdDSA")));
        }
        assert_eq!(JwkSet::parse(ring.jwks()).unwrap().keys.len(), 3);

        let mut reversed = entries.clone();
        reversed.reverse();
        reversed
            .iter_mut()
            .filter(|entry| entry.state == KeyState::Active)
            .for_each(|entry| entry.state = KeyState::Retiring);
        let again = KeyRing::new(reversed);
        assert_eq!(again.jwks(), ring.jwks());
        assert_ne!(KeyRing::new(entries[..2].to_vec()).jwks(), ring.jwks());
        assert_eq!(KeyRing::new(Vec::new()).jwks().as_ref(), br#"{"keys":[]}"#);
    }

    #[test]
    fn only_the_active_key_signs() {
        let active = entry(Algorithm::EdDsa, KeyState::Active);
        let mut entries: Vec<_> = KeyState::ALL.iter().map(|&state| entry(Algorithm::EdDsa, state)).collect();
        entries.retain(|entry| entry.state != KeyState::Active);
        entries.extend([active.clone(), KeyEntry { signer: None, ..entry(Algorithm::Es256, KeyState::Active) }]);
        let ring = KeyRing::new(entries);
        assert_eq!(ring.active(Algorithm::EdDsa).unwrap().kid(), active.kid);
        assert!(ring.active(Algorithm::Es256).is_none());
        assert!(ring.active(Algorithm::Rs256).is_none());
    }

    #[tokio::test]
    async fn t46_only_believed_keys_verify_and_only_with_their_own_algorithm() {
        let entries: Vec<_> = KeyState::ALL.iter().map(|&state| entry(Algorithm::EdDsa, state)).collect();
        let ring = KeyRing::new(entries.clone());
        for entry in &entries {
            let token = entry.signer.as_ref().unwrap().sign(Typ::AccessToken, &json!({"a": 1})).await.unwrap();
            let found = ring.verify_own(&Jws::parse(&token, 4096).unwrap()).map(|entry| entry.kid.clone());
            let expected = if entry.state.verifies() { Ok(entry.kid.clone()) } else { Err(VerifyError::UnknownKey) };
            assert_eq!(found, expected, "{}", entry.state);
        }
        let signer = entries[1].signer.as_ref().unwrap();
        let token = signer.sign(Typ::AccessToken, &json!({"a": 1})).await.unwrap();
        let [_, payload, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!() };
        let check = |header: Value, payload: &str| {
            let token = format!("{}.{payload}.{signature}", URL_SAFE_NO_PAD.encode(header.to_string()));
            ring.verify_own(&Jws::parse(&token, 4096).unwrap()).map(|_| ()).unwrap_err()
        };
        for alg in ["none", "HS256", "RS256", "ES256"] {
            assert_eq!(check(json!({"alg": alg, "kid": signer.kid()}), payload), VerifyError::Algorithm);
        }
        assert_eq!(check(json!({"alg": "EdDSA", "kid": signer.kid()}), payload), VerifyError::Signature);
        assert_eq!(check(json!({"alg": "EdDSA"}), payload), VerifyError::UnknownKey);
        assert_eq!(check(json!({"alg": "EdDSA", "kid": "../x"}), payload), VerifyError::UnknownKey);
    }
}
