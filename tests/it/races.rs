//! One code, or one refresh token, presented 64 times at once over the processes of a database, some of which are killed
//! meanwhile. Afterwards what clients were told and what the database holds are one history, and it is one that
//! mechanisms.md ("Codes", "Refresh tokens") allows (F-05, T-20, T-29).

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde_json::Value;

use crate::codes::{GATEWAY, Shared, WEB, patient, redeeming, text};
use crate::process::{Node, Process};
use crate::refresh::refreshing;
use crate::support::{Answer, Engine, INTROSPECT, Place, TOKEN, both, decided, part, rounds};

const AT_ONCE: usize = 64;

/// What is presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Code,
    /// With a retry window of so many seconds.
    Refresh(u32),
}

/// Processes on one database.
struct Cluster {
    shared: Shared,
    nodes: Vec<Node>,
    running: Vec<Process>,
    window: String,
}

/// One round's code or refresh token.
struct Round {
    /// Its grant, as audit events and revocations name it.
    grant: String,
    form: Form,
    /// Tokens that were issued for the grant before the race: one for a refresh token.
    before: usize,
}

impl Cluster {
    async fn new(engine: Engine, what: What) -> Self {
        let shared = Shared::new(engine).await;
        let mut nodes = vec![shared.node.clone()];
        if engine == Engine::Postgres {
            nodes.push(shared.node.beside());
        }
        let window = if let What::Refresh(seconds) = what { seconds } else { 10 };
        let mut cluster = Self { shared, nodes, running: Vec::new(), window: window.to_string() };
        for at in 0..cluster.nodes.len() {
            let process = cluster.start(at).await;
            cluster.running.push(process);
        }
        cluster
    }

    async fn start(&self, at: usize) -> Process {
        let node = &self.nodes[at];
        let mut command = node.command(&["serve"]);
        command.env("SEALWRIGHT_TOKENS__REFRESH_RETRY_SECONDS", &self.window);
        Process::start(command, node.port, node.management).await
    }

    fn place(&self) -> &Place {
        &self.shared.node.place
    }

    async fn begin(&self, what: What) -> Round {
        let (id, code) = self.shared.grant().await;
        let grant = BASE64_URL_SAFE_NO_PAD.encode(id);
        if what == What::Code {
            return Round { grant, form: owned(&redeeming(&code)), before: 0 };
        }
        let answer = patient(&self.running[0], TOKEN, WEB, &redeeming(&code)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        Round { grant, form: owned(&refreshing(text(&answer.json, "refresh_token"))), before: 1 }
    }

    /// 64 requests, half at each process; once `kill_after` of them are answered, the last process is killed. `None`
    /// for what was not answered.
    async fn race(&self, round: &Round, kill_after: Option<usize>) -> Vec<Option<Answer>> {
        let form = pairs(&round.form);
        let form = form.as_slice();
        let count = self.running.len();
        let mut asking: FuturesUnordered<_> =
            (0..AT_ONCE).map(|at| self.running[at % count].try_post(TOKEN, Some(WEB), form)).collect();
        let mut answers = Vec::new();
        while let Some(answer) = asking.next().await {
            answers.push(answer.ok());
            if Some(answers.len()) == kill_after {
                self.running[count - 1].run.signal("KILL");
            }
        }
        answers
    }

    /// The same again, by somebody who does not give up.
    async fn again(&self, form: &[(&str, &str)], at: usize) -> Answer {
        patient(&self.running[at % self.running.len()], TOKEN, WEB, form).await
    }

    async fn is_active(&self, access_token: &str, at: usize) -> bool {
        let asked = patient(&self.running[at], INTROSPECT, GATEWAY, &[("token", access_token)]).await;
        assert_eq!(asked.status, 200, "{}", asked.text);
        asked.json["active"].as_bool().unwrap()
    }

    /// The `jti` of every access token that the audit trail says was issued for the grant.
    async fn issued(&self, grant: &str) -> Vec<String> {
        let sql = format!("SELECT details FROM audit_events WHERE kind = 'tokens.issued' AND object = '{grant}'");
        let details = self.place().texts(&sql).await;
        let jti =
            |details: &String| serde_json::from_str::<Value>(details).unwrap()["jti"].as_str().unwrap().to_owned();
        details.iter().map(jti).collect()
    }

    /// How often the grant was taken back: told by the audit trail, by the revocations, and by its own row.
    async fn revoked(&self, grant: &str) -> [i64; 2] {
        let events = format!("SELECT COUNT(*) FROM audit_events WHERE kind = 'grant.revoked' AND object = '{grant}'");
        let rows = format!("SELECT COUNT(*) FROM revocations WHERE kind = 'grant' AND id = '{grant}'");
        [self.place().number(&events).await, self.place().number(&rows).await]
    }
}

type Form = Vec<(String, String)>;

fn owned(form: &[(&str, &str)]) -> Form {
    form.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn pairs(form: &Form) -> Vec<(&str, &str)> {
    form.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

fn jti(answer: &Answer) -> String {
    text(&part(text(&answer.json, "access_token"), 1), "jti").to_owned()
}

/// What came of the requests of one race.
struct History {
    won: Vec<Answer>,
    refused: usize,
    /// 503, or no answer at all: nobody knows.
    unknown: usize,
}

impl History {
    fn of(answers: Vec<Option<Answer>>) -> Self {
        let mut history = Self { won: Vec::new(), refused: 0, unknown: 0 };
        for answer in answers {
            match answer {
                Some(answer) if answer.status == 200 => history.won.push(answer),
                Some(answer) if answer.status == 503 => history.unknown += 1,
                Some(answer) => {
                    answer.assert_error(400, "invalid_grant");
                    history.refused += 1;
                }
                None => history.unknown += 1,
            }
        }
        history
    }
}

/// One race, and that its history is allowed. Whether it was decided in it, and whether a kill came into it.
async fn round(cluster: &mut Cluster, what: What, kill: bool, number: usize) -> (bool, bool) {
    let round = cluster.begin(what).await;
    let kill_after =
        if kill { Some(1 + usize::from(sealwright::secret::random::<1>().unwrap()[0]) % (AT_ONCE / 2)) } else { None };
    let mut history = History::of(cluster.race(&round, kill_after).await);
    if kill {
        let last = cluster.running.len() - 1;
        cluster.running[last].kill9();
        cluster.running[last] = cluster.start(last).await;
    }
    let (was_decided, was_cut) = (!history.won.is_empty(), kill && history.unknown > 0 && history.unknown < AT_ONCE);
    let told: BTreeSet<String> = history.won.iter().map(jti).collect();
    let issued = cluster.issued(&round.grant).await;
    assert!(told.iter().all(|jti| issued.contains(jti)), "{number}: told and not recorded");
    let once = matches!(what, What::Code | What::Refresh(0));
    if once {
        assert!(history.won.len() <= 1, "{number}: {} winners", history.won.len());
        assert!(issued.len() - round.before <= 1, "{number}: {issued:?}");
        // Who was refused came after another, and took the family back before it heard so.
        if history.refused > 0 {
            assert_eq!(cluster.revoked(&round.grant).await, [1, 1], "{number}");
        }
    } else {
        assert_eq!(history.refused, 0, "{number}: a retry within the window");
        assert_eq!(cluster.revoked(&round.grant).await, [0, 0], "{number}");
    }

    // Whoever heard nothing asks again: it is the first, or too late, and the second time it is too late for sure.
    for at in 0..2 {
        let answer = cluster.again(&pairs(&round.form), number + at).await;
        if answer.status == 200 {
            history.won.push(answer);
        } else {
            answer.assert_error(400, "invalid_grant");
        }
    }
    let successors: BTreeSet<&str> = history.won.iter().map(|won| text(&won.json, "refresh_token")).collect();
    assert!(successors.len() <= 1, "{number}: {successors:?}");
    if once {
        assert!(history.won.len() <= 1, "{number}: {} winners", history.won.len());
        assert_eq!(cluster.issued(&round.grant).await.len() - round.before, 1, "{number}: somebody was the first");
    } else {
        assert!(history.won.len() >= 2 && cluster.revoked(&round.grant).await == [0, 0], "{number}");
        // The third generation makes the first a stolen one, whatever the window.
        let third = cluster.again(&refreshing(successors.first().unwrap()), number).await;
        assert_eq!(third.status, 200, "{number}: {}", third.text);
        cluster.again(&pairs(&round.form), number + 1).await.assert_error(400, "invalid_grant");
        history.won.push(third);
    }
    // Nobody has anything of it any more, at any process.
    assert_eq!(cluster.revoked(&round.grant).await, [1, 1], "{number}");
    for won in &history.won {
        for at in 0..cluster.running.len() {
            assert!(!cluster.is_active(text(&won.json, "access_token"), at).await, "{number}");
        }
    }
    if let Some(won) = history.won.last() {
        let form = refreshing(text(&won.json, "refresh_token"));
        cluster.again(&form, number).await.assert_error(400, "invalid_grant");
    }
    (was_decided, was_cut)
}

/// Races until so many were decided.
async fn races(what: What) {
    let mut cluster = Cluster::new(Engine::Postgres, what).await;
    decided(rounds(50), async |number| round(&mut cluster, what, false, number).await.0).await;
}

/// Races with a `kill -9` in each, until so many were cut in the middle; on several databases at once, for a round waits
/// more than it computes.
async fn killed(engine: Engine, what: What) {
    let (cuts, lanes) = (rounds(50), 4);
    // One after another: `apply` keeps the thread, and would wait for a migration that another lane has begun.
    let mut clusters = Vec::new();
    for _ in 0..lanes {
        clusters.push(Cluster::new(engine, what).await);
    }
    let lane = async |mut cluster| {
        decided(cuts.div_ceil(lanes), async |number| round(&mut cluster, what, true, number).await.1).await;
    };
    futures_util::future::join_all(clusters.into_iter().map(lane)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn race_one_code_over_two_processes_has_one_winner() {
    races(What::Code).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn race_t20_over_two_processes_without_a_window_has_one_winner() {
    races(What::Refresh(0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn race_t20_over_two_processes_within_the_window_has_one_successor() {
    races(What::Refresh(60)).await;
}

both! {
    async fn race_one_code_and_kill_9_among_it_has_one_winner(engine) {
        killed(engine, What::Code).await;
    }

    async fn race_t20_without_a_window_and_kill_9_among_it_has_one_winner(engine) {
        killed(engine, What::Refresh(0)).await;
    }

    async fn race_t20_within_the_window_and_kill_9_among_it_has_one_successor(engine) {
        killed(engine, What::Refresh(60)).await;
    }
}
