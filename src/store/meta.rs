//! Facts about this database that are decided once: the check value of its master key.

use super::conn::{execute, fetch, queries};
use super::{Conn, StoreError, Tx};

queries! {
    DECIDE = "INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO NOTHING";
    GET = "SELECT value FROM meta WHERE key = $1";
}

/// Sets `key` unless it is set, and gives what it is now: the first of several nodes decides.
pub async fn decide(tx: &mut Tx, key: &str, value: &str) -> Result<String, StoreError> {
    execute!(tx, DECIDE, key, value)?;
    let (now,): (String,) = fetch!(one, tx, GET, key)?;
    Ok(now)
}

/// What `key` is, if it is set.
pub async fn get(conn: &mut Conn, key: &str) -> Result<Option<String>, StoreError> {
    let row: Option<(String,)> = fetch!(optional, conn, GET, key)?;
    Ok(row.map(|(value,)| value))
}
