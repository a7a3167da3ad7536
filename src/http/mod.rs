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

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ::http::Extensions;

use crate::cx::{Cx, Services};
use crate::error::{Code, Error};

/// Bounds of one set of listeners.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections open at once; more wait in the system's queue.
    pub max_connections: usize,
    /// How long a new connection has until its first request is there; where it is TLS, and before that for the
    /// handshake.
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

/// HEAD where GET does something: it would be done, and nobody told.
pub async fn no_head() -> Error {
    Error::new(Code::MethodNotAllowed, "Not with this method.")
}

/// Nothing is at this address.
pub async fn no_page() -> Error {
    Error::new(Code::NotFound, "There is no such page.")
}

/// A request's view of the services, by what the edge left in its extensions.
pub fn view<'s>(services: &'s Services, extensions: &Extensions) -> Cx<'s> {
    match extensions.get::<layers::Peer>() {
        Some(peer) => Cx::new(services, peer.address, peer.request_id.as_str().into()),
        None => Cx::new(services, Ipv4Addr::UNSPECIFIED.into(), "".into()),
    }
}
