//! The OAuth 2.0 endpoints: one file each, under its wire name.

pub mod authorize;
mod endpoint;
pub mod grants;
mod introspect;
mod metadata;
mod revoke;
mod targets;
mod token;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};

use crate::cx::Services;
use crate::wire::TOKEN_PATH;

pub use metadata::Published;

/// Where introspection is, under the issuer.
const INTROSPECTION_PATH: &str = "/oauth2/introspect";
/// Where revocation is, under the issuer.
const REVOCATION_PATH: &str = "/oauth2/revoke";
/// Where the key set is, under the issuer.
const JWKS_PATH: &str = "/.well-known/jwks.json";
/// RFC 8414 §3; OpenID Connect Discovery §4.
const WELL_KNOWN: [&str; 2] = ["/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"];

/// What the handlers of this family need.
pub struct OAuth {
    /// The services.
    pub services: Arc<Services>,
    /// The largest body of a request, in bytes.
    pub max_body: usize,
    /// The discovery documents and the key set.
    pub published: Published,
}

/// The routes, at the issuer's path, and the well-known forms of an issuer with a path.
pub fn routes(oauth: Arc<OAuth>) -> Router {
    let issuer = oauth.services.issuer.clone();
    let at = |path: &str| format!("{}{path}", issuer.path());
    let mut router = Router::new()
        .route(&at(TOKEN_PATH), post(token::token).options(endpoint::preflight))
        .route(&at(INTROSPECTION_PATH), post(introspect::introspect))
        .route(&at(REVOCATION_PATH), post(revoke::revoke).options(endpoint::preflight))
        .route(&at(JWKS_PATH), get(metadata::jwks).options(endpoint::preflight_public));
    for name in WELL_KNOWN {
        let discovery = || get(metadata::discovery).options(endpoint::preflight_public);
        // RFC 8414 §3.1 puts the name before the issuer's path, OpenID Connect after it; clients try both.
        router = router.route(&format!("{name}{}", issuer.path()), discovery());
        if !issuer.path().is_empty() {
            router = router.route(&at(name), discovery());
        }
    }
    router.with_state(oauth)
}
