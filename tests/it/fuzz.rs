//! Driving the fuzz targets by a small deterministic mutator, in every change; `tests/long.sh` has libFuzzer do it. F-23.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Engine, FORM, SECRET, Server, TOKEN, basic, rounds};
use crate::targets::TARGETS;

/// Marsaglia's xorshift64: the same bytes on every machine and in every run.
struct Mutator {
    state: u64,
}

impl Mutator {
    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap()
    }

    fn pick<'a>(&mut self, from: &[&'a [u8]]) -> &'a [u8] {
        from[self.below(from.len())]
    }

    /// A seed with one to eight edits.
    fn mutate(&mut self, seeds: &[&[u8]], words: &[&[u8]]) -> Vec<u8> {
        const BYTES: &[u8] = b"\0\t\n\r \"%&'+,-./0:;=?@[\\]_{}~\x7f\x80\xc3\xff";
        let mut bytes = self.pick(seeds).to_vec();
        for _ in 0..=self.below(8) {
            let at = self.below(bytes.len() + 1);
            let end = at + self.below((bytes.len() - at).min(40) + 1);
            match self.below(9) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 if at < bytes.len() => bytes[at] = BYTES[self.below(BYTES.len())],
                2 => bytes.insert(at, BYTES[self.below(BYTES.len())]),
                3 => drop(bytes.drain(at..end)),
                4 => {
                    let again = bytes[at..end].to_vec();
                    bytes.splice(at..at, again);
                }
                5 => bytes.truncate(at),
                6 => {
                    let other = self.pick(seeds);
                    let from = self.below(other.len() + 1);
                    bytes.truncate(at);
                    bytes.extend_from_slice(&other[from..]);
                }
                _ => {
                    let word = self.pick(words);
                    bytes.splice(at..end, word.iter().copied());
                }
            }
        }
        bytes.truncate(8192);
        bytes
    }
}

/// Runs a target on each seed and on many mutants of them; shows the bytes that it panics on.
fn drive(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let seeds = (target.seeds)();
    let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
    let mut mutator = Mutator { state: 0x9e37_79b9_7f4a_7c15 };
    let run = |bytes: &[u8]| {
        let ended = catch_unwind(AssertUnwindSafe(|| (target.run)(bytes)));
        assert!(ended.is_ok(), "panicked on b\"{}\"", bytes.escape_ascii());
    };
    for seed in &seeds {
        run(seed);
    }
    for _ in 0..rounds(20_000) {
        run(&mutator.mutate(&seeds, target.words));
    }
}

#[test]
fn f23_form() {
    drive("form");
}

#[test]
fn f23_basic_header() {
    drive("authorization");
}

#[test]
fn f23_scope() {
    drive("scope");
}

#[test]
fn f23_jws() {
    drive("jws");
}

#[test]
fn f23_jws_content() {
    drive("jws_content");
}

#[test]
fn f23_jwk() {
    drive("jwk");
}

#[test]
fn f23_apply_toml() {
    drive("apply_toml");
}

#[test]
fn f23_apply_json() {
    drive("apply_json");
}

#[test]
fn f23_config() {
    drive("config");
}

/// Heads of requests, and what follows them, as bytes on a connection: never a 5xx, a panic or a connection for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f23_http_requests() {
    let (server, _) = Server::example(Engine::Sqlite).await;
    let address = server.url.strip_prefix("http://").unwrap();
    let auth = basic("orders-sync", SECRET);
    let head = format!("Host: a\r\nAuthorization: {auth}\r\nContent-Type: {FORM}\r\n");
    let seeds = [
        format!("POST {TOKEN} HTTP/1.1\r\n{head}Content-Length: 29\r\n\r\ngrant_type=client_credentials"),
        format!(
            "POST /oauth2/introspect HTTP/1.1\r\n{head}Transfer-Encoding: chunked\r\n\r\n7\r\ntoken=x\r\n0\r\n\r\n"
        ),
        "GET /.well-known/jwks.json HTTP/1.1\r\nHost: a\r\nIf-None-Match: \"a\", W/\"b\"\r\nRange: bytes=0-1\r\n\r\n"
            .into(),
        format!(
            "OPTIONS {TOKEN} HTTP/1.1\r\nHost: a\r\nOrigin: https://a\r\nAccess-Control-Request-Method: POST\r\n\r\n"
        ),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x05\x01\x05\0\0\0\x01\u{2}\u{4}\u{6}".into(),
    ];
    let seeds: Vec<&[u8]> = seeds.iter().map(String::as_bytes).collect();
    let words: [&[u8]; 16] = [
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\r",
        b" ",
        b":",
        b"Content-Length: ",
        b"Transfer-Encoding: chunked\r\n",
        b"HTTP/1.0",
        b"HTTP/2.0",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"Expect: 100-continue\r\n",
        b"Upgrade: h2c\r\n",
        b"0\r\n\r\n",
        b"%",
        b"\0\0\x04\x08\0\0\0\0\0",
    ];
    let mut mutator = Mutator { state: 0x2545_f491_4f6c_dd1d };
    for round in 0..rounds(20_000) / 8 {
        let request = mutator.mutate(&seeds, &words);
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.write_all(&request).await;
        let _ = stream.shutdown().await;
        let read = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "round {round}: the connection stays open: {}", request.escape_ascii());
        let failed = answer.windows(10).any(|window| window == b"HTTP/1.1 5");
        assert!(!failed, "round {round}: {}\n{}", request.escape_ascii(), String::from_utf8_lossy(&answer));
    }
    let metrics = server.http.get(format!("{}/metrics", server.management)).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("sealwright_http_panics_total 0"), "{metrics}");
    server.token().await;
}
