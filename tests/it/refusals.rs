//! What a refusal changes and what it does not (mechanisms.md, "Refusals that write"): for every refusal of the way from
//! the authorization request to tokens, all rows before and after are compared.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;

use serde_json::Value;

use crate::authorize::{self, request};
use crate::browser::{Browser, Page, parameter};
use crate::codes::{API, APPLIED, Granted, OTHER, STOCK, Scene, WEB, execute, redeeming, text, with, without};
use crate::flows::{self, ALICE, BOB};
use crate::people;
use crate::refresh::refreshing;
use crate::support::{Answer, Engine, Place, SECRET, Server, TOKEN, both};

/// Everything that a request of people may write, each with what tells its rows apart. Not the counters and samples of refusals, which
/// are flushed each second, nor who holds a lease.
const TABLES: &[(&str, &[&str])] = &[
    ("artifacts", &["kind", "id"]),
    ("attempts", &["kind", "id", "part"]),
    ("audit_events", &["id"]),
    ("clients", &["client_id"]),
    ("consents", &["sub", "client_id", "resource"]),
    ("grants", &["id"]),
    ("revocations", &["kind", "id"]),
    ("sessions", &["id"]),
    ("sign_ins", &["sid"]),
    ("users", &["sub"]),
];

type Rows = BTreeMap<(&'static str, String), BTreeMap<String, String>>;

/// All rows of [`TABLES`].
async fn rows(place: &Place) -> Rows {
    let mut all = Rows::new();
    for (table, key) in TABLES {
        for row in read(place, table).await {
            let row: BTreeMap<String, String> = serde_json::from_str::<BTreeMap<String, Value>>(&row)
                .unwrap()
                .into_iter()
                // SQLite's `quote` puts texts into quotes.
                .map(|(column, value)| {
                    (
                        column,
                        value.as_str().map_or_else(|| value.to_string(), |text| text.trim_matches('\'').to_owned()),
                    )
                })
                .collect();
            // Written with the next flush, whatever happened meanwhile.
            if ["request.refused", "sign_in.failed"]
                .iter()
                .any(|kind| row.get("kind").is_some_and(|known| known == kind))
            {
                continue;
            }
            let id = key.iter().filter_map(|column| row.get(*column)).cloned().collect::<Vec<_>>().join(" ");
            assert!(all.insert((*table, id), row).is_none(), "{table}");
        }
    }
    all
}

/// Rows as JSON objects.
async fn read(place: &Place, table: &str) -> Vec<String> {
    if place.url.starts_with("sqlite:") {
        let names = place.texts(&format!("SELECT name FROM pragma_table_info('{table}')")).await;
        let pairs: Vec<String> = names.iter().map(|name| format!("'{name}', quote({name})")).collect();
        place.texts(&format!("SELECT json_object({}) FROM {table}", pairs.join(", "))).await
    } else {
        place.texts(&format!("SELECT row_to_json(t)::text FROM {table} t")).await
    }
}

/// What is different: `+table:kind` came, `-table:kind` went, `table.column` changed.
fn differences(before: &Rows, after: &Rows) -> BTreeSet<String> {
    let called = |table: &str, row: &BTreeMap<String, String>| match row.get("kind") {
        Some(kind) => format!("{table}:{kind}"),
        None => table.to_owned(),
    };
    let mut found = BTreeSet::new();
    for (key @ (table, _), row) in before {
        match after.get(key) {
            None => drop(found.insert(format!("-{}", called(table, row)))),
            Some(now) => {
                found.extend(row.keys().filter(|name| row[*name] != now[*name]).map(|name| format!("{table}.{name}")));
            }
        }
    }
    let new = after.iter().filter(|(key, _)| !before.contains_key(*key));
    found.extend(new.map(|((table, _), row)| format!("+{}", called(table, row))));
    found
}

/// Asks, and compares: `changed` and nothing else.
async fn changes<T>(place: &Place, changed: &[&str], asking: impl Future<Output = T>) -> T {
    let before = rows(place).await;
    let answer = asking.await;
    let found = differences(&before, &rows(place).await);
    assert_eq!(found, changed.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>());
    answer
}

/// A token request that is refused; 503s of a busy machine are asked again, and change nothing.
async fn refused(scene: &Scene, who: (&str, &str), form: &[(&str, &str)], expected: (u16, &str, &[&str])) {
    let (status, error, changed) = expected;
    let place = &scene.server.place;
    loop {
        let before = rows(place).await;
        let answer = scene.redeem(who, form).await;
        let found = differences(&before, &rows(place).await);
        let nothing = answer.status == 503 && status != 503;
        let expected: &[&str] = if nothing { &[] } else { changed };
        assert_eq!(found, expected.iter().map(|name| (*name).to_owned()).collect(), "{}", answer.text);
        if nothing {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        }
        answer.assert_error(status, error);
        return;
    }
}

const NOTHING: &[&str] = &[];
/// Burnt: nobody guesses twice. From here on its grant is good for nothing.
const BURNT: &[&str] = &["grants.code_used_at", "grants.expires_at", "grants.refresh_expires_at"];
/// The family is dead, on every node, and somebody wrote down why.
const REVOKED: &[&str] =
    &["grants.revoked_at", "grants.expires_at", "+revocations:grant", "+audit_events:grant.revoked"];

/// A client whose every scope is one long word: all of them together make no token.
fn with_long_scopes() -> String {
    let names: Vec<String> = (0..50).map(|at| format!("s{at:02}{}", "x".repeat(250))).collect();
    let scopes: Vec<String> = names.iter().map(|name| format!("\"{name}\" = \"Long\"")).collect();
    format!(
        "{APPLIED}\n[[resource]]\nidentifier = \"https://long.example.com\"\nscopes = {{ {} }}\n\
         [[client]]\nclient_id = \"long\"\ngrant_types = [\"authorization_code\", \"refresh_token\"]\n\
         redirect_uris = [\"https://web.example.com/callback\"]\nclient_secret = \"{SECRET}\"\nscope = \"{}\"\n",
        scopes.join(", "),
        names.join(" ")
    )
}

fn long_scope(words: usize) -> &'static str {
    let names: Vec<String> = (0..words).map(|at| format!("s{at:02}{}", "x".repeat(250))).collect();
    names.join(" ").leak()
}

both! {
    async fn every_refusal_of_a_code(engine) {
        let scene = Scene::new(engine).await;
        let code = scene.code(Granted::default()).await;
        let unknown = sealwright::secret::Prefix::Code.generate().unwrap().expose().to_owned();
        // Nothing is used up by what cannot be it, and nothing by whom it is not for.
        for (who, form, error) in [
            (WEB, without(&redeeming(&code), "code"), (400, "invalid_request", NOTHING)),
            (WEB, without(&redeeming(&code), "redirect_uri"), (400, "invalid_request", NOTHING)),
            (WEB, without(&redeeming(&code), "grant_type"), (400, "invalid_request", NOTHING)),
            (WEB, with(&redeeming(&code), "grant_type", "implicit"), (400, "unsupported_grant_type", NOTHING)),
            (WEB, with(&redeeming(&code), "code", "garbage"), (400, "invalid_grant", NOTHING)),
            (WEB, with(&redeeming(&code), "code", &unknown), (400, "invalid_grant", NOTHING)),
            (WEB, with(&redeeming(&code), "authorization_details", "[]"), (400, "invalid_authorization_details", NOTHING)),
            (OTHER, redeeming(&code).to_vec(), (400, "invalid_grant", NOTHING)),
            (("machine", SECRET), redeeming(&code).to_vec(), (400, "unauthorized_client", NOTHING)),
            (("web", "wrong"), redeeming(&code).to_vec(), (401, "invalid_client", NOTHING)),
        ] {
            refused(&scene, who, &form, error).await;
        }
        execute(&scene.server.place, "UPDATE users SET disabled = TRUE").await;
        refused(&scene, WEB, &redeeming(&code), (400, "invalid_grant", NOTHING)).await;
        execute(&scene.server.place, "UPDATE users SET disabled = FALSE").await;

        // The right client has one try.
        let wrong = "wrong-verifier-wrong-verifier-wrong-verifier";
        let plain = || Granted { challenge: None, ..Granted::default() };
        let both_forms = || Granted { scope: "orders:read stock:read", resources: vec![API.into(), STOCK.into()], ..Granted::default() };
        let gone = || Granted { scope: "nobodys:scope", ..Granted::default() };
        for (granted, change, error) in [
            (Granted::default(), None, "expired"),
            (Granted::default(), Some(("redirect_uri", "https://web.example.com/Callback")), "invalid_grant"),
            (Granted::default(), Some(("code_verifier", "")), "invalid_grant"),
            (Granted::default(), Some(("code_verifier", wrong)), "invalid_grant"),
            (plain(), None, "invalid_grant"),
            (Granted::default(), Some(("resource", STOCK)), "invalid_target"),
            (Granted::default(), Some(("audience", STOCK)), "invalid_target"),
            (Granted::default(), Some(("resource", "not a uri")), "invalid_target"),
            (both_forms(), None, "invalid_target"),
            (gone(), None, "invalid_grant"),
        ] {
            let code = scene.code(granted).await;
            let mut form = redeeming(&code).to_vec();
            if let Some((name, value)) = change {
                form = if value.is_empty() { without(&form, name) } else { with(&form, name, value) };
            }
            let error = if error == "expired" {
                execute(&scene.server.place, "UPDATE grants SET code_expires_at = 1 WHERE code_used_at IS NULL").await;
                "invalid_grant"
            } else {
                error
            };
            refused(&scene, WEB, &form, (400, error, BURNT)).await;
            // Whatever is presented with it now, it was used, and takes with it what nobody got.
            refused(&scene, WEB, &redeeming(&code), (400, "invalid_grant", REVOKED)).await;
            refused(&scene, WEB, &redeeming(&code), (400, "invalid_grant", NOTHING)).await;
        }

        // Used again, it takes the family along; by another client it does not.
        let tokens = scene.tokens(Granted::default()).await;
        let code = scene.code(Granted::default()).await;
        assert_eq!(scene.redeem(WEB, &redeeming(&code)).await.status, 200);
        refused(&scene, OTHER, &redeeming(&code), (400, "invalid_grant", NOTHING)).await;
        refused(&scene, WEB, &redeeming(&code), (400, "invalid_grant", REVOKED)).await;
        assert!(scene.active(text(&tokens, "access_token")).await, "another grant of the same person");
    }

    async fn every_refusal_of_a_refresh_token(engine) {
        let scene = Scene::new(engine).await;
        // Two forms of tokens: the code is for one of them.
        let both_forms = Granted { scope: "orders:read stock:read", resources: vec![API.into(), STOCK.into()], ..Granted::default() };
        let code = scene.code(both_forms).await;
        let answer = scene.redeem(WEB, &with(&redeeming(&code), "resource", API)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let token = text(&answer.json, "refresh_token").to_owned();
        let form = refreshing(&token);
        let garbage = format!("swr_{}", "A".repeat(70));
        for (who, form, error) in [
            (WEB, without(&form, "refresh_token"), (400, "invalid_request", NOTHING)),
            (WEB, with(&form, "refresh_token", &garbage), (400, "invalid_grant", NOTHING)),
            (WEB, with(&form, "scope", "a  b"), (400, "invalid_scope", NOTHING)),
            (WEB, with(&form, "scope", "orders:write"), (400, "invalid_scope", NOTHING)),
            (WEB, with(&form, "resource", "https://nobody.example.com"), (400, "invalid_target", NOTHING)),
            (WEB, with(&form, "audience", "https://nobody.example.com"), (400, "invalid_target", NOTHING)),
            (WEB, with(&form, "authorization_details", "[]"), (400, "invalid_authorization_details", NOTHING)),
            (WEB, form.to_vec(), (400, "invalid_target", NOTHING)),
            (("machine", SECRET), form.to_vec(), (400, "unauthorized_client", NOTHING)),
            (("web", "wrong"), form.to_vec(), (401, "invalid_client", NOTHING)),
        ] {
            refused(&scene, who, &form, error).await;
        }
        execute(&scene.server.place, "UPDATE users SET disabled = TRUE").await;
        refused(&scene, WEB, &form, (400, "invalid_grant", NOTHING)).await;
        execute(&scene.server.place, "UPDATE users SET disabled = FALSE").await;
        for (change, back) in [
            ("UPDATE grants SET scope = 'nobodys:scope'", "UPDATE grants SET scope = 'orders:read stock:read'"),
            ("UPDATE grants SET expires_at = 1", "UPDATE grants SET expires_at = refresh_expires_at"),
            ("UPDATE grants SET rotated_at = refresh_expires_at, refresh_expires_at = 1", "UPDATE grants SET refresh_expires_at = rotated_at, rotated_at = NULL"),
        ] {
            execute(&scene.server.place, change).await;
            refused(&scene, WEB, &form, (400, "invalid_grant", NOTHING)).await;
            execute(&scene.server.place, back).await;
        }
        // After all that it is as good as it was.
        let answer = scene.redeem(WEB, &with(&form, "resource", API)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let second = text(&answer.json, "refresh_token").to_owned();
        scene.server.clock.advance(Duration::from_secs(11));
        refused(&scene, WEB, &form, (400, "invalid_grant", REVOKED)).await;
        for token in [&token, &second] {
            refused(&scene, WEB, &refreshing(token), (400, "invalid_grant", NOTHING)).await;
        }
        // Another client has it.
        let tokens = scene.tokens(Granted::default()).await;
        let form = refreshing(text(&tokens, "refresh_token"));
        refused(&scene, OTHER, &form, (400, "invalid_grant", REVOKED)).await;
        refused(&scene, WEB, &form, (400, "invalid_grant", NOTHING)).await;
    }

    /// What could not be introspected and revoked is not issued, and a refresh token is not used up for it.
    async fn a_token_that_would_be_too_long_uses_no_refresh_token_up(engine) {
        let scene = Scene::new(engine).await;
        scene.server.apply(&with_long_scopes()).await;
        let who = ("long", SECRET);
        let granted = |words| Granted { client_id: "long", scope: long_scope(words), resources: vec!["https://long.example.com".into()], ..Granted::default() };
        let code = scene.code(granted(10)).await;
        let answer = scene.redeem(who, &redeeming(&code)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let token = text(&answer.json, "refresh_token").to_owned();
        // It has become more, as by a row of a later release.
        let (more, all) = (long_scope(50), long_scope(10));
        execute(&scene.server.place, &format!("UPDATE grants SET scope = '{more}'")).await;
        refused(&scene, who, &refreshing(&token), (400, "invalid_scope", NOTHING)).await;
        let narrowed = with(&refreshing(&token), "scope", all);
        assert_eq!(scene.redeem(who, &narrowed).await.status, 200);
        let code = scene.code(granted(50)).await;
        refused(&scene, who, &redeeming(&code), (400, "invalid_scope", BURNT)).await;
    }

    /// What no code and no refresh token of ours looks like costs no query; `machine` and `web` are known by then.
    async fn garbage_costs_no_query(engine) {
        let scene = Scene::new(engine).await;
        let garbage = format!("swr_{}", "A".repeat(70));
        let forms = [redeeming("garbage").to_vec(), refreshing("garbage").to_vec(), refreshing(&garbage).to_vec()];
        for form in &forms {
            refused(&scene, WEB, form, (400, "invalid_grant", NOTHING)).await;
        }
        let unknown = sealwright::secret::Prefix::Code.generate().unwrap();
        // The jobs of the node go on meanwhile: of some tries one meets none of them.
        let costs = async |form: &[(&str, &str)]| {
            let mut least = u64::MAX;
            for _ in 0..20 {
                let before = scene.server.services.db.statements();
                scene.redeem(WEB, form).await;
                least = least.min(scene.server.services.db.statements() - before);
            }
            least
        };
        for form in &forms {
            assert_eq!(costs(form).await, 0, "{form:?}");
        }
        assert!(costs(&redeeming(unknown.expose())).await > 0);
    }

    /// A node that is about to say 503 uses nothing up.
    async fn a_full_pool_uses_nothing_up(engine) {
        let scene = Scene::new(engine).await;
        let slow = APPLIED.replacen("scopes = { \"orders:read\"", "access_token_signed_response_alg = \"RS256\"\nscopes = { \"orders:read\"", 1);
        scene.server.apply(&slow).await;
        let tokens = scene.tokens(Granted::default()).await;
        let code = scene.code(Granted::default()).await;
        let signer = scene.server.services.keys.ring().active(sealwright::wire::Algorithm::Rs256).unwrap().clone();
        let mut places = Vec::new();
        while let Ok(place) = signer.place() {
            places.push(place);
        }
        for form in [redeeming(&code).to_vec(), refreshing(text(&tokens, "refresh_token")).to_vec()] {
            refused(&scene, WEB, &form, (503, "temporarily_unavailable", NOTHING)).await;
            places.clear();
            assert_eq!(scene.redeem(WEB, &form).await.status, 200);
            while let Ok(place) = signer.place() {
                places.push(place);
            }
        }
    }

    async fn every_refusal_of_an_authorization_request(engine) {
        let server = flows::with_people(engine).await;
        let place = server.place.clone();
        let long = "x".repeat(5000);
        for (what, changed, error) in [
            (&[("response_mode", "web_message")][..], NOTHING, "invalid_request"),
            (&[("state", long.as_str())], NOTHING, "invalid_request"),
            (&[("request", "e30.e30.")], NOTHING, "request_not_supported"),
            (&[("request_uri", "https://rp.test/r")], NOTHING, "request_uri_not_supported"),
            (&[("registration", "{}")], NOTHING, "registration_not_supported"),
            (&[("response_type", "")], NOTHING, "invalid_request"),
            (&[("response_type", "token")], NOTHING, "unsupported_response_type"),
            (&[("code_challenge", "")], NOTHING, "invalid_request"),
            (&[("code_challenge", ""), ("code_challenge_method", "")], NOTHING, "invalid_request"),
            (&[("code_challenge_method", "")], NOTHING, "invalid_request"),
            (&[("code_challenge_method", "plain")], NOTHING, "invalid_request"),
            (&[("code_challenge", "short")], NOTHING, "invalid_request"),
            (&[("scope", "a  b")], NOTHING, "invalid_scope"),
            (&[("scope", "openid phone")], NOTHING, "invalid_scope"),
            (&[("resource", "https://nobody.test")], NOTHING, "invalid_target"),
            (&[("nonce", &long)], NOTHING, "invalid_request"),
            (&[("prompt", "dance")], NOTHING, "invalid_request"),
            (&[("prompt", "none login")], NOTHING, "invalid_request"),
            (&[("max_age", "-1")], NOTHING, "invalid_request"),
            (&[("max_age", "99999999999")], NOTHING, "invalid_request"),
            (&[("login_hint", &long)], NOTHING, "invalid_request"),
            (&[("claims", "[]")], NOTHING, "invalid_request"),
            (&[("id_token_hint", "x")], NOTHING, "invalid_request"),
        ] {
            let parameters = request(what);
            for post in [false, true] {
                let mut browser = Browser::new(&server);
                let asking = async {
                    if post {
                        browser.post_from("https://rp.test", "/oauth2/authorize", &parameters).await
                    } else {
                        browser.authorize(&parameters).await
                    }
                };
                let page = changes(&place, changed, asking).await;
                let told = parameter(&page.redirected(), "error");
                assert_eq!(told.as_deref(), Some(error), "{what:?}");
                assert!(browser.cookies.is_empty(), "{what:?}");
            }
        }
        // What is no form, or too large a one.
        let url = format!("{}/oauth2/authorize", server.url);
        let json = server.http.post(&url).header("content-type", "application/json").body("{}").send();
        assert_eq!(changes(&place, NOTHING, json).await.unwrap().status(), 400);
        let large = authorize::send_too_much(&server, crate::support::encode(&request(&[("state", &"x".repeat(1 << 20))])));
        assert_eq!(changes(&place, NOTHING, large).await.status, 413);
        // Nobody to answer: a page.
        for what in [&[("client_id", "nobody")][..], &[("redirect_uri", "https://evil.test/cb")], &[("redirect_uri", "")]] {
            let mut browser = Browser::new(&server);
            let page = changes(&place, NOTHING, browser.authorize(&request(what))).await;
            assert_eq!((page.status, page.away), (400, None));
        }
    }

    async fn every_refusal_of_who_may_answer(engine) {
        let server = flows::with_people(engine).await;
        let place = server.place.clone();
        let mut browser = Browser::new(&server);
        let none = request(&[("prompt", "none")]);
        let told = |page: &Page| parameter(&page.redirected(), "error");
        // A browser that has been here.
        browser.get("/login").await;
        let page = changes(&place, NOTHING, browser.authorize(&none)).await;
        assert_eq!(told(&page).as_deref(), Some("login_required"));
        let login = changes(&place, &["+artifacts:authorization_flow"], browser.authorize(&request(&[]))).await;
        let consent = browser.fill_in(&login, ALICE).await;
        assert!(consent.is_at("/consent"), "{}", consent.url);
        let page = changes(&place, NOTHING, browser.authorize(&none)).await;
        assert_eq!(told(&page).as_deref(), Some("consent_required"));
        let other = r#"{"id_token":{"sub":{"value":"6fa459ea-ee8a-3ca4-894e-db77e160355e"}}}"#;
        let acr = r#"{"id_token":{"acr":{"essential":true,"value":"urn:example:none-such"}}}"#;
        for (changed, error) in [
            (("claims", other), "login_required"),
            (("login_hint", "bob@example.com"), "login_required"),
            (("claims", acr), "unmet_authentication_requirements"),
        ] {
            let page = changes(&place, NOTHING, browser.authorize(&request(&[("prompt", "none"), changed]))).await;
            assert_eq!(told(&page).as_deref(), Some(error), "{changed:?}");
        }

        // Another browser, a form that is not this session's, another site's form: the flow stays as it was.
        let at = format!("{}/oauth2/authorize?flow={}", server.issuer, consent.flow());
        let mut stranger = Browser::new(&server);
        stranger.get("/login").await;
        let page = changes(&place, NOTHING, stranger.get(&at)).await;
        assert_eq!((page.status, page.away), (400, None));
        let page = changes(&place, NOTHING, browser.press(&consent, "approve", &[("csrf", "guess")])).await;
        assert_eq!(page.status, 403);
        let csrf = consent.input("csrf");
        let (flow, fields) = (consent.flow(), |flow: &str| [("csrf", csrf.clone()), ("flow", flow.to_owned()), ("approve", "1".to_owned())]);
        let sent = fields(&flow);
        let sent: Vec<(&str, &str)> = sent.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let page = changes(&place, NOTHING, browser.post_with("/consent", &sent, &[("sec-fetch-site", "cross-site")])).await;
        assert_eq!(page.status, 403);

        // Who has decided has decided, though nobody has told the client yet (T-103).
        let mut steps = Browser::stepwise(&server);
        steps.cookies = browser.cookies.clone();
        let again = browser.authorize(&request(&[])).await;
        let page = steps.press(&again, "deny", &[]).await;
        assert_eq!(page.status, 303);
        let page = changes(&place, NOTHING, steps.press(&again, "approve", &[])).await;
        assert_eq!(page.status, 400);
        let page = browser.get(&format!("{}/oauth2/authorize?flow={}", server.issuer, again.flow())).await;
        assert_eq!(told(&page).as_deref(), Some("access_denied"));

        // A no is no consent, and no grant: the flow is over.
        let page = changes(&place, &["-artifacts:authorization_flow"], browser.press(&consent, "deny", &[])).await;
        assert_eq!(told(&page).as_deref(), Some("access_denied"));
        let page = changes(&place, NOTHING, browser.get(&at)).await;
        assert_eq!((page.status, page.away), (400, None));
        let page = changes(&place, NOTHING, browser.press(&consent, "approve", &[])).await;
        assert_eq!(page.status, 400);

        // A second account: somebody would have to choose.
        let login = browser.authorize(&request(&[("prompt", "login")])).await;
        browser.fill_in(&login, BOB).await;
        let page = changes(&place, NOTHING, browser.authorize(&none)).await;
        assert_eq!(told(&page).as_deref(), Some("account_selection_required"));

        // The client is switched off, or has another address: nobody to answer, at any step.
        let page = browser.authorize(&request(&[("prompt", "consent"), ("login_hint", "alice")])).await;
        let consent = if page.is_at("/login") { browser.press(&page, "account", &[]).await } else { page };
        assert!(consent.is_at("/consent"), "{}", consent.url);
        let out = browser.get("/logout?client_id=web").await;
        let switched = |off: bool| authorize::CLIENTS.replacen("client_id = \"web\"", &format!("client_id = \"web\"\ndisabled = {off}"), 1);
        server.apply(&switched(true)).await;
        let at = format!("{}/consent?flow={}", server.issuer, consent.flow());
        assert_eq!(changes(&place, NOTHING, browser.get(&at)).await.status, 400);
        assert_eq!(changes(&place, NOTHING, browser.press(&consent, "approve", &[])).await.status, 400);
        assert_eq!(changes(&place, NOTHING, browser.get("/logout?client_id=web")).await.status, 400);
        assert_eq!(changes(&place, NOTHING, browser.press(&out, "submit", &[])).await.status, 400);
        server.apply(&switched(false)).await;
        let login = browser.authorize(&request(&[("prompt", "login")])).await;
        let at = format!("{}/oauth2/authorize?flow={}", server.issuer, login.flow());
        let moved = authorize::CLIENTS.replacen("https://rp.test/cb", "https://rp.test/elsewhere", 1);
        server.apply(&moved).await;
        let page = changes(&place, NOTHING, browser.get(&at)).await;
        assert_eq!((page.status, page.away), (400, None));
    }

    /// OpenID Connect Core §3.1.2.1: a hint is an ID token of ours, for this client, of who is there.
    async fn every_refusal_of_a_hint(engine) {
        let server = Server::empty(engine).await;
        server.apply(people::PEOPLE).await;
        let place = server.place.clone();
        let (mut ada, mut bob) = (Browser::new(&server), Browser::new(&server));
        let hers = people::tokens(&server, &mut ada, people::ADA, "openid").await;
        let his = people::tokens(&server, &mut bob, people::BOB, "openid").await;
        let of_app = ("openid", &[("client_id", "app"), ("redirect_uri", "http://127.0.0.1/cb")][..]);
        let apps = people::tokens_with(&server, &mut ada, people::ADA, of_app).await;
        let [hers, his, apps, access] =
            [(&hers, "id_token"), (&his, "id_token"), (&apps, "id_token"), (&hers, "access_token")].map(|(tokens, name)| text(tokens, name));
        let cut = &hers[..hers.len() - 4];
        for (hint, error) in [
            (apps, "invalid_request"),
            (access, "invalid_request"),
            (cut, "invalid_request"),
            (his, "login_required"),
        ] {
            let more = [("prompt", "none"), ("id_token_hint", hint)];
            let url = people::authorization_url(&server, "openid", &more);
            let page = changes(&place, NOTHING, ada.get(&url)).await;
            assert_eq!(parameter(&page.redirected(), "error").as_deref(), Some(error), "{hint}");
        }
        let more = [("prompt", "none"), ("id_token_hint", hers)];
        let page = ada.get(&people::authorization_url(&server, "openid", &more)).await;
        assert!(parameter(&page.redirected(), "code").is_some());
    }

    /// What an ID token says of the person is read where the code or the refresh token is used up: when it cannot be
    /// read, nothing is.
    async fn a_person_who_cannot_be_read_uses_nothing_up(engine) {
        let scene = Scene::new(engine).await;
        let place = &scene.server.place;
        let with_id_token = APPLIED.replacen("client_id = \"web\"", "client_id = \"web\"\nid_token_on_refresh = true", 1);
        scene.server.apply(&with_id_token).await;
        let granted = || Granted { scope: "openid orders:read", ..Granted::default() };
        let tokens = scene.tokens(granted()).await;
        let mut token = text(&tokens, "refresh_token").to_owned();
        for (broken, mended) in [
            // A row that this binary does not understand; and a statement that fails: none but the one that reads it.
            ("UPDATE users SET profile = '?' || profile", "UPDATE users SET profile = SUBSTR(profile, 2)"),
            ("ALTER TABLE users RENAME COLUMN password_import TO away", "ALTER TABLE users RENAME COLUMN away TO password_import"),
        ] {
            let code = scene.code(granted()).await;
            execute(place, broken).await;
            for form in [redeeming(&code).to_vec(), refreshing(&token).to_vec()] {
                refused(&scene, WEB, &form, (500, "server_error", NOTHING)).await;
            }
            execute(place, mended).await;
            let before = token.clone();
            for form in [redeeming(&code).to_vec(), refreshing(&before).to_vec()] {
                let answer = scene.redeem(WEB, &form).await;
                assert_eq!(answer.status, 200, "{broken}: {}", answer.text);
                assert!(answer.json["id_token"].is_string());
                text(&answer.json, "refresh_token").clone_into(&mut token);
            }
        }
        assert_eq!(scene.revoked().await, 0);
    }

    async fn every_refusal_of_the_account_pages(engine) {
        let server = Server::empty(engine).await;
        server.apply(people::PEOPLE).await;
        let place = server.place.clone();
        let (mut ada, mut there, mut bob) = (Browser::new(&server), Browser::new(&server), Browser::new(&server));
        people::tokens(&server, &mut ada, people::ADA, "openid offline_access").await;
        there.sign_in(people::ADA.0, people::ADA.1).await;
        bob.sign_in(people::BOB.0, people::BOB.1).await;
        let (home, his) = (ada.get("/account").await, bob.get("/account").await);
        let link = home.text.split("href=\"").find(|part| part.starts_with("/account/password")).unwrap();
        let password = ada.get(link.split('"').next().unwrap()).await;
        let new = [("password", people::ADA.1), ("new_password", "otter basil trumpet 51"), ("new_password_again", "otter basil trumpet 51")];
        let forms = [
            (&home, "account", "/account/sign-out", &[][..]),
            (&home, "session", "/account/sign-out-there", &[]),
            (&home, "client", "/account/withdraw", &[]),
            (&password, "submit", "/account/password", &new),
        ];
        for (page, button, path, fields) in forms {
            // A guessed token; the same form from another site, from nobody, and from somebody else's browser.
            let guessed = [fields, &[("csrf", "guess")]].concat();
            let refused = changes(&place, NOTHING, ada.press(page, button, &guessed)).await;
            assert_eq!(refused.status, 403, "{path}");
            let form = page.forms().into_iter().find(|form| form.action.ends_with(path)).unwrap();
            let own: Vec<(&str, &str)> = form.hidden.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let own = [&own[..], fields].concat();
            for headers in [[("sec-fetch-site", "cross-site")], [("origin", "https://evil.test")]] {
                let refused = changes(&place, NOTHING, ada.post_with(path, &own, &headers)).await;
                assert_eq!(refused.status, 403, "{path}");
            }
            let mut nobody = Browser::stepwise(&server);
            let refused = changes(&place, NOTHING, nobody.post(path, &own)).await;
            assert_eq!((refused.status, refused.location()), (303, format!("{}/login", server.issuer).as_str()), "{path}");
            let refused = changes(&place, NOTHING, bob.post(path, &own)).await;
            assert!(refused.status == 403 || refused.is_at("/login"), "{path}: {}", refused.text);
        }
        // Somebody else's sign-in, and a client that has nothing.
        let csrf = |page: &Page, path: &str| {
            let form = page.forms().into_iter().find(|form| form.action.ends_with(path)).unwrap();
            form.hidden.into_iter().find(|(name, _)| name == "csrf").unwrap().1
        };
        let who = home.input("who");
        let theirs = [("csrf", &*csrf(&home, "/account/sign-out-there")), ("who", &who), ("session", &his.input("account"))];
        assert!(ada.post("/account/sign-out-there", &theirs).await.is_at("/account"));
        let nothing = [("csrf", &*csrf(&home, "/account/withdraw")), ("who", &who), ("client", "app")];
        assert!(ada.post("/account/withdraw", &nothing).await.is_at("/account"));
        assert_eq!(place.number("SELECT COUNT(*) FROM sign_ins").await, 3);
        assert_eq!(place.number("SELECT COUNT(*) FROM grants WHERE revoked_at IS NOT NULL").await, 0);
        assert_eq!(place.number("SELECT COUNT(*) FROM consents").await, 1);
        // A new password that may be none costs nothing; a wrong present one costs an attempt.
        for (at, value) in [("new_password", "short"), ("new_password_again", "another one")] {
            let mut bad = new.to_vec();
            bad.retain(|(name, _)| *name != at);
            bad.push((at, value));
            assert_eq!(changes(&place, NOTHING, ada.press(&password, "submit", &bad)).await.status, 403);
        }
        let wrong = [("password", "wrong and wrong and wrong"), new[1], new[2]];
        let before = rows(&place).await;
        assert_eq!(ada.press(&password, "submit", &wrong).await.status, 403);
        let found = differences(&before, &rows(&place).await);
        assert!(!found.is_empty() && found.iter().all(|name| name.contains("attempts")), "{found:?}");
    }

    async fn every_refusal_of_signing_out_and_of_userinfo(engine) {
        let server = Server::empty(engine).await;
        server.apply(people::PEOPLE).await;
        let place = server.place.clone();
        let mut ada = Browser::new(&server);
        let tokens = people::tokens(&server, &mut ada, people::ADA, "openid").await;
        let at = |parameters: &[(&str, &str)]| format!("{}/logout?{}", server.url, crate::support::encode(parameters));
        for parameters in [
            &[("client_id", "web"), ("post_logout_redirect_uri", "https://evil.test")][..],
            &[("client_id", "nobody")],
            &[("client_id", "app"), ("id_token_hint", text(&tokens, "id_token"))],
            &[("client_id", "web"), ("client_id", "web")],
        ] {
            let page = changes(&place, NOTHING, ada.get(&at(parameters))).await;
            assert_eq!((page.status, page.away), (400, None));
        }
        let asked = changes(&place, NOTHING, ada.get(&at(&[("id_token_hint", "x")]))).await;
        assert_eq!(asked.status, 200);
        for (csrf, headers) in [
            ("guess".to_owned(), ("sec-fetch-site", "same-origin")),
            (asked.input("csrf"), ("sec-fetch-site", "cross-site")),
            (asked.input("csrf"), ("origin", "null")),
        ] {
            let page = changes(&place, NOTHING, ada.post_with("/logout", &[("csrf", &csrf)], &[headers])).await;
            assert_eq!(page.status, 403, "{headers:?}");
        }
        for token in ["", "x", text(&tokens, "id_token"), &format!("{}x", text(&tokens, "access_token"))] {
            let asking = server.http.get(format!("{}/userinfo", server.url)).bearer_auth(token).send();
            let answer = changes(&place, NOTHING, asking).await.unwrap();
            assert!([400, 401].contains(&answer.status().as_u16()), "{token}");
        }
        // For another resource; twice; in the query; of somebody who is switched off; of a client that lost openid.
        let api = people::tokens(&server, &mut ada, people::ADA, "orders:read").await;
        let token = text(&tokens, "access_token");
        let url = format!("{}/userinfo", server.url);
        let asking = |token: &str| server.http.get(&url).bearer_auth(token);
        let form = crate::support::encode(&[("access_token", token)]);
        let twice = server.http.post(&url).bearer_auth(token).header("content-type", crate::support::FORM).body(form);
        for (request, status, error) in [
            (asking(text(&api, "access_token")), 401, "invalid_token"),
            (twice, 400, "invalid_request"),
            (server.http.get(format!("{url}?access_token={token}")), 400, "invalid_request"),
        ] {
            let answer = changes(&place, NOTHING, async { Answer::of(request.send().await.unwrap()).await }).await;
            answer.assert_error(status, error);
        }
        execute(&place, "UPDATE users SET disabled = TRUE").await;
        let answer = changes(&place, NOTHING, async { Answer::of(asking(token).send().await.unwrap()).await }).await;
        answer.assert_error(401, "invalid_token");
        execute(&place, "UPDATE users SET disabled = FALSE").await;
        server.apply(&people::PEOPLE.replacen("openid profile email groups", "profile email groups", 1)).await;
        let answer = changes(&place, NOTHING, async { Answer::of(asking(token).send().await.unwrap()).await }).await;
        answer.assert_error(403, "insufficient_scope");
        assert!(ada.get("/account").await.is_at("/account"));
    }

    /// Who does not get in is counted, and nothing else happens.
    async fn every_refusal_of_a_sign_in(engine) {
        let server = flows::with_people(engine).await;
        let place = server.place.clone();
        let mut browser = Browser::stepwise(&server);
        let csrf = browser.token().await;
        let long = "x".repeat(300);
        for (csrf, username, password, counted) in [
            (csrf.as_str(), "alice", "wrong", true),
            (&csrf, "nobody", "wrong", true),
            (&csrf, "alice", &long, false),
            (&csrf, "", "wrong", false),
            ("guess", ALICE.0, ALICE.1, false),
        ] {
            let before = rows(&place).await;
            let page = browser.post("/login", &[("csrf", csrf), ("username", username), ("password", password)]).await;
            assert_eq!(page.status, 403, "{username}");
            let found = differences(&before, &rows(&place).await);
            let counts = |name: &String| ["+attempts:", "attempts."].iter().any(|known| name.starts_with(known));
            assert!(found.iter().all(counts) && found.is_empty() != counted, "{username}: {found:?}");
        }
        // By the right password: who is switched off, is locked, or comes from an address that has tried too often.
        let right = [("csrf", csrf.as_str()), ("username", ALICE.0), ("password", ALICE.1)];
        let free = "UPDATE attempts SET n = 0, free_at = 0";
        for (change, back, changed) in [
            ("UPDATE users SET disabled = TRUE", "UPDATE users SET disabled = FALSE", &["attempts.n", "attempts.expires_at"][..]),
            ("UPDATE attempts SET n = 100 WHERE kind = 'account'", free, &["attempts.n"]),
            ("UPDATE attempts SET n = 100 WHERE kind = 'address'", free, NOTHING),
        ] {
            execute(&place, free).await;
            execute(&place, change).await;
            let before = rows(&place).await;
            assert_eq!(browser.post("/login", &right).await.status, 403, "{change}");
            let found = differences(&before, &rows(&place).await);
            assert!(changed.iter().all(|name| found.contains(*name)), "{change}: {found:?}");
            assert!(found.iter().all(|name| name.starts_with("attempts.")) && found.is_empty() == changed.is_empty(), "{change}: {found:?}");
            execute(&place, back).await;
        }
        assert_eq!(browser.post("/login", &right).await.status, 303);
    }

    /// Who is switched off between the look at the password and the sign-in: the browser keeps its session, and who is
    /// signed in there stays so.
    async fn a_sign_in_that_comes_too_late_ends_nobody_elses(engine) {
        let server = flows::with_people(engine).await;
        let place = server.place.clone();
        let mut browser = Browser::new(&server);
        browser.sign_in(ALICE.0, ALICE.1).await;
        let off = "UPDATE users SET disabled = TRUE WHERE username = 'bob'";
        place.run(&match engine {
            Engine::Sqlite => format!("CREATE TRIGGER off AFTER INSERT ON attempts BEGIN {off}; END"),
            Engine::Postgres => format!(
                "CREATE FUNCTION off() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {off}; RETURN NULL; END $$; \
                 CREATE TRIGGER off AFTER INSERT ON attempts FOR EACH ROW EXECUTE FUNCTION off()"
            ),
        })
        .await;
        let login = browser.get("/login").await;
        let before = rows(&place).await;
        let page = browser.fill_in(&login, BOB).await;
        assert_eq!(page.status, 403, "{}", page.text);
        let mut found = differences(&before, &rows(&place).await);
        assert!(found.remove("users.disabled") && found.iter().all(|name| name.contains("attempts")), "{found:?}");
        let home = browser.get("/account").await;
        assert!(home.is_at("/account") && home.text.contains(ALICE.0), "{}", home.text);
    }

    /// Who gets no turn has made no attempt, and who finds no room leaves nothing.
    async fn nothing_is_kept_of_whom_there_is_no_room_for(engine) {
        let server = Server::with(engine, |config| {
            config.secrets.argon2_concurrency = Some(1);
            config.secrets.argon2_queue = 0;
            config.sessions.waiting_per_address = 2;
        }).await;
        server.apply(&format!("{}{}{}", crate::support::EXAMPLE, authorize::CLIENTS, flows::USERS)).await;
        let place = server.place.clone();
        let mut browser = Browser::new(&server);
        let login = browser.get("/login").await;
        // With a request that is stored, that is all the room there is.
        let stored = Browser::stepwise(&server).post_from("https://rp.test", "/oauth2/authorize", &request(&[])).await;
        assert_eq!(stored.status, 303, "{}", stored.text);
        let turn = server.services.passwords.turn(None).await.unwrap();
        let page = changes(&place, NOTHING, browser.fill_in(&login, ALICE)).await;
        assert_eq!((page.status, page.header("retry-after")), (503, "1"), "{}", page.text);
        for what in ["/login", "/oauth2/authorize", "a stored request"] {
            let mut other = Browser::new(&server);
            let asking = async {
                match what {
                    "/login" => other.get("/login").await,
                    "/oauth2/authorize" => other.authorize(&request(&[])).await,
                    _ => other.post_from("https://rp.test", "/oauth2/authorize", &request(&[])).await,
                }
            };
            let page = changes(&place, NOTHING, asking).await;
            assert_eq!((page.status, page.away), (429, None), "{what}: {}", page.text);
        }
        drop(turn);
        assert!(browser.fill_in(&login, ALICE).await.is_at("/account"));
    }
}

#[tokio::test]
async fn the_comparison_sees_what_changes() {
    for engine in [Engine::Sqlite, Engine::Postgres] {
        let scene = Scene::new(engine).await;
        let before = rows(&scene.server.place).await;
        assert!(
            before.keys().any(|(table, _)| *table == "users") && before.keys().any(|(table, _)| *table == "clients")
        );
        let code = scene.code(Granted::default()).await;
        let answer: Answer = scene.server.post(TOKEN, Some(WEB), &redeeming(&code)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let after = rows(&scene.server.place).await;
        let found: Vec<String> = differences(&before, &after).into_iter().collect();
        assert_eq!(found, ["+audit_events:tokens.issued", "+grants", "sign_ins.last_used_at"]);
        assert_eq!(differences(&after, &before).len(), 3);
    }
}
