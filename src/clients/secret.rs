//! Client secrets. Generated ones (256 random bits) are kept as SHA-256; imported ones as Argon2id and, once one
//! fitted, remembered in memory under a key of this process.

use std::net::IpAddr;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use quick_cache::sync::Cache;

use super::{Credential, Proof};
use crate::error::Result;
use crate::password::PasswordHasher;
use crate::secret::{Id, Prefix, Secret, equal, random, sha256};

/// The most imported secrets of one client: a wrong guess costs one hash for each. Two, so that one can follow another.
pub const MOST_IMPORTED: usize = 2;

/// Checks client secrets, and remembers which imported ones it found right.
pub struct SecretHasher {
    passwords: PasswordHasher,
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
    /// With nothing remembered.
    ///
    /// # Errors
    /// 500 when there is no randomness.
    pub fn new(passwords: PasswordHasher) -> Result<Self> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &random::<32>()?);
        Ok(Self { passwords, key, remembered: Cache::new(100_000) })
    }

    /// The first of `credentials` that `presented` fits. The time taken depends on the form of `presented` and on
    /// nothing else: what looks generated is compared by SHA-256, anything else costs one Argon2id, also when there is
    /// no credential at all; and one more while a client has two imported secrets.
    ///
    /// # Errors
    /// 503 when too many hashes wait.
    pub async fn find<'c>(
        &self,
        presented: &Secret,
        credentials: &[&'c Credential],
        from: IpAddr,
    ) -> Result<Option<&'c Credential>> {
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
            if self.passwords.verify(presented, Some(phc), Some(from)).await? {
                self.remembered.insert(credential.id, tag);
                return Ok(Some(credential));
            }
        }
        if !worked {
            self.passwords.verify(presented, None, Some(from)).await?;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
