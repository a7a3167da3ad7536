//! Rows of resources (APIs) and their scopes.

use sqlx::FromRow;

use super::conn::{execute, fetch, queries};
use super::{Conn, StoreError, Tx, feed};

queries! {
    LIST = "SELECT identifier, settings, managed_by FROM resources ORDER BY identifier";
    SCOPES = "SELECT name, resource, description FROM scopes ORDER BY name";
    SAVE = "INSERT INTO resources (identifier, settings, managed_by, created_at, updated_at) VALUES ($1, $2, $3, $4, $4) \
            ON CONFLICT (identifier) DO UPDATE SET settings = excluded.settings, managed_by = excluded.managed_by, \
            updated_at = excluded.updated_at";
    DELETE = "DELETE FROM resources WHERE identifier = $1";
    DROP_SCOPES = "DELETE FROM scopes WHERE resource = $1";
    ADD_SCOPE = "INSERT INTO scopes (name, resource, description) VALUES ($1, $2, $3)";
}

/// A resource as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct ResourceRow {
    /// The identifier: the audience.
    pub identifier: String,
    /// `ResourceSettings` as JSON.
    pub settings: String,
    /// A word of `ManagedBy`.
    pub managed_by: String,
}

/// A scope as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct ScopeRow {
    /// The scope token.
    pub name: String,
    /// The resource that owns it.
    pub resource: String,
    /// What it means, in words.
    pub description: String,
}

/// All resources and all scopes.
pub async fn list(conn: &mut Conn) -> Result<(Vec<ResourceRow>, Vec<ScopeRow>), StoreError> {
    Ok((fetch!(all, conn, LIST)?, fetch!(all, conn, SCOPES)?))
}

/// Makes or replaces a resource; its scopes follow by [`add_scope`].
pub async fn save(tx: &mut Tx, resource: &ResourceRow) -> Result<(), StoreError> {
    let ResourceRow { identifier, settings, managed_by } = resource;
    let now = tx.now();
    execute!(tx, SAVE, identifier, settings, managed_by, now)?;
    tx.announce(feed::Kind::Resource, identifier);
    Ok(())
}

/// Takes all scopes from a resource: from every one that changes before any gets some, so that a scope can move between
/// two.
pub async fn drop_scopes(tx: &mut Tx, identifier: &str) -> Result<(), StoreError> {
    execute!(tx, DROP_SCOPES, identifier)?;
    tx.announce(feed::Kind::Resource, identifier);
    Ok(())
}

/// Gives a resource a scope. One that another resource owns is a conflict. Whoever adds several adds them by name: each
/// waits for whoever else is adding the same one, and in two orders they would wait for each other.
pub async fn add_scope(tx: &mut Tx, identifier: &str, name: &str, description: &str) -> Result<(), StoreError> {
    execute!(tx, ADD_SCOPE, name, identifier, description)?;
    tx.announce(feed::Kind::Resource, identifier);
    Ok(())
}

/// Removes a resource and its scopes.
pub async fn delete(tx: &mut Tx, identifier: &str) -> Result<(), StoreError> {
    execute!(tx, DELETE, identifier)?;
    tx.announce(feed::Kind::Resource, identifier);
    Ok(())
}
