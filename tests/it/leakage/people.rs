//! The same of people: passwords, codes, verifiers, refresh tokens, cookies, form tokens and hints.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;

use super::{BEARER, Canary, IMPORTED, Running, assert_none, misses, request};
use crate::browser::{Browser, Page};
use crate::edge::Wire;
use crate::support::{CHALLENGE, FORM, INTROSPECT, REVOKE, TOKEN, VERIFIER, basic, both, client, encode, until};

const ADA: (&str, &str) = ("ada", "canary gulls row 9 lamps home 7Kq");
const WRONG_PASSWORD: &str = "canary swans 5 tables upside Zx3";
/// Typed into the wrong field.
const TYPED: &str = "canary-typed-as-username-Rt88vBn";
const WRONG_VERIFIER: &str = "canary-wrong-verifier-Pq51mmWzGe-0123456789abcdef";
const CALLBACK: &str = "https://shop.example.com/cb";

/// Two people who share a password, and an application.
fn file() -> String {
    let password = ADA.1;
    format!(
        "[[user]]\nusername = \"ada\"\npassword = \"{password}\"\nname = \"Ada\"\n\
         [[user]]\nusername = \"gone\"\npassword = \"{password}\"\ndisabled = true\n\
         [[client]]\nclient_id = \"web\"\nclient_name = \"Web shop\"\nclient_secret = \"{IMPORTED}\"\n\
         grant_types = [\"authorization_code\", \"refresh_token\"]\nredirect_uris = [\"{CALLBACK}\"]\n\
         scope = \"openid profile offline_access\"\n"
    )
}

fn authorization(more: &[(&str, &str)]) -> String {
    let mut parameters = vec![
        ("client_id", "web"),
        ("redirect_uri", CALLBACK),
        ("response_type", "code"),
        ("scope", "openid profile offline_access"),
        ("state", "st"),
        ("code_challenge", CHALLENGE),
        ("code_challenge_method", "S256"),
    ];
    parameters.extend(more);
    format!("/oauth2/authorize?{}", encode(&parameters))
}

/// Everything that was seen, and what of the secrets belongs there.
#[derive(Default)]
struct Seen(Vec<(String, String, &'static [&'static str])>);

impl Seen {
    /// What a browser shows and keeps; cookies are set in their own lines.
    fn page(&mut self, what: &str, page: &Page, belongs: &'static [&'static str]) {
        let mut text = String::new();
        for (name, value) in page.headers.iter().filter(|(name, _)| *name != "set-cookie") {
            let _ = writeln!(text, "{name}: {}", value.to_str().unwrap());
        }
        text += &page.text;
        self.0.push((format!("{what} ({})", page.status), text, belongs));
    }

    fn check(&self, canaries: &[Canary]) {
        for (what, text, belongs) in &self.0 {
            for canary in canaries.iter().filter(|canary| !belongs.contains(&canary.name)) {
                assert_none(std::slice::from_ref(canary), what, text.as_bytes());
            }
        }
    }
}

/// A POST by the application; `None` when it has to be made again.
async fn post(running: &Running, path: &str, form: &[(&str, &str)]) -> (u16, String, Value) {
    let auth = basic("web", IMPORTED);
    let asked = request(&format!("POST {path}"), &[("Content-Type", FORM), ("Authorization", &auth)], &encode(form));
    let reply = Wire::new(&running.url).ask(&asked).await.unwrap();
    (reply.status, reply.text(), reply.json())
}

fn redeeming<'f>(code: &'f str, verifier: &'f str) -> [(&'f str, &'f str); 4] {
    [("grant_type", "authorization_code"), ("code", code), ("redirect_uri", CALLBACK), ("code_verifier", verifier)]
}

fn refreshing(token: &str) -> [(&str, &str); 2] {
    [("grant_type", "refresh_token"), ("refresh_token", token)]
}

fn signature(token: &str) -> &str {
    token.rsplit('.').next().unwrap()
}

/// Another code for who is signed in already, and has agreed.
async fn code(browser: &mut Browser) -> String {
    let mut code = None;
    until("a code is given", async || {
        let page = browser.get(&authorization(&[])).await;
        code = page.away.as_ref().and_then(|_| page.parameter("code"));
        code.is_some()
    })
    .await;
    code.unwrap()
}

/// The answer to a good token request, once there is one.
async fn tokens(running: &Running, form: &[(&str, &str)]) -> Value {
    let mut given = Value::Null;
    until("tokens are given", async || {
        let (status, text, json) = post(running, TOKEN, form).await;
        assert!([200, 503].contains(&status), "{text}");
        given = json;
        status == 200
    })
    .await;
    given
}

/// A person's whole way, with what goes wrong on it: the secrets that it met.
async fn way(running: &Running, browser: &mut Browser, seen: &mut Seen) -> Vec<Canary> {
    let forms: &[&str] = &["a form token", "a consent's form token"];
    let mut canaries = vec![
        Canary::new("the password", ADA.1),
        Canary::new("the wrong password", WRONG_PASSWORD),
        Canary::new("what was typed as a username", TYPED),
        Canary::new("the verifier", VERIFIER),
        Canary::new("the wrong verifier", WRONG_VERIFIER),
        Canary::new("the client's secret", IMPORTED),
    ];
    let mut add = |name: &'static str, text: &str| canaries.push(Canary::new(name, text));
    let login = browser.get(&authorization(&[])).await;
    seen.page("the sign-in page", &login, forms);
    add("a form token", &login.input("csrf"));
    add("the cookie of before", browser.session());
    for (username, password) in [(ADA.0, WRONG_PASSWORD), ("nobody", WRONG_PASSWORD), ("gone", ADA.1), (TYPED, ADA.1)] {
        let page = browser.fill_in(&login, (username, password)).await;
        assert_eq!(page.status, 403);
        seen.page("a refused sign-in", &page, &["a form token", "what was typed as a username"]);
    }
    let page = browser.press(&login, "submit", &[("username", ADA.0), ("password", ADA.1), ("csrf", BEARER)]).await;
    assert_eq!(page.status, 403);
    seen.page("a form of nobody", &page, &["a form token"]);
    let consent = browser.fill_in(&login, ADA).await;
    seen.page("the consent page", &consent, forms);
    add("a consent's form token", &consent.input("csrf"));
    add("the session's cookie", browser.session());
    let known = browser.cookies.iter().find(|(name, _)| name.contains("-known-")).unwrap().1.clone();
    add("the known browser's cookie", &known);
    let page = browser.press(&consent, "approve", &[]).await;
    let wrong = page.parameter("code").unwrap();
    seen.page("the answer to the client", &page, &["the code for a wrong verifier"]);
    add("the code for a wrong verifier", &wrong);
    let late = code(browser).await;
    add("the late code", &late);
    let other = code(browser).await;
    add("the code", &other);

    let mut refusals = String::new();
    refusals += &post(running, TOKEN, &redeeming(&wrong, WRONG_VERIFIER)).await.1;
    refusals += &post(running, TOKEN, &redeeming(&wrong, VERIFIER)).await.1;
    running.place.run("UPDATE grants SET code_expires_at = 1 WHERE code_used_at IS NULL").await;
    refusals += &post(running, TOKEN, &redeeming(&late, VERIFIER)).await.1;
    let good = code(browser).await;
    add("the good code", &good);
    let first = tokens(running, &redeeming(&good, VERIFIER)).await;
    let second = tokens(running, &refreshing(first["refresh_token"].as_str().unwrap())).await;
    for (given, access, refresh) in
        [(&first, "an access token", "a refresh token"), (&second, "the next access token", "the next refresh token")]
    {
        add(access, signature(given["access_token"].as_str().unwrap()));
        add(refresh, given["refresh_token"].as_str().unwrap());
    }
    let (id_token, access) = (first["id_token"].as_str().unwrap(), second["access_token"].as_str().unwrap());
    add("the ID token", signature(id_token));

    let asked = request("GET /userinfo", &[("Authorization", &format!("Bearer {access}"))], "");
    let told = Wire::new(&running.url).ask(&asked).await.unwrap();
    assert_eq!(told.status, 200);
    let refresh = second["refresh_token"].as_str().unwrap();
    let mut answers = told.text() + &post(running, INTROSPECT, &[("token", refresh)]).await.1;
    for (name, value) in [("id_token_hint", id_token), ("id_token_hint", access), ("login_hint", ADA.1)] {
        let page = browser.get(&authorization(&[(name, value), ("prompt", "none")])).await;
        let fresh = page.parameter("code");
        seen.page("the answer to a hint", &page, &["the code of a hint"]);
        if let Some(code) = fresh {
            add("the code of a hint", &code);
        }
    }
    // The code again: everything of it is taken back.
    refusals += &post(running, TOKEN, &redeeming(&good, VERIFIER)).await.1;
    refusals += &post(running, TOKEN, &refreshing(refresh)).await.1;
    answers += &post(running, REVOKE, &[("token", refresh)]).await.1;
    let page = browser.get(&format!("/logout?{}", encode(&[("id_token_hint", access)]))).await;
    seen.page("the page that asks", &page, &["a logout's form token"]);
    add("a logout's form token", &page.input("csrf"));
    let page = browser.get(&format!("/logout?{}", encode(&[("id_token_hint", id_token)]))).await;
    seen.page("the page after signing out", &page, &[]);
    // Again, at a browser that the account knows.
    let login = browser.get(&authorization(&[])).await;
    seen.page("the sign-in page", &login, &["a known browser's form token"]);
    add("a known browser's form token", &login.input("csrf"));
    let page = browser.fill_in(&login, (ADA.0, WRONG_PASSWORD)).await;
    assert_eq!(page.status, 403);
    seen.page("a refused sign-in", &page, &["a known browser's form token"]);
    let page = browser.fill_in(&login, ADA).await;
    let last = page.parameter("code").unwrap();
    seen.page("the answer to the client", &page, &["the last code"]);
    add("the last code", &last);
    add("the next session's cookie", browser.session());
    seen.0.push(("a refusal of the token endpoint".to_owned(), refusals, &[]));
    seen.0.push(("an answer that shows no token".to_owned(), answers, &[]));
    canaries
}

/// Where people's secrets could be put, by right or by mistake.
const FIELDS: [&str; 14] = [
    "password",
    "code",
    "code_verifier",
    "refresh_token",
    "csrf",
    "flow",
    "stored",
    "id_token_hint",
    "client_id",
    "redirect_uri",
    "post_logout_redirect_uri",
    "claims",
    "scope",
    "account",
];

/// Each of `secrets` in each field of each of people's endpoints, and in headers; no refusal shows one.
async fn tell_everywhere(running: &Running, secrets: &[String], canaries: &[Canary]) {
    for path in ["/oauth2/authorize", "/login", "/consent", "/logout", "/userinfo", "/account/sign-out", TOKEN] {
        for secret in secrets {
            let cookie = format!("sealwright={secret}; sealwright-known-AAAAAAAAAAAA={secret}");
            let bearer = format!("Bearer {secret}");
            let mut requests = vec![
                request(
                    &format!("GET {path}"),
                    &[("Cookie", &cookie), ("Referer", &format!("https://a.test/?code={secret}"))],
                    "",
                ),
                request(&format!("POST {path}"), &[("Authorization", &bearer), ("Content-Type", FORM)], "a=b"),
            ];
            for name in FIELDS {
                let form = encode(&[(name, secret)]);
                requests.push(request(&format!("POST {path}"), &[("Content-Type", FORM)], &form));
                requests.push(request(&format!("GET {path}?{form}"), &[], ""));
            }
            for asked in requests {
                let Some(reply) = Wire::new(&running.url).ask(&asked).await else { continue };
                // A client's POST to the logout endpoint goes on as a GET of the same.
                if reply.status != 200 && !(path == "/logout" && reply.status == 303) {
                    assert_none(canaries, &format!("{path} ({})", reply.status), reply.text().as_bytes());
                }
            }
        }
    }
}

/// People's requests while one table after the other is missing: no answer shows a canary. What is to be looked for
/// from now on besides.
async fn tell_while_the_database_fails(running: &Running, canaries: &[Canary]) -> Vec<Canary> {
    let mut told = Vec::new();
    for table in ["users", "sessions", "sign_ins", "grants", "consents", "attempts", "artifacts", "audit_events"] {
        let mut browser = Browser::at(&running.url);
        browser.go_through(&authorization(&[]), ADA).await;
        let given = tokens(running, &redeeming(&code(&mut browser).await, VERIFIER)).await;
        let text = |name: &str| given[name].as_str().unwrap().to_owned();
        let (waiting, refresh, access, id_token) =
            (code(&mut browser).await, text("refresh_token"), text("access_token"), text("id_token"));
        let mut other = Browser::at(&running.url);
        let login = other.get(&authorization(&[])).await;
        let consent = browser.get(&authorization(&[("prompt", "consent")])).await;
        let fresh = [
            Canary::new("a waiting code", &waiting),
            Canary::new("a fresh refresh token", &refresh),
            Canary::new("a fresh ID token", signature(&id_token)),
            Canary::new("a fresh access token", signature(&access)),
            Canary::new("a fresh session's cookie", browser.session()),
        ];
        let logged = running.log().len();
        running.place.run(&format!("ALTER TABLE {table} RENAME TO gone")).await;
        let mut seen = Seen::default();
        seen.page("sign-in", &other.fill_in(&login, ADA).await, &[]);
        seen.page("sign-in", &other.fill_in(&login, ("ada", WRONG_PASSWORD)).await, &[]);
        seen.page("consent", &browser.press(&consent, "approve", &[]).await, &[]);
        seen.page("authorization", &browser.get(&authorization(&[("id_token_hint", &id_token)])).await, &[]);
        let mut said = String::new();
        for (path, form) in [
            (TOKEN, &redeeming(&waiting, VERIFIER)[..]),
            (TOKEN, &refreshing(&refresh)),
            (INTROSPECT, &[("token", &refresh)]),
            (REVOKE, &[("token", &refresh)]),
        ] {
            let (status, text, _) = post(running, path, form).await;
            if status != 200 {
                said += &text;
            }
        }
        let asked = request("GET /userinfo", &[("Authorization", &format!("Bearer {access}"))], "");
        said += &Wire::new(&running.url).ask(&asked).await.unwrap().text();
        seen.page("account", &browser.get("/account").await, &[]);
        seen.page("logout", &browser.get(&format!("/logout?{}", encode(&[("id_token_hint", &id_token)]))).await, &[]);
        until(&format!("{table} is missed"), async || misses(&running.log()[logged..], table)).await;
        running.place.run(&format!("ALTER TABLE gone RENAME TO {table}")).await;
        seen.0.push((format!("what is said without {table}"), said, &[]));
        for canaries in [canaries, &fresh] {
            seen.check(canaries);
        }
        told.extend(fresh);
    }
    told
}

both! {
    async fn t174_f28_no_secret_of_a_person_is_seen_anywhere_but_where_it_belongs(engine) {
        // Everything, and by name what is told of sessions, which may be quiet else.
        let filter = "trace,tower_sessions=trace,tower_sessions_core=trace";
        let running = Running::start(engine, &format!("[log]\nfilter = \"{filter}\"\n")).await;
        let applied = running.apply(&file());
        let (mut browser, mut seen) = (Browser::at(&running.url), Seen::default());
        let mut canaries = way(&running, &mut browser, &mut seen).await;
        assert!(seen.0.len() > 12);
        seen.check(&canaries);
        let secrets: Vec<String> = [ADA.1, VERIFIER, TYPED].map(str::to_owned).into_iter().chain(browser.cookies.values().cloned()).collect();
        tell_everywhere(&running, &secrets, &canaries).await;
        canaries.extend(tell_while_the_database_fails(&running, &canaries).await);

        // A second's flush, and then everything that can be read.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let metrics = client().get(format!("{}/metrics", running.management)).send().await.unwrap().text().await.unwrap();
        assert_none(&canaries, "the metrics", metrics.as_bytes());
        assert_none(&canaries, "the talk of apply", &[applied.stdout, applied.stderr].concat());
        let output = running.command(&["export"]);
        assert_none(&canaries, "the export", &[output.stdout, output.stderr].concat());
        if engine == crate::support::Engine::Postgres {
            let tables = "SELECT table_name::text FROM information_schema.tables WHERE table_schema = current_schema()";
            let tables = running.place.texts(tables).await;
            assert!(tables.len() > 20, "{tables:?}");
            for table in tables {
                // Bytes are in hexadecimal there.
                let rows = running.place.texts(&format!("SELECT t::text FROM {table} t")).await;
                assert_none(&canaries, &table, rows.join("\n").as_bytes());
            }
        }
        for entry in std::fs::read_dir(&running.place.folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if name.starts_with("test.db") {
                assert_none(&canaries, name, &std::fs::read(&path).unwrap());
            }
        }
        let log = running.ended();
        for target in ["sealwright", "sqlx", "tower_sessions"] {
            assert!(log.contains(&format!("\"target\":\"{target}")), "{target} says nothing");
        }
        assert_none(&canaries, "the log", log.as_bytes());
    }
}
