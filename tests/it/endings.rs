//! Every way in which a refresh token ends, over HTTP and by the commands that people use; and that nothing brings it
//! back (T-26, T-46).

use std::time::Duration;

use sealwright::jobs;
use sealwright::wire::EndGrants;
use serde_json::Value;

use crate::browser::Browser;
use crate::codes::text;
use crate::people::{ADA, BOB, PEOPLE, WEB, authorization_url, tokens};
use crate::refresh::refreshing;
use crate::support::{Answer, Engine, INTROSPECT, REVOKE, Server, TOKEN, VERIFIER, both, encode, part, until};

/// What people allow while they are there, and while they are away.
const ONLINE: &str = "openid orders:read";
const OFFLINE: &str = "openid orders:read offline_access";

const MINUTE: Duration = Duration::from_mins(1);
const DAY: Duration = Duration::from_hours(24);

/// A server on which the web shop always gets refresh tokens, and where Ada has signed in.
struct Scene {
    server: Server,
    browser: Browser,
}

/// The file, with the web shop's `lines` and without `without`.
fn file(lines: &str) -> String {
    PEOPLE.replacen("client_id = \"web\"\n", &format!("client_id = \"web\"\nalways_refresh_token = true\n{lines}"), 1)
}

fn redeeming(code: &str) -> [(&str, &str); 4] {
    [("grant_type", "authorization_code"), ("code", code), ("redirect_uri", WEB.2), ("code_verifier", VERIFIER)]
}

impl Scene {
    async fn new(engine: Engine) -> Self {
        Self::with(engine, |_| {}).await
    }

    async fn with(engine: Engine, change: impl FnOnce(&mut sealwright::config::Config)) -> Self {
        let server = Server::with(engine, change).await;
        server.apply(&file("")).await;
        let browser = Browser::new(&server);
        Self { server, browser }
    }

    async fn tokens(&mut self, scope: &str) -> Value {
        tokens(&self.server, &mut self.browser, ADA, scope).await
    }

    /// A code that nobody has redeemed.
    async fn code(&mut self, scope: &str) -> String {
        let page = self.browser.go_through(&authorization_url(&self.server, scope, &[]), ADA).await;
        page.parameter("code").unwrap_or_else(|| panic!("{page:?}"))
    }

    /// Tokens of Bob, at another browser: nothing that happens to Ada's is any of his business.
    async fn of_bob(&self) -> Value {
        tokens(&self.server, &mut Browser::new(&self.server), BOB, ONLINE).await
    }

    /// Made again where a busy machine has lost its lease.
    async fn post(&self, path: &str, form: &[(&str, &str)]) -> Answer {
        loop {
            let answer = self.server.post(path, Some((WEB.0, WEB.1)), form).await;
            if answer.status != 503 {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The tokens that come next.
    async fn next(&self, tokens: &Value) -> Value {
        let answer = self.post(TOKEN, &refreshing(text(tokens, "refresh_token"))).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json
    }

    /// It brings nothing, nobody calls it active, and the access token that came with it goes along if `with_access`.
    async fn is_dead(&self, what: &str, tokens: &Value, with_access: bool) {
        for _ in 0..2 {
            let answer = self.post(TOKEN, &refreshing(text(tokens, "refresh_token"))).await;
            assert_eq!(
                (answer.status, answer.json["error"].as_str()),
                (400, Some("invalid_grant")),
                "{what}: {}",
                answer.text
            );
        }
        let asked = self.post(INTROSPECT, &[("token", text(tokens, "refresh_token"))]).await;
        assert_eq!(asked.text, "{\"active\":false}", "{what}");
        if with_access {
            assert_eq!(self.userinfo(tokens).await, 401, "{what}");
        }
    }

    async fn userinfo(&self, tokens: &Value) -> u16 {
        loop {
            let asking = self.server.http.get(format!("{}/userinfo", self.server.url));
            let asking = asking.bearer_auth(text(tokens, "access_token")).send();
            let status = asking.await.unwrap().status().as_u16();
            if status != 503 {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Signs everybody out of this browser, as its client asks.
    async fn sign_out(&mut self, tokens: &Value) {
        let url = format!("{}/logout?{}", self.server.url, encode(&[("id_token_hint", text(tokens, "id_token"))]));
        assert_eq!(self.browser.get(&url).await.status, 200);
    }
}

both! {
    async fn a_refresh_token_ends_by_its_client_and_by_being_used_twice(engine) {
        let mut scene = Scene::new(engine).await;
        let (revoked, used, other) = (scene.tokens(OFFLINE).await, scene.tokens(OFFLINE).await, scene.of_bob().await);
        assert_eq!(scene.post(REVOKE, &[("token", text(&revoked, "refresh_token"))]).await.status, 200);
        scene.is_dead("revoked", &revoked, true).await;
        let second = scene.next(&used).await;
        scene.server.clock.advance(Duration::from_secs(11));
        scene.is_dead("used twice", &used, true).await;
        scene.is_dead("of a family that was used twice", &second, true).await;
        scene.next(&other).await;
    }

    async fn t46_what_a_client_had_does_not_come_back_with_it(engine) {
        let mut scene = Scene::new(engine).await;
        for lines in ["disabled = true\n", "removed"] {
            let tokens = scene.tokens(OFFLINE).await;
            let code = scene.code(OFFLINE).await;
            if lines == "removed" {
                let without = file("").replacen("client_id = \"web\"", "client_id = \"another\"", 1);
                scene.server.try_apply(&without, true).await.unwrap();
            } else {
                scene.server.apply(&file(lines)).await;
            }
            let refused = scene.post(TOKEN, &refreshing(text(&tokens, "refresh_token"))).await;
            refused.assert_error(401, "invalid_client");
            assert_eq!(scene.userinfo(&tokens).await, 401, "{lines}");
            let standing = "SELECT COUNT(*) FROM grants WHERE client_id = 'web' AND revoked_at IS NULL";
            assert_eq!(scene.server.place.number(standing).await, 0, "{lines}");
            // As if these had been under way, on another node, at the very moment when it was switched off.
            scene.server.place.run("UPDATE grants SET revoked_at = NULL, expires_at = code_expires_at + 9000000000").await;
            scene.server.apply(&file("")).await;
            scene.is_dead(lines, &tokens, true).await;
            scene.post(TOKEN, &redeeming(&code)).await.assert_error(400, "invalid_grant");
            // What it gets from now on is good; the moment of switching it off takes a few seconds on other nodes.
            scene.server.clock.advance(Duration::from_secs(10));
            let tokens = scene.tokens(OFFLINE).await;
            assert_eq!(scene.userinfo(&tokens).await, 200, "{lines}");
            scene.next(&tokens).await;
        }
    }

    async fn t46_what_a_person_allowed_does_not_come_back_with_them(engine) {
        let mut scene = Scene::new(engine).await;
        let other = scene.of_bob().await;
        let ada = "username = \"ada\"\npassword = \"ada rows 9 gulls home\"\n";
        for (what, changed) in [
            ("disabled", ada.to_owned() + "disabled = true\n"),
            ("another password", ada.replace("gulls", "swans")),
            ("removed", "username = \"eve\"\n".to_owned()),
        ] {
            let tokens = scene.tokens(OFFLINE).await;
            scene.server.try_apply(&file("").replacen(ada, &changed, 1), true).await.unwrap();
            scene.is_dead(what, &tokens, true).await;
            scene.server.try_apply(&file("").replacen(ada, &format!("{ada}disabled = false\n"), 1), true).await.unwrap();
            scene.is_dead(what, &tokens, true).await;
            scene.browser = Browser::new(&scene.server);
            let again = scene.tokens(OFFLINE).await;
            scene.next(&again).await;
        }
        scene.next(&other).await;
    }

    async fn a_refresh_token_ends_with_its_sign_in_unless_it_is_for_when_the_person_is_away(engine) {
        for (ends, online, offline) in [(EndGrants::Online, true, false), (EndGrants::All, true, true), (EndGrants::None, false, false)] {
            let mut scene = Scene::with(engine, |config| config.sessions.end_grants = ends).await;
            let (short, long) = (scene.tokens(ONLINE).await, scene.tokens(OFFLINE).await);
            let waiting = [scene.code(ONLINE).await, scene.code(OFFLINE).await];
            scene.sign_out(&short).await;
            // Nobody has anything by a code yet: it goes, whatever it is for.
            for code in &waiting {
                scene.post(TOKEN, &redeeming(code)).await.assert_error(400, "invalid_grant");
            }
            for (tokens, dead) in [(&short, online), (&long, offline)] {
                if dead {
                    scene.is_dead(&format!("signed out, {ends}"), tokens, true).await;
                } else {
                    scene.next(tokens).await;
                }
            }
        }
    }

    /// A sign-in that nobody uses, or that has run out, ends as by signing out: whether the sweep notices it first, or
    /// the person who signs in there again. What comes then is a new one.
    async fn a_refresh_token_ends_with_a_sign_in_that_is_over(engine) {
        const IDLE: &str = "last_used_at = last_used_at - 1801000000";
        for (ends, online, offline) in [(EndGrants::Online, true, false), (EndGrants::All, true, true), (EndGrants::None, false, false)] {
            let mut scene = Scene::with(engine, |config| config.sessions.end_grants = ends).await;
            let (mut short, mut long) = (scene.tokens(ONLINE).await, scene.tokens(OFFLINE).await);
            for (over, swept) in [(IDLE, true), (IDLE, false), ("expires_at = 1", false)] {
                let what = format!("{over}, swept: {swept}, {ends}");
                let waiting = scene.code(ONLINE).await;
                scene.server.place.run(&format!("UPDATE sign_ins SET {over}")).await;
                if swept {
                    jobs::sweep_once(&scene.server.services).await.unwrap();
                    assert_eq!(scene.server.place.number("SELECT COUNT(*) FROM sign_ins").await, 0, "{what}");
                }
                let next = (scene.tokens(ONLINE).await, scene.tokens(OFFLINE).await);
                let sid = |tokens: &Value| text(&part(text(tokens, "id_token"), 1), "sid").to_owned();
                assert_ne!(sid(&short), sid(&next.0), "{what}");
                assert_eq!(scene.server.place.number("SELECT COUNT(*) FROM sign_ins").await, 1, "{what}");
                scene.post(TOKEN, &redeeming(&waiting)).await.assert_error(400, "invalid_grant");
                for (tokens, dead) in [(&short, online), (&long, offline)] {
                    if dead {
                        // Nobody asked for it, and nobody waited for every node.
                        until("its access token is dead", async || scene.userinfo(tokens).await == 401).await;
                        scene.is_dead(&what, tokens, true).await;
                    } else {
                        scene.next(tokens).await;
                    }
                }
                (short, long) = next;
            }
        }
    }

    /// An application that somebody uses all the time sends nobody to the login page every half hour.
    async fn a_refresh_is_use_of_the_sign_in_that_it_would_end_with(engine) {
        let mut scene = Scene::new(engine).await;
        let (mut online, mut offline) = (scene.tokens(ONLINE).await, scene.tokens(OFFLINE).await);
        let sweep = async |scene: &Scene| {
            let swept = async || jobs::sweep_once(&scene.server.services).await.is_ok();
            until("swept", swept).await;
            scene.server.place.number("SELECT COUNT(*) FROM sign_ins").await
        };
        for _ in 0..3 {
            scene.server.clock.advance(20 * MINUTE);
            online = scene.next(&online).await;
            assert_eq!(sweep(&scene).await, 1);
        }
        // What goes on without the person says nothing of them.
        scene.server.clock.advance(20 * MINUTE);
        offline = scene.next(&offline).await;
        scene.server.clock.advance(11 * MINUTE);
        // Over, and not swept yet: a refresh brings nothing back.
        online = scene.next(&online).await;
        assert_eq!(sweep(&scene).await, 0);
        until("its access token is dead", async || scene.userinfo(&online).await == 401).await;
        scene.is_dead("not used for half an hour", &online, true).await;
        scene.next(&offline).await;
    }

    async fn a_refresh_token_ends_unused_and_in_the_end(engine) {
        let mut scene = Scene::with(engine, |config| {
            config.tokens.refresh_token_idle_seconds = 10 * 86_400;
            config.tokens.refresh_token_lifetime_seconds = 15 * 86_400;
        }).await;
        let (idle, mut used) = (scene.tokens(OFFLINE).await, scene.tokens(OFFLINE).await);
        scene.server.clock.advance(9 * DAY);
        used = scene.next(&used).await;
        scene.server.clock.advance(DAY);
        scene.is_dead("unused for ten days", &idle, true).await;
        scene.server.clock.advance(4 * DAY);
        used = scene.next(&used).await;
        scene.server.clock.advance(DAY);
        scene.is_dead("fifteen days old", &used, true).await;
    }

    async fn a_refresh_token_brings_nothing_of_what_is_gone(engine) {
        let mut scene = Scene::new(engine).await;
        let tokens = scene.tokens("orders:read offline_access openid").await;
        let narrow = |from: &str, to: &str| file("").replacen(from, to, 1);
        let all = "scope = \"openid profile email groups offline_access orders:read\"";
        // The client lost one of its scopes: the others stay.
        scene.server.apply(&narrow(all, "scope = \"openid profile email groups offline_access\"")).await;
        let tokens = scene.next(&tokens).await;
        assert!(!text(&tokens, "scope").contains("orders:read"), "{tokens}");
        // It lost all of them.
        scene.server.apply(&narrow(all, "scope = \"profile\"")).await;
        let answer = scene.post(TOKEN, &refreshing(text(&tokens, "refresh_token"))).await;
        answer.assert_error(400, "invalid_grant");
        // The refusal used nothing up: what the client has again, the grant still stands for.
        scene.server.apply(&file("")).await;
        let tokens = scene.next(&tokens).await;
        // The API is gone, and with it its scope.
        let api = scene.tokens("orders:read").await;
        let gone = narrow(all, "scope = \"openid profile email groups offline_access\"");
        let start = gone.find("[[resource]]").unwrap();
        let gone = gone[..start].to_owned() + &gone[gone.find("[[client]]").unwrap()..];
        scene.server.try_apply(&gone, true).await.unwrap();
        let answer = scene.post(TOKEN, &refreshing(text(&api, "refresh_token"))).await;
        answer.assert_error(400, "invalid_grant");
        let tokens = scene.next(&tokens).await;
        assert!(!text(&tokens, "scope").contains("orders:read"), "{tokens}");
        assert!(!part(text(&tokens, "access_token"), 1)["aud"].to_string().contains("api.example.com"));
    }

    /// CVE-2025-12390: two people one after the other at one browser have nothing in common.
    async fn t26_after_signing_out_the_next_person_begins_anew(engine) {
        let mut scene = Scene::new(engine).await;
        let hers = scene.tokens(ONLINE).await;
        let cookies = scene.browser.cookies.clone();
        scene.sign_out(&hers).await;
        let his = tokens(&scene.server, &mut scene.browser, BOB, ONLINE).await;
        let claim = |tokens: &Value, name: &str| part(text(tokens, "id_token"), 1)[name].clone();
        for name in ["sub", "sid"] {
            assert!(claim(&hers, name).is_string() && claim(&hers, name) != claim(&his, name), "{name}");
        }
        assert_ne!(cookies["sealwright"], scene.browser.cookies["sealwright"]);
        scene.is_dead("hers", &hers, true).await;
        let his = scene.next(&his).await;
        // Her cookies, kept by somebody: they lead nowhere, and cannot end his session.
        let mut kept = Browser::new(&scene.server);
        kept.cookies = cookies;
        let none = authorization_url(&scene.server, ONLINE, &[("prompt", "none")]);
        assert_eq!(kept.get(&none).await.parameter("error").as_deref(), Some("login_required"));
        let url = format!("{}/logout?{}", scene.server.url, encode(&[("id_token_hint", text(&hers, "id_token"))]));
        kept.get(&url).await;
        scene.next(&his).await;
        assert_eq!(scene.browser.get(&none).await.parameter("error"), None);
    }
}
