//! The integration tests: one binary, one file per protocol or promise. They talk HTTP; every test that touches the
//! database runs on SQLite and on PostgreSQL.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod process;
mod support;
mod targets;

mod architecture;
mod assertions;
mod cli;
mod clients;
mod crash;
mod database;
mod degraded;
mod dev;
mod edge;
mod fuzz;
mod introspection;
mod jobs;
mod jose;
mod jwks_uri;
mod leakage;
mod metadata;
mod readme;
mod registry;
mod replay;
mod revocation;
mod revoke_nodes;
mod timing;
mod tls;
mod token;
