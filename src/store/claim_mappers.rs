//! Rows of claim mappers: which claim comes from where, for which scope and client.

use sqlx::FromRow;

use super::conn::{execute, fetch, queries};
use super::{Conn, StoreError, Tx, feed};

queries! {
    LIST = "SELECT claim, source, scope, client_id, managed_by FROM claim_mappers ORDER BY claim, scope, client_id";
    SAVE = "INSERT INTO claim_mappers (claim, source, scope, client_id, managed_by, created_at, updated_at) \
            VALUES ($1, $2, $3, $4, $5, $6, $6) ON CONFLICT (claim, scope, client_id) DO UPDATE \
            SET source = excluded.source, managed_by = excluded.managed_by, updated_at = excluded.updated_at";
    DELETE = "DELETE FROM claim_mappers WHERE claim = $1 AND scope = $2 AND client_id = $3";
    DELETE_OF_CLIENT = "DELETE FROM claim_mappers WHERE client_id = $1";
}

/// A claim mapper as it is kept. Claim, scope and client together are its key.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct MapperRow {
    /// The claim's name.
    pub claim: String,
    /// A `claims::Source` as text.
    pub source: String,
    /// The scope that stands for it.
    pub scope: String,
    /// The only client that gets it; empty for all.
    pub client_id: String,
    /// A word of `ManagedBy`.
    pub managed_by: String,
}

impl MapperRow {
    /// The key as one text: `claim scope`, and the client where it is for one alone. None of them has a space.
    pub fn id(&self) -> String {
        let Self { claim, scope, client_id, .. } = self;
        format!("{claim} {scope} {client_id}").trim_end().to_owned()
    }
}

/// All of them, by their key.
pub async fn list(conn: &mut Conn) -> Result<Vec<MapperRow>, StoreError> {
    fetch!(all, conn, LIST)
}

/// Makes or replaces one.
pub async fn save(tx: &mut Tx, row: &MapperRow) -> Result<(), StoreError> {
    let MapperRow { claim, source, scope, client_id, managed_by } = row;
    let now = tx.now();
    execute!(tx, SAVE, claim, source, scope, client_id, managed_by, now)?;
    tx.announce(feed::Kind::ClaimMapper, row.id());
    Ok(())
}

/// Removes one.
pub async fn delete(tx: &mut Tx, row: &MapperRow) -> Result<(), StoreError> {
    let MapperRow { claim, scope, client_id, .. } = row;
    execute!(tx, DELETE, claim, scope, client_id)?;
    tx.announce(feed::Kind::ClaimMapper, row.id());
    Ok(())
}

/// Removes those for one client alone: whoever gets its name later does not get its claims.
pub async fn delete_of_client(tx: &mut Tx, client_id: &str) -> Result<(), StoreError> {
    if execute!(tx, DELETE_OF_CLIENT, client_id)? > 0 {
        tx.announce(feed::Kind::ClaimMapper, client_id);
    }
    Ok(())
}
