//! Guessing a password at all nodes at once while some of them die (T-135), and keeping its owner out by it (T-136).

use std::time::Instant;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use sealwright::secret::random;

use crate::browser::Browser;
use crate::codes::number;
use crate::login::{PASSWORD, PEOPLE, with_people};
use crate::process::{Node, Process};
use crate::support::{Engine, both, client, rounds};

const WRONG: &str = "wrong and wrong and wrong";
/// Wrong attempts at an account that cost nothing but themselves; each one after them waits for half a minute or more.
const FREE: i64 = 10;

/// Passwords that a process has looked at and found wrong.
async fn looked_at(node: &Node) -> i64 {
    let asked = client().get(format!("http://127.0.0.1:{}/metrics", node.management)).send().await.unwrap();
    let text = asked.text().await.unwrap();
    let line = "sealwright_sign_ins_total{outcome=\"wrong\"} ";
    text.lines().find_map(|text| text.strip_prefix(line)).map_or(0, |count| count.parse().unwrap())
}

/// 500 guesses in a long run, at three processes of which one is killed and started again meanwhile. Whatever happens,
/// ten of them are looked at, and what a dead process charged stays charged.
async fn guesses(guesses: usize) {
    let first = Node::new(Engine::Postgres).await;
    first.apply(PEOPLE);
    let nodes = [first.clone(), first.beside(), first.beside()];
    let mut running: Vec<Process> = Vec::new();
    for node in &nodes {
        running.push(node.start().await);
    }
    let mut browsers = Vec::new();
    for _ in 0..8 {
        let mut browser = Browser::of(&running[0].url, &first.issuer);
        let csrf = browser.token().await;
        browsers.push((browser.cookies, csrf));
    }
    let begun = Instant::now();
    let kill_after = guesses / 8 + usize::from(random::<1>().unwrap()[0]) % (guesses / 4);
    let (mut answered, mut lost, mut odd) = (0, 0, Vec::new());
    {
        let mut guessing: FuturesUnordered<_> = (0..guesses)
            .map(|at| {
                let (cookies, csrf) = &browsers[at % browsers.len()];
                let mut browser = Browser::of(&running[at % running.len()].url, &first.issuer);
                browser.cookies.clone_from(cookies);
                async move {
                    let form = [("csrf", csrf.as_str()), ("username", "Ada"), ("password", WRONG)];
                    loop {
                        // A busy machine may have no place in its queue, and it is asked again.
                        match browser.try_post("/login", &form).await {
                            Some(503) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
                            other => return other,
                        }
                    }
                }
            })
            .collect();
        while let Some(answer) = guessing.next().await {
            match answer {
                Some(403) => answered += 1,
                None => lost += 1,
                Some(other) => odd.push(other),
            }
            if answered + lost == kill_after {
                running[2].run.signal("KILL");
            }
        }
    }
    assert!(odd.is_empty(), "{odd:?}");
    assert!(answered > guesses / 2, "{answered} of {guesses} were answered, {lost} lost");
    running[2].kill9();
    running[2] = nodes[2].start().await;
    // The next one gets what is left, and not ten of its own.
    for (cookies, csrf) in &browsers {
        let mut browser = Browser::of(&running[2].url, &first.issuer);
        browser.cookies.clone_from(cookies);
        let form = [("csrf", csrf.as_str()), ("username", "ada"), ("password", WRONG)];
        assert!(matches!(browser.try_post("/login", &form).await, Some(403 | 503)));
    }
    // On a slow machine the first waits have ended meanwhile: 30 s, then a minute, then two.
    let waited = i64::try_from(begun.elapsed().as_secs() / 30 + 1).unwrap().ilog2();
    let allowed = FREE + i64::from(waited);
    let charged = number(&first.place, "SELECT n FROM attempts WHERE kind = 'account'").await;
    assert!((1..=allowed).contains(&charged), "{charged} charged");
    let mut seen = 0;
    for node in &nodes {
        seen += looked_at(node).await;
    }
    assert!(seen <= charged, "{seen} looked at, {charged} charged");
    // Now the right one is not looked at either.
    let (cookies, csrf) = &browsers[0];
    let mut browser = Browser::of(&running[1].url, &first.issuer);
    browser.cookies.clone_from(cookies);
    if begun.elapsed().as_secs() < 25 {
        let form = [("csrf", csrf.as_str()), ("username", "Ada"), ("password", PASSWORD)];
        assert_eq!(browser.try_post("/login", &form).await, Some(403));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t135_of_guesses_at_three_processes_ten_are_looked_at_though_one_is_killed() {
    guesses(rounds(120)).await;
}

both! {
    /// 10,000 failures in a long run, from one address and from many: the owner signs in at their own browser, before,
    /// among and after them.
    async fn t136_however_many_fail_the_owner_gets_in_at_a_known_browser(engine) {
        let server = with_people(engine).await;
        let mut own = Browser::stepwise(&server);
        own.address = Some("198.51.100.7".into());
        assert_eq!(own.sign_in("Ada", PASSWORD).await.status, 303);
        let each = rounds(160).div_ceil(4 * 8);
        for part in 0..4 {
            let failing = (0..8).map(async |lane| {
                let mut attacker = Browser::stepwise(&server);
                let csrf = attacker.token().await;
                for at in 0..each {
                    // Every fourth from elsewhere.
                    let elsewhere = format!("203.0.113.{}", (at * 8 + lane) % 250);
                    attacker.address = Some(if at % 4 == 0 { elsewhere } else { "192.0.2.1".into() });
                    let form = [("csrf", csrf.as_str()), ("username", "Ada"), ("password", WRONG)];
                    let page = attacker.post("/login", &form).await;
                    assert!([403, 429, 503].contains(&page.status), "{}", page.status);
                }
            });
            join_all(failing).await;
            // Without a session, with the cookie that says that the account knows this browser.
            own.cookies.retain(|name, _| name.contains("-known-"));
            assert_eq!(own.cookies.len(), 1);
            assert_eq!(own.sign_in("Ada", PASSWORD).await.status, 303, "{part}");
            // A wrong one at it does not open it to others, nor close it.
            own.cookies.retain(|name, _| name.contains("-known-"));
            assert_eq!(own.sign_in("Ada", WRONG).await.status, 403);
        }
        // A browser that nobody knows is out, whoever is at it, until the wait is over.
        let mut stranger = Browser::stepwise(&server);
        stranger.address.clone_from(&own.address);
        assert_eq!(stranger.sign_in("Ada", PASSWORD).await.status, 403);
    }
}
