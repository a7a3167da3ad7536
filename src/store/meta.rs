//! Facts about this database that its nodes agree on: which master key seals.

use super::conn::{execute, fetch, queries};
use super::{Conn, StoreError, Tx};

queries! {
    DECIDE = "INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = meta.value \
              RETURNING value";
    GET = "SELECT value FROM meta WHERE key = $1";
    REPLACE = "UPDATE meta SET value = $3 WHERE key = $1 AND value = $2";
}

/// Sets `key` unless it is set, and gives what it is now: the first of several nodes decides. Until this transaction
/// ends nobody makes it another.
pub async fn decide(conn: &mut Conn, key: &str, value: &str) -> Result<String, StoreError> {
    let (now,): (String,) = fetch!(one, conn, DECIDE, key, value)?;
    Ok(now)
}

/// What `key` is, if it is set.
pub async fn get(conn: &mut Conn, key: &str) -> Result<Option<String>, StoreError> {
    let row: Option<(String,)> = fetch!(optional, conn, GET, key)?;
    Ok(row.map(|(value,)| value))
}

/// Makes `key`, if it is `old`, `new`. Whether it was.
pub async fn replace(tx: &mut Tx, key: &str, old: &str, new: &str) -> Result<bool, StoreError> {
    Ok(execute!(tx, REPLACE, key, old, new)? > 0)
}
