//! Master keys: several at once, the one that seals, sealing everything anew, and what a missing one says.

use std::process::Command;
use std::time::Duration;

use sealwright::app::{self, App};
use sealwright::clock::Clock;
use sealwright::config::Config;
use sealwright::keys::MasterKeys;
use sealwright::keys::master::{self, MAC_KEY};
use sealwright::secret::random;
use sealwright::store::{Db, StoreError, mac_keys, signing_keys};

use crate::keys::{active, listed, published, serving};
use crate::process::{Node, Process, Run, Said, run};
use crate::support::{Answer, EXAMPLE, Engine, INTROSPECT, MASTER_KEY, SECRET, TOKEN, both, rounds, until};

const NEW: &str = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff0f1e2d3c4b5a69788796a5b4c3d2e1f0";
const THIRD: &str = "3333333333333333333333333333333333333333333333333333333333333333";
const WORKER: (&str, &str) = ("orders-sync", SECRET);

fn id(key: &str) -> String {
    MasterKeys::parse(key).unwrap().ids()
}

/// The command with other master keys than the file's, the newest first.
fn with(node: &Node, keys: &[&str], arguments: &[&str]) -> Command {
    let mut command = node.command(arguments);
    command.env("SEALWRIGHT_MASTER_KEY__VALUE", keys.join(","));
    command
}

fn said(node: &Node, keys: &[&str], arguments: &[&str]) -> Said {
    run(with(node, keys, arguments), None)
}

async fn serve(node: &Node, keys: &[&str]) -> Process {
    Process::start(with(node, keys, &["serve"]), node.port, node.management).await
}

#[track_caller]
fn refused(said: &Said, parts: &[&str]) {
    assert_eq!((said.status, said.stdout.as_str()), (1, ""), "{said:?}");
    for part in parts {
        assert!(said.stderr.contains(part), "{part}: {said:?}");
    }
    for secret in [MASTER_KEY, NEW, THIRD] {
        assert!(!said.stderr.contains(secret), "{said:?}");
    }
}

pub async fn open(node: &Node) -> Db {
    use sealwright::store::Options;
    let location = sealwright::config::DatabaseUrl::parse(&node.place.url).unwrap();
    let options = Options { location, max_connections: 2, deadline: Duration::from_secs(20) };
    Db::open(options, Clock::system()).await.unwrap()
}

/// How many rows of any kind this master key seals.
async fn sealed_by(db: &Db, key: &str) -> i64 {
    let census = db.read(|conn| Box::pin(master::census(conn))).await.unwrap();
    census.get(&id(key)).map_or(0, |seals| seals.values().sum())
}

/// What a server does before it counts on a lease.
async fn confirm(db: &Db, key: &str) -> Result<(), StoreError> {
    let keys = MasterKeys::parse(key).unwrap();
    db.write(move |tx| Box::pin(async move { keys.sealing(tx).await.map(drop) })).await.map(drop)
}

/// Every sealed row opens with this key alone.
async fn opens_everything(db: &Db, key: &str) {
    let keys = MasterKeys::parse(key).unwrap();
    let macs = db.read(|conn| Box::pin(mac_keys::list(conn))).await.unwrap();
    let signing = db.read(|conn| Box::pin(signing_keys::list(conn))).await.unwrap();
    assert!(macs.len() + signing.len() >= 5);
    for row in macs {
        keys.open(MAC_KEY, &row.id, &row.sealed).unwrap();
    }
    for row in signing {
        let sealed = row.sealed.unwrap_or_else(|| panic!("{} has no private half", row.kid));
        keys.open(master::SIGNING_KEY, row.kid.as_bytes(), &sealed).unwrap();
    }
}

both! {
    async fn the_newest_master_key_seals_from_the_reseal_on_and_all_open(engine) {
        let node = Node::new(engine).await;
        node.apply(EXAMPLE);
        let mut server = node.start().await;
        let token = server.token(WORKER).await;
        assert_eq!(server.terminate(), 0);
        let db = open(&node).await;
        let rows = sealed_by(&db, MASTER_KEY).await;
        assert!(rows >= 5, "four signing keys and a MAC key: {rows}");

        // It is there, and does not seal yet: another server may not have it.
        let mut server = serve(&node, &[NEW, MASTER_KEY]).await;
        let check = said(&node, &[NEW, MASTER_KEY], &["check"]).fine();
        for line in [
            format!("master key {}: seals nothing; run `sealwright keys reseal`, and it seals everything", id(NEW)),
            format!("master key {}: seals 1 MAC key and 8 signing keys, and everything new", id(MASTER_KEY)),
        ] {
            assert!(check.stdout.lines().any(|told| told == line), "{line}: {check:?}");
        }
        let resealed = said(&node, &[NEW, MASTER_KEY], &["keys", "reseal"]).fine();
        assert_eq!(resealed.stdout, "sealed anew: 1 MAC key and 8 signing keys\n");
        assert!(resealed.stderr.contains(&format!("{} seals nothing any more", id(MASTER_KEY))), "{resealed:?}");
        assert_eq!((sealed_by(&db, NEW).await, sealed_by(&db, MASTER_KEY).await), (rows, 0));
        opens_everything(&db, NEW).await;
        let events = async |kind: &str, object: &str, actor: &str| {
            let of = format!("kind = '{kind}' AND object = '{object}' AND actor = '{actor}'");
            node.number(&format!("SELECT COUNT(*) FROM audit_events WHERE {of}")).await
        };
        assert_eq!(events("mac_key.made", "first", "system").await, 1);
        assert_eq!(events("master_key.turned", &id(NEW), "cli").await, 1);
        let check = said(&node, &[NEW, MASTER_KEY], &["check"]).fine();
        assert!(check.stdout.contains(&format!("master key {}: seals nothing; it can be removed", id(MASTER_KEY))));

        // Again: nothing is left to do.
        let again = said(&node, &[NEW, MASTER_KEY], &["keys", "reseal", "--json"]).fine();
        assert_eq!(again.json(), serde_json::json!({ "sealed_by": id(NEW), "rewritten": {}, "left": [] }));
        assert_eq!(events("master_key.turned", &id(NEW), "cli").await, 1, "nothing turned");

        // The server that ran all the while goes on, and the next one needs the old key no more.
        server.token(WORKER).await;
        assert_eq!(server.terminate(), 0);
        let server = serve(&node, &[NEW]).await;
        let answer = server.post("/oauth2/revoke", Some(WORKER), &[("token", &token)]).await;
        assert_eq!(answer.status, 200, "its key still verifies: {}", answer.text);
        server.token(WORKER).await;

        let wrong = said(&node, &[MASTER_KEY], &["serve"]);
        refused(&wrong, &["this is not the master key", &id(NEW), "1 MAC key and 8 signing keys", &id(MASTER_KEY)]);
    }

    async fn a_missing_master_key_names_itself_and_what_it_seals(engine) {
        let node = Node::new(engine).await;
        node.apply(EXAMPLE);
        let db = open(&node).await;
        // Broken off: the new key seals, and nothing is sealed anew yet.
        let keys = std::sync::Arc::new(MasterKeys::parse(&format!("{NEW} {MASTER_KEY}")).unwrap());
        assert_eq!(master::turn(&db, keys.clone()).await.unwrap(), master::Turned::From(id(MASTER_KEY)));
        for command in [&["serve"][..], &["check"], &["apply", "-"], &["keys", "reseal"]] {
            let said = said(&node, &[NEW], command);
            refused(&said, &["the master key", &id(MASTER_KEY), "is missing", "8 signing keys", "keys reseal"]);
        }
        // What is sealed from here on is sealed with the new one, by whoever has both, in whatever order.
        let both = MasterKeys::parse(&format!("{MASTER_KEY} {NEW}")).unwrap();
        let row = random().unwrap();
        let added = db.write(move |tx| {
            Box::pin(async move {
                let sealed = both.seal(tx, MAC_KEY, &row, &[7; 32]).await?;
                mac_keys::add(tx, row, &sealed).await
            })
        });
        assert!(added.await.unwrap().value);
        assert_eq!(sealed_by(&db, NEW).await, 1);
        assert!(confirm(&db, MASTER_KEY).await.unwrap_err().to_string().contains(&id(NEW)));

        said(&node, &[NEW, MASTER_KEY], &["keys", "reseal"]).fine();
        opens_everything(&db, NEW).await;
        // A reseal does all the others, and says which it left: one that is damaged, or stands in another's row.
        let rows = db.read(|conn| Box::pin(signing_keys::list(conn))).await.unwrap();
        let [moved, other] = ["published", "active"].map(|state| {
            &rows.iter().find(|row| row.alg == "ES256" && row.state == state).unwrap().kid
        });
        node.place.run(&format!("UPDATE signing_keys SET sealed = (SELECT sealed FROM signing_keys WHERE kid = '{other}') WHERE kid = '{moved}'")).await;
        let left = said(&node, &[MASTER_KEY, NEW], &["keys", "reseal"]);
        assert_eq!((left.status, left.stdout.as_str()), (1, "sealed anew: 1 MAC key and 7 signing keys\n"), "{left:?}");
        assert!(left.stderr.contains(moved.as_str()) && left.stderr.contains("damaged or moved"), "{left:?}");
    }

    async fn a_reseal_that_a_running_server_could_not_open_is_refused(engine) {
        let node = Node::new(engine).await;
        let mut server = node.start().await;
        let db = open(&node).await;
        let before = sealed_by(&db, MASTER_KEY).await;
        let lacking = said(&node, &[NEW, MASTER_KEY], &["keys", "reseal"]);
        refused(&lacking, &["nothing was changed", "1 running servers", &id(NEW)]);
        assert_eq!((sealed_by(&db, MASTER_KEY).await, sealed_by(&db, NEW).await), (before, 0));
        // One that crashed counts for no longer than its lease.
        server.kill9();
        until("its lease runs out", async || {
            said(&node, &[NEW, MASTER_KEY], &["keys", "reseal"]).status == 0
        })
        .await;
        opens_everything(&db, NEW).await;
    }

    /// Between its look at the database and its first lease no command sees which keys a server has.
    async fn a_server_that_starts_while_another_key_begins_to_seal_gets_no_lease(engine) {
        let node = Node::new(engine).await;
        node.apply(EXAMPLE);
        let config = Config::load(Some(&node.config), []).unwrap();
        let opened = app::open(&config, Clock::system(), false).await.unwrap();
        let keys = std::sync::Arc::new(MasterKeys::parse(&format!("{NEW} {MASTER_KEY}")).unwrap());
        assert_eq!(master::turn(&opened.db, keys).await.unwrap(), master::Turned::From(id(MASTER_KEY)));
        let refused = App::start(&config, opened).await.err().unwrap().to_string();
        assert!(refused.contains(&id(NEW)) && refused.contains("does not have it"), "{refused}");
    }

    /// What others signed with it is good: only here does it not sign.
    async fn i5_a_private_half_that_does_not_open_leaves_the_public_half_published(engine) {
        let (node, mut server, gateway) = serving(engine).await;
        let token = server.token(WORKER).await;
        let kid = listed(&node, "EdDSA", "active");
        assert_eq!(server.terminate(), 0);
        let other = listed(&node, "EdDSA", "published");
        node.place.run(&format!("UPDATE signing_keys SET sealed = (SELECT sealed FROM signing_keys WHERE kid = '{other}') WHERE kid = '{kid}'")).await;
        let server = node.start().await;
        assert!(published(&server).await.to_string().contains(&kid));
        assert!(active(&server, &gateway, &token).await);
        server.post(TOKEN, Some(WORKER), &[("grant_type", "client_credentials")]).await.assert_error(503, "temporarily_unavailable");
        node.run(&["keys", "rotate", "--alg", "EdDSA", "--now"]).fine();
        server.token(WORKER).await;
        assert!(active(&server, &gateway, &token).await);
    }

    async fn first_starts_with_different_master_keys_agree_on_one(engine) {
        let node = Node::new(engine).await;
        let db = open(&node).await;
        node.place.run("DELETE FROM signing_keys").await;
        let confirmed = [MASTER_KEY, NEW, THIRD].map(|key| confirm(&db, key));
        let confirmed = futures_util::future::join_all(confirmed).await;
        assert_eq!(confirmed.iter().filter(|confirmed| confirmed.is_ok()).count(), 1, "{confirmed:?}");
    }

    /// `kill -9` of the command between any two of its statements, and of the servers, while tokens are issued and new
    /// secrets are sealed: whatever is there in the end opens under the newest key alone.
    async fn reseal_under_load_survives_kill_9_and_leaves_nothing_under_the_old_key(engine) {
        let node = Node::new(engine).await;
        node.apply(EXAMPLE);
        let db = open(&node).await;
        // Enough for several pages.
        let old = MasterKeys::parse(MASTER_KEY).unwrap();
        let filled = db.write(move |tx| {
            Box::pin(async move {
                for _ in 0..120 {
                    let row = random().unwrap();
                    let sealed = old.seal(tx, MAC_KEY, &row, &[7; 32]).await?;
                    mac_keys::add(tx, row, &sealed).await?;
                }
                Ok(())
            })
        });
        filled.await.unwrap();
        let gateway = node.apply("[[client]]\nclient_id = \"gateway\"\ngrant_types = []\nserves = [\"https://api.example.com\"]\n");
        let gateway = gateway.stdout.trim().rsplit('\t').next().unwrap().to_owned();
        let mut keys = [MASTER_KEY, NEW];
        let (mut server, mut tokens) = (node.start().await, Vec::new());
        for round in 0..rounds(3) {
            keys.reverse();
            let [newest, oldest] = keys;
            server.kill9();
            server = serve(&node, &[newest, oldest]).await;
            let more = (engine == Engine::Postgres).then(|| node.beside());
            let beside = match &more {
                Some(more) => Some(serve(more, &[oldest, newest]).await),
                None => None,
            };
            // New secrets all the while, by a process that would rather seal with the old key.
            let sealing = async {
                let both = std::sync::Arc::new(MasterKeys::parse(&format!("{oldest} {newest}")).unwrap());
                for _ in 0..40 {
                    let (both, row) = (both.clone(), random().unwrap());
                    let added = db.write(move |tx| {
                        Box::pin(async move {
                            let sealed = both.seal(tx, MAC_KEY, &row, &[8; 32]).await?;
                            mac_keys::add(tx, row, &sealed).await
                        })
                    });
                    assert!(added.await.unwrap().value);
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
            };
            let resealing = async {
                loop {
                    let mut command = Run::spawn(with(&node, &[newest, oldest], &["keys", "reseal"]), None);
                    tokio::time::sleep(Duration::from_millis(u64::from(random::<1>().unwrap()[0]) / 2)).await;
                    // Most are broken off, and some come through, unless the crashed server still has a lease.
                    if !command.has_ended() && random::<1>().unwrap()[0] < 200 {
                        command.kill9();
                        continue;
                    }
                    if command.wait() == 0 {
                        return;
                    }
                    assert!(command.stderr().contains("running servers do not have"), "{}", command.stderr());
                }
            };
            let serving = async {
                let mut tokens = Vec::new();
                for at in 0..30 {
                    let server = if at % 2 == 0 { &server } else { beside.as_ref().unwrap_or(&server) };
                    // A lease that the machine was too slow to renew is 503, and not our matter.
                    let answer = server.post("/oauth2/token", Some(WORKER), &[("grant_type", "client_credentials")]).await;
                    assert!([200, 503].contains(&answer.status), "{}", answer.text);
                    tokens.extend(answer.json["access_token"].as_str().map(str::to_owned));
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                tokens
            };
            let ((), (), issued) = tokio::join!(sealing, resealing, serving);
            tokens.extend(issued);
            assert_eq!(sealed_by(&db, oldest).await, 0, "round {round}");
            opens_everything(&db, newest).await;
            drop(beside);
        }
        // The old one is removed: everything that was issued is good, and nothing needs it.
        server.kill9();
        let server = serve(&node, &[keys[0]]).await;
        assert!(!tokens.is_empty());
        for token in tokens.iter().rev().take(20) {
            let answer = server.post(INTROSPECT, Some(("gateway", &gateway)), &[("token", token)]).await;
            assert_eq!(answer.json["active"], true, "{}", answer.text);
        }
        refused(&said(&node, &[keys[1]], &["check"]), &["this is not the master key", &id(keys[0])]);
    }
}

/// A node whose lease ran out is not asked which keys it has. When it wakes, it has none of what it needs to sign, and
/// knows that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_a_node_that_slept_through_a_reseal_calls_no_good_token_dead() {
    let here = Node::new(Engine::Postgres).await;
    let gateway = here.apply(EXAMPLE).stdout.trim().rsplit('\t').next().unwrap().to_owned();
    let there = here.beside();
    let both = [NEW, MASTER_KEY];
    let (mut a, b) = (here.start().await, serve(&there, &both).await);
    a.run.signal("STOP");
    let resealed = async || said(&there, &both, &["keys", "reseal"]).status == 0;
    until("its lease runs out", resealed).await;
    // The second of them takes over a key that only the new master key has ever sealed.
    for _ in 0..2 {
        said(&there, &both, &["keys", "rotate", "--now"]).fine();
    }
    let token = b.token(WORKER).await;
    a.run.signal("CONT");
    let ask = async || a.post(INTROSPECT, Some(("edge-gateway", &gateway)), &[("token", &token)]).await;
    let set = async |server: &Process| {
        Answer::of(server.http.get(format!("{}/.well-known/jwks.json", server.url)).send().await.unwrap()).await
    };
    until("it knows the keys of now", async || set(&a).await.text == set(&b).await.text).await;
    for _ in 0..40 {
        assert_eq!(ask().await.status, 503);
        assert_eq!(a.post(TOKEN, Some(WORKER), &[("grant_type", "client_credentials")]).await.status, 503);
        let shown = set(&a).await;
        assert_eq!((shown.header("cache-control"), &shown.text), (Some("public, max-age=0"), &set(&b).await.text));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let ready = a.http.get(format!("http://127.0.0.1:{}/health/ready", here.management)).send().await.unwrap();
    assert_eq!(ready.status(), 503);
    assert!(a.run.stderr().contains(&format!("the master key {} seals this database", id(NEW))), "{}", a.run.stderr());
    // It follows what is taken back, so that nobody waits for it in vain.
    let kid = crate::support::part(&token, 0)["kid"].as_str().unwrap().to_owned();
    assert!(active(&b, &gateway, &token).await);
    said(&there, &both, &["keys", "revoke", &kid, "--yes"]).fine();
    assert!(!active(&b, &gateway, &token).await);
    a.kill9();
    let a = serve(&here, &both).await;
    assert!(!active(&a, &gateway, &token).await);
    assert!(active(&a, &gateway, &b.token(WORKER).await).await);
}

#[tokio::test]
async fn a_master_key_file_holds_one_key_a_line_the_newest_first() {
    let node = Node::new(Engine::Sqlite).await;
    let file = node.place.folder.join("keys");
    let text = std::fs::read_to_string(&node.config).unwrap();
    let text = text.replace(&format!("master_key.value = \"{MASTER_KEY}\""), &format!("master_key.file = {file:?}"));
    std::fs::write(&node.config, text).unwrap();
    let write = |text: &str| {
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    };
    write(&format!("{MASTER_KEY}\n"));
    node.apply(EXAMPLE);
    write(&format!("{NEW}\n\n{MASTER_KEY}\n"));
    assert!(node.run(&["keys", "reseal"]).fine().stdout.contains("8 signing keys"));
    write(NEW);
    node.start().await;
    write(&format!("{NEW}\n{}\n", &MASTER_KEY[1..]));
    refused(&node.run(&["serve"]), &["master_key.file: ", "is not a master key"]);
    write("\n");
    refused(&node.run(&["serve"]), &["master_key.file: ", "is not a master key"]);
}
