//! What ends with a signing key, and what stays: signatures that wait while it is revoked, its row, its private half in
//! the database and in memory, and the line in the log when a step of the schedule is late.

use std::io::BufRead as _;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sealwright::audit::Actor;
use sealwright::keys::MasterKeys;
use sealwright::keys::master::SIGNING_KEY;
use sealwright::secret::sha256;
use sealwright::store::StoreError;
use sealwright::wire::Algorithm;
use tokio::sync::oneshot;

use crate::browser::Browser;
use crate::codes::{Granted, Scene, WEB, redeeming};
use crate::keys::{active, advance, grow, hurried, is_active, is_settled, listed, published, serving};
use crate::people::{ADA, PEOPLE, tokens_with};
use crate::process::Node;
use crate::support::{Answer, EXAMPLE, Engine, MASTER_KEY, SECRET, Server, TOKEN, both, part, until};

const WORKER: (&str, &str) = ("orders-sync", SECRET);
const DAY: u64 = 86_400;

/// A test of its own runtime, with one thread for what blocks: whoever has that keeps every slow signature waiting.
fn with_one_signing_thread(test: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).max_blocking_threads(1).enable_all().build().unwrap().block_on(test);
}

/// The answer to `request` whose RS256 signature waited while the key of `algorithm` was revoked, and that one's `kid`.
async fn revoked_while_it_waits(
    server: &Server,
    algorithm: Algorithm,
    request: impl Future<Output = Answer>,
) -> (Answer, String) {
    let services = &server.services;
    let signer = services.keys.ring().active(Algorithm::Rs256).unwrap().clone();
    let leaked = services.keys.ring().active(algorithm).unwrap().kid().to_owned();
    let (release, held) = mpsc::channel::<()>();
    let (begun, begins) = oneshot::channel();
    let holding = tokio::task::spawn_blocking(move || {
        begun.send(()).unwrap();
        held.recv().unwrap();
    });
    begins.await.unwrap();
    let before = Arc::strong_count(&signer);
    let mut request = std::pin::pin!(request);
    let early = tokio::select! {
        answer = &mut request => Some(answer),
        () = until("the request has chosen its key", async || Arc::strong_count(&signer) > before) => None,
    };
    if early.is_none() {
        // As a command of another process does it; making the next key would need the thread that is held.
        let revoke = format!("UPDATE signing_keys SET state = 'revoked', sealed = NULL WHERE kid = '{leaked}'");
        server.place.run(&revoke).await;
        let standby =
            format!("UPDATE signing_keys SET state = 'active' WHERE state = 'published' AND alg = '{algorithm}'");
        server.place.run(&standby).await;
        let keys = services.clone();
        services.db.read(move |conn| Box::pin(async move { keys.keys.reload(conn).await })).await.unwrap();
    }
    release.send(()).unwrap();
    let answer = match early {
        Some(answer) => answer,
        None => request.await,
    };
    holding.await.unwrap();
    (answer, leaked)
}

/// Tries again where a busy machine lost its lease: then nothing is answered.
async fn until_answered(mut attempt: impl AsyncFnMut() -> (Answer, String)) -> (Answer, String) {
    loop {
        let (answer, leaked) = attempt().await;
        if answer.status != 503 {
            assert_eq!(answer.status, 200, "{}", answer.text);
            return (answer, leaked);
        }
    }
}

#[track_caller]
fn signed_by_another(token: &str, algorithm: Algorithm, leaked: &str) {
    let header = part(token, 0);
    assert_eq!(header["alg"], algorithm.as_str());
    assert_ne!(header["kid"], leaked, "signed by a key that was revoked before the answer");
}

#[test]
fn what_a_key_signed_that_was_revoked_meanwhile_does_not_leave_access_tokens() {
    with_one_signing_thread(async {
        let (answer, leaked) = until_answered(async || {
            let server = Server::empty(Engine::Sqlite).await;
            server.apply(&EXAMPLE.replace("response_alg = \"EdDSA\"", "response_alg = \"RS256\"")).await;
            let form = [("grant_type", "client_credentials")];
            // An imported secret is hashed once, and known then: that, too, would wait.
            until("a token", async || server.post(TOKEN, Some(WORKER), &form).await.status == 200).await;
            revoked_while_it_waits(&server, Algorithm::Rs256, server.post(TOKEN, Some(WORKER), &form)).await
        })
        .await;
        signed_by_another(answer.json["access_token"].as_str().unwrap(), Algorithm::Rs256, &leaked);
    });
}

#[test]
fn what_a_key_signed_that_was_revoked_meanwhile_does_not_leave_id_tokens() {
    with_one_signing_thread(async {
        let (answer, leaked) = until_answered(async || redeemed_while_it_waits(Algorithm::Rs256).await).await;
        signed_by_another(answer.json["id_token"].as_str().unwrap(), Algorithm::Rs256, &leaked);
    });
}

/// A code is redeemed, and the key of `algorithm` is revoked while the ID token waits.
async fn redeemed_while_it_waits(algorithm: Algorithm) -> (Answer, String) {
    let scene = Scene::new(Engine::Sqlite).await;
    scene.tokens(Granted::default()).await;
    let code = scene.code(Granted { scope: "openid orders:read", ..Granted::default() }).await;
    revoked_while_it_waits(&scene.server, algorithm, scene.redeem(WEB, &redeeming(&code))).await
}

/// The access token was signed, and does not leave either; the ID token is that of the new one.
#[test]
fn what_a_key_signed_that_was_revoked_meanwhile_does_not_leave_beside_an_id_token_that_waits() {
    with_one_signing_thread(async {
        let (answer, leaked) = until_answered(async || redeemed_while_it_waits(Algorithm::EdDsa).await).await;
        let (token, id_token) =
            (answer.json["access_token"].as_str().unwrap(), answer.json["id_token"].as_str().unwrap());
        signed_by_another(token, Algorithm::EdDsa, &leaked);
        let hash = BASE64_URL_SAFE_NO_PAD.encode(&sha256(token.as_bytes())[..16]);
        assert_eq!(part(id_token, 1)["at_hash"], hash.as_str());
    });
}

#[test]
fn what_a_key_signed_that_was_revoked_meanwhile_does_not_leave_userinfo() {
    with_one_signing_thread(async {
        let (answer, leaked) = until_answered(async || {
            let server = Server::empty(Engine::Sqlite).await;
            server
                .apply(
                    &PEOPLE.replace(
                        "userinfo_signed_response_alg = \"ES256\"",
                        "userinfo_signed_response_alg = \"RS256\"",
                    ),
                )
                .await;
            let native = [("client_id", "app"), ("redirect_uri", "http://127.0.0.1:4567/cb")];
            let tokens = tokens_with(&server, &mut Browser::new(&server), ADA, ("openid profile", &native)).await;
            let asking = server.http.get(format!("{}/userinfo", server.url));
            let asking = asking.bearer_auth(tokens["access_token"].as_str().unwrap()).send();
            revoked_while_it_waits(&server, Algorithm::Rs256, async { Answer::of(asking.await.unwrap()).await }).await
        })
        .await;
        signed_by_another(&answer.text, Algorithm::Rs256, &leaked);
    });
}

async fn states(server: &Server, kid: &str) -> Vec<String> {
    server.place.texts(&format!("SELECT state FROM signing_keys WHERE kid = '{kid}'")).await
}

both! {
    async fn a_retired_key_is_listed_for_ninety_days_and_a_revoked_one_for_ever(engine) {
        let (server, gateway) = hurried(engine).await;
        let services = &server.services;
        let first = services.keys.ring().active(Algorithm::EdDsa).unwrap().kid().to_owned();
        advance(&server, 1_010).await;
        advance(&server, 620).await;
        assert_eq!(states(&server, &first).await, ["retired"]);
        let leaked = services.keys.ring().active(Algorithm::EdDsa).unwrap().kid().to_owned();
        let revoked = services.keys.revoke(&services.db, Algorithm::EdDsa, &leaked, Actor::system()).await.unwrap();
        revoked.value.unwrap();
        let swept = async || sealwright::jobs::sweep_once(services).await.is_ok();
        advance(&server, 89 * DAY).await;
        until("swept", swept).await;
        assert_eq!(states(&server, &first).await, ["retired"]);
        advance(&server, 2 * DAY).await;
        until("swept", swept).await;
        assert!(states(&server, &first).await.is_empty());
        assert_eq!(states(&server, &leaked).await, ["revoked"]);
        // What is in use is no history, however old.
        for state in ["active", "published"] {
            let count = format!("SELECT COUNT(*) FROM signing_keys WHERE state = '{state}'");
            assert_eq!(server.place.number(&count).await, 2, "{state}");
        }
        // Its events tell of it for as long as there are any.
        let events = format!("SELECT COUNT(*) FROM audit_events WHERE object = '{first}'");
        assert_eq!(server.place.number(&events).await, 3);
        let mut token = String::new();
        until("a token", async || {
            let answer = server.post(TOKEN, Some(WORKER), &[("grant_type", "client_credentials")]).await;
            answer.json["access_token"].as_str().unwrap_or_default().clone_into(&mut token);
            answer.status == 200
        }).await;
        assert!(is_active(&server, &gateway, &token).await);
    }

    /// The private half of a key that signs no more is gone, so nothing that is history needs a master key; and each
    /// step that a command makes has its event.
    async fn a_key_that_signs_no_more_has_no_private_half(engine) {
        let node = Node::new(engine).await;
        node.apply(EXAMPLE);
        let halves = async |state: &str| {
            let of = format!("FROM signing_keys WHERE state = '{state}'");
            (node.number(&format!("SELECT COUNT(*) {of}")).await, node.number(&format!("SELECT COUNT(sealed) {of}")).await)
        };
        node.run(&["keys", "rotate", "--now"]).fine();
        // RS256 and EdDSA are configured, and there are ES256 and PS256.
        assert_eq!([halves("retiring").await, halves("active").await, halves("published").await], [(2, 0), (4, 4), (4, 4)]);
        node.run(&["keys", "retire", &listed(&node, "EdDSA", "retiring"), "--yes"]).fine();
        node.run(&["keys", "revoke", &listed(&node, "EdDSA", "active"), "--yes"]).fine();
        assert_eq!((halves("retired").await, halves("revoked").await), ((1, 0), (1, 0)));
        let check = node.run(&["check"]).fine();
        assert!(check.stdout.contains("seals 8 signing keys,"), "{check:?}");
        for (kind, wanted) in [("made", 3), ("activated", 3), ("retiring", 2), ("retired", 1), ("revoked", 1)] {
            let sql = format!("SELECT COUNT(*) FROM audit_events WHERE kind = 'signing_key.{kind}' AND actor = 'cli'");
            assert_eq!(node.number(&sql).await, wanted, "{kind}");
        }
    }

    /// A key that signs no more may leak, too; and what a command foretells names APIs and applications.
    async fn keys_revoke_takes_back_a_retiring_key_and_moves_no_other(engine) {
        let (node, server, gateway) = serving(engine).await;
        node.apply(&format!(
            "{EXAMPLE}\n[[client]]\nclient_id = \"shop\"\ngrant_types = [\"authorization_code\"]\nscope = \"openid\"\n\
             client_secret = \"{SECRET}\"\nredirect_uris = [\"https://shop.example.com/callback\"]\n"
        ));
        let token = server.token(WORKER).await;
        let leaked = part(&token, 0)["kid"].as_str().unwrap().to_owned();
        grow(&node).await;
        node.run(&["keys", "rotate", "--alg", "EdDSA"]).fine();
        let (signs, next) = (listed(&node, "EdDSA", "active"), listed(&node, "EdDSA", "published"));
        assert!(active(&server, &gateway, &token).await);
        let said = node.run(&["keys", "revoke", &leaked, "--yes"]).fine();
        assert!(said.stderr.contains("https://api.example.com") && !said.stderr.contains("signs instead"), "{said:?}");
        // What `shop` gets for the userinfo endpoint is signed by this key, and checked by us.
        for told in [format!("signed with EdDSA: {}/userinfo, https://api.example.com.", node.issuer), "signed with EdDSA: orders-sync, shop.".to_owned()] {
            assert!(said.stderr.contains(&told), "{told}: {said:?}");
        }
        assert!(!active(&server, &gateway, &token).await);
        assert!(!published(&server).await.to_string().contains(&leaked));
        assert_eq!((listed(&node, "EdDSA", "active"), listed(&node, "EdDSA", "published")), (signs, next));
        let told = node.run(&["keys", "revoke", &listed(&node, "RS256", "active")]);
        assert_eq!(told.status, 2);
        assert!(told.stderr.contains("APIs whose access tokens are signed with RS256: none."), "{told:?}");
        assert!(told.stderr.contains("ID tokens or userinfo signed with RS256: shop."), "{told:?}");
        // True for what a thief signs, too.
        assert!(told.stderr.contains("what a thief signs with it for as long as they keep it"), "{told:?}");
    }

    /// A leaked key is taken back also where nobody can tell whom that hits.
    async fn keys_revoke_does_not_rest_on_what_it_foretells(engine) {
        let node = Node::new(engine).await;
        node.apply(EXAMPLE);
        let revoke = || {
            let kid = listed(&node, "EdDSA", "active");
            let said = node.run(&["keys", "revoke", &kid, "--yes"]).fine();
            assert_ne!(listed(&node, "EdDSA", "active"), kid);
            said.stderr
        };
        node.place.run("UPDATE clients SET metadata = '{\"grant_types\": [\"of-tomorrow\"]}' WHERE client_id = 'edge-gateway'").await;
        let said = revoke();
        assert!(said.contains("cannot read, and may be among them: edge-gateway."), "{said}");
        assert!(said.contains("signed with EdDSA: orders-sync.") && !said.contains("more of both"), "{said}");
        node.place.run("ALTER TABLE clients RENAME TO hidden").await;
        let said = revoke();
        assert!(said.contains("https://api.example.com") && said.contains("There may be more of both: "), "{said}");
    }
}

const EMPTY: [u8; 8192] = [0; 8192];

/// How often `needle` stands in what a process may write of its memory.
fn in_memory(pid: u32, needle: &[u8]) -> usize {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut found = 0;
    for line in maps.lines() {
        let [range, rights, ..] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let (begin, end) = range.split_once('-').unwrap();
        let [begin, end] = [begin, end].map(|at| u64::from_str_radix(at, 16).unwrap());
        let mut part = vec![0; usize::try_from(end - begin).unwrap()];
        // Some ranges are the kernel's own.
        if rights.starts_with("rw") && memory.read_exact_at(&mut part, begin).is_ok() {
            let pages = (0..part.len()).step_by(4096).map(|at| &part[at..part.len().min(at + 4096 + needle.len() - 1)]);
            // Most of them are empty; the last bytes of each are the next one's, too.
            for mut rest in pages.filter(|page| **page != EMPTY[..page.len()]) {
                while rest.skip_until(needle[0]).unwrap() > 0 {
                    found += usize::from(rest.starts_with(&needle[1..]));
                }
            }
        }
    }
    found
}

/// What is secret is wiped when nobody needs it any more: the text of the master key once it is read, in the buffers of
/// the configuration too, and the private half of a key once it was revoked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_that_nobody_needs_are_nowhere_in_a_servers_memory() {
    let node = Node::new(Engine::Sqlite).await;
    node.apply(EXAMPLE);
    let server = node.start().await;
    let token = server.token(WORKER).await;
    let pid = server.run.pid();
    assert!(in_memory(pid, node.issuer.as_bytes()) > 0, "memory can be read");
    assert_eq!(in_memory(pid, MASTER_KEY.as_bytes()), 0, "the master key's text");

    let kid = part(&token, 0)["kid"].as_str().unwrap().to_owned();
    let sealed = node.place.texts(&format!("SELECT hex(sealed) FROM signing_keys WHERE kid = '{kid}'")).await.remove(0);
    let byte = |at: usize| u8::from_str_radix(&sealed[at..at + 2], 16).unwrap();
    let sealed: Vec<u8> = (0..sealed.len()).step_by(2).map(byte).collect();
    let pkcs8 = MasterKeys::parse(MASTER_KEY).unwrap().open(SIGNING_KEY, kid.as_bytes(), &sealed).unwrap();
    // RFC 8410 §7: an octet string in an octet string.
    let at = pkcs8.windows(4).position(|window| window == [0x04, 0x22, 0x04, 0x20]).unwrap() + 4;
    let seed = &pkcs8[at..at + 32];
    assert!(in_memory(pid, seed) > 0, "the key that signs is in memory");
    // The documents that show the keys are rendered when somebody asks, and kept.
    published(&server).await;
    server.http.get(format!("{}/.well-known/openid-configuration", server.url)).send().await.unwrap();
    node.run(&["keys", "revoke", &kid, "--yes"]).fine();
    until("its private half is gone, whoever asks", async || in_memory(pid, seed) == 0).await;
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The log of this thread, while it lives.
struct Log {
    lines: Lines,
    _others: (tracing::Dispatch, tracing::subscriber::DefaultGuard),
}

impl Log {
    fn of_this_thread() -> Self {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
        // tracing-core 0.1.36 asks no other thread's log whether a line is wanted while there is one log in all: a test
        // beside this one that came to the line first would switch it off for both. So there are two.
        let another = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::new());
        Self { lines, _others: (another, tracing::subscriber::set_default(log)) }
    }

    /// The lines that tell of a late schedule.
    fn late(&self) -> Vec<serde_json::Value> {
        let text = String::from_utf8(self.lines.0.lock().unwrap().clone()).unwrap();
        let line = |line: &str| -> serde_json::Value { serde_json::from_str(line).unwrap() };
        let late = |line: &serde_json::Value| line["fields"]["message"] == "the signing keys' schedule is late";
        text.lines().map(line).filter(late).collect()
    }
}

/// Waits until the metric says that the schedule is late by so much.
async fn is_late(server: &Server, seconds: f64) {
    until("it is late", async || {
        let metrics =
            server.http.get(format!("{}/metrics", server.management)).send().await.unwrap().text().await.unwrap();
        let line = metrics.lines().find_map(|line| line.strip_prefix("sealwright_signing_key_late_seconds ")).unwrap();
        line.parse::<f64>().unwrap() >= seconds
    })
    .await;
}

/// On one thread, so that the log of this test is its own.
#[tokio::test]
async fn a_step_that_is_late_is_told_in_the_log_each_minute() {
    let log = Log::of_this_thread();
    let (server, _) = hurried(Engine::Sqlite).await;
    server
        .place
        .run("CREATE TRIGGER stuck BEFORE INSERT ON signing_keys BEGIN SELECT RAISE(ABORT, 'stuck'); END")
        .await;
    server.clock.advance(Duration::from_secs(1_001));
    is_late(&server, 0.01).await;
    assert!(log.late().is_empty(), "due is not late");
    for (minutes, lines) in [(1, 1), (2, 2)] {
        server.clock.advance(Duration::from_secs(61));
        is_late(&server, 61.0 * f64::from(minutes)).await;
        until("it is told", async || log.late().len() >= lines).await;
    }
    let told_of = log.late();
    assert_eq!(told_of[0]["level"], "WARN");
    let steps = told_of[0]["fields"]["steps"].as_str().unwrap();
    assert!(steps.contains("EdDSA: activate") && steps.contains("RS256: activate"), "{steps}");
    let seconds: Vec<_> = told_of.iter().map(|line| line["fields"]["seconds"].as_i64().unwrap()).collect();
    assert!(seconds[0] > 60 && seconds.windows(2).all(|pair| pair[1] >= pair[0] + 60), "{seconds:?}");
}

/// Somebody else writes for long, so the step neither fails nor ends.
#[tokio::test]
async fn a_step_that_hangs_is_told_as_late() {
    let log = Log::of_this_thread();
    let (server, _) = hurried(Engine::Sqlite).await;
    let (release, held) = oneshot::channel::<()>();
    let db = server.services.db.clone();
    let holding = tokio::spawn(async move {
        let until_released = async move { held.await.map_err(|gone| StoreError::Unfit(gone.to_string())) };
        db.write_within(Duration::from_mins(1), |_| Box::pin(until_released)).await
    });
    server.clock.advance(Duration::from_secs(1_001));
    is_late(&server, 0.01).await;
    server.clock.advance(Duration::from_secs(61));
    is_late(&server, 61.0).await;
    until("it is told", async || !log.late().is_empty()).await;
    release.send(()).unwrap();
    holding.await.unwrap().unwrap();
    until("it is made", async || is_settled(&server).await).await;
}
