//! What was taken back, in memory: a lookup is all that introspection does.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use crate::clock::Micros;
use crate::store::revocations::{Kind, RevocationRow};

/// Every revocation whose tokens have not all expired.
#[derive(Debug, Default)]
pub struct Revocations(RwLock<Entries>);

#[derive(Debug, Default)]
struct Entries {
    tokens: HashMap<String, Micros>,
    clients: HashMap<String, (Micros, Micros)>,
}

impl Revocations {
    /// Takes over rows of the database; a later `not_before` wins.
    pub fn learn(&self, rows: impl IntoIterator<Item = RevocationRow>) {
        let mut entries = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for RevocationRow { kind, id, not_before, expires_at } in rows {
            match kind.parse() {
                Ok(Kind::Token) => drop(entries.tokens.insert(id, expires_at)),
                Ok(Kind::Client) => drop(entries.clients.insert(id, (not_before, expires_at))),
                // A kind that only a later release writes, and acts on.
                Err(_) => {}
            }
        }
    }

    /// Whether a token is dead: by its own `jti`, or with all that its client got before a moment.
    pub fn covers(&self, jti: &str, client_id: &str, issued_at: Micros) -> bool {
        let entries = self.0.read().unwrap_or_else(PoisonError::into_inner);
        entries.tokens.contains_key(jti)
            || entries.clients.get(client_id).is_some_and(|(not_before, _)| issued_at < *not_before)
    }

    /// Forgets what speaks of expired tokens only.
    pub fn sweep(&self, now: Micros) {
        let mut entries = self.0.write().unwrap_or_else(PoisonError::into_inner);
        entries.tokens.retain(|_, expires_at| now < *expires_at);
        entries.clients.retain(|_, (_, expires_at)| now < *expires_at);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        let entries = self.0.read().unwrap_or_else(PoisonError::into_inner);
        entries.tokens.len() + entries.clients.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SECOND;

    fn row(kind: &str, id: &str, not_before: Micros) -> RevocationRow {
        RevocationRow { kind: kind.into(), id: id.into(), not_before, expires_at: 100 * SECOND }
    }

    #[test]
    fn t25_everything_of_a_client_until_now() {
        let all = Revocations::default();
        all.learn([row("client", "a", 50 * SECOND), row("token", "t", 1), row("later", "x", 1)]);
        assert!(all.covers("other", "a", 49 * SECOND));
        assert!(!all.covers("other", "a", 50 * SECOND));
        assert!(!all.covers("other", "b", 1));
        assert!(all.covers("t", "b", 60 * SECOND));
        all.sweep(101 * SECOND);
        assert!(all.is_empty());
    }
}
