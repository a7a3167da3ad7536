//! The command line, as a user or a script meets it: what it does, what it says and where, and how it ends.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _};

use crate::process::{Node, Process, Run, Said, command, port, run};
use crate::support::{Answer, EXAMPLE, Engine, INTROSPECT, MASTER_KEY, Place, SECRET, TOKEN, both, rounds, until};

const WORKER: (&str, &str) = ("orders-sync", SECRET);

/// An empty folder, removed after the test.
struct Folder(Place);

impl Folder {
    async fn new() -> Self {
        Self(Place::new(Engine::Sqlite).await)
    }

    fn path(&self) -> &Path {
        &self.0.folder
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        command(self.path(), arguments)
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> Said {
        run(self.command(arguments), None)
    }
}

/// The lines of stderr that tell an error.
fn errors(said: &Said) -> Vec<&str> {
    said.stderr.lines().filter_map(|line| line.strip_prefix("error: ")).collect()
}

/// The one error that a failed command tells.
#[track_caller]
fn error(said: &Said) -> String {
    let errors = errors(said);
    assert_eq!((said.status, errors.len(), said.stdout.as_str()), (1, 1, ""), "{said:?}");
    errors[0].to_owned()
}

#[track_caller]
fn no_secret(text: &str) {
    for secret in ["sws_", SECRET, MASTER_KEY] {
        assert!(!text.contains(secret), "{text}");
    }
}

/// The generated secret of `client` on stdout of `apply`.
fn generated(said: &Said, client: &str) -> String {
    let line = said.stdout.lines().find(|line| line.starts_with(&format!("{client}\tdefault\t"))).unwrap();
    line.rsplit('\t').next().unwrap().to_owned()
}

// ── check ──

#[tokio::test]
async fn check_says_what_the_server_would_do() {
    let folder = Folder::new().await;
    folder.write("my.toml", "issuer = \"https://id.example.com\"\n");
    let said = folder.run(&["check", "--config", "my.toml"]).fine();
    assert!(said.stdout.starts_with("issuer: https://id.example.com\n"), "{}", said.stdout);
    assert!(said.stdout.contains("database: SQLite, sealwright.db"), "{}", said.stdout);
    assert_eq!(said.stderr, "");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "check makes nothing");
    // The file of this folder, and the environment alone.
    folder.write("sealwright.toml", "issuer = \"https://here.example.com\"\n");
    assert!(folder.run(&["check"]).fine().stdout.starts_with("issuer: https://here.example.com\n"));
    let mut by_variable = folder.command(&["check"]);
    by_variable.env("SEALWRIGHT_ISSUER", "https://variable.example.com");
    assert!(run(by_variable, None).fine().stdout.starts_with("issuer: https://variable.example.com\n"));
}

#[tokio::test]
async fn check_tells_each_problem_in_one_line_that_names_key_and_place() {
    let folder = Folder::new().await;
    folder.write(
        "bad.toml",
        "issuer = \"https://id.example.com/?query\"\n\
         [http]\n\
         listen = [\"nowhere\"]\n\
         max_connections = 0\n\
         [databse]\n\
         url = \"sqlite:x\"\n\
         [keys]\n\
         rsa_bitz = 2048\n\
         [database]\n\
         url = \"mysql://root:hunter2@db\"\n",
    );
    let mut check = folder.command(&["check", "--config", "bad.toml"]);
    check.env("SEALWRIGHT_LOG__FORMAT", "xml").env("SEALWRIGHT_TOKENS__LIFETIME", "5");
    let said = run(check, None);
    assert_eq!((said.status, said.stdout.as_str()), (1, ""));
    let errors = errors(&said);
    assert_eq!(errors.len(), said.stderr.lines().count(), "{}", said.stderr);
    for beginning in [
        "issuer (bad.toml:1): ",
        "http.listen (bad.toml:3): ",
        "http.max_connections (bad.toml:4): ",
        "databse (bad.toml:5): ",
        "keys.rsa_bitz (bad.toml:8): there is no such key; did you mean keys.rsa_bits?",
        "database.url (bad.toml:10): ",
        "log.format (SEALWRIGHT_LOG__FORMAT): ",
        "SEALWRIGHT_TOKENS__LIFETIME: ",
    ] {
        let found = errors.iter().filter(|line| line.starts_with(beginning)).count();
        assert_eq!(found, 1, "{beginning}: {}", said.stderr);
    }
    assert_eq!(errors.len(), 8, "{}", said.stderr);
    assert!(!said.stderr.contains("hunter2"), "{}", said.stderr);

    let missing = folder.run(&["check", "--config", "none.toml"]);
    assert!(error(&missing).contains("none.toml"), "{missing:?}");
}

#[tokio::test]
async fn check_and_serve_refuse_more_connections_than_files_may_be_open() {
    let folder = Folder::new().await;
    folder
        .write("sealwright.toml", "issuer = \"https://id.example.com\"\ntls.listen = []\nhttp.max_connections = 900\n");
    let limited = |files: u32, command: &str| {
        let mut shell = std::process::Command::new("sh");
        crate::process::clean(&mut shell, folder.path());
        shell.args(["-c", &format!("ulimit -n {files}; exec \"$0\" {command}")]).arg(crate::process::program());
        run(shell, None)
    };
    for command in ["check", "serve"] {
        let said = limited(1024, command);
        assert_eq!(said.status, 1, "{said:?}");
        let error = error(&said);
        assert!(error.contains("http.max_connections") && error.contains("ulimit -n 1076"), "{error}");
    }
    assert!(limited(1076, "check").fine().stdout.contains("connections: 900 at one time"));
    // Nobody set it: fewer are served.
    folder.write("sealwright.toml", "issuer = \"https://id.example.com\"\n");
    assert!(limited(1024, "check").fine().stdout.contains("connections: 848 at one time"));
}

#[tokio::test]
async fn check_and_serve_refuse_what_is_only_safe_in_development() {
    let folder = Folder::new().await;
    folder.write("sealwright.key", MASTER_KEY);
    std::fs::set_permissions(folder.path().join("sealwright.key"), PermissionsExt::from_mode(0o644)).unwrap();
    folder.write("sealwright.toml", "issuer = \"http://id.example.com\"\noutbound.allow_http = true\n");
    for command in ["check", "serve"] {
        let said = folder.run(&[command]);
        assert_eq!(said.status, 1);
        let errors = errors(&said);
        for (key, why) in [
            ("issuer", "must be https off this machine"),
            ("master_key.file", "chmod 600"),
            ("outbound.allow_http", "only for development"),
        ] {
            assert!(errors.iter().any(|line| line.starts_with(key) && line.contains(why)), "{key}: {said:?}");
        }
        no_secret(&said.stderr);
    }
    assert!(!folder.path().join("sealwright.db").exists());
}

/// What `serve` could not take is told before anything is made, by `check` too, with the setting and the mend.
#[tokio::test]
async fn check_and_serve_refuse_certificates_and_keys_that_cannot_be_used() {
    let folder = Folder::new().await;
    let (one, other) = (crate::tls::made(1), crate::tls::made(2));
    folder.write(
        "sealwright.toml",
        "issuer = \"https://id.example.com\"\ntls = { certificate = \"c.pem\", private_key = \"k.pem\" }\n",
    );
    for (certificate, key, beginning, mend) in [
        ("", one.key.as_str(), "tls.certificate: c.pem holds no certificate", "BEGIN CERTIFICATE"),
        ("-----BEGIN CERTIFICATE-----\n%", &one.key, "tls.certificate: c.pem is not PEM", "BEGIN CERTIFICATE"),
        (&one.pem, "", "tls.private_key: k.pem holds no private key", "BEGIN PRIVATE KEY"),
        (&one.pem, &one.pem, "tls.private_key: k.pem holds no private key", "BEGIN PRIVATE KEY"),
        (&one.pem, &other.key, "tls.certificate: c.pem and the key of tls.private_key cannot be used", "no pair"),
    ] {
        folder.write("c.pem", certificate);
        folder.write("k.pem", key);
        std::fs::set_permissions(folder.path().join("k.pem"), PermissionsExt::from_mode(0o600)).unwrap();
        for command in ["check", "serve"] {
            let said = folder.run(&[command]);
            let told = error(&said);
            assert!(told.starts_with(beginning) && told.contains(mend), "{command}: {said:?}");
            assert!(key.is_empty() || !said.stderr.contains(key.lines().nth(1).unwrap()), "{said:?}");
        }
    }
    assert!(!folder.path().join("sealwright.db").exists() && !folder.path().join("sealwright.key").exists());
    folder.write("k.pem", &one.key);
    folder.run(&["check"]).fine();
}

#[tokio::test]
async fn a_master_key_file_that_holds_none_is_named_with_its_setting_and_the_mend() {
    let folder = Folder::new().await;
    folder.write("sealwright.toml", "issuer = \"https://id.example.com\"\n");
    folder.write("sealwright.key", &format!("{MASTER_KEY}\n{}\n", &MASTER_KEY[1..]));
    std::fs::set_permissions(folder.path().join("sealwright.key"), PermissionsExt::from_mode(0o600)).unwrap();
    for command in [&["check"][..], &["serve"], &["keys", "reseal"]] {
        let said = folder.run(command);
        let told = error(&said);
        assert!(told.starts_with("master_key.file: sealwright.key is not a master key"), "{said:?}");
        assert!(told.contains("64 hex digits") && told.contains("openssl rand -hex 32"), "{said:?}");
        assert!(!said.stderr.contains(&MASTER_KEY[1..]), "{said:?}");
    }
}

#[tokio::test]
async fn check_as_json_says_the_same() {
    let folder = Folder::new().await;
    folder.write("sealwright.toml", "issuer = \"https://id.example.com\"\n");
    let texts = folder.run(&["check"]).fine().stdout;
    let said = folder.run(&["check", "--json"]).fine();
    let json = said.json();
    assert_eq!((&json["master_keys"], said.stderr.as_str()), (&json!({}), ""));
    for line in texts.lines() {
        let (what, how) = line.split_once(": ").unwrap();
        assert_eq!(json[what.replace(' ', "_")], how, "{line}");
    }
    assert_eq!(json.as_object().unwrap().len(), texts.lines().count() + 1);
    folder.write("sealwright.key", MASTER_KEY);
    std::fs::set_permissions(folder.path().join("sealwright.key"), PermissionsExt::from_mode(0o600)).unwrap();
    let id = sealwright::keys::MasterKeys::parse(MASTER_KEY).unwrap().ids();
    assert_eq!(folder.run(&["check", "--json"]).fine().json()["master_keys"], json!({ id.as_str(): "new" }));
    assert!(folder.run(&["check"]).fine().stdout.ends_with(&format!("master key {id}: new\n")));
    // What is refused is told as ever.
    folder.write("sealwright.key", "");
    assert!(error(&folder.run(&["check", "--json"])).starts_with("master_key.file: "));
}

// ── wrong use ──

#[tokio::test]
async fn wrong_use_ends_with_2_and_help_with_0() {
    let folder = Folder::new().await;
    for wrong in [&["serve", "--dve"][..], &["aply"], &[], &["apply"], &["keys"], &["check", "--dev", "--config", "x"]]
    {
        let said = folder.run(wrong);
        assert_eq!((said.status, said.stdout.as_str()), (2, ""), "{wrong:?}: {said:?}");
        assert!(said.stderr.contains("Usage"), "{said:?}");
    }
    for command in ["serve", "apply", "export", "check", "migrate", "token", "introspect", "healthcheck"] {
        let said = folder.run(&[command, "--help"]).fine();
        assert!(said.stdout.contains("Examples:\n") && said.stderr.is_empty(), "{said:?}");
    }
    assert_eq!(folder.run(&["--version"]).fine().stdout, format!("sealwright {}\n", env!("CARGO_PKG_VERSION")));
}

// ── apply and export ──

both! {
    async fn apply_twice_changes_nothing_and_shows_a_secret_once(engine) {
        let node = Node::new(engine).await;
        let first = node.apply(EXAMPLE);
        let secret = generated(&first, "edge-gateway");
        assert_eq!(first.stdout, format!("edge-gateway\tdefault\t{secret}\n"), "generated secrets and nothing else");
        assert!(secret.starts_with("sws_"));
        for line in ["+ resource https://api.example.com", "+ client orders-sync", "+ client edge-gateway"] {
            assert!(first.stderr.lines().any(|said| said == line), "{}", first.stderr);
        }
        for line in ["    grant_types: [\"client_credentials\"]", "    client_name: \"Orders sync\""] {
            assert!(first.stderr.lines().any(|said| said == line), "{}", first.stderr);
        }
        no_secret(&first.stderr);
        let events = node.number("SELECT COUNT(*) FROM audit_events").await;
        let again = node.apply(EXAMPLE);
        assert_eq!(again.stdout, "");
        for line in ["= resource https://api.example.com", "= client orders-sync", "= client edge-gateway"] {
            assert!(again.stderr.lines().any(|said| said == line), "{}", again.stderr);
        }
        assert!(again.stderr.contains("0 made, 0 changed, 0 removed, 3 as before"), "{}", again.stderr);
        assert_eq!(node.number("SELECT COUNT(*) FROM audit_events").await, events);
    }

    async fn apply_dry_run_changes_nothing(engine) {
        let node = Node::new(engine).await;
        let dry = |text: &str| run(node.command(&["apply", "--dry-run", "-"]), Some(text)).fine();
        let said = dry(EXAMPLE);
        assert_eq!(said.stdout, "");
        assert!(said.stderr.contains("+ client orders-sync") && said.stderr.contains("Nothing was changed"), "{}", said.stderr);
        no_secret(&said.stderr);
        assert_eq!(node.number("SELECT COUNT(*) FROM clients").await, 0);
        assert_eq!(node.number("SELECT COUNT(*) FROM resources").await, 0);
        node.apply(EXAMPLE);
        let said = dry(&EXAMPLE.replace("scope = \"orders:read orders:write\"", "scope = \"orders:read\""));
        assert!(said.stderr.contains("~ client orders-sync"), "{}", said.stderr);
        assert!(node.apply(EXAMPLE).stderr.contains("0 changed"));
    }

    async fn apply_removes_what_its_file_does_not_name_only_with_prune(engine) {
        let node = Node::new(engine).await;
        node.apply(EXAMPLE);
        let less = EXAMPLE.split("[[client]]\nclient_id = \"edge-gateway\"").next().unwrap();
        assert_eq!(node.apply(less).stdout, "");
        assert_eq!(node.number("SELECT COUNT(*) FROM clients").await, 2);
        let said = run(node.command(&["apply", "--prune", "-"]), Some(less)).fine();
        assert!(said.stderr.lines().any(|line| line == "- client edge-gateway"), "{}", said.stderr);
        assert_eq!(node.number("SELECT COUNT(*) FROM clients").await, 1);
        assert_eq!(node.number("SELECT COUNT(*) FROM resources").await, 1);
    }

    async fn apply_takes_all_of_a_file_or_nothing_and_says_all_that_is_wrong(engine) {
        let node = Node::new(engine).await;
        let bad = format!("{EXAMPLE}\n[[client]]\nclient_id = \"typo\"\nscope = \"orders:raed\"\n\n\
                           [[client]]\nclient_id = \"lost\"\nresources = [\"https://unknown.example.com\"]\n");
        let said = run(node.command(&["apply", "-"]), Some(&bad));
        assert_eq!((said.status, said.stdout.as_str()), (1, ""));
        let errors = errors(&said);
        assert_eq!(errors.len(), 2, "{said:?}");
        assert!(errors[0].contains("\"typo\"") && errors[0].contains("orders:raed"), "{said:?}");
        assert!(errors[1].contains("\"lost\"") && errors[1].contains("https://unknown.example.com"), "{said:?}");
        no_secret(&said.stderr);
        assert_eq!(node.number("SELECT COUNT(*) FROM clients").await, 0);
        // What the parser stumbles over is not quoted: it may be a secret.
        let broken = EXAMPLE.replace("client_secret =", "client_secert =");
        let said = run(node.command(&["apply", "-"]), Some(&broken));
        assert!(error(&said).contains("client_secert"), "{said:?}");
        no_secret(&said.stderr);
    }

    async fn apply_beside_a_running_server_is_acted_on_when_it_returns(engine) {
        let node = Node::new(engine).await;
        let gateway = generated(&node.apply(EXAMPLE), "edge-gateway");
        let server = node.start().await;
        let form = [("grant_type", "client_credentials")];
        let active = async |token: &str| {
            server.post(INTROSPECT, Some(("edge-gateway", &gateway)), &[("token", token)]).await.json["active"].clone()
        };
        for _ in 0..5 {
            node.apply(&EXAMPLE.replace("scope = \"orders:read orders:write\"", "scope = \"orders:read\""));
            let narrower = server.post(TOKEN, Some(WORKER), &form).await;
            assert_eq!(narrower.json["scope"], "orders:read", "{}", narrower.text);
            node.apply(EXAMPLE);
            let wider = server.post(TOKEN, Some(WORKER), &form).await;
            assert_eq!(wider.json["scope"], "orders:read orders:write", "{}", wider.text);
        }
        let token = server.token(WORKER).await;
        assert_eq!(active(&token).await, true);
        node.apply(&EXAMPLE.replace("client_name = \"Orders sync\"", "disabled = true"));
        assert_eq!(server.post(TOKEN, Some(WORKER), &form).await.status, 401);
        assert_eq!(active(&token).await, false);
        node.apply(EXAMPLE);
        server.token(WORKER).await;
        assert_eq!(active(&token).await, false, "switching it on again does not bring its tokens back");
        let new = node.apply("[[client]]\nclient_id = \"new\"\nscope = \"orders:read\"\n");
        server.token(("new", &generated(&new, "new"))).await;
        let said = run(node.command(&["apply", "--prune", "-"]), Some(EXAMPLE)).fine();
        assert!(said.stderr.contains("- client new"), "{}", said.stderr);
        assert_eq!(server.post(TOKEN, Some(("new", &generated(&new, "new"))), &form).await.status, 401);
    }

    async fn export_applied_again_changes_nothing(engine) {
        let node = Node::new(engine).await;
        let more = "[[client]]\nclient_id = \"many\"\nclient_secrets = [{ label = \"old\", expires_at = 2040-01-01T00:00:00Z }, { label = \"new\" }]\n\
                    [[resource]]\nidentifier = \"urn:example:opaque\"\naccess_token_format = \"opaque\"\n";
        node.apply(&format!("{EXAMPLE}\n{more}"));
        let exported = node.run(&["export"]).fine();
        assert_eq!(exported.stderr, "");
        no_secret(&exported.stdout);
        let as_json = node.run(&["export", "--json"]).fine();
        assert_eq!(as_json.json()["client"].as_array().unwrap().len(), 3);
        for text in [&exported.stdout, &as_json.stdout] {
            let said = run(node.command(&["apply", "--prune", "-"]), Some(text)).fine();
            assert_eq!(said.stdout, "");
            assert!(said.stderr.contains("0 made, 0 changed, 0 removed, 5 as before"), "{}", said.stderr);
        }
        assert_eq!(node.run(&["export"]).fine().stdout, exported.stdout);
    }

    async fn json_for_scripts(engine) {
        let node = Node::new(engine).await;
        let json = |said: Said| said.fine().json();
        let dry = json(run(node.command(&["apply", "--json", "--dry-run", "-"]), Some(EXAMPLE)));
        assert_eq!((&dry["dry_run"], &dry["secrets"]), (&json!(true), &json!([])));
        assert_eq!(dry["changes"].as_array().unwrap().len(), 3);
        let applied = json(run(node.command(&["apply", "--json", "-"]), Some(EXAMPLE)));
        assert_eq!(applied["dry_run"], false);
        assert_eq!(applied["secrets"][0]["client_id"], "edge-gateway");
        assert!(applied["secrets"][0]["client_secret"].as_str().unwrap().starts_with("sws_"));
        let again = json(run(node.command(&["apply", "--json", "-"]), Some(EXAMPLE)));
        assert_eq!(again["secrets"], json!([]));
        assert!(again["changes"].as_array().unwrap().iter().all(|change| change["action"] == "unchanged"), "{again}");
        let keys = json(node.run(&["keys", "list", "--json"]));
        assert_eq!(keys.as_array().unwrap().len(), 8);
    }

    async fn keys_list_shows_what_the_jwks_publishes(engine) {
        let node = Node::new(engine).await;
        let server = node.start().await;
        let published = server.http.get(format!("{}/.well-known/jwks.json", server.url)).send().await.unwrap();
        let published: Value = serde_json::from_str(&published.text().await.unwrap()).unwrap();
        let listed = node.run(&["keys", "list", "--json"]).fine().json();
        let table = node.run(&["keys", "list"]).fine().stdout;
        assert_eq!(table.lines().count(), 1 + listed.as_array().unwrap().len());
        let ids = |keys: &Value| {
            let mut ids: Vec<String> = keys.as_array().unwrap().iter().map(|key| format!("{} {}", key["kid"], key["alg"])).collect();
            ids.sort();
            ids
        };
        assert_eq!(ids(&listed), ids(&published["keys"]));
        for key in listed.as_array().unwrap() {
            assert!(["active", "published"].contains(&key["state"].as_str().unwrap()), "{key}");
            assert!(table.contains(key["kid"].as_str().unwrap()));
            assert!(key["created_at"].as_str().unwrap().ends_with('Z'));
        }
        // What the schedule has for each, by the times of its row.
        node.run(&["keys", "rotate", "--now"]).fine();
        let old = crate::keys::listed(&node, "EdDSA", "retiring");
        node.run(&["keys", "retire", &old, "--yes"]).fine();
        let (listed, table) = (node.run(&["keys", "list", "--json"]).fine().json(), node.run(&["keys", "list"]).fine().stdout);
        let mut states = std::collections::BTreeSet::new();
        for key in listed.as_array().unwrap() {
            let [published, activate, retire, remove] =
                ["published_at", "activate_at", "retire_at", "remove_at"].map(|time| key[time].as_str().unwrap());
            assert!(published <= activate && activate <= retire && retire <= remove, "{key}");
            let (kid, state) = (key["kid"].as_str().unwrap(), key["state"].as_str().unwrap());
            let next = match state {
                "published" => format!("signs from {activate}"),
                "active" => format!("signs until {retire}"),
                "retiring" => format!("good until {remove}"),
                _ => format!("ended {remove}"),
            };
            let line = table.lines().find(|line| line.starts_with(kid)).unwrap();
            assert!(line.ends_with(&next) && line.contains(&format!(" {state} ")), "{next}: {line}");
            states.insert(state);
        }
        assert_eq!(states.into_iter().collect::<Vec<_>>(), ["active", "published", "retired", "retiring"]);
    }
}

// ── being a client ──

#[tokio::test]
async fn token_and_introspect_against_a_running_server() {
    let node = Node::new(Engine::Sqlite).await;
    let gateway = generated(&node.apply(EXAMPLE), "edge-gateway");
    let server = node.start().await;
    let folder = Folder::new().await;
    folder.write("secret", &format!("{SECRET}\n"));
    folder.write("gateway", &gateway);
    let as_client = ["--issuer", &node.issuer, "--client-id", "orders-sync", "--client-secret-file", "secret"];
    let as_gateway = ["--issuer", &node.issuer, "--client-id", "edge-gateway", "--client-secret-file", "gateway"];

    let said = folder.run(&[&["token"], &as_client[..]].concat()).fine();
    assert_eq!((said.stdout.lines().count(), said.stderr.as_str()), (1, ""), "the token and nothing else");
    let token = said.stdout.trim();
    let asked = run(folder.command(&[&["introspect"], &as_gateway[..]].concat()), Some(&said.stdout)).fine();
    assert_eq!((&asked.json()["active"], &asked.json()["client_id"]), (&json!(true), &json!("orders-sync")));
    assert_eq!(asked.stderr, "");
    server.revoke(WORKER, token).await;
    let asked = folder.run(&[&["introspect", token], &as_gateway[..]].concat()).fine();
    assert_eq!(asked.json(), json!({ "active": false }));

    // Scope, resource, the whole answer, and what is in the token.
    let more = ["token", "--scope", "orders:read", "--resource", "https://api.example.com", "--json", "--show"];
    let said = folder.run(&[&more, &as_client[..]].concat()).fine();
    assert_eq!((&said.json()["scope"], &said.json()["token_type"]), (&json!("orders:read"), &json!("Bearer")));
    assert!(
        said.stderr.contains("\"aud\": \"https://api.example.com\"") && said.stderr.contains("expires in "),
        "{said:?}"
    );
    no_secret(&said.stderr);

    // By the environment, and the secret from stdin.
    let mut by_variables = folder.command(&["token"]);
    by_variables.env("SEALWRIGHT_ISSUER", &node.issuer).env("SEALWRIGHT_CLIENT_ID", "orders-sync");
    by_variables.env("SEALWRIGHT_CLIENT_SECRET", SECRET);
    run(by_variables, None).fine();
    let from_stdin = ["token", "--issuer", &node.issuer, "--client-id", "orders-sync", "--client-secret-file", "-"];
    run(folder.command(&from_stdin), Some(SECRET)).fine();

    // What goes wrong is told with its mend.
    let wrong = ["token", "--issuer", &node.issuer, "--client-id", "orders-sync", "--client-secret-file", "gateway"];
    let said = folder.run(&wrong);
    assert!(error(&said).contains("invalid_client") && error(&said).contains("its secret or key"), "{said:?}");
    no_secret(&said.stderr);
    let said = folder.run(&[&["token", "--scope", "orders:all"], &as_client[..]].concat());
    assert!(error(&said).contains("invalid_scope"), "{said:?}");
    let said = folder.run(&["token", "--client-id", "orders-sync", "--client-secret-file", "secret"]);
    assert_eq!(said.status, 2, "{said:?}");
    assert!(said.stderr.contains("--issuer URL is missing"), "{said:?}");
    let said = folder.run(&[
        "token",
        "--issuer",
        "http://id.example.com",
        "--client-id",
        "a",
        "--client-secret-file",
        "secret",
    ]);
    assert_eq!(said.status, 2, "a secret is not sent over plain http: {said:?}");
    drop(server);
    let said = folder.run(&[&["token"], &as_client[..]].concat());
    assert!(error(&said).contains("Does the server run"), "{said:?}");
}

#[tokio::test]
async fn healthcheck_is_0_when_ready_and_1_when_not() {
    let node = Node::new(Engine::Sqlite).await;
    let said = node.run(&["healthcheck"]);
    assert!(error(&said).contains("management.listen"), "{said:?}");
    let mut server = node.start().await;
    node.run(&["healthcheck"]).fine();
    assert_eq!(server.terminate(), 0);
    assert_eq!(node.run(&["healthcheck"]).status, 1);

    // A server that says it is not.
    let other = TcpListener::bind(("127.0.0.1", node.management)).unwrap();
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = other.accept().unwrap();
        let mut request = [0; 1024];
        let length = stream.read(&mut request).unwrap();
        stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 8\r\n\r\nno lease").unwrap();
        String::from_utf8_lossy(&request[..length]).into_owned()
    });
    let said = node.run(&["healthcheck"]);
    assert!(error(&said).contains("HTTP status 503: no lease"), "{said:?}");
    assert!(answering.join().unwrap().starts_with("GET /health/ready HTTP/1.1\r\n"));
}

// ── starting ──

#[tokio::test]
async fn the_first_start_needs_no_preparation_and_says_what_it_made() {
    let folder = Folder::new().await;
    let (public, management) = (port(), port());
    folder.write(
        "sealwright.toml",
        &format!(
            "issuer = \"http://127.0.0.1:{public}\"\nhttp.listen = [\"127.0.0.1:{public}\"]\n\
             management.listen = [\"127.0.0.1:{management}\"]\n"
        ),
    );
    let mut server = Process::start(folder.command(&["serve"]), public, management).await;
    let log = server.run.stderr();
    for event in [
        "made the database sealwright.db",
        "made the master key file sealwright.key",
        "made a signing key",
        "ready: issuer",
    ] {
        assert!(log.contains(event), "{log}");
    }
    assert!(log.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "one JSON object a line: {log}");
    let key = folder.path().join("sealwright.key");
    let text = std::fs::read_to_string(&key).unwrap();
    assert!(!log.contains(text.trim()));
    for file in ["sealwright.key", "sealwright.db"] {
        let mode = std::fs::metadata(folder.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    // Somebody reads the database and goes: a copy, a query. The log of what was answered but is not in the database yet
    // stays where it is, for SQLite's lock tells that it is in use.
    let log_of_changes = folder.path().join("sealwright.db-wal");
    let before = std::fs::metadata(&log_of_changes).unwrap().ino();
    let database = format!("sqlite:{}", folder.path().join("sealwright.db").display());
    let mut reader = sqlx::SqliteConnection::connect(&database).await.unwrap();
    let keys: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM signing_keys").fetch_one(&mut reader).await.unwrap();
    reader.close().await.unwrap();
    assert!(keys > 0);
    assert_eq!(std::fs::metadata(&log_of_changes).unwrap().ino(), before);
    // A second one on the same file.
    let (other, another) = (port(), port());
    let mut second = folder.command(&["serve"]);
    second.env("SEALWRIGHT_HTTP__LISTEN", format!("127.0.0.1:{other}"));
    second.env("SEALWRIGHT_MANAGEMENT__LISTEN", format!("127.0.0.1:{another}"));
    let said = run(second, None);
    assert_eq!(said.status, 1);
    assert!(errors(&said)[0].contains("another `sealwright serve` runs on this database"), "{said:?}");
    assert_eq!(server.terminate(), 0);

    // The key is gone, or is another one.
    std::fs::rename(&key, folder.path().join("away")).unwrap();
    let said = folder.run(&["serve"]);
    assert!(errors(&said)[0].contains("sealwright.key is missing"), "{said:?}");
    assert!(!key.exists(), "no new one is made for sealed rows");
    let mut other = folder.command(&["serve"]);
    other.env("SEALWRIGHT_MASTER_KEY__VALUE", MASTER_KEY);
    let said = run(other, None);
    assert!(errors(&said)[0].contains("this is not the master key"), "{said:?}");
    no_secret(&said.stderr);
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_names_the_setting() {
    let node = Node::new(Engine::Sqlite).await;
    for (setting, port) in [("http.listen", node.port), ("management.listen", node.management)] {
        let taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let said = node.run(&["serve"]);
        assert_eq!(said.status, 1);
        let told = errors(&said);
        assert!(told.len() == 1 && told[0].contains(setting) && told[0].contains(&port.to_string()), "{said:?}");
        drop(taken);
    }
    node.start().await;
}

#[tokio::test]
async fn postgresql_demands_a_master_key_and_a_schema() {
    let place = Place::new(Engine::Postgres).await;
    let (public, management) = (port(), port());
    let start = |arguments: &[&str]| {
        let mut command = command(&place.folder, arguments);
        command.env("SEALWRIGHT_ISSUER", format!("http://127.0.0.1:{public}"));
        command.env("SEALWRIGHT_HTTP__LISTEN", format!("127.0.0.1:{public}"));
        command.env("SEALWRIGHT_MANAGEMENT__LISTEN", format!("127.0.0.1:{management}"));
        command.env("SEALWRIGHT_DATABASE__URL", &place.url);
        command
    };
    for command in ["check", "serve"] {
        let said = run(start(&[command]), None);
        let told = error(&said);
        assert!(
            told.starts_with("master_key.file: must be set on PostgreSQL") && told.contains("openssl rand"),
            "{said:?}"
        );
    }
    std::fs::write(place.folder.join("key"), format!("{MASTER_KEY}\n")).unwrap();
    std::fs::set_permissions(place.folder.join("key"), PermissionsExt::from_mode(0o600)).unwrap();
    let start = |arguments: &[&str]| {
        let mut command = start(arguments);
        command.env("SEALWRIGHT_MASTER_KEY__FILE", "key");
        command
    };
    let said = run(start(&["keys", "list"]), None);
    assert!(error(&said).contains("sealwright migrate"), "{said:?}");

    // `serve` waits, and ends when it is told to.
    let mut waiting = Run::spawn(start(&["serve"]), None);
    let begun = Instant::now();
    while !waiting.stderr().contains("sealwright migrate") {
        assert!(begun.elapsed() < Duration::from_secs(20) && !waiting.has_ended(), "{}", waiting.stderr());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(run(start(&["healthcheck"]), None).status, 1, "waiting is not ready");
    waiting.signal("TERM");
    assert_eq!(waiting.wait(), 0);

    let serving = tokio::spawn(Process::start(start(&["serve"]), public, management));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let said = run(start(&["migrate"]), None).fine();
    assert!(said.stdout.is_empty() && said.stderr.contains("has this release's schema"), "{said:?}");
    run(start(&["migrate"]), None).fine();
    let server = serving.await.unwrap();
    run(start(&["healthcheck"]), None).fine();
    no_secret(&server.run.stderr());
}

#[tokio::test]
async fn a_database_out_of_reach_is_said_without_its_password() {
    let folder = Folder::new().await;
    for arguments in [&["serve"][..], &["apply", "x.toml"], &["export"], &["migrate"], &["keys", "list"]] {
        folder.write("x.toml", "");
        let mut command = folder.command(arguments);
        command.env("SEALWRIGHT_ISSUER", "https://id.example.com").env("SEALWRIGHT_MASTER_KEY__VALUE", MASTER_KEY);
        let port = port();
        command.env("SEALWRIGHT_DATABASE__URL", format!("postgres://me:hunter2@127.0.0.1:{port}/db"));
        command.env("SEALWRIGHT_DATABASE__DEADLINE_MILLISECONDS", "1000");
        let said = run(command, None);
        assert_eq!((said.status, said.stdout.as_str()), (1, ""), "{said:?}");
        assert!(!said.stderr.contains("hunter2"), "{said:?}");
        // Which, why, and what to look at.
        let which = format!("PostgreSQL, 127.0.0.1 port {port}, database \"db\", cannot be opened");
        for part in [which.as_str(), "Connection refused", "database.url"] {
            assert!(errors(&said).last().unwrap().contains(part), "{part}: {said:?}");
        }
    }
    let mut command = folder.command(&["serve"]);
    command.env("SEALWRIGHT_ISSUER", "https://id.example.com").env("SEALWRIGHT_DATABASE__URL", "sqlite:no/x.db");
    let said = run(command, None);
    for part in ["SQLite, no/x.db, cannot be opened: No such file or directory", "database.url"] {
        assert!(error(&said).contains(part), "{part}: {said:?}");
    }
    let mut command = folder.command(&["export"]);
    command.env("SEALWRIGHT_DATABASE__URL", "sqlite:nowhere.db");
    let said = run(command, None);
    assert!(error(&said).contains("there is no database nowhere.db"), "{said:?}");
    assert!(!folder.path().join("nowhere.db").exists());
}

// ── ending ──

/// A token request whose body is half sent.
fn half_sent(server: &Process) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(server.url.strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let (half, rest) = ("grant_type=client", "_credentials");
    let basic = crate::support::basic(WORKER.0, WORKER.1);
    let head = format!(
        "POST {TOKEN} HTTP/1.1\r\nHost: x\r\nAuthorization: {basic}\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {}\r\n\r\n{half}",
        half.len() + rest.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    (stream, rest.to_owned())
}

both! {
    async fn sigterm_lets_an_open_request_end_well(engine) {
        let node = Node::new(engine).await;
        node.apply(EXAMPLE);
        let mut server = node.start().await;
        server.token(WORKER).await;
        let (mut stream, rest) = half_sent(&server);
        std::thread::sleep(Duration::from_millis(200));
        server.run.signal("TERM");
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", node.port)).is_ok() {
            assert!(begun.elapsed() < Duration::from_secs(5), "new connections are still taken");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(!server.run.has_ended());
        // Balancers are told to send it no more, by the listener that goes last.
        let management = format!("http://127.0.0.1:{}/health", node.management);
        let ready = Answer::of(server.http.get(format!("{management}/ready")).send().await.unwrap()).await;
        assert_eq!((ready.status, &ready.json["draining"]), (503, &json!(true)), "{}", ready.text);
        assert_eq!(server.http.get(format!("{management}/live")).send().await.unwrap().status(), 200);
        stream.write_all(rest.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"access_token\""), "{answer}");
        assert_eq!(server.run.wait(), 0, "{}", server.run.stderr());
        no_secret(&server.run.stderr());
        // It gave its lease back: nobody waits for it.
        assert_eq!(node.number("SELECT COUNT(*) FROM nodes").await, 0);
    }
}

/// The rest of the configuration is what it was at the start; a mistake is told, and changes nothing.
#[tokio::test]
async fn sighup_reads_the_logs_filter_again() {
    let node = Node::new(Engine::Sqlite).await;
    let text = std::fs::read_to_string(&node.config).unwrap().replace("log.requests = false", "log.requests = true");
    let filter = |filter: &str| std::fs::write(&node.config, format!("{text}log.filter = {filter:?}\n")).unwrap();
    filter("warn");
    let server = node.start().await;
    let logged = async || {
        let before = server.run.stderr().len();
        server.post(TOKEN, None, &[]).await;
        server.run.stderr()[before..].contains("\"request\"")
    };
    assert!(!logged().await);
    filter("info");
    server.run.signal("HUP");
    until("it is read", async || server.run.stderr().contains("log.filter was read again")).await;
    assert!(logged().await);
    filter("a=b=c");
    server.run.signal("HUP");
    until("it is told", async || server.run.stderr().contains("the settings in use stay")).await;
    assert!(server.run.stderr().contains("log.filter (") && logged().await, "{}", server.run.stderr());
    filter("warn");
    server.run.signal("HUP");
    until("it is read", async || !logged().await).await;
}

/// Forty clients that both files have, in opposite orders and by different names, and one that only this one has.
fn rival(name: &str, backwards: bool) -> String {
    let mut clients: Vec<String> = (0..40)
        .map(|at| format!("[[client]]\nclient_id = \"shared-{at:02}\"\nclient_name = \"{name}\"\ngrant_types = []\n"))
        .collect();
    if backwards {
        clients.reverse();
    }
    clients.push(format!("[[client]]\nclient_id = \"only-{name}\"\ngrant_types = []\n"));
    clients.concat()
}

/// Two files at once: each is applied whole or not at all, and who was not is told so, and may try again.
#[tokio::test]
async fn apply_at_once_from_two_processes_loses_nothing() {
    let node = Node::new(Engine::Postgres).await;
    let mut refusals = 0;
    for round in 0..rounds(4) {
        let names = [format!("one-{round}"), format!("two-{round}")];
        let files = [rival(&names[0], false), rival(&names[1], true)];
        // Both get as far as they can, and then both may end: neither saw the other when it compared.
        let mut other = sqlx::PgConnection::connect(&node.place.url).await.unwrap();
        other.execute("BEGIN; UPDATE change_head SET seq = seq").await.unwrap();
        let mut applying = files.clone().map(|file| Run::spawn(node.command(&["apply", "-"]), Some(&file)));
        let schema = node.place.url.rsplit("%3D").next().unwrap();
        let waiting = format!(
            "SELECT COUNT(DISTINCT pid) FROM pg_locks WHERE NOT granted AND pid IN \
             (SELECT pid FROM pg_locks WHERE relation = '{schema}.clients'::regclass)"
        );
        until("both wait", async || node.number(&waiting).await == 2 || applying.iter_mut().any(Run::has_ended)).await;
        other.execute("ROLLBACK").await.unwrap();
        let mut last = String::new();
        let mut ended: Vec<(usize, i32)> = applying.iter_mut().map(Run::wait).enumerate().collect();
        // Who was refused comes second.
        ended.sort_by_key(|(_, status)| *status);
        for (at, status) in ended {
            let only = format!("SELECT COUNT(*) FROM clients WHERE client_id = 'only-{}'", names[at]);
            if status != 0 {
                refusals += 1;
                let said = applying[at].stderr();
                assert_eq!(status, 1, "{said}");
                assert!(said.contains("nothing was applied, run it again"), "{said}");
                assert_eq!(
                    (applying[at].stdout(), node.number(&only).await),
                    (String::new(), 0),
                    "nothing of it stands"
                );
                node.apply(&files[at]);
            }
            assert_eq!(node.number(&only).await, 1);
            last.clone_from(&names[at]);
        }
        let of_the_last = format!("SELECT COUNT(*) FROM clients WHERE metadata LIKE '%\"{last}\"%'");
        assert_eq!(node.number(&of_the_last).await, 40, "one file's, and not a mixture");
        assert_eq!(node.number("SELECT COUNT(*) FROM clients").await, 40 + 2 * (i64::try_from(round).unwrap() + 1));
    }
    assert!(refusals > 0, "they never met");
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let node = Node::new(Engine::Sqlite).await;
    node.apply(EXAMPLE);
    let mut server = node.start().await;
    let (_stream, _) = half_sent(&server);
    std::thread::sleep(Duration::from_millis(200));
    server.run.signal("TERM");
    std::thread::sleep(Duration::from_millis(300));
    assert!(!server.run.has_ended());
    let begun = Instant::now();
    assert_eq!(server.terminate(), 1);
    assert!(begun.elapsed() < Duration::from_secs(3));
}
