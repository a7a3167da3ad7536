//! The grants, one file each: they read and decide; `issue::tokens` does the rest.

pub mod client_credentials;
