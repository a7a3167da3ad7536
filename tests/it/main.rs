//! The integration tests: one binary, one file per protocol or promise. They talk HTTP; every test that touches the
//! database runs on SQLite and on PostgreSQL.

mod support;

mod architecture;
mod database;
mod degraded;
mod edge;
mod fuzz;
mod introspection;
mod leakage;
mod metadata;
mod revocation;
mod tls;
mod token;
