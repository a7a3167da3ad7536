//! The discovery documents (RFC 8414, OpenID Connect Discovery) and the key set: rendered once per change of what
//! they say, and derived from the vocabularies, so that they cannot drift from what works.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use serde::Serialize;

use super::{INTROSPECTION_PATH, JWKS_PATH, OAuth, REVOCATION_PATH};
use crate::cx::Services;
use crate::http::cors;
use crate::http::render::Document;
use crate::keys::KeyRing;
use crate::resources::Catalog;
use crate::wire::{Algorithm, AuthMethod, GrantType, TOKEN_PATH};

/// The documents as last rendered, each with the snapshot that it shows.
pub struct Published {
    /// How long a verifier may keep them, in seconds.
    max_age: u32,
    jwks: ArcSwapOption<(Arc<KeyRing>, Document)>,
    discovery: ArcSwapOption<(Arc<Catalog>, Document)>,
}

impl Published {
    /// Nothing rendered yet.
    pub fn new(max_age: u32) -> Self {
        Self { max_age, jwks: ArcSwapOption::empty(), discovery: ArcSwapOption::empty() }
    }

    fn jwks(&self, ring: Arc<KeyRing>) -> Arc<(Arc<KeyRing>, Document)> {
        fresh(&self.jwks, ring, |ring| Document::new(ring.jwks().clone(), "application/jwk-set+json", self.max_age))
    }

    fn discovery(&self, services: &Services) -> Arc<(Arc<Catalog>, Document)> {
        fresh(&self.discovery, services.resources.load_full(), |catalog| {
            let text = serde_json::to_vec(&Discovery::of(services, catalog)).unwrap_or_default();
            Document::new(text, "application/json", self.max_age)
        })
    }
}

/// What was rendered of `now`, or `render`ed anew.
fn fresh<T>(
    last: &ArcSwapOption<(Arc<T>, Document)>,
    now: Arc<T>,
    render: impl FnOnce(&T) -> Document,
) -> Arc<(Arc<T>, Document)> {
    match last.load_full() {
        Some(last) if Arc::ptr_eq(&last.0, &now) => last,
        _ => {
            let document = render(&now);
            let rendered = Arc::new((now, document));
            last.store(Some(rendered.clone()));
            rendered
        }
    }
}

pub(super) async fn jwks(State(oauth): State<Arc<OAuth>>, headers: HeaderMap) -> Response {
    let mut response = oauth.published.jwks(oauth.services.keys.ring()).1.respond(&headers);
    cors::allow_any(response.headers_mut());
    response
}

pub(super) async fn discovery(State(oauth): State<Arc<OAuth>>, headers: HeaderMap) -> Response {
    let mut response = oauth.published.discovery(&oauth.services).1.respond(&headers);
    cors::allow_any(response.headers_mut());
    response
}

/// RFC 8414 §2. Only what works stands here: with the authorization endpoint come `authorization_endpoint` and the
/// members that OpenID Connect demands.
#[derive(Serialize)]
struct Discovery<'s> {
    issuer: &'s str,
    token_endpoint: String,
    jwks_uri: String,
    introspection_endpoint: String,
    revocation_endpoint: String,
    response_types_supported: [&'static str; 0],
    grant_types_supported: &'static [GrantType],
    scopes_supported: Vec<&'s str>,
    token_endpoint_auth_methods_supported: &'static [AuthMethod],
    token_endpoint_auth_signing_alg_values_supported: Vec<&'static str>,
    introspection_endpoint_auth_methods_supported: Vec<AuthMethod>,
    introspection_endpoint_auth_signing_alg_values_supported: Vec<&'static str>,
    revocation_endpoint_auth_methods_supported: &'static [AuthMethod],
    revocation_endpoint_auth_signing_alg_values_supported: Vec<&'static str>,
}

impl<'s> Discovery<'s> {
    fn of(services: &'s Services, catalog: &'s Catalog) -> Self {
        let issuer = &services.issuer;
        let algorithms = || Algorithm::ALL.iter().flat_map(|algorithm| algorithm.names()).copied().collect::<Vec<_>>();
        let mut scopes: Vec<&str> =
            catalog.iter().flat_map(|resource| resource.scopes.keys().map(String::as_str)).collect();
        scopes.sort_unstable();
        Self {
            issuer: issuer.as_str(),
            token_endpoint: issuer.endpoint(TOKEN_PATH),
            jwks_uri: issuer.endpoint(JWKS_PATH),
            introspection_endpoint: issuer.endpoint(INTROSPECTION_PATH),
            revocation_endpoint: issuer.endpoint(REVOCATION_PATH),
            response_types_supported: [],
            grant_types_supported: GrantType::ALL,
            scopes_supported: scopes,
            token_endpoint_auth_methods_supported: AuthMethod::ALL,
            token_endpoint_auth_signing_alg_values_supported: algorithms(),
            introspection_endpoint_auth_methods_supported: AuthMethod::ALL
                .iter()
                .copied()
                .filter(|method| *method != AuthMethod::None)
                .collect(),
            introspection_endpoint_auth_signing_alg_values_supported: algorithms(),
            revocation_endpoint_auth_methods_supported: AuthMethod::ALL,
            revocation_endpoint_auth_signing_alg_values_supported: algorithms(),
        }
    }
}
