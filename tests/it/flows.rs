//! Sign-ins on their way: flows and consents as they are kept, and whole ways through the pages.

use std::net::Ipv4Addr;

use sealwright::clients::Client;
use sealwright::consents;
use sealwright::cx::Cx;
use sealwright::flow::{self, Asked, Decision, FlowId};
use sealwright::session::Browser as SessionBrowser;
use sealwright::wire::ResponseMode;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::authorize::{execute, request, server};
use crate::browser::{Browser, Page, parameter};
use crate::people;
use crate::support::{Engine, Server, TOKEN, both, part};

const SUB: &str = "6fa459ea-ee8a-3ca4-894e-db77e160355e";

/// Two people.
pub const USERS: &str = r#"
[[user]]
username = "alice"
password = "lantern gravel tuba omelette"
email = "alice@example.com"
name = "Alice"

[[user]]
username = "bob"
password = "lantern gravel tuba omelette"
email = "bob@example.com"
name = "Bob"
"#;

pub const ALICE: (&str, &str) = ("alice", "lantern gravel tuba omelette");
pub const BOB: (&str, &str) = ("bob", "lantern gravel tuba omelette");

/// A server with the clients of the authorization tests and two people.
pub async fn with_people(engine: Engine) -> Server {
    let server = server(engine).await;
    server.apply(USERS).await;
    server
}

fn cx(server: &Server) -> Cx<'_> {
    Cx::new(&server.services, Ipv4Addr::LOCALHOST.into(), "test".into())
}

fn asked(scope: &str, resources: &[&str]) -> Asked {
    let mut asked = Asked::of("web", "https://rp.test/cb", ResponseMode::Query);
    asked.scope = scope.parse().unwrap();
    asked.resources = resources.iter().map(|resource| (*resource).to_owned()).collect();
    asked
}

/// Somebody agrees in a flow of their own.
async fn agree(cx: &Cx<'_>, client: &Client, asked: &Asked) {
    let browser = SessionBrowser("ours".into());
    let id = flow::begin(cx, &browser, asked.clone(), None).await.unwrap();
    let flow = flow::find(cx, &browser, &id).await.unwrap().unwrap();
    assert!(consents::agree(cx, client, (&id, &flow), SUB).await.unwrap());
    assert_eq!(flow::find(cx, &browser, &id).await.unwrap().unwrap().decision, Some(Decision::Approved));
}

async fn somebody(server: &Server) {
    let sql = "INSERT INTO users (sub, username, username_key, profile, disabled, managed_by, created_at, updated_at) \
               VALUES ('6fa459ea-ee8a-3ca4-894e-db77e160355e', 'somebody', 'somebody', '{}', false, 'apply', 0, 0)";
    execute(server, sql).await;
}

both! {
    async fn t06_a_flow_is_its_browsers_and_nobody_elses(engine) {
        let server = server(engine).await;
        let cx = cx(&server);
        let (ours, theirs) = (SessionBrowser("ours".into()), SessionBrowser("theirs".into()));
        let request = asked("openid", &["https://api.example.com"]);
        let id = flow::begin(&cx, &ours, request.clone(), None).await.unwrap();
        let mut found = flow::find(&cx, &ours, &id).await.unwrap().unwrap();
        assert_eq!((&found.asked, found.sid.as_ref(), found.decision), (&request, None, None));
        assert_eq!(flow::find(&cx, &theirs, &id).await.unwrap(), None);
        let other = flow::begin(&cx, &theirs, request, Some("s".into())).await.unwrap();
        assert_ne!(id, other);
        found.choose("sid".into());
        found.decision = Some(Decision::Approved);
        assert!(flow::keep(&cx, &id, &found).await.unwrap());
        assert_eq!(flow::find(&cx, &ours, &id).await.unwrap().as_ref(), Some(&found));
        assert_eq!(flow::find(&cx, &theirs, &other).await.unwrap().unwrap().sid.as_deref(), Some("s"));
        assert!(flow::end(&cx, &id).await.unwrap());
        assert_eq!(flow::find(&cx, &ours, &id).await.unwrap(), None);
        assert!(!flow::keep(&cx, &id, &found).await.unwrap(), "what has ended is not brought back");
        assert_eq!(flow::find(&cx, &ours, &id).await.unwrap(), None);
        let stored = flow::store(&cx, &found.asked).await.unwrap();
        assert_eq!(flow::find(&cx, &ours, &stored).await.unwrap(), None, "kinds never mix");
        assert_eq!(flow::stored(&cx, &other).await.unwrap(), None);
        assert_eq!(flow::stored(&cx, &stored).await.unwrap(), Some(found.asked));
        assert_eq!(flow::find(&cx, &ours, &FlowId(String::new())).await.unwrap(), None);
    }

    async fn a_flow_ends_once(engine) {
        let server = std::sync::Arc::new(server(engine).await);
        let browser = SessionBrowser("ours".into());
        for _ in 0..crate::support::rounds(5) {
            let id = flow::begin(&cx(&server), &browser, asked("openid", &[]), None).await.unwrap();
            let mut ends = JoinSet::new();
            for _ in 0..16 {
                let (server, id) = (server.clone(), id.clone());
                ends.spawn(async move { flow::end(&cx(&server), &id).await.unwrap() });
            }
            let won = ends.join_all().await.into_iter().filter(|won| *won).count();
            assert_eq!(won, 1);
        }
    }

    async fn a_flow_is_over_after_a_quarter_of_an_hour_or_with_somebody_after_an_hour(engine) {
        let server = server(engine).await;
        let browser = SessionBrowser("ours".into());
        let mut cx = cx(&server);
        let id = flow::begin(&cx, &browser, asked("openid", &[]), None).await.unwrap();
        let flow = flow::find(&cx, &browser, &id).await.unwrap().unwrap();
        let mut chosen = flow::find(&cx, &browser, &id).await.unwrap().unwrap();
        let other = flow::begin(&cx, &browser, asked("openid", &[]), None).await.unwrap();
        chosen.choose("sid".into());
        assert!(flow::keep(&cx, &other, &chosen).await.unwrap());
        cx.now += flow::WAITING;
        assert_eq!(flow::find(&cx, &browser, &id).await.unwrap(), None);
        assert!(!flow::keep(&cx, &id, &flow).await.unwrap());
        assert!(!flow::end(&cx, &id).await.unwrap());
        cx.now += flow::LIFETIME - flow::WAITING - 1;
        assert!(flow::find(&cx, &browser, &other).await.unwrap().is_some());
        cx.now += 1;
        assert_eq!(flow::find(&cx, &browser, &other).await.unwrap(), None);
    }

    async fn t155_what_was_agreed_to_is_not_asked_again_and_no_more_than_that(engine) {
        let server = server(engine).await;
        somebody(&server).await;
        let cx = cx(&server);
        let api = "https://api.example.com";
        let userinfo = format!("{}/userinfo", server.issuer);
        let client = |id: &'static str| async { server.services.clients.get(id).await.unwrap().unwrap() };
        let web = client("web").await;
        let needed = async |asked: &Asked| consents::is_needed(&cx, &web, asked, SUB).await.unwrap();
        let read = asked("openid orders:read", &[api, &userinfo]);
        assert!(needed(&read).await);
        agree(&cx, &web, &read).await;
        assert!(!needed(&read).await);
        assert!(!needed(&asked("openid", &[&userinfo])).await);
        assert!(!needed(&asked("orders:read", &[api])).await);
        for more in [
            asked("openid orders:read orders:write", &[api, &userinfo]),
            asked("openid profile", &[&userinfo]),
            asked("openid orders:read", &[api, &userinfo, "https://other.example.com"]),
            asked("openid orders:read gone", &[api, &userinfo]),
        ] {
            assert!(needed(&more).await, "{} {:?}", more.scope, more.resources);
        }
        let mut by_name = read.clone();
        by_name.claims.userinfo.insert("email".into(), None);
        assert!(needed(&by_name).await);
        // Beside what was agreed to before.
        let write = asked("orders:write", &[api]);
        agree(&cx, &web, &write).await;
        assert!(!needed(&asked("openid orders:read orders:write", &[api, &userinfo])).await);
        assert!(consents::is_needed(&cx, &web, &read, "somebody else").await.unwrap());
        let native = client("native").await;
        assert!(consents::is_needed(&cx, &native, &read, SUB).await.unwrap(), "another client");

        execute(&server, "UPDATE clients SET managed_by = 'registration' WHERE client_id = 'web'").await;
        server.services.clients.invalidate("web");
        let unverified = client("web").await;
        assert!(consents::is_needed(&cx, &unverified, &read, SUB).await.unwrap(), "nobody vouches for it: always");
    }

    async fn what_is_agreed_to_in_a_flow_that_has_ended_is_not_kept(engine) {
        let server = server(engine).await;
        somebody(&server).await;
        let (cx, browser) = (cx(&server), SessionBrowser("ours".into()));
        let web = server.services.clients.get("web").await.unwrap().unwrap();
        let read = asked("orders:read", &["https://api.example.com"]);
        let id = flow::begin(&cx, &browser, read.clone(), None).await.unwrap();
        let flow = flow::find(&cx, &browser, &id).await.unwrap().unwrap();
        assert!(flow::end(&cx, &id).await.unwrap());
        assert!(!consents::agree(&cx, &web, (&id, &flow), SUB).await.unwrap());
        assert!(consents::is_needed(&cx, &web, &read, SUB).await.unwrap());
        assert_eq!(server.place.number("SELECT COUNT(*) FROM audit_events WHERE kind = 'consent.given'").await, 0);
    }

    async fn t155_a_client_that_became_another_is_asked_for_again(engine) {
        let server = server(engine).await;
        somebody(&server).await;
        let cx = cx(&server);
        let api = "https://api.example.com";
        let (read, write) = (asked("orders:read", &[api]), asked("orders:write", &[api]));
        let web = server.services.clients.get("web").await.unwrap().unwrap();
        agree(&cx, &web, &read).await;
        server.apply(&crate::authorize::CLIENTS.replace("Web shop", "Other shop")).await;
        let web = server.services.clients.get("web").await.unwrap().unwrap();
        assert!(consents::is_needed(&cx, &web, &read, SUB).await.unwrap());
        // What was agreed to with the other one does not come back with the next yes.
        agree(&cx, &web, &write).await;
        assert!(!consents::is_needed(&cx, &web, &write, SUB).await.unwrap());
        assert!(consents::is_needed(&cx, &web, &read, SUB).await.unwrap());
        let first_party = crate::authorize::CLIENTS.replace("[\"https://api.example.com\"]\n", "[\"https://api.example.com\"]\nskip_consent = true\n");
        server.apply(&first_party).await;
        let web = server.services.clients.get("web").await.unwrap().unwrap();
        assert!(!consents::is_needed(&cx, &web, &read, SUB).await.unwrap(), "a first-party client is not asked for");
    }

    async fn a_person_signs_in_agrees_and_the_client_gets_a_code(engine) {
        let server = with_people(engine).await;
        for mode in ["query", "fragment"] {
            let mut browser = Browser::new(&server);
            let login = browser.authorize(&request(&[("response_mode", mode), ("prompt", "consent")])).await;
            assert!(login.is_at("/login"));
            let consent = browser.fill_in(&login, ALICE).await;
            assert!(consent.is_at("/consent"), "{}", consent.url);
            let mut url = browser.press(&consent, "approve", &[]).await.redirected();
            if mode == "fragment" {
                let fragment = url.fragment().map(str::to_owned);
                url.set_query(fragment.as_deref());
            }
            assert_code(&server, &url);
            // Agreed to: no page any more.
            assert_code(&server, &browser.authorize(&request(&[])).await.redirected());
        }
        let mut browser = Browser::new(&server);
        let login = browser.authorize(&request(&[("response_mode", "form_post")])).await;
        let answer = browser.fill_in(&login, ALICE).await;
        assert_eq!(answer.header("referrer-policy"), "same-origin", "as every page with a form");
        let form = answer.forms().remove(0);
        assert_eq!((form.action.as_str(), form.buttons.len()), ("https://rp.test/cb", 1));
        let names: Vec<_> = form.hidden.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["code", "state", "iss"]);
    }

    async fn a_cross_site_post_finds_the_session(engine) {
        let server = with_people(engine).await;
        let mut browser = signed_in(&server, ALICE).await;
        let cookies = browser.cookies.clone();
        let url = format!("{}/oauth2/authorize", server.issuer);
        assert_code(&server, &browser.post_from("https://rp.test", &url, &request(&[])).await.redirected());
        assert_eq!(browser.cookies, cookies);
    }

    async fn a_person_who_says_no_is_no_error_of_ours(engine) {
        let server = with_people(engine).await;
        for managed_by in ["apply", "registration"] {
            if managed_by == "registration" {
                execute(&server, "UPDATE clients SET managed_by = 'registration' WHERE client_id = 'web'").await;
                server.services.clients.invalidate("web");
            }
            let mut browser = Browser::new(&server);
            let login = browser.authorize(&request(&[])).await;
            let consent = browser.fill_in(&login, ALICE).await;
            let url = browser.press(&consent, "deny", &[]).await.redirected();
            assert_eq!(parameter(&url, "error").as_deref(), Some("access_denied"), "{url}");
            assert_eq!(parameter(&url, "state").as_deref(), Some("a state"));
            assert_eq!(parameter(&url, "iss").as_deref(), Some(server.issuer.as_str()));
            let again = browser.authorize(&request(&[])).await;
            assert!(again.has("approve"), "a no is not remembered");
        }
    }

    async fn oidc_core_3_1_2_6_prompt_none_shows_nothing(engine) {
        let server = with_people(engine).await;
        let none = request(&[("prompt", "none")]);
        let mut browser = Browser::new(&server);
        let error = async |browser: &mut Browser| {
            parameter(&browser.authorize(&none).await.redirected(), "error")
        };
        assert_eq!(error(&mut browser).await.as_deref(), Some("login_required"));
        let login = browser.authorize(&request(&[])).await;
        let consent = browser.fill_in(&login, ALICE).await;
        assert_eq!(error(&mut browser).await.as_deref(), Some("consent_required"));
        browser.press(&consent, "approve", &[]).await.redirected();
        assert_eq!(error(&mut browser).await, None);
        let other = r#"{"id_token":{"sub":{"value":"6fa459ea-ee8a-3ca4-894e-db77e160355e"}}}"#;
        assert_eq!(parameter(&browser.authorize(&request(&[("prompt", "none"), ("claims", other)])).await.redirected(), "error").as_deref(), Some("login_required"));
        assert_eq!(parameter(&browser.authorize(&request(&[("prompt", "none"), ("login_hint", "bob@example.com")])).await.redirected(), "error").as_deref(), Some("login_required"));
        assert_code(&server, &browser.authorize(&request(&[("prompt", "none"), ("login_hint", "Alice@Example.com")])).await.redirected());
        // A second account: somebody would have to choose.
        let login = browser.authorize(&request(&[("prompt", "login")])).await;
        let consent = browser.fill_in(&login, BOB).await;
        browser.press(&consent, "approve", &[]).await.redirected();
        assert_eq!(error(&mut browser).await.as_deref(), Some("account_selection_required"));
    }

    async fn who_must_prove_it_again_does_though_signed_in(engine) {
        let server = with_people(engine).await;
        for changes in [("prompt", "login"), ("max_age", "0")] {
            let mut browser = signed_in(&server, ALICE).await;
            // A second of difference, as max_age has it.
            execute(&server, "UPDATE sign_ins SET auth_time = auth_time - 5000000").await;
            let login = browser.authorize(&request(&[changes])).await;
            assert!(login.is_at("/login"), "{changes:?}");
            // Going on without doing it leads back.
            let flow = login.flow();
            let back = browser.get(&format!("{}/oauth2/authorize?flow={flow}", server.issuer)).await;
            assert!(back.is_at("/login"), "{changes:?}");
            assert_code(&server, &browser.fill_in(&back, ALICE).await.redirected());
        }
    }

    async fn t05_the_redirect_uri_is_the_flows_whatever_comes_later(engine) {
        let server = with_people(engine).await;
        let mut browser = Browser::new(&server);
        browser.cookies.insert("redirect_uri".into(), "https://evil.test/cb".into());
        let login = browser.authorize(&request(&[])).await;
        let evil = "redirect_uri=https%3A%2F%2Fevil.test%2Fcb&response_mode=fragment&state=evil";
        let login = browser.get(&format!("{}&{evil}", login.url)).await;
        let elsewhere = ("redirect_uri", "https://evil.test/cb");
        let fields = [("username", ALICE.0), ("password", ALICE.1), elsewhere];
        let consent = browser.press(&login, "submit", &fields).await;
        let flow = consent.flow();
        // With a client_id it is a request of its own, and this one has nobody to answer.
        let resumed = format!("{}/oauth2/authorize?flow={flow}&{evil}", server.issuer);
        assert_eq!(browser.get(&format!("{resumed}&client_id=web")).await.status, 400);
        let consent = browser.get(&resumed).await;
        assert_code(&server, &browser.press(&consent, "approve", &[elsewhere]).await.redirected());
    }

    async fn t06_another_browser_cannot_go_on_with_a_flow(engine) {
        let server = with_people(engine).await;
        let mut browser = Browser::new(&server);
        let login = browser.authorize(&request(&[])).await;
        let consent = browser.fill_in(&login, ALICE).await;
        let flow = consent.flow();
        for mut other in [Browser::new(&server), signed_in(&server, BOB).await] {
            for path in ["/oauth2/authorize", "/login", "/consent"] {
                let page = other.get(&format!("{}{path}?flow={flow}", server.issuer)).await;
                assert_eq!(page.status, 400, "{path}");
                assert!(page.away.is_none());
            }
        }
        assert_code(&server, &browser.press(&consent, "approve", &[]).await.redirected());
        // Once: the way back is closed.
        let again = browser.get(&format!("{}/oauth2/authorize?flow={flow}", server.issuer)).await;
        assert_eq!(again.status, 400);
        assert!(again.away.is_none());
    }

    /// T-103: the form binds the person, too.
    async fn t103_a_page_shown_for_one_person_does_not_say_yes_for_another(engine) {
        let server = with_people(engine).await;
        let mut browser = signed_in(&server, ALICE).await;
        let login = browser.authorize(&request(&[("prompt", "login")])).await;
        browser.fill_in(&login, BOB).await;
        let choice = browser.authorize(&request(&[("prompt", "select_account consent")])).await;
        let [alice, bob] = ["alice", "bob"].map(|name| account(&choice, name));
        let hers = browser.press(&choice, "account", &[("account", &alice)]).await;
        assert!(hers.is_at("/consent") && hers.text.contains("alice"), "{}", hers.text);
        // In another tab somebody goes back and chooses the other one.
        let choice = browser.get(&format!("/login?flow={}", hers.flow())).await;
        let his = browser.press(&choice, "account", &[("account", &bob)]).await;
        assert!(his.is_at("/consent") && his.text.contains("bob"), "{}", his.text);
        let page = browser.press(&hers, "approve", &[]).await;
        assert_eq!(page.status, 403);
        assert!(page.is_at("/consent") && page.text.contains("bob") && page.has("approve"), "{}", page.text);
        assert_eq!(server.place.number("SELECT COUNT(DISTINCT sub) FROM consents WHERE client_id = 'web'").await, 1, "hers of before");
        assert_code(&server, &browser.press(&his, "approve", &[]).await.redirected());
    }

    /// T-102: who proves to be another in somebody's session is another, and nothing of the first one's moves: their
    /// tokens stay theirs, and a client that meant them gets nobody else.
    async fn t102_proving_to_be_another_moves_nothing_of_the_first(engine) {
        let server = Server::empty(engine).await;
        server.apply(people::PEOPLE).await;
        let mut browser = Browser::new(&server);
        let (scope, login) = ("openid offline_access", ("prompt", "login"));
        let hers = people::tokens(&server, &mut browser, people::ADA, scope).await;
        let before = browser.session().to_owned();
        let his = people::tokens_with(&server, &mut browser, people::BOB, (scope, &[login])).await;
        assert_ne!(browser.session(), before, "T-101");
        let claim = |tokens: &Value, name: &str| part(tokens["id_token"].as_str().unwrap(), 1)[name].clone();
        for name in ["sub", "sid"] {
            assert!(claim(&hers, name).is_string() && claim(&hers, name) != claim(&his, name), "{name}");
        }
        let subject = async |tokens: &Value| {
            let refreshed = [("grant_type", "refresh_token"), ("refresh_token", tokens["refresh_token"].as_str().unwrap())];
            let answer = server.post(TOKEN, Some((people::WEB.0, people::WEB.1)), &refreshed).await;
            part(answer.json["access_token"].as_str().unwrap(), 1)["sub"].clone()
        };
        assert_eq!((subject(&hers).await, subject(&his).await), (claim(&hers, "sub"), claim(&his, "sub")));
        // By a hint the client means her, who is there as well; he signs in all the same.
        let hint = hers["id_token"].as_str().unwrap();
        let url = people::authorization_url(&server, scope, &[login, ("id_token_hint", hint)]);
        let page = browser.get(&url).await;
        let grants = server.place.number("SELECT COUNT(*) FROM grants").await;
        let page = browser.fill_in(&page, people::BOB).await;
        assert_eq!(page.parameter("error").as_deref(), Some("login_required"), "{page:?}");
        assert_eq!(server.place.number("SELECT COUNT(*) FROM grants").await, grants);
    }

    /// OpenID Connect Core §3.1.2.1: a hint is whom the client expects. It stands in the form, and chooses among those who
    /// are there; names are compared as they are at sign-in.
    async fn a_login_hint_is_filled_in_and_compared_as_usernames_are(engine) {
        let server = with_people(engine).await;
        server.apply("[[user]]\nusername = \"\u{c5}sa\"\npassword = \"lantern gravel tuba omelette\"\nemail = \"Aa\u{30a}sa@Example.com\"").await;
        let typed = |page: &Page| {
            let input = page.text.split("id=\"username\"").nth(1).unwrap().split('>').next().unwrap().to_owned();
            input.split("value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
        };
        let mut browser = Browser::new(&server);
        for (hint, shown) in [("alice", "alice"), ("alice@example.com", "alice@example.com"), ("no username", "")] {
            let page = browser.authorize(&request(&[("login_hint", hint)])).await;
            assert!(page.is_at("/login") && typed(&page) == shown, "{hint}: {}", page.text);
        }
        let page = browser.authorize(&request(&[("login_hint", "\u{c5}sa")])).await;
        let consent = browser.fill_in(&page, ("\u{e5}SA", ALICE.1)).await;
        browser.press(&consent, "approve", &[]).await.redirected();
        // Somebody else is here, too: without the hint one would have to choose.
        let login = browser.get("/login").await;
        browser.fill_in(&login, ALICE).await;
        for (hint, error) in [
            ("\u{c5}sa", None),
            ("A\u{30a}SA", None),
            (" \u{e5}\u{ff53}a ", None),
            ("a\u{e5}sa@EXAMPLE.com", None),
            ("asa", Some("login_required")),
            ("\u{c5}sa@example.com", Some("login_required")),
        ] {
            let page = browser.authorize(&request(&[("prompt", "none"), ("login_hint", hint)])).await;
            assert_eq!(page.parameter("error").as_deref(), error, "{hint:?}");
        }
    }

    async fn what_is_asked_for_by_name_is_told_in_words(engine) {
        let server = with_people(engine).await;
        let mut browser = signed_in(&server, ALICE).await;
        let claims = r#"{"id_token":{"email":{"essential":true}},"userinfo":{"phone_number":null}}"#;
        let page = browser.authorize(&request(&[("claims", claims)])).await;
        assert!(page.is_at("/consent"), "{}", page.url);
        assert!(page.text.contains("See your e-mail address"), "{}", page.text);
        // The client has not registered the scope of it, and will not get it.
        assert!(!page.text.contains("See your phone number"));
        assert_code(&server, &browser.press(&page, "approve", &[]).await.redirected());
        assert_code(&server, &browser.authorize(&request(&[("claims", claims)])).await.redirected());
    }

    /// Who is signed in beside the one who is used is not kept by that.
    async fn only_who_is_used_stays_signed_in(engine) {
        let server = with_people(engine).await;
        let mut browser = signed_in(&server, ALICE).await;
        let login = browser.get("/login").await;
        browser.fill_in(&login, BOB).await;
        for _ in 0..3 {
            server.clock.advance(std::time::Duration::from_mins(12));
            let page = browser.authorize(&request(&[("login_hint", "alice")])).await;
            assert_code(&server, &page.redirected());
        }
        let page = browser.get("/account").await;
        assert!(page.text.contains("alice") && !page.text.contains("bob"), "{}", page.text);
    }

    async fn accounts_are_chosen_where_the_client_asks_for_it(engine) {
        let server = with_people(engine).await;
        let mut browser = signed_in(&server, ALICE).await;
        let page = browser.authorize(&request(&[("prompt", "select_account")])).await;
        assert!(page.is_at("/login"));
        let flow = page.flow();
        let back = browser.get(&format!("{}/oauth2/authorize?flow={flow}", server.issuer)).await;
        assert!(back.is_at("/login"), "not chosen yet");
    }
}

/// A browser in which somebody has signed in and agreed to what the tests ask for.
async fn signed_in(server: &Server, who: (&str, &str)) -> Browser {
    let mut browser = Browser::new(server);
    let login = browser.authorize(&request(&[])).await;
    let mut page = browser.fill_in(&login, who).await;
    if page.has("approve") {
        page = browser.press(&page, "approve", &[]).await;
    }
    page.redirected();
    browser
}

/// The value of the button that chooses an account.
#[track_caller]
fn account(page: &Page, username: &str) -> String {
    let before = page.text.split(&format!(">{username}</button>")).next().unwrap();
    before.rsplit("name=\"account\" value=\"").next().unwrap().split('"').next().unwrap().to_owned()
}

#[track_caller]
fn assert_code(server: &Server, url: &url::Url) {
    assert!(url.as_str().starts_with("https://rp.test/cb?"), "{url}");
    assert_eq!(parameter(url, "error"), None, "{url}");
    assert!(parameter(url, "code").is_some_and(|code| code.len() > 40), "{url}");
    assert_eq!(parameter(url, "state").as_deref(), Some("a state"));
    assert_eq!(parameter(url, "iss").as_deref(), Some(server.issuer.as_str()));
}
