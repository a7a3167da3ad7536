//! How often somebody may try, on one node and on several, and that nobody locks another out of their own browser.

use std::time::Duration;

use sealwright::clock::SECOND;
use sealwright::cx::Cx;
use sealwright::store::attempts::{self, Bucket, Kind};
use sealwright::users::throttle::{self, At};

use crate::browser::Browser;
use crate::login::{OTHER, PASSWORD, with_people};
use crate::support::{Engine, Server, both};

const WRONG: &str = "wrong and wrong and wrong";

fn counted(server: &Server, outcome: &str) -> u64 {
    let metrics = server.services.metrics.render();
    let start = format!("sealwright_sign_ins_total{{outcome=\"{outcome}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(start.as_str())).map_or(0, |n| n.parse().unwrap())
}

both! {
    /// T-135: of many wrong passwords at once, over all nodes, ten are looked at.
    async fn t135_parallel_guesses_on_all_nodes_are_one_count(engine) {
        let server = with_people(engine).await;
        let mut nodes = vec![server];
        if engine == Engine::Postgres {
            let another = nodes[0].another().await;
            nodes.push(another);
        }
        let mut browsers = Vec::new();
        for at in 0..60 {
            let mut browser = Browser::stepwise(&nodes[at % nodes.len()]);
            let csrf = browser.token().await;
            browsers.push((browser, csrf));
        }
        let guesses = browsers.iter_mut().map(|(browser, csrf)| async move {
            loop {
                let page = browser.post("/login", &[("csrf", csrf), ("username", "Ada"), ("password", WRONG)]).await;
                // A busy machine may have no place in its queue.
                if page.status != 503 {
                    return page.status;
                }
            }
        });
        let answers = futures_util::future::join_all(guesses).await;
        assert!(answers.iter().all(|status| *status == 403), "{answers:?}");
        let wrong: u64 = nodes.iter().map(|node| counted(node, "wrong")).sum();
        let throttled: u64 = nodes.iter().map(|node| counted(node, "throttled")).sum();
        assert!((1..=10).contains(&wrong) && wrong + throttled == 60, "{wrong} {throttled}");
        // Now the right one is not looked at either, and the answer is the same.
        let (mut late, before) = (Browser::stepwise(&nodes[0]), counted(&nodes[0], "throttled"));
        let page = late.sign_in("Ada", PASSWORD).await;
        assert_eq!((page.status, counted(&nodes[0], "throttled")), (403, before + 1));
        // Others are not concerned.
        assert_eq!(Browser::stepwise(&nodes[0]).sign_in("grace", OTHER).await.status, 303);
        for node in nodes {
            node.stop().await;
        }
    }

    /// T-136: nobody's guesses keep somebody out of a browser that the account knows, and a forged cookie knows nothing.
    async fn t136_a_known_browser_is_not_locked_out(engine) {
        let server = with_people(engine).await;
        let mut own = Browser::stepwise(&server);
        own.address = Some("198.51.100.7".into());
        assert_eq!(own.sign_in("Ada", PASSWORD).await.status, 303);
        let known: Vec<String> = own.cookies.keys().filter(|name| name.contains("-known-")).cloned().collect();
        let [known] = known.as_slice() else { panic!("{:?}", own.cookies) };
        for at in 0..14 {
            let mut attacker = Browser::stepwise(&server);
            attacker.address = Some(format!("203.0.113.{at}"));
            // With what a forger could set.
            let mut forged = own.cookies[known].clone().into_bytes();
            forged[40] = if forged[40] == b'A' { b'B' } else { b'A' };
            attacker.cookies.insert(known.clone(), String::from_utf8(forged).unwrap());
            assert_eq!(attacker.sign_in("Ada", WRONG).await.status, 403);
        }
        assert_eq!((counted(&server, "wrong"), counted(&server, "throttled")), (10, 4));
        let mut stranger = Browser::stepwise(&server);
        stranger.address = own.address.clone();
        assert_eq!(stranger.sign_in("Ada", PASSWORD).await.status, 403);
        own.cookies.remove("sealwright");
        assert_eq!(own.sign_in("Ada", PASSWORD).await.status, 303);
        // It is known to Ada, and to nobody else; and it has an end of its own.
        own.cookies.remove("sealwright");
        for _ in 0..12 {
            assert_eq!(own.sign_in("Ada", WRONG).await.status, 403);
        }
        assert_eq!(own.sign_in("Ada", PASSWORD).await.status, 403);
        server.stop().await;
    }

    /// A browser is known as long as the password that was typed there; after another one it is a stranger, and nothing of
    /// what was counted before counts, also not at known browsers.
    async fn another_password_makes_every_browser_a_stranger(engine) {
        const NEW: &str = "another lantern gravel tuba";
        let server = with_people(engine).await;
        let mut own = Browser::stepwise(&server);
        assert_eq!(own.sign_in("Ada", PASSWORD).await.status, 303);
        for _ in 0..12 {
            own.cookies.remove("sealwright");
            assert_eq!(own.sign_in("Ada", WRONG).await.status, 403);
        }
        let mut stranger = Browser::stepwise(&server);
        stranger.sign_in("Ada", WRONG).await;
        let counts = "SELECT COUNT(*) FROM attempts WHERE kind <> 'address'";
        assert!(server.place.number(counts).await >= 2);
        server.apply(&crate::login::PEOPLE.replacen(PASSWORD, NEW, 1)).await;
        assert_eq!(server.place.number(counts).await, 0);
        // Strangers lock the account: a browser that is known would not mind.
        for _ in 0..10 {
            assert_eq!(stranger.sign_in("Ada", WRONG).await.status, 403);
        }
        own.cookies.remove("sealwright");
        assert_eq!(own.sign_in("Ada", NEW).await.status, 403, "it knows the old password");
        server.clock.advance(Duration::from_secs(30));
        assert_eq!(own.sign_in("Ada", NEW).await.status, 303);
        for _ in 0..10 {
            stranger.sign_in("Ada", WRONG).await;
        }
        own.cookies.remove("sealwright");
        assert_eq!(own.sign_in("Ada", NEW).await.status, 303, "known again");
        server.stop().await;
    }

    /// T-136: who holds many cookies of known browsers has no hundred guesses at each: beyond the ten of each browser
    /// there are two hundred in all. And the ten are each browser's own, whatever the others do.
    async fn t136_known_browsers_share_what_goes_beyond_their_own(engine) {
        let server = with_people(engine).await;
        let charge = async |browser: u8| {
            let cx = Cx::new(&server.services, std::net::Ipv4Addr::LOCALHOST.into(), "test".into());
            throttle::charge(&cx, At::Known("somebody", [browser; 16])).await.unwrap().is_some()
        };
        let mut made = 0;
        for pause in [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 30, 60, 120, 240, 480] {
            server.clock.advance(Duration::from_secs(pause));
            for browser in 0..50 {
                made += usize::from(charge(browser).await);
            }
        }
        assert_eq!(made, 50 * 10 + 200);
        for attempt in 0..10 {
            assert!(charge(100).await, "{attempt}");
        }
        server.clock.advance(Duration::from_secs(30));
        assert!(!charge(100).await);
        server.clock.advance(Duration::from_hours(7 * 24));
        assert!(charge(100).await);
        server.stop().await;
    }

    /// T-184: whom the pool sends away has made no attempt.
    async fn t184_who_gets_no_turn_is_not_charged(engine) {
        let server = Server::with(engine, |config| {
            config.secrets.argon2_concurrency = Some(1);
            config.secrets.argon2_queue = 0;
        })
        .await;
        server.apply(crate::login::PEOPLE).await;
        let mut browser = Browser::stepwise(&server);
        let held = server.services.passwords.turn(None).await.unwrap();
        for _ in 0..20 {
            assert_eq!(browser.sign_in("Ada", WRONG).await.status, 503);
        }
        assert_eq!(server.place.number("SELECT COUNT(*) FROM attempts").await, 0);
        drop(held);
        assert_eq!(browser.sign_in("Ada", PASSWORD).await.status, 303);
        server.stop().await;
    }

    /// T-190: guesses at names that nobody has are forgotten with the address that made them.
    async fn t190_guesses_at_nobody_are_not_kept(engine) {
        let server = with_people(engine).await;
        for at in 0..5 {
            Browser::stepwise(&server).sign_in(&format!("nobody{at}"), WRONG).await;
        }
        Browser::stepwise(&server).sign_in("Ada", WRONG).await;
        let count = async || server.place.number("SELECT COUNT(*) FROM attempts").await;
        assert_eq!(count().await, 7);
        server.clock.advance(Duration::from_mins(16));
        sealwright::jobs::sweep_once(&server.services).await.unwrap();
        assert_eq!(count().await, 1);
        server.stop().await;
    }

    /// One address guesses at many accounts: it is stopped, and another address is not.
    async fn an_address_that_guesses_at_many_accounts_is_stopped(engine) {
        let server = with_people(engine).await;
        let mut attacker = Browser::stepwise(&server);
        attacker.address = Some("2001:db8:0:1::1".into());
        for at in 0..100 {
            // Another address of the same network.
            attacker.address = Some(format!("2001:db8:0:1::{at:x}"));
            let csrf = attacker.token().await;
            let name = format!("name{at}");
            attacker.post("/login", &[("csrf", &csrf), ("username", &name), ("password", WRONG)]).await;
        }
        assert_eq!((counted(&server, "unknown"), counted(&server, "throttled")), (100, 0));
        assert_eq!(attacker.sign_in("grace", OTHER).await.status, 403);
        assert_eq!(counted(&server, "throttled"), 1);
        attacker.address = Some("2001:db8:0:2::1".into());
        assert_eq!(attacker.sign_in("grace", OTHER).await.status, 303);
        server.stop().await;
    }

    /// S-97: ten are free; then the pauses grow from 30 seconds to an hour; the hundredth is the last. What is charged
    /// is charged once, and success forgets it.
    async fn s97_pauses_grow_and_end(engine) {
        let server = with_people(engine).await;
        let db = &server.services.db;
        let kept = 7 * 86_400 * SECOND;
        let charge = async || {
            let charged = db.write(move |tx| Box::pin(async move { attempts::charge(tx, &Bucket::new(Kind::Account, "x"), kept).await }));
            charged.await.unwrap().value.is_some()
        };
        for at in 0..10 {
            assert!(charge().await, "{at}");
        }
        let mut seconds = 30;
        for n in 11..=100 {
            assert!(!charge().await, "{n}");
            server.clock.advance(Duration::from_secs(seconds - 5));
            assert!(!charge().await, "{n}: too early");
            server.clock.advance(Duration::from_secs(5));
            assert!(charge().await, "{n}: after {seconds} s");
            seconds = (seconds * 2).min(3600);
        }
        server.clock.advance(Duration::from_hours(24));
        assert!(!charge().await, "the hundredth was the last");
        server.clock.advance(Duration::from_hours(6 * 24));
        assert!(charge().await, "a week without one");
        let window = |most: i64| async move {
            db.write(move |tx| Box::pin(async move {
                attempts::charge_window(tx, &Bucket::new(Kind::Address, "y"), 900 * SECOND, most).await
            })).await.unwrap().value
        };
        assert!(window(2).await && window(2).await && !window(2).await);
        let give_back = || db.write(|tx| Box::pin(async move { attempts::give_back(tx, &Bucket::new(Kind::Address, "y")).await }));
        give_back().await.unwrap();
        assert!(window(2).await && !window(2).await);
        // What counts nothing is not kept.
        for _ in 0..2 {
            give_back().await.unwrap();
        }
        sealwright::jobs::sweep_once(&server.services).await.unwrap();
        assert_eq!(server.place.number("SELECT COUNT(*) FROM attempts WHERE id = 'y'").await, 0);
        server.stop().await;
    }
}
