//! The integration tests: one binary, one file per protocol or promise. They talk HTTP; every test that touches the
//! database runs on SQLite and on PostgreSQL.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

mod architecture;
mod assertions;
mod database;
mod degraded;
mod edge;
mod fuzz;
mod introspection;
mod jose;
mod jwks_uri;
mod leakage;
mod metadata;
mod revocation;
mod tls;
mod token;
