//! Discovery (RFC 8414, OpenID Connect Discovery) and the key set (RFC 7517).

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sealwright::clock::Clock;
use sealwright::config::{Config, Issuer};
use sealwright::wire::{Algorithm, EdDsaName};
use serde_json::Value;
use sqlx::{Connection as _, Executor as _};

use crate::support::{Answer, EXAMPLE, Engine, Place, Server, both, part, until};

const FORMS: [&str; 2] = ["/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"];

both! {
    async fn rfc8414_3_the_documents_say_what_works(engine) {
        let (server, _) = Server::example(engine).await;
        let documents = [server.get(FORMS[0]).await, server.get(FORMS[1]).await];
        assert_eq!(documents[0].json, documents[1].json);
        let document = &documents[0].json;
        assert_eq!(documents[0].header("content-type"), Some("application/json"));
        assert_eq!(documents[0].header("access-control-allow-origin"), Some("*"));
        assert_eq!(document["issuer"], server.issuer.as_str());
        let mut shown = document.clone();
        redact(&mut shown, &server.issuer);
        insta::assert_json_snapshot!("discovery", shown);
        // Every endpoint that is named is there.
        for (name, url) in document.as_object().unwrap().iter().filter(|(name, _)| name.ends_with("_endpoint")) {
            let answer = Answer::of(server.http.post(url.as_str().unwrap()).send().await.unwrap()).await;
            // An empty request: refused, or (signing out) asked about; in no case unknown.
            assert!([200, 400, 401].contains(&answer.status), "{name}: {}", answer.status);
        }
        let jwks = server.http.get(document["jwks_uri"].as_str().unwrap()).send().await.unwrap();
        assert_eq!(jwks.status(), 200);
    }

    async fn t68_s21_only_algorithms_that_are_sound_are_offered(engine) {
        let (server, _) = Server::example(engine).await;
        let document = server.get(FORMS[0]).await.json;
        let lists = document.as_object().unwrap().iter().filter(|(name, _)| name.contains("_alg"));
        let mut names: Vec<&str> = lists.flat_map(|(_, list)| list.as_array().unwrap()).map(|name| name.as_str().unwrap()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names, ["ES256", "Ed25519", "EdDSA", "PS256", "RS256"], "no RSA1_5, no none, no HMAC");
        for key in server.get("/.well-known/jwks.json").await.json["keys"].as_array().unwrap() {
            assert!(names.contains(&key["alg"].as_str().unwrap()), "{key}");
        }
    }

    async fn rfc8414_3_1_an_issuer_with_a_path_has_three_well_known_forms(engine) {
        let server = Server::with(engine, |config| {
            let issuer = format!("{}/tenant", config.issuer.clone().unwrap());
            config.issuer = Some(Issuer::parse(&issuer).unwrap());
        }).await;
        server.apply(crate::support::EXAMPLE).await;
        let root = server.issuer.strip_suffix("/tenant").unwrap();
        for form in ["/.well-known/oauth-authorization-server/tenant", "/.well-known/openid-configuration/tenant", "/tenant/.well-known/openid-configuration"] {
            let answer = Answer::of(server.http.get(format!("{root}{form}")).send().await.unwrap()).await;
            assert_eq!(answer.status, 200, "{form}");
            assert_eq!(answer.json["issuer"], server.issuer.as_str());
            assert_eq!(answer.json["token_endpoint"], format!("{}/oauth2/token", server.issuer));
        }
        let at_root = server.http.get(format!("{root}{}", FORMS[0])).send().await.unwrap();
        assert_eq!(at_root.status(), 404, "another issuer's document");
        server.token().await;
    }

    async fn rfc7517_5_the_key_set_is_cachable_and_complete(engine) {
        let (server, _) = Server::example(engine).await;
        let answer = server.get("/.well-known/jwks.json").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        assert_eq!(answer.header("cache-control"), Some("public, max-age=300"));
        let etag = answer.header("etag").unwrap().to_owned();
        let keys = answer.json["keys"].as_array().unwrap();
        assert_eq!(keys.len(), 8);
        for key in keys {
            assert!(key["kid"].is_string() && key["alg"].is_string() && key["use"] == "sig", "S-20: {key}");
            assert_eq!(key["kid"], thumbprint(key).as_str(), "RFC 7638");
            for private in ["d", "p", "q", "dp", "dq", "qi", "k"] {
                assert!(key.get(private).is_none());
            }
        }
        let url = format!("{}/.well-known/jwks.json", server.url);
        for (known, status) in [(etag.as_str(), 304), ("*", 304), (&format!("W/{etag}"), 304), ("\"other\"", 200)] {
            let answer = server.http.get(&url).header("if-none-match", known).send().await.unwrap();
            assert_eq!(answer.status(), status, "{known}");
            assert_eq!(answer.headers()["etag"], etag.as_str());
            assert_eq!(answer.bytes().await.unwrap().is_empty(), status == 304);
        }
        let head = server.http.head(&url).send().await.unwrap();
        assert_eq!(head.status(), 200);
        // Pages of any origin may read it, and the two documents.
        for path in ["/.well-known/jwks.json", FORMS[0], FORMS[1]] {
            let preflight = server.http.request(reqwest::Method::OPTIONS, format!("{}{path}", server.url));
            let preflight = preflight.header("origin", "https://anybody.example.com").send().await.unwrap();
            let allowed = |name: &str| preflight.headers().get(name).map(|value| value.to_str().unwrap());
            assert_eq!((preflight.status().as_u16(), allowed("access-control-allow-origin")), (204, Some("*")), "{path}");
            assert_eq!(allowed("access-control-allow-credentials"), None);
        }
    }

    async fn keys_are_made_of_the_configured_size_and_name(engine) {
        let place = Arc::new(Place::new(engine).await);
        let change = |config: &mut Config| {
            config.keys.algorithms = vec![Algorithm::Rs256, Algorithm::EdDsa];
            config.keys.rsa_bits = 3072;
            config.keys.eddsa_name = EdDsaName::Ed25519;
        };
        let server = Server::start(place, Clock::system(), false, change).await;
        let keys = server.get("/.well-known/jwks.json").await.json["keys"].as_array().unwrap().clone();
        let ring = server.services.keys.ring();
        let key = |algorithm: Algorithm| {
            let kid = ring.active(algorithm).unwrap().kid().to_owned();
            keys.iter().find(|key| key["kid"] == kid).unwrap()
        };
        let (rsa, ed) = (key(Algorithm::Rs256), key(Algorithm::EdDsa));
        assert_eq!(BASE64_URL_SAFE_NO_PAD.decode(rsa["n"].as_str().unwrap()).unwrap().len() * 8, 3072);
        assert_eq!((rsa["alg"].as_str(), ed["alg"].as_str()), (Some("RS256"), Some("Ed25519")));
        // RFC 9864: who reads the metadata finds the name that it meets.
        let document = server.get(FORMS[0]).await.json;
        for member in ["token", "introspection", "revocation"] {
            let names = document[format!("{member}_endpoint_auth_signing_alg_values_supported")].as_array().unwrap();
            assert!(names.contains(&"Ed25519".into()) && names.contains(&"EdDSA".into()), "{names:?}");
        }
        for (alg, key) in [("EdDSA", ed), ("RS256", rsa)] {
            let file = EXAMPLE.replace("response_alg = \"EdDSA\"", &format!("response_alg = \"{alg}\""));
            let gateway = server.apply(&file).await.into_iter().next().map(|made| made.secret.expose().to_owned());
            let token = server.token().await;
            let header = part(&token, 0);
            assert_eq!((&header["alg"], &header["kid"]), (&key["alg"], &key["kid"]));
            if let Some(gateway) = gateway {
                assert_eq!(server.introspect(&gateway, &token).await.json["active"], true);
            }
            if alg == "RS256" {
                let signature = BASE64_URL_SAFE_NO_PAD.decode(token.rsplit('.').next().unwrap()).unwrap();
                assert_eq!(signature.len() * 8, 3072);
            }
        }
    }

    async fn health_and_metrics_are_on_the_management_listener_only(engine) {
        let (server, gateway) = Server::example(engine).await;
        let token = server.token().await;
        server.introspect(&gateway, &token).await;
        for path in ["/health/live", "/health/ready", "/metrics"] {
            let answer = server.http.get(format!("{}{path}", server.management)).send().await.unwrap();
            assert_eq!(answer.status(), 200, "{path}");
            assert_eq!(server.get(path).await.status, 404, "{path}");
        }
        let metrics = server.http.get(format!("{}/metrics", server.management)).send().await.unwrap().text().await.unwrap();
        for line in [
            "sealwright_token_requests_total{grant=\"client_credentials\",outcome=\"ok\"} 1",
            "sealwright_introspections_total{outcome=\"active\"} 1",
            "sealwright_http_requests_total{",
            "sealwright_token_issue_seconds_count 1",
            "sealwright_node_lease_remaining_seconds ",
            "sealwright_feed_lag_seconds ",
            "sealwright_database_pool_connections{",
            "sealwright_database_write_queue ",
            "sealwright_signing_key_age_seconds{",
        ] {
            assert!(metrics.contains(line), "{line}\n{metrics}");
        }
    }
}

/// What one line of `/metrics` says.
async fn shown(server: &Server, name: &str) -> String {
    let metrics = server.http.get(format!("{}/metrics", server.management)).send().await.unwrap().text().await.unwrap();
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("{name}\n{metrics}")).to_owned()
}

async fn figure(server: &Server, name: &str) -> f64 {
    shown(server, name).await.parse().unwrap()
}

/// What is shown of the lease, the feed and the keys is how it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_follow_lease_feed_and_keys() {
    const LAG: &str = "sealwright_feed_lag_seconds";
    const LEASE: &str = "sealwright_node_lease_remaining_seconds";
    const APPLIED: &str = "sealwright_feed_applied_sequence";
    let (server, _) = Server::example(Engine::Postgres).await;
    until("it holds a lease", async || (0.1..=3.0).contains(&figure(&server, LEASE).await)).await;
    until("nothing is behind", async || figure(&server, LAG).await == 0.0).await;
    let head = "SELECT seq FROM change_head";
    let head = async || server.place.number(head).await.to_string();
    until("all is applied", async || shown(&server, APPLIED).await == head().await).await;
    server.clock.advance(std::time::Duration::from_hours(1));
    let age = figure(&server, "sealwright_signing_key_age_seconds{alg=\"EdDSA\",state=\"active\"}").await;
    assert!((3600.0..4200.0).contains(&age), "{age}");

    // A change that it cannot read: its lease is not renewed, and the change grows old.
    let mut other = sqlx::PgConnection::connect(&server.place.url).await.unwrap();
    other.execute("BEGIN; LOCK TABLE revocations IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let at = server.clock.now();
    let news = format!(
        "UPDATE change_head SET seq = seq + 1; \
         INSERT INTO changes (seq, kind, id, at) SELECT seq, 'revocation', 'token:x', {at} FROM change_head"
    );
    server.place.run(&news).await;
    until("it is behind", async || figure(&server, LAG).await > 0.5).await;
    until("its lease has ended", async || figure(&server, LEASE).await <= 0.0).await;
    assert!(figure(&server, LAG).await > 1.0);
    other.execute("ROLLBACK").await.unwrap();
    until("nothing is behind", async || figure(&server, LAG).await == 0.0).await;
    until("it holds a lease", async || figure(&server, LEASE).await > 0.0).await;
    assert_eq!(shown(&server, APPLIED).await, head().await);
}

/// What waits for SQLite's writer is counted; what holds a connection of PostgreSQL is, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_follow_the_queue_and_the_pool() {
    let queue = "sealwright_database_write_queue";
    let server = Server::empty(Engine::Sqlite).await;
    until("nobody waits", async || figure(&server, queue).await == 0.0).await;
    let mut other = sqlx::SqliteConnection::connect(&server.place.url).await.unwrap();
    other.execute("PRAGMA busy_timeout = 20000; BEGIN IMMEDIATE").await.unwrap();
    let db = server.services.db.clone();
    let write = || {
        let db = db.clone();
        tokio::spawn(async move { db.write(|tx| Box::pin(sealwright::store::feed::head(tx))).await })
    };
    let first = write();
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let waiting: Vec<_> = (0..3).map(|_| write()).collect();
    until("three wait", async || figure(&server, queue).await >= 3.0).await;
    other.execute("ROLLBACK").await.unwrap();
    first.await.unwrap().unwrap();
    for write in waiting {
        write.await.unwrap().unwrap();
    }
    until("nobody waits", async || figure(&server, queue).await == 0.0).await;

    let busy = "sealwright_database_pool_connections{state=\"in_use\"}";
    let server = Server::empty(Engine::Postgres).await;
    let held = [server.services.db.reader().await.unwrap(), server.services.db.reader().await.unwrap()];
    assert!(figure(&server, busy).await >= 2.0);
    drop(held);
    until("they are back", async || figure(&server, busy).await == 0.0).await;
}

/// RFC 7638 §3.1: the members of this kind of key in their order, hashed.
fn thumbprint(key: &Value) -> String {
    let names = match key["kty"].as_str().unwrap() {
        "RSA" => &["e", "kty", "n"][..],
        "EC" => &["crv", "kty", "x", "y"],
        _ => &["crv", "kty", "x"],
    };
    let members: Vec<_> = names.iter().map(|name| format!("\"{name}\":{}", key[name])).collect();
    BASE64_URL_SAFE_NO_PAD.encode(sealwright::secret::sha256(format!("{{{}}}", members.join(",")).as_bytes()))
}

fn redact(value: &mut Value, issuer: &str) {
    match value {
        Value::String(text) => *text = text.replace(issuer, "https://issuer.example"),
        Value::Array(items) => items.iter_mut().for_each(|item| redact(item, issuer)),
        Value::Object(members) => members.values_mut().for_each(|member| redact(member, issuer)),
        _ => {}
    }
}
