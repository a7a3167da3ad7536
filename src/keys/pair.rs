//! Key pairs: parsed once, shared, signing raw bytes.

use std::fmt;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256,
};
use zeroize::Zeroizing;

use super::jwk::PublicJwk;
use crate::wire::Algorithm;

/// A private key with its public half, for one algorithm (RFC 8725bis §3.1: one key, one algorithm).
pub struct KeyPair {
    algorithm: Algorithm,
    inner: Inner,
    public: PublicJwk,
}

enum Inner {
    Rsa(RsaKeyPair),
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
}

/// A key could not be made, read or used. Never says anything about the key's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// RSA keys have 2048, 3072 or 4096 bits here.
    #[error("an RSA signing key has 2048, 3072 or 4096 bits")]
    Size,
    /// The bytes are not a PKCS#8 private key of the algorithm asked for.
    #[error("not a PKCS#8 private key for this algorithm")]
    Malformed,
    /// `alg` is not a name of this key's algorithm.
    #[error("not a name of this key's algorithm")]
    AlgorithmName,
    /// The cryptographic library failed.
    #[error("the cryptographic library failed")]
    Library,
}

impl From<KeyError> for crate::error::Error {
    fn from(cause: KeyError) -> Self {
        Self::internal(cause)
    }
}

impl KeyPair {
    /// Makes a new key; `rsa_bits` (2048, 3072 or 4096) counts for RS256 and PS256 only. Also returns it as PKCS#8,
    /// to be sealed. An RSA key takes up to seconds of processor time: call it off the async workers.
    ///
    /// # Errors
    /// [`KeyError::Size`], [`KeyError::Library`].
    pub fn generate(algorithm: Algorithm, rsa_bits: u32) -> Result<(Self, Zeroizing<Vec<u8>>), KeyError> {
        let pkcs8 = match algorithm {
            Algorithm::Rs256 | Algorithm::Ps256 => {
                let size = match rsa_bits {
                    2048 => KeySize::Rsa2048,
                    3072 => KeySize::Rsa3072,
                    4096 => KeySize::Rsa4096,
                    _ => return Err(KeyError::Size),
                };
                let pair = RsaKeyPair::generate(size).map_err(|_| KeyError::Library)?;
                Zeroizing::new(pair.as_der().map_err(|_| KeyError::Library)?.as_ref().to_vec())
            }
            // Version 1 of PKCS#8, without the public half: what other tools read.
            Algorithm::EdDsa => {
                let pair = Ed25519KeyPair::generate().map_err(|_| KeyError::Library)?;
                Zeroizing::new(pair.to_pkcs8v1().map_err(|_| KeyError::Library)?.as_ref().to_vec())
            }
            Algorithm::Es256 => {
                let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| KeyError::Library)?;
                Zeroizing::new(pair.to_pkcs8v1().map_err(|_| KeyError::Library)?.as_ref().to_vec())
            }
        };
        Ok((Self::from_pkcs8(algorithm, &pkcs8)?, pkcs8))
    }

    /// Reads a PKCS#8 private key (DER).
    ///
    /// # Errors
    /// [`KeyError::Malformed`] for any other bytes or another kind of key, [`KeyError::Size`].
    pub fn from_pkcs8(algorithm: Algorithm, pkcs8: &[u8]) -> Result<Self, KeyError> {
        let (inner, public) = match algorithm {
            Algorithm::Rs256 | Algorithm::Ps256 => {
                let pair = RsaKeyPair::from_pkcs8(pkcs8).map_err(|_| KeyError::Malformed)?;
                if !matches!(pair.public_modulus_len(), 256 | 384 | 512) {
                    return Err(KeyError::Size);
                }
                let (n, e) = rsa_public_key(pair.public_key().as_ref()).ok_or(KeyError::Malformed)?;
                let public = PublicJwk::rsa(n, e, Some(algorithm));
                (Inner::Rsa(pair), public)
            }
            Algorithm::EdDsa => {
                let pair = Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_| KeyError::Malformed)?;
                let public = PublicJwk::ed25519(pair.public_key().as_ref());
                (Inner::Ed25519(pair), public)
            }
            Algorithm::Es256 => {
                let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8)
                    .map_err(|_| KeyError::Malformed)?;
                // SEC 1 §2.3.3, uncompressed: 4 ‖ x ‖ y.
                let point = pair.public_key().as_ref();
                let public = match point {
                    [4, rest @ ..] if rest.len() == 64 => PublicJwk::p256(&rest[..32], &rest[32..]),
                    _ => return Err(KeyError::Malformed),
                };
                (Inner::P256(pair), public)
            }
        };
        Ok(Self { algorithm, inner, public: public.map_err(|_| KeyError::Malformed)? })
    }

    /// The one algorithm this key signs with.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The public half; `kid` is its RFC 7638 thumbprint.
    pub fn public_jwk(&self) -> &PublicJwk {
        &self.public
    }

    /// Signs `message`: RSA as one big-endian number, ES256 as r ‖ s (RFC 7518 §3.4), Ed25519 as RFC 8032 says.
    ///
    /// # Errors
    /// [`KeyError::Library`].
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let random = crate::secret::source();
        match &self.inner {
            Inner::Rsa(pair) => {
                // RFC 7518 §3.5: PS256's salt is as long as its hash, which is this encoding's default.
                let encoding = if self.algorithm == Algorithm::Ps256 { &RSA_PSS_SHA256 } else { &RSA_PKCS1_SHA256 };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &random, message, &mut signature).map_err(|_| KeyError::Library)?;
                Ok(signature)
            }
            Inner::Ed25519(pair) => {
                pair.try_sign(message).map(|signature| signature.as_ref().to_vec()).map_err(|_| KeyError::Library)
            }
            Inner::P256(pair) => {
                pair.sign(&random, message).map(|signature| signature.as_ref().to_vec()).map_err(|_| KeyError::Library)
            }
        }
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({}, {})", self.algorithm, self.public.thumbprint())
    }
}

/// Modulus and exponent of a DER `RSAPublicKey` (RFC 8017 §A.1.1), without leading zeros.
fn rsa_public_key(der: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (sequence, rest) = der_value(0x30, der)?;
    let (n, after) = der_value(0x02, sequence)?;
    let (e, end) = der_value(0x02, after)?;
    let unsigned = |number: &[u8]| number.iter().copied().skip_while(|byte| *byte == 0).collect();
    (rest.is_empty() && end.is_empty()).then(|| (unsigned(n), unsigned(e)))
}

/// The contents of the DER element that `input` begins with, and what follows it.
fn der_value(tag: u8, input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&[found, first], rest) = input.split_first_chunk()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => rest.split_first().map(|(length, rest)| (usize::from(*length), rest))?,
        0x82 => rest.split_first_chunk().map(|(length, rest)| (usize::from(u16::from_be_bytes(*length)), rest))?,
        _ => return None,
    };
    (found == tag).then_some(())?;
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_key_survives_pkcs8_and_signs_for_its_public_half() {
        for &algorithm in Algorithm::ALL {
            let (pair, pkcs8) = KeyPair::generate(algorithm, 2048).unwrap();
            let again = KeyPair::from_pkcs8(algorithm, &pkcs8).unwrap();
            assert_eq!(again.public_jwk().thumbprint(), pair.public_jwk().thumbprint());
            assert_eq!(pair.public_jwk().kid(), Some(pair.public_jwk().thumbprint().as_str()));
            let signature = again.sign(b"message").unwrap();
            pair.public_jwk().verify(algorithm, b"message", &signature).unwrap();
            assert!(pair.public_jwk().verify(algorithm, b"massage", &signature).is_err());
            for &other in Algorithm::ALL {
                let same_kind = matches!(algorithm, Algorithm::Rs256 | Algorithm::Ps256)
                    && matches!(other, Algorithm::Rs256 | Algorithm::Ps256);
                assert_eq!(KeyPair::from_pkcs8(other, &pkcs8).is_ok(), other == algorithm || same_kind);
                assert_eq!(pair.public_jwk().verify(other, b"message", &signature).is_ok(), other == algorithm);
            }
            assert!(!format!("{pair:?}").contains("private"));
        }
    }

    #[test]
    fn rsa_sizes_are_those_we_offer() {
        for bits in [0, 1024, 2047, 8192] {
            assert_eq!(KeyPair::generate(Algorithm::Rs256, bits).err(), Some(KeyError::Size));
        }
        let (pair, _) = KeyPair::generate(Algorithm::Ps256, 3072).unwrap();
        assert_eq!(pair.sign(b"").unwrap().len(), 384);
    }

    proptest! {
        #[test]
        fn reading_keys_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = rsa_public_key(&bytes);
            for &algorithm in Algorithm::ALL {
                prop_assert!(KeyPair::from_pkcs8(algorithm, &bytes).is_err());
            }
        }
    }
}
