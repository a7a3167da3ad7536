//! `kill -9` under load: whatever was acknowledged is there after the next start, which needs nobody's help
//! (reliability.md I1–I3, I6, F-02).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::iter;

use crate::process::{Node, Process, Run};
use crate::replay::{Signer, is_refused_as_used, presenting};
use crate::support::{Answer, Engine, INTROSPECT, REVOKE, TOKEN, both, part, rounds};

const SECRET: &str = "imported-secret-of-at-least-32-characters";
const WORKER: (&str, &str) = ("worker", SECRET);
const GATEWAY: (&str, &str) = ("gateway", SECRET);
const CREDENTIALS: [(&str, &str); 1] = [("grant_type", "client_credentials")];

/// Tokens live an hour: the long run must not find them inactive because they have expired.
const SET_UP: &str = r#"
[[resource]]
identifier = "https://api.example.com"
scopes = { "orders:read" = "Read orders" }
access_token_lifetime = 3600

[[client]]
client_id = "worker"
client_secret = "imported-secret-of-at-least-32-characters"
scope = "orders:read"

[[client]]
client_id = "gateway"
client_secret = "imported-secret-of-at-least-32-characters"
grant_types = []
serves = ["https://api.example.com"]
"#;

/// What the server, or `apply`, has said was done.
#[derive(Default, Clone)]
struct Ledger {
    /// Id and generated secret of clients that were applied.
    clients: Vec<(String, String)>,
    /// Tokens whose revocation was answered 200.
    revoked: Vec<String>,
    /// Tokens that nobody revoked.
    alive: Vec<String>,
    /// Assertions that were answered with a token.
    burnt: Vec<String>,
    /// Answers that nobody should get from a healthy server.
    odd: Vec<String>,
}

impl Ledger {
    fn extend(&mut self, more: Self) {
        self.clients.extend(more.clients);
        self.revoked.extend(more.revoked);
        self.alive.extend(more.alive);
        self.burnt.extend(more.burnt);
        self.odd.extend(more.odd);
    }
}

/// One round's load: it goes on until the server is gone.
struct Load {
    node: Node,
    signer: Arc<Signer>,
    server: Process,
    over: AtomicBool,
    ledger: Mutex<Ledger>,
}

impl Load {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    fn note(&self, what: impl FnOnce(&mut Ledger)) {
        what(&mut self.ledger.lock().unwrap());
    }

    /// `Some` for an answer of 200. A server that is gone ends the work.
    fn well(&self, answer: reqwest::Result<Answer>) -> Option<Answer> {
        match answer {
            Ok(answer) if answer.status == 200 => Some(answer),
            Ok(answer) => {
                self.note(|ledger| ledger.odd.push(format!("{} {}", answer.status, answer.text)));
                None
            }
            Err(_) => None,
        }
    }

    async fn assert(&self) {
        while !self.is_over() {
            let assertion = self.signer.assertion(&self.node.issuer);
            if self.well(self.server.try_post(TOKEN, None, &presenting(&assertion)).await).is_some() {
                self.note(|ledger| ledger.burnt.push(assertion));
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }

    async fn revoke(&self) {
        while !self.is_over() {
            let Some(answer) = self.well(self.server.try_post(TOKEN, Some(WORKER), &CREDENTIALS).await) else {
                continue;
            };
            let token = answer.json["access_token"].as_str().unwrap().to_owned();
            if self.well(self.server.try_post(REVOKE, Some(WORKER), &[("token", &token)]).await).is_some() {
                self.note(|ledger| ledger.revoked.push(token));
            }
        }
    }

    async fn keep(&self) {
        while !self.is_over() {
            if let Some(answer) = self.well(self.server.try_post(TOKEN, Some(WORKER), &CREDENTIALS).await) {
                let token = answer.json["access_token"].as_str().unwrap().to_owned();
                self.note(|ledger| ledger.alive.push(token));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A new client each time. Its secret on stdout is the acknowledgement, whatever happens to the command after it.
    async fn apply(&self, round: usize) {
        for at in 0.. {
            if self.is_over() {
                return;
            }
            let text = format!("[[client]]\nclient_id = \"new-{round}-{at}\"\nscope = \"orders:read\"\n");
            let mut run = Run::spawn(self.node.command(&["apply", "-"]), Some(&text));
            while !run.has_ended() {
                if self.is_over() {
                    run.kill9();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            for line in run.stdout().split_inclusive('\n').filter(|line| line.ends_with('\n')) {
                let [id, _, secret] = line.trim_end().split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
                self.note(|ledger| ledger.clients.push((id.to_owned(), secret.to_owned())));
            }
            if run.wait() != 0 && !self.is_over() {
                self.note(|ledger| ledger.odd.push(format!("apply: {}", run.stderr())));
            }
        }
    }
}

/// Everything in `ledger` is so at `server`.
async fn holds(server: &Process, ledger: &Ledger) {
    let active = async |token: &str| {
        let answer = server.post(INTROSPECT, Some(GATEWAY), &[("token", token)]).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json["active"].as_bool().unwrap()
    };
    iter(&ledger.clients)
        .for_each_concurrent(8, async |(id, secret)| {
            let answer = server.post(TOKEN, Some((id, secret)), &CREDENTIALS).await;
            assert_eq!(answer.status, 200, "the applied client {id} is lost: {}", answer.text);
        })
        .await;
    iter(&ledger.revoked)
        .for_each_concurrent(8, async |token| {
            assert!(!active(token).await, "a revocation is lost: {}", part(token, 1)["jti"]);
        })
        .await;
    iter(&ledger.alive)
        .for_each_concurrent(8, async |token| {
            assert!(active(token).await, "nobody revoked it: {}", part(token, 1)["jti"]);
        })
        .await;
    iter(&ledger.burnt)
        .for_each_concurrent(8, async |assertion| {
            let answer = server.post(TOKEN, None, &presenting(assertion)).await;
            assert!(is_refused_as_used(&answer), "a used assertion was not refused as used: {}", answer.text);
        })
        .await;
}

/// What holds of a sound database, whatever was acknowledged.
async fn is_sound(engine: Engine, node: &Node) {
    if engine == Engine::Sqlite {
        for check in ["pragma_integrity_check WHERE integrity_check <> 'ok'", "pragma_foreign_key_check"] {
            assert_eq!(node.number(&format!("SELECT COUNT(*) FROM {check}")).await, 0, "{check}");
        }
    }
    for (what, sql) in [
        ("the feed has a gap", "SELECT MAX(seq) - COUNT(DISTINCT seq) FROM changes"),
        ("the feed's head is not its last change", "SELECT seq - (SELECT MAX(seq) FROM changes) FROM change_head"),
        (
            "a revocation without exactly one audit event",
            "SELECT COUNT(*) FROM revocations r WHERE r.kind = 'token' \
             AND (SELECT COUNT(*) FROM audit_events a WHERE a.object = r.id AND a.kind LIKE '%revoked') <> 1",
        ),
        (
            "a client without an audit event",
            "SELECT COUNT(*) FROM clients c WHERE NOT EXISTS (SELECT 1 FROM audit_events a WHERE a.object = c.client_id)",
        ),
        (
            "a client without a credential",
            "SELECT COUNT(*) FROM clients c WHERE NOT EXISTS (SELECT 1 FROM credentials k WHERE k.client_id = c.client_id)",
        ),
    ] {
        assert_eq!(node.number(sql).await, 0, "{what}");
    }
}

/// Keeps about 500, from all over.
fn thin(list: &mut Vec<String>) {
    let step = list.len() / 500 + 1;
    *list = list.drain(..).step_by(step).collect();
}

fn random_millis(below: u64) -> Duration {
    Duration::from_millis(u64::from_be_bytes(sealwright::secret::random().unwrap()) % below)
}

/// Where the time of some rounds went, and the slowest of their restarts.
#[derive(Default)]
struct Took {
    load: Duration,
    restarts: Duration,
    checks: Duration,
    slowest: Duration,
}

/// One round: load, the crash, the next start, and what was acknowledged is there.
async fn round(
    (engine, node, signer): (Engine, &Node, &Arc<Signer>),
    round: usize,
    server: Process,
    took: &mut Took,
) -> (Process, Ledger) {
    // On PostgreSQL the crashed node's lease delays revocations by up to 3 s; some rounds outlive it.
    let (longest, revokers) = match engine {
        Engine::Sqlite => (1500, 2),
        Engine::Postgres => (3500, 4),
    };
    let begun = Instant::now();
    let load = Arc::new(Load {
        node: node.clone(),
        signer: signer.clone(),
        server,
        over: AtomicBool::new(false),
        ledger: Mutex::default(),
    });
    let mut work = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let load = load.clone();
        work.spawn(async move { load.assert().await });
    }
    for _ in 0..revokers {
        let load = load.clone();
        work.spawn(async move { load.revoke().await });
    }
    let (keeping, applying) = (load.clone(), load.clone());
    work.spawn(async move { keeping.keep().await });
    work.spawn(async move { applying.apply(round).await });
    tokio::time::sleep(Duration::from_millis(50) + random_millis(longest)).await;
    load.server.run.signal("KILL");
    load.over.store(true, Ordering::SeqCst);
    while let Some(ended) = work.join_next().await {
        ended.unwrap();
    }
    let Ok(mut load) = Arc::try_unwrap(load) else { panic!("a worker is left") };
    load.server.kill9();
    let ledger = load.ledger.into_inner().unwrap();
    assert!(ledger.odd.is_empty(), "round {round}: before the crash: {:?}\n{}", ledger.odd, load.server.run.stderr());
    let log = load.server.run.stderr();
    assert!(!log.contains("panicked") && !log.contains("\"level\":\"ERROR\""), "{log}");
    took.load += begun.elapsed();

    let server = node.start().await;
    took.restarts += server.took;
    took.slowest = took.slowest.max(server.took);
    let begun = Instant::now();
    is_sound(engine, node).await;
    holds(&server, &ledger).await;
    took.checks += begun.elapsed();
    (server, ledger)
}

/// A database as each lane begins with.
async fn set_up(engine: Engine) -> (Node, Arc<Signer>) {
    let node = Node::new(engine).await;
    let signer = Arc::new(Signer::new("signer"));
    node.apply(&(SET_UP.to_owned() + &signer.applied("orders:read")));
    (node, signer)
}

/// So many crashes of one database, one after the other. `lane` tells it from those that run beside it.
async fn crashes(engine: Engine, (node, signer): (Node, Arc<Signer>), rounds: usize, lane: usize) {
    let (mut all, mut took, begun) = (Ledger::default(), Took::default(), Instant::now());
    let mut server = node.start().await;
    for at in 0..rounds {
        let ledger;
        (server, ledger) = round((engine, &node, &signer), at, server, &mut took).await;
        all.extend(ledger);
        let done = at + 1;
        if done % 20 == 0 || done == rounds {
            let Took { load, restarts, checks, slowest } = &took;
            eprintln!(
                "{engine:?} {lane}: {done} of {rounds} crashes in {} s: load {} s, restarts {} s (slowest {} ms), checks {} s",
                begun.elapsed().as_secs(),
                load.as_secs(),
                restarts.as_secs(),
                slowest.as_millis(),
                checks.as_secs()
            );
        }
    }
    let counts = [all.clients.len(), all.revoked.len(), all.burnt.len(), all.alive.len()];
    // Nor did later crashes undo it. Of what there is most of, a part.
    thin(&mut all.burnt);
    thin(&mut all.alive);
    holds(&server, &all).await;
    is_sound(engine, &node).await;
    eprintln!("{engine:?} {lane}: clients, revocations, assertions, other tokens acknowledged: {counts:?}");
    assert!(counts.iter().all(|count| *count > 0), "the load did nothing: {counts:?}");
    assert!(took.slowest < Duration::from_secs(10), "{:?}", took.slowest);
}

both! {
    async fn nothing_acknowledged_is_lost_by_kill_9_under_load(engine) {
        // A long run takes several databases at once: a round waits more than it computes.
        let rounds = rounds(10);
        let lanes = if rounds < 40 { 1 } else { 4 };
        // One after the other: a command blocks this thread, and on PostgreSQL it waits for who migrates another database.
        let mut nodes = Vec::new();
        for _ in 0..lanes {
            nodes.push(set_up(engine).await);
        }
        let lane = |(lane, node)| crashes(engine, node, rounds / lanes, lane);
        futures_util::future::join_all(nodes.into_iter().enumerate().map(lane)).await;
    }
}
