//! The client credentials grant (RFC 6749 §4.4) with resource indicators (RFC 8707).

use crate::clients::Client;
use crate::cx::Cx;
use crate::error::{Code, Error, Result};
use crate::form::Form;
use crate::issue::{Issue, Terms};
use crate::oauth::targets;
use crate::wire::Scope;

/// What the client gets: of the scopes it may have those it asks for (or all), for the resources it asks for (or
/// those that own the scopes).
///
/// # Errors
/// `invalid_scope` for a scope that is malformed, unknown, not the client's or not of the resources asked for;
/// `invalid_target` for a resource that is malformed, unknown or not the client's.
pub fn decide(cx: &Cx<'_>, client: &Client, form: &Form) -> Result<Issue> {
    let catalog = cx.resources.load();
    let targets = targets::named(&catalog, client, form, |resource| !resource.built_in)?;
    // The server's own resources speak of people, and here is none.
    let owned = |token: &str| match &targets {
        Some(targets) => targets.iter().any(|target| target.scopes.contains_key(token)),
        None => catalog.owner(token).is_some_and(|owner| !owner.built_in),
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
        None if scope.is_empty() => targets::all(&catalog, client),
        None => catalog.owners(&scope),
    };
    Ok(Issue::Own(Terms { scope, audience }))
}

fn refused(detail: &'static str) -> Error {
    Error::new(Code::InvalidScope, detail)
}
