//! HTTP without protocol knowledge: listeners and TLS, whose request it is, what every request and answer has in
//! common, reading forms, rendering errors.

pub mod address;
pub mod cors;
pub mod form;
pub mod layers;
pub mod listen;
pub mod render;
pub mod tls;

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::time::Duration;

/// Bounds of one set of listeners.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections open at once; more wait in the system's queue.
    pub max_connections: usize,
    /// How long a new connection has until its first request is there.
    pub header_timeout: Duration,
    /// How long a connection may stay without a request; it is closed after one to two times this.
    pub keep_alive: Duration,
    /// How long requests in flight have when the server stops.
    pub drain: Duration,
}

/// What is known of the connection a request came over: an extension of every request.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// Who is at the other end: a client, or a proxy.
    pub peer: IpAddr,
    /// Whether it is TLS.
    pub secure: bool,
}
