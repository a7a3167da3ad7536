//! What a server does beside answering: counters and stamps are flushed each second and at the end, expired rows are
//! swept each minute, and a change whose caller has gone away is made all the same.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use sealwright::audit::Counted;
use sealwright::clock::{Micros, SECOND};
use sealwright::cx::Cx;
use sealwright::secret::random;
use sealwright::store::artifacts::{self, Kind};
use sealwright::store::nodes::NodeRow;
use sealwright::store::{audit, feed, nodes, revocations};
use serde_json::json;
use sqlx::{Connection, Executor};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::assertions::{self, Key};
use crate::support::{
    Answer, EXAMPLE, Engine, FORM, INTROSPECT, REVOKE, SECRET, Server, TOKEN, basic, both, encode, until,
};

const CC: (&str, &str) = ("grant_type", "client_credentials");
const DAY: Micros = 24 * 3600 * SECOND;

async fn counted(server: &Server, event: &'static str, client: &'static str, outcome: &'static str) -> i64 {
    let read = server.services.db.read(move |conn| Box::pin(audit::counted(conn, event, client, outcome)));
    read.await.unwrap()
}

async fn last_used(server: &Server) -> i64 {
    let sql = "SELECT COALESCE(MAX(last_used_at), 0) FROM credentials WHERE client_id = 'orders-sync'";
    server.place.number(sql).await
}

async fn refuse(server: &Server) {
    server.post(TOKEN, Some(("orders-sync", "wrong")), &[CC]).await.assert_error(401, "invalid_client");
}

/// An artifact that expires then.
async fn put(server: &Server, count: usize, expires_at: Micros) {
    let put = server.services.db.write(move |tx| {
        Box::pin(async move {
            for _ in 0..count {
                let id = random().unwrap();
                artifacts::put(tx, Kind::AccessToken, &id, "{}", expires_at).await?;
            }
            Ok(())
        })
    });
    put.await.unwrap();
}

both! {
    async fn counters_samples_and_last_used_stamps_are_written_each_second(engine) {
        let (server, gateway) = Server::example(engine).await;
        assert_eq!(last_used(&server).await, 0);
        let before = server.clock.now();
        for _ in 0..5 {
            server.token().await;
        }
        refuse(&server).await;
        server.introspect(&gateway, "x").await;
        until("counted", async || counted(&server, "introspection", "edge-gateway", "ok").await == 1).await;
        assert_eq!(counted(&server, "token", "orders-sync", "ok").await, 5);
        assert_eq!(counted(&server, "token", "orders-sync", "invalid_client").await, 1);
        let sampled = "SELECT COUNT(*) FROM audit_events WHERE kind = 'request.refused' AND object = 'orders-sync'";
        until("sampled", async || server.place.number(sampled).await == 1).await;
        let used = last_used(&server).await;
        assert!((before..=server.clock.now()).contains(&used), "{used}");
        // The next ones are added, and a stamp is good for a minute.
        server.token().await;
        until("counted", async || counted(&server, "token", "orders-sync", "ok").await == 6).await;
        assert_eq!(last_used(&server).await, used);
        server.clock.advance(Duration::from_mins(1));
        server.token().await;
        until("stamped", async || last_used(&server).await >= used + 60 * SECOND).await;
    }

    /// Who looks for credentials that nobody needs goes by it: what was refused for any reason did not use one.
    async fn a_credential_is_stamped_as_used_only_when_it_worked(engine) {
        let server = Server::empty(engine).await;
        let key = Key::ed25519("k");
        let signer = assertions::client("signer", &[key.jwk()], "");
        let poster = format!(
            "[[client]]\nclient_id = \"poster\"\ntoken_endpoint_auth_method = \"client_secret_post\"\n\
             client_secret = {SECRET:?}\nscope = \"orders:read\"\n"
        );
        let all = format!("{EXAMPLE}{signer}{poster}");
        server.apply(&all).await;
        let used = async || {
            server.services.audit.flush(&server.services.db).await.unwrap();
            server.place.number("SELECT COUNT(*) FROM credentials WHERE last_used_at IS NOT NULL").await
        };
        let refused = async |answer: Answer| answer.assert_error(401, "invalid_client");
        let good = assertions::claims(&server, "signer");
        let now = assertions::now(&server);
        for change in [
            json!({"exp": now - 1}),
            json!({"aud": "https://elsewhere.example"}),
            json!({"nbf": now + 3000}),
            json!({"iss": "poster"}),
            json!({"jti": ""}),
        ] {
            refused(assertions::present(&server, &key.sign(&assertions::with(&good, &change))).await).await;
        }
        // The right secret in the wrong place, and of a client that is switched off.
        refused(server.post(TOKEN, Some(("poster", SECRET)), &[CC]).await).await;
        let off = all.replace("client_id = \"signer\"", "client_id = \"signer\"\ndisabled = true");
        let off = off.replace("client_id = \"orders-sync\"", "client_id = \"orders-sync\"\ndisabled = true");
        server.apply(&off).await;
        refused(assertions::present(&server, &key.sign(&assertions::claims(&server, "signer"))).await).await;
        refused(server.post(TOKEN, Some(("orders-sync", SECRET)), &[CC]).await).await;
        assert_eq!(used().await, 0);

        server.apply(&all).await;
        let assertion = key.sign(&assertions::with(&good, &json!({"exp": now + 600})));
        assertions::assert_token(&assertions::present(&server, &assertion).await, "signer");
        assert_eq!(used().await, 1);
        server.token().await;
        let post = [("client_id", "poster"), ("client_secret", SECRET), CC];
        assert_eq!(server.post(TOKEN, None, &post).await.status, 200);
        assert_eq!(used().await, 3);
        // A stamp is good for a minute; a replay makes no newer one.
        let stamp = async || {
            server.services.audit.flush(&server.services.db).await.unwrap();
            server.place.number("SELECT last_used_at FROM credentials WHERE client_id = 'signer'").await
        };
        let first = stamp().await;
        server.clock.advance(Duration::from_mins(2));
        refused(assertions::present(&server, &assertion).await).await;
        assert_eq!(stamp().await, first);
        assertions::assert_token(
            &assertions::present(&server, &key.sign(&assertions::claims(&server, "signer"))).await,
            "signer",
        );
        assert!(stamp().await >= first + 120 * SECOND);
        // A generated secret, too.
        let new = "[[client]]\nclient_id = \"new\"\nscope = \"orders:read\"\n";
        let secret = server.apply(new).await[0].secret.expose().to_owned();
        assert_eq!(server.post(TOKEN, Some(("new", &secret)), &[CC]).await.status, 200);
        assert_eq!(used().await, 4);
    }

    /// What the database does not take waits for it, and is written once: failed sign-ins, too.
    async fn failed_sign_ins_outlast_a_database_that_does_not_take_them(engine) {
        let server = crate::login::with_people(engine).await;
        let count = async || server.place.number("SELECT COUNT(*) FROM audit_events WHERE kind = 'sign_in.failed'").await;
        server.place.run("ALTER TABLE audit_events RENAME TO away").await;
        for _ in 0..3 {
            let page = crate::browser::Browser::stepwise(&server).sign_in("Ada", "wrong and wrong and wrong").await;
            assert_eq!(page.status, 403);
        }
        for _ in 0..2 {
            until("refused", async || server.services.audit.flush(&server.services.db).await.is_err()).await;
        }
        server.place.run("ALTER TABLE away RENAME TO audit_events").await;
        until("written", async || count().await == 3).await;
        server.services.audit.flush(&server.services.db).await.unwrap();
        assert_eq!(count().await, 3);
        server.stop().await;
    }

    async fn what_was_counted_when_a_server_stops_is_written(engine) {
        let (server, _) = Server::example(engine).await;
        for _ in 0..3 {
            server.token().await;
        }
        refuse(&server).await;
        let place = server.place.clone();
        server.stop().await;
        let sum = "SELECT CAST(COALESCE(SUM(n), 0) AS BIGINT) FROM usage_counters WHERE client_id = 'orders-sync'";
        assert_eq!(place.number(sum).await, 4);
        assert_eq!(place.number("SELECT COUNT(*) FROM audit_events WHERE kind = 'request.refused'").await, 1);
        assert_eq!(place.number("SELECT COUNT(*) FROM credentials WHERE last_used_at IS NOT NULL").await, 1);
    }

    async fn what_has_expired_is_swept_each_minute_and_nothing_else(engine) {
        let (server, _) = Server::example(engine).await;
        let (now, token) = (server.clock.now(), server.token().await);
        // More than one batch.
        put(&server, 1200, now + 60 * SECOND).await;
        put(&server, 3, now + 30 * DAY).await;
        let revoked = server.post(REVOKE, Some(("orders-sync", SECRET)), &[("token", &token)]).await;
        assert_eq!(revoked.status, 200, "{}", revoked.text);
        let dead = random().unwrap();
        let written = server.services.db.write(move |tx| {
            Box::pin(async move {
                let (lease_until, master_keys) = (now + 3 * SECOND, String::new());
                nodes::renew(tx, &NodeRow { id: dead, lease_until, applied_seq: 0, started_at: now, master_keys }).await?;
                revocations::add(tx, revocations::Kind::Token, "long", now, now + 30 * DAY).await
            })
        });
        let seq = written.await.unwrap().seq.unwrap();
        sealwright::nodes::acted_on(&server.services, seq).await.unwrap_or_default();
        refuse(&server).await;
        let count = async |what: &str| server.place.number(&format!("SELECT COUNT(*) FROM {what}")).await;
        let hex = dead.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        let dead = match engine {
            Engine::Sqlite => format!("nodes WHERE id = x'{hex}'"),
            Engine::Postgres => format!("nodes WHERE id = '\\x{hex}'"),
        };
        let (samples, saved) = ("audit_events WHERE kind = 'request.refused'", "audit_events WHERE kind = 'client.saved'");
        until("sampled", async || count(samples).await == 1).await;
        assert_eq!((count("artifacts").await, count("revocations").await, count(&dead).await), (1203, 2, 1));
        assert_eq!(server.services.revocations.len(), 2);
        let feed = count("changes").await;
        assert!(feed >= 3, "{feed}");

        server.clock.advance(Duration::from_hours(2));
        until("artifacts are swept", async || count("artifacts").await == 3).await;
        until("revocations are swept", async || count("revocations").await == 1).await;
        until("memory is swept", async || server.services.revocations.len() == 1).await;
        until("the feed is swept", async || count("changes").await == 0).await;
        until("dead nodes are swept", async || count(&dead).await == 0).await;
        until("this node has its row", async || count("nodes").await == 1).await;
        assert_eq!((count(samples).await, count(saved).await), (1, 2), "kept for a week, and for ever");

        // The feed goes on from its head, and what is young stays.
        server.apply(&EXAMPLE.replace("Orders sync", "Orders")).await;
        server.clock.advance(Duration::from_mins(2));
        put(&server, 1, now).await;
        until("swept again", async || count("artifacts").await == 3).await;
        assert_eq!(count("changes").await, 1);

        server.clock.advance(Duration::from_hours(8 * 24));
        until("samples are swept", async || count(samples).await == 0).await;
        assert!(count(saved).await >= 3);
        assert_eq!((count("artifacts").await, count("revocations").await), (3, 1));
        until("it answers", async || server.post(TOKEN, Some(("orders-sync", SECRET)), &[CC]).await.status == 200).await;

        let counted = async || server.place.number("SELECT COUNT(DISTINCT hour) FROM usage_counters").await;
        until("all is counted", async || counted().await == 2).await;
        server.clock.advance(Duration::from_hours(85 * 24));
        until("the older counters are swept", async || counted().await == 1).await;
    }
}

/// PostgreSQL counts for us what each statement deletes; both engines have the same code.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_sweep_holds_more_than_500_rows_at_once() {
    let (server, _) = Server::example(Engine::Postgres).await;
    let schema = "CREATE TABLE swept (n BIGINT NOT NULL, tx BIGINT NOT NULL); \
        CREATE FUNCTION count_swept() RETURNS trigger LANGUAGE plpgsql AS \
        'BEGIN INSERT INTO swept SELECT COUNT(*), txid_current() FROM gone; RETURN NULL; END'; \
        CREATE TRIGGER count_swept AFTER DELETE ON artifacts REFERENCING OLD TABLE AS gone \
        FOR EACH STATEMENT EXECUTE FUNCTION count_swept()";
    server.place.run(schema).await;
    let now = server.clock.now();
    put(&server, 1700, now + 60 * SECOND).await;
    server.clock.advance(Duration::from_mins(10));
    until("all are swept", async || server.place.number("SELECT COUNT(*) FROM artifacts").await == 0).await;
    let (sum, most) = (
        "SELECT CAST(SUM(n) AS BIGINT) FROM swept",
        "SELECT CAST(MAX(n) AS BIGINT) FROM (SELECT SUM(n) AS n FROM swept GROUP BY tx) AS each",
    );
    assert_eq!((server.place.number(sum).await, server.place.number(most).await), (1700, 500));
}

/// A battery, an SD card: a server on SQLite that nobody asks anything writes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_server_on_sqlite_does_not_touch_the_disk() {
    let (server, gateway) = Server::example(Engine::Sqlite).await;
    server.introspect(&gateway, &server.token().await).await;
    until("what was counted is written", async || {
        counted(&server, "introspection", "edge-gateway", "ok").await == 1 && last_used(&server).await > 0
    })
    .await;
    let files = || {
        let folder = std::fs::read_dir(&server.place.folder).unwrap().map(|entry| entry.unwrap());
        let mut files: Vec<_> = folder
            // What readers share is memory, in a file for its name.
            .filter(|entry| !entry.file_name().to_string_lossy().ends_with("-shm"))
            .map(|entry| {
                let about = entry.metadata().unwrap();
                (entry.file_name(), about.len(), about.modified().unwrap())
            })
            .collect();
        files.sort();
        files
    };
    // The flush that wrote it may still stamp.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let before = files();
    assert!(before.len() >= 3, "{before:?}");
    // Longer than a lease, a flush, and three looks at it all.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(files(), before);
    server.token().await;
}

/// Each adds to the same rows, in one transaction of many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_that_count_the_same_do_not_deadlock() {
    let a = Server::empty(Engine::Postgres).await;
    let b = a.another().await;
    let clients: Vec<Arc<str>> = (0..300).map(|at| format!("client-{at}").into()).collect();
    for _ in 0..10 {
        for server in [&a, &b] {
            let cx = Cx::new(&server.services, Ipv4Addr::LOCALHOST.into(), "".into());
            for client in &clients {
                cx.audit.count(&cx, Counted::Token, Some(client), Ok(()));
            }
        }
        let flush = |server: &Server| {
            let services = server.services.clone();
            tokio::spawn(async move { services.audit.flush(&services.db).await })
        };
        let (of_a, of_b) = tokio::join!(flush(&a), flush(&b));
        of_a.unwrap().unwrap();
        of_b.unwrap().unwrap();
    }
    until("all is counted", async || a.place.number("SELECT CAST(SUM(n) AS BIGINT) FROM usage_counters").await == 6000)
        .await;
    assert_eq!(a.place.number("SELECT COUNT(DISTINCT client_id) FROM usage_counters WHERE n >= 20").await, 300);
}

/// Sends a revocation, waits until its job waits for the database, and closes the connection.
async fn revoke_and_go_away(server: &Server, token: &str, waits: impl AsyncFn() -> bool) {
    let mut stream = TcpStream::connect(server.url.strip_prefix("http://").unwrap()).await.unwrap();
    let (body, auth) = (encode(&[("token", token)]), basic("orders-sync", SECRET));
    let head = format!(
        "POST {REVOKE} HTTP/1.1\r\nHost: a\r\nAuthorization: {auth}\r\nContent-Type: {FORM}\r\nContent-Length: {}",
        body.len()
    );
    stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await.unwrap();
    until("the job waits", async || waits().await).await;
    drop(stream);
    // One connection is left: the one that asks.
    until("the server has noticed", async || {
        let metrics = server.http.get(format!("{}/metrics", server.management)).send().await.unwrap();
        metrics
            .text()
            .await
            .unwrap()
            .lines()
            .any(|line| line.starts_with("sealwright_http_connections{listener=\"http\"") && line.ends_with(" 0"))
    })
    .await;
}

async fn is_revoked_once(server: &Server, gateway: &str, token: &str) {
    until("it is revoked", async || {
        let answer = server.post(INTROSPECT, Some(("edge-gateway", gateway)), &[("token", token)]).await;
        answer.status == 200 && answer.json["active"] == false
    })
    .await;
    let events = "SELECT COUNT(*) FROM audit_events WHERE kind = 'token.revoked'";
    assert_eq!(server.place.number(events).await, 1);
    assert_eq!(server.place.number("SELECT COUNT(*) FROM revocations").await, 1);
    // And others are served as before.
    until("tokens", async || server.post(TOKEN, Some(("orders-sync", SECRET)), &[CC]).await.status == 200).await;
    assert_eq!(server.services.db.load().queue, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_goes_away_does_not_cancel_its_change_on_sqlite() {
    let (mut server, gateway) = Server::example(Engine::Sqlite).await;
    let token = server.token().await;
    // Its connections are closed: the one of the caller is the only one.
    server.http = crate::support::client();
    let mut other = sqlx::SqliteConnection::connect(&server.place.url).await.unwrap();
    other.execute("PRAGMA busy_timeout = 20000; BEGIN IMMEDIATE").await.unwrap();
    // The writer waits for the lock with this one, so that the next one waits in the queue.
    let db = server.services.db.clone();
    let first = tokio::spawn(async move { db.write(|tx| Box::pin(feed::head(tx))).await });
    revoke_and_go_away(&server, &token, async || server.services.db.load().queue > 0).await;
    other.execute("ROLLBACK").await.unwrap();
    first.await.unwrap().unwrap();
    is_revoked_once(&server, &gateway, &token).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_goes_away_does_not_cancel_its_change_on_postgres() {
    let (mut server, gateway) = Server::example(Engine::Postgres).await;
    let token = server.token().await;
    server.http = crate::support::client();
    let mut other = sqlx::PgConnection::connect(&server.place.url).await.unwrap();
    other.execute("BEGIN; LOCK TABLE revocations IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let waiting = "SELECT COUNT(*) FROM pg_locks WHERE NOT granted AND relation = 'revocations'::regclass";
    revoke_and_go_away(&server, &token, async || server.place.number(waiting).await > 0).await;
    other.execute("ROLLBACK").await.unwrap();
    is_revoked_once(&server, &gateway, &token).await;
}
