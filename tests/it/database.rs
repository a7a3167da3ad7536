//! What holds of the database itself.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sealwright::clock::Clock;
use sealwright::keys::Purpose;
use sealwright::secret::{Prefix, Secret};
use sealwright::store::{self, Db, Location, Lock, Options, StoreError};
use sqlx::{Connection, Executor, SqlSafeStr};

use crate::support::{EXAMPLE, Engine, Place, REVOKE, SECRET, Server, TOKEN, both, until};

const CC: (&str, &str) = ("grant_type", "client_credentials");

/// One SQL text for both engines: each of them prepares on a migrated database of each.
#[tokio::test]
async fn every_query_prepares_on_both_engines() {
    let mut prepared = 0;
    for engine in [Engine::Sqlite, Engine::Postgres] {
        let place = Place::new(engine).await;
        let location = match engine {
            Engine::Sqlite => Location::Sqlite(place.folder.join("test.db")),
            Engine::Postgres => Location::Postgres(Secret::new(&place.url)),
        };
        let options = Options { location, max_connections: 2, deadline: std::time::Duration::from_secs(5) };
        let db = Db::open(options, Clock::system()).await.unwrap();
        db.migrate().await.unwrap();
        db.migrate().await.expect("migrating twice changes nothing");
        match engine {
            Engine::Sqlite => {
                let mut conn = sqlx::SqliteConnection::connect(&place.url).await.unwrap();
                for (name, text) in store::queries() {
                    conn.prepare(text.into_sql_str()).await.unwrap_or_else(|cause| panic!("{name}: {cause}"));
                    prepared += 1;
                }
            }
            Engine::Postgres => {
                let mut conn = sqlx::PgConnection::connect(&place.url).await.unwrap();
                for (name, text) in store::queries() {
                    conn.prepare(text.into_sql_str()).await.unwrap_or_else(|cause| panic!("{name}: {cause}"));
                    prepared += 1;
                }
            }
        }
    }
    assert!(prepared >= 80, "{prepared}");
}

/// `.cargo/config.toml` reaches SQLite: with its own bound of 64 KiB each batch of used-up assertions opened a file.
#[tokio::test]
async fn sqlite_is_compiled_as_we_say() {
    let mut conn = sqlx::SqliteConnection::connect("sqlite::memory:").await.unwrap();
    let options: Vec<String> = sqlx::query_scalar("PRAGMA compile_options").fetch_all(&mut conn).await.unwrap();
    for option in ["STMTJRNL_SPILL=4194304", "DEFAULT_MEMSTATUS=0"] {
        assert!(options.iter().any(|known| known == option), "{option}: {options:?}");
    }
    assert!(!options.iter().any(|known| known == "ENABLE_MEMORY_MANAGEMENT"), "{options:?}");
}

both! {
    async fn the_signing_keys_are_sealed_at_rest(engine) {
        let server = Server::empty(engine).await;
        let rows = server.services.db.read(|conn| Box::pin(store::signing_keys::list(conn))).await.unwrap();
        assert_eq!(rows.len(), 8);
        for row in rows {
            // A PKCS#8 document is a DER sequence; sealed, it begins with our version byte and the key's id.
            let sealed = row.sealed.unwrap();
            assert_eq!(sealed[0], 1);
            let pkcs8_of_rsa = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
            assert!(!sealed.windows(pkcs8_of_rsa.len()).any(|window| window == pkcs8_of_rsa));
            // AES-256-GCM under the master key, bound to its row: version, id of the key, nonce, ciphertext, tag.
            let key: Vec<u8> = (0..32).collect();
            let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).unwrap());
            let open = |context: &str| {
                let nonce = Nonce::try_assume_unique_for_key(&sealed[9..21]).unwrap();
                key.open_in_place(nonce, Aad::from(context), &mut sealed[21..].to_vec()).map(|opened| opened[0])
            };
            assert_eq!(open(&format!("signing_key:{}", row.kid)), Ok(0x30), "a DER sequence");
            assert!(open("signing_key:another").is_err());
        }
    }

    /// Generated secrets are kept as SHA-256, imported ones as Argon2id; each has its label and the time it was made.
    async fn secrets_are_hashed_at_rest(engine) {
        let (server, gateway) = Server::example(engine).await;
        let read = "SELECT client_id || ' ' || kind || ' ' || label || ' ' || value FROM credentials ORDER BY client_id";
        let rows = server.place.texts(read).await;
        let digest = BASE64_URL_SAFE_NO_PAD.encode(sealwright::secret::sha256(gateway.as_bytes()));
        let [generated, imported] = &rows[..] else { panic!("{rows:?}") };
        assert!(generated.starts_with("edge-gateway ") && generated.ends_with(&format!(" default {digest}")), "{generated}");
        assert!(imported.starts_with("orders-sync ") && imported.contains(" default $argon2id$v=19$m="), "{imported}");
        let made = server.place.number("SELECT MIN(created_at) FROM credentials").await;
        assert!((server.clock.now() - 120_000_000..=server.clock.now()).contains(&made), "{made}");
        // 43 letters and digits at random are 256 bits; none is like another.
        let generate = |_| Prefix::ClientSecret.generate().unwrap().expose()[4..47].to_owned();
        let secrets: std::collections::BTreeSet<_> = (0..50).map(generate).collect();
        assert!(secrets.len() == 50 && secrets.iter().all(|secret| secret.bytes().all(|byte| byte.is_ascii_alphanumeric())));
    }

    async fn the_mac_key_is_sealed_and_outlives_a_restart(engine) {
        let server = Server::empty(engine).await;
        let rows = server.services.db.read(|conn| Box::pin(store::mac_keys::list(conn))).await.unwrap();
        assert_eq!((rows.len(), rows[0].sealed[0], rows[0].sealed.len()), (1, 1, 69));
        let code = server.services.mac.sign(Purpose::Refresh, &[b"a"]);
        let (place, issuer, clock) = (server.place.clone(), server.issuer.clone(), server.clock.clone());
        server.stop().await;
        let change = move |config: &mut sealwright::config::Config| {
            config.issuer = Some(sealwright::config::Issuer::parse(&issuer).unwrap());
        };
        let server = Server::at(place, clock, change).await;
        assert!(server.services.mac.verify(Purpose::Refresh, &[b"a"], &code));
    }

    /// The next release has migrated: this one starts on its schema, serves, follows its feed, and changes it no more.
    async fn this_binary_runs_on_the_schema_of_a_later_release(engine) {
        let (server, gateway) = Server::example(engine).await;
        let (place, issuer, clock) = (server.place.clone(), server.issuer.clone(), server.clock.clone());
        let checksum = if engine == Engine::Sqlite { "x'00'" } else { "'\\x00'" };
        let later = format!(
            "ALTER TABLE clients ADD COLUMN novelty TEXT NOT NULL DEFAULT 'x'; \
             ALTER TABLE changes ADD COLUMN novelty TEXT; CREATE TABLE novelties (id BIGINT PRIMARY KEY); \
             INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
             VALUES (999999, 'novelty', TRUE, {checksum}, 1)"
        );
        let news = "UPDATE change_head SET seq = seq + 1; \
                    INSERT INTO changes (seq, kind, id, at) SELECT seq, 'novelty', 'x', 0 FROM change_head";
        // Beneath a server that runs, and for the next one to start on.
        place.run(&later).await;
        place.run(news).await;
        let head = place.number("SELECT seq FROM change_head").await;
        until("the unknown kind is passed over", async || server.services.node.applied() >= head).await;
        let token = server.token().await;
        server.stop().await;
        let change = move |config: &mut sealwright::config::Config| {
            config.issuer = Some(sealwright::config::Issuer::parse(&issuer).unwrap());
        };
        let server = Server::at(place, clock, change).await;
        assert_eq!(server.introspect(&gateway, &token).await.json["active"], true);
        server.token().await;
        server.apply(&EXAMPLE.replace("Orders sync", "Orders")).await;
        server.place.run(news).await;
        server.apply(EXAMPLE).await;
        let answer = server.post(REVOKE, Some(("orders-sync", SECRET)), &[("token", &token)]).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(server.introspect(&gateway, &token).await.json["active"], false);
        let kept = "SELECT COUNT(*) FROM _sqlx_migrations WHERE version = 999999";
        assert_eq!(server.place.number(kept).await, 1);
    }

    async fn another_master_key_is_a_clear_refusal(engine) {
        let server = Server::empty(engine).await;
        let mut config = sealwright::config::Config::default();
        config.issuer = Some(sealwright::config::Issuer::parse(&server.issuer).unwrap());
        config.database.url = sealwright::config::DatabaseUrl::parse(&server.place.url).unwrap();
        config.master_key.value = Some(Secret::new("f".repeat(64)));
        let Err(refused) = sealwright::app::open(&config, Clock::system(), false).await else { panic!("opened") };
        assert!(refused.to_string().contains("not the master key"), "{refused}");
    }
}

async fn open(place: &Place) -> Db {
    let options = Options {
        location: Location::Postgres(Secret::new(&place.url)),
        max_connections: 2,
        deadline: Duration::from_secs(1),
    };
    Db::open(options, Clock::system()).await.unwrap()
}

/// Whatever the server is set to, what we answered outlives its crash; what is stricter stays.
#[tokio::test]
async fn a_commit_on_postgresql_waits_for_the_disk() {
    for (set, found) in
        [("off", "on"), ("local", "on"), ("remote_write", "on"), ("on", "on"), ("remote_apply", "remote_apply")]
    {
        let mut place = Place::new(Engine::Postgres).await;
        write!(place.url, "%20-c%20synchronous_commit%3D{set}").unwrap();
        assert_eq!(place.texts("SHOW synchronous_commit").await, [set]);
        let db = open(&place).await;
        db.migrate().await.unwrap();
        let note = "CREATE TABLE found (setting TEXT); \
            CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS \
            'BEGIN INSERT INTO found VALUES (current_setting(''synchronous_commit'')); RETURN NEW; END'; \
            CREATE TRIGGER note BEFORE INSERT ON meta FOR EACH ROW EXECUTE FUNCTION note()";
        place.run(note).await;
        db.write(|tx| Box::pin(store::meta::decide(tx, "a", "1"))).await.unwrap();
        assert_eq!(place.texts("SELECT setting FROM found").await, [found]);
    }
}

/// A statement that nobody waits for any more ends at the server, too.
#[tokio::test]
async fn no_statement_on_postgresql_outlives_its_deadline() {
    let place = Place::new(Engine::Postgres).await;
    let db = open(&place).await;
    db.migrate().await.unwrap();
    let nap = "CREATE FUNCTION nap() RETURNS trigger LANGUAGE plpgsql AS \
        'BEGIN PERFORM pg_sleep(600); RETURN NEW; END'; \
        CREATE TRIGGER nap BEFORE INSERT ON meta FOR EACH ROW EXECUTE FUNCTION nap()";
    place.run(nap).await;
    let (begun, asleep) = (
        db.write(|tx| Box::pin(store::meta::decide(tx, "a", "1"))),
        "SELECT COUNT(*) FROM pg_locks WHERE relation = 'meta'::regclass AND mode = 'RowExclusiveLock'",
    );
    let refused = tokio::time::timeout(Duration::from_secs(20), begun).await.expect("it waits for ever");
    assert!(matches!(refused, Err(StoreError::Unavailable(_) | StoreError::Unknown(_))), "{refused:?}");
    until("it has ended", async || place.number(asleep).await == 0).await;
    assert_eq!(place.number("SELECT COUNT(*) FROM meta").await, 0);
}

/// Whatever the language of the database: on both engines the same texts are the same, and come in the same order.
#[tokio::test]
async fn texts_sort_by_their_bytes_on_postgresql_too() {
    let server = Server::empty(Engine::Postgres).await;
    let by_language = "SELECT c.relname || '.' || a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
        JOIN pg_collation l ON l.oid = a.attcollation WHERE c.relnamespace = current_schema()::regnamespace \
        AND c.relkind = 'r' AND c.relname <> '_sqlx_migrations' AND a.attnum > 0 AND l.collname <> 'C'";
    assert_eq!(server.place.texts(by_language).await, [""; 0]);
    let mut exported = Vec::new();
    for engine in [Engine::Sqlite, Engine::Postgres] {
        let server = Server::empty(engine).await;
        let client = |id| format!("[[client]]\nclient_id = {id:?}\nclient_secret = {SECRET:?}\ngrant_types = []\n");
        server.apply(&["b", "A", "a", "B", "-a", "_", "a-b", "ab"].map(client).concat()).await;
        exported.push(server.place.texts("SELECT client_id FROM clients ORDER BY client_id").await);
    }
    assert_eq!(exported[0], ["-a", "A", "B", "_", "a", "a-b", "ab", "b"]);
    assert_eq!(exported[0], exported[1]);
}

/// Commands that find no schema make it one after the other, whatever the engine: sqlx's own lock does nothing on SQLite.
#[tokio::test]
async fn migrating_at_once_from_several_processes_is_one_migration() {
    for engine in [Engine::Sqlite, Engine::Postgres] {
        for _ in 0..3 {
            let place = Place::new(engine).await;
            let start = |_| {
                let mut migrate = crate::process::command(&place.folder, &["migrate"]);
                migrate.env("SEALWRIGHT_ISSUER", "https://id.example.com").env("SEALWRIGHT_DATABASE__URL", &place.url);
                migrate.env("SEALWRIGHT_MASTER_KEY__VALUE", crate::support::MASTER_KEY);
                crate::process::Run::spawn(migrate, None)
            };
            let mut running: Vec<_> = (0..6).map(start).collect();
            for run in &mut running {
                assert_eq!(run.wait(), 0, "{engine:?}: {}", run.stderr());
            }
            assert_eq!(place.number("SELECT COUNT(*) FROM _sqlx_migrations WHERE success").await, 2);
            assert_eq!(place.number("SELECT COUNT(*) FROM change_head").await, 1);
        }
    }
}

/// A second `serve` on one SQLite file is refused; the first goes on.
#[tokio::test(flavor = "multi_thread")]
async fn one_server_for_one_sqlite_file() {
    let (server, _) = Server::example(Engine::Sqlite).await;
    let mut config = sealwright::config::Config::default();
    config.issuer = Some(sealwright::config::Issuer::parse(&server.issuer).unwrap());
    config.http.listen = vec!["127.0.0.1:0".parse().unwrap()];
    config.management.listen = vec!["127.0.0.1:0".parse().unwrap()];
    config.database.url = sealwright::config::DatabaseUrl::parse(&server.place.url).unwrap();
    config.master_key.value = Some(Secret::new(crate::support::MASTER_KEY));
    let opened = sealwright::app::open(&config, Clock::system(), false).await.unwrap();
    let Err(refused) = sealwright::app::App::start(&config, opened).await else { panic!("started") };
    assert!(refused.to_string().contains("another"), "{refused}");
    server.token().await;
}

/// Asks until tokens are answered with `status`. The bound is only there for the test to end.
async fn until_answered(server: &Server, status: u16) {
    let begun = Instant::now();
    while server.post(TOKEN, Some(("orders-sync", SECRET)), &[CC]).await.status != status {
        assert!(begun.elapsed() < Duration::from_secs(90), "never {status}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Who removes the lock file lets another server in; the one that had the lock does not go on beside it.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_lock_file_is_another_answers_503_until_it_has_the_lock() {
    let (server, _) = Server::example(Engine::Sqlite).await;
    let lock = server.place.folder.join("test.db.lock");
    assert!(lock.exists());
    let other = lock.with_extension("other");
    let held = std::fs::File::create(&other).unwrap();
    held.try_lock().unwrap();
    std::fs::rename(&other, &lock).unwrap();
    until_answered(&server, 503).await;
    // Longer than a lease.
    for _ in 0..35 {
        server.post(TOKEN, Some(("orders-sync", SECRET)), &[CC]).await.assert_error(503, "temporarily_unavailable");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // What changes meanwhile is told as not confirmed, and known afterwards.
    let more =
        format!("{EXAMPLE}\n[[client]]\nclient_id = \"new\"\nclient_secret = {SECRET:?}\nscope = \"orders:read\"\n");
    assert!(server.try_apply(&more, false).await.is_err());
    drop(held);
    until_answered(&server, 200).await;
    assert_eq!(server.post(TOKEN, Some(("new", SECRET)), &[CC]).await.status, 200);
    // The lock is as good as the first.
    assert!(Lock::serving(&server.place.folder.join("test.db")).unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_lock_file_is_removed_takes_the_lock_again_and_no_other_gets_in() {
    let (server, _) = Server::example(Engine::Sqlite).await;
    std::fs::remove_file(server.place.folder.join("test.db.lock")).unwrap();
    until_answered(&server, 503).await;
    until_answered(&server, 200).await;
    assert!(Lock::serving(&server.place.folder.join("test.db")).unwrap().is_none());
    server.apply(EXAMPLE).await;
}

/// A server that finds no lock file, and the row of one that was not stopped, lets that one's lease run out.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_lock_file_a_server_waits_for_the_lease_of_one_that_may_run() {
    let (server, _) = Server::example(Engine::Sqlite).await;
    let place = server.place.clone();
    server.stop().await;
    let mut conn = sqlx::SqliteConnection::connect(&place.url).await.unwrap();
    let row = "INSERT INTO nodes (id, lease_until, applied_seq, started_at, master_keys) \
               VALUES (x'00', 9000000000000000000, 0, 0, '')";
    conn.execute(row).await.unwrap();
    conn.close().await.unwrap();
    std::fs::remove_file(place.folder.join("test.db.lock")).unwrap();
    let begun = Instant::now();
    let next = Server::at(place, Clock::system(), |_| {}).await;
    assert!(begun.elapsed() >= Duration::from_secs(3), "{:?}", begun.elapsed());
    next.token().await;
}

/// Two first starts at once make one set of keys.
#[tokio::test(flavor = "multi_thread")]
async fn two_first_starts_share_their_keys() {
    let place = std::sync::Arc::new(Place::new(Engine::Postgres).await);
    let start = || Server::start(place.clone(), Clock::system(), false, |_| {});
    let (a, b) = tokio::join!(start(), start());
    let (of_a, of_b) = (a.get("/.well-known/jwks.json").await.json, b.get("/.well-known/jwks.json").await.json);
    assert_eq!(of_a, of_b);
    assert_eq!(of_a["keys"].as_array().unwrap().len(), 8);
    let code = a.services.mac.sign(Purpose::Csrf, &[b"a"]);
    assert!(b.services.mac.verify(Purpose::Csrf, &[b"a"], &code), "one MAC key for all");
}
