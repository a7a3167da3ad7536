//! What one process revoked, no other process says is active: also when that one dies or sleeps (I3, I7).

use std::time::{Duration, Instant};

use crate::keys::{listed, published};
use crate::process::{Node, Process};
use crate::support::{EXAMPLE, Engine, INTROSPECT, SECRET, TOKEN, part, rounds, until};

const WORKER: (&str, &str) = ("orders-sync", SECRET);

/// The standby leaked: no node shows it when the command returns, both show the next, and the key that signs goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_revoke_of_a_standby_replaces_it_on_both_nodes_before_it_returns() {
    let (here, a, _, b, secret) = two().await;
    for _ in 0..rounds(100).min(3) {
        let token = a.token(WORKER).await;
        let signs = part(&token, 0)["kid"].as_str().unwrap().to_owned();
        let leaked = listed(&here, "EdDSA", "published");
        here.run(&["keys", "revoke", &leaked, "--yes"]).fine();
        for process in [&a, &b] {
            let shown = published(process).await.to_string();
            assert!(!shown.contains(&leaked), "{shown}");
            assert!(shown.contains(&listed(&here, "EdDSA", "published")) && shown.contains(&signs), "{shown}");
            assert_eq!(active(process, &secret, &token).await, Some(true));
            assert_eq!(part(&process.token(WORKER).await, 0)["kid"], signs.as_str());
        }
    }
}

/// Two processes on one database, and the gateway's secret.
async fn two() -> (Node, Process, Node, Process, String) {
    let here = Node::new(Engine::Postgres).await;
    let said = here.apply(EXAMPLE);
    let secret = said.stdout.trim().rsplit('\t').next().unwrap().to_owned();
    let there = here.beside();
    let (a, b) = (here.start().await, there.start().await);
    (here, a, there, b, secret)
}

async fn active(at: &Process, secret: &str, token: &str) -> Option<bool> {
    let answer = at.post(INTROSPECT, Some(("edge-gateway", secret)), &[("token", token)]).await;
    match answer.status {
        200 => Some(answer.json["active"].as_bool().unwrap()),
        503 => {
            assert!(answer.header("retry-after").is_some());
            None
        }
        status => panic!("{status} {}", answer.text),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc7009_2_revoked_on_one_process_is_refused_on_the_other_from_the_200_on() {
    let (_, a, _, b, secret) = two().await;
    let mut took = Vec::new();
    for round in 0..rounds(100) {
        let (here, there) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let token = here.token(WORKER).await;
        assert_eq!(active(there, &secret, &token).await, Some(true));
        let begun = Instant::now();
        here.revoke(WORKER, &token).await;
        took.push(begun.elapsed());
        assert_eq!(active(there, &secret, &token).await, Some(false), "round {round}");
        assert_eq!(active(here, &secret, &token).await, Some(false), "round {round}");
    }
    took.sort_unstable();
    eprintln!(
        "{} revocations over two nodes: median {:?}, slowest {:?}",
        took.len(),
        took[took.len() / 2],
        took.last()
    );
    assert!(took[took.len() / 2] < Duration::from_millis(500), "the doorbell is not heard: {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoke_does_not_fail_when_the_other_node_dies_and_that_one_learns_of_it_at_its_start() {
    let (_, a, there, mut b, secret) = two().await;
    let mut tokens = Vec::new();
    for _ in 0..8 {
        tokens.push(a.token(WORKER).await);
    }
    for token in &tokens {
        assert_eq!(active(&b, &secret, token).await, Some(true));
    }
    b.kill9();
    let revoking = tokens.iter().map(async |token| {
        let begun = Instant::now();
        a.revoke(WORKER, token).await;
        begun.elapsed()
    });
    let took = futures_util::future::join_all(revoking).await;
    let slowest = took.iter().max().unwrap();
    // The lease of 3 s runs out before the request's deadline.
    assert!(*slowest < Duration::from_secs(5), "{took:?}");
    assert!(*slowest > Duration::from_secs(1), "nobody waited for the dead node's lease: {took:?}");
    let again = Instant::now();
    a.revoke(WORKER, &a.token(WORKER).await).await;
    assert!(again.elapsed() < Duration::from_secs(1), "the dead node delays once: {:?}", again.elapsed());

    let b = there.start().await;
    for token in &tokens {
        assert_eq!(active(&b, &secret, token).await, Some(false));
    }
}

/// SIGSTOP is a node that hangs, a virtual machine that is moved: when it wakes, its lease is over before it answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoke_returns_beside_a_sleeping_node_and_that_one_never_says_active_when_it_wakes() {
    let (here, a, _, b, secret) = two().await;
    let token = a.token(WORKER).await;
    assert_eq!(active(&b, &secret, &token).await, Some(true));
    b.run.signal("STOP");
    let asleep = Instant::now();
    a.revoke(WORKER, &token).await;
    assert!(asleep.elapsed() < Duration::from_secs(5), "{:?}", asleep.elapsed());
    // A client that is switched off gets nothing from its memory either.
    here.apply(&EXAMPLE.replace("client_name = \"Orders sync\"", "disabled = true"));
    // These wait in its sockets, and are the first that it does when it wakes.
    let asking = (0..16).map(|_| active(&b, &secret, &token));
    let asking = futures_util::future::join_all(asking);
    let minting = (0..8).map(|_| b.post(TOKEN, Some(WORKER), &[("grant_type", "client_credentials")]));
    let minting = futures_util::future::join_all(minting);
    let waking = async {
        tokio::time::sleep(Duration::from_secs(6).saturating_sub(asleep.elapsed())).await;
        b.run.signal("CONT");
    };
    let (answers, tokens, ()) = tokio::join!(asking, minting, waking);
    assert!(answers.iter().all(|answer| *answer != Some(true)), "{answers:?}");
    assert!(tokens.iter().all(|answer| [401, 503].contains(&answer.status)), "{tokens:?}");
    let awake = Instant::now();
    let mut well = None;
    while awake.elapsed() < Duration::from_secs(3) {
        let answer = active(&b, &secret, &token).await;
        assert_ne!(answer, Some(true), "{:?} after it woke", awake.elapsed());
        if answer == Some(false) {
            well.get_or_insert(awake.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(well.is_some(), "it has a lease again and answers");
}

/// The same of a signing key: `keys revoke` is over when no node can say active any more, and not before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_revoke_waits_for_a_sleeping_node_and_that_one_never_says_active_when_it_wakes() {
    let (here, a, _, b, secret) = two().await;
    let token = a.token(WORKER).await;
    assert_eq!(active(&b, &secret, &token).await, Some(true));
    let kid = part(&token, 0)["kid"].as_str().unwrap().to_owned();
    b.run.signal("STOP");
    let asleep = Instant::now();
    let said = tokio::task::spawn_blocking(move || here.run(&["keys", "revoke", &kid, "--yes"])).await.unwrap();
    said.fine();
    assert!(asleep.elapsed() > Duration::from_secs(1), "nobody waited for its lease: {:?}", asleep.elapsed());
    assert_eq!(active(&a, &secret, &token).await, Some(false));
    let asking = (0..16).map(|_| active(&b, &secret, &token));
    let waking = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        b.run.signal("CONT");
    };
    let (answers, ()) = tokio::join!(futures_util::future::join_all(asking), waking);
    assert!(answers.iter().all(|answer| *answer != Some(true)), "{answers:?}");
    let mut answer = None;
    until("it has a lease again and answers", async || {
        answer = active(&b, &secret, &token).await;
        answer.is_some()
    })
    .await;
    assert_eq!(answer, Some(false));
}
