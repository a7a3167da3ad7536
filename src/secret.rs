//! Secrets as types: nothing here can be printed or logged by accident, and comparing is constant-time.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A text that must not be seen: a client secret, a master key, a database password.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself. Every call is a place where a secret leaves its box.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl<'de> serde::Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from).map(Self)
    }
}

/// Kinds of opaque values that we hand out. The prefix tells them apart, so that garbage and mix-ups are
/// refused before any query and leaks are found by scanners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefix {
    /// A client secret that we generated.
    ClientSecret,
    /// An opaque access token.
    AccessToken,
    /// An authorization code.
    Code,
}

impl Prefix {
    /// The four characters that begin the value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClientSecret => "sws_",
            Self::AccessToken => "swa_",
            Self::Code => "swc_",
        }
    }

    /// Makes a new value: the prefix, 43 characters of `[0-9A-Za-z]` (256 random bits) and a checksum of 6.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn generate(self) -> Result<Secret, NoRandomness> {
        let mut text = String::with_capacity(4 + BODY + CHECK);
        text.push_str(self.as_str());
        while text.len() < 4 + BODY {
            let bytes: [u8; 64] = random()?;
            // 248 is the largest multiple of 62 in a byte: above it, a remainder would favour some letters.
            let letters = bytes.iter().filter(|byte| **byte < 248).map(|byte| letter(*byte));
            text.extend(letters.take(4 + BODY - text.len()));
        }
        let check = checksum(&text);
        text.push_str(&check);
        Ok(Secret(text))
    }

    /// Whether `text` is formed like a value of this kind: prefix, length, alphabet and checksum.
    pub fn matches(self, text: &str) -> bool {
        text.len() == 4 + BODY + CHECK
            && text.is_ascii()
            && text.starts_with(self.as_str())
            && text[4..].bytes().all(|byte| byte.is_ascii_alphanumeric())
            && checksum(&text[..4 + BODY]) == text[4 + BODY..]
    }
}

const BODY: usize = 43;
const CHECK: usize = 6;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

fn letter(byte: u8) -> char {
    char::from(ALPHABET[usize::from(byte) % ALPHABET.len()])
}

fn checksum(text: &str) -> String {
    sha256(text.as_bytes())[..CHECK].iter().map(|byte| letter(*byte)).collect()
}

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

/// Whether two byte strings are equal, in time that depends only on their lengths.
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a, b).is_ok()
}

/// The system gave no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the system gave no random bytes")]
pub struct NoRandomness;

impl From<NoRandomness> for crate::error::Error {
    fn from(cause: NoRandomness) -> Self {
        Self::internal(cause)
    }
}

/// `N` random bytes.
///
/// # Errors
/// When the system gives none.
pub fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    #[expect(clippy::disallowed_methods, reason = "the one place that draws random bytes")]
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(bytes)
}

/// The same for the library's own use: the salt of PS256, the nonce of ES256.
#[expect(clippy::disallowed_methods, reason = "the one place that draws random bytes")]
pub fn source() -> aws_lc_rs::rand::SystemRandom {
    aws_lc_rs::rand::SystemRandom::new()
}

/// The same as text: base64url.
///
/// # Errors
/// When the system gives none.
pub fn random_text<const N: usize>() -> Result<String, NoRandomness> {
    Ok(BASE64_URL_SAFE_NO_PAD.encode(random::<N>()?))
}

/// The code challenge of a code verifier, by S256 (RFC 7636 §4.2).
pub fn code_challenge(verifier: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(sha256(verifier.as_bytes()))
}

/// An internal id: 16 random bytes.
pub type Id = [u8; 16];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_value_matches_its_own_kind_only() {
        let secret = Prefix::ClientSecret.generate().unwrap();
        assert_eq!(secret.expose().len(), 53);
        assert!(Prefix::ClientSecret.matches(secret.expose()));
        assert!(!Prefix::AccessToken.matches(secret.expose()));
    }

    /// T-63b: truncated, extended, case-flipped.
    #[test]
    fn t63b_a_changed_value_does_not_match() {
        let secret = Prefix::AccessToken.generate().unwrap();
        let text = secret.expose();
        assert!(!Prefix::AccessToken.matches(&text[..52]));
        assert!(!Prefix::AccessToken.matches(&format!("{text}0")));
        for at in 4..text.len() {
            let mut bytes = text.as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'a' { b'b' } else { b'a' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(!Prefix::AccessToken.matches(&changed), "{at}");
        }
    }

    #[test]
    fn rfc7636_appendix_b() {
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        assert_eq!(code_challenge(verifier), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }

    #[test]
    fn t174_debug_shows_nothing() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "[secret]");
    }
}
