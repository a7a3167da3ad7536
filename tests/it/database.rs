//! What holds of the database itself.

use sealwright::clock::Clock;
use sealwright::secret::Secret;
use sealwright::store::{self, Db, Location, Options};
use sqlx::{Connection, Executor, SqlSafeStr};

use crate::support::{Engine, Place, Server, both};

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

both! {
    async fn the_signing_keys_are_sealed_at_rest(engine) {
        let server = Server::empty(engine).await;
        let rows = server.services.db.read(|conn| Box::pin(store::signing_keys::list(conn))).await.unwrap();
        assert_eq!(rows.len(), 4);
        for row in rows {
            // A PKCS#8 document is a DER sequence; sealed, it begins with our version byte and the key's id.
            assert_eq!(row.sealed[0], 1);
            let pkcs8_of_rsa = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
            assert!(!row.sealed.windows(pkcs8_of_rsa.len()).any(|window| window == pkcs8_of_rsa));
        }
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

/// Two first starts at once make one set of keys.
#[tokio::test(flavor = "multi_thread")]
async fn two_first_starts_share_their_keys() {
    let place = std::sync::Arc::new(Place::new(Engine::Postgres).await);
    let start = || Server::start(place.clone(), Clock::system(), false, |_| {});
    let (a, b) = tokio::join!(start(), start());
    let (of_a, of_b) = (a.get("/.well-known/jwks.json").await.json, b.get("/.well-known/jwks.json").await.json);
    assert_eq!(of_a, of_b);
    assert_eq!(of_a["keys"].as_array().unwrap().len(), 4);
}
