//! What is asked for or granted, in words: the same at the consent page and at `/account`.

use url::Url;

use super::Visit;
use crate::claims::{self, ClaimsRequest};
use crate::clients::Client;
use crate::wire::Scope;

/// What one API is asked for.
pub(super) struct Part {
    /// What people call it.
    pub(super) name: String,
    /// What the client may do there.
    pub(super) words: Vec<String>,
}

/// What each scope means, by API; about the person first. A claim that is asked for by name is told as the scope that
/// stands for it; `offline_access` is said under how long. An API among `resources` that has no scope here is told, too:
/// tokens are for it all the same.
pub(super) fn parts<'r>(
    visit: &Visit<'_>,
    client: &Client,
    (scope, named): (&Scope, &ClaimsRequest),
    resources: impl IntoIterator<Item = &'r String>,
) -> Vec<Part> {
    let texts = visit.frame.texts;
    let by_name = claims::scopes_asked(&visit.cx, client, named);
    let scope: Scope = scope.iter().chain(by_name.iter()).filter(|scope| *scope != "offline_access").collect();
    let catalog = visit.cx.resources.load();
    let mut parts: Vec<(bool, Part)> = Vec::new();
    let mut apis = catalog.owners(&scope);
    apis.extend(resources.into_iter().filter_map(|identifier| catalog.resource(identifier)).cloned());
    apis.sort_by(|a, b| a.identifier.cmp(&b.identifier));
    apis.dedup_by(|a, b| a.identifier == b.identifier);
    for owner in apis {
        let mut scopes: Vec<&str> = scope.iter().collect();
        // Of ours, what matters most comes first.
        scopes.sort_by_key(|scope| claims::SCOPES.iter().position(|known| known == scope));
        let words = |token: &&str| {
            let words = owner.scopes.get(*token)?;
            Some(if owner.built_in { texts.scope(token)?.to_owned() } else { words.clone() })
        };
        let mut words: Vec<String> = scopes.iter().filter_map(words).collect();
        if words.is_empty() && !owner.built_in {
            words.push(texts.consent_api.to_owned());
        }
        let name = if owner.built_in {
            texts.consent_own.to_owned()
        } else {
            owner.settings.name.clone().unwrap_or_else(|| owner.identifier.clone())
        };
        if !words.is_empty() {
            parts.push((!owner.built_in, Part { name, words }));
        }
    }
    parts.sort_by_key(|(later, _)| *later);
    parts.into_iter().map(|(_, part)| part).collect()
}

/// Where a redirect URI leads, in words: a host, or the application of a scheme of its own, whatever stands behind that.
pub(super) fn host(redirect_uri: &str) -> String {
    let Ok(url) = Url::parse(redirect_uri) else { return String::new() };
    let host = url.host_str().filter(|_| matches!(url.scheme(), "https" | "http"));
    host.map_or_else(|| format!("{}:", url.scheme()), str::to_owned)
}
