//! Rows of clients, their credentials and their browser origins.

use std::collections::HashMap;

use sqlx::FromRow;

use super::conn::{execute, execute_rows, fetch, queries};
use super::{Conn, StoreError, Tx, feed};
use crate::clock::Micros;
use crate::secret::Id;

/// How many credentials `USED` takes.
const STAMPED: usize = 32;

queries! {
    FIND = "SELECT client_id, metadata, disabled, managed_by FROM clients WHERE client_id = $1";
    LIST = "SELECT client_id, metadata, disabled, managed_by FROM clients ORDER BY client_id";
    SAVE = "INSERT INTO clients (client_id, metadata, disabled, managed_by, created_at, updated_at) \
            VALUES ($1, $2, $3, $4, $5, $5) ON CONFLICT (client_id) DO UPDATE SET metadata = excluded.metadata, \
            disabled = excluded.disabled, managed_by = excluded.managed_by, updated_at = excluded.updated_at";
    DELETE = "DELETE FROM clients WHERE client_id = $1";
    PAGE = "SELECT client_id, metadata, disabled, managed_by FROM clients WHERE client_id > $1 ORDER BY client_id LIMIT $2";
    IDS = "SELECT client_id FROM clients WHERE client_id > $1 ORDER BY client_id LIMIT $2";
    CREDENTIALS = "SELECT id, client_id, kind, label, value, expires_at, last_used_at \
                   FROM credentials WHERE client_id = $1 ORDER BY created_at, label";
    ALL_CREDENTIALS = "SELECT id, client_id, kind, label, value, expires_at, last_used_at \
                       FROM credentials ORDER BY client_id, created_at, label";
    ADD_CREDENTIAL = "INSERT INTO credentials (id, client_id, kind, label, value, created_at, expires_at) \
                      VALUES ($1, $2, $3, $4, $5, $6, $7)";
    SET_EXPIRY = "UPDATE credentials SET expires_at = $2 WHERE id = $1";
    REMOVE_CREDENTIAL = "DELETE FROM credentials WHERE id = $1";
    USED = "UPDATE credentials SET last_used_at = $1 WHERE COALESCE(last_used_at, 0) < $1 AND id IN (\
            $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, \
            $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32, $33)";
    ORIGINS = "SELECT DISTINCT origin FROM client_origins";
    DROP_ORIGINS = "DELETE FROM client_origins WHERE client_id = $1";
    ADD_ORIGIN = "INSERT INTO client_origins (origin, client_id) VALUES ($1, $2) ON CONFLICT DO NOTHING";
}

/// A client as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct ClientRow {
    /// The `client_id`.
    pub client_id: String,
    /// `ClientMetadata` as JSON.
    pub metadata: String,
    /// Whether it is switched off.
    pub disabled: bool,
    /// A word of `ManagedBy`.
    pub managed_by: String,
}

/// A credential as it is kept.
#[derive(Clone, FromRow)]
pub struct CredentialRow {
    /// 16 random bytes.
    pub id: Vec<u8>,
    /// Whose it is.
    pub client_id: String,
    /// A word of `CredentialKind`.
    pub kind: String,
    /// Its name among the client's credentials.
    pub label: String,
    /// A hash (secrets) or a public JWK.
    pub value: String,
    /// When it stops working.
    pub expires_at: Option<Micros>,
    /// When it last worked, to the minute.
    pub last_used_at: Option<Micros>,
}

/// The client and its credentials, if there is one.
pub async fn find(conn: &mut Conn, client_id: &str) -> Result<Option<(ClientRow, Vec<CredentialRow>)>, StoreError> {
    let Some(client) = fetch!(optional, conn, FIND, client_id)? else { return Ok(None) };
    Ok(Some((client, fetch!(all, conn, CREDENTIALS, client_id)?)))
}

/// The next `limit` ids after `after`, in order; the empty text is before all of them.
pub async fn ids(conn: &mut Conn, after: &str, limit: i64) -> Result<Vec<String>, StoreError> {
    let rows: Vec<(String,)> = fetch!(all, conn, IDS, after, limit)?;
    Ok(rows.into_iter().map(|(id,)| id).collect())
}

/// The next `limit` clients after the id `after`, in order; the empty text is before all of them.
pub async fn page(conn: &mut Conn, after: &str, limit: i64) -> Result<Vec<ClientRow>, StoreError> {
    fetch!(all, conn, PAGE, after, limit)
}

/// All clients with their credentials, by `client_id`.
pub async fn list(conn: &mut Conn) -> Result<Vec<(ClientRow, Vec<CredentialRow>)>, StoreError> {
    let clients: Vec<ClientRow> = fetch!(all, conn, LIST)?;
    let credentials: Vec<CredentialRow> = fetch!(all, conn, ALL_CREDENTIALS)?;
    let mut of: HashMap<String, Vec<CredentialRow>> = HashMap::new();
    for credential in credentials {
        of.entry(credential.client_id.clone()).or_default().push(credential);
    }
    Ok(clients
        .into_iter()
        .map(|client| {
            let own = of.remove(&client.client_id).unwrap_or_default();
            (client, own)
        })
        .collect())
}

/// Makes or replaces a client and its browser origins; `created_at` of an existing one stays.
pub async fn save(tx: &mut Tx, client: &ClientRow, origins: &[String]) -> Result<(), StoreError> {
    let ClientRow { client_id, metadata, disabled, managed_by } = client;
    let now = tx.now();
    execute!(tx, SAVE, client_id, metadata, *disabled, managed_by, now)?;
    execute!(tx, DROP_ORIGINS, client_id)?;
    for origin in origins {
        execute!(tx, ADD_ORIGIN, origin, client_id)?;
    }
    tx.announce(feed::Kind::Client, client_id);
    Ok(())
}

/// Removes a client with all it has.
pub async fn delete(tx: &mut Tx, client_id: &str) -> Result<(), StoreError> {
    execute!(tx, DELETE, client_id)?;
    tx.announce(feed::Kind::Client, client_id);
    Ok(())
}

/// A credential to be stored.
pub struct NewCredential {
    /// 16 random bytes.
    pub id: Id,
    /// A word of `CredentialKind`.
    pub kind: &'static str,
    /// Its name among the client's credentials.
    pub label: String,
    /// A hash (secrets) or a public JWK.
    pub value: String,
    /// When it stops working.
    pub expires_at: Option<Micros>,
}

/// Adds a credential; a label that the client has already is a conflict.
pub async fn add_credential(tx: &mut Tx, client_id: &str, new: &NewCredential) -> Result<(), StoreError> {
    let NewCredential { id, kind, label, value, expires_at } = new;
    let now = tx.now();
    execute!(tx, ADD_CREDENTIAL, &id[..], client_id, *kind, label, value, now, *expires_at)?;
    tx.announce(feed::Kind::Client, client_id);
    Ok(())
}

/// Changes when a credential stops working.
pub async fn set_expiry(tx: &mut Tx, client_id: &str, id: &[u8], expires_at: Option<Micros>) -> Result<(), StoreError> {
    execute!(tx, SET_EXPIRY, id, expires_at)?;
    tx.announce(feed::Kind::Client, client_id);
    Ok(())
}

/// Removes a credential.
pub async fn remove_credential(tx: &mut Tx, client_id: &str, id: &[u8]) -> Result<(), StoreError> {
    execute!(tx, REMOVE_CREDENTIAL, id)?;
    tx.announce(feed::Kind::Client, client_id);
    Ok(())
}

/// Remembers that credentials worked at `at`; changes nothing that a token depends on, so it is not announced.
pub async fn used(tx: &mut Tx, ids: &[Id], at: Micros) -> Result<(), StoreError> {
    for chunk in ids.chunks(STAMPED) {
        // A short one is filled up with its own.
        execute_rows!(tx, USED, [at], chunk.iter().cycle().take(STAMPED), |id| [&id[..]])?;
    }
    Ok(())
}

/// Every browser origin that some client registered.
pub async fn origins(conn: &mut Conn) -> Result<Vec<String>, StoreError> {
    let rows: Vec<(String,)> = fetch!(all, conn, ORIGINS)?;
    Ok(rows.into_iter().map(|(origin,)| origin).collect())
}
