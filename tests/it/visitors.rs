//! What strangers may leave here: so much of each network and so much in all, and nothing of it stays.

use std::time::Duration;

use futures_util::future::join_all;
use sealwright::config::Config;
use sealwright::jobs;
use sqlx::Connection as _;

use crate::authorize::{CLIENTS, request};
use crate::browser::{Browser, Page};
use crate::flows::USERS;
use crate::support::{EXAMPLE, Engine, Server, both, rounds, until};

const ALICE: (&str, &str) = ("alice", "lantern gravel tuba omelette");
const AT_ONCE: i64 = 8;

/// Behind a proxy, with this bound.
fn trusting(of_network: u32) -> impl FnOnce(&mut Config) {
    move |config| {
        config.http.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
        config.sessions.waiting_per_address = of_network;
    }
}

/// A server behind a proxy, with these bounds.
async fn bounded(engine: Engine, of_network: u32, in_all: u32) -> Server {
    let server = Server::with(engine, |config| {
        trusting(of_network)(config);
        config.sessions.waiting = in_all;
    })
    .await;
    server.apply(&format!("{EXAMPLE}{CLIENTS}{USERS}")).await;
    server
}

/// Rows that strangers have left.
async fn left(server: &Server) -> i64 {
    let of = |table: &str| format!("SELECT COUNT(*) FROM {table} WHERE source IS NOT NULL");
    server.place.number(&of("sessions")).await + server.place.number(&of("artifacts")).await
}

fn at(server: &Server, address: &str) -> Browser {
    let mut browser = Browser::stepwise(server);
    browser.address = Some(address.to_owned());
    browser
}

#[track_caller]
fn assert_refused(page: &Page, status: u16, words: &str) {
    assert_eq!(page.status, status, "{}", page.text);
    assert_eq!((page.location(), page.header("retry-after")), ("", "60"), "it is the person who is told");
    assert!(page.header("content-type").starts_with("text/html") && page.text.contains(words), "{}", page.text);
    assert!(page.headers.get("set-cookie").is_none());
}

both! {
    /// T-190, F-21: however many begin to sign in at one network, they leave their share; others notice nothing; and when
    /// the time is over, it is all gone.
    async fn t190_f21_a_flood_leaves_its_share_and_hurts_nobody_else(engine) {
        const SHARE: i64 = 40;
        let server = bounded(engine, 40, 100_000).await;
        let each = rounds(160).div_ceil(AT_ONCE.try_into().unwrap());
        let flood = join_all((0..AT_ONCE).map(|worker| {
            let mut browser = at(&server, "");
            async move {
                for n in 0..each {
                    // Without cookies, by GET or POST, from another address of one network.
                    browser.cookies.clear();
                    browser.address = Some(format!("2001:db8:0:1::{worker:x}:{n:x}"));
                    let page = match n % 2 {
                        0 => browser.authorize(&request(&[])).await,
                        _ => browser.post_from("https://rp.test", "/oauth2/authorize", &request(&[])).await,
                    };
                    match page.status {
                        303 => assert!(page.location().starts_with("http://127.0.0.1"), "{}", page.location()),
                        // Many at once on a busy machine.
                        503 => {}
                        _ => assert_refused(&page, 429, "Too many sign-ins from your network"),
                    }
                }
            }
        }));
        let victim = async {
            let mut browser = Browser::new(&server);
            browser.address = Some("2001:db8:0:2::1".to_owned());
            for _ in 0..3 {
                browser.cookies.clear();
                let login = browser.authorize(&request(&[])).await;
                let mut page = browser.fill_in(&login, ALICE).await;
                if page.has("approve") {
                    page = browser.press(&page, "approve", &[]).await;
                }
                assert!(page.parameter("code").is_some(), "{page:?}");
            }
        };
        tokio::join!(flood, victim);
        let reached = left(&server).await;
        assert!((SHARE - 1..=SHARE).contains(&reached), "{reached}");
        // Who is refused leaves nothing, whatever they ask for.
        let mut refused = at(&server, "2001:db8:0:1::ffff");
        assert_refused(&refused.authorize(&request(&[])).await, 429, "Too many sign-ins");
        assert_refused(&refused.get("/login").await, 429, "Too many sign-ins");
        assert_eq!(left(&server).await, reached);
        // What was begun is finished there, too: people who have a form sign in with it.
        server.clock.advance(Duration::from_mins(31));
        jobs::sweep_once(&server.services).await.unwrap();
        assert_eq!(left(&server).await, 0);
        assert_eq!(refused.authorize(&request(&[])).await.status, 303);
        server.stop().await;
    }

    /// T-190: what a network may leave is counted together, at however many nodes it begins at the same moment.
    async fn t190_what_a_network_leaves_at_once_is_its_share_on_every_node(engine) {
        let server = bounded(engine, 20, 100_000).await;
        let node = if engine == Engine::Postgres { Some(server.another_with(trusting(20)).await) } else { None };
        let nodes: Vec<&Server> = [&server].into_iter().chain(&node).collect();
        for round in 0..rounds(4) {
            let address = format!("198.51.100.{}", round % 250);
            // Posted requests: each leaves one row, and no session.
            let tries = (0..48).map(|n| {
                let mut browser = at(nodes[n % nodes.len()], &address);
                async move {
                    let page = browser.post_from("https://rp.test", "/oauth2/authorize", &request(&[])).await;
                    assert!([303, 429, 503].contains(&page.status), "{}", page.text);
                    page.status
                }
            });
            let statuses = join_all(tries).await;
            let taken = statuses.iter().filter(|status| **status == 303).count();
            let of_network = format!("SELECT COUNT(*) FROM artifacts WHERE source = '{address}'");
            let left = server.place.number(&of_network).await;
            assert!(left <= 20 && taken <= 20, "{left} rows, {taken} taken");
            assert!(statuses.contains(&503) || left == 20, "{left} rows: {statuses:?}");
            if left == 20 {
                let next = at(&server, &address).authorize(&request(&[])).await;
                assert_refused(&next, 429, "Too many sign-ins");
            }
        }
        server.stop().await;
    }

    /// T-190: in all there is a bound, too; what ends makes room.
    async fn t190_beyond_what_there_may_be_in_all_nothing_is_stored(engine) {
        let server = bounded(engine, 1000, 20).await;
        let mut first = at(&server, "198.51.100.1");
        let login = first.authorize(&request(&[])).await;
        assert_eq!(login.status, 303);
        for n in 2..=10 {
            assert_eq!(at(&server, &format!("198.51.100.{n}")).authorize(&request(&[])).await.status, 303, "{n}");
        }
        let mut refused = at(&server, "203.0.113.1");
        for _ in 0..3 {
            assert_refused(&refused.authorize(&request(&[])).await, 503, "We cannot answer just now");
            let posted = refused.post_from("https://rp.test", "/oauth2/authorize", &request(&[])).await;
            assert_refused(&posted, 503, "We cannot answer just now");
        }
        // A count that was taken between a sign-in and its session is one short.
        let reached = left(&server).await;
        assert!((20..=21).contains(&reached), "{reached}");
        // Who is here already goes on; a session at which somebody is signed in is no stranger's.
        let page = first.get(login.location()).await;
        assert_eq!(first.fill_in(&page, ALICE).await.status, 303);
        assert_eq!(left(&server).await, reached - 1);
        server.clock.advance(Duration::from_mins(31));
        assert_eq!(refused.authorize(&request(&[])).await.status, 303);
        server.stop().await;
    }

    /// OpenID Connect Core §3.1.2.1: who is only asked whether somebody is here leaves nothing, and is always answered.
    async fn prompt_none_leaves_nothing(engine) {
        let server = bounded(engine, 4, 100).await;
        for _ in 0..6 {
            let page = at(&server, "198.51.100.1").authorize(&request(&[("prompt", "none")])).await;
            assert!(page.location().contains("error=login_required"), "{page:?}");
            assert!(page.headers.get("set-cookie").is_none());
            let ended = at(&server, "198.51.100.1").get("/oauth2/authorize?flow=unknown").await;
            assert_eq!((ended.status, ended.headers.get("set-cookie")), (400, None));
        }
        assert_eq!(left(&server).await, 0);
        server.stop().await;
    }

    /// Who begins again at the same browser has the whole time for it; a sign-in that nobody goes on with is over after a
    /// quarter of an hour.
    async fn who_begins_again_has_the_time_for_it(engine) {
        let server = bounded(engine, 1000, 1000).await;
        let mut browser = Browser::new(&server);
        let early = browser.authorize(&request(&[])).await;
        server.clock.advance(Duration::from_mins(25));
        assert_eq!(browser.get(early.url.as_str()).await.status, 400, "over");
        let login = browser.authorize(&request(&[])).await;
        server.clock.advance(Duration::from_mins(14));
        let page = browser.fill_in(&login, ALICE).await;
        // Signed in, there is an hour from the beginning.
        server.clock.advance(Duration::from_mins(20));
        assert!(browser.press(&page, "approve", &[]).await.parameter("code").is_some());
        server.stop().await;
    }
}

/// T-190: those of one network who wait for each other take one connection of the pool, and leave the others to others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t190_a_network_that_waits_for_itself_keeps_no_connection_from_others() {
    let server = bounded(Engine::Postgres, 1000, 100_000).await;
    // Its own: the lock is of the whole database server, where other tests are.
    let [a, b] = sealwright::secret::random().unwrap();
    let address = format!("198.18.{a}.{b}");
    // Somebody of that network is about to commit, and takes their time.
    let mut slow = sqlx::PgConnection::connect(&server.place.url).await.unwrap();
    let lock = format!("SELECT pg_advisory_lock(hashtextextended('{address}', 0))");
    sqlx::query(sqlx::AssertSqlSafe(lock)).execute(&mut slow).await.unwrap();
    let many = join_all((0..12).map(|_| {
        let mut browser = at(&server, &address);
        async move { browser.post_from("https://rp.test", "/oauth2/authorize", &request(&[])).await.status }
    }));
    let others = async {
        let waiting = format!(
            "SELECT COUNT(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted \
             AND ((classid::BIGINT << 32) | objid::BIGINT) = hashtextextended('{address}', 0)"
        );
        until("one waits", async || server.place.number(&waiting).await > 0).await;
        for _ in 0..40 {
            assert_eq!(server.place.number(&waiting).await, 1, "the others wait without a connection");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for _ in 0..5 {
            assert_eq!(at(&server, "203.0.113.78").authorize(&request(&[])).await.status, 303);
        }
        slow.close().await.unwrap();
    };
    let (statuses, ()) = tokio::join!(many, others);
    assert!(statuses.iter().all(|status| [303, 503].contains(status)), "{statuses:?}");
    server.stop().await;
}
