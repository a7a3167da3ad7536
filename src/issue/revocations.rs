//! What was taken back, in memory: a lookup is all that introspection does.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::AccessClaims;
use super::facts::grant_of;
use crate::clock::{Micros, SECOND};
use crate::secret::Id;
use crate::store::revocations::{Kind, RevocationRow};

/// Every revocation whose tokens have not all expired.
#[derive(Debug, Default)]
pub struct Revocations(RwLock<Entries>);

#[derive(Debug, Default)]
struct Entries {
    tokens: HashMap<String, Micros>,
    grants: HashMap<Id, Micros>,
    /// Not before, and the end.
    clients: HashMap<String, (Micros, Micros)>,
}

impl Revocations {
    /// Takes over rows of the database; a later `not_before` wins.
    pub fn learn(&self, rows: impl IntoIterator<Item = RevocationRow>) {
        let mut entries = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for RevocationRow { kind, id, not_before, expires_at } in rows {
            match kind.parse() {
                Ok(Kind::Token) => drop(entries.tokens.insert(id, expires_at)),
                Ok(Kind::Grant) => {
                    let id = BASE64_URL_SAFE_NO_PAD.decode(id).ok().and_then(|id| Id::try_from(id).ok());
                    entries.grants.extend(id.map(|id| (id, expires_at)));
                }
                Ok(Kind::Client) => drop(entries.clients.insert(id, (not_before, expires_at))),
                // A kind that only a later release writes, and acts on.
                Err(_) => {}
            }
        }
    }

    /// Whether a token is dead: by its own `jti`, with its grant, or with all that its client got before a moment.
    pub fn covers(&self, claims: &AccessClaims) -> bool {
        let entries = self.0.read().unwrap_or_else(PoisonError::into_inner);
        // Whole seconds at issue: a token of the second of a "revoke all" counts as issued before it.
        let issued_at = claims.iat * SECOND;
        entries.tokens.contains_key(&claims.jti)
            || grant_of(&claims.jti).is_some_and(|grant| entries.grants.contains_key(&grant))
            || entries.clients.get(&claims.client_id).is_some_and(|(not_before, _)| issued_at < *not_before)
    }

    /// Forgets what speaks of expired tokens only.
    pub fn sweep(&self, now: Micros) {
        let mut entries = self.0.write().unwrap_or_else(PoisonError::into_inner);
        entries.tokens.retain(|_, expires_at| now < *expires_at);
        entries.grants.retain(|_, expires_at| now < *expires_at);
        entries.clients.retain(|_, (_, expires_at)| now < *expires_at);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        let entries = self.0.read().unwrap_or_else(PoisonError::into_inner);
        entries.tokens.len() + entries.grants.len() + entries.clients.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::issue::Audience;
    use crate::wire::Scope;

    fn row(kind: &str, id: &str, not_before: Micros) -> RevocationRow {
        RevocationRow { kind: kind.into(), id: id.into(), not_before, expires_at: 100 * SECOND }
    }

    fn token(jti: &str, client_id: &str, sub: &str, iat: i64) -> AccessClaims {
        AccessClaims {
            iss: String::new(),
            sub: sub.into(),
            aud: Audience::Many(Vec::new()),
            client_id: client_id.into(),
            scope: Scope::default(),
            iat,
            exp: 0,
            jti: jti.into(),
            auth_time: None,
            acr: None,
        }
    }

    #[test]
    fn t25_everything_of_a_client_until_now() {
        let all = Revocations::default();
        all.learn([row("client", "a", 50 * SECOND), row("token", "t", 1), row("later", "x", 1)]);
        assert!(all.covers(&token("other", "a", "a", 49)));
        assert!(!all.covers(&token("other", "a", "a", 50)));
        assert!(!all.covers(&token("other", "b", "b", 0)));
        assert!(all.covers(&token("t", "b", "b", 60)));
        all.sweep(101 * SECOND);
        assert!(all.is_empty());
    }

    #[test]
    fn everything_of_a_grant() {
        let all = Revocations::default();
        let [grant, other] = [7u8, 8].map(|byte| BASE64_URL_SAFE_NO_PAD.encode([byte; 16]));
        let of = |grant: u8| BASE64_URL_SAFE_NO_PAD.encode([[grant; 16].as_slice(), &[1; 8]].concat());
        all.learn([row("grant", &grant, 1), row("grant", "not an id", 1)]);
        assert!(all.covers(&token(&of(7), "a", "v", 99)), "whenever it was issued");
        assert!(!all.covers(&token(&of(8), "a", "v", 99)));
        assert!(!all.covers(&token(&grant, "a", "v", 99)) && !all.covers(&token(&other, "a", "v", 99)));
        assert_eq!(all.len(), 1);
        all.sweep(101 * SECOND);
        assert!(all.is_empty());
    }
}
