//! Signing keys live by their schedule, and by hand (I5): what each step changes, what it does not, who is told.

use std::sync::Arc;
use std::time::Duration;

use sealwright::clock::{Clock, Micros, SECOND};
use sealwright::config::{ByAlgorithm, Config, Issuer};
use sealwright::keys::KeyState;
use sealwright::store::signing_keys::{self, SigningKeyRow};
use sealwright::wire::Algorithm;
use serde_json::Value;

use crate::process::{Node, Process, Said};
use crate::support::{Answer, EXAMPLE, Engine, INTROSPECT, Place, SECRET, Server, TOKEN, both, client, part, until};

const WORKER: (&str, &str) = ("orders-sync", SECRET);
const CC: (&str, &str) = ("grant_type", "client_credentials");
const JWKS: &str = "/.well-known/jwks.json";

/// Minutes instead of days; only one algorithm of which keys are made quickly beside those that are always there.
pub fn hurry(config: &mut Config) {
    config.keys.algorithms = vec![Algorithm::Rs256, Algorithm::EdDsa];
    config.keys.published_seconds = ByAlgorithm::all(400);
    config.keys.active_seconds = ByAlgorithm::all(1_000);
    config.tokens.max_access_token_lifetime_seconds = 300;
    config.keys.retiring_seconds = ByAlgorithm::all(config.keys_outlast_seconds());
}

/// A server at its first start, with its own keys and [`EXAMPLE`], and the gateway's secret.
pub async fn hurried(engine: Engine) -> (Server, String) {
    let place = Arc::new(Place::new(engine).await);
    let server = Server::start(place, Clock::system(), false, hurry).await;
    let gateway = server.apply(EXAMPLE).await[0].secret.expose().to_owned();
    (server, gateway)
}

async fn rows(server: &Server) -> Vec<SigningKeyRow> {
    server.services.db.read(|conn| Box::pin(signing_keys::list(conn))).await.unwrap()
}

/// The one Ed25519 key in this state.
async fn ed(server: &Server, state: KeyState) -> SigningKeyRow {
    let mut found = rows(server).await;
    found.retain(|row| row.alg == "EdDSA" && row.state == state.as_str());
    assert_eq!(found.len(), 1, "{state}");
    found.remove(0)
}

fn kids(jwks: &Value) -> Vec<String> {
    jwks["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

/// Whether nothing is due, and this node has heard of all that was done.
pub async fn is_settled(server: &Server) -> bool {
    let now = server.clock.now();
    let services = &server.services;
    let head = services.db.read(|conn| Box::pin(sealwright::store::feed::head(conn))).await.unwrap();
    services.node.applied() >= head && services.keys.next_steps().iter().all(|(_, due)| due.at > now)
}

pub async fn advance(server: &Server, seconds: u64) {
    server.clock.advance(Duration::from_secs(seconds));
    until("the schedule is met", async || is_settled(server).await).await;
}

/// A token, when the node has its lease on a busy machine.
async fn token(server: &Server) -> String {
    let mut found = String::new();
    until("a token", async || {
        let answer = server.post(TOKEN, Some(WORKER), &[CC]).await;
        answer.json["access_token"].as_str().unwrap_or_default().clone_into(&mut found);
        answer.status == 200
    })
    .await;
    found
}

pub async fn is_active(server: &Server, gateway: &str, token: &str) -> bool {
    let mut active = None;
    until("introspection answers", async || {
        active = server.introspect(gateway, token).await.json["active"].as_bool();
        active.is_some()
    })
    .await;
    active.unwrap()
}

fn kid(token: &str) -> String {
    part(token, 0)["kid"].as_str().unwrap().to_owned()
}

async fn metrics(server: &Server) -> String {
    server.http.get(format!("{}/metrics", server.management)).send().await.unwrap().text().await.unwrap()
}

both! {
    async fn i5_a_key_is_published_then_signs_then_stays_until_its_tokens_have_expired(engine) {
        let (server, gateway) = hurried(engine).await;
        let (first, standby) = (ed(&server, KeyState::Active).await, ed(&server, KeyState::Published).await);
        assert_eq!((first.times.activate_at, first.times.retire_at - first.times.activate_at), (first.times.published_at, 1_000 * SECOND));
        assert_eq!(standby.times.activate_at, first.times.retire_at, "the standby waits for its turn");
        let set = server.get(JWKS).await;
        assert_eq!(set.header("cache-control"), Some("public, max-age=300"));
        assert_eq!(kids(&set.json).len(), 4, "each algorithm has a key that signs and one that will");
        assert_eq!(kid(&token(&server).await), first.kid);

        // A moment before its time, nothing; then the standby signs, and the next one is there.
        advance(&server, 990).await;
        let old = token(&server).await;
        assert_eq!(kid(&old), first.kid);
        assert_eq!(server.get(JWKS).await.text, set.text);
        advance(&server, 20).await;
        let retiring = ed(&server, KeyState::Retiring).await;
        assert_eq!((&retiring.kid, &ed(&server, KeyState::Active).await.kid), (&first.kid, &standby.kid));
        let next = ed(&server, KeyState::Published).await;
        assert_eq!(next.times.activate_at, ed(&server, KeyState::Active).await.times.retire_at);
        let new = token(&server).await;
        assert_eq!(kid(&new), standby.kid);
        assert!(is_active(&server, &gateway, &old).await && is_active(&server, &gateway, &new).await);
        let now = kids(&server.get(JWKS).await.json);
        assert!([&first.kid, &standby.kid, &next.kid].iter().all(|kid| now.contains(kid)), "{now:?}");

        // Verifiable for as long as any of its tokens can live, and no longer.
        let left = retiring.times.remove_at - retiring.times.retire_at;
        assert_eq!(left, Micros::from(300 + 300 + 5 + 10) * SECOND);
        advance(&server, 600).await;
        assert!(kids(&server.get(JWKS).await.json).contains(&first.kid));
        advance(&server, 20).await;
        assert!(!kids(&server.get(JWKS).await.json).contains(&first.kid));
        assert_eq!(ed(&server, KeyState::Retired).await.kid, first.kid);

        // Each step has one event, in its order.
        for (kid, kinds) in [
            (&first.kid, vec!["signing_key.made", "signing_key.retiring", "signing_key.retired"]),
            (&standby.kid, vec!["signing_key.made", "signing_key.activated"]),
            (&next.kid, vec!["signing_key.made"]),
        ] {
            for kind in ["signing_key.made", "signing_key.activated", "signing_key.retiring", "signing_key.retired", "signing_key.revoked"] {
                let sql = format!("SELECT COUNT(*) FROM audit_events WHERE object = '{kid}' AND kind = '{kind}' AND actor = 'system'");
                assert_eq!(server.place.number(&sql).await, i64::from(kinds.contains(&kind)), "{kid} {kind}");
            }
        }
        for line in [
            "sealwright_signing_key_steps_total{alg=\"EdDSA\",step=\"activate\"} 1",
            "sealwright_signing_key_steps_total{alg=\"EdDSA\",step=\"retire\"} 1",
            "sealwright_signing_key_late_seconds 0.0",
            "sealwright_signing_key_next_step_seconds{alg=\"RS256\",step=\"activate\"} ",
        ] {
            until(line, async || metrics(&server).await.contains(line)).await;
        }
    }

    async fn i5_an_algorithm_that_is_added_later_signs_when_verifiers_know_its_key(engine) {
        let (server, _) = hurried(engine).await;
        let (place, issuer, clock) = (server.place.clone(), server.issuer.clone(), server.clock.clone());
        server.stop().await;
        let more = |config: &mut Config| {
            hurry(config);
            config.issuer = Some(Issuer::parse(&issuer).unwrap());
            config.keys.algorithms.push(Algorithm::Es256);
        };
        let server = Server::start(place, clock, false, more).await;
        server.apply(&EXAMPLE.replace("response_alg = \"EdDSA\"", "response_alg = \"ES256\"")).await;
        until("ES256 is published", async || server.get(JWKS).await.text.contains("ES256")).await;
        let line = "sealwright_signing_key_steps_total{alg=\"ES256\",step=\"publish\"} 1";
        until(line, async || metrics(&server).await.contains(line)).await;
        let refused = server.post(TOKEN, Some(WORKER), &[CC]).await;
        refused.assert_error(503, "temporarily_unavailable");
        assert!(refused.header("retry-after").is_some());
        advance(&server, 305).await;
        server.post(TOKEN, Some(WORKER), &[CC]).await.assert_error(503, "temporarily_unavailable");
        advance(&server, 6).await;
        assert_eq!(part(&token(&server).await, 0)["alg"], "ES256");
    }

    async fn i5_an_algorithm_that_is_taken_out_lives_to_the_end_of_its_keys_and_gets_no_other(engine) {
        let place = Arc::new(Place::new(engine).await);
        let with_es256 = |config: &mut Config| {
            hurry(config);
            config.keys.algorithms.push(Algorithm::Es256);
        };
        let server = Server::start(place.clone(), Clock::system(), false, with_es256).await;
        let example = EXAMPLE.replace("response_alg = \"EdDSA\"", "response_alg = \"ES256\"");
        let gateway = server.apply(&example).await[0].secret.expose().to_owned();
        let (issuer, clock) = (server.issuer.clone(), server.clock.clone());
        server.stop().await;
        let without = |config: &mut Config| {
            hurry(config);
            config.issuer = Some(Issuer::parse(&issuer).unwrap());
        };
        let server = Server::start(place, clock, false, without).await;
        let live = async || -> Vec<String> {
            let mut found = rows(&server).await;
            found.retain(|row| row.alg == "ES256" && ["published", "active", "retiring"].contains(&row.state.as_str()));
            let mut states: Vec<String> = found.into_iter().map(|row| row.state).collect();
            states.sort_unstable();
            states
        };
        let first = kid(&token(&server).await);
        advance(&server, 1_010).await;
        let last = token(&server).await;
        assert_ne!(kid(&last), first, "the standby takes over in its time");
        assert_eq!(live().await, ["active", "retiring"], "and none comes after it");
        advance(&server, 620).await;
        let told = "sealwright_signing_key_next_step_seconds{alg=\"ES256\",step=\"end\"} ";
        assert!(metrics(&server).await.contains(told), "the end is told before");
        let last = token(&server).await;
        advance(&server, 390).await;
        assert_eq!(live().await, ["retiring"]);
        server.post(TOKEN, Some(WORKER), &[CC]).await.assert_error(503, "temporarily_unavailable");
        assert!(kids(&server.get(JWKS).await.json).contains(&kid(&last)));
        assert!(!is_active(&server, &gateway, &last).await, "it lived 300 seconds");
        advance(&server, 620).await;
        assert!(live().await.is_empty() && !server.get(JWKS).await.text.contains("ES256"));
        assert!(!metrics(&server).await.contains("_next_step_seconds{alg=\"ES256\""));
    }

    async fn a_step_that_cannot_be_made_is_told_and_made_when_it_can(engine) {
        let (server, _) = hurried(engine).await;
        let first = ed(&server, KeyState::Active).await;
        server.place.run(match engine {
            Engine::Sqlite => "CREATE TRIGGER stuck BEFORE INSERT ON signing_keys BEGIN SELECT RAISE(ABORT, 'stuck'); END",
            Engine::Postgres => "ALTER TABLE signing_keys ADD CONSTRAINT stuck CHECK (state <> 'published') NOT VALID",
        }).await;
        server.clock.advance(Duration::from_secs(1_001));
        until("it has tried", async || !metrics(&server).await.contains("sealwright_signing_key_late_seconds 0.0")).await;
        server.clock.advance(Duration::from_secs(100));
        until("it is late", async || {
            let metrics = metrics(&server).await;
            let line = metrics.lines().find_map(|line| line.strip_prefix("sealwright_signing_key_late_seconds ")).unwrap();
            line.parse::<f64>().unwrap() >= 100.0
        }).await;
        // All of a step or nothing: the old key signs on, and is still published.
        assert_eq!(ed(&server, KeyState::Active).await.kid, first.kid);
        assert_eq!(kid(&token(&server).await), first.kid);
        server.place.run(match engine {
            Engine::Sqlite => "DROP TRIGGER stuck",
            Engine::Postgres => "ALTER TABLE signing_keys DROP CONSTRAINT stuck",
        }).await;
        until("it is made", async || is_settled(&server).await).await;
        assert_ne!(ed(&server, KeyState::Active).await.kid, first.kid);
        until("and told no more", async || metrics(&server).await.contains("sealwright_signing_key_late_seconds 0.0")).await;
    }

    async fn no_token_lives_longer_than_its_key_is_published(engine) {
        let server = Server::with(engine, |config| config.tokens.max_access_token_lifetime_seconds = 200).await;
        // A row from a time when more was allowed.
        server.apply(EXAMPLE).await;
        let answer = server.post(TOKEN, Some(WORKER), &[CC]).await;
        let claims = part(answer.json["access_token"].as_str().unwrap(), 1);
        assert_eq!(answer.json["expires_in"], 200);
        assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 200);
    }

    async fn keys_rotate_moves_to_a_key_that_verifiers_know_or_says_why_not(engine) {
        let (node, server, _) = serving(engine).await;
        let (was, standby) = (listed(&node, "EdDSA", "active"), listed(&node, "EdDSA", "published"));
        let young = node.run(&["keys", "rotate", "--alg", "EdDSA"]);
        assert_eq!((young.status, young.stdout.as_str()), (1, ""));
        assert!(young.stderr.contains("nothing was changed") && young.stderr.contains("--now"), "{young:?}");
        assert_eq!(kid(&server.token(WORKER).await), was);
        grow(&node).await;
        let said = node.run(&["keys", "rotate", "--alg", "EdDSA", "--json"]).fine().json();
        assert_eq!(said[0]["alg"], "EdDSA");
        assert_eq!(said[0]["active"], standby.as_str());
        assert_eq!(kid(&server.token(WORKER).await), standby, "the running server signs with it at once");
        let next = listed(&node, "EdDSA", "published");
        assert_eq!(said[0]["standby"], next.as_str());
        assert!(kids(&published(&server).await).contains(&next));
        assert_eq!(listed(&node, "EdDSA", "retiring"), was);
        // The next is young again; who insists has it.
        assert_eq!(node.run(&["keys", "rotate"]).status, 1);
        node.run(&["keys", "rotate", "--alg", "EdDSA", "--now"]).fine();
        assert_eq!(kid(&server.token(WORKER).await), next);
        let all = node.run(&["keys", "rotate", "--now"]).fine();
        assert!(all.stderr.contains("RS256: ") && all.stderr.contains("EdDSA: "), "{all:?}");
        // What commands do is counted where it is learnt.
        counted(&node, "EdDSA", "activate", 3).await;
        let unconfigured = node.run(&["keys", "rotate", "--alg", "PS256"]);
        assert_eq!((unconfigured.status, unconfigured.stderr.contains("keys.algorithms")), (2, true));
    }

    async fn keys_retire_ends_a_retiring_key_and_no_other(engine) {
        let (node, server, gateway) = serving(engine).await;
        let token = server.token(WORKER).await;
        let was = kid(&token);
        for state in ["active", "published"] {
            let refused = node.run(&["keys", "retire", &listed(&node, "EdDSA", state), "--yes"]);
            assert!(refused.status == 1 && refused.stderr.contains(&format!("the key is {state}")), "{refused:?}");
        }
        node.run(&["keys", "rotate", "--now"]).fine();
        assert!(active(&server, &gateway, &token).await);
        let unasked = node.run(&["keys", "retire", &was]);
        assert!(unasked.status == 2 && unasked.stderr.contains("--yes"), "{unasked:?}");
        assert!(unasked.stderr.contains("Tokens that it signed before"), "{unasked:?}");
        assert!(active(&server, &gateway, &token).await);
        node.run(&["keys", "retire", &was, "--yes"]).fine();
        assert!(!active(&server, &gateway, &token).await);
        assert!(!kids(&published(&server).await).contains(&was));
        for step in ["end", "retire"] {
            counted(&node, "EdDSA", step, 1).await;
        }
        assert_eq!(node.run(&["keys", "retire", "nobody", "--yes"]).status, 1);
    }

    async fn keys_revoke_says_what_breaks_and_is_over_when_it_returns(engine) {
        let (node, server, gateway) = serving(engine).await;
        let token = server.token(WORKER).await;
        let (was, standby) = (kid(&token), listed(&node, "EdDSA", "published"));
        assert!(active(&server, &gateway, &token).await, "it is among the known tokens");
        let unasked = node.run(&["keys", "revoke", &was]);
        assert_eq!(unasked.status, 2);
        for told in ["https://api.example.com", &standby, "within 300 s", "may not know it", "--yes"] {
            assert!(unasked.stderr.contains(told), "{told}: {}", unasked.stderr);
        }
        assert!(active(&server, &gateway, &token).await, "nothing was changed");
        grow(&node).await;
        let said = node.run(&["keys", "revoke", &was, "--yes", "--json"]).fine();
        assert!(said.stderr.contains("goes by the JWKS's max-age knows it"), "{said:?}");
        let next = listed(&node, "EdDSA", "published");
        assert_eq!((&said.json()["active"], &said.json()["standby"]), (&standby.as_str().into(), &next.as_str().into()));
        assert!(!active(&server, &gateway, &token).await);
        let set = kids(&published(&server).await);
        assert!(!set.contains(&was) && set.contains(&standby) && set.contains(&next), "{set:?}");
        assert_eq!(kid(&server.token(WORKER).await), standby);
        // Once more is no harm, and no second event.
        let again = node.run(&["keys", "revoke", &was, "--yes"]).fine();
        assert!(again.stderr.contains("was revoked already"), "{again:?}");
        let events = format!("SELECT COUNT(*) FROM audit_events WHERE kind = 'signing_key.revoked' AND object = '{was}' AND actor = 'cli'");
        assert_eq!(node.number(&events).await, 1);
        // A standby that leaked has signed nothing; another takes its place. Neither does anything to the active key.
        node.run(&["keys", "revoke", &next, "--yes"]).fine();
        assert_ne!(listed(&node, "EdDSA", "published"), next);
        assert_eq!(kid(&server.token(WORKER).await), standby);
        assert_eq!(node.run(&["keys", "revoke", "nobody", "--yes"]).status, 1);
        for (step, times) in [("activate", 1), ("publish", 2), ("revoke", 2)] {
            counted(&node, "EdDSA", step, times).await;
        }
        // After a restart it is still so.
        drop(server);
        let server = node.start().await;
        assert!(!active(&server, &gateway, &token).await);
    }

    /// Somebody may have revoked the standby a moment before.
    async fn a_revocation_without_a_standby_has_a_new_key_sign_at_once(engine) {
        let (node, server, _) = serving(engine).await;
        let was = listed(&node, "EdDSA", "active");
        // No server between the two changes: it would publish another standby by itself.
        drop(server);
        node.place.run("UPDATE signing_keys SET state = 'revoked' WHERE alg = 'EdDSA' AND state = 'published'").await;
        let refused = node.run(&["keys", "rotate", "--alg", "EdDSA"]);
        assert!(refused.status == 1 && refused.stderr.contains("no published key"), "{refused:?}");
        let said = node.run(&["keys", "revoke", &was, "--yes"]).fine();
        assert!(said.stderr.contains("There is no next key"), "{said:?}");
        let server = node.start().await;
        assert_eq!(kid(&server.token(WORKER).await), listed(&node, "EdDSA", "active"));
        until("there is a standby again", async || {
            let keys = node.run(&["keys", "list", "--json"]).fine().json();
            keys.as_array().unwrap().iter().any(|key| key["state"] == "published" && key["alg"] == "EdDSA")
        }).await;
    }
}

/// Waits until the metrics of the process say that such a step was learnt of so often.
async fn counted(node: &Node, alg: &str, step: &str, times: u32) {
    let line = format!("sealwright_signing_key_steps_total{{alg=\"{alg}\",step=\"{step}\"}} {times}");
    until(&line, async || {
        let metrics = client().get(format!("http://127.0.0.1:{}/metrics", node.management)).send().await.unwrap();
        metrics.text().await.unwrap().lines().any(|said| said == line)
    })
    .await;
}

/// A server of its own process with [`EXAMPLE`], and the gateway's secret.
pub async fn serving(engine: Engine) -> (Node, Process, String) {
    let node = Node::new(engine).await;
    let gateway = node.apply(EXAMPLE).stdout.trim().rsplit('\t').next().unwrap().to_owned();
    let server = node.start().await;
    (node, server, gateway)
}

/// The one key of this algorithm in this state.
pub fn listed(node: &Node, alg: &str, state: &str) -> String {
    let said: Said = node.run(&["keys", "list", "--json"]).fine();
    let keys = said.json();
    let mut found = keys.as_array().unwrap().iter().filter(|key| key["alg"] == alg && key["state"] == state);
    let kid = found.next().unwrap_or_else(|| panic!("no {alg} key is {state}: {keys}"))["kid"].as_str().unwrap();
    assert!(found.next().is_none(), "{keys}");
    kid.to_owned()
}

/// As if all keys had been published a day ago.
pub async fn grow(node: &Node) {
    node.place.run("UPDATE signing_keys SET published_at = published_at - 86400000000").await;
}

pub async fn published(server: &Process) -> Value {
    Answer::of(server.http.get(format!("{}{JWKS}", server.url)).send().await.unwrap()).await.json
}

pub async fn active(server: &Process, gateway: &str, token: &str) -> bool {
    let mut active = None;
    until("introspection answers", async || {
        let answer = server.post(INTROSPECT, Some(("edge-gateway", gateway)), &[("token", token)]).await;
        active = answer.json["active"].as_bool();
        active.is_some()
    })
    .await;
    active.unwrap()
}
