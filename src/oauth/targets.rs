//! Which resources a request may be for (RFC 8707), the same for every grant.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::clients::Client;
use crate::error::{Code, Error, Result};
use crate::form::Form;
use crate::resources::{Catalog, Resource};

/// The identifiers that a request names: by `resource` (RFC 8707 §2), or by `audience`, which many clients send instead and
/// which means the same here.
pub(super) fn identifiers(form: &Form) -> impl Iterator<Item = &str> {
    form.all("resource").chain(form.all("audience"))
}

/// The resources that the request names, each once, by identifier; `None` when it names none. `allow` narrows further.
///
/// # Errors
/// `invalid_target` for a resource that is malformed, unknown, or not the client's.
pub(super) fn named(
    catalog: &Catalog,
    client: &Client,
    form: &Form,
    allow: impl Fn(&Resource) -> bool,
) -> Result<Option<Vec<Arc<Resource>>>> {
    let mut found = BTreeMap::new();
    for identifier in identifiers(form) {
        let resource =
            catalog.resource(identifier).filter(|resource| allow(resource) && may(catalog, client, resource));
        let resource =
            resource.ok_or_else(|| Error::new(Code::InvalidTarget, "The client may not have this resource."))?;
        found.insert(resource.identifier.clone(), resource.clone());
    }
    Ok((!found.is_empty()).then(|| found.into_values().collect()))
}

/// Whether the client's tokens may be for `resource`: it is listed, or, where none is listed or it is the server's own,
/// owns a scope of the client's.
fn may(catalog: &Catalog, client: &Client, resource: &Resource) -> bool {
    let listed = &client.metadata.resources;
    if listed.is_empty() || resource.built_in {
        return client
            .metadata
            .scope
            .iter()
            .any(|token| catalog.owner(token).is_some_and(|owner| owner.identifier == resource.identifier));
    }
    listed.contains(&resource.identifier)
}

/// Every resource that the client lists.
pub(super) fn all(catalog: &Catalog, client: &Client) -> Vec<Arc<Resource>> {
    client.metadata.resources.iter().filter_map(|identifier| catalog.resource(identifier)).cloned().collect()
}
