//! A model of the life cycle: three nodes on one database, verifiers that cache by `max-age`, crashes anywhere, and time
//! in between. What happens to the rows is decided by [`Plan`] itself, by the job's steps and by every command; what the
//! database adds, a conditional update, two unique indexes and a transaction, is [`World::make`]. Whatever the order of things (reliability.md I5):
//! no verifier whose copy has not expired meets a good token of a key that it does not know, nor does a node with a lease;
//! no key signs before it was published for long enough, unless somebody forced it, nor when it signs no more.

use proptest::prelude::*;

use super::moves::{Move, Plan};
use super::schedule::{KeyState, Life, Schedule};
use crate::clock::{Micros, SECOND};
use crate::config::{ByAlgorithm, Config};
use crate::store::signing_keys::Times;
use crate::wire::Algorithm;

const ALG: Algorithm = Algorithm::EdDsa;
const MAX_AGE: Micros = 300 * SECOND;
const LIFETIME: Micros = 300 * SECOND;
/// How long a node counts on its lease after it read the feed (nodes.rs).
const COUNTED_ON: Micros = 2_500_000;
/// How long a transaction may take from its time to its commit, and a request from its time to its answer.
const DEADLINE: Micros = 5 * SECOND;
const REQUEST: Micros = 10 * SECOND;

#[derive(Clone, Copy, Debug)]
enum Action {
    /// Time goes by: so much of it, or until a moment, or nearly.
    Wait(Micros),
    Await(Moment, Micros),
    /// A change from beginning to end by one node, which then signs.
    Turn(usize, Change),
    /// A node reads the feed, and has its lease again.
    Follow(usize),
    /// A transaction of a node reads the rows; it commits later, or never.
    Begin(usize, Change),
    Commit(usize),
    /// The node is gone with all that it was doing.
    Crash(usize),
    /// A request takes the signer; it is answered later, or never.
    Take(usize),
    Answer(usize),
    /// A verifier gets the JWKS from a node.
    Fetch(usize, usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// The job: what is due.
    Schedule,
    /// `keys rotate`.
    Rotate,
    /// `keys rotate --now`.
    RotateAnyway,
    /// `keys retire` of a retiring key.
    Retire,
    /// `keys revoke` of a key in this state.
    Revoke(KeyState),
    /// `keys import`.
    Adopt,
}

#[derive(Clone, Copy, Debug)]
enum Moment {
    /// When the standby may sign at the earliest.
    Known,
    /// When the schedule goes on.
    Due,
    /// When the last copy of the JWKS ends.
    Expiry,
}

#[derive(Clone, Debug, Default)]
struct Node {
    /// Its memory; none while it is down.
    ring: Option<Vec<Life>>,
    read_at: Micros,
    /// What a transaction has read, and when.
    begun: Option<(Change, Vec<Life>, Micros)>,
    /// The key that a request has taken, and when it came.
    taken: Option<(String, Micros)>,
}

struct Token {
    kid: String,
    exp: Micros,
}

struct World {
    schedule: Schedule,
    now: Micros,
    rows: Vec<Life>,
    made: usize,
    nodes: Vec<Node>,
    /// Kids, and until when the copy may be kept.
    verifiers: Vec<(Vec<String>, Micros)>,
    good: Vec<Token>,
    /// Keys that somebody had sign before all verifiers could know them.
    forced: Vec<String>,
    /// Keys that somebody ended before their time.
    ended: Vec<String>,
    rotations: usize,
}

/// Minutes instead of days.
pub(super) fn schedule() -> Schedule {
    let mut config = Config::default();
    config.keys.algorithms = vec![ALG];
    config.keys.published_seconds = ByAlgorithm::all(400);
    config.keys.active_seconds = ByAlgorithm::all(1_000);
    config.tokens.max_access_token_lifetime_seconds = 300;
    config.keys.retiring_seconds = ByAlgorithm::all(config.keys_outlast_seconds());
    Schedule::new(&config)
}

impl World {
    fn new() -> Self {
        let now = 1_000_000 * SECOND;
        let mut world = Self {
            schedule: schedule(),
            now,
            rows: Vec::new(),
            made: 0,
            nodes: vec![Node::default(); 3],
            verifiers: vec![(Vec::new(), 0); 3],
            good: Vec::new(),
            forced: Vec::new(),
            ended: Vec::new(),
            rotations: 0,
        };
        let first = world.schedule.active(ALG, now, now);
        world.add(KeyState::Active, first);
        world.add(KeyState::Published, world.schedule.standby(ALG, now, Some(&first)));
        // The first start: no verifier has ever asked.
        world.forced.push("k0".to_owned());
        world
    }

    /// `INSERT … ON CONFLICT DO NOTHING`, with one active and one published key.
    fn add(&mut self, state: KeyState, times: Times) -> bool {
        let is_first = !self.rows.iter().any(|row| row.state == state);
        if is_first {
            self.rows.push(Life { kid: format!("k{}", self.made), state, times });
            self.made += 1;
        }
        is_first
    }

    /// `UPDATE … WHERE kid = $1 AND state = $2`.
    fn pass(&mut self, key: &Life, state: KeyState, times: Times) -> bool {
        let row = self.rows.iter_mut().find(|row| row.kid == key.kid && row.state == key.state);
        row.map(|row| (row.state, row.times) = (state, times)).is_some()
    }

    /// All of `moves`, or none.
    fn make(&mut self, moves: &[Move]) -> bool {
        let before = self.rows.clone();
        let made = moves.iter().all(|change| match change {
            Move::Pass { key, to, times } => self.pass(key, *to, *times),
            Move::Add { state, times } => self.add(*state, *times),
        });
        if !made {
            self.rows = before;
        }
        made
    }

    /// A transaction that read `keys` at `then` commits now.
    fn commit(&mut self, change: Change, keys: &[Life], then: Micros) {
        let of = |state| keys.iter().find(|key| key.state == state).map(|key| key.kid.as_str());
        let schedule = self.schedule.clone();
        let plan = Plan { schedule: &schedule, algorithm: ALG, now: then, keys };
        let moves = match change {
            Change::Schedule => plan.step().map(|(_, moves)| moves),
            Change::Rotate => plan.rotate(false).ok(),
            Change::RotateAnyway => plan.rotate(true).ok(),
            Change::Retire => of(KeyState::Retiring).and_then(|kid| plan.retire(kid)),
            Change::Revoke(state) => of(state).and_then(|kid| plan.revoke(kid)),
            Change::Adopt => Some(plan.adopt()),
        };
        let Some(moves) = moves.filter(|moves| self.make(moves)) else { return };
        let anyway = matches!(change, Change::RotateAnyway | Change::Revoke(_));
        for made in moves {
            match made {
                // Before its time: nothing that it signed is good any more, as whoever asked for that was told.
                Move::Pass { key, to: KeyState::Retired | KeyState::Revoked, .. } if change != Change::Schedule => {
                    self.good.retain(|token| token.kid != key.kid);
                    self.ended.push(key.kid);
                }
                Move::Pass { key, to: KeyState::Active, times } => {
                    self.rotations += 1;
                    if anyway && self.schedule.known_from(&times) > then {
                        self.forced.push(key.kid);
                    }
                }
                Move::Add { state: KeyState::Active, .. } if anyway => self.forced.push(format!("k{}", self.made - 1)),
                _ => {}
            }
        }
    }

    fn has_lease(&self, node: usize) -> bool {
        self.nodes[node].ring.is_some() && self.now < self.nodes[node].read_at + COUNTED_ON
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Wait(time) => self.now += time,
            Action::Await(moment, before) => {
                let standby = self.rows.iter().find(|row| row.state == KeyState::Published);
                let at = match moment {
                    Moment::Known => standby.map(|standby| self.schedule.known_from(&standby.times)),
                    Moment::Due => self.schedule.next(ALG, &self.rows).map(|due| due.at),
                    Moment::Expiry => self.verifiers.iter().map(|(_, until)| *until).max(),
                };
                self.now = self.now.max(at.unwrap_or(0) - before);
            }
            Action::Turn(node, change) => {
                for action in [Action::Follow(node), Action::Begin(node, change), Action::Commit(node)] {
                    self.act(action);
                }
                for action in [Action::Follow(node), Action::Take(node), Action::Answer(node)] {
                    self.act(action);
                    self.holds();
                }
            }
            Action::Follow(node) => {
                let live = self.rows.iter().filter(|row| row.state.verifies()).cloned().collect();
                (self.nodes[node].ring, self.nodes[node].read_at) = (Some(live), self.now);
            }
            Action::Begin(node, change) if self.nodes[node].ring.is_some() => {
                let live = self.rows.iter().filter(|row| row.state.verifies()).cloned().collect();
                self.nodes[node].begun = Some((change, live, self.now));
            }
            Action::Commit(node) => {
                if let Some((change, keys, then)) = self.nodes[node].begun.take()
                    && self.now <= then + DEADLINE
                {
                    self.commit(change, &keys, then);
                }
            }
            Action::Crash(node) => self.nodes[node] = Node::default(),
            Action::Take(node) if self.has_lease(node) => {
                let signs = |key: &&Life| key.state == KeyState::Active;
                let active = self.nodes[node].ring.iter().flatten().find(signs).map(|key| key.kid.clone());
                self.nodes[node].taken = active.map(|kid| (kid, self.now));
            }
            Action::Answer(node) => {
                let Some((kid, iat)) = self.nodes[node].taken.take() else { return };
                // What `issue` asks before a token leaves: the key stands, and the lease holds.
                let stands = self.nodes[node].ring.iter().flatten().any(|key| key.kid == kid);
                if stands && self.has_lease(node) && self.now <= iat + REQUEST {
                    self.sign(kid, iat);
                }
            }
            Action::Fetch(verifier, node) => {
                let Some(ring) = &self.nodes[node].ring else { return };
                let keep = if self.has_lease(node) { MAX_AGE } else { 0 };
                let kids = ring.iter().map(|key| key.kid.clone()).collect();
                self.verifiers[verifier] = (kids, self.now + keep);
            }
            Action::Begin(..) | Action::Take(_) => {}
        }
    }

    fn sign(&mut self, kid: String, iat: Micros) {
        let Some(row) = self.rows.iter().find(|row| row.kid == kid) else { panic!("a key of nowhere") };
        if self.ended.contains(&kid) {
            // A node that has not heard yet; the command has not returned either.
            return;
        }
        assert_ne!(row.state, KeyState::Retired, "{kid} signs after it retired");
        let known = self.schedule.known_from(&row.times) <= iat;
        assert!(known || self.forced.contains(&kid), "{kid} signs before verifiers know it");
        if known {
            self.good.push(Token { kid, exp: iat + LIFETIME });
        }
    }

    fn holds(&mut self) {
        let now = self.now;
        self.good.retain(|token| now < token.exp);
        for state in [KeyState::Active, KeyState::Published] {
            // There is always a standby, too: it is published in the transaction that the one before takes over in.
            assert_eq!(self.rows.iter().filter(|row| row.state == state).count(), 1, "{state}");
        }
        for token in &self.good {
            for (kids, until) in &self.verifiers {
                assert!(now >= *until || kids.contains(&token.kid), "a verifier does not know {}", token.kid);
            }
            for node in 0..self.nodes.len() {
                let knows = self.nodes[node].ring.iter().flatten().any(|key| key.kid == token.kid);
                assert!(!self.has_lease(node) || knows, "a node does not know {}", token.kid);
            }
        }
    }
}

fn action() -> impl Strategy<Value = Action> {
    let wait = prop::sample::select(vec![1, 1, 2, 4, 8, 60, 150, 299, 310, 400, 700]);
    let change = prop_oneof![
        8 => Just(Change::Schedule),
        4 => Just(Change::Rotate),
        1 => Just(Change::RotateAnyway),
        1 => Just(Change::Retire),
        2 => Just(Change::Revoke(KeyState::Active)),
        1 => prop::sample::select(vec![KeyState::Published, KeyState::Retiring]).prop_map(Change::Revoke),
        1 => Just(Change::Adopt),
    ];
    let moment = prop::sample::select(vec![Moment::Known, Moment::Due, Moment::Expiry]);
    prop_oneof![
        4 => wait.prop_map(|seconds| Action::Wait(seconds * SECOND)),
        5 => (moment, 0..3_i64).prop_map(|(moment, before)| Action::Await(moment, before * SECOND)),
        7 => (0..3_usize, change.clone()).prop_map(|(node, change)| Action::Turn(node, change)),
        5 => (0..3_usize).prop_map(Action::Follow),
        4 => (0..3_usize, change).prop_map(|(node, change)| Action::Begin(node, change)),
        4 => (0..3_usize).prop_map(Action::Commit),
        1 => (0..3_usize).prop_map(Action::Crash),
        4 => (0..3_usize).prop_map(Action::Take),
        4 => (0..3_usize).prop_map(Action::Answer),
        4 => (0..3_usize, 0..3_usize).prop_map(|(verifier, node)| Action::Fetch(verifier, node)),
    ]
}

/// One round of a life in order, so that random orders meet keys of every age.
fn usual(seconds: i64) -> Vec<Action> {
    let mut actions = vec![Action::Wait(seconds * SECOND)];
    for node in 0..3 {
        actions.extend([Action::Follow(node), Action::Begin(node, Change::Schedule)]);
    }
    for node in 0..3 {
        actions.extend([Action::Commit(node), Action::Follow(node), Action::Take(node), Action::Answer(node)]);
        actions.push(Action::Fetch(node, node));
    }
    actions
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn i5_f24_no_order_of_things_makes_a_good_token_fail(
        rounds in prop::collection::vec(prop::collection::vec(action(), 0..60), 1..4),
        seconds in prop::sample::select(vec![1, 30, 200, 500]),
    ) {
        let mut world = World::new();
        for actions in rounds {
            for action in actions.into_iter().chain(usual(seconds)) {
                world.act(action);
                world.holds();
            }
        }
    }
}

#[test]
fn keys_move_on_as_long_as_somebody_is_there() {
    let mut world = World::new();
    for round in 0..1_000 {
        // One node after another is down for a while.
        world.act(Action::Crash(round / 50 % 3));
        for action in usual(10) {
            world.act(action);
            world.holds();
        }
    }
    // 10,000 seconds, a thousand each.
    assert!((9..=10).contains(&world.rotations), "{}", world.rotations);
    let live = world.rows.iter().filter(|row| row.state.verifies()).count();
    assert!((2..=3).contains(&live) && world.forced == ["k0"], "{:?}", world.rows);
}
