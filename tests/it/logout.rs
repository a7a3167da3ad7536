//! Signing out at a client's request (OpenID Connect RP-Initiated Logout 1.0).

use serde_json::Value;

use crate::authorize::mutants;
use crate::browser::{Browser, Page};
use crate::people::{ADA, BOB, PEOPLE, authorization_url, tokens};
use crate::support::{Engine, Server, both, encode};

const BYE: &str = "https://shop.example.com/bye";

fn url(server: &Server, parameters: &[(&str, &str)]) -> String {
    format!("{}/logout?{}", server.url, encode(parameters))
}

fn id_token(tokens: &Value) -> &str {
    tokens["id_token"].as_str().unwrap()
}

/// Whether the browser is still signed in: nobody is asked for a password.
async fn is_signed_in(server: &Server, browser: &mut Browser) -> bool {
    let page = browser.get(&authorization_url(server, "openid", &[("prompt", "none")])).await;
    let error = page.parameter("error");
    assert!(error.is_none() || error.as_deref() == Some("login_required"), "{error:?}");
    error.is_none()
}

#[track_caller]
fn assert_page(page: &Page, status: u16) {
    assert_eq!((page.status, &page.away), (status, &None), "{}", page.text);
    assert!(page.headers["content-type"].to_str().unwrap().starts_with("text/html"));
    assert_eq!(page.headers["cache-control"], "no-store");
    assert!(page.headers["content-security-policy"].to_str().unwrap().contains("frame-ancestors 'none'"));
}

both! {
    async fn with_an_id_token_of_this_sign_in_it_ends_at_once(engine) {
        let server = Server::empty(engine).await;
        server.apply(PEOPLE).await;
        for (more, away) in [
            (vec![], None),
            (vec![("post_logout_redirect_uri", BYE)], Some(BYE.to_owned())),
            (vec![("post_logout_redirect_uri", BYE), ("state", "a b")], Some(format!("{BYE}?state=a+b"))),
            (
                vec![("post_logout_redirect_uri", "https://shop.example.com/bye?from=op"), ("client_id", "web"), ("state", "s")],
                Some(format!("{BYE}?from=op&state=s")),
            ),
        ] {
            let mut browser = Browser::new(&server);
            let tokens = tokens(&server, &mut browser, ADA, "openid").await;
            assert!(is_signed_in(&server, &mut browser).await);
            let mut parameters = vec![("id_token_hint", id_token(&tokens))];
            parameters.extend(more);
            let page = browser.get(&url(&server, &parameters)).await;
            assert_eq!(page.away, away, "{}", page.text);
            assert!(!is_signed_in(&server, &mut browser).await);
        }
    }

    async fn t111_without_a_hint_of_this_sign_in_the_person_is_asked(engine) {
        let server = Server::empty(engine).await;
        server.apply(PEOPLE).await;
        let (mut ada, mut bob) = (Browser::new(&server), Browser::new(&server));
        let first = tokens(&server, &mut ada, ADA, "openid").await;
        let others = tokens(&server, &mut bob, BOB, "openid").await;
        let mut elsewhere = Browser::new(&server);
        let same_person = tokens(&server, &mut elsewhere, ADA, "openid").await;
        let broken = format!("{}x", id_token(&first));
        for hint in [None, Some(id_token(&others)), Some(id_token(&same_person)), Some(&broken), Some("x")] {
            let mut parameters = vec![("client_id", "web"), ("post_logout_redirect_uri", BYE)];
            parameters.extend(hint.map(|hint| ("id_token_hint", hint)));
            let page = ada.get(&url(&server, &parameters)).await;
            assert_page(&page, 200);
            assert!(page.text.contains("Web shop") && page.has("submit"), "{}", page.text);
            // Whom the hint means, if they are here; and who is, in any case.
            let means = hint == Some(id_token(&same_person));
            let asks = if means { "Web shop asks to sign out ada here." } else { "Web shop asks to sign you out here." };
            assert!(page.text.contains(asks) && page.text.contains("You are signed in as ada."), "{hint:?}: {}", page.text);
            assert!(is_signed_in(&server, &mut ada).await, "{hint:?}");
        }
        assert!(is_signed_in(&server, &mut bob).await && is_signed_in(&server, &mut elsewhere).await);
        let page = ada.get(&url(&server, &[("client_id", "web"), ("post_logout_redirect_uri", BYE), ("state", "s")])).await;
        let page = ada.press(&page, "submit", &[]).await;
        assert_eq!(page.away, Some(format!("{BYE}?state=s")));
        assert!(!is_signed_in(&server, &mut ada).await);
        assert!(is_signed_in(&server, &mut elsewhere).await);
    }

    async fn of_several_people_one_is_signed_out_or_all(engine) {
        let server = Server::empty(engine).await;
        server.apply(PEOPLE).await;
        let mut elsewhere = Browser::new(&server);
        let hint = tokens(&server, &mut elsewhere, BOB, "openid").await;
        for (hinted, pressed, stay) in [(false, "submit", &[][..]), (true, "submit", &["ada"]), (true, "all", &[]), (false, "bob", &["ada"])] {
            let mut browser = Browser::new(&server);
            browser.sign_in(ADA.0, ADA.1).await;
            browser.sign_in(BOB.0, BOB.1).await;
            let mut parameters = vec![("client_id", "web")];
            parameters.extend(hinted.then_some(("id_token_hint", id_token(&hint))));
            let page = browser.get(&url(&server, &parameters)).await;
            for words in ["Sign out ada", "Sign out bob", "Sign out all of them"] {
                assert!(page.text.contains(words), "{words}: {}", page.text);
            }
            assert_eq!(page.text.contains("Web shop asks to sign out bob here."), hinted, "{}", page.text);
            let named = |name: &str| page.text.contains(&format!("id=\"{name}\" name=\"{name}\""));
            assert!(named("submit") && named("all") == hinted, "{}", page.text);
            let sid = page.text.split(">Sign out bob<").next().unwrap().rsplit("value=\"").next().unwrap().split('"').next().unwrap();
            let done = match pressed {
                "bob" => browser.press(&page, "account", &[("account", sid)]).await,
                button => browser.press(&page, button, &[]).await,
            };
            assert_eq!(done.status, 200, "{}", done.text);
            assert_eq!(done.text.contains("Still signed in at this browser: ada"), !stay.is_empty(), "{}", done.text);
            let home = browser.get("/account").await;
            assert_eq!(home.is_at("/account"), !stay.is_empty());
            assert!(stay.iter().all(|name| home.text.contains(name)) && !home.text.contains("bob"), "{}", home.text);
        }
        assert!(is_signed_in(&server, &mut elsewhere).await);
    }

    /// What a page says of it must be true: all of them are signed out, or nobody is.
    async fn signing_out_that_cannot_be_stored_ends_nothing(engine) {
        let server = Server::empty(engine).await;
        server.apply(PEOPLE).await;
        let mut browser = Browser::new(&server);
        browser.sign_in(ADA.0, ADA.1).await;
        browser.sign_in(BOB.0, BOB.1).await;
        let bob = "(SELECT sub FROM users WHERE username = 'bob')";
        server.place.run(&match engine {
            Engine::Sqlite => format!(
                "CREATE TRIGGER keep BEFORE DELETE ON sign_ins WHEN OLD.sub = {bob} BEGIN SELECT RAISE(ABORT, 'kept'); END"
            ),
            Engine::Postgres => format!(
                "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                 IF OLD.sub = {bob} THEN RAISE EXCEPTION 'kept'; END IF; RETURN OLD; END $$; \
                 CREATE TRIGGER keep BEFORE DELETE ON sign_ins FOR EACH ROW EXECUTE FUNCTION keep()"
            ),
        }).await;
        let page = browser.get(&url(&server, &[])).await;
        let failed = browser.press(&page, "submit", &[]).await;
        assert!([500, 503].contains(&failed.status) && failed.text.contains("You may not be signed out yet"), "{}", failed.text);
        let home = browser.get("/account").await;
        assert!(home.text.contains("ada") && home.text.contains("bob"), "{}", home.text);
    }

    async fn t111_the_form_works_from_our_page_in_its_own_browser_only(engine) {
        let server = Server::empty(engine).await;
        server.apply(PEOPLE).await;
        let (mut ada, mut bob) = (Browser::new(&server), Browser::new(&server));
        tokens(&server, &mut ada, ADA, "openid").await;
        tokens(&server, &mut bob, BOB, "openid").await;
        let page = bob.get(&url(&server, &[])).await;
        // Bob's form in Ada's browser.
        let page = ada.press(&page, "submit", &[]).await;
        assert_page(&page, 403);
        assert!(is_signed_in(&server, &mut ada).await && is_signed_in(&server, &mut bob).await);
        let asked = ada_page(&mut ada, &server).await;
        let page = ada.press(&asked, "submit", &[("csrf", "guess")]).await;
        assert_page(&page, 403);
        // Her own form, sent by somebody else's page.
        let own = ada_page(&mut ada, &server).await;
        let csrf = own.text.split("name=\"csrf\" value=\"").nth(1).unwrap().split('"').next().unwrap();
        let cookies: Vec<String> = ada.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        for (name, value) in [("sec-fetch-site", "cross-site"), ("sec-fetch-site", "same-site"), ("origin", "https://evil.test"), ("origin", "null")] {
            let request = server.http.post(format!("{}/logout", server.url)).header(name, value);
            let request = request.header("cookie", cookies.join("; ")).header("content-type", crate::support::FORM);
            assert_eq!(request.body(encode(&[("csrf", csrf)])).send().await.unwrap().status(), 403, "{name}: {value}");
        }
        assert!(is_signed_in(&server, &mut ada).await);
    }

    async fn t110_nobody_is_sent_where_the_client_did_not_register(engine) {
        let server = Server::empty(engine).await;
        server.apply(PEOPLE).await;
        let mut browser = Browser::new(&server);
        let tokens = tokens(&server, &mut browser, ADA, "openid").await;
        for uri in [
            "https://shop.example.com/bye/",
            "https://shop.example.com/bye?x=1",
            "https://shop.example.com/bye#f",
            "https://shop.example.com/BYE",
            "https://SHOP.example.com/bye",
            "https://shop.example.com:443/bye",
            "https://shop.example.com/cb",
            "https://shop.example.com@evil.test/bye",
            "https://shop.example.com.evil.test/bye",
            "https://evil.test/bye",
            "http://shop.example.com/bye",
            "com.example.app:/bye",
            "javascript:alert(1)",
            "//evil.test", "/\\evil.test", "/%09/evil.test", "\\/evil.test", "/", "x",
            "https://shop.example.com/bye\r\nLocation: https://evil.test",
            " https://shop.example.com/bye",
        ] {
            for hint in [Some(id_token(&tokens)), None] {
                let mut parameters = vec![("post_logout_redirect_uri", uri), ("client_id", "web")];
                parameters.extend(hint.map(|hint| ("id_token_hint", hint)));
                assert_page(&browser.get(&url(&server, &parameters)).await, 400);
            }
        }
        for parameters in [
            vec![("post_logout_redirect_uri", BYE)],
            vec![("post_logout_redirect_uri", BYE), ("client_id", "nobody")],
            vec![("post_logout_redirect_uri", BYE), ("client_id", "app")],
            vec![("client_id", "app"), ("id_token_hint", id_token(&tokens))],
            vec![("client_id", "web"), ("client_id", "web")],
        ] {
            assert_page(&browser.get(&url(&server, &parameters)).await, 400);
        }
        assert!(is_signed_in(&server, &mut browser).await, "nothing has happened");
    }

    /// The redirect verdict table (300+ mutants), at the other endpoint that sends people somewhere: by GET with and
    /// without a hint, signed in or not, and by POST, which goes on at our own GET whatever stands in it.
    async fn t01_t110_only_the_registered_address_itself_is_gone_to(engine) {
        let server = Server::empty(engine).await;
        server.apply(PEOPLE).await;
        let (mut ada, mut nobody) = (Browser::new(&server), Browser::new(&server));
        let tokens = tokens(&server, &mut ada, ADA, "openid").await;
        let bad = mutants(BYE);
        assert!(bad.len() >= 300, "{}", bad.len());
        for (at, uri) in bad.iter().enumerate() {
            let mut parameters = vec![("post_logout_redirect_uri", uri.as_str()), ("client_id", "web"), ("state", "s")];
            assert_page(&nobody.get(&url(&server, &parameters)).await, 400);
            parameters.push(("id_token_hint", id_token(&tokens)));
            let page = ada.get(&url(&server, &parameters)).await;
            assert_page(&page, 400);
            assert!(!page.text.contains("evil"), "{uri:?}: nothing of the request is shown");
            if at % 5 == 0 {
                let posted = server.post("/logout", None, &parameters).await;
                let to = posted.header("location").unwrap_or_default();
                assert!(posted.status == 303 && to.starts_with(&format!("{}/logout?", server.issuer)), "{uri:?}: {to}");
            }
        }
        assert!(is_signed_in(&server, &mut ada).await, "nothing has happened");
        // Nor by our own form, when somebody has changed what it holds.
        let page = ada.get(&url(&server, &[("client_id", "web"), ("post_logout_redirect_uri", BYE)])).await;
        for uri in bad.iter().step_by(40) {
            assert_page(&ada.press(&page, "submit", &[("post_logout_redirect_uri", uri)]).await, 400);
        }
        assert!(is_signed_in(&server, &mut ada).await);
        assert_eq!(ada.press(&page, "submit", &[]).await.away.as_deref(), Some(BYE));
    }

    async fn a_clients_post_goes_on_as_a_get(engine) {
        let server = Server::empty(engine).await;
        server.apply(PEOPLE).await;
        let mut browser = Browser::new(&server);
        let tokens = tokens(&server, &mut browser, ADA, "openid").await;
        let form = [("id_token_hint", id_token(&tokens)), ("post_logout_redirect_uri", BYE), ("state", "s")];
        // Cross-site: the browser keeps the cookie back.
        let answer = server.post("/logout", None, &form).await;
        assert_eq!(answer.status, 303, "{}", answer.text);
        let page = browser.get(answer.header("location").unwrap()).await;
        assert_eq!(page.away, Some(format!("{BYE}?state=s")));
        assert!(!is_signed_in(&server, &mut browser).await);
    }

    async fn who_is_not_signed_in_is_asked_nothing(engine) {
        let server = Server::empty(engine).await;
        server.apply(PEOPLE).await;
        let mut browser = Browser::new(&server);
        let page = browser.get(&url(&server, &[])).await;
        assert_page(&page, 200);
        assert!(!page.has("submit") && browser.cookies.is_empty(), "{}", page.text);
        let page = browser.get(&url(&server, &[("client_id", "web"), ("post_logout_redirect_uri", BYE)])).await;
        assert_eq!(page.away.as_deref(), Some(BYE));
    }
}

async fn ada_page(ada: &mut Browser, server: &Server) -> Page {
    ada.get(&url(server, &[])).await
}
