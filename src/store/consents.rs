//! Rows of what people agreed to: one per person, client and resource.

use sqlx::FromRow;

use super::conn::{execute, fetch, queries};
use super::{Conn, StoreError, Tx};
use crate::clock::Micros;

queries! {
    LIST = "SELECT resource, scope, claims, identity FROM consents WHERE sub = $1 AND client_id = $2";
    SAVE = "INSERT INTO consents (sub, client_id, resource, scope, claims, identity, granted_at) \
            VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (sub, client_id, resource) DO UPDATE \
            SET scope = excluded.scope, claims = excluded.claims, identity = excluded.identity";
    // The row's lock makes who takes consent back come before or after, not between. One row of several: they go together.
    HOLD = "UPDATE consents SET identity = $3 WHERE sub = $1 AND client_id = $2 AND identity = $3 AND resource = \
            (SELECT MIN(resource) FROM consents WHERE sub = $1 AND client_id = $2 AND identity = $3)";
    FORGET_OTHERS = "DELETE FROM consents WHERE sub = $1 AND client_id = $2 AND identity <> $3";
    FORGET = "DELETE FROM consents WHERE sub = $1 AND client_id = $2";
    OF_USER = "SELECT client_id, granted_at, resource, scope, claims, identity FROM consents WHERE sub = $1 \
               ORDER BY client_id, resource";
}

/// What was agreed to for one resource.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct ConsentRow {
    /// Its identifier.
    pub resource: String,
    /// Scope tokens, parted by spaces.
    pub scope: String,
    /// Names of claims, as a JSON list.
    pub claims: String,
    /// A hash of what the client was then.
    pub identity: String,
}

/// Everything that `sub` agreed to for a client.
pub async fn list(conn: &mut Conn, sub: &str, client_id: &str) -> Result<Vec<ConsentRow>, StoreError> {
    fetch!(all, conn, LIST, sub, client_id)
}

/// Everything that `sub` agreed to: for which client, since when, and what.
pub async fn of_user(conn: &mut Conn, sub: &str) -> Result<Vec<(String, Micros, ConsentRow)>, StoreError> {
    let rows: Vec<(String, Micros, String, String, String, String)> = fetch!(all, conn, OF_USER, sub)?;
    let read = |(client_id, granted_at, resource, scope, claims, identity)| {
        (client_id, granted_at, ConsentRow { resource, scope, claims, identity })
    };
    Ok(rows.into_iter().map(read).collect())
}

/// Saves one, in place of what there was for its resource; since when stays.
pub async fn save(tx: &mut Tx, sub: &str, client_id: &str, row: &ConsentRow) -> Result<(), StoreError> {
    let now = tx.now();
    let ConsentRow { resource, scope, claims, identity } = row;
    execute!(tx, SAVE, sub, client_id, resource, scope, claims, identity, now).map(drop)
}

/// Whether something that `sub` agreed to while the client was `identity` stands, and will until this transaction ends.
pub async fn hold(tx: &mut Tx, sub: &str, client_id: &str, identity: &str) -> Result<bool, StoreError> {
    Ok(execute!(tx, HOLD, sub, client_id, identity)? > 0)
}

/// Forgets what `sub` agreed to while the client was another than `identity`.
pub async fn forget_others(tx: &mut Tx, sub: &str, client_id: &str, identity: &str) -> Result<(), StoreError> {
    execute!(tx, FORGET_OTHERS, sub, client_id, identity).map(drop)
}

/// Forgets all that `sub` agreed to for a client: whether there was anything.
pub async fn forget(tx: &mut Tx, sub: &str, client_id: &str) -> Result<bool, StoreError> {
    Ok(execute!(tx, FORGET, sub, client_id)? > 0)
}
