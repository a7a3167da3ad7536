//! The discovery documents (RFC 8414, OpenID Connect Discovery) and the key set: rendered once per change of what
//! they say, and derived from the vocabularies, so that they cannot drift from what works.

use std::sync::{Arc, Weak};

use arc_swap::ArcSwapOption;
use axum::extract::{Request, State};
use axum::response::Response;
use serde::Serialize;

use super::{INTROSPECTION_PATH, JWKS_PATH, OAuth, REVOCATION_PATH};
use crate::claims;
use crate::cx::Services;
use crate::http::cors;
use crate::http::render::Document;
use crate::keys::{KeyRing, KeyState};
use crate::pages::texts;
use crate::resources::Catalog;
use crate::wire::{
    AUTHORIZATION_PATH, Acr, Algorithm, AuthMethod, GrantType, LOGOUT_PATH, Prompt, ResponseMode, TOKEN_PATH,
    USERINFO_PATH,
};

/// The documents as last rendered, each with the snapshot that it shows. Of the keys only as a mark: a document must not
/// keep the private half of a key that has gone.
pub struct Published {
    /// How long a verifier may keep them, in seconds.
    max_age: u32,
    jwks: ArcSwapOption<(Weak<KeyRing>, Document)>,
    discovery: ArcSwapOption<Discovered>,
}

/// Discovery as last rendered, with the snapshots that it shows.
struct Discovered {
    catalog: Arc<Catalog>,
    ring: Weak<KeyRing>,
    document: Document,
}

impl Published {
    /// Nothing rendered yet.
    pub fn new(max_age: u32) -> Self {
        Self { max_age, jwks: ArcSwapOption::empty(), discovery: ArcSwapOption::empty() }
    }

    fn jwks(&self, ring: &Arc<KeyRing>) -> Arc<(Weak<KeyRing>, Document)> {
        match self.jwks.load_full() {
            Some(last) if shows(&last.0, ring) => last,
            _ => {
                let document = Document::new(ring.jwks().clone(), "application/jwk-set+json", self.max_age);
                let rendered = Arc::new((Arc::downgrade(ring), document));
                self.jwks.store(Some(rendered.clone()));
                rendered
            }
        }
    }

    fn discovery(&self, services: &Services) -> Arc<Discovered> {
        let (catalog, ring) = (services.resources.load_full(), services.keys.ring());
        match self.discovery.load_full() {
            Some(last) if Arc::ptr_eq(&last.catalog, &catalog) && shows(&last.ring, &ring) => last,
            _ => {
                let text = serde_json::to_vec(&Discovery::of(services, &catalog, &ring)).unwrap_or_default();
                let document = Document::new(text, "application/json", self.max_age);
                let rendered = Arc::new(Discovered { catalog, ring: Arc::downgrade(&ring), document });
                self.discovery.store(Some(rendered.clone()));
                rendered
            }
        }
    }
}

/// Whether `mark` is of this snapshot: while there is a mark, no other has its place in memory.
fn shows(mark: &Weak<KeyRing>, ring: &Arc<KeyRing>) -> bool {
    std::ptr::eq(mark.as_ptr(), Arc::as_ptr(ring))
}

pub(super) async fn jwks(State(oauth): State<Arc<OAuth>>, request: Request) -> Response {
    let ring = oauth.services.keys.ring();
    // A node that is cut off from its database does not know which keys were published since: its copy is to be asked
    // for again, or a verifier could keep it until one of them signs.
    let is_current = oauth.services.node.lease_remaining() > 0;
    let mut response = oauth.published.jwks(&ring).1.respond(request.headers(), is_current);
    cors::allow_any(response.headers_mut());
    response
}

pub(super) async fn discovery(State(oauth): State<Arc<OAuth>>, request: Request) -> Response {
    let mut response = oauth.published.discovery(&oauth.services).document.respond(request.headers(), true);
    cors::allow_any(response.headers_mut());
    response
}

/// RFC 8414 §2, OpenID Connect Discovery §3. Only what works stands here.
#[derive(Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a member of its own on the wire")]
struct Discovery<'s> {
    issuer: &'s str,
    authorization_endpoint: String,
    token_endpoint: String,
    userinfo_endpoint: String,
    end_session_endpoint: String,
    jwks_uri: String,
    introspection_endpoint: String,
    revocation_endpoint: String,
    response_types_supported: [&'static str; 1],
    response_modes_supported: &'static [ResponseMode],
    grant_types_supported: &'static [GrantType],
    subject_types_supported: [&'static str; 1],
    scopes_supported: Vec<&'s str>,
    claims_supported: Vec<String>,
    acr_values_supported: &'static [Acr],
    ui_locales_supported: Vec<&'static str>,
    prompt_values_supported: &'static [Prompt],
    code_challenge_methods_supported: [&'static str; 1],
    authorization_response_iss_parameter_supported: bool,
    claims_parameter_supported: bool,
    request_parameter_supported: bool,
    request_uri_parameter_supported: bool,
    id_token_signing_alg_values_supported: Vec<&'s str>,
    userinfo_signing_alg_values_supported: Vec<&'s str>,
    token_endpoint_auth_methods_supported: &'static [AuthMethod],
    token_endpoint_auth_signing_alg_values_supported: Vec<&'static str>,
    introspection_endpoint_auth_methods_supported: Vec<AuthMethod>,
    introspection_endpoint_auth_signing_alg_values_supported: Vec<&'static str>,
    revocation_endpoint_auth_methods_supported: &'static [AuthMethod],
    revocation_endpoint_auth_signing_alg_values_supported: Vec<&'static str>,
}

impl<'s> Discovery<'s> {
    fn of(services: &'s Services, catalog: &'s Catalog, ring: &'s KeyRing) -> Self {
        let issuer = &services.issuer;
        let algorithms = || Algorithm::ALL.iter().flat_map(|algorithm| algorithm.names()).copied().collect::<Vec<_>>();
        let mut scopes: Vec<&str> =
            catalog.iter().flat_map(|resource| resource.scopes.keys().map(String::as_str)).collect();
        scopes.sort_unstable();
        // What we sign with now, under the names that headers have.
        let active = ring.entries().iter().filter(|entry| entry.state == KeyState::Active);
        let mut signing: Vec<&str> = active.map(|entry| entry.alg_name.as_str()).collect();
        signing.dedup();
        Self {
            issuer: issuer.as_str(),
            authorization_endpoint: issuer.endpoint(AUTHORIZATION_PATH),
            token_endpoint: issuer.endpoint(TOKEN_PATH),
            userinfo_endpoint: issuer.endpoint(USERINFO_PATH),
            end_session_endpoint: issuer.endpoint(LOGOUT_PATH),
            jwks_uri: issuer.endpoint(JWKS_PATH),
            introspection_endpoint: issuer.endpoint(INTROSPECTION_PATH),
            revocation_endpoint: issuer.endpoint(REVOCATION_PATH),
            response_types_supported: ["code"],
            response_modes_supported: ResponseMode::ALL,
            grant_types_supported: GrantType::ALL,
            subject_types_supported: ["public"],
            scopes_supported: scopes,
            claims_supported: claims::claims_supported(services),
            acr_values_supported: Acr::ALL,
            ui_locales_supported: texts::languages().collect(),
            prompt_values_supported: Prompt::ALL,
            code_challenge_methods_supported: ["S256"],
            authorization_response_iss_parameter_supported: true,
            claims_parameter_supported: true,
            request_parameter_supported: false,
            request_uri_parameter_supported: false,
            id_token_signing_alg_values_supported: signing.clone(),
            userinfo_signing_alg_values_supported: signing,
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
