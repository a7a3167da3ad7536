//! The client credentials grant (RFC 6749 §4.4) with resource indicators (RFC 8707).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::clients::Client;
use crate::cx::Cx;
use crate::error::{Code, Error, Result};
use crate::form::Form;
use crate::issue::Issue;
use crate::resources::{Catalog, Resource};
use crate::wire::Scope;

/// What the client gets: of the scopes it may have those it asks for (or all), for the resources it asks for (or
/// those that own the scopes).
///
/// # Errors
/// `invalid_scope` for a scope that is malformed, unknown, not the client's or not of the resources asked for;
/// `invalid_target` for a resource that is malformed, unknown or not the client's.
pub fn decide(cx: &Cx<'_>, client: &Client, form: &Form) -> Result<Issue> {
    let catalog = cx.resources.load();
    let targets = targets(&catalog, client, form)?;
    let owned = |token: &str| match &targets {
        Some(targets) => targets.iter().any(|target| target.scopes.contains_key(token)),
        None => catalog.owner(token).is_some(),
    };
    let scope = match form.get("scope") {
        // RFC 6749 §3.3: left out, a pre-defined default; here all that the client may have.
        None => client.metadata.scope.filter(owned),
        Some(text) => {
            let asked: Scope = text.parse().map_err(|_| refused("The scope is malformed."))?;
            if !asked.is_subset(&client.metadata.scope) {
                return Err(refused("The client may not have this scope."));
            }
            if !asked.iter().all(owned) {
                return Err(refused("The scope does not belong to the requested resource."));
            }
            asked
        }
    };
    let audience = match targets {
        Some(targets) => targets,
        None if scope.is_empty() => allowed(&catalog, client),
        None => catalog.owners(&scope),
    };
    Ok(Issue { subject: client.client_id.as_ref().to_owned(), scope, audience })
}

fn refused(detail: &'static str) -> Error {
    Error::new(Code::InvalidScope, detail)
}

/// The resources that the request names, each once, by identifier; `None` when it names none.
fn targets(catalog: &Catalog, client: &Client, form: &Form) -> Result<Option<Vec<Arc<Resource>>>> {
    let mut found = BTreeMap::new();
    for identifier in form.all("resource") {
        let resource = catalog.resource(identifier).filter(|resource| may(catalog, client, resource));
        let resource =
            resource.ok_or_else(|| Error::new(Code::InvalidTarget, "The client may not have this resource."))?;
        found.insert(resource.identifier.clone(), resource.clone());
    }
    Ok((!found.is_empty()).then(|| found.into_values().collect()))
}

/// Whether the client's tokens may be for `resource`: it is listed, or, where none is listed, owns a scope of its.
fn may(catalog: &Catalog, client: &Client, resource: &Resource) -> bool {
    let listed = &client.metadata.resources;
    if listed.is_empty() {
        return client
            .metadata
            .scope
            .iter()
            .any(|token| catalog.owner(token).is_some_and(|owner| owner.identifier == resource.identifier));
    }
    listed.contains(&resource.identifier)
}

fn allowed(catalog: &Catalog, client: &Client) -> Vec<Arc<Resource>> {
    client.metadata.resources.iter().filter_map(|identifier| catalog.resource(identifier)).cloned().collect()
}
