//! Sealwright: an OAuth 2.0 / OpenID Connect authorization server with a certificate authority in it.

pub mod clock;
pub mod error;
pub mod keys;
pub mod outbound;
pub mod secret;
pub mod wire;
