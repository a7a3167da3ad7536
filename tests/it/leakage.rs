//! What the real program says about what it is told: its log at TRACE, its metrics, its audit trail, its files and its
//! refusals hold no secret (T-174, F-28), and one event is one line (T-175).

mod people;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use josekit::jwk::Jwk;
use josekit::jwk::alg::ed::EdCurve;
use josekit::jws::{EdDSA, JwsHeader};
use josekit::jwt::{self, JwtPayload};
use sealwright::clients::auth::ASSERTION_TYPE;
use sealwright::clock::{Clock, SECOND};
use sealwright::secret::Secret;
use sealwright::store::{Db, Location, Options, audit};
use serde_json::Value;

use crate::edge::{Reply, Wire};
use crate::process;
use crate::support::{Engine, FORM, INTROSPECT, Place, REVOKE, TOKEN, basic, both, client, encode, until};
use crate::tls::made;

/// A master key that is nobody else's.
const MASTER: &str = "c4a2f1e09b8d7c6a5f4e3d2c1b0a99887766554433221100ffeeddccbbaa9d8e";
const PASSWORD: &str = "canary-database-password-7Qm2";
const IMPORTED: &str = "canary-imported-secret-Vw81kkTzPq04xx";
const WRONG: &str = "canary-wrong-secret-Jb73LsYuQe90aa12";
const BEARER: &str = "canary-bearer-value-Hn26RcXpDt55";

/// `sealwright serve` as a process of its own, with a log at TRACE.
pub struct Running {
    child: Child,
    place: Arc<Place>,
    config: PathBuf,
    log: PathBuf,
    pub url: String,
    pub tls_url: String,
    pub management: String,
    /// Of the TLS key: the middle of its PEM.
    tls_key: String,
}

impl Running {
    /// Starts it and waits until it is ready.
    pub async fn start(engine: Engine, more: &str) -> Self {
        let place = Arc::new(Place::new(engine).await);
        let (port, tls_port, management) = (process::port(), process::port(), process::port());
        let certificate = made(1);
        private(&place.folder.join("tls.pem"), &certificate.pem);
        private(&place.folder.join("key.pem"), &certificate.key);
        let folder = place.folder.display();
        let database = with_password(&place.url);
        let text = format!(
            r#"
issuer = "http://127.0.0.1:{port}"
[http]
listen = ["127.0.0.1:{port}"]
trusted_proxies = ["127.0.0.0/8"]
[tls]
listen = ["127.0.0.1:{tls_port}"]
certificate = "{folder}/tls.pem"
private_key = "{folder}/key.pem"
[management]
listen = ["127.0.0.1:{management}"]
[database]
url = "{database}"
migrate = true
max_connections = 4
[master_key]
value = "{MASTER}"
[secrets]
argon2_memory_kib = 7168
argon2_iterations = 1
{more}"#
        );
        let (config, log) = (place.folder.join("sealwright.toml"), place.folder.join("log"));
        private(&config, &text);
        // A file that may not grow is an error to the process, and not its end (as on a full disk). Cores are allowed, in
        // its folder: only the program itself keeps from leaving one.
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap '' XFSZ; ulimit -c unlimited; exec \"$@\"", "sh"]).current_dir(&place.folder);
        shell
            .arg(built())
            .args(["serve", "--config"])
            .arg(&config)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let child = shell.stderr(File::create(&log).unwrap()).spawn();
        let mut running = Self {
            child: child.unwrap(),
            url: format!("http://127.0.0.1:{port}"),
            tls_url: format!("https://localhost:{tls_port}"),
            management: format!("http://127.0.0.1:{management}"),
            tls_key: certificate.key.lines().nth(1).unwrap().to_owned(),
            place,
            config,
            log,
        };
        running.ready().await;
        running
    }

    /// Waits until it is ready.
    pub async fn ready(&mut self) {
        let begun = Instant::now();
        let http = client();
        loop {
            if http
                .get(format!("{}/health/ready", self.management))
                .send()
                .await
                .is_ok_and(|answer| answer.status() == 200)
            {
                return;
            }
            assert!(
                self.child.try_wait().unwrap().is_none() && begun.elapsed() < Duration::from_mins(1),
                "{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Runs another command with the same configuration.
    pub fn command(&self, arguments: &[&str]) -> Output {
        program().args(arguments).arg("--config").arg(&self.config).stdin(Stdio::null()).output().unwrap()
    }

    /// Applies a file; what the command printed.
    pub fn apply(&self, text: &str) -> Output {
        let file = self.place.folder.join("apply.toml");
        private(&file, text);
        let output = self.command(&["apply", file.to_str().unwrap()]);
        assert!(output.status.success(), "{output:?}");
        output
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn database(&self) -> &str {
        &self.place.url
    }

    /// What it has logged so far.
    fn log(&self) -> String {
        String::from_utf8(std::fs::read(&self.log).unwrap()).expect("the log is UTF-8")
    }

    /// Ends it as SIGTERM does, and gives its whole log.
    fn ended(mut self) -> String {
        let killed = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(killed.success());
        assert!(self.child.wait().unwrap().success(), "{}", self.log());
        self.log()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program, with nothing of the test's environment.
fn program() -> Command {
    let mut program = Command::new(built());
    program.env_clear().stdin(Stdio::null());
    program
}

fn built() -> PathBuf {
    std::env::var_os("CARGO_BIN_EXE_sealwright").unwrap_or_else(|| env!("CARGO_BIN_EXE_sealwright").into()).into()
}

/// The test server asks for no password, so that any will do.
fn with_password(url: &str) -> String {
    url.replacen("sealwright@", &format!("sealwright:{PASSWORD}@"), 1)
}

fn private(path: &Path, text: &str) {
    let _ = std::fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// A secret, and what may not be found of it anywhere.
struct Canary {
    name: &'static str,
    needles: Vec<String>,
}

impl Canary {
    /// Looks for the middle of `text`: as it is, in base64 at each place of a byte, in hexadecimal, and as Rust prints
    /// bytes.
    fn new(name: &'static str, text: &str) -> Self {
        let from = text.len().saturating_sub(20) / 2;
        let middle = &text[from..(from + 20).min(text.len())];
        let bytes = middle.as_bytes();
        let mut needles = vec![middle.to_owned()];
        for at in 0..3 {
            let encoded = BASE64_STANDARD_NO_PAD.encode([&[0; 2][..at], bytes].concat());
            // The ends mix with what stands beside.
            let whole = &encoded[4..encoded.len() - 4];
            needles.extend([whole.to_owned(), whole.replace('+', "-").replace('/', "_")]);
        }
        let hex = bytes.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        needles.extend([hex.to_uppercase(), hex]);
        let list = format!("{bytes:?}");
        needles.push(list[1..list.len() - 1].to_owned());
        Self { name, needles }
    }

    fn is_in(&self, text: &str) -> Option<String> {
        self.needles.iter().find_map(|needle| {
            let at = text.find(needle)?;
            let around = &text.as_bytes()[at.saturating_sub(300)..(at + 200).min(text.len())];
            Some(String::from_utf8_lossy(around).into_owned())
        })
    }
}

#[track_caller]
fn assert_none(canaries: &[Canary], place: &str, text: &[u8]) {
    // What is no UTF-8 is no needle either.
    let text = String::from_utf8_lossy(text);
    for canary in canaries {
        if let Some(around) = canary.is_in(&text) {
            panic!("{} is in {place}: …{around}…", canary.name);
        }
    }
}

#[test]
fn a_canary_is_found_in_every_spelling() {
    let canary = Canary::new("secret", IMPORTED);
    for text in [
        IMPORTED.to_owned(),
        basic("orders-sync", IMPORTED),
        basic("a", IMPORTED),
        basic("ab", IMPORTED),
        format!("{:?}", IMPORTED.as_bytes()),
        format!(
            "scope=a&client_secret={}",
            url::form_urlencoded::byte_serialize(IMPORTED.as_bytes()).collect::<String>()
        ),
    ] {
        assert!(canary.is_in(&text).is_some(), "{text}");
    }
    assert!(canary.is_in(WRONG).is_none());
}

/// The file, with the client's public key in it.
fn file(public: &Jwk) -> String {
    let x = public.parameter("x").unwrap().as_str().unwrap();
    let mut text = format!(
        r#"
[[resource]]
identifier = "https://api.example.com"
scopes = {{ "orders:read" = "Read orders" }}

[[resource]]
identifier = "urn:example:opaque"
scopes = {{ "opaque" = "All of it" }}
access_token_format = "opaque"

[[client]]
client_id = "imported"
client_secret = "{IMPORTED}"
scope = "orders:read opaque"

[[client]]
client_id = "poster"
token_endpoint_auth_method = "client_secret_post"
client_secret = "{IMPORTED}"
scope = "orders:read"

[[client]]
client_id = "generated"
grant_types = []
serves = ["https://api.example.com", "urn:example:opaque"]

[[client]]
client_id = "signer"
token_endpoint_auth_method = "private_key_jwt"
jwks = {{ keys = [{{ kty = "OKP", crv = "Ed25519", x = "{x}" }}] }}
scope = "orders:read"
"#
    );
    for table in TABLES {
        let _ = write!(text, "\n[[client]]\nclient_id = \"spare-{table}\"\nclient_secret = \"{IMPORTED}\"\n");
    }
    text
}

fn assertion(key: &Jwk, audience: &str, jti: &str) -> String {
    let mut claims = JwtPayload::new();
    claims.set_issuer("signer");
    claims.set_subject("signer");
    claims.set_claim("aud", Some(audience.into())).unwrap();
    claims.set_jwt_id(jti);
    claims.set_claim("exp", Some((Clock::system().now() / SECOND + 60).into())).unwrap();
    let mut header = JwsHeader::new();
    header.set_token_type("client-authentication+jwt");
    jwt::encode_with_signer(&claims, &header, &EdDSA.signer_from_jwk(key).unwrap()).unwrap()
}

fn signature(token: &str) -> &str {
    token.rsplit('.').next().unwrap()
}

fn request(line: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut head = format!("{line} HTTP/1.1\r\nHost: a\r\n");
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// `secret` in every place of a request that people put secrets into, by right or by mistake.
fn everywhere(path: &str, secret: &str) -> Vec<Vec<u8>> {
    let form = ("Content-Type", FORM);
    let line = format!("POST {path}");
    let as_password = basic("imported", secret);
    let as_name = basic(secret, "x");
    let bearer = format!("Bearer {secret}");
    let good = basic("imported", IMPORTED);
    let mut all = vec![
        request(&line, &[form, ("Authorization", &as_password)], "grant_type=client_credentials&token=x"),
        request(&line, &[form, ("Authorization", &as_name)], "grant_type=client_credentials&token=x"),
        request(&line, &[form, ("Authorization", &bearer)], "grant_type=client_credentials&token=x"),
        request(&line, &[form, ("Authorization", secret)], "grant_type=client_credentials&token=x"),
        request(&line, &[form, ("Authorization", &format!("Basic {secret}"))], "grant_type=client_credentials"),
        request(&line, &[form, ("Authorization", &good), ("Authorization", &as_password)], "token=x"),
        request(&line, &[form, ("Cookie", secret), ("User-Agent", secret), ("Origin", secret), ("DPoP", secret)], ""),
        request(&line, &[form, ("X-Request-Id", &format!("{secret}/")), ("X-Forwarded-For", secret)], ""),
        request(&line, &[("Content-Type", secret)], "x"),
        request(&line, &[("Content-Type", "application/json")], &format!("{{\"client_secret\":\"{secret}\"}}")),
        request(&line, &[form], &format!("{secret}={secret}&{secret}={secret}")),
        request(&line, &[form], &format!("client_secret=%zz{secret}")),
        request(&line, &[form, ("Content-Encoding", "gzip")], secret),
        request(&format!("POST {path}?client_secret={secret}&token={secret}"), &[form], ""),
        request(&format!("POST {path}/{secret}"), &[form], ""),
        request(&format!("GET {path}?access_token={secret}"), &[], ""),
        request(&format!("FROB{} {path}", secret.replace(['.', '='], "-")), &[], ""),
        request(&line, &[(&format!("X-{}", secret.replace('=', "-")), secret), form], "a=b"),
        // Refused before there is a request.
        format!("POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization : {as_password}\r\n\r\n").into_bytes(),
        format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {secret}\r\n\r\n").into_bytes(),
        format!("{secret} {path}\r\n\r\n").into_bytes(),
        format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Type: {FORM}\r\n\r\n{secret}"
        )
        .into_bytes(),
    ];
    for name in ["client_secret", "client_assertion", "token", "scope", "grant_type", "resource", "client_id", "other"]
    {
        for id in ["poster", "signer", "unknown"] {
            let mut form = vec![("grant_type", "client_credentials"), ("token", "x"), ("client_id", id)];
            form.retain(|(known, _)| *known != name);
            form.push((name, secret));
            if name == "client_assertion" {
                form.push(("client_assertion_type", ASSERTION_TYPE));
            }
            all.push(request(&line, &[("Content-Type", FORM)], &encode(&form)));
        }
        let by_right = encode(&[("grant_type", "client_credentials"), (name, secret), ("token", secret)]);
        all.push(request(&line, &[("Content-Type", FORM), ("Authorization", &good)], &by_right));
    }
    all
}

/// Sends all of it; what comes back with a refusal shows none of the canaries.
async fn tell_everywhere(running: &Running, secrets: &[&str], canaries: &[Canary]) {
    for path in [TOKEN, INTROSPECT, REVOKE] {
        for secret in secrets {
            for request in everywhere(path, secret) {
                // Each on its own connection: half of them break it.
                let Some(reply) = Wire::new(&running.url).ask(&request).await else { continue };
                // A token that was asked for by right stands in its own answer.
                if reply.status != 200 {
                    assert_none(canaries, "a refusal", reply.text().as_bytes());
                }
            }
        }
    }
}

async fn good_token(running: &Running, auth: &str, scope: &str) -> (u16, Value) {
    let form = encode(&[("grant_type", "client_credentials"), ("scope", scope)]);
    let request = request(&format!("POST {TOKEN}"), &[("Content-Type", FORM), ("Authorization", auth)], &form);
    let reply: Reply = Wire::new(&running.url).ask(&request).await.unwrap();
    (reply.status, reply.json())
}

async fn audit_rows(url: &str) -> Vec<audit::EventRow> {
    let location = match url.strip_prefix("sqlite:") {
        Some(path) => Location::Sqlite(path.into()),
        None => Location::Postgres(Secret::new(url)),
    };
    let options = Options { location, max_connections: 1, deadline: Duration::from_secs(20) };
    let db = Db::open(options, Clock::system()).await.unwrap();
    db.read(|conn| Box::pin(audit::latest(conn, 100_000))).await.unwrap()
}

const TABLES: [&str; 14] = [
    "artifacts",
    "audit_events",
    "change_head",
    "changes",
    "client_origins",
    "clients",
    "credentials",
    "meta",
    "nodes",
    "resources",
    "revocations",
    "scopes",
    "signing_keys",
    "usage_counters",
];

/// A good token, once the server gives one.
async fn fresh_token(running: &Running, scope: &str) -> String {
    let mut token = None;
    until("it gives tokens", async || {
        let (status, answer) = good_token(running, &basic("imported", IMPORTED), scope).await;
        token = answer["access_token"].as_str().map(str::to_owned);
        status == 200
    })
    .await;
    token.unwrap()
}

/// Whether `said` tells that `table` is not there, in either engine's words; in the log, quotes are escaped.
fn misses(said: &str, table: &str) -> bool {
    let sqlite = said.match_indices("no such table: ").any(|(at, words)| {
        let name = said[at + words.len()..].trim_start_matches("main.");
        name.strip_prefix(table).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_'))
    });
    sqlite || said.replace('\\', "").contains(&format!("relation \"{table}\" does not exist"))
}

/// Good requests and commands while one table after the other is missing, with tokens, an assertion and a client that
/// nothing remembers; none of the failures shows a canary. What is to be looked for from now on besides.
async fn tell_while_the_database_fails(running: &Running, key: &Jwk, canaries: &[Canary]) -> Vec<Canary> {
    let mut told = Vec::new();
    for table in TABLES {
        let (token, opaque) = (fresh_token(running, "orders:read").await, fresh_token(running, "opaque").await);
        let assertion = assertion(key, &running.url, table);
        let fresh = [
            Canary::new("a fresh access token", signature(&token)),
            Canary::new("a fresh opaque token", &opaque),
            Canary::new("a fresh assertion", signature(&assertion)),
        ];
        let logged = running.log().len();
        running.place.run(&format!("ALTER TABLE {table} RENAME TO gone")).await;
        let (auth, unknown) = (basic("imported", IMPORTED), basic("never-seen", WRONG));
        let spare = basic(&format!("spare-{table}"), IMPORTED);
        let by_assertion = encode(&[
            ("grant_type", "client_credentials"),
            ("client_assertion_type", ASSERTION_TYPE),
            ("client_assertion", &assertion),
        ]);
        let mut said = String::new();
        for (path, auth, form) in [
            (TOKEN, &*auth, "grant_type=client_credentials&scope=opaque"),
            (TOKEN, &unknown, "grant_type=client_credentials"),
            (TOKEN, &spare, "grant_type=client_credentials"),
            (TOKEN, "", &*by_assertion),
            (INTROSPECT, &auth, &format!("token={opaque}")),
            (INTROSPECT, &auth, &format!("token={token}")),
            (REVOKE, &auth, &format!("token={opaque}")),
            (REVOKE, &auth, &format!("token={token}")),
        ] {
            let mut headers = vec![("Content-Type", FORM)];
            if !auth.is_empty() {
                headers.push(("Authorization", auth));
            }
            let asked = request(&format!("POST {path}"), &headers, form);
            let reply = Wire::new(&running.url).ask(&asked).await.unwrap();
            if reply.status != 200 {
                said += &reply.text();
            }
        }
        let late = format!(
            "[[resource]]\nidentifier = \"urn:example:{table}\"\nscopes = {{ \"{table}\" = \"x\" }}\n\
             [[client]]\nclient_id = \"late-{table}\"\nclient_secret = \"{IMPORTED}\"\nscope = \"{table}\"\n\
             allowed_origins = [\"https://{}.example\"]\n",
            table.replace('_', "-")
        );
        let file = running.place.folder.join("late.toml");
        private(&file, &late);
        for arguments in [&["apply", file.to_str().unwrap()][..], &["export"], &["keys", "list"]] {
            let output = running.command(arguments);
            said += &String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        }
        until(&format!("{table} is missed"), async || misses(&said, table) || misses(&running.log()[logged..], table))
            .await;
        running.place.run(&format!("ALTER TABLE gone RENAME TO {table}")).await;
        for canaries in [canaries, &fresh] {
            assert_none(canaries, &format!("what is said without {table}"), said.as_bytes());
        }
        told.extend(fresh);
    }
    told
}

both! {
    async fn t174_f28_no_secret_is_seen_in_logs_metrics_audit_files_or_refusals(engine) {
        let running = Running::start(engine, "[log]\nfilter = \"trace\"\n").await;
        let key = Jwk::generate_ed_key(EdCurve::Ed25519).unwrap();
        let applied = running.apply(&file(&key.to_public_key().unwrap()));
        let told = String::from_utf8(applied.stdout).unwrap();
        let generated = told.split_whitespace().find(|word| word.starts_with("sws_")).unwrap().to_owned();

        // By right, over each protocol.
        let auth = basic("imported", IMPORTED);
        let (_, answer) = good_token(&running, &auth, "orders:read").await;
        let token = answer["access_token"].as_str().unwrap().to_owned();
        let (_, answer) = good_token(&running, &auth, "opaque").await;
        let opaque = answer["access_token"].as_str().unwrap().to_owned();
        let used = assertion(&key, &running.url, "jti-0");
        let misdirected = assertion(&key, "https://elsewhere.example", "jti-1");
        let http2 = reqwest::Client::builder().no_proxy().tls_certs_only([]).http2_prior_knowledge().build().unwrap();
        let tls = reqwest::Client::builder().no_proxy().tls_danger_accept_invalid_certs(true).build().unwrap();
        for (client, url) in [(client(), &running.url), (http2, &running.url), (tls, &running.tls_url)] {
            let post = async |path: &str, auth: &str, form: &[(&str, &str)]| {
                let request = client.post(format!("{url}{path}")).header("content-type", FORM).body(encode(form));
                let request = if auth.is_empty() { request } else { request.header("authorization", auth) };
                request.header("cookie", BEARER).send().await.unwrap().status().as_u16()
            };
            let cc = ("grant_type", "client_credentials");
            assert_eq!(post(TOKEN, &auth, &[cc, ("scope", "orders:read")]).await, 200);
            assert_eq!(post(TOKEN, &basic("imported", WRONG), &[cc]).await, 401);
            assert_eq!(post(TOKEN, "", &[cc, ("client_id", "poster"), ("client_secret", IMPORTED)]).await, 200);
            for text in [&token, &opaque] {
                assert_eq!(post(INTROSPECT, &basic("generated", &generated), &[("token", text)]).await, 200);
            }
            let by = |assertion| [cc, ("client_assertion_type", ASSERTION_TYPE), ("client_assertion", assertion)];
            // Once; then it is a replay.
            assert!([200, 401].contains(&post(TOKEN, "", &by(used.as_str())).await));
            assert_eq!(post(TOKEN, "", &by(&misdirected)).await, 401);
        }
        let canaries = [
            Canary::new("the imported secret", IMPORTED),
            Canary::new("the generated secret", &generated),
            Canary::new("the wrong secret", WRONG),
            Canary::new("a bearer value", BEARER),
            Canary::new("the access token", signature(&token)),
            Canary::new("the opaque token", &opaque),
            Canary::new("the used assertion", signature(&used)),
            Canary::new("the misdirected assertion", signature(&misdirected)),
            Canary::new("the master key", MASTER),
            Canary::new("the database password", PASSWORD),
            Canary::new("the TLS key", &running.tls_key),
        ];
        let secrets = [IMPORTED, &generated, WRONG, BEARER, &token, &opaque, &used, &misdirected];

        // In all wrong places; then again while the database fails.
        tell_everywhere(&running, &secrets, &canaries).await;
        let mut canaries = Vec::from(canaries);
        canaries.extend(tell_while_the_database_fails(&running, &key, &canaries).await);
        fresh_token(&running, "opaque").await;

        // A second's flush, and then everything that can be read.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let http = client();
        for url in [format!("{}/metrics", running.management), format!("{}/health/ready", running.management)] {
            let text = http.get(&url).send().await.unwrap().text().await.unwrap();
            assert_none(&canaries, &url, text.as_bytes());
        }
        let rows = audit_rows(running.database()).await;
        for kind in ["client.saved", "token.revoked", "request.refused"] {
            assert!(rows.iter().any(|row| row.kind == kind), "no {kind} in {} rows", rows.len());
        }
        assert_none(&canaries, "the audit trail", format!("{rows:?}").as_bytes());
        for arguments in [&["check"][..], &["export"], &["keys", "list"]] {
            let output = running.command(arguments);
            assert!(output.status.success(), "{output:?}");
            assert_none(&canaries, &format!("{arguments:?}"), &[output.stdout, output.stderr].concat());
        }
        assert_none(&canaries, "the talk of apply", &applied.stderr);
        for entry in std::fs::read_dir(&running.place.folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if name.starts_with("test.db") {
                assert_none(&canaries, name, &std::fs::read(&path).unwrap());
            }
        }
        let log = running.ended();
        let targets: BTreeSet<_> =
            log.lines().filter_map(|line| line.split_once("\"target\":\"")?.1.split([':', '"']).next()).collect();
        for part in ["sealwright", "sqlx", "rustls", "h2"] {
            assert!(targets.contains(part), "{part} says nothing at TRACE: {targets:?}");
        }
        assert_none(&canaries, "the log", log.as_bytes());
    }
}

/// T-174: a crash writes no memory to the disk, where any other program's is.
#[tokio::test]
async fn t174_a_crash_leaves_no_core() {
    let mut running = Running::start(Engine::Sqlite, "").await;
    let mut other = Command::new("sh");
    other.args(["-c", "ulimit -c unlimited; kill -ABRT $$"]).current_dir(&running.place.folder);
    let other = other.status().unwrap();
    assert!(other.core_dumped(), "this machine writes no core of any program, so this test shows nothing: {other}");
    assert!(Command::new("kill").args(["-ABRT", &running.id().to_string()]).status().unwrap().success());
    let ended = running.child.wait().unwrap();
    assert_eq!((ended.signal(), ended.core_dumped()), (Some(6), false));
}

/// Starts that fail, and files that are refused, say why without the value.
#[tokio::test]
async fn t174_a_start_that_fails_quotes_no_secret() {
    let place = Place::new(Engine::Sqlite).await;
    let config = place.folder.join("bad.toml");
    let canaries = [
        Canary::new("the database password", PASSWORD),
        Canary::new("the imported secret", IMPORTED),
        Canary::new("the wrong secret", WRONG),
    ];
    let closed = process::port();
    let base = format!("issuer = \"http://127.0.0.1:{closed}\"\n[log]\nfilter = \"trace\"\n");
    let with_key = format!("[master_key]\nvalue = \"{MASTER}\"\n[database]\n");
    for text in [
        // Nobody is there; not a URL; a host that does not exist; a broken parameter.
        format!(
            "{with_key}migrate = true\ndeadline_milliseconds = 500\nurl = \"postgres://a:{PASSWORD}@127.0.0.1:{closed}/b\""
        ),
        format!(
            "{with_key}migrate = true\ndeadline_milliseconds = 500\nurl = \"postgres://a:{PASSWORD}@host.invalid/b\""
        ),
        format!("{with_key}url = \"postgres://a:{PASSWORD}@127.0.0.1:port/b\""),
        format!("{with_key}url = \"postgres://a:{PASSWORD}@127.0.0.1/b?sslmode={WRONG}\""),
        format!("{with_key}url = \"mysql://a:{PASSWORD}@127.0.0.1/b\""),
        format!("{with_key}url = [\"{PASSWORD}\"]"),
        format!("{with_key}url = \"{PASSWORD}"),
        format!("[master_key]\nvalue = \"{IMPORTED}\""),
        format!("[master_key]\nvalue = {{ a = \"{IMPORTED}\" }}"),
    ] {
        private(&config, &format!("{base}{text}\n"));
        for command in ["check", "serve"] {
            let output = program().arg(command).arg("--config").arg(&config).stdout(Stdio::piped()).output().unwrap();
            let said = [output.stdout, output.stderr].concat();
            assert!(command == "check" || !output.status.success(), "{text}");
            assert!(!said.is_empty());
            assert_none(&canaries, &format!("{command} of {text}"), &said);
        }
    }
    for (name, value) in [
        ("SEALWRIGHT_DATABASE__URL", format!("mysql://a:{PASSWORD}@b/c")),
        ("SEALWRIGHT_MASTER_KEY__VALUE", IMPORTED.to_owned()),
        ("SEALWRIGHT_MASTER_KEY__VALUE_FILE", format!("{}/nowhere", place.folder.display())),
    ] {
        let output = program().arg("check").env(name, value).stdout(Stdio::piped()).output().unwrap();
        assert!(!output.status.success());
        assert_none(&canaries, name, &[output.stdout, output.stderr].concat());
    }
    private(&config, &format!("{base}{with_key}url = \"sqlite:{}/a.db\"\n", place.folder.display()));
    for text in [
        format!("[[client]]\nclient_id = \"a\"\nclient_secret = [\"{IMPORTED}\"]"),
        format!("[[client]]\nclient_id = \"a\"\nclient_secret = \"{IMPORTED}"),
        format!(
            "[[client]]\nclient_id = \"a\"\nclient_secret = \"{IMPORTED}\"\nclient_secrets = [{{ label = \"b\", secret = \"{WRONG}\" }}]"
        ),
        format!("[[client]]\nclient_id = \"a\"\nclient_secret = \"{IMPORTED}\"\ntoken_endpoint_auth_method = \"none\""),
        format!(
            "[[client]]\nclient_id = \"a\"\nclient_secrets = [{{ label = \"b\", secret = \"{WRONG}\", expires_at = \"never\" }}]"
        ),
        format!("{{\"client\":[{{\"client_id\":\"a\",\"client_secret\":[\"{IMPORTED}\"]}}]}}"),
        format!("{{\"client\":[{{\"client_id\":\"a\",\"client_secret\":\"{IMPORTED}\\u00\"}}]}}"),
    ] {
        let file = place.folder.join("apply.any");
        private(&file, &text);
        let output =
            program().arg("apply").arg(&file).arg("--config").arg(&config).stdout(Stdio::piped()).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(!output.status.success(), "{text}");
        assert_none(&canaries, &text, &said);
    }
}

/// Texts that would end a line, move a cursor, turn the direction of text or leave a JSON string.
const NASTY: [&str; 8] = [
    "a\r\n{\"level\":\"FORGED\",\"message\":\"request\"}\r\nb",
    "a\"}\n{\"level\":\"FORGED\"}",
    "\u{1b}[2J\u{1b}[31mred\u{9b}31m\u{7}\u{8}",
    "\u{202e}gnp.exe\u{2066}\u{2069}\u{200f}\u{61c}",
    "a\u{2028}b\u{2029}c\u{85}d\u{b}\u{c}",
    "\\\"\\u000a\\n%0a%0d{{}}",
    "\u{feff}\u{0}",
    "</script><!--",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t175_one_event_is_one_line_whatever_a_request_holds() {
    let running = Running::start(Engine::Sqlite, "[log]\nfilter = \"trace\"\n").await;
    running.apply(&file(&Jwk::generate_ed_key(EdCurve::Ed25519).unwrap().to_public_key().unwrap()));
    let mut answered = Vec::new();
    for nasty in NASTY {
        let percent: String = nasty.bytes().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "%{byte:02X}");
            text
        });
        // What may stand in a header as it is.
        let header: String =
            nasty.chars().filter(|c| !matches!(c, '\0' | '\r' | '\n' | '\u{7f}') && *c >= ' ').collect();
        let mut requests = vec![
            request(&format!("GET /{percent}"), &[], ""),
            request(&format!("GET /{}", header.replace(' ', "")), &[], ""),
            request(&format!("GET /.well-known/jwks.json?{percent}"), &[("If-None-Match", &header)], ""),
            request(
                &format!("OPTIONS {TOKEN}"),
                &[("Origin", &header), ("Access-Control-Request-Method", &header)],
                "",
            ),
        ];
        for path in [TOKEN, INTROSPECT, REVOKE] {
            let line = format!("POST {path}");
            let form = ("Content-Type", FORM);
            for (id, secret) in [(nasty, "x"), ("imported", nasty)] {
                requests.push(request(
                    &line,
                    &[form, ("Authorization", &basic(id, secret))],
                    "grant_type=client_credentials&token=x",
                ));
            }
            for name in
                ["client_id", "client_secret", "scope", "token", "grant_type", "resource", "client_assertion", nasty]
            {
                let good = basic("imported", IMPORTED);
                let mut pairs = vec![("grant_type", "client_credentials"), ("token", "x")];
                pairs.retain(|(known, _)| *known != name);
                pairs.push((name, nasty));
                requests.push(request(&line, &[form, ("Authorization", &good)], &encode(&pairs)));
                requests.push(request(&line, &[form], &encode(&pairs)));
            }
            for name in [
                "Authorization",
                "Cookie",
                "User-Agent",
                "Origin",
                "Content-Type",
                "X-Request-Id",
                "X-Forwarded-For",
                "X-Forwarded-Proto",
                "Host",
                "DPoP",
                "Referer",
            ] {
                requests.push(request(&line, &[(name, &header)], ""));
            }
            requests.push(request(&line, &[("Content-Type", "text/plain")], nasty));
            // Refused before there is a request: line breaks and controls where none may be.
            requests.push(request(&format!("POST {path}{nasty}"), &[], ""));
            requests.push(request(&line, &[("X", nasty)], ""));
            requests.push(request(nasty, &[], ""));
        }
        for request in requests {
            let Some(reply) = Wire::new(&running.url).ask(&request).await else { continue };
            if let Some(id) = reply.header("x-request-id") {
                answered.push(id.to_owned());
            }
            // Nothing of it comes back as a header or a body either.
            assert!(!reply.text().contains("FORGED"), "{}", reply.text());
        }
    }
    let log = running.ended();
    let is_fine = |c: char| {
        !c.is_control()
            && !matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut requests = Vec::new();
    for line in log.lines() {
        assert!(line.chars().all(is_fine), "{}", line.escape_debug());
        let event: Value = serde_json::from_str(line).unwrap_or_else(|cause| panic!("{cause}: {line}"));
        let level = event["level"].as_str().unwrap_or_default();
        assert!(["TRACE", "DEBUG", "INFO", "WARN", "ERROR"].contains(&level), "{line}");
        assert!(event["timestamp"].is_string() && event["target"].is_string(), "{line}");
        if event["message"] == "request" && event["route"] != "/health/ready" {
            requests.push(event["request_id"].as_str().unwrap().to_owned());
        }
    }
    assert!(answered.len() > 400, "{}", answered.len());
    requests.sort();
    answered.sort();
    assert_eq!(requests, answered, "one line for each request");
}
