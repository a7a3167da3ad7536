//! Keys that clients publish at their `jwks_uri`: fetched and kept, and what hostile addresses and servers can do.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use sealwright::config::Config;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::assertions::{Key, assert_token, claims, form, present, refused_without_burning, with};
use crate::support::{Answer, EXAMPLE, Engine, FORM, Server, TOKEN, both, encode, rounds};

/// What a [`Site`] says to every request.
#[derive(Clone)]
pub enum Say {
    /// A set of these keys.
    Keys(Vec<Value>),
    /// As before, after this long.
    Late(Duration, Vec<Value>),
    /// This body under 200.
    Body(Vec<u8>),
    /// This body under 200, as one that is gzip.
    Packed(Vec<u8>),
    /// These bytes.
    Raw(String),
    /// The beginning of an answer, and a byte each second.
    Drip,
    /// A header and zeros until the reader has enough.
    Endless,
    /// Nothing.
    Silence,
    /// A redirect to this address, or to itself.
    Redirect(Option<String>),
}

/// A client's web server on loopback.
pub struct Site {
    pub url: String,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

struct State {
    say: Mutex<Say>,
    hits: AtomicUsize,
    open: AtomicUsize,
    most_open: AtomicUsize,
    sent: AtomicUsize,
}

impl Site {
    pub async fn start(say: Say) -> Self {
        Self::at("127.0.0.1", say).await
    }

    pub async fn at(host: &str, say: Say) -> Self {
        let listener = TcpListener::bind((host, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            say: Mutex::new(say),
            hits: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            most_open: AtomicUsize::new(0),
            sent: AtomicUsize::new(0),
        });
        let url = format!("http://{address}/jwks.json");
        let (served, own) = (state.clone(), url.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                served.hits.fetch_add(1, Ordering::SeqCst);
                let open = served.open.fetch_add(1, Ordering::SeqCst) + 1;
                served.most_open.fetch_max(open, Ordering::SeqCst);
                let (state, own) = (served.clone(), own.clone());
                tokio::spawn(async move {
                    let _ = state.answer(stream, &own).await;
                    state.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { url, state, task }
    }

    pub fn say(&self, say: Say) {
        *self.state.say.lock().unwrap() = say;
    }

    /// How many connections there were.
    pub fn hits(&self) -> usize {
        self.state.hits.load(Ordering::SeqCst)
    }

    fn port(&self) -> &str {
        self.url.rsplit_once(':').unwrap().1.split('/').next().unwrap()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl State {
    async fn answer(&self, mut stream: TcpStream, own: &str) -> std::io::Result<()> {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read(&mut byte).await? == 0 {
                return Ok(());
            }
            head.push(byte[0]);
        }
        let say = self.say.lock().unwrap().clone();
        let body = |body: &[u8]| {
            [format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
        };
        let set = |keys: Vec<Value>| body(json!({"keys": keys}).to_string().as_bytes());
        match say {
            Say::Keys(keys) => stream.write_all(&set(keys)).await,
            Say::Late(after, keys) => {
                tokio::time::sleep(after).await;
                stream.write_all(&set(keys)).await
            }
            Say::Body(text) => stream.write_all(&body(&text)).await,
            Say::Packed(text) => {
                let head =
                    format!("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n", text.len());
                stream.write_all(&[head.as_bytes(), &text].concat()).await
            }
            Say::Raw(text) => stream.write_all(text.as_bytes()).await,
            Say::Drip => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n").await?;
                loop {
                    stream.write_all(b" ").await?;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            Say::Endless => {
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
                loop {
                    self.sent.fetch_add(stream.write(&[b' '; 4096]).await?, Ordering::SeqCst);
                }
            }
            // Until the other side has had enough.
            Say::Silence => stream.read(&mut byte).await.map(drop),
            Say::Redirect(to) => {
                let to = to.unwrap_or_else(|| own.to_owned());
                let text = format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(text.as_bytes()).await
            }
        }
    }
}

/// `text` as gzip has it, at its smallest.
fn packed(text: &str) -> Vec<u8> {
    let file = std::env::temp_dir()
        .join(format!("sealwright_gzip_{:x}", u64::from_be_bytes(sealwright::secret::random().unwrap())));
    std::fs::write(&file, text).unwrap();
    let output = std::process::Command::new("gzip").args(["-9", "--stdout"]).arg(&file).output().unwrap();
    std::fs::remove_file(file).unwrap();
    assert!(output.status.success() && output.stdout.starts_with(&[0x1f, 0x8b]) && output.stdout.len() < 256 << 10);
    output.stdout
}

/// Loopback is not a place to fetch from, except in tests.
pub fn allow_loopback(config: &mut Config) {
    config.outbound.allow_http = true;
    config.outbound.allow_networks = vec!["127.0.0.1/32".parse().unwrap()];
    config.outbound.timeout_seconds = 1;
    config.outbound.jwks_refresh_seconds = 30;
}

fn client(id: &str, uri: &str) -> String {
    format!(
        "[[client]]\nclient_id = \"{id}\"\ntoken_endpoint_auth_method = \"private_key_jwt\"\nscope = \"orders:read\"\n\
         jwks_uri = \"{uri}\"\n\n"
    )
}

async fn server_with(engine: Engine, change: impl FnOnce(&mut Config), clients: &str) -> Server {
    let server = Server::with(engine, change).await;
    server.apply(EXAMPLE).await;
    server.apply(clients).await;
    server
}

/// A good assertion of client `id`, presented.
async fn ask(server: &Server, id: &str, key: &Key) -> Answer {
    present(server, &key.sign(&claims(server, id))).await
}

async fn refused(server: &Server, id: &str, key: &Key) {
    ask(server, id, key).await.assert_error(401, "invalid_client");
}

both! {
    async fn rfc7591_2_a_key_set_is_fetched_once_and_kept(engine) {
        let keys = [Key::ed25519("a"), Key::new("b", sealwright::wire::Algorithm::Es256), Key::rsa("c", sealwright::wire::Algorithm::Ps256)];
        let site = Site::start(Say::Keys(keys.iter().map(Key::jwk).collect())).await;
        let server = server_with(engine, allow_loopback, &[client("one", &site.url), client("two", &site.url)].concat()).await;
        assert_eq!(site.hits(), 0);
        for key in &keys {
            assert_token(&ask(&server, "one", key).await, "one");
            // Another client at the same address: the set is the address's.
            assert_token(&ask(&server, "two", key).await, "two");
        }
        assert_eq!(site.hits(), 1);
        server.clock.advance(Duration::from_secs(590));
        assert_token(&ask(&server, "one", &keys[0]).await, "one");
        assert_eq!(site.hits(), 1);
        // Old: a key that is no longer there goes.
        site.say(Say::Keys(vec![keys[1].jwk()]));
        server.clock.advance(Duration::from_secs(11));
        refused(&server, "one", &keys[0]).await;
        assert_token(&ask(&server, "one", &keys[1]).await, "one");
        assert_eq!(site.hits(), 2);
        // A refused assertion burns nothing here either, a used one does.
        let good = claims(&server, "one");
        refused_without_burning(&server, &[keys[0].sign(&good), keys[1].sign(&with(&good, &json!({"aud": "x"})))], &keys[1].sign(&good)).await;
        assert_eq!(site.hits(), 2, "an unknown kid within the interval");
    }

    async fn one_fetch_for_many_who_wait(engine) {
        let key = Key::ed25519("a");
        let site = Site::start(Say::Late(Duration::from_millis(300), vec![key.jwk()])).await;
        let server = server_with(engine, allow_loopback, &client("one", &site.url)).await;
        for answer in join_all((0..20).map(|_| ask(&server, "one", &key))).await {
            assert_token(&answer, "one");
        }
        assert_eq!(site.hits(), 1);
    }

    async fn s27_an_unknown_kid_fetches_once_per_interval(engine) {
        let (old, new) = (Key::ed25519("old"), Key::ed25519("new"));
        let site = Site::start(Say::Keys(vec![old.jwk()])).await;
        let server = server_with(engine, allow_loopback, &client("one", &site.url)).await;
        assert_token(&ask(&server, "one", &old).await, "one");
        site.say(Say::Keys(vec![old.jwk(), new.jwk()]));
        // The interval runs: not yet.
        refused(&server, "one", &new).await;
        assert_eq!(site.hits(), 1);
        server.clock.advance(Duration::from_secs(31));
        assert_token(&ask(&server, "one", &new).await, "one");
        assert_eq!(site.hits(), 2);
        assert_token(&ask(&server, "one", &old).await, "one");
        // Anybody can name keys that are not there: that costs the client's server one request per interval.
        for interval in 0..3 {
            for at in 0..20 {
                let stranger = Key::ed25519(&format!("unknown-{interval}-{at}"));
                refused(&server, "one", &stranger).await;
            }
            join_all((0..10).map(|at| {
                let server = &server;
                async move { refused(server, "one", &Key::ed25519(&format!("parallel-{at}"))).await }
            })).await;
            assert_eq!(site.hits(), 2 + interval);
            server.clock.advance(Duration::from_secs(31));
        }
        // A wrong signature under a known kid is no reason to ask.
        refused(&server, "one", &Key::ed25519("new")).await;
        assert_eq!(site.hits(), 4);
    }

    async fn a_server_that_is_down_leaves_its_last_set_for_an_hour(engine) {
        let key = Key::ed25519("a");
        let site = Site::start(Say::Keys(vec![key.jwk()])).await;
        let server = server_with(engine, allow_loopback, &client("one", &site.url)).await;
        assert_token(&ask(&server, "one", &key).await, "one");
        site.say(Say::Raw("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n".into()));
        server.clock.advance(Duration::from_secs(700));
        assert_token(&ask(&server, "one", &key).await, "one");
        assert_token(&ask(&server, "one", &key).await, "one");
        assert_eq!(site.hits(), 2, "tried once in the interval");
        for broken in [Say::Silence, Say::Body(b"<html>".to_vec()), Say::Raw(String::new())] {
            site.say(broken);
            server.clock.advance(Duration::from_secs(31));
            assert_token(&ask(&server, "one", &key).await, "one");
        }
        assert_eq!(site.hits(), 5);
        server.clock.advance(Duration::from_secs(3600 - 700 - 3 * 31 - 30));
        assert_token(&ask(&server, "one", &key).await, "one");
        server.clock.advance(Duration::from_mins(1));
        refused(&server, "one", &key).await;
        // Back again.
        site.say(Say::Keys(vec![key.jwk()]));
        refused(&server, "one", &key).await;
        server.clock.advance(Duration::from_secs(31));
        assert_token(&ask(&server, "one", &key).await, "one");
        // An empty set is an answer: all keys are withdrawn.
        site.say(Say::Keys(vec![]));
        server.clock.advance(Duration::from_secs(601));
        refused(&server, "one", &key).await;
    }

    async fn a_newer_set_is_not_waited_for_by_who_has_one(engine) {
        let key = Key::ed25519("a");
        let site = Site::start(Say::Keys(vec![key.jwk()])).await;
        let server = server_with(engine, allow_loopback, &client("one", &site.url)).await;
        assert_token(&ask(&server, "one", &key).await, "one");
        site.say(Say::Silence);
        server.clock.advance(Duration::from_secs(31));
        // A stranger makes us ask a server that does not answer; its own client is served meanwhile.
        let stranger = Key::ed25519("unknown");
        let started = Instant::now();
        let ((), ours) = tokio::join!(refused(&server, "one", &stranger), async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let answer = ask(&server, "one", &key).await;
            (answer, started.elapsed())
        });
        assert_token(&ours.0, "one");
        assert!(started.elapsed() >= Duration::from_millis(900) && ours.1 < Duration::from_millis(900), "{:?}", ours.1);
        // Old sets are fetched anew by one request, and the others do not wait for it.
        server.clock.advance(Duration::from_secs(601));
        let took = join_all((0..10).map(|_| async {
            let started = Instant::now();
            assert_token(&ask(&server, "one", &key).await, "one");
            started.elapsed()
        })).await;
        let waited = took.iter().filter(|took| **took > Duration::from_millis(900)).count();
        assert_eq!(waited, 1, "{took:?}");
        assert_eq!(site.hits(), 3);
    }

    async fn a_fetch_outlives_the_request_that_began_it(engine) {
        let key = Key::ed25519("a");
        let site = Site::start(Say::Late(Duration::from_millis(800), vec![key.jwk()])).await;
        let server = server_with(engine, allow_loopback, &client("one", &site.url)).await;
        // Anybody may begin a fetch and hang up: the client's keys are read all the same.
        let stranger = Key::ed25519("unknown").sign(&claims(&server, "one"));
        let request = server.http.post(format!("{}{TOKEN}", server.url)).header("content-type", FORM).body(encode(&form(TOKEN, &stranger)));
        assert!(request.timeout(Duration::from_millis(300)).send().await.is_err());
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(site.hits(), 1);
        assert_token(&ask(&server, "one", &key).await, "one");
        assert_eq!(site.hits(), 1);
    }

    async fn t83_hostile_sets_are_invalid_client_and_bounded(engine) {
        let key = Key::ed25519("a");
        let jwk = key.jwk();
        let set = json!({"keys": [jwk]}).to_string();
        let private = with(&jwk, &json!({"d": "AAAA"}));
        let many = |count: usize, one: &str| format!("{{\"keys\":[{},{jwk}]}}", vec![one; count].join(","));
        let raw = |head: &str| Say::Raw(format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n{set}", set.len()));
        let body = |text: &str| Say::Body(text.as_bytes().to_vec());
        let hostile = [
            body(""), body("{}"), body("[]"), body("null"), body("<html>"), body("{\"keys\":{}}"), body("{\"keys\":[1]}"), body("{\"keys\":[[]]}"),
            body(&set[..set.len() - 1]), body(&format!("{set}{set}")), body(&format!("{{\"keys\":[],{}", &set[1..])),
            Say::Body(vec![0xff; 1000]), Say::Body(vec![0; 1000]),
            body(&json!({"keys": [private]}).to_string()), body(&json!({"keys": [jwk, {"kty": "oct", "k": "c2VjcmV0"}]}).to_string()),
            body(&jwk.to_string()),
            // 10^6 keys, 10^5 that fit the bound, 101; and nesting.
            body(&many(1_000_000, "{}")), body(&many(100_000, "{}")), body(&many(100, "{\"kty\":\"x\"}")), body(&"[".repeat(500_000)), body(&"{\"keys\":".repeat(50_000)),
            // The set itself, but too far in.
            body(&format!("{}{set}", " ".repeat(600_000))),
            raw("201 Created"), raw("206 Partial Content"), raw("304 Not Modified"), raw("404 Not Found"), raw("500 Oh"),
            Say::Raw(format!("HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n{set}")),
            Say::Raw(format!("HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551616\r\n\r\n{set}")),
            Say::Raw(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{set}", set.len() + 1)),
            Say::Raw(format!("HTTP/1.1 200 OK\r\n{}\r\n{set}", "x: y\r\n".repeat(100_000))),
            // What is packed is not unpacked: a bomb stays as small as it comes, and even a whole set is none.
            Say::Packed(packed(&set)), Say::Packed(packed(&format!("{}{set}", " ".repeat(100 << 20)))),
            Say::Raw(set.clone()), Say::Raw(String::new()), Say::Raw("\0".repeat(1000)),
            Say::Redirect(None),
            Say::Endless,
        ];
        let site = Site::start(Say::Silence).await;
        let addresses: Vec<_> = (0..hostile.len()).map(|at| client(&format!("c{at}"), &format!("{}?{at}", site.url))).collect();
        let server = server_with(engine, allow_loopback, &addresses.concat()).await;
        for (at, say) in hostile.iter().enumerate() {
            site.say(say.clone());
            let hits = site.hits();
            let started = Instant::now();
            let answer = ask(&server, &format!("c{at}"), &key).await;
            assert_eq!(answer.status, 401, "case {at}");
            answer.assert_error(401, "invalid_client");
            assert!(!answer.text.contains("127.0.0.1") && !answer.text.contains("jwks"), "{}", answer.text);
            assert!(started.elapsed() < Duration::from_secs(4), "case {at}: {:?}", started.elapsed());
            assert_eq!(site.hits(), hits + 1, "case {at}");
            server.token().await;
        }
        // A gibibyte was not read: what the sockets hold, no more.
        let bytes = site.state.sent.load(Ordering::SeqCst);
        assert!((1..64 << 20).contains(&bytes), "{bytes}");
        // What all of them were made of is a set.
        site.say(body(&set));
        server.clock.advance(Duration::from_secs(31));
        for at in [0, hostile.len() - 1] {
            let id = format!("c{at}");
            assert_token(&ask(&server, &id, &key).await, &id);
        }
        // 100 keys are a set too, and keys that are not for us are passed over.
        site.say(body(&many(99, "{\"kty\":\"x\"}")));
        server.clock.advance(Duration::from_secs(601));
        assert_token(&ask(&server, "c0", &key).await, "c0");
    }

    async fn t83_slow_servers_take_their_places_and_no_others(engine) {
        let key = Key::ed25519("a");
        let (slow, quick) = (Site::start(Say::Drip).await, Site::start(Say::Keys(vec![key.jwk()])).await);
        let mut clients = [client("cached", &quick.url), client("new", &format!("{}?new", quick.url))].concat();
        for at in 0..40 {
            clients += &client(&format!("slow-{at}"), &format!("{}?{at}", slow.url));
        }
        let change = |config: &mut Config| {
            allow_loopback(config);
            config.outbound.timeout_seconds = 5;
        };
        let server = server_with(engine, change, &clients).await;
        assert_token(&ask(&server, "cached", &key).await, "cached");
        let started = Instant::now();
        let (server, key) = (&server, &key);
        let all = join_all((0..40).map(|at| async move {
            refused(server, &format!("slow-{at}"), key).await;
            started.elapsed()
        }));
        let meanwhile = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            // Everybody else goes on: secrets, sets that are known, introspection.
            for _ in 0..5 {
                let before = Instant::now();
                server.token().await;
                assert_token(&ask(server, "cached", key).await, "cached");
                assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
            }
            // Who needs a place while there is none is refused soon, as if its server were not there.
            let before = Instant::now();
            refused(server, "new", key).await;
            assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
            assert!(started.elapsed() < Duration::from_millis(4800), "the slow ones must still be there: {:?}", started.elapsed());
        };
        let (mut took, ()) = tokio::join!(all, meanwhile);
        took.sort_unstable();
        assert!(slow.state.most_open.load(Ordering::SeqCst) <= 32);
        assert_eq!(slow.hits(), 32);
        assert!(took[7] < Duration::from_secs(4), "{took:?}");
        assert!(took[8] > Duration::from_secs(4) && took[39] < Duration::from_secs(9), "{took:?}");
        // It counted as failed for a second, not for the interval.
        server.clock.advance(Duration::from_secs(2));
        assert_token(&ask(server, "new", key).await, "new");
    }

    async fn t81_private_addresses_are_not_reached(engine) {
        let key = Key::ed25519("a");
        let v4 = Site::start(Say::Keys(vec![key.jwk()])).await;
        let v6 = Site::at("::1", Say::Keys(vec![key.jwk()])).await;
        let (p4, p6) = (v4.port(), v6.port());
        let addresses = [
            format!("127.0.0.1:{p4}"), format!("localhost:{p4}"), format!("LOCALHOST:{p4}"), format!("localhost.:{p4}"), format!("0:{p4}"), format!("0.0.0.0:{p4}"),
            format!("2130706433:{p4}"), format!("0x7f000001:{p4}"), format!("017700000001:{p4}"), format!("0x7f.1:{p4}"), format!("127.1:{p4}"), format!("127.0.1:{p4}"),
            format!("127.0.0.2:{p4}"), format!("[::ffff:127.0.0.1]:{p4}"), format!("[::ffff:7f00:1]:{p4}"), format!("[::127.0.0.1]:{p4}"), format!("[64:ff9b::7f00:1]:{p4}"),
            format!("[::1]:{p6}"), format!("[0:0:0:0:0:0:0:1]:{p6}"), format!("[::]:{p6}"), format!("localhost:{p6}"), format!("ip6-localhost:{p6}"),
            format!("127。0。0。1:{p4}"), format!("%31%32%37.0.0.1:{p4}"), format!("1\u{2460}27.0.0.1:{p4}"),
            "169.254.169.254".into(), "10.0.0.1".into(), "192.168.0.1".into(), "172.16.0.1".into(), "[fd00::1]".into(), "[fe80::1]".into(),
        ];
        let only_http = |config: &mut Config| {
            allow_loopback(config);
            config.outbound.allow_networks = Vec::new();
        };
        let server = server_with(engine, only_http, "").await;
        let mut applied = 0;
        for (at, address) in addresses.iter().enumerate() {
            let id = format!("c{at}");
            // Some are no URLs even for apply.
            if server.try_apply(&client(&id, &format!("http://{address}/jwks.json")), false).await.is_ok() {
                applied += 1;
                refused(&server, &id, &key).await;
            }
        }
        assert!(applied > 25, "{applied}");
        assert_eq!((v4.hits(), v6.hits()), (0, 0));
        drop(server);

        // An allowed network is that and no more: not by a redirect, not by its other spellings.
        let redirects = Site::start(Say::Redirect(Some(v6.url.clone()))).await;
        let back = Site::start(Say::Redirect(Some(v4.url.clone()))).await;
        let clients = [client("to-v6", &redirects.url), client("to-v4", &back.url), client("mapped", &format!("http://[::ffff:127.0.0.1]:{p4}/")), client("v6", &v6.url)];
        let server = server_with(engine, allow_loopback, &clients.concat()).await;
        for id in ["to-v6", "to-v4", "mapped", "v6"] {
            refused(&server, id, &key).await;
        }
        assert_eq!((redirects.hits(), back.hits(), v4.hits(), v6.hits()), (1, 1, 0, 0));
        // And that network is reached: the test would see a connection.
        server.apply(&client("v4", &v4.url)).await;
        assert_token(&ask(&server, "v4", &key).await, "v4");
        assert_eq!(v4.hits(), 1);
    }

    async fn t81_only_trusted_https_and_no_other_schemes(engine) {
        let key = Key::ed25519("a");
        // A server with a certificate that nobody signed.
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let private = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let tls = tls.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], private).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tried, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (count, read) = (tried.clone(), requests.clone());
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    read.fetch_add(stream.read(&mut [0; 1024]).await.unwrap_or(0), Ordering::SeqCst);
                }
            }
        });
        let change = |config: &mut Config| {
            allow_loopback(config);
            config.outbound.allow_http = false;
        };
        let plain = Site::start(Say::Keys(vec![key.jwk()])).await;
        let clients = [client("name", &format!("https://localhost:{port}/")), client("address", &format!("https://127.0.0.1:{port}/")), client("plain", &plain.url), client("no-tls", &plain.url.replace("http:", "https:"))];
        let server = server_with(engine, change, &clients.concat()).await;
        for id in ["name", "address", "plain", "no-tls"] {
            refused(&server, id, &key).await;
        }
        assert_eq!((tried.load(Ordering::SeqCst), requests.load(Ordering::SeqCst)), (2, 0));
        assert_eq!(plain.hits(), 1, "http is refused before it connects, https fails at its greeting");
        serving.abort();

        for uri in ["file:///etc/passwd", "gopher://127.0.0.1/", "ftp://example.com/", "data:application/json,{}", "unix:///run/x", "jar:https://example.com/", "//example.com/", "/jwks.json", "https://", "https://user@example.com/", "https://user:pass@example.com/", "https://example.com/#f", "https://example.com/ x", " https://example.com/", "javascript:1", ""] {
            let problems = server.try_apply(&client("bad", uri), false).await.unwrap_err();
            assert!(problems.contains("jwks_uri"), "{uri}: {problems}");
        }
        // Keys are in one place.
        let both = client("both", "https://example.com/").replace("\n\n", &format!("\njwks = {{ keys = [{{ kty = \"OKP\", crv = \"Ed25519\", x = {} }}] }}\n", key.jwk()["x"]));
        server.try_apply(&both, false).await.unwrap_err();
    }
}

/// T-40 for keys from afar: one winner among parallel presentations at two nodes, each of which fetches for itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t40_one_winner_with_remote_keys_on_two_nodes() {
    let key = Key::ed25519("a");
    let site = Site::start(Say::Keys(vec![key.jwk()])).await;
    let a = server_with(Engine::Postgres, allow_loopback, &client("one", &site.url)).await;
    let issuer = a.issuer.clone();
    let change = move |config: &mut Config| {
        allow_loopback(config);
        config.issuer = Some(sealwright::config::Issuer::parse(&issuer).unwrap());
    };
    let b = Server::at(a.place.clone(), a.clock.clone(), change).await;
    for round in 0..rounds(5) {
        let assertion = key.sign(&claims(&a, "one"));
        let answers = join_all((0..32).map(|at| present(if at % 2 == 0 { &a } else { &b }, &assertion))).await;
        assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1, "round {round}");
    }
    assert_eq!(site.hits(), 2);
}
