//! `/account`: what a person granted, where else they are signed in, another password; and the pages that say where
//! nothing is.

use serde_json::Value;

use crate::browser::{Browser, Page, parameter};
use crate::people::{ADA, BOB, PEOPLE, WEB, authorization_url, tokens, tokens_with};
use crate::support::{Answer, Engine, Server, TOKEN, both};

const NEW: &str = "otter basil trumpet 51 quilt";

fn text<'j>(tokens: &'j Value, name: &str) -> &'j str {
    tokens[name].as_str().unwrap_or_else(|| panic!("no {name}: {tokens}"))
}

/// What userinfo says to the bearer of an access token.
async fn userinfo(server: &Server, tokens: &Value) -> u16 {
    let bearer = format!("Bearer {}", text(tokens, "access_token"));
    let answer = server.http.get(format!("{}/userinfo", server.url)).header("authorization", bearer).send().await;
    answer.unwrap().status().as_u16()
}

async fn refresh(server: &Server, tokens: &Value) -> Answer {
    let form = [("grant_type", "refresh_token"), ("refresh_token", text(tokens, "refresh_token"))];
    server.post(TOKEN, Some((WEB.0, WEB.1)), &form).await
}

async fn people(engine: Engine) -> Server {
    let server = Server::empty(engine).await;
    server.apply(PEOPLE).await;
    server
}

fn events(kind: &str) -> String {
    format!("SELECT COUNT(*) FROM audit_events WHERE kind = '{kind}'")
}

#[track_caller]
fn field<'p>(page: &'p Page, id: &str) -> &'p str {
    let at = page.text.find(&format!(" id=\"{id}\"")).unwrap_or_else(|| panic!("{}", page.text));
    let start = page.text[..at].rfind('<').unwrap();
    page.text[start..].split('>').next().unwrap()
}

#[track_caller]
fn assert_out_of_date(page: &Page) {
    assert_eq!(page.status, 403, "{}", page.text);
    assert!(page.text.contains("This page was out of date") && page.text.contains("<title>Error: "), "{}", page.text);
}

both! {
    async fn what_was_granted_is_shown_in_words_and_taken_back(engine) {
        let server = people(engine).await;
        let (mut ada, mut bob) = (Browser::new(&server), Browser::new(&server));
        let hers = tokens(&server, &mut ada, ADA, "openid profile offline_access orders:read").await;
        let his = tokens(&server, &mut bob, BOB, "openid offline_access").await;
        let page = ada.get("/account").await;
        for words in ["Web shop", "<small>at shop.example.com</small> <small>since 20", "About you", "See your name and profile", "Orders API",
            "Read orders", "Also while you are away.", "Take back access of Web shop"] {
            assert!(page.text.contains(words), "{words}: {}", page.text);
        }
        assert!(!page.text.contains("See your e-mail address"));
        // Nobody else's page does it, nor another session's form, nor one of another kind.
        let csrf = page.text.split("/account/withdraw").nth(1).unwrap().split("name=\"csrf\" value=\"").nth(1).unwrap();
        let csrf = csrf.split('"').next().unwrap().to_owned();
        let form = |csrf: &str| [("csrf", csrf.to_owned()), ("who", page.input("who")), ("client", "web".to_owned())];
        let good = form(&csrf);
        let pairs: Vec<(&str, &str)> = good.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let foreign = ada.post_with("/account/withdraw", &pairs, &[("sec-fetch-site", "cross-site")]).await;
        assert_eq!(foreign.status, 403);
        for wrong in ["", &page.input("csrf"), &bob.get("/account").await.input("csrf")] {
            let bad = form(wrong);
            let pairs: Vec<(&str, &str)> = bad.iter().map(|(name, value)| (*name, value.as_str())).collect();
            assert_out_of_date(&ada.post("/account/withdraw", &pairs).await);
        }
        assert_eq!(userinfo(&server, &hers).await, 200, "nothing has happened");
        let node = if engine == Engine::Postgres { Some(server.another().await) } else { None };
        let page = ada.press(&page, "client", &[]).await;
        assert!(page.is_at("/account") && page.text.contains("The access of Web shop is taken back."), "{}", page.text);
        assert!(page.text.contains("No application has access."), "{}", page.text);
        // Said once.
        assert!(!ada.get("/account").await.text.contains("is taken back."));
        for server in [Some(&server), node.as_ref()].into_iter().flatten() {
            assert_eq!(userinfo(server, &hers).await, 401, "no node takes it");
        }
        refresh(&server, &hers).await.assert_error(400, "invalid_grant");
        assert_eq!(userinfo(&server, &his).await, 200, "what others granted stands");
        assert_eq!(refresh(&server, &his).await.status, 200);
        assert_eq!(server.place.number(&events("consent.withdrawn")).await, 1);
        let again = ada.get(&authorization_url(&server, "openid", &[("prompt", "none")])).await;
        assert_eq!(again.parameter("error").as_deref(), Some("consent_required"));
    }

    /// Nobody has anything by a code that was used up for nothing.
    async fn a_burnt_code_is_no_access(engine) {
        let server = Server::empty(engine).await;
        server.apply(&PEOPLE.replacen("client_id = \"web\"", "client_id = \"web\"\nskip_consent = true", 1)).await;
        let mut browser = Browser::new(&server);
        for (verifier, status, words) in [
            ("wrong-verifier-wrong-verifier-wrong-verifier", 400, "No application has access."),
            (crate::support::VERIFIER, 200, "Take back access of Web shop"),
        ] {
            let page = browser.go_through(&authorization_url(&server, "openid offline_access", &[]), ADA).await;
            let code = page.parameter("code").unwrap();
            let form = [("grant_type", "authorization_code"), ("code", &code), ("redirect_uri", WEB.2), ("code_verifier", verifier)];
            assert_eq!(server.post(TOKEN, Some((WEB.0, WEB.1)), &form).await.status, status);
            let home = browser.get("/account").await;
            assert!(home.text.contains(words), "{words}: {}", home.text);
        }
    }

    async fn what_was_taken_back_meanwhile_is_no_yes_any_more(engine) {
        let server = people(engine).await;
        let mut browser = Browser::new(&server);
        let page = browser.get(&authorization_url(&server, "openid", &[])).await;
        let consent = browser.fill_in(&page, ADA).await;
        let mut step = Browser::stepwise(&server);
        step.cookies = browser.cookies.clone();
        let agreed = step.press(&consent, "approve", &[]).await;
        let account = step.get("/account").await;
        assert_eq!(step.press(&account, "client", &[]).await.status, 303);
        browser.cookies = step.cookies;
        let asked = browser.get(agreed.location()).await;
        assert!(asked.is_at("/consent") && asked.has("approve"), "{}", asked.text);
        assert!(browser.press(&asked, "approve", &[]).await.parameter("code").is_some());
    }

    /// T-103: what a form did it does not do again, whatever has come up since.
    async fn t103_each_form_is_good_once(engine) {
        let server = people(engine).await;
        let (mut here, mut there) = (Browser::new(&server), Browser::new(&server));
        tokens(&server, &mut here, ADA, "openid profile").await;
        there.sign_in(ADA.0, ADA.1).await;
        let used = here.get("/account").await;
        assert!(here.press(&used, "client", &[]).await.text.contains("is taken back."));
        assert_out_of_date(&here.press(&used, "client", &[]).await);
        tokens(&server, &mut here, ADA, "openid profile").await;
        let used = here.get("/account").await;
        let (button, sid) = ("session", used.text.split("name=\"session\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned());
        assert!(here.press(&used, button, &[(button, &sid)]).await.text.contains("signed out"));
        assert_out_of_date(&here.press(&used, button, &[(button, &sid)]).await);

        here.sign_in(BOB.0, BOB.1).await;
        // Whoever was looked at last stands first; that is no change.
        let page = here.get("/account").await;
        server.clock.advance(std::time::Duration::from_secs(61));
        let other = page.text.split("href=\"").find(|part| part.starts_with("/account?who=")).unwrap().split('"').next().unwrap();
        let used = here.get(other).await;
        let out = here.press(&used, "account", &[]).await;
        assert!(out.is_at("/account") && out.status == 200, "{}", out.text);
        assert_out_of_date(&here.press(&used, "account", &[]).await);
    }

    async fn a_person_signs_out_at_their_other_browsers_and_at_nobody_elses(engine) {
        let server = people(engine).await;
        let (mut here, mut there, mut bob) = (Browser::new(&server), Browser::new(&server), Browser::new(&server));
        here.sign_in(ADA.0, ADA.1).await;
        there.agent = Some("Mozilla/5.0 (Windows NT 10.0; rv:128.0) Gecko/20100101 Firefox/128.0 <b>evil</b>");
        let got = tokens(&server, &mut there, ADA, "openid").await;
        let mut unnamed = Browser::new(&server);
        unnamed.sign_in(ADA.0, ADA.1).await;
        bob.sign_in(BOB.0, BOB.1).await;
        let his = bob.get("/account").await;
        assert!(his.text.contains("There is no other."));
        let page = here.get("/account").await;
        assert!(page.has("session") && page.text.contains("Sign out there"), "{}", page.text);
        // In words of ours, where the browser said what it is.
        assert!(page.text.contains("<strong>Firefox, Windows</strong> <small>Signed in 20"), "{}", page.text);
        assert!(page.text.contains("aria-label=\"Sign out there, at Firefox, Windows, where you signed in 20"), "{}", page.text);
        assert!(page.text.contains("aria-label=\"Sign out there, where you signed in 20") && !page.text.contains("evil"));
        let of = async |agent: &str| {
            let sql = format!("SELECT sid FROM sign_ins s JOIN users u ON u.sub = s.sub WHERE username = 'ada' AND agent {agent}");
            server.place.texts(&sql).await.remove(0)
        };
        let (firefox, other) = (of("= 'Firefox, Windows'").await, of("IS NULL AND browser <> 'x' ORDER BY s.auth_time DESC").await);
        let out = here.press(&page, "session", &[("session", &his.input("account"))]).await;
        assert_eq!(out.status, 200);
        assert!(bob.get("/account").await.is_at("/account") && there.get("/account").await.is_at("/account"));
        let out = here.press(&out, "session", &[("session", &firefox)]).await;
        assert!(out.text.contains("You are signed out at Firefox, Windows."), "{}", out.text);
        let out = here.press(&out, "session", &[("session", &other)]).await;
        assert!(out.text.contains("You are signed out there.") && !out.has("session"), "{}", out.text);
        assert!(unnamed.get("/account").await.is_at("/login"));
        assert!(there.get("/account").await.is_at("/login") && here.get("/account").await.is_at("/account"));
        assert_eq!(userinfo(&server, &got).await, 401, "what came of that sign-in ended with it");
        assert_eq!(server.place.number(&events("sign_out")).await, 2);
    }

    /// T-103: a page that was shown for one person does nothing for another.
    async fn t103_each_form_of_the_account_page_is_of_one_person(engine) {
        let server = people(engine).await;
        let mut browser = Browser::new(&server);
        let got = tokens(&server, &mut browser, BOB, "openid").await;
        browser.sign_in(ADA.0, ADA.1).await;
        tokens_with(&server, &mut browser, ADA, ("openid", &[("login_hint", "ada")])).await;
        let home = browser.get("/account").await;
        let (shown, other) = if home.text.contains("Applications with access to ada") { ("ada", "bob") } else { ("bob", "ada") };
        let link = home.text.split("href=\"").find(|part| part.starts_with("/account?who=")).unwrap().split('"').next().unwrap();
        assert!(home.text.contains(&format!("aria-label=\"Show the account of {other}\"")), "{shown}: {}", home.text);
        let others = browser.get(link).await;
        assert!(others.text.contains(&format!("Applications with access to {other}")));
        let (hers, his) = if other == "ada" { (others, home) } else { (home, others) };
        for (button, who) in [("client", his.input("who")), ("client", "nobody".into())] {
            let page = browser.press(&hers, button, &[("who", &who)]).await;
            // A name that nobody here has is nobody: the page is whoever was last used, and says nothing was done.
            assert!(page.status == 403 || page.text.contains("to ada"), "{}", page.text);
        }
        assert_eq!(userinfo(&server, &got).await, 200);
        let stranger = Browser::new(&server).get(&format!("/account?who={}", hers.input("who"))).await;
        assert!(stranger.is_at("/login"));
    }

    async fn another_password_ends_everything_but_this_browser(engine) {
        let server = people(engine).await;
        let (mut here, mut there) = (Browser::new(&server), Browser::new(&server));
        let offline = tokens(&server, &mut here, ADA, "openid offline_access").await;
        there.sign_in(ADA.0, ADA.1).await;
        let home = here.get("/account").await;
        let link = home.text.split("href=\"").find(|part| part.starts_with("/account/password")).unwrap().split('"').next().unwrap();
        let page = here.get(link).await;
        let fields = |present: &'static str, new: &'static str, again: &'static str| {
            [("password", present), ("new_password", new), ("new_password_again", again)]
        };
        for (wrong, at, words) in [
            (fields("wrong and wrong and wrong", NEW, NEW), "password", "not the current password"),
            (fields(ADA.1, NEW, "another one"), "new_password_again", "not the same both times"),
            (fields(ADA.1, "short", "short"), "new_password", "needs 15 characters"),
            (fields(ADA.1, "", ""), "new_password", "needs 15 characters"),
            (fields(ADA.1, "passwordpassword", "passwordpassword"), "new_password", "words that others try first"),
            (fields(ADA.1, "lovelacelovelaceada", "lovelacelovelaceada"), "new_password", "your username, name or e-mail"),
        ] {
            let refused = here.press(&page, "submit", &wrong).await;
            assert_eq!(refused.status, 403);
            assert!(refused.text.contains(words) && refused.text.contains("<title>Error: "), "{words}: {}", refused.text);
            for id in ["password", "new_password", "new_password_again"] {
                assert_eq!(field(&refused, id).contains("aria-invalid=\"true\" aria-describedby=\"error"), id == at, "{id}: {}", refused.text);
            }
            assert!(!refused.text.contains(NEW) && !refused.text.contains(ADA.1));
        }
        assert_out_of_date(&here.press(&page, "submit", &[&fields(ADA.1, NEW, NEW)[..], &[("csrf", "x")]].concat()).await);
        assert_eq!(refresh(&server, &offline).await.status, 200, "nothing has happened");
        server.services.audit.flush(&server.services.db).await.unwrap();
        assert_eq!(server.place.number(&events("sign_in.failed")).await, 1, "an attempt like any other");
        let before = here.session().to_owned();
        let done = here.press(&page, "submit", &fields(ADA.1, NEW, NEW)).await;
        assert!(done.is_at("/account") && done.text.contains("The password is changed."), "{}", done.text);
        assert_ne!(here.session(), before);
        assert!(there.get("/account").await.is_at("/login"), "signed out elsewhere");
        assert_eq!(userinfo(&server, &offline).await, 401);
        assert_eq!(server.place.number(&events("password.changed")).await, 1);
        assert_eq!(there.sign_in(ADA.0, ADA.1).await.status, 403);
        assert!(there.sign_in(ADA.0, NEW).await.is_at("/account"));
        assert!(here.get("/account").await.is_at("/account"));
    }

    async fn a_form_of_before_says_that_it_is_out_of_date(engine) {
        let server = people(engine).await;
        let mut browser = Browser::new(&server);
        // Two tabs: in one of them somebody signs in, the other one's form is of before.
        let second = browser.get(&authorization_url(&server, "openid", &[])).await;
        browser.sign_in(BOB.0, BOB.1).await;
        let stale = browser.fill_in(&second, ADA).await;
        assert_out_of_date(&stale);
        assert!(field(&stale, "username").contains("value=\"ada\"") && !stale.text.contains(ADA.1), "{}", stale.text);
        assert!(!field(&stale, "username").contains("aria-invalid"), "nothing typed was wrong");
        let consent = browser.fill_in(&stale, ADA).await;
        assert!(consent.has("approve"), "{}", consent.text);
        assert_out_of_date(&browser.press(&consent, "approve", &[("csrf", "x")]).await);
        assert_eq!(server.place.number("SELECT COUNT(*) FROM consents").await, 0);
        let home = browser.get("/account").await;
        assert_out_of_date(&browser.press(&home, "account", &[("csrf", "x")]).await);
        let wrong = browser.get("/login").await;
        let wrong = browser.fill_in(&wrong, ("ada", "wrong and wrong and wrong")).await;
        for id in ["username", "password"] {
            assert!(field(&wrong, id).contains("aria-invalid=\"true\" aria-describedby=\"error\""), "{}", wrong.text);
        }
    }

    async fn browsers_get_pages_where_nothing_is_and_programs_json(engine) {
        let accept = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        for base in ["", "/tenant"] {
            let server = Server::with(engine, |config| {
                let issuer = format!("{}{base}", config.issuer.clone().unwrap());
                config.issuer = Some(sealwright::config::Issuer::parse(&issuer).unwrap());
            })
            .await;
            let ask = async |path: &str, accept: &str| {
                let url = format!("{}{path}", server.url);
                Answer::of(server.http.get(url).header("accept", accept).send().await.unwrap()).await
            };
            for path in ["/", ""] {
                let front = ask(path, accept).await;
                assert_eq!((front.status, front.header("content-type")), (200, Some("text/html; charset=utf-8")), "{path}");
                assert!(front.text.contains(&format!("href=\"{base}/account\"")) && front.text.contains("<html lang=\"en\">"));
                ask(path, "*/*").await.assert_error(404, "not_found");
            }
            let page = ask("/nowhere?ui_locales=de", accept).await;
            assert_eq!((page.status, page.header("content-type")), (404, Some("text/html; charset=utf-8")));
            assert!(page.text.contains("<title>There is no such page – ") && page.text.contains(page.header("x-request-id").unwrap()));
            assert!(page.header("content-security-policy").unwrap().contains("frame-ancestors 'none'"));
            for program in ["*/*", "application/json", ""] {
                ask("/nowhere", program).await.assert_error(404, "not_found");
            }
        }
    }

    async fn oidc_core_2_people_are_told_by_their_acr(engine) {
        const ACR: &str = "urn:oasis:names:tc:SAML:2.0:ac:classes:PasswordProtectedTransport";
        let server = people(engine).await;
        let wish = |acr: &str, essential: bool| format!(r#"{{"id_token":{{"acr":{{"essential":{essential},"values":["{acr}"]}}}}}}"#);
        let document = server.get("/.well-known/openid-configuration").await.json;
        assert_eq!(document["acr_values_supported"], serde_json::json!([ACR]));
        // What is wished for is answered by what was reached.
        for more in [
            ("display", "page".to_owned()),
            ("acr_values", format!("urn:other {ACR}")),
            ("acr_values", "urn:other".to_owned()),
            ("claims", wish("urn:other", false)),
            ("claims", wish(ACR, true)),
        ] {
            let mut browser = Browser::new(&server);
            let more = [(more.0, more.1.as_str())];
            let got = tokens_with(&server, &mut browser, ADA, ("openid", &more)).await;
            for token in ["id_token", "access_token"] {
                assert_eq!(crate::support::part(text(&got, token), 1)["acr"], ACR, "{more:?} {token}");
            }
            assert_eq!(crate::support::part(text(&got, "id_token"), 1)["amr"], serde_json::json!(["pwd"]));
        }
        // §5.5.1.1: what cannot be reached is refused, before anybody signs in for nothing.
        let mut browser = Browser::new(&server);
        let claims = wish("urn:other", true);
        let refused = browser.get(&authorization_url(&server, "openid", &[("claims", &claims)])).await;
        let error = parameter(&refused.redirected(), "error");
        assert_eq!(error.as_deref(), Some("unmet_authentication_requirements"));
        assert!(browser.cookies.is_empty());
    }
}
