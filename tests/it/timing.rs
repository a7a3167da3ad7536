//! T-48: how long a comparison takes says nothing about how much of a secret was right. T-121: how long a sign-in takes
//! that fails says nothing about why. The times of few are shown; `tests/long.sh timing` takes 100,000 of each class
//! (5,000 of the sign-ins), and judges them by security.md's bounds.

use std::hint::black_box;
use std::time::Instant;

use sealwright::password::{HashSettings, PasswordHasher};
use sealwright::secret::{Secret, equal, sha256};
use sealwright::users::throttle;

use crate::browser::Browser;
use crate::login::{OTHER, PASSWORD, PEOPLE};
use crate::support::{EXAMPLE, Engine, FORM, Server, TOKEN, basic, rounds};

/// Mean and variance of one class, as they come in (Welford).
#[derive(Default)]
struct Class {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Class {
    fn add(&mut self, value: f64) {
        self.count += 1.0;
        let away = value - self.mean;
        self.mean += away / self.count;
        self.squares += away * (value - self.mean);
    }

    fn error(&self) -> f64 {
        self.squares / (self.count - 1.0) / self.count
    }
}

/// Welch's t of two classes, without the slowest tenth of all: that is the machine's other work.
fn welch(times: &[Vec<u64>; 2]) -> f64 {
    let mut all = times.concat();
    all.sort_unstable();
    let bound = all[all.len() * 9 / 10];
    let [a, b] = [0, 1].map(|class| {
        let mut kept = Class::default();
        for time in times[class].iter().filter(|time| **time <= bound) {
            kept.add(number(*time));
        }
        kept
    });
    let t = (a.mean - b.mean) / (a.error() + b.error()).sqrt();
    eprintln!("    means {:.1} ns and {:.1} ns, {} and {} samples, t = {t:.2}", a.mean, b.mean, a.count, b.count);
    t
}

/// How far the medians of two classes are apart, as a share of the first; and the largest distance of their distributions
/// (Kolmogorov and Smirnov), in units of the one that chance alone exceeds once in a hundred times.
fn apart(times: &[Vec<u64>; 2]) -> (f64, f64) {
    let [mut a, mut b] = times.clone();
    a.sort_unstable();
    b.sort_unstable();
    let [n, m] = [&a, &b].map(|class| number(class.len()));
    let share = |class: &[u64], count: f64, time: u64| number(class.partition_point(|other| *other <= time)) / count;
    let distance = a.iter().chain(&b).map(|time| (share(&a, n, *time) - share(&b, m, *time)).abs()).fold(0.0, f64::max);
    let [median, other] = [&a, &b].map(|class| number(class[class.len() / 2]));
    let (medians, distance) = ((median - other).abs() / median, distance / (1.628 * ((n + m) / (n * m)).sqrt()));
    eprintln!(
        "    medians {:.3} ms, {:.2} % apart; distributions {distance:.2} of p = 0.01",
        median / 1e6,
        medians * 100.0
    );
    (medians, distance)
}

/// Four seconds in nanoseconds, and as many samples, are the most.
fn number(whole: impl TryInto<u32>) -> f64 {
    f64::from(whole.try_into().unwrap_or(u32::MAX))
}

/// Few samples of a busy machine prove nothing.
fn are_judged() -> bool {
    std::env::var_os("SEALWRIGHT_LONG").is_some()
}

/// Which class is next: by the bytes of a hash, so that neither comes always first.
fn class(at: usize) -> usize {
    usize::from(sha256(&at.to_le_bytes())[0] & 1)
}

fn nanoseconds(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[test]
fn t48_timing_of_the_comparison() {
    let known = sha256(b"known");
    let mut near = known;
    near[31] ^= 1;
    let far = known.map(|byte| !byte);
    let presented = [near, far];
    let mut times = [Vec::new(), Vec::new()];
    let mut leaky = [Vec::new(), Vec::new()];
    for at in 0..rounds(2000) * 2 {
        let (class, repeats) = (class(at), 64);
        let begun = Instant::now();
        for _ in 0..repeats {
            black_box(equal(black_box(&known), black_box(&presented[class])));
        }
        times[class].push(nanoseconds(begun));
        // What a comparison that stops at the first difference looks like here.
        let begun = Instant::now();
        for _ in 0..repeats {
            black_box(black_box(&known).iter().zip(black_box(&presented[class])).all(|(a, b)| a == b));
        }
        leaky[class].push(nanoseconds(begun));
    }
    eprintln!("T-48, 64 comparisons of 32 bytes, equal but for the last against different from the first:");
    let t = welch(&times);
    eprintln!("T-48, the same by a comparison that stops early, for scale:");
    let leak = welch(&leaky);
    if are_judged() {
        assert!(t.abs() < 4.5, "t = {t}");
        assert!(leak.abs() > 4.5, "what leaks is not seen: t = {leak}");
    }
}

/// `secret` with as many of its letters as `kept` says, then others, and a right checksum.
fn like(secret: &str, kept: usize) -> String {
    const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let other = |letter: char| if letter == 'a' { 'b' } else { 'a' };
    let body = &secret[..47];
    let mut text: String =
        body.chars().enumerate().map(|(at, letter)| if at < 4 + kept { letter } else { other(letter) }).collect();
    for byte in &sha256(text.as_bytes())[..6] {
        text.push(char::from(LETTERS[usize::from(*byte) % 62]));
    }
    text
}

/// Over the real endpoint: a secret that is right but for its last letter, against one that has none right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t48_timing_of_the_endpoint() {
    let server = Server::empty(Engine::Sqlite).await;
    let secret = server.apply(EXAMPLE).await[0].secret.expose().to_owned();
    assert_eq!(like(&secret, 43), secret, "a right checksum");
    let presented = [42, 0].map(|kept| basic("edge-gateway", &like(&secret, kept)));
    let mut times = [Vec::new(), Vec::new()];
    for at in 0..rounds(200) * 2 {
        let class = class(at);
        let request = server.http.post(format!("{}{TOKEN}", server.url)).header("content-type", FORM);
        let request = request.header("authorization", &presented[class]).body("grant_type=client_credentials");
        let begun = Instant::now();
        let answer = request.send().await.unwrap();
        times[class].push(nanoseconds(begun));
        assert_eq!(answer.status(), 401);
        answer.bytes().await.unwrap();
    }
    eprintln!("T-48, the token endpoint, a secret right but for its last letter against one with none right:");
    let t = welch(&times);
    assert!(!are_judged() || t.abs() < 4.5, "t = {t}");
}

/// T-121: a sign-in fails for a name that nobody has, a wrong password, somebody switched off, an account that is locked,
/// somebody without a password, and a password that was imported at half the cost of ours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t121_timing_of_failed_sign_ins() {
    const WRONG: &str = "wrong and wrong and wrong";
    const CLASSES: [(&str, &str); 6] =
        [("Ada", WRONG), ("nobody", WRONG), ("gone", PASSWORD), ("grace", OTHER), ("empty", WRONG), ("theirs", WRONG)];
    let server = Server::with(Engine::Sqlite, |config| {
        config.http.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
        config.secrets.argon2_memory_kib = 7168;
        config.secrets.argon2_iterations = 2;
    })
    .await;
    let settings = HashSettings { memory_kib: 7168, iterations: 1, concurrency: 1, queue: 8 };
    let theirs = PasswordHasher::new(settings).unwrap().hash(&Secret::new(PASSWORD), None).await.unwrap();
    server.apply(&format!("{PEOPLE}\n[[user]]\nusername = \"theirs\"\npassword_hash = {theirs:?}")).await;
    let mut browsers = Vec::new();
    for _ in CLASSES {
        let mut browser = Browser::stepwise(&server);
        let csrf = browser.token().await;
        browsers.push((browser, csrf));
    }
    let people = server.services.db.read(|conn| Box::pin(sealwright::store::users::page(conn, "", 100))).await.unwrap();
    let sub = |name: &str| people.iter().find(|row| row.username == name).map(|row| row.sub.clone());
    // Locked for good.
    Browser::stepwise(&server).sign_in("grace", WRONG).await;
    server.place.run("UPDATE attempts SET n = 100 WHERE kind = 'account'").await;
    let mut times: [Vec<u64>; 6] = Default::default();
    for at in 0..rounds(10).min(5000) {
        for turn in 0..CLASSES.len() {
            // In another order each time.
            let class = (turn + at * 5) % CLASSES.len();
            let (username, password) = CLASSES[class];
            if let Some(sub) = sub(username).filter(|_| username != "grace") {
                let forget =
                    server.services.db.write(move |tx| Box::pin(async move { throttle::forget(tx, &sub).await }));
                forget.await.unwrap();
            }
            let name = if username == "nobody" { format!("nobody{at}") } else { username.to_owned() };
            let (browser, csrf) = &mut browsers[class];
            // No address tries too often.
            browser.address = Some(format!("2001:db8:{at:x}:{class:x}::1"));
            let form = [("csrf", csrf.as_str()), ("username", name.as_str()), ("password", password)];
            let begun = Instant::now();
            let page = browser.post("/login", &form).await;
            times[class].push(nanoseconds(begun));
            assert_eq!(page.status, 403);
        }
    }
    let metrics = server.services.metrics.render();
    for outcome in ["unknown", "wrong", "disabled", "throttled"] {
        assert!(metrics.contains(&format!("sealwright_sign_ins_total{{outcome=\"{outcome}\"}} ")), "{metrics}");
    }
    let [wrong, others @ ..] = times;
    for ((name, _), times) in CLASSES[1..].iter().zip(others) {
        eprintln!("T-121, a failed sign-in, a wrong password against {name}:");
        let (medians, distance) = apart(&[wrong.clone(), times]);
        assert!(!are_judged() || medians < 0.02 && distance < 1.0, "{name}: {medians}, {distance}");
    }
}
