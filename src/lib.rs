//! Sealwright: an OAuth 2.0 / OpenID Connect authorization server with a certificate authority in it.
//!
//! Dependencies point one way, from the last line of this picture to the first:
//!
//! ```text
//! foundation   checks clock config error form log password pool secret store wire
//! services     apply audit clients cx issue jobs keys metrics nodes outbound resources
//! edge         http
//! protocols    oauth
//! app          the parts of one issuer, wired; cli starts it
//! ```

pub mod app;
pub mod apply;
pub mod audit;
pub mod checks;
pub mod cli;
pub mod clients;
pub mod clock;
pub mod config;
pub mod cx;
pub mod error;
pub mod form;
pub mod http;
pub mod issue;
pub mod jobs;
pub mod keys;
pub mod log;
pub mod metrics;
pub mod nodes;
pub mod oauth;
pub mod outbound;
pub mod password;
pub mod pool;
pub mod resources;
pub mod secret;
pub mod store;
pub mod wire;
