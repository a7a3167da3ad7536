//! What the database holds when a plan is made.

use std::collections::BTreeMap;

use crate::clients::ClientMetadata;
use crate::resources::Catalog;
use crate::store::claim_mappers::{self, MapperRow};
use crate::store::clients::{ClientRow, CredentialRow};
use crate::store::users::UserRow;
use crate::store::{Conn, StoreError, Tx, clients, feed, from_row, users};
use crate::wire::ManagedBy;

pub(super) struct StoredClient {
    pub row: ClientRow,
    pub metadata: ClientMetadata,
    pub credentials: Vec<CredentialRow>,
}

pub(super) struct State {
    pub resources: Catalog,
    pub clients: BTreeMap<String, StoredClient>,
    pub mappers: Vec<MapperRow>,
    /// Those that were asked for, by the username as it is compared.
    pub users: BTreeMap<String, UserRow>,
    /// The last change of the feed that is in it for sure.
    pub head: i64,
}

impl State {
    /// All there is; of people, of whom there may be very many, those of these usernames as they are compared.
    pub(super) async fn load(conn: &mut Conn, people: &[String]) -> Result<Self, StoreError> {
        // First the head: what changes between the reads has a later number, and is noticed.
        let head = feed::head(conn).await?;
        let resources = Catalog::load(conn).await?;
        let mut known = BTreeMap::new();
        for (row, credentials) in clients::list(conn).await? {
            let unfit = |cause| StoreError::Unfit(format!("client {}: {cause}", row.client_id));
            let metadata = from_row(&row.metadata).map_err(unfit)?;
            known.insert(row.client_id.clone(), StoredClient { row, metadata, credentials });
        }
        let mappers = claim_mappers::list(conn).await?;
        let users = users::by_usernames(conn, people).await?;
        let users = users.into_iter().map(|row| (row.username_key.clone(), row)).collect();
        Ok(Self { resources, clients: known, mappers, users, head })
    }
}

impl StoredClient {
    /// Whether pruning may remove it.
    pub(super) fn is_applied(&self) -> bool {
        self.row.managed_by == ManagedBy::Apply.as_str()
    }
}

/// Whether no client, resource or claim has changed since `head`. Takes the feed's lock, so that of two plans made at
/// once the second finds out. It comes last: until the commit, everybody else who announces something waits.
pub(super) async fn is_as_of(tx: &mut Tx, head: i64) -> Result<bool, StoreError> {
    let now = feed::lock(tx).await?;
    let ours = [feed::Kind::Client, feed::Kind::Resource, feed::Kind::ClaimMapper].map(feed::Kind::as_str);
    let mut seen = head;
    while seen < now {
        let changes = feed::since(tx, seen).await?;
        // Where the feed was swept in between, nobody knows.
        let whole = changes.first().is_some_and(|first| first.seq == seen + 1);
        if !whole || changes.iter().any(|change| ours.contains(&change.kind.as_str())) {
            return Ok(false);
        }
        seen = changes.last().map_or(now, |last| last.seq);
    }
    Ok(true)
}
