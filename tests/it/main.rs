//! The integration tests: one binary, one file per protocol or promise. They talk HTTP; every test that touches the
//! database runs on SQLite and on PostgreSQL.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "tests are clients, and have patience by the system's clock")]

mod browser;
mod people;
mod process;
mod support;
mod targets;

mod account;
mod architecture;
mod assertions;
mod authorize;
mod cli;
mod clients;
mod codes;
mod confusion;
mod consent;
mod crash;
mod database;
mod degraded;
mod dev;
mod docker;
mod edge;
mod endings;
mod flood;
mod flows;
mod fuzz;
mod guesses;
mod hostile;
mod introspection;
mod jobs;
mod jose;
mod jwks_uri;
mod key_ends;
mod key_files;
mod keys;
mod leakage;
mod login;
mod login_command;
mod logout;
mod master_keys;
mod metadata;
mod openid_clients;
mod pages;
mod proxies;
mod races;
mod readme;
mod refresh;
mod refusals;
mod registry;
mod replay;
mod revocation;
mod revoke_nodes;
mod rivals;
mod rotation;
mod sessions;
mod throttle;
mod timing;
mod tls;
mod together;
mod token;
mod userinfo;
mod users;
mod visitors;
