//! The integration tests: one binary, one file per protocol or promise. They talk HTTP; every test that touches the
//! database runs on SQLite and on PostgreSQL.

mod process;
mod support;

mod architecture;
mod cli;
mod crash;
mod database;
mod dev;
mod introspection;
mod metadata;
mod readme;
mod replay;
mod revocation;
mod revoke_nodes;
mod token;
