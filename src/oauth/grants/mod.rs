//! The grants, one file each: they read and decide; `issue::tokens` does the rest.

pub mod authorization_code;
pub mod client_credentials;
pub mod refresh_token;

use std::sync::Arc;

use crate::clients::Client;
use crate::error::{Code, Error, Result};
use crate::form::Form;
use crate::issue::{Grant, Terms};
use crate::oauth::targets;
use crate::resources::{Catalog, Resource};
use crate::wire::Scope;

/// What a request for a person's tokens asks for: less than what was granted, or all of it.
struct Narrowing {
    catalog: Arc<Catalog>,
    client: Arc<Client>,
    /// RFC 8707 §2.2.
    resources: Vec<String>,
    /// RFC 6749 §6.
    scope: Option<Scope>,
}

impl Narrowing {
    fn read(catalog: Arc<Catalog>, client: &Arc<Client>, form: &Form) -> Self {
        let resources = targets::identifiers(form).map(str::to_owned).collect();
        Self { catalog, client: client.clone(), resources, scope: None }
    }

    /// What of `grant` a token will have. The grant itself stays what it is.
    ///
    /// # Errors
    /// `invalid_target` for a resource that was not granted, `invalid_scope` for a scope that was not, or is not of
    /// these resources; `invalid_grant` when nothing of what was granted is the client's any more.
    fn of(&self, grant: &Grant) -> Result<Terms> {
        let is_granted = |identifier: &&String| grant.resources.contains(*identifier);
        if !self.resources.iter().all(|identifier| is_granted(&identifier)) {
            return Err(Error::new(Code::InvalidTarget, "This resource was not granted."));
        }
        // What the client lost since, or what is gone, nobody gets by an old grant.
        let owner = |token: &str| self.catalog.owner(token).map(|owner| &owner.identifier);
        let left = grant.scope.filter(|token| self.client.metadata.scope.contains(token) && owner(token).is_some());
        let stands = |resource: &&Arc<Resource>| self.stands(resource, &left);
        let resource = |identifier: &String| self.catalog.resource(identifier).filter(stands);
        if self.resources.iter().any(|identifier| resource(identifier).is_none()) {
            return Err(Error::new(Code::InvalidTarget, "This resource is not the client's any more."));
        }
        let named = if self.resources.is_empty() { &grant.resources } else { &self.resources };
        let mut audience: Vec<Arc<Resource>> = named.iter().filter_map(resource).cloned().collect();
        audience.sort_by(|a, b| a.identifier.cmp(&b.identifier));
        audience.dedup_by(|a, b| a.identifier == b.identifier);
        if audience.is_empty() || self.resources.is_empty() && left.is_empty() && !grant.scope.is_empty() {
            return Err(Error::new(Code::InvalidGrant, "Nothing of what was granted is left."));
        }
        let standing = left.filter(|token| {
            self.resources.is_empty() || owner(token).is_some_and(|owner| self.resources.contains(owner))
        });
        let scope = match &self.scope {
            None => standing,
            Some(asked) if asked.is_subset(&standing) => asked.clone(),
            Some(_) => return Err(Error::new(Code::InvalidScope, "This scope was not granted.")),
        };
        Ok(Terms { scope, audience })
    }

    /// Whether the client may still have tokens for a granted `resource`: it lists it, or has a scope of it that was
    /// granted; of ours, the one that tokens are for with `openid`.
    fn stands(&self, resource: &Resource, left: &Scope) -> bool {
        if resource.built_in {
            return left.contains("openid");
        }
        self.client.metadata.resources.contains(&resource.identifier)
            || left.iter().any(|token| resource.scopes.contains_key(token))
    }
}
