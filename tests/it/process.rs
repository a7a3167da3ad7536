//! The real program: processes of its own, which see nothing of the environment but what a test gives them.

use std::fs::{File, read_to_string};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use sealwright::clock::Clock;
use sealwright::secret::Secret;
use sealwright::store::{Db, Location, Options};
use serde_json::Value;

use crate::support::{Answer, Engine, FORM, MASTER_KEY, Place, REVOKE, TOKEN, basic, client, encode, seed_keys};

/// How long anything may take on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_mins(1);

/// The program under test. A link of its own: a build that goes on beside a long test replaces the program, not this.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let told = std::env::var_os("CARGO_BIN_EXE_sealwright").map(PathBuf::from);
        let built = told.unwrap_or_else(|| env!("CARGO_BIN_EXE_sealwright").into());
        let folder = built.parent().unwrap().join("under-test");
        std::fs::create_dir_all(&folder).unwrap();
        let link = folder.join(format!("sealwright-{}", std::process::id()));
        let _ = std::fs::remove_file(&link);
        std::fs::hard_link(&built, &link).unwrap();
        // Links of test runs that are over.
        for old in std::fs::read_dir(&folder).unwrap().filter_map(Result::ok) {
            let pid = old.file_name().to_string_lossy().rsplit('-').next().unwrap_or_default().to_owned();
            if !Path::new("/proc").join(pid).exists() {
                let _ = std::fs::remove_file(old.path());
            }
        }
        link
    })
}

/// The program with `arguments`, in `folder`, with an empty environment.
pub fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    clean(&mut command, folder);
    command.args(arguments);
    command
}

/// Takes everything out of the environment but the way to other programs.
pub fn clean(command: &mut Command, folder: &Path) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.current_dir(folder).env_clear().env("PATH", path).env("HOME", folder);
}

/// A port that nobody listens on, below those that the system gives to outgoing connections: a server that is started
/// again gets it again.
pub fn port() -> u16 {
    static TAKEN: AtomicUsize = AtomicUsize::new(0);
    loop {
        let start = std::process::id() as usize * 211;
        let port = 10_000 + (start + TAKEN.fetch_add(1, Ordering::Relaxed)) % 20_000;
        let port = u16::try_from(port).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && TcpListener::bind(("::1", port)).is_ok() {
            return port;
        }
    }
}

/// A process; killed when it is dropped. What it says goes to files, so that no full pipe stops it.
pub struct Run {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Run {
    pub fn spawn(mut command: Command, input: Option<&str>) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("sealwright_run_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let file = |kind: &str| std::env::temp_dir().join(format!("{name}.{kind}"));
        let (stdout, stderr) = (file("stdout"), file("stderr"));
        command.stdout(File::create(&stdout).unwrap()).stderr(File::create(&stderr).unwrap());
        command.stdin(input.map_or_else(Stdio::null, |text| {
            std::fs::write(file("stdin"), text).unwrap();
            let input = File::open(file("stdin")).unwrap();
            std::fs::remove_file(file("stdin")).unwrap();
            input.into()
        }));
        Self { child: command.spawn().unwrap(), stdout, stderr }
    }

    /// What it wrote to stdout until now.
    pub fn stdout(&self) -> String {
        read_to_string(&self.stdout).unwrap()
    }

    /// What it wrote to stderr until now.
    pub fn stderr(&self) -> String {
        read_to_string(&self.stderr).unwrap()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end; the exit status, -1 when a signal ended it.
    #[track_caller]
    pub fn wait(&mut self) -> i32 {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end; it said: {}", self.stderr());
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and gone when this returns.
    pub fn kill9(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    /// Sends a signal by its name: `TERM`, `STOP`, `CONT`, `HUP`.
    pub fn signal(&self, name: &str) {
        let line = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("/bin/sh").args(["-c", &line]).status().unwrap().success());
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for file in [&self.stdout, &self.stderr] {
            let _ = std::fs::remove_file(file);
        }
    }
}

/// What a command did.
#[derive(Debug)]
pub struct Said {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    #[track_caller]
    pub fn fine(self) -> Self {
        assert_eq!(self.status, 0, "{self:?}");
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|cause| panic!("{cause}: {self:?}"))
    }
}

/// Runs a command to its end.
#[track_caller]
pub fn run(command: Command, input: Option<&str>) -> Said {
    let mut run = Run::spawn(command, input);
    let status = run.wait();
    Said { status, stdout: run.stdout(), stderr: run.stderr() }
}

/// A configuration file and what it names: one node that can be started.
#[derive(Clone)]
pub struct Node {
    pub place: Arc<Place>,
    pub issuer: String,
    pub config: PathBuf,
    pub port: u16,
    pub management: u16,
}

impl Node {
    /// On a database of its own, with signing keys: making RSA keys takes its time.
    pub async fn new(engine: Engine) -> Self {
        let place = Arc::new(Place::new(engine).await);
        let location = match engine {
            Engine::Sqlite => Location::Sqlite(place.folder.join("test.db")),
            Engine::Postgres => Location::Postgres(Secret::new(&place.url)),
        };
        let options = Options { location, max_connections: 1, deadline: Duration::from_secs(20) };
        let db = Db::open(options, Clock::system()).await.unwrap();
        db.migrate().await.unwrap();
        seed_keys(&db).await;
        let port = port();
        Self::written(place, format!("http://127.0.0.1:{port}"), port)
    }

    /// One more node of the same issuer, on the same database.
    pub fn beside(&self) -> Self {
        Self::written(self.place.clone(), self.issuer.clone(), port())
    }

    fn written(place: Arc<Place>, issuer: String, port: u16) -> Self {
        let management = self::port();
        let config = place.folder.join(format!("{port}.toml"));
        let text = format!(
            "issuer = \"{issuer}\"\n\
             http.listen = [\"127.0.0.1:{port}\"]\n\
             management.listen = [\"127.0.0.1:{management}\"]\n\
             database = {{ url = \"{}\", max_connections = 6, migrate = true }}\n\
             master_key.value = \"{MASTER_KEY}\"\n\
             secrets = {{ argon2_memory_kib = 7168, argon2_iterations = 1 }}\n\
             log.requests = false\n",
            place.url
        );
        std::fs::write(&config, text).unwrap();
        // It holds the master key.
        std::fs::set_permissions(&config, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        Self { place, issuer, config, port, management }
    }

    /// The program with this configuration, by `SEALWRIGHT_CONFIG`.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(&self.place.folder, arguments);
        command.env("SEALWRIGHT_CONFIG", &self.config);
        command
    }

    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Said {
        run(self.command(arguments), None)
    }

    /// Applies a text by the command; stdout is the generated secrets.
    #[track_caller]
    pub fn apply(&self, text: &str) -> Said {
        run(self.command(&["apply", "-"]), Some(text)).fine()
    }

    /// Starts `serve`, and waits until it is ready.
    pub async fn start(&self) -> Process {
        let config = self.config.to_str().unwrap();
        Process::start(command(&self.place.folder, &["serve", "--config", config]), self.port, self.management).await
    }

    /// As [`Place::number`].
    pub async fn number(&self, sql: &str) -> i64 {
        self.place.number(sql).await
    }
}

/// A running `serve`, and a client to talk to it.
pub struct Process {
    pub run: Run,
    pub url: String,
    pub http: reqwest::Client,
    /// From the start until `/health/ready` said 200.
    pub took: Duration,
}

impl Process {
    /// Starts a `serve` that will listen there, and waits until it is ready.
    pub async fn start(serve: Command, port: u16, management: u16) -> Self {
        let begun = Instant::now();
        let mut run = Run::spawn(serve, None);
        let url = format!("http://127.0.0.1:{port}");
        let http = client();
        loop {
            let asked = http.get(format!("http://127.0.0.1:{management}/health/ready")).send().await;
            if asked.is_ok_and(|answer| answer.status() == 200) {
                return Self { run, url, http, took: begun.elapsed() };
            }
            assert!(!run.has_ended(), "serve ended: {}", run.stderr());
            assert!(begun.elapsed() < PATIENCE, "serve does not become ready: {}", run.stderr());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// SIGKILL, and gone when this returns.
    pub fn kill9(&mut self) {
        self.run.kill9();
    }

    /// SIGTERM; the exit status.
    #[track_caller]
    pub fn terminate(&mut self) -> i32 {
        self.run.signal("TERM");
        self.run.wait()
    }

    /// A POST of a form; an error when the server is gone before it has answered.
    pub async fn try_post(
        &self,
        path: &str,
        who: Option<(&str, &str)>,
        form: &[(&str, &str)],
    ) -> reqwest::Result<Answer> {
        let mut request = self.http.post(format!("{}{path}", self.url)).header("content-type", FORM).body(encode(form));
        if let Some((id, secret)) = who {
            request = request.header("authorization", basic(id, secret));
        }
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await?;
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Ok(Answer { status, headers, text, json })
    }

    pub async fn post(&self, path: &str, who: Option<(&str, &str)>, form: &[(&str, &str)]) -> Answer {
        self.try_post(path, who, form).await.unwrap_or_else(|cause| panic!("{cause:?}: {}", self.run.stderr()))
    }

    /// A token by client credentials.
    pub async fn token(&self, who: (&str, &str)) -> String {
        let answer = self.post(TOKEN, Some(who), &[("grant_type", "client_credentials")]).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json["access_token"].as_str().unwrap().to_owned()
    }

    /// Revokes, and wants the 200.
    pub async fn revoke(&self, who: (&str, &str), token: &str) {
        let answer = self.post(REVOKE, Some(who), &[("token", token)]).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
}
