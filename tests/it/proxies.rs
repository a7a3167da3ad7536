//! Behind real proxies: what a proxy and this server could cut in two ways (T-185), and whom the proxy of docker/ says
//! the client is (T-142). Two nodes, connections to them that the proxy keeps and gives to whoever comes next.

use std::net::TcpStream;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::edge::{Wire, authorized, exchange, post, smuggling_corpus};
use crate::process::{Node, Process, Run, port};
use crate::support::{EXAMPLE, Engine, INTROSPECT, REVOKE, SECRET, TOKEN, part, until};

const CC: (&str, &str) = ("grant_type", "client_credentials");
const WORKER: (&str, &str) = ("orders-sync", SECRET);

/// A proxy in front of two nodes.
struct Proxied {
    /// The first node is where files are applied.
    node: Node,
    nodes: [Process; 2],
    management: [u16; 2],
    proxy: Run,
    url: String,
    log: Log,
}

/// Where the proxy writes, line by line, what it had its nodes answer: method, path, and the node.
enum Log {
    File(PathBuf),
    Stdout,
}

impl Proxied {
    async fn start(begin: impl FnOnce(&Path, u16, [u16; 2]) -> (Command, Log)) -> Self {
        let node = Node::new(Engine::Postgres).await;
        node.apply(EXAMPLE);
        let other = node.beside();
        let serve = async |node: &Node| {
            let mut serve = node.command(&["serve"]);
            serve.env("SEALWRIGHT_HTTP__TRUSTED_PROXIES", "127.0.0.0/8");
            Process::start(serve, node.port, node.management).await
        };
        let nodes = [serve(&node).await, serve(&other).await];
        let (management, port) = ([node.management, other.management], port());
        let (command, log) = begin(&node.place.folder, port, [node.port, other.port]);
        let mut proxy = Run::spawn(command, None);
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(!proxy.has_ended() && started.elapsed() < Duration::from_secs(30), "{}", proxy.stderr());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self { node, nodes, management, proxy, url: format!("http://127.0.0.1:{port}"), log }
    }

    /// One request through the proxy, on a connection of its own.
    async fn ask(&self, request: &[u8]) -> crate::edge::Reply {
        let reply = Wire::new(&self.url).ask(request).await;
        reply.unwrap_or_else(|| panic!("no answer: {}\n{}", String::from_utf8_lossy(request), self.proxy.stderr()))
    }

    async fn token(&self) -> String {
        let reply = self.ask(&post(TOKEN, &authorized(WORKER.0, WORKER.1), &[CC])).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["access_token"].as_str().unwrap().to_owned()
    }

    /// How many revocations the proxy sent to a node as requests of their own.
    fn forwarded(&self) -> usize {
        let text = match &self.log {
            Log::File(path) => std::fs::read_to_string(path).unwrap(),
            Log::Stdout => self.proxy.stdout(),
        };
        let start = format!("POST {REVOKE} 127.0.0.1:");
        text.lines().filter(|line| line.starts_with(&start)).count()
    }

    /// How many revocations the nodes took for requests.
    async fn taken(&self) -> usize {
        let mut taken = 0;
        for (node, port) in self.nodes.iter().zip(self.management) {
            let answer = node.http.get(format!("http://127.0.0.1:{port}/metrics")).send().await.unwrap();
            let text = answer.text().await.unwrap();
            let start = format!("sealwright_http_requests_total{{route=\"{REVOKE}\"");
            let counts = text.lines().filter(|line| line.starts_with(&start));
            taken += counts.map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap()).sum::<usize>();
        }
        taken
    }

    /// After each of the corpus no node has done what the proxy did not ask it for, and whoever comes next gets the
    /// answer to their own question.
    async fn nothing_is_smuggled(&self) {
        let auth = authorized(WORKER.0, WORKER.1);
        let mut passed = 0;
        for (name, request) in smuggling_corpus(&auth, 1000) {
            let token = self.token().await;
            let hidden = padded(&auth, &token);
            assert_eq!(hidden.len(), 1000);
            exchange(&self.url, format!("{request}{hidden}").as_bytes()).await;
            for _ in 0..2 {
                let keys = self.ask(b"GET /.well-known/jwks.json HTTP/1.1\r\nHost: a\r\n\r\n").await;
                assert!(keys.status == 200 && keys.json()["keys"].is_array(), "{name}: {}", keys.text());
                let mine = self.ask(&post(TOKEN, &auth, &[CC])).await;
                assert!(mine.status == 200 && mine.json()["access_token"].is_string(), "{name}: {}", mine.text());
            }
            // The proxy may have read two requests there itself: then the second is one, and it knows of it.
            let known = async || self.taken().await <= self.forwarded();
            until(name, known).await;
            let found = self.ask(&post(INTROSPECT, &auth, &[("token", &token)])).await;
            let is_active = found.json()["active"].as_bool().unwrap_or_else(|| panic!("{name}: {}", found.text()));
            if !is_active {
                passed += 1;
                assert!(self.forwarded() >= passed, "{name}: nobody asked for it");
            }
        }
        // The same behind a whole request, as a request of its own: what was hidden bites.
        let token = self.token().await;
        let before = self.forwarded();
        let whole = post(TOKEN, &auth, &[CC]);
        let answer =
            exchange(&self.url, format!("{}{}", String::from_utf8(whole).unwrap(), padded(&auth, &token)).as_bytes())
                .await;
        assert_eq!(answer.matches("HTTP/1.1 200").count(), 2, "{answer}");
        until("the proxy tells of it", async || self.forwarded() == before + 1).await;
        let found = self.ask(&post(INTROSPECT, &auth, &[("token", &token)])).await;
        assert_eq!(found.json()["active"], false);
    }
}

/// A revocation of `token` that is 1000 bytes long: the corpus says how long what it hides is.
fn padded(auth: &str, token: &str) -> String {
    let plain = String::from_utf8(post(REVOKE, auth, &[("token", token)])).unwrap();
    let padding = "a".repeat(1000 - plain.len() - "X: \r\n".len());
    plain.replacen("Host: a\r\n", &format!("Host: a\r\nX: {padding}\r\n"), 1)
}

/// nginx with the site of docker/proxy.conf: only names and ports are this machine's, and it waits for less long.
fn nginx(folder: &Path, port: u16, nodes: [u16; 2]) -> (Command, Log) {
    let mut site = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/proxy.conf")).unwrap();
    let mut replace = |from: &str, to: &str| {
        assert!(site.contains(from), "{from}");
        site = site.replace(from, to);
    };
    // Debian's nginx does not yet look names up again.
    replace("    resolver 127.0.0.11 valid=5s ipv6=off;\n", "");
    for (name, node) in ["node-a", "node-b"].into_iter().zip(nodes) {
        replace(&format!("{name}:8080 resolve;"), &format!("127.0.0.1:{node};"));
    }
    replace(
        "listen 8080;",
        &format!("listen 127.0.0.1:{port};\n    client_header_timeout 1s;\n    client_body_timeout 1s;"),
    );
    std::fs::write(folder.join("site.conf"), site).unwrap();
    let (log, at) = (folder.join("nginx.log"), folder.display());
    std::fs::write(&log, "").unwrap();
    let user = if std::fs::metadata("/proc/self").unwrap().uid() == 0 { "user root;" } else { "" };
    let folders: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("    {kind}_temp_path {at}/{kind};\n"))
        .concat();
    let config = format!(
        "{user}\ndaemon off;\nmaster_process off;\npid {at}/nginx.pid;\nerror_log stderr warn;\n\
         events {{ worker_connections 256; }}\n\
         http {{\n    log_format asked '$request_method $uri $upstream_addr';\n    access_log {log} asked;\n\
         {folders}    include {at}/site.conf;\n}}\n",
        log = log.display()
    );
    std::fs::write(folder.join("nginx.conf"), config).unwrap();
    let mut nginx = installed("nginx");
    nginx.arg("-p").arg(folder).arg("-c").arg(folder.join("nginx.conf")).args(["-e", "stderr"]);
    (nginx, Log::File(log))
}

fn haproxy(folder: &Path, port: u16, nodes: [u16; 2]) -> (Command, Log) {
    let [a, b] = nodes;
    let config = format!(
        "global\n    maxconn 256\n    log stdout format raw local0\n\
         defaults\n    mode http\n    log global\n    log-format \"%HM %HP %si:%sp\"\n    timeout connect 2s\n\
         \x20   timeout client 1s\n    timeout http-request 1s\n    timeout server 15s\n\
         frontend public\n    bind 127.0.0.1:{port}\n    default_backend nodes\n\
         backend nodes\n    http-reuse always\n    server a 127.0.0.1:{a}\n    server b 127.0.0.1:{b}\n"
    );
    std::fs::write(folder.join("haproxy.cfg"), config).unwrap();
    let mut haproxy = installed("haproxy");
    haproxy.args(["-db", "-f"]).arg(folder.join("haproxy.cfg"));
    (haproxy, Log::Stdout)
}

/// Debian has both where only root looks.
fn installed(name: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let found =
        path.split(':').chain(["/usr/sbin"]).map(|folder| Path::new(folder).join(name)).find(|file| file.exists());
    Command::new(found.unwrap_or_else(|| panic!("{name} is needed for tests: tests/run.sh installs it")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t185_nothing_is_smuggled_through_nginx() {
    Proxied::start(nginx).await.nothing_is_smuggled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t185_nothing_is_smuggled_through_haproxy() {
    Proxied::start(haproxy).await.nothing_is_smuggled().await;
}

/// What a caller writes about itself is replaced by the proxy, so the nodes may believe it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t142_the_proxy_of_docker_says_who_the_client_is() {
    let proxied = Proxied::start(nginx).await;
    let forged =
        "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Request-Id: forged\r\nForwarded: for=6.6.6.6\r\n";
    let token = proxied.token().await;
    let auth = format!("{forged}{}", authorized(WORKER.0, WORKER.1));
    let reply = proxied.ask(&post(REVOKE, &auth, &[("token", &token)])).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let jti = part(&token, 1)["jti"].as_str().unwrap().to_owned();
    let told = async |column: &str| {
        let sql = format!("SELECT {column} FROM audit_events WHERE kind = 'token.revoked' AND object = '{jti}'");
        proxied.node.place.texts(&sql).await.pop().unwrap()
    };
    assert_eq!(told("address").await, "127.0.0.1");
    let id = told("request_id").await;
    assert!(id.len() == 32 && reply.header("x-request-id") == Some(id.as_str()), "nginx's own: {id}");
    // Its bound of a body is ours, and it waits for longer than we do.
    let config = sealwright::config::Config::default();
    let site = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/proxy.conf")).unwrap();
    assert_eq!(config.http.max_body_bytes, 64 << 10);
    assert!(site.contains("client_max_body_size 64k;"));
    let waits = site.split("proxy_read_timeout ").nth(1).unwrap().split('s').next().unwrap();
    assert!(waits.parse::<u32>().unwrap() > config.http.request_timeout_seconds);
}
