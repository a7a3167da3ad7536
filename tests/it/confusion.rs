//! What one thing is good for, no other is: every opaque artefact and every token of ours in each other's slots (T-22,
//! T-64), and encrypted tokens, of which we have none, in all that take a token (T-65).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use josekit::jwe::JweHeader;
use serde_json::json;

use crate::browser::Browser;
use crate::people::{ADA, BOB, PEOPLE, WEB, authorization_url, tokens};
use crate::support::{Answer, Engine, INTROSPECT, REVOKE, Server, TOKEN, VERIFIER, both};

/// Somebody at a browser in the middle of a sign-in, with everything that we gave out until then.
struct Scene {
    server: Server,
    /// Signed in, and asked for consent.
    browser: Browser,
    /// What it is, and its text.
    artefacts: BTreeMap<&'static str, String>,
}

/// Where something is presented.
const SLOTS: &[&str] = &[
    "flow at the authorization endpoint",
    "flow at login",
    "flow at consent",
    "stored request",
    "csrf of login",
    "csrf of consent",
    "csrf of sign-out",
    "session cookie",
    "known browser",
    "sign-in",
    "code",
    "refresh token",
    "introspection",
    "userinfo",
    "id_token_hint at the authorization endpoint",
    "id_token_hint at logout",
];

/// Which artefact belongs where.
fn fits(artefact: &str, slot: &str) -> bool {
    match slot {
        "flow at the authorization endpoint" | "flow at login" | "flow at consent" => artefact == "flow",
        "stored request" => artefact == "stored request",
        "session cookie" => artefact == "session",
        "sign-in" => artefact == "sid",
        "userinfo" => artefact == "access token",
        // A refresh token may be asked about, too (RFC 7662 §2.1).
        "introspection" => ["access token", "refresh token"].contains(&artefact),
        "id_token_hint at the authorization endpoint" | "id_token_hint at logout" => artefact == "id token",
        _ => slot == artefact,
    }
}

impl Scene {
    async fn new(engine: Engine) -> Self {
        let server = Server::empty(engine).await;
        server.apply(PEOPLE).await;
        let mut browser = Browser::new(&server);
        let got = tokens(&server, &mut browser, ADA, "openid offline_access").await;
        let token = |name: &str| got[name].as_str().unwrap().to_owned();
        let mut artefacts = BTreeMap::from([
            ("access token", token("access_token")),
            ("refresh token", token("refresh_token")),
            ("id token", token("id_token")),
            ("secret", WEB.1.to_owned()),
            ("session", browser.session().to_owned()),
            ("sid", browser.get("/account").await.input("account")),
        ]);
        let home = browser.get("/account").await;
        artefacts.insert("csrf of sign-out", home.input("csrf"));
        artefacts.insert("csrf of login", browser.token().await);
        artefacts.insert("known browser", known_browser(&browser).1.to_owned());
        let code = browser.get(&authorization_url(&server, "openid", &[])).await.parameter("code").unwrap();
        artefacts.insert("code", code);
        let consent = browser.get(&authorization_url(&server, "openid", &[("prompt", "consent")])).await;
        artefacts.insert("flow", consent.flow());
        artefacts.insert("csrf of consent", consent.input("csrf"));
        let url = url::Url::parse(&authorization_url(&server, "openid", &[])).unwrap();
        let form: Vec<(String, String)> = url.query_pairs().into_owned().collect();
        let form: Vec<(&str, &str)> = form.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let stored = server.post("/oauth2/authorize", None, &form).await;
        let stored = stored.header("location").unwrap().split("stored=").nth(1).unwrap().to_owned();
        artefacts.insert("stored request", stored);
        // From here on Ada gets in from nowhere but a browser that her account knows.
        Browser::new(&server).sign_in(ADA.0, "wrong and wrong and wrong").await;
        server.place.run("UPDATE attempts SET n = 100 WHERE kind = 'account'").await;
        Self { server, browser, artefacts }
    }

    /// Presents `value` in `slot`, and shows that it is nothing there.
    async fn refused(&mut self, slot: &str, value: &str, what: &str) {
        let Self { server, browser, artefacts } = self;
        let encoded: String = url::form_urlencoded::byte_serialize(value.as_bytes()).collect();
        let token_endpoint = async |form: &[(&str, &str)]| server.post(TOKEN, Some((WEB.0, WEB.1)), form).await;
        match slot {
            "flow at the authorization endpoint" | "flow at login" | "flow at consent" | "stored request" => {
                let path = match slot {
                    "flow at the authorization endpoint" => "oauth2/authorize?flow",
                    "flow at login" => "login?flow",
                    "flow at consent" => "consent?flow",
                    _ => "oauth2/authorize?stored",
                };
                let page = browser.get(&format!("{}/{path}={encoded}", server.url)).await;
                assert_eq!((page.status, &page.away), (400, &None), "{what} as {slot}");
            }
            "csrf of login" => {
                let form = [("csrf", value), ("username", BOB.0), ("password", BOB.1)];
                assert_eq!(browser.post("/login", &form).await.status, 403, "{what} as {slot}");
            }
            "csrf of consent" => {
                let form = [("csrf", value), ("flow", &artefacts["flow"]), ("approve", "1")];
                assert_eq!(browser.post("/consent", &form).await.status, 403, "{what} as {slot}");
            }
            "csrf of sign-out" => {
                let form = [("csrf", value), ("account", &artefacts["sid"])];
                assert_eq!(browser.post("/account/sign-out", &form).await.status, 403, "{what} as {slot}");
            }
            "session cookie" => {
                let mut other = Browser::new(server);
                other.cookies.insert("sealwright".into(), value.to_owned());
                assert!(other.get("/account").await.is_at("/login"), "{what} as {slot}");
            }
            "known browser" => {
                let mut other = Browser::new(server);
                other.cookies.insert(known_browser(browser).0.to_owned(), value.to_owned());
                assert_eq!(other.sign_in(ADA.0, ADA.1).await.status, 403, "{what} as {slot}");
            }
            "sign-in" => {
                let form = [("csrf", artefacts["csrf of sign-out"].as_str()), ("account", value)];
                assert!(browser.post("/account/sign-out", &form).await.is_at("/account"), "{what} as {slot}");
            }
            "code" => {
                let form = [
                    ("grant_type", "authorization_code"),
                    ("code", value),
                    ("redirect_uri", WEB.2),
                    ("code_verifier", VERIFIER),
                ];
                token_endpoint(&form).await.assert_error(400, "invalid_grant");
            }
            "refresh token" => {
                let form = [("grant_type", "refresh_token"), ("refresh_token", value)];
                token_endpoint(&form).await.assert_error(400, "invalid_grant");
            }
            "introspection" => {
                let answer = server.post(INTROSPECT, Some((WEB.0, WEB.1)), &[("token", value)]).await;
                assert_eq!((answer.status, &answer.json), (200, &json!({"active": false})), "{what} as {slot}");
            }
            "userinfo" => {
                let bearer = format!("Bearer {value}");
                let request = server.http.get(format!("{}/userinfo", server.url)).header("authorization", bearer);
                let answer = Answer::of(request.send().await.unwrap()).await;
                assert!([400, 401].contains(&answer.status), "{what} as {slot}: {}", answer.text);
            }
            "id_token_hint at the authorization endpoint" => {
                let page = browser.get(&authorization_url(server, "openid", &[("id_token_hint", value)])).await;
                assert_eq!(page.parameter("error").as_deref(), Some("invalid_request"), "{what} as {slot}");
            }
            "id_token_hint at logout" => {
                let page = browser.get(&format!("{}/logout?id_token_hint={encoded}", server.url)).await;
                assert!(page.status == 200 && page.has("submit"), "{what} as {slot}: {}", page.text);
            }
            _ => panic!("no slot {slot}"),
        }
    }

    /// All of it is still good where it belongs: nothing was used up, ended or taken back.
    async fn stands(&mut self) {
        let Self { server, browser, artefacts } = self;
        let number = async |sql: &str| server.place.number(sql).await;
        assert_eq!(number("SELECT COUNT(*) FROM grants WHERE revoked_at IS NOT NULL").await, 0);
        assert_eq!(number("SELECT COUNT(*) FROM sign_ins").await, 1);
        let answer = server.http.get(format!("{}/userinfo", server.url));
        let answer =
            answer.header("authorization", format!("Bearer {}", artefacts["access token"])).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let page = browser.get(&format!("{}/consent?flow={}", server.url, artefacts["flow"])).await;
        assert!(browser.press(&page, "approve", &[]).await.parameter("code").is_some());
        let page =
            browser.get(&format!("{}/oauth2/authorize?stored={}", server.url, artefacts["stored request"])).await;
        assert!(page.parameter("code").is_some());
        let form = [
            ("grant_type", "authorization_code"),
            ("code", &artefacts["code"]),
            ("redirect_uri", WEB.2),
            ("code_verifier", VERIFIER),
        ];
        assert_eq!(server.post(TOKEN, Some((WEB.0, WEB.1)), &form).await.status, 200);
        let form = [("grant_type", "refresh_token"), ("refresh_token", artefacts["refresh token"].as_str())];
        assert_eq!(server.post(TOKEN, Some((WEB.0, WEB.1)), &form).await.status, 200);
        let mut other = Browser::new(server);
        other.cookies.insert(known_browser(browser).0.to_owned(), artefacts["known browser"].clone());
        assert!(other.sign_in(ADA.0, ADA.1).await.is_at("/account"));
    }
}

/// The cookie by which Ada's account knows this browser.
fn known_browser(browser: &Browser) -> (&str, &str) {
    let (name, value) = browser.cookies.iter().find(|(name, _)| name.contains("-known-")).unwrap();
    (name, value)
}

/// Five parts: by a password at an unbearable cost, to our own public key, with a key of nobody, and with nothing in it.
async fn encrypted(scene: &Scene) -> Vec<String> {
    let part = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let header = |value: serde_json::Value| part(value.to_string().as_bytes());
    let made_up = |head: serde_json::Value| {
        [header(head), part(&[1; 40]), part(&[2; 16]), part(&[3; 64]), part(&[4; 16])].join(".")
    };
    let keys = scene.server.get("/.well-known/jwks.json").await.json;
    let key = keys["keys"].as_array().unwrap().iter().find(|key| key["alg"] == "RS256").unwrap().clone();
    let serde_json::Value::Object(mut members) = key else { panic!("{key}") };
    let kid = members["kid"].clone();
    members.retain(|name, _| ["kty", "n", "e"].contains(&name.as_str()));
    let jwk = josekit::jwk::Jwk::from_map(members).unwrap();
    let mut head = JweHeader::new();
    head.set_content_encryption("A128CBC-HS256");
    head.set_token_type("JWT");
    head.set_content_type("JWT");
    head.set_key_id(kid.as_str().unwrap());
    let encrypter = josekit::jwe::RSA_OAEP_256.encrypter_from_jwk(&jwk).unwrap();
    let to_us = |inner: &str| josekit::jwe::serialize_compact(inner.as_bytes(), &head, &encrypter).unwrap();
    vec![
        made_up(
            json!({"alg": "PBES2-HS256+A128KW", "enc": "A128CBC-HS256", "p2c": 2_147_483_647_u32, "p2s": part(&[5; 16]), "typ": "at+jwt"}),
        ),
        made_up(json!({"alg": "dir", "enc": "A256GCM", "zip": "DEF"})),
        to_us(&scene.artefacts["access token"]),
        to_us(&scene.artefacts["id token"]),
        "....".to_owned(),
        format!("{}.a.b", scene.artefacts["access token"]),
    ]
}

/// `value` in many ways, and never itself.
fn changed(value: &str) -> Vec<String> {
    let mut all =
        vec![value[..value.len() - 1].to_owned(), format!("{value}A"), value.to_uppercase(), value.to_lowercase()];
    all.extend([value[1..].to_owned(), value[..value.len() / 2].to_owned(), format!("{value}{value}")]);
    // Another letter of base64url here and there; in the last one only the bits that count are others.
    let letters = value.len() - 1;
    for at in (0..letters).step_by(letters.div_ceil(12)).chain([letters]) {
        let other = match value.as_bytes()[at] {
            b'A'..=b'P' => 'z',
            _ => 'C',
        };
        all.push(format!("{}{other}{}", &value[..at], &value[at + 1..]));
    }
    if let [head, claims, signature] = value.split('.').collect::<Vec<_>>()[..] {
        let none = BASE64_URL_SAFE_NO_PAD.encode(br#"{"alg":"none","typ":"JWT"}"#);
        all.extend([format!("{head}.{claims}."), format!("{head}.{claims}"), format!("{none}.{claims}.")]);
        all.push(format!("{none}.{claims}.{signature}"));
    }
    all.retain(|changed| changed != value);
    all
}

both! {
    async fn t22_t64_nothing_of_ours_is_good_in_anothers_place(engine) {
        let mut scene = Scene::new(engine).await;
        let mut tried = 0;
        for (artefact, value) in scene.artefacts.clone() {
            for slot in SLOTS.iter().filter(|slot| !fits(artefact, slot)) {
                scene.refused(slot, &value, artefact).await;
                tried += 1;
            }
        }
        assert!(tried > 150, "{tried}");
        scene.stands().await;
    }

    /// T-63: whatever we gave out, with one letter changed, cut off or added, without its signature, or in other letters,
    /// is nothing where it belongs.
    async fn t63_nothing_that_we_gave_out_is_good_when_it_is_changed(engine) {
        let mut scene = Scene::new(engine).await;
        let mut tried = 0;
        for (artefact, value) in scene.artefacts.clone() {
            for slot in SLOTS.iter().filter(|slot| fits(artefact, slot)) {
                for changed in changed(&value) {
                    scene.refused(slot, &changed, &format!("a changed {artefact}, {changed:?},")).await;
                    tried += 1;
                }
            }
        }
        assert!(tried > 200, "{tried}");
        scene.stands().await;
    }

    async fn t65_no_encrypted_token_is_taken_anywhere(engine) {
        let mut scene = Scene::new(engine).await;
        for token in encrypted(&scene).await {
            for slot in ["introspection", "userinfo", "id_token_hint at the authorization endpoint", "id_token_hint at logout", "refresh token", "code"] {
                scene.refused(slot, &token, "an encrypted token").await;
            }
            assert_eq!(scene.server.post(REVOKE, Some((WEB.0, WEB.1)), &[("token", &token)]).await.status, 200);
            let assertion = [
                ("grant_type", "client_credentials"),
                ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
                ("client_assertion", token.as_str()),
            ];
            scene.server.post(TOKEN, None, &assertion).await.assert_error(401, "invalid_client");
            let request = authorization_url(&scene.server, "openid", &[("request", &token)]);
            let error = scene.browser.get(&request).await.parameter("error");
            assert_eq!(error.as_deref(), Some("request_not_supported"));
        }
        scene.stands().await;
    }
}
