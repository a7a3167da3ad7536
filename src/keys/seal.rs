//! Sealing secrets at rest: AES-256-GCM under the master key.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::secret::{NoRandomness, Secret, random, sha256};

/// Layout of a sealed value: version (1) ‖ id of the master key (8) ‖ nonce (12) ‖ ciphertext ‖ tag (16).
/// The id stands in the clear, so that with several master keys the right one is found without trying each.
const VERSION: u8 = 1;
const ID_LEN: usize = 8;
const TAG_LEN: usize = 16;

/// The key that seals every secret we must be able to read again. It never leaves the process: no `Debug`, no serde.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct MasterKey([u8; 32]);

/// Which master key sealed a value; says nothing about the key itself. Printed as 16 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MasterKeyId(pub [u8; ID_LEN]);

impl fmt::Display for MasterKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for MasterKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not a master key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a master key is 32 random bytes, written as 64 hexadecimal digits or 43 base64url characters")]
pub struct MalformedMasterKey;

/// Why a sealed value did not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Too short, or of a layout that this release does not know.
    #[error("not a sealed value of a known version")]
    Malformed,
    /// Sealed under another master key, which this process does not have.
    #[error("sealed under the master key {sealed_by}")]
    OtherKey {
        /// The key that sealed it.
        sealed_by: MasterKeyId,
    },
    /// Sealed under this key, but changed since, or sealed for another context.
    #[error("sealed under the master key {sealed_by}, but damaged or moved here from another row")]
    Damaged {
        /// The key that sealed it.
        sealed_by: MasterKeyId,
    },
}

impl MasterKey {
    /// A new random key.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn generate() -> Result<Self, NoRandomness> {
        random().map(Self)
    }

    /// Reads a key from a setting or a file's text: 64 hexadecimal digits or 43 base64url characters; white space
    /// around it is ignored.
    ///
    /// # Errors
    /// When the text is anything else.
    pub fn parse(text: &str) -> Result<Self, MalformedMasterKey> {
        crate::config::master_key_bytes(text.trim()).map(|key| Self(*key)).ok_or(MalformedMasterKey)
    }

    pub(super) fn from_bytes(key: &[u8; 32]) -> Self {
        Self(*key)
    }

    /// The key as 43 base64url characters, for the file that holds it.
    pub fn to_text(&self) -> Secret {
        Secret::new(URL_SAFE_NO_PAD.encode(self.0))
    }

    /// The id that sealed values carry: the first 8 bytes of a hash of the key.
    pub fn id(&self) -> MasterKeyId {
        let mut input = Zeroizing::new(b"sealwright master key id".to_vec());
        input.extend_from_slice(&self.0);
        let mut id = [0; ID_LEN];
        id.copy_from_slice(&sha256(&input)[..ID_LEN]);
        MasterKeyId(id)
    }

    /// What a database may keep to recognise this key: HMAC-SHA256 of a constant. Nobody learns the key from it.
    pub fn check_value(&self) -> [u8; 32] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        let mut value = [0; 32];
        value.copy_from_slice(hmac::sign(&key, b"sealwright master key check").as_ref());
        value
    }

    /// Seals `plaintext`. `context` names the place it is kept (such as `signing_key:` ‖ kid); it is authenticated,
    /// not stored, so that a value copied into another row does not open there.
    ///
    /// # Errors
    /// When the system gives no random nonce.
    pub fn seal(&self, context: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, NoRandomness> {
        let mut text = Zeroizing::new(plaintext.to_vec());
        let (nonce, tag) = self
            .cipher()
            .ok_or(NoRandomness)?
            .seal_in_place_separate_tag(Aad::from(context), &mut text)
            .map_err(|_| NoRandomness)?;
        let parts: [&[u8]; 5] = [&[VERSION], &self.id().0, nonce.as_ref(), &text, tag.as_ref()];
        Ok(parts.concat())
    }

    /// Opens what [`MasterKey::seal`] made with the same `context`.
    ///
    /// # Errors
    /// See [`OpenError`]; it names the key that sealed the value.
    pub fn open(&self, context: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let (&version, rest) = sealed.split_first().ok_or(OpenError::Malformed)?;
        let (id, rest) = rest.split_first_chunk().ok_or(OpenError::Malformed)?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE_LEN>().ok_or(OpenError::Malformed)?;
        if version != VERSION || rest.len() < TAG_LEN {
            return Err(OpenError::Malformed);
        }
        let sealed_by = MasterKeyId(*id);
        if sealed_by != self.id() {
            return Err(OpenError::OtherKey { sealed_by });
        }
        let damaged = OpenError::Damaged { sealed_by };
        let mut text = Zeroizing::new(rest.to_vec());
        let cipher = self.cipher().ok_or(damaged)?;
        let opened = cipher.open_in_place(Nonce::from(nonce), Aad::from(context), &mut text).map_err(|_| damaged)?;
        let length = opened.len();
        text.truncate(length);
        Ok(text)
    }

    fn cipher(&self) -> Option<RandomizedNonceKey> {
        RandomizedNonceKey::new(&AES_256_GCM, &self.0).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_key_is_read_as_hex_or_base64url_and_nothing_else() {
        let hex = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF";
        let key = MasterKey::parse(&format!(" {hex}\n")).unwrap();
        let text = key.to_text();
        assert_eq!(text.expose().len(), 43);
        assert_eq!(MasterKey::parse(text.expose()).unwrap().id(), key.id());
        assert_eq!(key.id().to_string().len(), 16);
        let bad = ["", "00", &hex[1..], &hex.replace('a', "g"), &text.expose().replacen(|c: char| c != '.', "+", 1)];
        for bad in bad {
            assert!(MasterKey::parse(bad).is_err(), "{bad}");
        }
        // The last character carries two unused bits; only one spelling of a key is accepted.
        assert!(MasterKey::parse(&("A".repeat(42) + "B")).is_err());
    }

    #[test]
    fn the_check_value_and_the_id_differ_by_key() {
        let (a, b) = (MasterKey::generate().unwrap(), MasterKey::generate().unwrap());
        assert_ne!(a.id(), b.id());
        assert_ne!(a.check_value(), b.check_value());
        assert_eq!(a.check_value(), MasterKey::parse(a.to_text().expose()).unwrap().check_value());
    }

    #[test]
    fn a_sealed_value_opens_only_unchanged_in_its_context_under_its_key() {
        let (key, other) = (MasterKey::generate().unwrap(), MasterKey::generate().unwrap());
        let sealed = key.seal(b"signing_key:a", b"secret").unwrap();
        assert_eq!(sealed.len(), 1 + 8 + 12 + 6 + 16);
        assert_eq!(key.open(b"signing_key:a", &sealed).unwrap().as_slice(), b"secret");
        let sealed_by = key.id();
        assert_eq!(key.open(b"signing_key:b", &sealed), Err(OpenError::Damaged { sealed_by }));
        assert_eq!(other.open(b"signing_key:a", &sealed), Err(OpenError::OtherKey { sealed_by }));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(key.open(b"signing_key:a", &changed).is_err(), "{at}");
            assert!(key.open(b"signing_key:a", &sealed[..at]).is_err(), "{at}");
        }
        assert_ne!(sealed, key.seal(b"signing_key:a", b"secret").unwrap());
    }

    proptest! {
        #[test]
        fn opening_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let key = MasterKey::parse(&"0".repeat(64)).unwrap();
            prop_assert!(key.open(b"", &bytes).is_err());
            let mut sealed = vec![VERSION];
            sealed.extend_from_slice(&key.id().0);
            sealed.extend_from_slice(&bytes);
            prop_assert!(key.open(b"", &sealed).is_err());
        }
    }
}
