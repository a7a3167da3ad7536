//! OpenID Connect beside the tokens: userinfo, and signing out at a client's request.

mod logout;
mod userinfo;

use std::sync::Arc;

use axum::Router;
use axum::routing::get;

use crate::cx::Services;
use crate::http::no_head;
use crate::wire::{LOGOUT_PATH, USERINFO_PATH};

/// Userinfo.
pub fn routes(services: Arc<Services>) -> Router {
    let path = format!("{}{USERINFO_PATH}", services.issuer.path());
    let methods = get(userinfo::userinfo).post(userinfo::userinfo).options(userinfo::preflight);
    Router::new().route(&path, methods).with_state(services)
}

/// Signing out, which needs the session layer around it.
pub fn people_routes(services: Arc<Services>) -> Router {
    let path = format!("{}{LOGOUT_PATH}", services.issuer.path());
    Router::new().route(&path, get(logout::logout).head(no_head).post(logout::logout)).with_state(services)
}
