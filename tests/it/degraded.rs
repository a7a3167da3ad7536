//! The database is gone, silent, locked or full: 503 and never a wrong answer; back without a restart. T-24, I7.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sealwright::clock::Clock;
use sealwright::config::DatabaseUrl;
use sealwright::store::{StoreError, feed};
use sqlx::{Connection, Executor};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::browser::{Browser, Page};
use crate::leakage::Running;
use crate::people::{ADA, BOB, PEOPLE, WEB, authorization_url, tokens};
use crate::support::{
    Answer, EXAMPLE, Engine, INTROSPECT, Place, REVOKE, SECRET, Server, TOKEN, VERIFIER, both, until,
};

const CC: (&str, &str) = ("grant_type", "client_credentials");

/// What lies between the server and its database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// Everything passes.
    Open,
    /// Connections are closed, new ones too.
    Cut,
    /// Nothing passes and nobody is told. What was connected then stays silent for ever.
    Silent,
    /// The database hears and its answers are lost; what was connected then stays so.
    Deaf,
}

/// A TCP proxy in front of PostgreSQL.
struct Proxy {
    address: SocketAddr,
    link: watch::Sender<Link>,
}

impl Proxy {
    async fn start(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (link, seen) = watch::channel(Link::Open);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (target, seen) = (target.clone(), seen.clone());
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(target).await else { return };
                    let ((from_client, to_client), (from_server, to_server)) =
                        (client.into_split(), server.into_split());
                    tokio::select! {
                        () = pump(from_client, to_server, seen.clone(), false) => {}
                        () = pump(from_server, to_client, seen, true) => {}
                    }
                });
            }
        });
        Self { address, link }
    }

    fn set(&self, link: Link) {
        self.link.send_replace(link);
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut link: watch::Receiver<Link>, back: bool) {
    let (mut lost, mut buffer) = (false, vec![0; 16 * 1024]);
    loop {
        let now = *link.borrow_and_update();
        lost |= now == Link::Silent || back && now == Link::Deaf;
        if now == Link::Cut {
            return;
        }
        tokio::select! {
            biased;
            changed = link.changed() => if changed.is_err() { return },
            read = from.read(&mut buffer) => match read {
                Ok(0) | Err(_) => return,
                Ok(_) if lost => {}
                Ok(read) => if to.write_all(&buffer[..read]).await.is_err() { return },
            },
        }
    }
}

/// A server whose PostgreSQL is behind a proxy, with [`EXAMPLE`] applied, and the gateway's secret.
async fn behind_a_proxy() -> (Server, Proxy, String) {
    let (server, proxy) = proxied().await;
    let gateway = server.apply(EXAMPLE).await[0].secret.expose().to_owned();
    (server, proxy, gateway)
}

/// A server whose PostgreSQL is behind a proxy.
async fn proxied() -> (Server, Proxy) {
    let place = Arc::new(Place::new(Engine::Postgres).await);
    let url = url::Url::parse(&place.url).unwrap();
    let target = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
    let proxy = Proxy::start(target.clone()).await;
    let through = place.url.replace(&target, &proxy.address.to_string());
    assert_ne!(through, place.url);
    let server = Server::at(place, Clock::system(), |config| {
        config.database.url = DatabaseUrl::parse(&through).unwrap();
        config.database.deadline_milliseconds = 1000;
    })
    .await;
    (server, proxy)
}

async fn ask_token(server: &Server) -> Answer {
    server.post(TOKEN, Some(("orders-sync", SECRET)), &[CC]).await
}

async fn revoke(server: &Server, token: &str) -> Answer {
    server.post(REVOKE, Some(("orders-sync", SECRET)), &[("token", token)]).await
}

/// What introspection says once it says something: a busy machine may lose the lease again meanwhile, and 503 is right then.
async fn is_active(server: &Server, gateway: &str, token: &str) -> bool {
    let mut active = None;
    until("introspection answers", async || {
        let answer = server.introspect(gateway, token).await;
        if answer.status != 200 {
            assert_unavailable(&answer);
        }
        active = answer.json["active"].as_bool();
        active.is_some()
    })
    .await;
    active.unwrap()
}

/// Revokes; as often as it takes when the machine is busy.
async fn revoked(server: &Server, token: &str) {
    until("revoked", async || revoke(server, token).await.status == 200).await;
}

async fn management(server: &Server, path: &str) -> u16 {
    server.http.get(format!("{}{path}", server.management)).send().await.unwrap().status().as_u16()
}

#[track_caller]
fn assert_unavailable(answer: &Answer) {
    answer.assert_error(503, "temporarily_unavailable");
    let seconds = answer.header("retry-after").and_then(|text| text.parse::<u32>().ok());
    assert!(seconds.is_some_and(|seconds| (1..=60).contains(&seconds)), "{:?}", answer.headers);
}

/// I7 once the lease has ended: everything that says yes is 503, what verifiers need goes on.
async fn fails_closed(server: &Server, gateway: &str, token: &str) {
    assert_unavailable(&ask_token(server).await);
    assert_unavailable(&server.introspect(gateway, token).await);
    assert_unavailable(&server.post(TOKEN, Some(("never-seen", "x")), &[CC]).await);
    for path in
        ["/.well-known/jwks.json", "/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"]
    {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
    // I5: its copy may lack a key that signs soon.
    let jwks = server.get("/.well-known/jwks.json").await;
    assert_eq!(jwks.header("cache-control"), Some("public, max-age=0"));
    assert_eq!(management(server, "/health/ready").await, 503);
    assert_eq!(management(server, "/health/live").await, 200);
    assert_eq!(management(server, "/metrics").await, 200);
}

async fn outage(link: Link) {
    let (server, proxy, gateway) = behind_a_proxy().await;
    let (dead, kept, wanted) = (server.token().await, server.token().await, server.token().await);
    revoked(&server, &dead).await;
    assert!(!is_active(&server, &gateway, &dead).await);
    assert!(is_active(&server, &gateway, &kept).await);

    proxy.set(link);
    assert_unavailable(&revoke(&server, &wanted).await);
    until("tokens are refused", async || {
        let answer = ask_token(&server).await;
        if answer.status != 200 {
            assert_unavailable(&answer);
        }
        // What was taken back before is never given back.
        let found = server.introspect(&gateway, &dead).await;
        assert!(found.status == 503 || found.json["active"] == false, "{}", found.text);
        answer.status == 503
    })
    .await;
    for _ in 0..3 {
        fails_closed(&server, &gateway, &kept).await;
        assert_unavailable(&revoke(&server, &kept).await);
    }

    proxy.set(Link::Open);
    until("ready again", async || management(&server, "/health/ready").await == 200).await;
    until("tokens again", async || ask_token(&server).await.status == 200).await;
    assert!(!is_active(&server, &gateway, &dead).await, "what was acknowledged holds");
    if link == Link::Cut {
        assert!(is_active(&server, &gateway, &wanted).await, "nothing reached the database");
    }
    revoked(&server, &wanted).await;
    assert!(!is_active(&server, &gateway, &wanted).await);
    until("an unknown client is 401 again", async || {
        server.post(TOKEN, Some(("never-seen", "x")), &[CC]).await.status == 401
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t24_i7_a_database_that_is_cut_off_is_503_and_comes_back() {
    outage(Link::Cut).await;
}

/// F-08: packets are dropped, nobody says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t24_i7_a_database_in_a_black_hole_is_503_and_comes_back() {
    outage(Link::Silent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t24_i7_a_database_whose_answers_are_lost_is_503_and_comes_back() {
    outage(Link::Deaf).await;
}

/// Each call has its own deadline, of a second here. A request's is 10: without the calls', requests would end all the same,
/// and what they held of the database would not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_of_a_silent_database_ends_by_its_own_deadline() {
    const PATIENCE: Duration = Duration::from_secs(6);
    let (server, proxy, _) = behind_a_proxy().await;
    let db = &server.services.db;
    proxy.set(Link::Silent);
    // By connections that were there, and by new ones.
    for _ in 0..3 {
        let read = timeout(PATIENCE, db.read(|conn| Box::pin(feed::head(conn)))).await;
        let read = read.expect("a read waits for ever");
        assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
        let written = timeout(PATIENCE, db.write(|tx| Box::pin(feed::head(tx)))).await;
        let written = written.expect("a change waits for ever");
        assert!(matches!(written, Err(StoreError::Unavailable(_) | StoreError::Unknown(_))), "{written:?}");
    }
    until("no connection is held for an answer", async || db.load().busy == 0).await;
}

/// Revocations of many tokens at once, with the link going down among them: what was acknowledged stands.
async fn revoking_meanwhile(link: Link) {
    let (server, proxy, gateway) = behind_a_proxy().await;
    let server = Arc::new(server);
    let mut tokens = Vec::new();
    for _ in 0..60 {
        tokens.push(server.token().await);
    }
    let (acknowledged, mut count) = watch::channel(0);
    let revoking: Vec<_> = tokens
        .iter()
        .cloned()
        .map(|token| {
            let (server, acknowledged) = (server.clone(), acknowledged.clone());
            tokio::spawn(async move {
                let answer = revoke(&server, &token).await;
                acknowledged.send_modify(|count| *count += i32::from(answer.status == 200));
                (token, answer)
            })
        })
        .collect();
    count.wait_for(|count| *count >= 5).await.unwrap();
    proxy.set(link);
    let mut answers = Vec::new();
    for task in revoking {
        answers.push(task.await.unwrap());
    }
    proxy.set(Link::Open);
    until("ready again", async || management(&server, "/health/ready").await == 200).await;
    let mut refused = 0;
    for (token, answer) in answers {
        if answer.status == 200 {
            assert!(!is_active(&server, &gateway, &token).await, "a revocation that was acknowledged is lost");
        } else {
            assert_unavailable(&answer);
            refused += 1;
        }
    }
    assert!(refused > 0, "the link went down too late for this to show anything");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t24_a_cut_among_revocations_loses_none_that_was_acknowledged() {
    revoking_meanwhile(Link::Cut).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t24_lost_answers_among_revocations_lose_none_that_was_acknowledged() {
    revoking_meanwhile(Link::Deaf).await;
}

/// Another node goes on while one is cut off: a dead node delays a revocation and does not forbid it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i7_a_node_that_is_cut_off_does_not_say_active_after_another_revoked() {
    let (cut_off, proxy, gateway) = behind_a_proxy().await;
    let other = cut_off.another().await;
    let token = cut_off.token().await;
    assert!(is_active(&cut_off, &gateway, &token).await && is_active(&other, &gateway, &token).await);
    proxy.set(Link::Silent);
    // The 200 says that no node says active, this one by its lease having ended.
    revoked(&other, &token).await;
    let found = cut_off.introspect(&gateway, &token).await;
    assert!(found.status == 503 || found.json["active"] == false, "{}", found.text);
    assert!(!is_active(&other, &gateway, &token).await);
    proxy.set(Link::Open);
    until("ready again", async || management(&cut_off, "/health/ready").await == 200).await;
    assert!(!is_active(&cut_off, &gateway, &token).await);
}

/// Somebody holds the write lock of the SQLite file: as good as gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t24_i7_a_sqlite_file_that_cannot_be_written_is_503_and_comes_back() {
    let server = Server::with(Engine::Sqlite, |config| config.database.deadline_milliseconds = 1000).await;
    let gateway = server.apply(EXAMPLE).await[0].secret.expose().to_owned();
    let (dead, kept) = (server.token().await, server.token().await);
    revoked(&server, &dead).await;
    let mut other = sqlx::SqliteConnection::connect(&server.place.url).await.unwrap();
    // The server may be writing at this moment.
    other.execute("PRAGMA busy_timeout = 20000; BEGIN IMMEDIATE").await.unwrap();

    assert_unavailable(&revoke(&server, &kept).await);
    assert_unavailable(&revoke(&server, &kept).await);
    until("the lease has ended", async || ask_token(&server).await.status == 503).await;
    for _ in 0..3 {
        assert_unavailable(&revoke(&server, &kept).await);
        assert_unavailable(&ask_token(&server).await);
        assert_unavailable(&server.introspect(&gateway, &kept).await);
        assert_eq!(server.get("/.well-known/jwks.json").await.status, 200);
        assert_eq!(management(&server, "/health/ready").await, 503);
        assert_eq!(management(&server, "/health/live").await, 200);
    }

    other.execute("ROLLBACK").await.unwrap();
    until("ready again", async || management(&server, "/health/ready").await == 200).await;
    until("tokens again", async || ask_token(&server).await.status == 200).await;
    assert!(!is_active(&server, &gateway, &dead).await);
    assert!(is_active(&server, &gateway, &kept).await, "nothing was written");
    revoked(&server, &kept).await;
    assert!(!is_active(&server, &gateway, &kept).await);
}

/// What Ada has begun, at her browser and at the web shop.
struct Begun {
    browser: Browser,
    code: String,
    refresh_token: String,
    access_token: String,
    /// She has agreed to everything, and is asked again.
    consent: Page,
}

impl Begun {
    async fn new(server: &Server) -> Self {
        let mut browser = Browser::new(server);
        let got = tokens(server, &mut browser, ADA, "openid offline_access").await;
        let code = browser.get(&authorization_url(server, "openid", &[])).await.parameter("code").unwrap();
        let consent = browser.get(&authorization_url(server, "openid", &[("prompt", "consent")])).await;
        assert!(consent.has("approve"), "{}", consent.text);
        let token = |name: &str| got[name].as_str().unwrap().to_owned();
        let (refresh_token, access_token) = (token("refresh_token"), token("access_token"));
        Self { browser, code, refresh_token, access_token, consent }
    }

    async fn redeem(&self, server: &Server) -> Answer {
        let form = [
            ("grant_type", "authorization_code"),
            ("code", &self.code),
            ("redirect_uri", WEB.2),
            ("code_verifier", VERIFIER),
        ];
        server.post(TOKEN, Some((WEB.0, WEB.1)), &form).await
    }

    async fn refresh(&self, server: &Server) -> Answer {
        let form = [("grant_type", "refresh_token"), ("refresh_token", self.refresh_token.as_str())];
        server.post(TOKEN, Some((WEB.0, WEB.1)), &form).await
    }

    /// The web shop gets nothing, neither by what it has nor anew, and is told why.
    async fn the_client_gets_nothing(&mut self, server: &Server) {
        assert_unavailable(&self.redeem(server).await);
        assert_unavailable(&self.refresh(server).await);
        let request = server.http.get(format!("{}/userinfo", server.url)).bearer_auth(&self.access_token);
        assert_unavailable(&Answer::of(request.send().await.unwrap()).await);
        let page = self.browser.get(&authorization_url(server, "openid", &[])).await;
        assert_eq!(page.parameter("error").as_deref(), Some("temporarily_unavailable"));
    }

    /// All that was begun goes on: nothing was used up, made or taken back.
    async fn goes_on(mut self, server: &Server) {
        let grants = async |rest: &str| server.place.number(&format!("SELECT COUNT(*) FROM grants {rest}")).await;
        assert_eq!((grants("").await, grants("WHERE code_used_at IS NULL").await), (2, 1));
        assert_eq!(grants("WHERE generation > 1 OR revoked_at IS NOT NULL").await, 0);
        let at = format!("{}/consent?flow={}", server.issuer, self.consent.flow());
        let page = self.browser.get(&at).await;
        let page = if page.has("approve") {
            self.browser.press(&page, "approve", &[]).await
        } else {
            self.browser.get(&at.replacen("/consent", "/oauth2/authorize", 1)).await
        };
        assert!(page.parameter("code").is_some());
        for answer in [self.redeem(server).await, self.refresh(server).await] {
            assert_eq!(answer.status, 200, "{}", answer.text);
        }
    }
}

#[track_caller]
fn assert_unavailable_page(page: &Page) {
    assert_eq!((page.status, &page.away), (503, &None), "{}: {}", page.url, page.text);
    assert!(page.header("content-type").starts_with("text/html") && !page.header("retry-after").is_empty(), "{page:?}");
    assert!(page.text.contains("We cannot answer just now"), "{}", page.text);
}

both! {
    /// The feed cannot be followed while everything else of the database can be had: who asks for tokens keeps what they
    /// would have used up for them.
    async fn i7_without_a_lease_no_code_and_no_refresh_token_is_used_up(engine) {
        let server = Server::empty(engine).await;
        server.apply(PEOPLE).await;
        let mut begun = Begun::new(&server).await;
        let table = if engine == Engine::Sqlite { "change_head" } else { "nodes" };
        server.place.run(&format!("ALTER TABLE {table} RENAME TO away")).await;
        until("the lease has ended", async || server.services.node.lease_remaining() <= 0).await;
        for _ in 0..2 {
            begun.the_client_gets_nothing(&server).await;
        }
        // What she decides is kept, and the flow waits.
        assert_unavailable_page(&begun.browser.press(&begun.consent, "approve", &[]).await);
        // Who signs in asks nothing of other nodes.
        assert!(Browser::new(&server).sign_in(BOB.0, BOB.1).await.is_at("/account"));
        server.place.run(&format!("ALTER TABLE away RENAME TO {table}")).await;
        until("the lease goes on", async || server.services.node.lease_remaining() > 0).await;
        begun.goes_on(&server).await;
    }

    /// The database is gone (PostgreSQL), or takes nothing (SQLite).
    async fn t24_people_are_told_and_what_they_began_goes_on_after_an_outage(engine) {
        let (server, proxy) = match engine {
            Engine::Postgres => {
                let (server, proxy) = proxied().await;
                (server, Some(proxy))
            }
            Engine::Sqlite => (Server::with(engine, |config| config.database.deadline_milliseconds = 1000).await, None),
        };
        server.apply(PEOPLE).await;
        let mut begun = Begun::new(&server).await;
        let mut bob = Browser::new(&server);
        let login = bob.get("/login").await;
        let mut lock = None;
        if let Some(proxy) = &proxy {
            proxy.set(Link::Cut);
        } else {
            let mut other = sqlx::SqliteConnection::connect(&server.place.url).await.unwrap();
            other.execute("PRAGMA busy_timeout = 20000; BEGIN IMMEDIATE").await.unwrap();
            lock = Some(other);
        }
        assert_unavailable_page(&bob.fill_in(&login, BOB).await);
        assert_unavailable_page(&begun.browser.press(&begun.consent, "approve", &[]).await);
        // Reading needs no lock.
        if engine == Engine::Postgres {
            for path in ["/login", "/account", "/account/password", &format!("/consent?flow={}", begun.consent.flow())] {
                assert_unavailable_page(&begun.browser.get(path).await);
            }
        }
        until("the lease has ended", async || server.services.node.lease_remaining() <= 0).await;
        begun.the_client_gets_nothing(&server).await;
        drop(lock);
        if let Some(proxy) = &proxy {
            proxy.set(Link::Open);
        }
        until("ready again", async || management(&server, "/health/ready").await == 200).await;
        assert!(bob.fill_in(&login, BOB).await.is_at("/account"));
        begun.goes_on(&server).await;
    }
}

/// F-09: no byte can be written to a file, as on a full disk. The limit is the kernel's (EFBIG), which counts for root too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f09_t24_a_disk_that_takes_nothing_is_503_and_comes_back() {
    let running = Running::start(Engine::Sqlite, "[log]\nfilter = \"off\"\n").await;
    running.apply(&EXAMPLE.replace(
        "client_id = \"edge-gateway\"",
        "client_id = \"edge-gateway\"\nclient_secret = \"gateway-secret-of-at-least-32-characters\"",
    ));
    let http = crate::support::client();
    let post = async |path: &str, id: &str, secret: &str, form: &[(&str, &str)]| {
        let request = http.post(format!("{}{path}", running.url)).header("content-type", crate::support::FORM);
        let request = request.header("authorization", crate::support::basic(id, secret));
        Answer::of(request.body(crate::support::encode(form)).send().await.unwrap()).await
    };
    let token = async || post(TOKEN, "orders-sync", SECRET, &[CC]).await;
    let revoke = async |token: &str| post(REVOKE, "orders-sync", SECRET, &[("token", token)]).await;
    let introspect = async |token: &str| {
        post(INTROSPECT, "edge-gateway", "gateway-secret-of-at-least-32-characters", &[("token", token)]).await
    };
    let text = |answer: Answer| answer.json["access_token"].as_str().unwrap().to_owned();
    let limit = |bytes: &str| {
        let mut set = std::process::Command::new("prlimit");
        let set = set.args([format!("--pid={}", running.id()), format!("--fsize={bytes}:unlimited")]).status();
        assert!(set.is_ok_and(|set| set.success()), "prlimit (util-linux) is needed");
    };
    let (dead, kept) = (text(token().await), text(token().await));
    assert_eq!(revoke(&dead).await.status, 200);
    limit("0");
    assert_unavailable(&revoke(&kept).await);
    until("tokens are refused", async || token().await.status == 503).await;
    for _ in 0..3 {
        assert_unavailable(&token().await);
        assert_unavailable(&introspect(&kept).await);
        assert_unavailable(&revoke(&kept).await);
        assert_eq!(http.get(format!("{}/.well-known/jwks.json", running.url)).send().await.unwrap().status(), 200);
        assert_eq!(http.get(format!("{}/health/ready", running.management)).send().await.unwrap().status(), 503);
    }
    limit("unlimited");
    until("tokens again", async || token().await.status == 200).await;
    assert_eq!(introspect(&dead).await.json["active"], false, "what was acknowledged holds");
    until("revoking again", async || revoke(&kept).await.status == 200).await;
    assert_eq!(introspect(&kept).await.json["active"], false);
    let mut conn = sqlx::SqliteConnection::connect(running.database()).await.unwrap();
    let (found,): (String,) = sqlx::query_as("PRAGMA integrity_check").fetch_one(&mut conn).await.unwrap();
    assert_eq!(found, "ok");
}

/// A node whose clock is far from the database's is not ready, and says so; what it answers goes by the database's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_clock_is_6_seconds_from_the_databases_is_not_ready() {
    let mut place = Place::new(Engine::Postgres).await;
    // The name that is found before the system's own.
    place
        .run(
            "CREATE TABLE fast (seconds INTEGER); INSERT INTO fast VALUES (0); \
             CREATE FUNCTION clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS \
             'SELECT pg_catalog.clock_timestamp() + make_interval(secs => (SELECT seconds FROM fast))'",
        )
        .await;
    place.url += "%2Cpg_catalog";
    let server = Server::at(Arc::new(place), Clock::system(), |_| {}).await;
    let gateway = server.apply(EXAMPLE).await[0].secret.expose().to_owned();
    for (seconds, agrees) in [(4, true), (6, false), (4, true), (-6, false), (0, true)] {
        server.place.run(&format!("UPDATE fast SET seconds = {seconds}")).await;
        let near = |skew: i64| (skew + seconds * 1_000_000).abs() < 1_000_000;
        until("the database's clock is followed", async || near(server.services.clock.skew())).await;
        until("its lease goes on", async || {
            let answer = server.http.get(format!("{}/health/ready", server.management)).send().await.unwrap();
            let answer = Answer::of(answer).await;
            assert_eq!(answer.json["clock"], agrees, "{seconds} s: {}", answer.text);
            let lease = answer.json["lease"] == true;
            assert_eq!(answer.status, if lease && agrees { 200 } else { 503 }, "{}", answer.text);
            lease
        })
        .await;
        until("it answers", async || ask_token(&server).await.status == 200).await;
        let issued = crate::support::part(&server.token().await, 1)["iat"].as_i64().unwrap();
        let by_the_database = server.place.number("SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS BIGINT)").await;
        assert!((issued - by_the_database).abs() <= 3, "{issued} {by_the_database}");
    }
    let token = server.token().await;
    assert!(is_active(&server, &gateway, &token).await);
}

/// Requests may have every connection of the pool, for as long as they like: the node's lease does not wait for one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_keeps_its_lease_while_every_connection_is_busy() {
    let server = Server::with(Engine::Postgres, |config| config.database.deadline_milliseconds = 1000).await;
    server.apply(EXAMPLE).await;
    server.token().await;
    let mut busy = Vec::new();
    while let Ok(connection) = server.services.db.reader().await {
        busy.push(connection);
    }
    assert_eq!(busy.len(), 4);
    // Longer than a lease that was renewed before can last; later ones were not.
    tokio::time::sleep(Duration::from_secs(4)).await;
    until("the lease goes on", async || server.services.node.lease_remaining() > 0).await;
    until("tokens go on", async || ask_token(&server).await.status == 200).await;
    drop(busy);
}
