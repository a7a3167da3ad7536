//! Keys of message authentication codes, sealed under the master key. The newest makes, all check.

use sqlx::FromRow;

use super::conn::{execute, fetch, queries};
use super::{Conn, StoreError, Tx};
use crate::clock::Micros;
use crate::secret::Id;

queries! {
    LIST = "SELECT id, sealed, created_at FROM mac_keys ORDER BY created_at DESC, id";
    ADD = "INSERT INTO mac_keys (id, sealed, created_at) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING";
}

/// A key as it is kept.
#[derive(Clone, FromRow)]
pub struct MacKeyRow {
    /// Which one: 16 bytes.
    pub id: Vec<u8>,
    /// Its 32 bytes, sealed.
    pub sealed: Vec<u8>,
    /// When it was made.
    pub created_at: Micros,
}

/// All of them, the newest first.
pub async fn list(conn: &mut Conn) -> Result<Vec<MacKeyRow>, StoreError> {
    fetch!(all, conn, LIST)
}

/// Adds a key; of several with one id the first stays. Whether this one was added.
pub async fn add(tx: &mut Tx, id: Id, sealed: &[u8]) -> Result<bool, StoreError> {
    let now = tx.now();
    Ok(execute!(tx, ADD, &id[..], sealed, now)? > 0)
}
