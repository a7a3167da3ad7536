//! Rows of signing keys, sealed under the master key.

use sqlx::FromRow;

use super::conn::{execute, fetch, queries};
use super::{Conn, StoreError, Tx, feed};
use crate::clock::Micros;

queries! {
    LIST = "SELECT kid, alg, alg_name, state, public_jwk, sealed, created_at, published_at, activate_at, retire_at, remove_at \
            FROM signing_keys ORDER BY created_at, kid";
    ADD = "INSERT INTO signing_keys (kid, alg, alg_name, state, public_jwk, sealed, created_at, published_at, activate_at) \
           VALUES ($1, $2, $3, $4, $5, $6, $7, $7, $7) ON CONFLICT DO NOTHING";
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
    /// The PKCS#8 document, sealed.
    pub sealed: Vec<u8>,
    /// When it was made.
    pub created_at: Micros,
    /// When the JWKS first showed it.
    pub published_at: Option<Micros>,
    /// When it begins to sign.
    pub activate_at: Option<Micros>,
    /// When it stops signing.
    pub retire_at: Option<Micros>,
    /// When the JWKS drops it.
    pub remove_at: Option<Micros>,
}

/// All signing keys, oldest first.
pub async fn list(conn: &mut Conn) -> Result<Vec<SigningKeyRow>, StoreError> {
    fetch!(all, conn, LIST)
}

/// Adds a key that is published now; of two first keys of one algorithm, the second changes nothing.
/// Whether the key was added.
pub async fn add(tx: &mut Tx, key: &SigningKeyRow) -> Result<bool, StoreError> {
    let SigningKeyRow { kid, alg, alg_name, state, public_jwk, sealed, .. } = key;
    let now = tx.now();
    let added = execute!(tx, ADD, kid, alg, alg_name, state, public_jwk, sealed, now)? > 0;
    if added {
        tx.announce(feed::Kind::SigningKey, kid);
    }
    Ok(added)
}
