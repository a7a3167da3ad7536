//! `serve --dev`: the whole product in an empty folder, and what it prints works as it stands.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use sqlx::Connection as _;

use crate::process::{Process, Said, clean, command, port, run};
use crate::support::{Engine, INTROSPECT, Place, REVOKE};

/// An empty folder, and two ports for the server in it.
pub struct Folder {
    place: Place,
    port: u16,
    management: u16,
}

impl Folder {
    pub async fn new() -> Self {
        Self { place: Place::new(Engine::Sqlite).await, port: port(), management: port() }
    }

    pub fn path(&self) -> &Path {
        &self.place.folder
    }

    fn dev_json(&self) -> PathBuf {
        self.path().join("sealwright-dev/dev.json")
    }

    fn told(&self) -> Value {
        serde_json::from_str(&std::fs::read_to_string(self.dev_json()).unwrap()).unwrap()
    }

    fn serve_command(&self) -> Command {
        let mut serve = command(self.path(), &["serve", "--dev"]);
        serve.env("SEALWRIGHT_HTTP__LISTEN", format!("localhost:{}", self.port));
        serve.env("SEALWRIGHT_MANAGEMENT__LISTEN", format!("127.0.0.1:{}", self.management));
        serve
    }

    pub async fn serve(&self) -> Process {
        Process::start(self.serve_command(), self.port, self.management).await
    }

    #[track_caller]
    pub fn run(&self, arguments: &[&str], input: Option<&str>) -> Said {
        run(command(self.path(), arguments), input)
    }

    /// Has bash run what somebody would paste, in this folder.
    #[track_caller]
    pub fn paste(&self, lines: &str) -> Said {
        self.try_paste(lines).fine()
    }

    pub fn try_paste(&self, lines: &str) -> Said {
        let mut bash = Command::new("bash");
        clean(&mut bash, self.path());
        bash.args(["-c", lines]);
        run(bash, None)
    }
}

fn credentials<'a>(told: &'a Value, name: &str) -> (&'a str, &'a str) {
    (told[name]["client_id"].as_str().unwrap(), told[name]["client_secret"].as_str().unwrap())
}

/// Each member's name, as a path.
fn names(value: &Value, before: &str) -> Vec<String> {
    if let Value::Array(items) = value {
        assert!(!items.is_empty() && items.iter().all(Value::is_string), "{before}");
        return vec![before.to_owned()];
    }
    let Value::Object(members) = value else {
        assert!(value.as_str().is_some_and(|text| !text.is_empty()), "{before}");
        return vec![before.to_owned()];
    };
    members.iter().flat_map(|(name, value)| names(value, &format!("{before}/{name}"))).collect()
}

#[tokio::test]
async fn dev_json_has_the_agreed_names_and_is_its_owners() {
    let folder = Folder::new().await;
    let server = folder.serve().await;
    let told = folder.told();
    let mut names = names(&told, "");
    names.sort();
    let agreed = [
        "/client/client_id",
        "/client/client_secret",
        "/gateway/client_id",
        "/gateway/client_secret",
        "/issuer",
        "/resource",
        "/user/password",
        "/user/username",
        "/web_client/client_id",
        "/web_client/client_secret",
        "/web_client/redirect_uris",
    ];
    assert_eq!(names, agreed);
    assert_eq!(told["issuer"], format!("http://localhost:{}", folder.port));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder.dev_json()), 0o600);
    assert_eq!(mode(&folder.path().join("sealwright-dev")), 0o700);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "all of it is in sealwright-dev");

    // They work, for the resource that it names.
    let token = server.token(credentials(&told, "client")).await;
    let answer = server.post(INTROSPECT, Some(credentials(&told, "gateway")), &[("token", &token)]).await;
    assert_eq!((&answer.json["active"], &answer.json["aud"]), (&json!(true), &told["resource"]), "{}", answer.text);
    assert_eq!(answer.json["iss"], told["issuer"]);
    // Listening on both addresses of localhost.
    assert!(std::net::TcpStream::connect(("::1", folder.port)).is_ok());
    // Development has no log of requests, and people are not told in JSON.
    let said = server.run.stderr();
    assert!(!said.contains("oauth2/token") && !said.contains('{'), "{said}");
    assert!(!said.contains("sws_"), "{said}");
}

#[tokio::test]
async fn the_printed_lines_work_as_they_stand() {
    let folder = Folder::new().await;
    let server = folder.serve().await;
    let printed = server.run.stdout();
    let blocks: Vec<&str> = printed.trim_end().split("\n\n").collect();
    let [.., by_program, _, by_curl] = blocks[..] else { panic!("{printed}") };

    let said = folder.paste(by_program);
    assert_eq!((said.stdout.lines().count(), said.stdout.matches('.').count()), (1, 2), "a JWT: {said:?}");
    assert!(said.stderr.contains("demo:read"), "{said:?}");

    let said = folder.paste(by_curl);
    let lines: Vec<&str> = said.stdout.lines().collect();
    let [token, before, after] = lines[..] else { panic!("{said:?}") };
    let json = |line: &str| serde_json::from_str::<Value>(line).unwrap();
    assert_eq!((&json(before)["active"], &json(before)["scope"]), (&json!(true), &json!("demo:read")));
    assert_eq!(json(after), json!({ "active": false }), "{token} was revoked");

    // Pasted a second time, and one line by itself.
    folder.paste(by_curl);
    let first = by_curl.lines().next().unwrap();
    assert_eq!(folder.paste(first).stdout.matches('.').count(), 2);
}

#[tokio::test]
async fn a_restart_keeps_data_and_secrets() {
    let folder = Folder::new().await;
    let mut server = folder.serve().await;
    let told = folder.told();
    let (client, gateway) = (credentials(&told, "client"), credentials(&told, "gateway"));
    let (token, revoked) = (server.token(client).await, server.token(client).await);
    server.revoke(client, &revoked).await;
    let extra = "[[client]]\nclient_id = \"mine\"\nscope = \"demo:read\"\n";
    let mine = folder.run(&["apply", "--dev", "-"], Some(extra)).fine();
    assert_eq!(server.terminate(), 0);

    let mut server = folder.serve().await;
    assert_eq!(folder.told(), told);
    let active = async |server: &Process, token: &str| {
        server.post(INTROSPECT, Some(gateway), &[("token", token)]).await.json["active"].clone()
    };
    assert_eq!(active(&server, &token).await, true, "the signing keys are the same");
    assert_eq!(active(&server, &revoked).await, false);
    server.token(("mine", mine.stdout.trim().rsplit('\t').next().unwrap())).await;
    server.kill9();
    let server = folder.serve().await;
    assert_eq!(folder.told(), told);
    assert_eq!(active(&server, &token).await, true);
    drop(server);

    // Lost, dev.json is made anew; its secrets work, and those that nobody knows any more do not.
    std::fs::remove_file(folder.dev_json()).unwrap();
    let server = folder.serve().await;
    let anew = folder.told();
    assert_ne!(anew, told);
    server.token(credentials(&anew, "client")).await;
    let answer = server.post(REVOKE, Some(client), &[("token", "x")]).await;
    assert_eq!(answer.status, 401, "{}", answer.text);
    // The demo person was made once and got another password once, as the audit trail says.
    let database = format!("sqlite:{}", folder.path().join("sealwright-dev/sealwright.db").display());
    let mut conn = sqlx::SqliteConnection::connect(&database).await.unwrap();
    let sql = "SELECT COUNT(*) FROM audit_events a JOIN users u ON u.sub = a.object WHERE a.kind = $1";
    for kind in ["user.saved", "password.set"] {
        let count: i64 = sqlx::query_scalar(sql).bind(kind).fetch_one(&mut conn).await.unwrap();
        assert_eq!(count, 1, "{kind}");
    }
}

/// A second one beside it would be talked to by nobody, and must not take over dev.json.
#[tokio::test]
async fn a_second_server_in_the_folder_is_refused_and_changes_nothing() {
    let folder = Folder::new().await;
    let server = folder.serve().await;
    let told = folder.told();
    let mut second = folder.serve_command();
    second.env("SEALWRIGHT_HTTP__LISTEN", format!("localhost:{}", port()));
    second.env("SEALWRIGHT_MANAGEMENT__LISTEN", format!("127.0.0.1:{}", port()));
    let said = run(second, None);
    assert_eq!((said.status, said.stdout.as_str()), (1, ""), "{said:?}");
    assert!(said.stderr.contains("another `sealwright serve`"), "{said:?}");
    assert_eq!(folder.told(), told);
    server.token(credentials(&told, "client")).await;
}

#[tokio::test]
async fn the_other_commands_work_beside_it() {
    let folder = Folder::new().await;
    let before = folder.run(&["token", "--dev"], None);
    assert!(
        before.status == 1 && before.stderr.contains("run `sealwright serve --dev` in this folder first"),
        "{before:?}"
    );
    let _server = folder.serve().await;
    let token = folder.run(&["token", "--dev"], None).fine().stdout;
    let asked = folder.run(&["introspect", "--dev"], Some(&token)).fine();
    assert_eq!(asked.json()["active"], true);
    assert_eq!(folder.run(&["keys", "list", "--dev", "--json"], None).fine().json().as_array().unwrap().len(), 4);
    assert!(folder.run(&["check", "--dev"], None).fine().stdout.contains(&format!("localhost:{}", folder.port)));
    let exported = folder.run(&["export", "--dev"], None).fine().stdout;
    let again = folder.run(&["apply", "--dev", "--dry-run", "-"], Some(&exported)).fine();
    assert_eq!(again.stdout, "");
    // The issue's own example does not collide with the demo data, and pruning leaves that alone.
    folder.run(&["apply", "--dev", "--prune", "-"], Some(crate::support::EXAMPLE)).fine();
    folder.run(&["token", "--dev"], None).fine();
}

#[tokio::test]
async fn nothing_but_loopback_and_a_taken_port_names_its_setting() {
    let folder = Folder::new().await;
    for (variable, key, address) in [
        ("SEALWRIGHT_HTTP__LISTEN", "http.listen", "0.0.0.0"),
        ("SEALWRIGHT_HTTP__LISTEN", "http.listen", "[::]"),
        ("SEALWRIGHT_HTTP__LISTEN", "http.listen", "localhost:1,10.1.2.3"),
        ("SEALWRIGHT_MANAGEMENT__LISTEN", "management.listen", "0.0.0.0"),
    ] {
        let mut serve = folder.serve_command();
        serve.env(variable, format!("{address}:{}", folder.port));
        let said = run(serve, None);
        assert_eq!((said.status, said.stdout.as_str()), (1, ""), "{said:?}");
        assert!(said.stderr.starts_with(&format!("error: {key} ({variable}): ")), "{said:?}");
        assert!(said.stderr.contains("serves loopback only"), "{said:?}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing was made");
    for (key, port) in [("http.listen", folder.port), ("management.listen", folder.management)] {
        let _taken = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        let said = run(folder.serve_command(), None);
        let error = said.stderr.lines().find(|line| line.starts_with("error: ")).unwrap();
        assert!(said.status == 1 && error.contains(key) && error.contains(&port.to_string()), "{said:?}");
        assert_eq!(said.stdout, "", "no lines to paste for a server that is not there");
    }
}
