//! `[[claim]]`: rows that say which claim comes from where, for which scope and client.

use std::collections::{BTreeSet, HashSet};

use serde::Serialize;

use super::check::{After, Found, named};
use super::file::ApplyFile;
use super::plan::{Change, Kind, Work, action, removed, taken_over};
use super::state::State;
use crate::audit::FieldChange;
use crate::claims;
use crate::store::claim_mappers::MapperRow;
use crate::wire::ManagedBy;

/// A claim that clients get with a scope. Claim, scope and client together name it.
#[derive(Clone, Debug, serde::Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimSpec {
    /// The claim's name.
    pub claim: String,
    /// Where its value comes from: `groups`, or `profile.NAME` for the claim NAME of the person's profile.
    pub source: String,
    /// The scope that stands for it.
    pub scope: String,
    /// The only client that gets it; left out: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
}

impl ClaimSpec {
    /// As `export` writes it.
    pub(super) fn of(row: MapperRow) -> Self {
        let MapperRow { claim, source, scope, client_id, .. } = row;
        Self { claim, source, scope, client: if client_id.is_empty() { None } else { Some(client_id) } }
    }

    fn row(&self) -> MapperRow {
        MapperRow {
            claim: self.claim.clone(),
            source: self.source.clone(),
            scope: self.scope.clone(),
            client_id: self.client.clone().unwrap_or_default(),
            managed_by: ManagedBy::Apply.to_string(),
        }
    }
}

/// Everything that is wrong with the file's claims. `clients` are those that there will be.
pub(super) fn check(file: &ApplyFile, after: &After, clients: &BTreeSet<&str>, found: &mut Found) {
    let mut seen = HashSet::new();
    for spec in &file.claim {
        let object = named("claim", &spec.row().id());
        if !claims::is_free(&spec.claim) {
            let text = "takes 1 to 200 visible characters, and no name that tokens use themselves (sub, aud, scope …)";
            found.add(&object, "claim", text);
        }
        if spec.source.parse::<claims::Source>().is_err() {
            found.add(&object, "source", "takes \"groups\" or \"profile.NAME\"");
        }
        if !after.owners.contains_key(&spec.scope) {
            let text = format!("no resource has the scope {:?}, in the file or in the database", spec.scope);
            found.add(&object, "scope", text);
        }
        if let Some(client) = &spec.client
            && !clients.contains(client.as_str())
        {
            found.add(&object, "client", format!("there is no client {client:?}, in the file or in the database"));
        }
        if !seen.insert(spec.row().id()) {
            found.add(&object, "claim", "is there twice in the file for this scope and client");
        }
    }
}

/// What becomes of each claim: those of the file in its order, then what is pruned.
pub(super) fn plan(file: &ApplyFile, before: &State, prune: bool) -> Vec<Change> {
    let mut changes: Vec<Change> = file.claim.iter().map(|spec| change(spec, &before.mappers)).collect();
    let named: HashSet<String> = file.claim.iter().map(|spec| spec.row().id()).collect();
    for row in before.mappers.iter().filter(|row| !named.contains(&row.id())) {
        if prune && row.managed_by == ManagedBy::Apply.as_str() {
            changes.push(removed(Kind::Claim, &row.id(), Work::RemoveClaim { row: row.clone() }));
        }
    }
    changes
}

fn change(spec: &ClaimSpec, stored: &[MapperRow]) -> Change {
    let row = spec.row();
    let stored = stored.iter().find(|stored| stored.id() == row.id());
    let mut fields = Vec::new();
    if stored.is_none_or(|stored| stored.source != row.source) {
        let old = stored.map(|stored| stored.source.clone());
        fields.push(FieldChange { field: "source".to_owned(), old, new: Some(row.source.clone()) });
    }
    fields.extend(stored.and_then(|stored| taken_over(&stored.managed_by)));
    let action = action(stored.is_none(), &fields);
    let id = row.id();
    let work = if fields.is_empty() { Work::None } else { Work::SaveClaim { row } };
    Change { kind: Kind::Claim, id, action, fields, work }
}
