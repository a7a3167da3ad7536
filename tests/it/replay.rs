//! A client assertion is good once, however many present it at once, and to whichever node (F-05, I2).

use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sealwright::clock::{Clock, SECOND};
use serde_json::json;

use crate::process::{Node, Process};
use crate::support::{Engine, TOKEN, rounds};

/// A client with `private_key_jwt` and an Ed25519 key.
pub struct Signer {
    pub client_id: String,
    key: Ed25519KeyPair,
}

impl Signer {
    pub fn new(client_id: &str) -> Self {
        Self { client_id: client_id.to_owned(), key: Ed25519KeyPair::generate().unwrap() }
    }

    /// Its lines of an apply file.
    pub fn applied(&self, scope: &str) -> String {
        let x = BASE64_URL_SAFE_NO_PAD.encode(self.key.public_key().as_ref());
        format!(
            "[[client]]\nclient_id = \"{}\"\ntoken_endpoint_auth_method = \"private_key_jwt\"\nscope = \"{scope}\"\n\
             jwks = {{ keys = [{{ kty = \"OKP\", crv = \"Ed25519\", x = \"{x}\" }}] }}\n",
            self.client_id
        )
    }

    /// A new assertion, good for 50 minutes.
    pub fn assertion(&self, issuer: &str) -> String {
        let now = Clock::system().now() / SECOND;
        let jti = BASE64_URL_SAFE_NO_PAD.encode(sealwright::secret::random::<16>().unwrap());
        let claims = json!({
            "iss": self.client_id, "sub": self.client_id, "aud": issuer, "iat": now, "exp": now + 3000, "jti": jti,
        });
        let header = json!({ "alg": "EdDSA", "typ": "client-authentication+jwt" });
        let [header, claims] = [header, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part.to_string()));
        let text = format!("{header}.{claims}");
        let signature = BASE64_URL_SAFE_NO_PAD.encode(self.key.sign(text.as_bytes()));
        format!("{text}.{signature}")
    }
}

/// The form of a token request with an assertion.
pub fn presenting(assertion: &str) -> [(&str, &str); 3] {
    [
        ("grant_type", "client_credentials"),
        ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
        ("client_assertion", assertion),
    ]
}

/// Whether a token request was refused for no other reason than that its assertion was used before.
pub fn is_refused_as_used(answer: &crate::support::Answer) -> bool {
    answer.status == 401 && answer.json["error_description"].as_str().is_some_and(|text| text.contains("used before"))
}

const API: &str =
    "[[resource]]\nidentifier = \"https://api.example.com\"\nscopes = { \"orders:read\" = \"Read orders\" }\n";

async fn one_winner(engine: Engine, nodes: usize, rounds: usize) {
    const AT_ONCE: usize = 64;
    let first = Node::new(engine).await;
    let signer = Signer::new("signer");
    first.apply(&(API.to_owned() + &signer.applied("orders:read")));
    let mut running: Vec<Process> = vec![first.start().await];
    while running.len() < nodes {
        running.push(first.beside().start().await);
    }
    for round in 0..rounds {
        let assertion = signer.assertion(&first.issuer);
        let form = presenting(&assertion);
        let asked = (0..AT_ONCE).map(|at| running[at % nodes].post(TOKEN, None, &form));
        let answers = futures_util::future::join_all(asked).await;
        let winners = answers.iter().filter(|answer| answer.status == 200).count();
        let losers = answers.iter().filter(|answer| is_refused_as_used(answer)).count();
        let others = answers.iter().find(|answer| answer.status != 200 && !is_refused_as_used(answer));
        assert_eq!((winners, losers), (1, AT_ONCE - 1), "round {round}; one of the others: {others:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc7523_3_one_assertion_64_times_at_once_has_one_winner_on_sqlite() {
    one_winner(Engine::Sqlite, 1, rounds(200)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc7523_3_one_assertion_64_times_at_once_has_one_winner_over_two_processes() {
    one_winner(Engine::Postgres, 2, rounds(200)).await;
}

/// A used assertion stays used for the next process, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rfc7523_3_a_used_assertion_is_refused_after_a_restart() {
    for engine in [Engine::Sqlite, Engine::Postgres] {
        let node = Node::new(engine).await;
        let signer = Signer::new("signer");
        node.apply(&(API.to_owned() + &signer.applied("orders:read")));
        let mut process = node.start().await;
        let assertion = signer.assertion(&node.issuer);
        let answer = process.post(TOKEN, None, &presenting(&assertion)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        process.kill9();
        tokio::time::sleep(Duration::from_millis(10)).await;
        let process = node.start().await;
        let answer = process.post(TOKEN, None, &presenting(&assertion)).await;
        assert!(is_refused_as_used(&answer), "{answer:?}");
    }
}
