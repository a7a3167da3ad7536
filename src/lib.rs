//! Sealwright: an OAuth 2.0 / OpenID Connect authorization server with a certificate authority in it.

pub mod clock;
pub mod config;
pub mod error;
pub mod form;
pub mod http;
pub mod metrics;
pub mod secret;
pub mod store;
pub mod wire;
