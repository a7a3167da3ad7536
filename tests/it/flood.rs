//! Floods of logins at the program itself: its memory stays within what is configured, and others are served.

use futures_util::StreamExt;
use futures_util::stream;
use reqwest::header::{COOKIE, RETRY_AFTER, SET_COOKIE};

use crate::browser::forms;
use crate::process::{Node, Process, command};
use crate::support::{Engine, FORM, encode, rounds};

/// Hashes at one time, and the memory of each in MiB.
const PERMITS: u64 = 2;
const MEMORY: u64 = 32;

/// The most memory that the process has had, in KiB.
fn peak(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.run.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The session's cookie and the form's token of a browser at the login page.
async fn form(process: &Process) -> (String, String) {
    let answer = process.http.get(format!("{}/login", process.url)).send().await.unwrap();
    let cookie = answer.headers()[SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned();
    let text = answer.text().await.unwrap();
    let hidden = forms(&text).remove(0).hidden;
    (cookie, hidden.into_iter().find(|(name, _)| name == "csrf").unwrap().1)
}

async fn login(process: &Process, n: usize, (cookie, csrf): &(String, String), password: &str) -> u16 {
    let username = format!("name{}", n % 50);
    let body = encode(&[("csrf", csrf), ("username", &username), ("password", password)]);
    let post = process.http.post(format!("{}/login", process.url)).header("content-type", FORM).header(COOKIE, cookie);
    let address = format!("198.18.{}.{}", n / 250, n % 250);
    let answer = post.header("x-forwarded-for", address).body(body).send().await.unwrap();
    let status = answer.status().as_u16();
    if status == 503 {
        assert!(answer.headers().contains_key(RETRY_AFTER), "who is sent away is told when to come again");
    }
    answer.bytes().await.unwrap();
    status
}

/// T-184, F-20: logins at once, far more than are computed at once: what is not computed waits in a bounded queue or is
/// sent away, and takes no memory of a hash. The keys are given out all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t184_f20_a_flood_of_logins_stays_within_its_memory() {
    let count = rounds(200).min(2000);
    let node = Node::new(Engine::Sqlite).await;
    let mut serve = command(&node.place.folder, &["serve", "--config", node.config.to_str().unwrap()]);
    serve.env("SEALWRIGHT_SECRETS__ARGON2_MEMORY_KIB", (MEMORY * 1024).to_string());
    serve.env("SEALWRIGHT_SECRETS__ARGON2_CONCURRENCY", PERMITS.to_string());
    serve.env("SEALWRIGHT_SECRETS__ARGON2_QUEUE", "16").env("SEALWRIGHT_HTTP__TRUSTED_PROXIES", "127.0.0.0/8");
    serve.env("SEALWRIGHT_SESSIONS__WAITING_PER_ADDRESS", "10000");
    let process = Process::start(serve, node.port, node.management).await;
    let shown: Vec<_> = stream::iter(0..count).map(|_| form(&process)).buffer_unordered(count).collect().await;
    // As many of the same at once, without a hash: what is too long for a password is refused before.
    let long = "x".repeat(300);
    let refused = stream::iter(shown.iter().enumerate()).map(|(n, form)| login(&process, n, form, &long));
    let refused: Vec<u16> = refused.buffer_unordered(count).collect().await;
    assert!(refused.iter().all(|status| *status == 403), "{refused:?}");
    let base = peak(&process);
    let mut logins = stream::iter(shown.iter().enumerate())
        .map(|(n, form)| login(&process, n, form, "wrong and wrong and wrong"))
        .buffer_unordered(count);
    let mut answers = [0; 2];
    while let Some(status) = logins.next().await {
        assert!([403, 503].contains(&status), "{status}");
        answers[usize::from(status == 503)] += 1;
        if answers.iter().sum::<usize>() % 50 == 1 {
            let keys = process.http.get(format!("{}/.well-known/jwks.json", process.url)).send().await.unwrap();
            assert_eq!(keys.status(), 200);
        }
    }
    // One more: the first of them may end before others wait for its memory, and what was freed is not given back at once.
    let (most, bound) = (peak(&process), base * 11 / 10 + (PERMITS + 1) * MEMORY * 1024);
    let [looked_at, sent_away] = answers;
    eprintln!(
        "T-184: {count} logins at once, {looked_at} looked at, {sent_away} sent away; {base} KiB before, {most} KiB at most, bound {bound} KiB"
    );
    assert!(looked_at > 0 && most <= bound, "{base} KiB before, {most} KiB at most, and {bound} KiB are the bound");
}
