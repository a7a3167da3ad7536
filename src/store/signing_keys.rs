//! Rows of signing keys, sealed under the master key.

use sqlx::FromRow;

use super::conn::{execute, fetch, queries};
use super::{Conn, StoreError, Tx, feed};
use crate::clock::Micros;

queries! {
    LIST = "SELECT kid, alg, alg_name, state, public_jwk, sealed, created_at, published_at, activate_at, retire_at, remove_at \
            FROM signing_keys ORDER BY created_at, kid";
    LIVE = "SELECT kid, alg, alg_name, state, public_jwk, sealed, created_at, published_at, activate_at, retire_at, remove_at \
            FROM signing_keys WHERE state IN ('published', 'active', 'retiring') ORDER BY created_at, kid";
    ADD = "INSERT INTO signing_keys (kid, alg, alg_name, state, public_jwk, sealed, created_at, \
                                     published_at, activate_at, retire_at, remove_at) \
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING";
    // Nobody signs again with a key that has begun to retire, so its private half is nowhere from then on.
    MOVE = "UPDATE signing_keys SET state = $3, published_at = $4, activate_at = $5, retire_at = $6, remove_at = $7, \
                                    sealed = CASE WHEN $3 IN ('published', 'active') THEN sealed END \
            WHERE kid = $1 AND state = $2";
    SWEEP = "DELETE FROM signing_keys WHERE kid IN (SELECT kid FROM signing_keys \
             WHERE state = 'retired' AND remove_at <= $1 ORDER BY remove_at LIMIT $2)";
}

/// When a key begins and ends what: planned, and then as it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromRow)]
pub struct Times {
    /// When the JWKS first showed it.
    pub published_at: Micros,
    /// When it begins to sign.
    pub activate_at: Micros,
    /// When it stops signing.
    pub retire_at: Micros,
    /// When the JWKS drops it.
    pub remove_at: Micros,
}

/// A signing key as it is kept.
#[derive(Clone, FromRow)]
pub struct SigningKeyRow {
    /// The RFC 7638 thumbprint.
    pub kid: String,
    /// A word of `Algorithm`.
    pub alg: String,
    /// What the JWKS and the headers call it (RFC 9864).
    pub alg_name: String,
    /// A word of `KeyState`.
    pub state: String,
    /// The public key as a JWK.
    pub public_jwk: String,
    /// The PKCS#8 document, sealed; none once the key signs no more.
    pub sealed: Option<Vec<u8>>,
    /// When it was made.
    pub created_at: Micros,
    /// When it begins and ends what.
    #[sqlx(flatten)]
    pub times: Times,
}

/// All signing keys, oldest first; retired ones for some time after their end.
pub async fn list(conn: &mut Conn) -> Result<Vec<SigningKeyRow>, StoreError> {
    fetch!(all, conn, LIST)
}

/// Those that the JWKS shows, oldest first.
pub async fn live(conn: &mut Conn) -> Result<Vec<SigningKeyRow>, StoreError> {
    fetch!(all, conn, LIVE)
}

/// Adds a key that is made now; its state and times are the row's. An algorithm has one active key and one published
/// one: a second changes nothing. Whether the key was added.
pub async fn add(tx: &mut Tx, key: &SigningKeyRow) -> Result<bool, StoreError> {
    let SigningKeyRow { kid, alg, alg_name, state, public_jwk, sealed, times, .. } = key;
    let Times { published_at, activate_at, retire_at, remove_at } = *times;
    let now = tx.now();
    let added = execute!(
        tx,
        ADD,
        kid,
        alg,
        alg_name,
        state,
        public_jwk,
        sealed,
        now,
        published_at,
        activate_at,
        retire_at,
        remove_at
    )? > 0;
    if added {
        tx.announce(feed::Kind::SigningKey, kid);
    }
    Ok(added)
}

/// Brings key `kid` from one state to the next, with its times, and drops its private half where it signs no more.
/// Whether it was in the first: of several that try at once, one does it.
pub async fn pass(tx: &mut Tx, kid: &str, (from, to): (&str, &str), times: Times) -> Result<bool, StoreError> {
    let Times { published_at, activate_at, retire_at, remove_at } = times;
    let passed = execute!(tx, MOVE, kid, from, to, published_at, activate_at, retire_at, remove_at)? > 0;
    if passed {
        tx.announce(feed::Kind::SigningKey, kid);
    }
    Ok(passed)
}

/// Forgets up to `limit` keys that retired before `then`. Those that were revoked are kept, so that no leaked key can
/// come back by an import: there are as many as there were leaks.
pub async fn sweep(tx: &mut Tx, then: Micros, limit: i64) -> Result<u64, StoreError> {
    execute!(tx, SWEEP, then, limit)
}
