//! Keys rotate under load, and processes die between any two steps: no verifier that goes by `max-age` meets a good token
//! that it cannot check (I5, F-13).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use sealwright::clock::{Clock, Micros, SECOND};
use sealwright::config::{Config, Issuer};
use sealwright::keys::{JwkSet, Jws};
use sealwright::store::signing_keys;
use sealwright::wire::Algorithm;
use sqlx::Connection as _;

use crate::keys::{active, grow, hurry, is_settled, published};
use crate::master_keys::open;
use crate::process::{Node, Process};
use crate::support::{Answer, EXAMPLE, Engine, FORM, Place, SECRET, Server, TOKEN};
use crate::support::{basic, client, encode, part, rounds, until};

const CC: (&str, &str) = ("grant_type", "client_credentials");
const EDDSA: (&str, &str) = ("orders-sync", SECRET);
const RS256: (&str, &str) = ("rsa-sync", SECRET);
const JWKS: &str = "/.well-known/jwks.json";

/// Steps that more than one node made.
const TWICE: &str =
    "SELECT COUNT(*) - COUNT(DISTINCT object || kind) FROM audit_events WHERE kind LIKE 'signing_key.%'";

/// [`EXAMPLE`], and an API with its client whose tokens are signed by RS256.
fn apis() -> String {
    format!(
        "{EXAMPLE}\n\
         [[resource]]\nidentifier = \"https://rsa.example.com\"\naccess_token_signed_response_alg = \"RS256\"\n\
         scopes = {{ \"rsa:read\" = \"Read\" }}\n\
         [[client]]\nclient_id = \"rsa-sync\"\nclient_secret = \"{SECRET}\"\nscope = \"rsa:read\"\n"
    )
}

/// An answer, where the process lives long enough to give it.
async fn whole(request: reqwest::RequestBuilder) -> Option<Answer> {
    let response = request.send().await.ok()?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await.ok()?;
    let json = serde_json::from_str(&text).unwrap_or_default();
    Some(Answer { status, headers, text, json })
}

/// A verifier that asks for the keys when its copy has expired, and never before.
struct Verifier {
    http: reqwest::Client,
    urls: Vec<String>,
    clock: Clock,
    asked: AtomicUsize,
    copy: tokio::sync::Mutex<(JwkSet, Micros)>,
}

impl Verifier {
    fn new(urls: &[String], clock: &Clock) -> Self {
        let copy = tokio::sync::Mutex::new((JwkSet::default(), 0));
        Self { http: client(), urls: urls.to_vec(), clock: clock.clone(), asked: AtomicUsize::new(0), copy }
    }

    async fn check(&self, token: &str) -> Result<(), String> {
        let mut copy = self.copy.lock().await;
        while self.clock.now() >= copy.1 {
            // The nodes in turn; one that is down at this moment has a neighbour.
            let url = &self.urls[self.asked.fetch_add(1, Ordering::Relaxed) % self.urls.len()];
            let asked_at = self.clock.now();
            let Some(answer) = whole(self.http.get(format!("{url}{JWKS}"))).await else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            assert_eq!(answer.status, 200, "{}", answer.text);
            let max_age = answer.header("cache-control").unwrap().rsplit("max-age=").next().unwrap().to_owned();
            let max_age = max_age.parse::<Micros>().unwrap() * SECOND;
            *copy = (JwkSet::parse(answer.text.as_bytes()).unwrap(), asked_at + max_age);
            if max_age == 0 {
                break;
            }
        }
        let jws = Jws::parse(token, 16 * 1024).unwrap();
        let verified = copy.0.verify(&jws, Algorithm::ALL).map(drop);
        verified.map_err(|cause| format!("{cause}: {}, copy until {}", part(token, 0), copy.1))
    }
}

/// What goes on while keys rotate: tokens are got from every node and checked by every verifier, at once and until they
/// expire.
struct Load {
    clock: Clock,
    urls: Vec<String>,
    http: reqwest::Client,
    verifiers: Vec<Verifier>,
    over: AtomicBool,
    tokens: Mutex<Vec<(String, Micros)>>,
    /// By kid: when the first and the last token were issued, in seconds.
    signed: Mutex<HashMap<String, (i64, i64)>>,
    checked: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

impl Load {
    fn new(urls: Vec<String>, clock: &Clock) -> Arc<Self> {
        Arc::new(Self {
            clock: clock.clone(),
            http: client(),
            verifiers: (0..3).map(|_| Verifier::new(&urls, clock)).collect(),
            urls,
            over: AtomicBool::new(false),
            tokens: Mutex::default(),
            signed: Mutex::default(),
            checked: AtomicU64::new(0),
            wrong: Mutex::default(),
        })
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Gets tokens from one node; one that is down or has no lease gives none.
    async fn get(self: Arc<Self>, at: usize, who: (&'static str, &'static str)) {
        while !self.is_over() {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let url = format!("{}{TOKEN}", self.urls[at]);
            let request = self.http.post(url).header("content-type", FORM).header("authorization", basic(who.0, who.1));
            let Some(answer) = whole(request.body(encode(&[CC]))).await else { continue };
            if answer.status == 503 {
                continue;
            }
            let Some(token) = answer.json["access_token"].as_str() else {
                self.wrong.lock().unwrap().push(format!("{} {}", answer.status, answer.text));
                continue;
            };
            let claims = part(token, 1);
            let (iat, exp) = (claims["iat"].as_i64().unwrap(), claims["exp"].as_i64().unwrap());
            let kid = part(token, 0)["kid"].as_str().unwrap().to_owned();
            self.note(kid, iat);
            self.check(token, exp * SECOND).await;
            self.tokens.lock().unwrap().push((token.to_owned(), exp * SECOND));
        }
    }

    fn note(&self, kid: String, iat: i64) {
        let mut signed = self.signed.lock().unwrap();
        let span = signed.entry(kid).or_insert((iat, iat));
        *span = (span.0.min(iat), span.1.max(iat));
    }

    /// Checks what is still alive, again and again.
    async fn look_back(self: Arc<Self>) {
        while !self.is_over() {
            let now = self.clock.now();
            let alive = {
                let mut tokens = self.tokens.lock().unwrap();
                tokens.retain(|(_, exp)| now < *exp);
                // The oldest are nearest to their end.
                tokens.iter().take(20).chain(tokens.iter().rev().take(5)).cloned().collect::<Vec<_>>()
            };
            for (token, exp) in alive {
                self.check(&token, exp).await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn check(&self, token: &str, exp: Micros) {
        for verifier in &self.verifiers {
            let verified = verifier.check(token).await;
            self.checked.fetch_add(1, Ordering::Relaxed);
            // One that expired meanwhile is nobody's loss.
            if let Err(cause) = verified
                && self.clock.now() < exp
            {
                self.wrong.lock().unwrap().push(cause);
            }
        }
    }

    fn begin(self: &Arc<Self>) -> Vec<tokio::task::JoinHandle<()>> {
        let mut tasks = vec![tokio::spawn(self.clone().look_back())];
        for at in 0..self.urls.len() {
            tasks.extend([EDDSA, RS256].map(|who| tokio::spawn(self.clone().get(at, who))));
        }
        tasks
    }

    async fn end(&self, tasks: Vec<tokio::task::JoinHandle<()>>) {
        self.over.store(true, Ordering::SeqCst);
        join_all(tasks).await.into_iter().for_each(|ended| ended.unwrap());
        let wrong = self.wrong.lock().unwrap();
        assert!(
            wrong.is_empty(),
            "{} of {} failed: {:#?}",
            wrong.len(),
            self.checked.load(Ordering::Relaxed),
            &wrong[..wrong.len().min(5)]
        );
    }
}

/// What the rows say of keys that signed: known before, and silent after.
fn agree(load: &Load, rows: &[signing_keys::SigningKeyRow], known_after: Micros) {
    let signed = load.signed.lock().unwrap();
    for (kid, (first, last)) in &*signed {
        let row = rows.iter().find(|row| row.kid == *kid).unwrap();
        let times = &row.times;
        // `iat` is in whole seconds.
        let begun = times.published_at == times.activate_at || times.published_at + known_after <= (first + 1) * SECOND;
        assert!(begun, "{kid} signed at {first}, published at {}", times.published_at);
        if ["retiring", "retired"].contains(&row.state.as_str()) {
            assert!(
                last * SECOND <= times.retire_at + 5 * SECOND,
                "{kid} signed at {last}, retired at {}",
                times.retire_at
            );
        }
    }
}

/// The clock runs hundreds of times as fast; every step of it waits until the nodes have met their schedule.
async fn rotates(engine: Engine) {
    let wanted = i64::try_from(rounds(20)).unwrap();
    let place = Arc::new(Place::new(engine).await);
    let mut nodes = vec![Server::start(place.clone(), Clock::system(), false, hurry).await];
    if engine == Engine::Postgres {
        let issuer = nodes[0].issuer.clone();
        let same = move |config: &mut Config| {
            hurry(config);
            config.issuer = Some(Issuer::parse(&issuer).unwrap());
        };
        nodes.push(Server::start(place.clone(), nodes[0].clock.clone(), false, same).await);
    }
    nodes[0].apply(&apis()).await;
    let clock = nodes[0].clock.clone();
    let load = Load::new(nodes.iter().map(|node| node.url.clone()).collect(), &clock);
    let tasks = load.begin();
    let activated = "SELECT COUNT(*) FROM audit_events WHERE kind = 'signing_key.activated'";
    // RS256 and EdDSA, each as often.
    while place.number(activated).await < 2 * wanted {
        clock.advance(Duration::from_secs(130));
        for node in &nodes {
            until("the schedule is met", async || is_settled(node).await).await;
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    load.end(tasks).await;
    let rows = nodes[0].services.db.read(|conn| Box::pin(signing_keys::list(conn))).await.unwrap();
    agree(&load, &rows, 310 * SECOND);
    let keys = load.signed.lock().unwrap().len();
    eprintln!(
        "{engine:?}: {wanted} rotations of two algorithms, {} checks, {keys} keys seen to sign",
        load.checked.load(Ordering::Relaxed)
    );
    assert!(i64::try_from(keys).unwrap() >= wanted, "hardly a key was seen to sign: {keys}");
    assert_eq!(place.number(TWICE).await, 0, "a step was made twice");
    for state in ["active", "published"] {
        let count = format!("SELECT COUNT(*) FROM signing_keys WHERE state = '{state}'");
        assert_eq!(place.number(&count).await, 2, "{state}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_f13_rotation_under_load_fails_no_good_token_sqlite() {
    Box::pin(rotates(Engine::Sqlite)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_f13_rotation_under_load_fails_no_good_token_two_nodes() {
    Box::pin(rotates(Engine::Postgres)).await;
}

/// A schedule of seconds: known after 7, signing for 8, tokens of 30.
fn hasty(node: &Node) {
    let text = std::fs::read_to_string(&node.config).unwrap();
    let text = text.replace("max_connections = 6,", "max_connections = 6, deadline_milliseconds = 1000,");
    let more = "keys = { jwks_max_age_seconds = 1, published_seconds = 7, active_seconds = 8, retiring_seconds = 46 }\n\
                tokens = { access_token_lifetime_seconds = 30, max_access_token_lifetime_seconds = 30, id_token_lifetime_seconds = 30 }\n";
    std::fs::write(&node.config, text + more).unwrap();
}

/// PostgreSQL: all are killed in the middle of a step, when the old key and the standby have passed on and the next one is
/// not there. Nothing of it stays.
async fn die_within_a_step(nodes: &[Node], processes: &mut [Process]) {
    let (place, lock) = (&nodes[0].place, nodes[0].port);
    let mut conn = sqlx::PgConnection::connect(&place.url).await.unwrap();
    let take = sqlx::AssertSqlSafe(format!("SELECT pg_advisory_lock({lock})"));
    sqlx::query(take).execute(&mut conn).await.unwrap();
    let hold = format!(
        "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         PERFORM pg_advisory_xact_lock({lock}); RETURN NEW; END $$; \
         CREATE TRIGGER hold BEFORE INSERT ON signing_keys FOR EACH ROW EXECUTE FUNCTION hold()"
    );
    place.run(&hold).await;
    let signs = "SELECT kid FROM signing_keys WHERE state = 'active' ORDER BY kid";
    let before = place.texts(signs).await;
    let waits = format!("SELECT COUNT(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = {lock} AND NOT granted");
    until("a step waits", async || place.number(&waits).await > 0).await;
    processes.iter_mut().for_each(Process::kill9);
    place.run("DROP TRIGGER hold ON signing_keys; DROP FUNCTION hold()").await;
    assert_eq!(place.texts(signs).await, before, "half of a step");
    for (process, node) in processes.iter_mut().zip(nodes) {
        *process = node.start().await;
    }
}

/// Processes of their own on a schedule of seconds: all of them are killed right after a step of each kind, and then one
/// at a random moment, again and again.
async fn dies(engine: Engine) {
    let mut nodes = vec![Node::new(engine).await];
    hasty(&nodes[0]);
    if engine == Engine::Postgres {
        nodes.push(nodes[0].beside());
        hasty(&nodes[1]);
    }
    let place = nodes[0].place.clone();
    nodes[0].apply(&apis().replace("access_token_lifetime = 300", "access_token_lifetime = 30"));
    // These have the schedule of the configuration; the ones before were made without it.
    nodes[0].run(&["keys", "rotate", "--now"]).fine();
    // No verifier has asked yet, so the first keys may sign at once.
    place.run("UPDATE signing_keys SET published_at = activate_at WHERE state = 'active'").await;
    let forced = place.number("SELECT COUNT(*) FROM audit_events WHERE kind = 'signing_key.activated'").await;
    let mut processes: Vec<Process> = Vec::new();
    for node in &nodes {
        processes.push(node.start().await);
    }
    let clock = Clock::system();
    let load = Load::new(processes.iter().map(|process| process.url.clone()).collect(), &clock);
    let tasks = load.begin();
    let events = async |kind: &str| {
        place.number(&format!("SELECT COUNT(*) FROM audit_events WHERE kind = 'signing_key.{kind}'")).await
    };
    // Each kind of step, and nothing of it lives until the next. What makes it due is done while nobody runs.
    for (kind, due) in [
        // Nobody has a token of the first keys.
        ("retired", "UPDATE signing_keys SET remove_at = 0 WHERE state = 'retiring'"),
        (
            "made",
            "UPDATE signing_keys SET state = 'revoked', sealed = NULL WHERE state = 'published' AND alg = 'EdDSA'",
        ),
        ("activated", ""),
    ] {
        processes.iter_mut().for_each(Process::kill9);
        if !due.is_empty() {
            place.run(due).await;
        }
        let before = events(kind).await;
        for (process, node) in processes.iter_mut().zip(&nodes) {
            *process = node.start().await;
        }
        until(kind, async || events(kind).await > before).await;
    }
    if engine == Engine::Postgres {
        die_within_a_step(&nodes, &mut processes).await;
    }
    let standby = "SELECT kid FROM signing_keys WHERE alg = 'EdDSA' AND state = 'published'";
    let standby = place.texts(standby).await.remove(0);
    let rounds = rounds(10);
    for round in 0..rounds {
        let pause: [u8; 2] = sealwright::secret::random().unwrap();
        tokio::time::sleep(Duration::from_millis(u64::from(u16::from_be_bytes(pause)) % 3_000)).await;
        let at = round % processes.len();
        processes[at].kill9();
        processes[at] = nodes[at].start().await;
    }
    // However the last one died, the schedule goes on.
    let before = events("activated").await;
    until("it goes on", async || events("activated").await > before + 1).await;
    until("what was published before a crash signs after it", async || {
        let signs =
            format!("SELECT COUNT(*) FROM signing_keys WHERE kid = '{standby}' AND state IN ('active', 'retiring')");
        place.number(&signs).await == 1
    })
    .await;
    load.end(tasks).await;
    let rows = open(&nodes[0]).await.read(|conn| Box::pin(signing_keys::list(conn))).await.unwrap();
    agree(&load, &rows, 7 * SECOND);
    eprintln!("{engine:?}: {rounds} kills, {} checks", load.checked.load(Ordering::Relaxed));
    assert!(before - forced >= i64::try_from(rounds / 10).unwrap(), "nothing happened between the kills");
    for (what, sql) in [
        (
            "a key signed before verifiers knew it",
            "SELECT COUNT(*) FROM signing_keys WHERE state IN ('active', 'retiring') AND activate_at <> published_at \
             AND activate_at < published_at + 7000000",
        ),
        (
            "a key is in its state without one event that says so",
            "SELECT COUNT(*) FROM signing_keys k WHERE k.state = 'retiring' AND (SELECT COUNT(*) FROM audit_events a \
             WHERE a.object = k.kid AND a.kind = 'signing_key.retiring') <> 1",
        ),
        ("a step was made twice", TWICE),
        (
            "an algorithm without one key that signs",
            "SELECT COUNT(*) FROM (SELECT alg FROM signing_keys GROUP BY alg \
             HAVING SUM(CASE WHEN state = 'active' THEN 1 ELSE 0 END) <> 1) AS odd",
        ),
    ] {
        assert_eq!(place.number(sql).await, 0, "{what}");
    }
}

/// Of two nodes the eldest makes every step, under its lease; when it is gone, the other does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_makes_the_steps_and_another_where_it_is_gone() {
    const WENT_ON: &str = "the signing keys' schedule went on";
    let first = Node::new(Engine::Postgres).await;
    let second = first.beside();
    hasty(&first);
    hasty(&second);
    first.apply(&apis().replace("access_token_lifetime = 300", "access_token_lifetime = 30"));
    first.run(&["keys", "rotate", "--now"]).fine();
    let mut eldest = first.start().await;
    let younger = second.start().await;
    let events = "SELECT COUNT(*) FROM audit_events WHERE kind = 'signing_key.activated'";
    let made = first.place.number(events).await;
    until("two rotations", async || first.place.number(events).await >= made + 4).await;
    assert!(eldest.run.stderr().contains(WENT_ON));
    assert!(!younger.run.stderr().contains(WENT_ON), "{}", younger.run.stderr());
    eldest.kill9();
    until("the younger goes on", async || younger.run.stderr().contains(WENT_ON)).await;
    assert_eq!(first.place.number(TWICE).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_f13_kill_9_during_rotation_fails_no_good_token_sqlite() {
    Box::pin(dies(Engine::Sqlite)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_f13_kill_9_during_rotation_fails_no_good_token_two_processes() {
    Box::pin(dies(Engine::Postgres)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_the_active_key_is_revoked_under_load_sqlite() {
    Box::pin(revoked(Engine::Sqlite)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_the_active_key_is_revoked_under_load_on_two_processes() {
    Box::pin(revoked(Engine::Postgres)).await;
}

/// The key that signs is revoked while every process signs with it.
async fn revoked(engine: Engine) {
    let here = Node::new(engine).await;
    let gateway = here.apply(EXAMPLE).stdout.trim().rsplit('\t').next().unwrap().to_owned();
    grow(&here).await;
    let mut processes = vec![here.start().await];
    if engine == Engine::Postgres {
        processes.push(here.beside().start().await);
    }
    let clock = Clock::system();
    let urls: Vec<String> = processes.iter().map(|process| process.url.clone()).collect();
    let verifier = Verifier::new(&urls, &clock);
    for _ in 0..rounds(3) {
        // Its copy is good for five minutes: of the standby it knows by that alone.
        verifier.copy.lock().await.1 = 0;
        let leaked = part(&processes[0].token(EDDSA).await, 0)["kid"].as_str().unwrap().to_owned();
        verifier.check(&processes.last().unwrap().token(EDDSA).await).await.unwrap();
        let over = AtomicBool::new(false);
        let signing = async |process: &Process| {
            let mut tokens = Vec::new();
            while !over.load(Ordering::SeqCst) {
                let answer = process.post(TOKEN, Some(EDDSA), &[CC]).await;
                tokens.extend(answer.json["access_token"].as_str().map(str::to_owned));
                // What they know by heart is no better.
                if let Some(token) = tokens.last().filter(|_| tokens.len().is_multiple_of(8)) {
                    active(process, &gateway, token).await;
                }
            }
            tokens
        };
        let revoking = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let (node, kid) = (here.clone(), leaked.clone());
            let said = tokio::task::spawn_blocking(move || node.run(&["keys", "revoke", &kid, "--yes"])).await.unwrap();
            said.fine();
            let mut after = Vec::new();
            for process in &processes {
                assert!(!published(process).await.to_string().contains(&leaked), "the JWKS still has it");
                after.push(process.token(EDDSA).await);
            }
            over.store(true, Ordering::SeqCst);
            after
        };
        let (signed, after) = tokio::join!(join_all(processes.iter().map(signing)), revoking);
        let (dead, good): (Vec<_>, Vec<_>) =
            signed.into_iter().flatten().partition(|token| part(token, 0)["kid"] == leaked.as_str());
        assert!(!dead.is_empty());
        for token in &dead {
            for process in &processes {
                assert!(!active(process, &gateway, token).await, "signed by the leaked key, and active");
            }
        }
        for token in good.iter().chain(&after) {
            assert_ne!(part(token, 0)["kid"], leaked.as_str());
            verifier.check(token).await.unwrap();
        }
        for process in &processes {
            assert!(active(process, &gateway, after.last().unwrap()).await);
        }
        // The next round's standby is known as well.
        grow(&here).await;
    }
}
