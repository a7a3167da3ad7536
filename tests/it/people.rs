//! People, an API and two applications, and the way to tokens for them.

use serde_json::Value;

use crate::browser::Browser;
use crate::support::{CHALLENGE, Server, TOKEN, VERIFIER, encode};

/// Two people, an API, a web application with a secret, and a native one without.
pub const PEOPLE: &str = r#"
[[user]]
username = "ada"
password = "ada rows 9 gulls home"
name = "Ada Lovelace"
email = "ada@example.com"
email_verified = true
groups = ["staff", "admins"]
claims = { cost_center = "C-7" }

[[user]]
username = "bob"
password = "bob mends 4 lamps nightly"
name = "Bob"

[[resource]]
identifier = "https://api.example.com"
name = "Orders API"
scopes = { "orders:read" = "Read orders" }

[[client]]
client_id = "web"
client_name = "Web shop"
client_secret = "imported-secret-of-at-least-32-characters"
grant_types = ["authorization_code", "refresh_token"]
redirect_uris = ["https://shop.example.com/cb"]
post_logout_redirect_uris = ["https://shop.example.com/bye", "https://shop.example.com/bye?from=op"]
allowed_origins = ["https://shop.example.com"]
scope = "openid profile email groups offline_access orders:read"

[[client]]
client_id = "app"
client_name = "App"
token_endpoint_auth_method = "none"
application_type = "native"
grant_types = ["authorization_code", "refresh_token"]
redirect_uris = ["http://127.0.0.1/cb"]
post_logout_redirect_uris = ["com.example.app:/bye"]
userinfo_signed_response_alg = "ES256"
scope = "openid profile"
"#;

pub const ADA: (&str, &str) = ("ada", "ada rows 9 gulls home");
pub const BOB: (&str, &str) = ("bob", "bob mends 4 lamps nightly");
/// The web shop, its secret and where it is answered.
pub const WEB: (&str, &str, &str) = ("web", "imported-secret-of-at-least-32-characters", "https://shop.example.com/cb");

/// The address at which the web shop asks for `scope`, with `more` parameters.
pub fn authorization_url(server: &Server, scope: &str, more: &[(&str, &str)]) -> String {
    let mut parameters = vec![
        ("response_type", "code"),
        ("scope", scope),
        ("state", "st"),
        ("nonce", "no"),
        ("code_challenge", CHALLENGE),
        ("code_challenge_method", "S256"),
    ];
    let own = |name: &str| more.iter().any(|(key, _)| *key == name);
    parameters.extend([("client_id", WEB.0), ("redirect_uri", WEB.2)].into_iter().filter(|(name, _)| !own(name)));
    parameters.extend(more);
    format!("{}/oauth2/authorize?{}", server.url, encode(&parameters))
}

/// The tokens that the web shop gets for `who`, who agrees to everything.
pub async fn tokens(server: &Server, browser: &mut Browser, who: (&str, &str), scope: &str) -> Value {
    tokens_with(server, browser, who, (scope, &[])).await
}

pub async fn tokens_with(
    server: &Server,
    browser: &mut Browser,
    who: (&str, &str),
    (scope, more): (&str, &[(&str, &str)]),
) -> Value {
    let page = browser.go_through(&authorization_url(server, scope, more), who).await;
    let code = page.parameter("code").unwrap_or_else(|| panic!("{page:?}"));
    let find = |name: &str| more.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
    let mut form = vec![
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("code_verifier", VERIFIER),
        ("redirect_uri", find("redirect_uri").unwrap_or(WEB.2)),
    ];
    let client = find("client_id");
    form.extend(client.map(|client| ("client_id", client)));
    let answer = server.post(TOKEN, client.is_none().then_some((WEB.0, WEB.1)), &form).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json
}
