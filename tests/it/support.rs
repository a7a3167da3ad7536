//! A server in this process, on either engine, and a client to talk to it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use sealwright::app::{self, App};
use sealwright::apply;
use sealwright::clock::Clock;
use sealwright::config::{Config, DatabaseUrl, Issuer};
use sealwright::cx::Services;
use sealwright::keys::MasterKeys;
use sealwright::secret::Secret;
use sealwright::store::signing_keys::{self, SigningKeyRow};
use sealwright::store::{Db, Location, Options};
use sealwright::wire::Algorithm;
use serde_json::Value;
use sqlx::{Connection, Executor};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::process;

/// Defines a test that runs on both engines: `name::sqlite` and `name::postgres`.
macro_rules! both {
    ($($(#[$attribute:meta])* async fn $name:ident($engine:ident) $body:block)+) => {
        $(
            $(#[$attribute])*
            mod $name {
                #[allow(unused_imports, clippy::allow_attributes, reason = "a test may need nothing of its file")]
                use super::*;
                async fn test($engine: $crate::support::Engine) $body

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn sqlite() {
                    Box::pin(test($crate::support::Engine::Sqlite)).await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn postgres() {
                    Box::pin(test($crate::support::Engine::Postgres)).await;
                }
            }
        )+
    };
}
pub(crate) use both;

/// The master key of every test database.
pub const MASTER_KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// Which database a test runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Sqlite,
    Postgres,
}

/// A database of one test's own, removed after it.
pub struct Place {
    pub folder: PathBuf,
    pub url: String,
}

impl Place {
    pub async fn new(engine: Engine) -> Self {
        let name = format!("sealwright_{:032x}", u128::from_be_bytes(sealwright::secret::random().unwrap()));
        let folder = std::env::temp_dir().join(&name);
        std::fs::create_dir(&folder).unwrap();
        let url = match engine {
            Engine::Sqlite => format!("sqlite:{}", folder.join("test.db").display()),
            Engine::Postgres => {
                let base = postgres();
                let mut conn = sqlx::PgConnection::connect(&base).await.expect("PostgreSQL for tests answers");
                let create = format!("CREATE SCHEMA {name}");
                sqlx::query(sqlx::AssertSqlSafe(create)).execute(&mut conn).await.unwrap();
                format!("{base}?options=-c%20search_path%3D{name}")
            }
        };
        Self { folder, url }
    }

    /// A number from the database, read beside the server.
    pub async fn number(&self, sql: &str) -> i64 {
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        if self.url.starts_with("sqlite:") {
            let mut conn = sqlx::SqliteConnection::connect(&self.url).await.unwrap();
            sqlx::query_scalar(sql).fetch_one(&mut conn).await.unwrap()
        } else {
            let mut conn = sqlx::PgConnection::connect(&self.url).await.unwrap();
            sqlx::query_scalar(sql).fetch_one(&mut conn).await.unwrap()
        }
    }

    /// Texts from the database, read beside the server.
    pub async fn texts(&self, sql: &str) -> Vec<String> {
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        if self.url.starts_with("sqlite:") {
            let mut conn = sqlx::SqliteConnection::connect(&self.url).await.unwrap();
            sqlx::query_scalar(sql).fetch_all(&mut conn).await.unwrap()
        } else {
            let mut conn = sqlx::PgConnection::connect(&self.url).await.unwrap();
            sqlx::query_scalar(sql).fetch_all(&mut conn).await.unwrap()
        }
    }

    /// Statements run behind the server's back.
    pub async fn run(&self, statements: &str) {
        let statements = sqlx::AssertSqlSafe(statements.to_owned());
        if self.url.starts_with("sqlite:") {
            let mut conn = sqlx::SqliteConnection::connect(&self.url).await.unwrap();
            conn.execute(sqlx::raw_sql(statements)).await.unwrap();
        } else {
            let mut conn = sqlx::PgConnection::connect(&self.url).await.unwrap();
            conn.execute(sqlx::raw_sql(statements)).await.unwrap();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The server that `tests/run.sh` starts; without it these tests fail rather than skip.
pub fn postgres() -> String {
    std::env::var("SEALWRIGHT_TEST_POSTGRES").expect(
        "SEALWRIGHT_TEST_POSTGRES names a PostgreSQL server for tests: eval \"$(bash tests/postgres.sh start)\"",
    )
}

/// A running server.
pub struct Server {
    pub url: String,
    pub management: String,
    pub issuer: String,
    pub clock: Clock,
    pub services: Arc<Services>,
    pub place: Arc<Place>,
    pub http: reqwest::Client,
    stop: CancellationToken,
    running: Option<tokio::task::JoinHandle<()>>,
}

/// What `apply` files of most tests begin with: the issue's own example, with a known secret.
pub const EXAMPLE: &str = r#"
[[resource]]
identifier = "https://api.example.com"
name = "Orders API"
scopes = { "orders:read" = "Read orders", "orders:write" = "Change orders" }
access_token_lifetime = 300
access_token_signed_response_alg = "EdDSA"

[[client]]
client_id = "orders-sync"
client_name = "Orders sync"
grant_types = ["client_credentials"]
token_endpoint_auth_method = "client_secret_basic"
client_secret = "imported-secret-of-at-least-32-characters"   # leave out to have one generated
scope = "orders:read orders:write"
resources = ["https://api.example.com"]

[[client]]
client_id = "edge-gateway"
token_endpoint_auth_method = "client_secret_basic"
grant_types = []
serves = ["https://api.example.com"]        # may introspect tokens for this audience
"#;

/// The imported secret of [`EXAMPLE`].
pub const SECRET: &str = "imported-secret-of-at-least-32-characters";

impl Server {
    /// A server with an empty database.
    pub async fn empty(engine: Engine) -> Self {
        Self::with(engine, |_| {}).await
    }

    /// A server that has applied [`EXAMPLE`], and the gateway's secret.
    pub async fn example(engine: Engine) -> (Self, String) {
        let server = Self::empty(engine).await;
        let generated = server.apply(EXAMPLE).await;
        (server, generated[0].secret.expose().to_owned())
    }

    /// A server with an empty database and a configuration of its own.
    pub async fn with(engine: Engine, change: impl FnOnce(&mut Config)) -> Self {
        let place = Arc::new(Place::new(engine).await);
        Self::at(place, Clock::system(), change).await
    }

    /// One more node on the same database (PostgreSQL), or the next one after a stop.
    pub async fn another(&self) -> Self {
        self.another_with(|_| {}).await
    }

    /// The same with a configuration of its own.
    pub async fn another_with(&self, change: impl FnOnce(&mut Config)) -> Self {
        let issuer = Issuer::parse(&self.issuer).unwrap();
        let change = |config: &mut Config| {
            change(config);
            config.issuer = Some(issuer);
        };
        Self::at(self.place.clone(), self.clock.clone(), change).await
    }

    pub async fn at(place: Arc<Place>, clock: Clock, change: impl FnOnce(&mut Config)) -> Self {
        Self::start(place, clock, true, change).await
    }

    /// Without `seeded` it makes its own signing keys, as a first start does.
    pub async fn start(place: Arc<Place>, clock: Clock, seeded: bool, change: impl FnOnce(&mut Config)) -> Self {
        let port = process::port();
        let mut config = Config::default();
        config.issuer = Some(Issuer::parse(&format!("http://127.0.0.1:{port}")).unwrap());
        config.http.listen = vec![format!("127.0.0.1:{port}").parse().unwrap()];
        config.management.listen = vec!["127.0.0.1:0".parse().unwrap()];
        config.database.url = DatabaseUrl::parse(&place.url).unwrap();
        config.database.max_connections = 4;
        config.database.migrate = Some(true);
        config.master_key.value = Some(Secret::new(MASTER_KEY));
        config.keys.algorithms = Algorithm::ALL.to_vec();
        config.secrets.argon2_memory_kib = 64;
        config.secrets.argon2_iterations = 1;
        config.log.requests = false;
        change(&mut config);

        let opened = app::open(&config, clock.clone(), false).await.unwrap();
        if seeded {
            seed_keys(&opened.db).await;
        }
        let app = App::start(&config, opened).await.unwrap();
        let address = |wanted: &str| app.addresses().into_iter().find(|(name, _)| *name == wanted).unwrap().1;
        let (http, management) = (address("http"), address("management"));
        let services = app.services().clone();
        let stop = CancellationToken::new();
        let running = tokio::spawn(app.run(stop.clone()));
        Self {
            url: format!("http://{http}{}", services.issuer.path()),
            management: format!("http://{management}"),
            issuer: services.issuer.as_str().to_owned(),
            clock,
            services,
            place,
            http: client(),
            stop,
            running: Some(running),
        }
    }

    /// Stops it as SIGTERM does.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some(running) = self.running.take() {
            running.await.unwrap();
        }
    }

    /// Applies a file as the command does, and waits as the command does.
    pub async fn apply(&self, text: &str) -> Vec<apply::Generated> {
        self.try_apply(text, false).await.unwrap_or_else(|problems| panic!("{problems}"))
    }

    /// What applying a file would change.
    pub async fn plan(&self, text: &str, prune: bool) -> Result<apply::Plan, String> {
        let file = apply::parse(text, apply::Format::Toml).map_err(|problem| problem.to_string())?;
        let options = apply::Options {
            prune,
            max_lifetime: 3600,
            algorithms: Algorithm::ALL,
            min_password_length: 15,
            allow_http: true,
            issuer: &self.issuer,
            service: "Sealwright",
        };
        let services = &self.services;
        let plan = apply::plan(&services.db, &file, &options, &services.passwords).await;
        plan.map_err(|problems| problems.to_string())
    }

    pub async fn try_apply(&self, text: &str, prune: bool) -> Result<Vec<apply::Generated>, String> {
        let plan = self.plan(text, prune).await?;
        let services = &self.services;
        let applied =
            apply::commit(&services.db, plan, &services.passwords).await.map_err(|failed| failed.to_string())?;
        if let Some(seq) = applied.seq {
            sealwright::nodes::acted_on(services, seq).await.map_err(|error| error.to_string())?;
        }
        Ok(applied.generated)
    }

    /// A POST of a form, with HTTP Basic when `basic` is given.
    pub async fn post(&self, path: &str, basic: Option<(&str, &str)>, form: &[(&str, &str)]) -> Answer {
        let mut request = self.http.post(format!("{}{path}", self.url)).header("content-type", FORM).body(encode(form));
        if let Some((id, secret)) = basic {
            request = request.header("authorization", self::basic(id, secret));
        }
        Answer::of(request.send().await.unwrap()).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        Answer::of(self.http.get(format!("{}{path}", self.url)).send().await.unwrap()).await
    }

    /// A token for `orders-sync` of [`EXAMPLE`].
    pub async fn token(&self) -> String {
        let answer = self.post(TOKEN, Some(("orders-sync", SECRET)), &[("grant_type", "client_credentials")]).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json["access_token"].as_str().unwrap().to_owned()
    }

    /// What introspection says to the gateway of [`EXAMPLE`].
    pub async fn introspect(&self, gateway_secret: &str, token: &str) -> Answer {
        self.post(INTROSPECT, Some(("edge-gateway", gateway_secret)), &[("token", token)]).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub const FORM: &str = "application/x-www-form-urlencoded";
pub const TOKEN: &str = "/oauth2/token";
pub const INTROSPECT: &str = "/oauth2/introspect";
pub const REVOKE: &str = "/oauth2/revoke";

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
    /// `Null` when it is no JSON.
    pub json: Value,
}

impl Answer {
    pub async fn of(response: reqwest::Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.unwrap();
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Self { status, headers, text, json }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// RFC 6749 §5.2: the form of every refusal.
    #[track_caller]
    pub fn assert_error(&self, status: u16, code: &str) {
        assert_eq!((self.status, self.json["error"].as_str()), (status, Some(code)), "{}", self.text);
        assert_eq!(self.header("content-type"), Some("application/json"));
        assert_eq!(self.header("cache-control"), Some("no-store"));
        assert_eq!(self.header("x-content-type-options"), Some("nosniff"));
        assert!(self.json.get("access_token").is_none());
        if code == "invalid_client" {
            assert!(self.header("www-authenticate").is_some_and(|scheme| scheme.starts_with("Basic ")));
        }
    }
}

pub fn client() -> reqwest::Client {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(20))
        .build()
        .unwrap()
}

pub fn encode(form: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish()
}

/// RFC 6749 §2.3.1.
pub fn basic(id: &str, secret: &str) -> String {
    let encode = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    format!("Basic {}", BASE64_STANDARD.encode(format!("{}:{}", encode(id), encode(secret))))
}

/// A part of a JWT, decoded: 0 the header, 1 the claims.
pub fn part(token: &str, at: usize) -> Value {
    let text = token.split('.').nth(at).unwrap();
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap()
}

/// RFC 7636, appendix B: the verifier of every test, and its challenge.
pub const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
pub const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

/// Asks until it is so. The bound is only there for the test to end.
pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < Duration::from_secs(90), "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// How many rounds a race runs: few in every change, many in `tests/long.sh`.
pub fn rounds(default: usize) -> usize {
    std::env::var("SEALWRIGHT_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(default)
}

/// Runs rounds until `wanted` of them say that they were decided: on a busy machine a node may lose its lease, and then
/// nobody can say who was first. Few decided ones among many prove nothing, and fail.
pub async fn decided(wanted: usize, mut round: impl AsyncFnMut(usize) -> bool) {
    let mut found = 0;
    for number in 0.. {
        if found == wanted {
            return;
        }
        assert!(number < wanted * 10 + 20, "of {number} rounds only {found} were decided");
        found += usize::from(round(number).await);
    }
}

/// One set of signing keys for all test databases: RSA keys take their time to make.
pub async fn seed_keys(db: &Db) {
    static KEYS: OnceCell<Vec<SigningKeyRow>> = OnceCell::const_new();
    let keys = KEYS
        .get_or_init(|| async {
            let folder = std::env::temp_dir().join(format!("sealwright_keys_{}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            let location = Location::Sqlite(folder.join("keys.db"));
            let options = Options { location, max_connections: 1, deadline: Duration::from_secs(20) };
            let db = Db::open(options, Clock::system()).await.unwrap();
            db.migrate().await.unwrap();
            let mut config = Config::default();
            config.keys.algorithms = Algorithm::ALL.to_vec();
            let master = Arc::new(MasterKeys::parse(MASTER_KEY).unwrap());
            sealwright::keys::Keys::new(master, &config).ensure(&db).await.unwrap();
            let rows = db.read(|conn| Box::pin(signing_keys::list(conn))).await.unwrap();
            std::fs::remove_dir_all(folder).unwrap();
            rows
        })
        .await;
    for mut key in keys.clone() {
        let add = db.write(move |tx| {
            Box::pin(async move {
                // As if they were made now.
                let (by, times) = (tx.now() - key.created_at, &mut key.times);
                for at in [&mut times.published_at, &mut times.activate_at, &mut times.retire_at, &mut times.remove_at]
                {
                    *at += by;
                }
                signing_keys::add(tx, &key).await
            })
        });
        add.await.unwrap();
    }
}
