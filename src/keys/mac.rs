//! Message authentication codes: HMAC-SHA256 under keys of our own, for what we hand out and take back without keeping
//! it. Each purpose is a world of its own: a code made for one is nothing to another.

use std::sync::Arc;

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use super::MasterKeys;
use super::master::MAC_KEY;
use crate::audit::{self, Actor, Event};
use crate::secret::{Id, random};
use crate::store::mac_keys::{self, MacKeyRow};
use crate::store::{Db, StoreError};
use crate::wire::vocabulary;

vocabulary! {
    /// What a code is made for; the word is the first thing that it covers.
    pub enum Purpose {
        /// A refresh token: the grant's id and the generation.
        Refresh = "refresh",
        /// The cookie by which a browser is known to an account.
        KnownBrowser = "known browser",
        /// The token in a form that ties it to its session.
        Csrf = "csrf",
        /// What attempts at signing in are counted under: what was typed may be a password.
        Attempt = "attempt",
    }
}

/// The first key has a fixed id: of several first starts one makes it, and the others take it over.
const FIRST: Id = [0; 16];

/// The keys, as of the start. The newest makes, all check; so a new one may come before every node knows it.
pub struct MacKeys {
    newest: hmac::Key,
    older: Vec<hmac::Key>,
}

impl MacKeys {
    /// Reads the keys, and makes the first one where there is none.
    ///
    /// # Errors
    /// When a key cannot be made, stored or opened: without them no refresh token could be told from a forged one.
    pub async fn load(db: &Db, master: &Arc<MasterKeys>) -> Result<Self, StoreError> {
        let mut rows = db.read(|conn| Box::pin(mac_keys::list(conn))).await?;
        if rows.is_empty() {
            make_first(db, master).await?;
            rows = db.read(|conn| Box::pin(mac_keys::list(conn))).await?;
        }
        let mut keys = rows.iter().map(|row| open(row, master));
        let newest = keys.next().ok_or_else(|| StoreError::Unfit("there is no MAC key".into()))??;
        Ok(Self { newest, older: keys.collect::<Result<_, _>>()? })
    }

    /// The code of `parts` for `purpose`, by the newest key. Where one part ends and the next begins counts.
    pub fn sign(&self, purpose: Purpose, parts: &[&[u8]]) -> [u8; 32] {
        let mut code = [0; 32];
        code.copy_from_slice(hmac::sign(&self.newest, &input(purpose, parts)).as_ref());
        code
    }

    /// Whether one of the keys made `code` of `parts` for `purpose`; compared in constant time.
    pub fn verify(&self, purpose: Purpose, parts: &[&[u8]], code: &[u8]) -> bool {
        let input = input(purpose, parts);
        std::iter::once(&self.newest).chain(&self.older).any(|key| hmac::verify(key, &input, code).is_ok())
    }
}

async fn make_first(db: &Db, master: &Arc<MasterKeys>) -> Result<(), StoreError> {
    let master = master.clone();
    let key = Zeroizing::new(random::<32>().map_err(|cause| StoreError::Unfit(cause.to_string()))?);
    let added = db.write(move |tx| {
        Box::pin(async move {
            let sealed = master.seal(tx, MAC_KEY, &FIRST, &key[..]).await?;
            if mac_keys::add(tx, FIRST, &sealed).await? {
                audit::record(tx, &Actor::system(), "first", &Event::MacKeyMade)?;
            }
            Ok(())
        })
    });
    added.await.map(drop)
}

fn open(row: &MacKeyRow, master: &MasterKeys) -> Result<hmac::Key, StoreError> {
    let key = master
        .open(MAC_KEY, &row.id, &row.sealed)
        .map_err(|cause| StoreError::Unfit(format!("a MAC key cannot be opened: {cause}")))?;
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &key))
}

/// Purpose and parts, each behind its length, so that no two different lists give the same bytes.
fn input(purpose: Purpose, parts: &[&[u8]]) -> Vec<u8> {
    let mut input = Vec::with_capacity(128);
    for part in std::iter::once(purpose.as_str().as_bytes()).chain(parts.iter().copied()) {
        input.extend_from_slice(&(part.len() as u64).to_be_bytes());
        input.extend_from_slice(part);
    }
    input
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &[byte; 32])
    }

    #[test]
    fn the_newest_makes_and_all_check() {
        let before = MacKeys { newest: key(1), older: Vec::new() };
        let after = MacKeys { newest: key(2), older: vec![key(1)] };
        let (old, new) = (before.sign(Purpose::Csrf, &[b"a"]), after.sign(Purpose::Csrf, &[b"a"]));
        assert!(old != new && after.verify(Purpose::Csrf, &[b"a"], &old) && after.verify(Purpose::Csrf, &[b"a"], &new));
        assert!(!before.verify(Purpose::Csrf, &[b"a"], &new));
    }

    #[test]
    fn t63_a_code_is_good_for_its_purpose_and_its_parts_only() {
        let keys = MacKeys { newest: key(1), older: Vec::new() };
        let code = keys.sign(Purpose::Refresh, &[b"ab", b"c"]);
        assert!(keys.verify(Purpose::Refresh, &[b"ab", b"c"], &code));
        for purpose in [Purpose::KnownBrowser, Purpose::Csrf] {
            assert!(!keys.verify(purpose, &[b"ab", b"c"], &code), "{purpose}");
        }
        for parts in [&[b"a".as_slice(), b"bc"][..], &[b"abc"], &[b"ab", b"c", b""], &[b"ab"], &[]] {
            assert!(!keys.verify(Purpose::Refresh, parts, &code), "{parts:?}");
        }
        for at in 0..32 {
            let mut changed = code;
            changed[at] ^= 1;
            assert!(!keys.verify(Purpose::Refresh, &[b"ab", b"c"], &changed));
        }
        assert!(!keys.verify(Purpose::Refresh, &[b"ab", b"c"], &code[..31]));
        assert!(!keys.verify(Purpose::Refresh, &[b"ab", b"c"], &[]));
    }
}
