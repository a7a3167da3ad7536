//! Everything that a file can get wrong, found before anything is changed.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::claims as own_claims;
use super::credentials::{self, SECRETS};
use super::file::{ApplyFile, ClientSpec, ResourceSpec};
use super::state::{State, StoredClient};
use super::{Options, Problem, users};
use crate::checks::check_text;
use crate::claims;
use crate::clients::metadata::check_client_id;
use crate::password::PasswordHasher;
use crate::wire::{AuthMethod, GrantType, ManagedBy, Scope, USERINFO_PATH};

/// What there will be once the file is applied.
pub(super) struct After {
    /// Identifiers of all resources.
    pub resources: BTreeSet<String>,
    /// Scope → the resource that owns it.
    pub owners: BTreeMap<String, String>,
}

impl After {
    /// The resources that own the tokens of `scope`, each once, in order.
    pub(super) fn owners_of(&self, scope: &Scope) -> Vec<String> {
        let owners: BTreeSet<&String> = scope.iter().filter_map(|token| self.owners.get(token)).collect();
        // The server's own are for every client that has a scope of theirs.
        owners.into_iter().filter(|owner| self.resources.contains(*owner)).cloned().collect()
    }
}

/// Checks `file` against `before`.
///
/// # Errors
/// All problems, in the order of the file; those of clients that it does not name come last.
pub(super) fn all(
    file: &ApplyFile,
    before: &State,
    options: &Options<'_>,
    hasher: &PasswordHasher,
) -> Result<After, Vec<Problem>> {
    let mut found = Found(Vec::new());
    let after = resources(file, before, options, &mut found);
    let mut seen = HashSet::new();
    for spec in &file.client {
        let object = named("client", &spec.client_id);
        if !seen.insert(spec.client_id.as_str()) {
            found.add(&object, "client_id", "is there twice in the file");
        }
        client(spec, &after, options, &mut found);
        let stored = before.clients.get(&spec.client_id).map_or(&[][..], |stored| &stored.credentials);
        for (field, text) in credentials::problems(spec, stored) {
            found.add(&object, field, text);
        }
    }
    for (username, field, text) in users::problems(&file.user, options, hasher) {
        found.add(&named("user", &username), field, text);
    }
    for stored in before.clients.values() {
        let gone = options.prune && stored.is_applied();
        if !gone && !seen.contains(stored.row.client_id.as_str()) {
            bystander(stored, before, &after, &mut found);
        }
    }
    let staying = before.clients.values().filter(|stored| !(options.prune && stored.is_applied()));
    let clients = staying.map(|stored| stored.row.client_id.as_str()).chain(seen).collect();
    own_claims::check(file, &after, &clients, &mut found);
    if found.0.is_empty() { Ok(after) } else { Err(found.0) }
}

pub(super) struct Found(Vec<Problem>);

impl Found {
    pub(super) fn add(&mut self, object: &str, field: &str, text: impl Into<String>) {
        self.0.push(Problem { object: object.to_owned(), field: field.to_owned(), text: text.into() });
    }
}

pub(super) fn named(kind: &str, id: &str) -> String {
    format!("{kind} {id:?}")
}

fn resources(file: &ApplyFile, before: &State, options: &Options<'_>, found: &mut Found) -> After {
    let named_here: HashSet<&str> = file.resource.iter().map(|spec| spec.identifier.as_str()).collect();
    let userinfo = format!("{}{USERINFO_PATH}", options.issuer.trim_end_matches('/'));
    let own = claims::SCOPES.iter().map(|scope| ((*scope).to_owned(), userinfo.clone()));
    let mut after = After { resources: BTreeSet::new(), owners: own.collect() };
    for stored in before.resources.iter() {
        let gone = options.prune && stored.managed_by == ManagedBy::Apply;
        if !gone && !named_here.contains(stored.identifier.as_str()) {
            after.resources.insert(stored.identifier.clone());
            let owned = stored.scopes.keys().map(|scope| (scope.clone(), stored.identifier.clone()));
            after.owners.extend(owned);
        }
    }
    for spec in &file.resource {
        resource(spec, options, &mut after, found);
    }
    after
}

fn resource(spec: &ResourceSpec, options: &Options<'_>, after: &mut After, found: &mut Found) {
    let object = named("resource", &spec.identifier);
    for wrong in spec.settings.check(&spec.identifier, options.max_lifetime, options.algorithms) {
        found.add(&object, wrong.field, wrong.text);
    }
    // mechanisms, decision 4: these are the server's own.
    let own = spec.identifier.strip_prefix(options.issuer.trim_end_matches('/'));
    if own.is_some_and(|path| ["", "/", "/userinfo", "/api", "/ca"].contains(&path)) {
        found.add(&object, "identifier", "is the server's own");
    }
    if !after.resources.insert(spec.identifier.clone()) {
        found.add(&object, "identifier", "is there twice in the file");
        return;
    }
    for (scope, description) in &spec.scopes {
        if !Scope::is_token(scope) {
            let text =
                format!("{scope:?} is not a scope: visible ASCII without quote, backslash and space (RFC 6749 §3.3)");
            found.add(&object, "scopes", text);
        }
        if check_text("scopes", description).is_err() {
            found.add(&object, "scopes", format!("the description of {scope:?} takes 1 to 200 visible characters"));
        }
        if let Some(owner) = after.owners.get(scope) {
            found.add(&object, "scopes", format!("{scope:?} belongs to resource {owner:?}; a scope has one owner"));
        } else {
            after.owners.insert(scope.clone(), spec.identifier.clone());
        }
    }
}

fn client(spec: &ClientSpec, after: &After, options: &Options<'_>, found: &mut Found) {
    let object = named("client", &spec.client_id);
    let metadata = &spec.metadata;
    if let Err(wrong) = check_client_id(&spec.client_id) {
        found.add(&object, wrong.field, wrong.text);
    }
    for wrong in metadata.check(options.max_lifetime, options.allow_http) {
        found.add(&object, wrong.field, wrong.text);
    }
    for (field, identifiers) in [("resources", &metadata.resources), ("serves", &metadata.serves)] {
        let mut seen = HashSet::new();
        for identifier in identifiers {
            if !after.resources.contains(identifier) {
                found.add(
                    &object,
                    field,
                    format!("there is no resource {identifier:?}, in the file or in the database"),
                );
            }
            if !seen.insert(identifier) {
                found.add(&object, field, format!("names {identifier:?} twice"));
            }
        }
    }
    for token in metadata.scope.iter() {
        match after.owners.get(token) {
            None => {
                let text = format!("no resource has the scope {token:?}, in the file or in the database");
                found.add(&object, "scope", text);
            }
            Some(owner)
                if !metadata.resources.is_empty()
                    && after.resources.contains(owner)
                    && !metadata.resources.contains(owner) =>
            {
                let text = format!("{token:?} belongs to {owner:?}, which is not among the client's resources");
                found.add(&object, "scope", text);
            }
            Some(_) => {}
        }
    }
    let signed = [
        ("id_token_signed_response_alg", Some(metadata.id_token_signed_response_alg)),
        ("userinfo_signed_response_alg", metadata.userinfo_signed_response_alg),
    ];
    for (field, algorithm) in signed {
        let needed = metadata.grant_types.contains(&GrantType::AuthorizationCode);
        if let Some(algorithm) = algorithm.filter(|algorithm| needed && !options.algorithms.contains(algorithm)) {
            found.add(&object, field, format!("{algorithm} is not among the configured keys.algorithms"));
        }
    }
    // What is set and does nothing is a mistake of whoever set it.
    let method = metadata.token_endpoint_auth_method;
    let secrets = [("client_secret", spec.client_secret.is_some()), ("client_secrets", spec.client_secrets.is_some())];
    for (field, given) in secrets {
        if given && !SECRETS.contains(&method) {
            found.add(&object, field, format!("is not for token_endpoint_auth_method = \"{method}\""));
        }
    }
    match (method, spec.jwks.is_some(), metadata.jwks_uri.is_some()) {
        (AuthMethod::PrivateKeyJwt, false, false) => {
            found.add(&object, "jwks", "private_key_jwt needs jwks or jwks_uri");
        }
        (AuthMethod::PrivateKeyJwt, true, true) => {
            found.add(&object, "jwks", "takes jwks or jwks_uri, not both (RFC 7591 §2)");
        }
        (AuthMethod::PrivateKeyJwt, ..) | (_, false, _) => {}
        (_, true, _) => found.add(&object, "jwks", "is only for token_endpoint_auth_method = \"private_key_jwt\""),
    }
}

/// A client that the file does not name may not be left with what is taken away from under it.
fn bystander(stored: &StoredClient, before: &State, after: &After, found: &mut Found) {
    let object = named("client", &stored.row.client_id);
    let metadata = &stored.metadata;
    for (field, identifiers) in [("resources", &metadata.resources), ("serves", &metadata.serves)] {
        for identifier in identifiers {
            if before.resources.resource(identifier).is_some() && !after.resources.contains(identifier) {
                let text = format!(
                    "names the resource {identifier:?}, which would be removed; name this client in the file, too"
                );
                found.add(&object, field, text);
            }
        }
    }
    for token in metadata.scope.iter() {
        let Some(old) = before.resources.owner(token) else { continue };
        match after.owners.get(token) {
            None => {
                let text = format!("names {token:?}, which would be removed; name this client in the file, too");
                found.add(&object, "scope", text);
            }
            Some(new)
                if *new != old.identifier && !metadata.resources.is_empty() && !metadata.resources.contains(new) =>
            {
                let text = format!(
                    "names {token:?}, which would move to {new:?}, not among the client's resources; name this client in the file, too"
                );
                found.add(&object, "scope", text);
            }
            Some(_) => {}
        }
    }
}
