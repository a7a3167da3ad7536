//! Sealwright: an OAuth 2.0 / OpenID Connect authorization server with a certificate authority in it.
//!
//! Dependencies point one way, from the last line of this picture to the first:
//!
//! ```text
//! foundation   checks clock config error form log look password pool secret store wire
//! services     apply audit claims clients consents cx flow issue jobs keys metrics nodes outbound resources session users
//!              visitors
//! edge         http pages
//! protocols    account oauth oidc
//! app          the parts of one issuer, wired; cli starts it
//! ```

pub mod account;
pub mod app;
pub mod apply;
pub mod audit;
pub mod checks;
pub mod claims;
pub mod cli;
pub mod clients;
pub mod clock;
pub mod config;
pub mod consents;
pub mod cx;
pub mod error;
pub mod flow;
pub mod form;
pub mod http;
pub mod issue;
pub mod jobs;
pub mod keys;
pub mod log;
pub mod look;
pub mod metrics;
pub mod nodes;
pub mod oauth;
pub mod oidc;
pub mod outbound;
pub mod pages;
pub mod password;
pub mod pool;
pub mod resources;
pub mod secret;
pub mod session;
pub mod store;
pub mod users;
pub mod visitors;
pub mod wire;
