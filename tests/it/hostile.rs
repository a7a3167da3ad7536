//! What others chose (names, scopes, parameters) is text on every page, and what is sent is not sent back in errors.

use std::collections::BTreeSet;

use crate::browser::{Browser, Page, attribute};
use crate::support::{Answer, CHALLENGE, Engine, FORM, INTROSPECT, REVOKE, Server, TOKEN, both, encode};

/// It ends every context of HTML that a value of ours could be in.
const POLYGLOT: &str = "'\"></title></h1></form><svg/onload=alert(1)><script>alert(1)</script>{{7919*7907}}<!--&#0;";
const PASSWORD: &str = "lantern gravel tuba omelette";

/// The same scene with harmless names or with hostile ones.
struct Names {
    /// Of a client, an API, and what its scope means.
    shown: &'static str,
    username: &'static str,
    /// Of parameters that come back somewhere.
    parameter: &'static str,
    /// A scope token: neither a quote nor a backslash can be in one.
    scope: &'static str,
}

const HARMLESS: Names = Names { shown: "Shop", username: "ada", parameter: "abc", scope: "read" };
const HOSTILE: Names = Names {
    shown: POLYGLOT,
    username: "\"'><svg/onload=alert(1)>{{7919*7907}}<!--",
    parameter: POLYGLOT,
    scope: "'><b>{{7919*7907}}<!--",
};

/// Elements with their attributes' names, in order: what a page is, without what it says.
fn shape(page: &Page) -> Vec<String> {
    let mut found = Vec::new();
    for tag in page.text.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').unwrap_or_else(|| panic!("an open element: {}", page.text));
        // Values stand in double quotes, and no others are written.
        let names: Vec<&str> = tag.split('"').step_by(2).collect();
        found.push(names.concat());
    }
    found
}

/// Two people, an API and a client with these names.
fn applied(Names { shown, username, scope, .. }: &Names) -> String {
    format!(
        r#"
[[user]]
username = {username:?}
password = "{PASSWORD}"
name = {shown:?}

[[user]]
username = "grace"
password = "{PASSWORD}"

[[resource]]
identifier = "https://api.example.com"
name = {shown:?}
scopes = {{ {scope:?} = {shown:?} }}

[[client]]
client_id = "web"
client_name = {shown:?}
client_secret = "imported-secret-of-at-least-32-characters"
grant_types = ["authorization_code", "refresh_token"]
redirect_uris = ["https://shop.example.com/cb"]
post_logout_redirect_uris = ["https://shop.example.com/bye"]
scope = "openid profile offline_access {scope}"
"#
    )
}

/// Every page of one way through, with what it is called.
async fn pages(engine: Engine, names: &Names) -> Vec<(&'static str, Page)> {
    let server = Server::empty(engine).await;
    server.apply(&applied(names)).await;
    let Names { username, parameter, scope, .. } = names;
    let scope = format!("openid profile offline_access {scope}");
    let request = |more: &[(&'static str, &str)]| {
        let mut parameters = vec![
            ("response_type", "code"),
            ("client_id", "web"),
            ("redirect_uri", "https://shop.example.com/cb"),
            ("scope", scope.as_str()),
            ("state", parameter),
            ("nonce", parameter),
            ("login_hint", parameter),
            ("ui_locales", parameter),
            ("acr_values", parameter),
            ("display", parameter),
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
        ];
        parameters.extend(more);
        format!("{}/oauth2/authorize?{}", server.url, encode(&parameters))
    };
    let mut pages = Vec::new();
    let mut browser = Browser::new(&server);
    let mut other = Browser::new(&server);
    assert!(other.sign_in(username, PASSWORD).await.is_at("/account"));
    let login = browser.get(&request(&[("response_mode", "form_post"), ("prompt", "login")])).await;
    let refused = browser.fill_in(&login, (parameter, parameter)).await;
    let stale = browser.press(&refused, "submit", &[("username", parameter), ("csrf", parameter)]).await;
    let consent = browser.fill_in(&refused, (username, PASSWORD)).await;
    let again = browser.press(&consent, "approve", &[("csrf", parameter)]).await;
    let post = browser.press(&consent, "approve", &[]).await;
    assert!(post.text.contains("action=\"https://shop.example.com/cb\""), "{}", post.text);
    let home = browser.get("/account").await;
    assert!(home.has("client") && home.has("session"), "{}", home.text);
    let link = home.text.split("href=\"").find(|part| part.starts_with("/account/password")).unwrap();
    let password = browser.get(link.split('"').next().unwrap()).await;
    let logout = [
        ("client_id", "web"),
        ("post_logout_redirect_uri", "https://shop.example.com/bye"),
        ("state", parameter),
        ("ui_locales", parameter),
    ];
    let logout = format!("{}/logout?{}", server.url, encode(&logout));
    let one = browser.get(&logout).await;
    assert!(browser.sign_in("grace", PASSWORD).await.is_at("/account"));
    let several = browser.get(&logout).await;
    let accounts = browser.get(&request(&[("prompt", "select_account")])).await;
    let sid = several.input("account");
    let out = browser
        .press(&several, "account", &[("account", &sid), ("post_logout_redirect_uri", ""), ("client_id", "")])
        .await;
    let bad = browser
        .get(&format!(
            "{}/logout?{}",
            server.url,
            encode(&[("client_id", parameter), ("post_logout_redirect_uri", parameter)])
        ))
        .await;
    let unknown =
        browser.get(&format!("{}/oauth2/authorize?{}", server.url, encode(&[("client_id", parameter)]))).await;
    let flow =
        browser.get(&format!("{}/login?{}", server.url, encode(&[("flow", parameter), ("other", parameter)]))).await;
    pages.extend([
        ("login", login),
        ("refused", refused),
        ("stale", stale),
        ("consent", consent),
        ("again", again),
        ("post", post),
        ("home", home),
        ("password", password),
        ("one", one),
        ("several", several),
        ("accounts", accounts),
        ("out", out),
        ("bad", bad),
        ("unknown", unknown),
        ("flow", flow),
    ]);
    pages
}

both! {
    /// T-90: the pages have the same elements and attributes, whatever the names; T-92: nobody frames one of them.
    async fn t90_t92_names_and_parameters_are_text_on_every_page(engine) {
        let (harmless, hostile) = (pages(engine, &HARMLESS).await, pages(engine, &HOSTILE).await);
        for ((what, good), (_, bad)) in harmless.iter().zip(&hostile) {
            assert_eq!(good.status, bad.status, "{what}: {}", bad.text);
            assert_eq!(shape(good), shape(bad), "{what}: {}", bad.text);
            assert!(!bad.text.contains("<svg") && !bad.text.contains("alert(1)</script>") && !bad.text.contains("62615533"), "{what}: {}", bad.text);
            let policy = bad.header("content-security-policy");
            for part in ["default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"] {
                assert!(policy.contains(part), "{what}: {policy}");
            }
            assert!(!policy.contains("unsafe") && policy.contains("script-src") == (*what == "post"), "{what}: {policy}");
            assert_eq!(bad.header("x-frame-options"), "DENY", "{what}");
            assert_eq!(bad.header("x-content-type-options"), "nosniff", "{what}");
            assert_eq!(bad.header("content-type"), "text/html; charset=utf-8", "{what}");
            assert!(bad.text.contains("<html lang=\"en\">"), "{what}");
        }
        // The hostile names were there, as text.
        for what in ["consent", "home", "several", "accounts"] {
            let page = &hostile.iter().find(|(known, _)| *known == what).unwrap().1;
            assert!(page.text.contains("svg/onload=alert(1)"), "{what}: {}", page.text);
        }
    }

    /// What a person fills in or presses is found by an id that is its name; of several of one name by their place.
    async fn inputs_and_buttons_have_stable_ids_that_are_their_names(engine) {
        let mut found = BTreeSet::new();
        for (what, page) in pages(engine, &HARMLESS).await {
            let mut ids = BTreeSet::new();
            for tag in page.text.split('<').filter(|tag| ["input", "button"].iter().any(|kind| tag.starts_with(kind))) {
                let tag = tag.split('>').next().unwrap();
                let of = |name: &str| attribute(tag, name).unwrap_or_default();
                if of("type") == "hidden" {
                    continue;
                }
                let (id, name) = (of("id"), of("name"));
                let several = id.strip_prefix(&format!("{name}-")).is_some_and(|place| place.parse::<u32>().is_ok());
                // The client is told what it is told, and not which button was pressed for it.
                let sends_on = what == "post" && (id.as_str(), name.as_str()) == ("submit", "");
                assert!(sends_on || !name.is_empty() && (id == name || several), "{what}: <{tag}>");
                assert!(ids.insert(id.clone()), "{what}: {id} stands twice");
            }
            found.extend(ids);
        }
        for id in ["username", "password", "submit", "approve", "deny", "new_password", "new_password_again", "account-1", "account-2", "client-1", "session-1"] {
            assert!(found.contains(id), "{id}: {found:?}");
        }
    }

    /// T-91: errors for programs are JSON that no browser takes for anything else, and say nothing of what was sent.
    async fn t91_errors_for_programs_echo_nothing(engine) {
        let (server, gateway) = Server::example(engine).await;
        let mut answers: Vec<Answer> = Vec::new();
        for name in ["grant_type", "scope", "resource", "client_id", "client_secret", "code", "refresh_token", "client_assertion",
            "client_assertion_type", "redirect_uri", "code_verifier", "token", "token_type_hint"] {
            for path in [TOKEN, INTROSPECT, REVOKE] {
                let mut form = vec![("grant_type", "client_credentials"), ("token", "x")];
                form.retain(|(known, _)| *known != name);
                form.push((name, POLYGLOT));
                for basic in [None, Some(("edge-gateway", gateway.as_str())), Some((POLYGLOT, POLYGLOT))] {
                    answers.push(server.post(path, basic, &form).await);
                }
            }
        }
        for path in ["/userinfo", "/nowhere", "/.well-known/nothing"] {
            let url = format!("{}{path}?{}", server.url, encode(&[("a", POLYGLOT)]));
            let request = server.http.post(url).header("content-type", FORM).body(encode(&[("access_token", POLYGLOT)]));
            answers.push(Answer::of(request.send().await.unwrap()).await);
        }
        let refused: Vec<&Answer> = answers.iter().filter(|answer| answer.status >= 400).collect();
        assert!(refused.len() > 80, "{}", refused.len());
        let codes: BTreeSet<&str> = refused.iter().filter_map(|answer| answer.json["error"].as_str()).collect();
        assert!(codes.len() >= 6, "{codes:?}");
        for answer in answers {
            assert!(answer.text.is_empty() || answer.header("content-type") == Some("application/json"), "{}", answer.text);
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
            assert!(!answer.text.contains("svg") && !answer.text.contains("alert") && !answer.text.contains('<'), "{}", answer.text);
        }
    }
}
