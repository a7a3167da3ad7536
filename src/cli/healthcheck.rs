//! `sealwright healthcheck`: one request to the management listener.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use super::output::{Failure, say};
use super::source::Source;

const PATH: &str = "/health/ready";
/// For connecting, and for each step after it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Ask the server of this configuration whether it is ready; for containers without a shell
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  sealwright healthcheck
  HEALTHCHECK CMD [\"/sealwright\", \"healthcheck\"]

It asks /health/ready of the first address of management.listen. The exit status is 0 when the server is ready.")]
pub struct Args {
    #[command(flatten)]
    source: Source,
}

/// `sealwright healthcheck`.
pub fn run(args: &Args) -> Result<(), Failure> {
    let config = args.source.load()?;
    let Some(listen) = config.management.listen.first() else {
        return Err(Failure::failed(
            "management.listen is empty, so nobody can be asked; give it an address, such as 127.0.0.1:9090",
        ));
    };
    let address = reachable(listen.address());
    let answer = ask(address).map_err(|cause| {
        Failure::failed(format!("no answer from http://{address}{PATH} (management.listen): {cause}"))
    })?;
    match status(&answer) {
        Some(200) => {
            say("ready");
            Ok(())
        }
        Some(status) => Err(Failure::failed(format!("not ready: HTTP status {status}: {}", body(&answer)))),
        None => Err(Failure::failed(format!("what answers at {address} is no HTTP server"))),
    }
}

/// Where a listener on every address is reached from this machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// One plain request; the HTTP client would load the machine's root certificates first.
fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET {PATH} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(16 * 1024).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn status(answer: &str) -> Option<u16> {
    answer.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read() {
        let answer = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\n\r\nno lease\n";
        assert_eq!((status(answer), body(answer)), (Some(503), "no lease"));
        for garbage in ["", "SSH-2.0-x", "HTTP/1.1 2", "HTTP/1.1 abc"] {
            assert_eq!(status(garbage), None);
        }
    }

    #[test]
    fn a_listener_on_every_address_is_asked_on_loopback() {
        assert_eq!(reachable("0.0.0.0:9090".parse().unwrap()), "127.0.0.1:9090".parse().unwrap());
        assert_eq!(reachable("[::]:9090".parse().unwrap()), "[::1]:9090".parse().unwrap());
        assert_eq!(reachable("10.0.0.1:1".parse().unwrap()), "10.0.0.1:1".parse().unwrap());
    }
}
