//! Signing in at a page, and out again: who gets in, what the pages are, and what others cannot make them do.

use std::collections::BTreeSet;

use sealwright::password::{HashSettings, PasswordHasher};
use sealwright::secret::Secret;
use sealwright::store::{audit, sessions};

use crate::browser::{Browser, Page};
use crate::support::{Server, both};

pub const PASSWORD: &str = "lantern gravel tuba omelette";
pub const OTHER: &str = "zebra quark ofen mond 88";

pub const PEOPLE: &str = r#"
[[user]]
username = "Ada"
password = "lantern gravel tuba omelette"
name = "Ada Lovelace"
email = "ada@example.com"
groups = ["staff"]

[[user]]
username = "grace"
password = "zebra quark ofen mond 88"

[[user]]
username = "gone"
password = "lantern gravel tuba omelette"
disabled = true

[[user]]
username = "empty"
"#;

pub async fn with_people(engine: crate::support::Engine) -> Server {
    let server = Server::with(engine, |config| {
        config.http.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    server.apply(PEOPLE).await;
    server
}

async fn events(server: &Server, kind: &str) -> Vec<audit::EventRow> {
    server.services.audit.flush(&server.services.db).await.unwrap();
    let all = server.services.db.read(|conn| Box::pin(audit::latest(conn, 1000))).await.unwrap();
    all.into_iter().filter(|event| event.kind == kind).collect()
}

/// What somebody sees who does not look at ids.
fn seen(page: &Page) -> (u16, String, BTreeSet<String>, String) {
    let mut text = page.text.clone();
    text = text.replace(&page.input("csrf"), "CSRF");
    for name in ["Ada", "gone", "empty", "nobody", "grace", "theirs"] {
        text = text.replace(&format!("value=\"{name}\""), "value=\"NAME\"");
    }
    let names = page.headers.keys().map(ToString::to_string).collect();
    (page.status, text, names, page.location().to_owned())
}

both! {
    async fn a_person_signs_in_and_out(engine) {
        let server = with_people(engine).await;
        let mut browser = Browser::stepwise(&server);
        let page = browser.get("/account").await;
        assert_eq!((page.status, page.location()), (303, format!("{}/login", server.issuer).as_str()));
        let page = browser.get("/login").await;
        assert_eq!(page.status, 200);
        for id in ["username", "password", "submit"] {
            assert!(page.text.contains(&format!("id=\"{id}\" name=\"{id}\"")), "{id}: {}", page.text);
        }
        // The name is the same whatever its case.
        let page = browser.sign_in(" aDA ", PASSWORD).await;
        assert_eq!((page.status, page.location()), (303, format!("{}/account", server.issuer).as_str()), "{}", page.text);
        let home = browser.get("/account").await;
        assert!(home.status == 200 && home.text.contains("Ada"), "{}", home.text);
        let [signed_in] = events(&server, "sign_in").await.try_into().unwrap();
        assert_eq!(signed_in.actor, format!("user:{}", signed_in.object));
        let sid = home.text.split("name=\"account\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        let out = browser.post("/account/sign-out", &[("csrf", &home.input("csrf")), ("account", &sid)]).await;
        assert_eq!((out.status, out.location()), (303, format!("{}/login", server.issuer).as_str()));
        assert_eq!(browser.get("/account").await.status, 303);
        assert_eq!(events(&server, "sign_out").await.len(), 1);
        server.stop().await;
    }

    /// T-120, T-121: unknown, wrong, switched off, without a password, locked, imported: one answer, and as much work.
    async fn t120_t121_whoever_does_not_get_in_learns_the_same(engine) {
        let server = with_people(engine).await;
        let passwords = &server.services.passwords;
        let light = HashSettings { memory_kib: 32, iterations: 1, concurrency: 1, queue: 8 };
        let light = PasswordHasher::new(light).unwrap().hash(&Secret::new(OTHER), None).await.unwrap();
        server.apply(&format!("[[user]]\nusername = \"theirs\"\npassword_hash = {light:?}")).await;
        // Locked for good.
        Browser::stepwise(&server).sign_in("grace", "wrong and wrong and wrong").await;
        server.place.run("UPDATE attempts SET n = 100 WHERE kind = 'account'").await;
        let mut answers = Vec::new();
        for username in ["Ada", "gone", "empty", "nobody", "grace", "theirs"] {
            let password = match username {
                "gone" => PASSWORD,
                "grace" => OTHER,
                _ => "wrong and wrong and wrong",
            };
            let mut browser = Browser::stepwise(&server);
            let before = passwords.spent();
            let page = browser.sign_in(username, password).await;
            assert_eq!(passwords.spent() - before, 64, "{username}: one hash of ours, whoever it is");
            assert!(page.text.contains("role=\"alert\""));
            assert_eq!(browser.get("/account").await.status, 303);
            answers.push(seen(&page));
        }
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
        let failed = events(&server, "sign_in.failed").await;
        assert_eq!(failed.len(), 5, "whose password was looked at");
        // Of whom nobody knows, and of what was not looked at, a sample.
        let grace = server.place.texts("SELECT sub FROM users WHERE username = 'grace'").await.remove(0);
        let mut samples: Vec<(String, String)> =
            events(&server, "request.refused").await.into_iter().map(|event| (event.details, event.object)).collect();
        samples.sort();
        let sample = |why: &str, object: &str| (format!("{{\"what\":\"sign_in\",\"error\":\"{why}\"}}"), object.to_owned());
        assert_eq!(samples, [sample("throttled", &grace), sample("unknown", "")]);
        assert!(failed.iter().all(|event| !event.details.contains("wrong and") && !event.object.contains("nobody")));
        let metrics = server.services.metrics.render();
        for (word, n) in [("wrong", 4), ("disabled", 1), ("unknown", 1), ("throttled", 1)] {
            // Each attempt is in the audit's counters, whether it has a row or not.
            let counted = format!("SELECT CAST(SUM(n) AS BIGINT) FROM usage_counters WHERE event = 'sign_in' AND outcome = '{word}'");
            assert_eq!(server.place.number(&counted).await, n, "{word}");
            assert!(metrics.contains(&format!("sealwright_sign_ins_total{{outcome=\"{word}\"}} {n}")), "{word}: {metrics}");
        }
        server.stop().await;
    }

    /// T-121: what is kept of an attempt is written later, so that who waits for the answer learns nothing of it.
    async fn t121_an_attempt_that_fails_costs_as_many_statements_whoever_it_is(engine) {
        let server = with_people(engine).await;
        let mut browser = Browser::stepwise(&server);
        let csrf = browser.token().await;
        let mut found = Vec::new();
        for username in ["Ada", "gone", "empty", "nobody"] {
            // The jobs of the node go on meanwhile: of some tries one meets none of them.
            let mut least = u64::MAX;
            for _ in 0..8 {
                let before = server.services.db.statements();
                let form = [("csrf", csrf.as_str()), ("username", username), ("password", PASSWORD)];
                let form = if username == "Ada" { [form[0], form[1], ("password", OTHER)] } else { form };
                assert_eq!(browser.post("/login", &form).await.status, 403, "{username}");
                least = least.min(server.services.db.statements() - before);
            }
            found.push(least);
        }
        assert!(found[0] > 0 && found.iter().all(|cost| *cost == found[0]), "{found:?}");
        server.stop().await;
    }

    /// Each attempt is counted; of those that nothing bounds there is a sample, with the address that they came from.
    async fn attempts_that_no_password_is_looked_at_for_are_counted_and_sampled(engine) {
        let server = with_people(engine).await;
        let mut browser = Browser::stepwise(&server);
        browser.address = Some("192.0.2.7".into());
        let csrf = browser.token().await;
        for _ in 0..150 {
            let page = browser.post("/login", &[("csrf", &csrf), ("username", ""), ("password", "s3cret and more")]).await;
            assert_eq!(page.status, 403);
        }
        let samples = events(&server, "request.refused").await;
        // Sixty a minute; another one may have begun.
        assert!((60..=120).contains(&samples.len()), "{}", samples.len());
        for event in samples {
            assert_eq!(event.details, "{\"what\":\"sign_in\",\"error\":\"malformed\"}");
            assert_eq!((event.address.as_str(), event.object.as_str(), event.actor.as_str()), ("192.0.2.7", "", "anonymous"));
            assert!(!event.request_id.is_empty());
        }
        let counted = "SELECT CAST(SUM(n) AS BIGINT) FROM usage_counters WHERE event = 'sign_in' AND outcome = 'malformed'";
        assert_eq!(server.place.number(counted).await, 150);
        server.stop().await;
    }

    /// T-183: refused before hashing, and never cut off.
    async fn t183_a_long_password_is_counted_and_not_cut_off(engine) {
        let server = with_people(engine).await;
        let long: String = ('\u{4e00}'..).take(256).collect();
        let file = format!("[[user]]\nusername = \"long\"\npassword = {long:?}");
        server.apply(&file).await;
        let mut browser = Browser::stepwise(&server);
        let cut: String = long.chars().take(255).collect();
        for wrong in [cut, format!("{long}x"), "x".repeat(5_000)] {
            assert_eq!(browser.sign_in("long", &wrong).await.status, 403);
        }
        assert!(server.services.metrics.render().contains("sealwright_sign_ins_total{outcome=\"malformed\"} 2"));
        let csrf = browser.token().await;
        let huge = "x".repeat(20 * 1024);
        let refused = browser.post("/login", &[("csrf", &csrf), ("username", "long"), ("password", &huge)]).await;
        assert_eq!(refused.status, 413);
        assert!(refused.header("content-type").starts_with("text/html"), "{refused:?}");
        assert_eq!(browser.sign_in("long", &long).await.status, 303);
        server.stop().await;
    }

    /// T-100, T-103: a form of another site, of another session, of an earlier state, or of another page does nothing.
    async fn t100_t103_only_our_own_form_in_its_own_session_signs_in(engine) {
        let server = with_people(engine).await;
        let mut browser = Browser::stepwise(&server);
        let csrf = browser.token().await;
        let form = |csrf: &str| [("csrf", csrf.to_owned()), ("username", "Ada".to_owned()), ("password", PASSWORD.to_owned())];
        let form = |csrf: &str| -> Vec<(String, String)> { form(csrf).map(|(a, b)| (a.to_owned(), b)).to_vec() };
        let own = server.issuer.clone();
        for headers in [
            vec![("sec-fetch-site", "cross-site"), ("origin", own.as_str())],
            vec![("sec-fetch-site", "same-site")],
            vec![("origin", "https://evil.example")],
            vec![("origin", "null")],
        ] {
            let owned = form(&csrf);
            let pairs: Vec<(&str, &str)> = owned.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
            assert_eq!(browser.post_with("/login", &pairs, &headers).await.status, 403, "{headers:?}");
        }
        // Without the cookie, and with somebody else's.
        let mut stranger = Browser::stepwise(&server);
        let theirs = stranger.token().await;
        for csrf in ["", "x", &theirs] {
            let owned = form(csrf);
            let pairs: Vec<(&str, &str)> = owned.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
            assert_eq!(browser.post("/login", &pairs).await.status, 403);
        }
        stranger.cookies.clear();
        let owned = form(&csrf);
        let pairs: Vec<(&str, &str)> = owned.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(stranger.post("/login", &pairs).await.status, 403);
        assert!(!server.services.metrics.render().contains("sealwright_sign_ins_total{"), "no password was looked at");
        // The right one works once.
        assert_eq!(browser.post("/login", &pairs).await.status, 303);
        assert_eq!(browser.post("/login", &pairs).await.status, 403);
        // A token of one form is nothing to another.
        let home = browser.get("/account").await;
        let mixed = [("csrf", home.input("csrf")), ("username", "grace".to_owned()), ("password", OTHER.to_owned())];
        let pairs: Vec<(&str, &str)> = mixed.iter().map(|(a, b)| (*a, b.as_str())).collect();
        assert_eq!(browser.post("/login", &pairs).await.status, 403);
        server.stop().await;
    }

    /// T-92, T-106: nobody frames a page, nobody keeps it, and what was posted is not posted on.
    async fn t92_t106_pages_are_strict(engine) {
        let server = with_people(engine).await;
        let mut browser = Browser::stepwise(&server);
        browser.sign_in("Ada", PASSWORD).await;
        for (path, forms) in [("/login", true), ("/account", true), ("/login?flow=nonsense", false), ("/consent", false)] {
            let page = browser.get(path).await;
            let policy = page.header("content-security-policy");
            for part in ["default-src 'none'", "style-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"] {
                assert!(policy.contains(part), "{path}: {policy}");
            }
            assert!(!policy.contains("unsafe") && !policy.contains("script-src") && !page.text.contains("<script"), "{path}");
            assert_eq!(page.header("x-frame-options"), "DENY");
            assert_eq!(page.header("cache-control"), "no-store");
            assert_eq!(page.header("referrer-policy"), if forms { "same-origin" } else { "no-referrer" }, "{path}");
            if !forms {
                assert_eq!(page.status, 400, "{path}");
                assert!(page.text.contains(page.header("x-request-id")), "{path}: the page names the request");
            }
            // What it loads is ours, is there, and may be kept.
            let css = page.text.split("href=\"").find(|part| part.contains(".css\"")).unwrap().split('"').next().unwrap();
            let css = browser.get(css).await;
            assert_eq!((css.status, css.header("content-type")), (200, "text/css; charset=utf-8"));
            assert!(css.header("cache-control").contains("immutable") && !css.text.contains("url(") && !css.text.contains("@import"));
        }
        assert_eq!(browser.get("/static/other.css").await.status, 404);
        server.stop().await;
    }

    /// T-90: what people type and what they are called is text, everywhere.
    async fn t90_nothing_that_is_typed_becomes_markup(engine) {
        let server = with_people(engine).await;
        let polyglot = "\"'><svg/onload=alert(1)></textarea>{{7*7}}<!--";
        server.apply(&format!("[[user]]\nusername = {polyglot:?}\npassword = {PASSWORD:?}")).await;
        let mut browser = Browser::stepwise(&server);
        let elements = |page: &Page| page.text.matches('<').count();
        let plain = Browser::stepwise(&server).sign_in("nobody", "wrong and wrong and wrong").await;
        let page = browser.sign_in(polyglot, "wrong and wrong and wrong").await;
        assert_eq!(elements(&page), elements(&plain), "{}", page.text);
        assert_eq!(browser.sign_in(polyglot, PASSWORD).await.status, 303);
        let home = browser.get("/account").await;
        assert!(!home.text.contains("<svg") && home.text.contains("svg/onload"), "{}", home.text);
        let page = browser.get("/login?flow=%22%3E%3Csvg%3E&other=%3Csvg%3E").await;
        assert!(page.status == 400 && !page.text.contains("<svg"));
        server.stop().await;
    }

    /// T-101: the id that a browser had before is worth nothing after, and one that we did not make is never taken.
    async fn t101_signing_in_changes_the_session_id(engine) {
        let server = with_people(engine).await;
        let mut browser = Browser::stepwise(&server);
        browser.token().await;
        let planted = browser.session().to_owned();
        assert_eq!(browser.sign_in("Ada", PASSWORD).await.status, 303);
        let first = browser.session().to_owned();
        assert_ne!(first, planted);
        let mut attacker = Browser::stepwise(&server);
        attacker.cookies.insert("sealwright".into(), planted);
        assert_eq!(attacker.get("/account").await.status, 303);
        // Again, as the same person.
        assert_eq!(browser.sign_in("Ada", PASSWORD).await.status, 303);
        assert_ne!(browser.session(), first);
        attacker.cookies.insert("sealwright".into(), first);
        assert_eq!(attacker.get("/account").await.status, 303);
        let invented = "AAAAAAAAAAAAAAAAAAAAAA".to_owned();
        attacker.cookies.insert("sealwright".into(), invented.clone());
        attacker.token().await;
        assert_ne!(attacker.session(), invented);
        server.stop().await;
    }

    /// T-26, T-102: people at one browser have nothing in common.
    async fn t26_t102_several_people_at_one_browser(engine) {
        let server = with_people(engine).await;
        let mut browser = Browser::stepwise(&server);
        browser.sign_in("Ada", PASSWORD).await;
        browser.sign_in("grace", OTHER).await;
        let home = browser.get("/account").await;
        assert!(home.text.contains("Ada") && home.text.contains("grace"));
        let sids: Vec<String> = home.text.split("name=\"account\" value=\"").skip(1)
            .map(|part| part.split('"').next().unwrap().to_owned()).collect();
        assert_eq!(sids.iter().collect::<BTreeSet<_>>().len(), 2);
        // One signs out, the other stays; the form of before is over.
        let csrf = home.input("csrf");
        let before = browser.session().to_owned();
        let out = browser.post("/account/sign-out", &[("csrf", &csrf), ("account", &sids[0])]).await;
        assert_eq!(out.status, 303);
        assert_ne!(browser.session(), before);
        let home = browser.get("/account").await;
        assert!(!home.text.contains(&sids[0]) && home.text.contains(&sids[1]));
        browser.post("/account/sign-out", &[("csrf", &csrf), ("account", &sids[1])]).await;
        assert!(browser.get("/account").await.text.contains(&sids[1]));
        // Somebody else's sign-in is not theirs to end.
        let mut other = Browser::stepwise(&server);
        other.sign_in("Ada", PASSWORD).await;
        let form = other.get("/account").await.input("csrf");
        other.post("/account/sign-out", &[("csrf", &form), ("account", &sids[1])]).await;
        assert!(browser.get("/account").await.text.contains(&sids[1]));
        // After the last one nothing is left of the browser's session.
        let (form, before) = (browser.get("/account").await.input("csrf"), browser.session().to_owned());
        browser.post("/account/sign-out", &[("csrf", &form), ("account", &sids[1])]).await;
        browser.sign_in("grace", OTHER).await;
        let sid = browser.get("/account").await.input("account");
        assert!(sid != sids[1] && sid != sids[0] && browser.session() != before);
        server.stop().await;
    }

    /// T-46: who is switched off, or has another password, is signed in nowhere, also not when switched on again.
    async fn t46_switching_off_signs_out_everywhere(engine) {
        let server = with_people(engine).await;
        let mut browser = Browser::stepwise(&server);
        browser.sign_in("Ada", PASSWORD).await;
        let off = PEOPLE.replace("username = \"Ada\"", "username = \"Ada\"\ndisabled = true");
        server.apply(&off).await;
        assert_eq!(browser.get("/account").await.status, 303);
        assert_eq!(browser.sign_in("Ada", PASSWORD).await.status, 403);
        // A file that is silent leaves it so: a command may have switched them off.
        server.apply(PEOPLE).await;
        assert_eq!(browser.sign_in("Ada", PASSWORD).await.status, 403);
        server.apply(&off.replacen("disabled = true", "disabled = false", 1)).await;
        assert_eq!(browser.get("/account").await.status, 303);
        assert_eq!(browser.sign_in("Ada", PASSWORD).await.status, 303);
        server.apply(&PEOPLE.replacen(PASSWORD, "another lantern gravel tuba", 1)).await;
        assert_eq!(browser.get("/account").await.status, 303);
        assert_eq!(browser.sign_in("Ada", PASSWORD).await.status, 403);
        assert_eq!(browser.sign_in("Ada", "another lantern gravel tuba").await.status, 303);
        server.stop().await;
    }

    /// A table that somebody read signs them in nowhere.
    async fn the_session_table_holds_no_cookie(engine) {
        let server = with_people(engine).await;
        let mut browser = Browser::stepwise(&server);
        browser.sign_in("Ada", PASSWORD).await;
        let raw = base64::Engine::decode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, browser.session()).unwrap();
        let hash = sealwright::secret::sha256(&raw);
        let (db, now) = (&server.services.db, server.clock.now());
        let found = db.read(move |conn| Box::pin(async move { sessions::get(conn, &hash, now).await })).await.unwrap();
        assert!(found.is_some_and(|(data, _)| data.contains("browser") && !data.contains("Ada")));
        server.stop().await;
    }

    /// RFC 6265bis §4.1.3.2: with https only we can set our cookies; on loopback http they are plain.
    async fn cookies_are_for_us_alone(engine) {
        let server = Server::with(engine, |config| {
            config.issuer = Some(sealwright::config::Issuer::parse("https://id.example.com/tenant").unwrap());
        })
        .await;
        server.apply(PEOPLE).await;
        let mut browser = Browser::stepwise(&server);
        let page = browser.get("/login").await;
        let cookie = page.header("set-cookie").to_owned();
        assert!(cookie.starts_with("__Host-sealwright="), "{cookie}");
        for part in ["HttpOnly", "Secure", "SameSite=Lax", "Path=/"] {
            assert!(cookie.split("; ").any(|known| known == part), "{part}: {cookie}");
        }
        assert!(!cookie.contains("Domain") && !cookie.contains("Max-Age"));
        let form = [("csrf", page.input("csrf")), ("username", "Ada".into()), ("password", PASSWORD.into())];
        let form: Vec<(&str, &str)> = form.iter().map(|(a, b)| (*a, b.as_str())).collect();
        let page = browser.post("/login", &form).await;
        assert_eq!((page.status, page.location()), (303, "https://id.example.com/tenant/account"), "{}", page.text);
        let known = page.headers.get_all("set-cookie").iter().map(|line| line.to_str().unwrap());
        let known = known.into_iter().find(|line| line.contains("-known-")).unwrap();
        assert!(known.starts_with("__Host-sealwright-known-") && known.contains("; Secure") && known.contains("; HttpOnly"));
        server.stop().await;
    }
}
