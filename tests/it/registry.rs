//! Clients in memory: what many miss at once is read once, and what was read before a change is not kept.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::join_all;
use sealwright::clients::Registry;
use sealwright::clock::Clock;
use sealwright::secret::Secret;
use sealwright::store::{Db, Location, Options, clients};
use sqlx::{Connection, Executor};

use crate::support::{Engine, Place, SECRET, Server, TOKEN, both, until};

const CC: (&str, &str) = ("grant_type", "client_credentials");
/// The client, and its credentials.
const STATEMENTS: u64 = 2;
const CONNECTIONS: u32 = 3;

/// A database with the client `a`, and nobody else at work in it.
async fn database(engine: Engine) -> (Place, Db) {
    let place = Place::new(engine).await;
    let location = match engine {
        Engine::Sqlite => Location::Sqlite(place.folder.join("test.db")),
        Engine::Postgres => Location::Postgres(Secret::new(&place.url)),
    };
    let options = Options { location, max_connections: CONNECTIONS, deadline: Duration::from_secs(20) };
    let db = Db::open(options, Clock::system()).await.unwrap();
    db.migrate().await.unwrap();
    db.write(|tx| Box::pin(async move { clients::save(tx, &row(false), &[]).await })).await.unwrap();
    (place, db)
}

fn row(disabled: bool) -> clients::ClientRow {
    clients::ClientRow { client_id: "a".into(), metadata: "{}".into(), disabled, managed_by: "apply".into() }
}

both! {
    async fn what_many_miss_at_once_is_read_once(engine) {
        let (_place, db) = database(engine).await;
        let registry = Arc::new(Registry::new(db.clone()));
        registry.reload(&mut db.reader().await.unwrap()).await.unwrap();
        let before = db.statements();
        let asked = (0..64).map(|_| {
            let registry = registry.clone();
            tokio::spawn(async move { registry.get("a").await.unwrap().is_some() })
        });
        assert!(join_all(asked).await.into_iter().all(Result::unwrap));
        assert_eq!(db.statements() - before, STATEMENTS);
    }

    async fn what_was_being_read_when_a_client_changed_is_read_again(engine) {
        let (_place, db) = database(engine).await;
        let registry = Registry::new(db.clone());
        registry.reload(&mut db.reader().await.unwrap()).await.unwrap();
        let mut held = Vec::new();
        // On SQLite there is one more, for the change feed.
        for _ in 0..CONNECTIONS + u32::from(engine == Engine::Sqlite) {
            held.push(db.reader().await.unwrap());
        }
        let before = db.statements();
        let mut fill = pin!(registry.get("a"));
        // It has begun, and waits for a connection.
        let waits = poll_fn(|context| Poll::Ready(fill.as_mut().poll(context).is_pending())).await;
        assert!(waits);
        registry.invalidate("a");
        drop(held);
        assert!(fill.await.unwrap().is_some());
        assert_eq!(db.statements() - before, 2 * STATEMENTS);
        registry.get("a").await.unwrap();
        assert_eq!(db.statements() - before, 2 * STATEMENTS, "now it is kept");
    }
}

/// The same by HTTP: a request that has read half of a client answers by what the client is now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fill_that_is_older_than_the_feed_is_dropped() {
    let (server, _) = Server::example(Engine::Postgres).await;
    let db = &server.services.db;
    let found = db.read(|conn| Box::pin(clients::find(conn, "orders-sync"))).await.unwrap();
    let mut disabled = found.unwrap().0;
    disabled.disabled = true;
    let mut other = sqlx::PgConnection::connect(&server.place.url).await.unwrap();
    other.execute("BEGIN; LOCK TABLE credentials IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let ask = async || server.post(TOKEN, Some(("orders-sync", SECRET)), &[CC]).await;
    let asking = ask();
    let changing = async {
        let waiting = "SELECT COUNT(*) FROM pg_locks WHERE NOT granted AND relation = 'credentials'::regclass";
        until("the client is read, its credentials are not", async || server.place.number(waiting).await > 0).await;
        let saved = db.write(move |tx| Box::pin(async move { clients::save(tx, &disabled, &[]).await }));
        let seq = saved.await.unwrap().seq.unwrap();
        until("the feed is applied", async || server.services.node.applied() >= seq).await;
        other.execute("ROLLBACK").await.unwrap();
    };
    let (answer, ()) = tokio::join!(asking, changing);
    answer.assert_error(401, "invalid_client");
    ask().await.assert_error(401, "invalid_client");
}
