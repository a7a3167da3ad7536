//! The consent page: who asks, for what, at which API and for how long, in words; and how pages carry the name, colour
//! and logo of who runs them.

use futures_util::future::join_all;

use crate::authorize::execute;
use crate::browser::{Browser, Page};
use crate::people::{ADA, BOB, PEOPLE, WEB, authorization_url, tokens, tokens_with};
use crate::support::{Engine, Server, TOKEN, VERIFIER, both, decided, rounds};

/// The people's file with a second API, at which tokens live for a minute and a half.
fn file() -> String {
    let stock = "[[resource]]\nidentifier = \"https://stock.example.com\"\nname = \"The stock\"\naccess_token_lifetime = 90\n\
                 scopes = { \"stock:read\" = \"See what there is\", \"stock:write\" = \"Change what there is\" }\n\n";
    let file = PEOPLE.replacen("[[client]]", &format!("{stock}[[client]]"), 1);
    file.replacen("offline_access orders:read\"", "offline_access orders:read stock:read stock:write\"", 1)
}

async fn people(engine: Engine) -> Server {
    let server = Server::empty(engine).await;
    server.apply(&file()).await;
    server
}

/// What a person reads of a page, tags left out.
fn words(page: &Page) -> String {
    let text: Vec<&str> =
        page.text.split('<').map(|part| part.split_once('>').map_or(part, |(_, text)| text)).collect();
    text.join(" ").split_whitespace().collect::<Vec<_>>().join(" ")
}

async fn asked(server: &Server, scope: &str, more: &[(&str, &str)]) -> Page {
    let mut browser = Browser::new(server);
    let login = browser.get(&authorization_url(server, scope, more)).await;
    let page = browser.fill_in(&login, ADA).await;
    assert!(page.is_at("/consent"), "{}: {}", page.url, page.text);
    page
}

both! {
    async fn s73_who_asks_for_what_and_for_how_long_is_told_in_words(engine) {
        let server = people(engine).await;
        let page = asked(&server, "openid email orders:read stock:read", &[]).await;
        let text = words(&page);
        for part in [
            "Web shop asks for access to your account.",
            "It will send you to shop.example.com. You are signed in as ada.",
            "Web shop will be able to",
            // By API, what is about the person first, and the APIs in the names that people know.
            "About you Know who you are, by an identifier See your e-mail address Orders API Read orders The stock See what there is",
            // RFC 8707: it may ask for the longest-lived alone.
            "For how long While you are signed in here; each time for 5 minutes at most.",
            "Web shop learns only that you said no",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        for absent in ["Change what there is", "See your name", "Nobody has checked", "asked each time", "on your device", "while you are away", "orders:read", "https://stock"] {
            assert!(!text.contains(absent), "{absent}: {text}");
        }
        // The buttons have stable ids that are their names; who presses Enter has not said yes.
        let form = page.forms().remove(0);
        let buttons: Vec<(&str, &str)> = form.buttons.iter().map(|(id, name, _)| (id.as_str(), name.as_str())).collect();
        assert_eq!(buttons, [("deny", "deny"), ("approve", "approve")]);
        let native = [("client_id", "app"), ("redirect_uri", "http://127.0.0.1:7/cb")];
        let page = asked(&server, "openid", &native).await;
        assert!(words(&page).contains("App asks for access") && words(&page).contains("to a program on your device (127.0.0.1)."), "{}", words(&page));
    }

    /// What is said of how long is the longest that it can be.
    async fn s73_how_long_is_the_longest_that_the_client_could_get(engine) {
        use sealwright::wire::EndGrants::{All, None, Online};
        const AWAY: &str = "Until you take it back, also while you are away; for 365 days at most.";
        let here = |time: &str| format!("While you are signed in here; each time for {time} at most.");
        let web = |line: &str| file().replacen("client_id = \"web\"", &format!("client_id = \"web\"\n{line}"), 1);
        let without_refresh = file().replacen("grant_types = [\"authorization_code\", \"refresh_token\"]", "grant_types = [\"authorization_code\"]", 1);
        let always = web("always_refresh_token = true");
        for (ends, cap, file, scope, lasts) in [
            (Online, 3600, file(), "stock:read", here("90 seconds")),
            (Online, 3600, file(), "openid orders:read", here("5 minutes")),
            (Online, 3600, web("access_token_lifetime = 3600"), "stock:read", here("60 minutes")),
            (Online, 100, web("access_token_lifetime = 3600"), "stock:read", here("100 seconds")),
            (Online, 80, file(), "stock:read", here("80 seconds")),
            (Online, 3600, file(), "openid offline_access", AWAY.to_owned()),
            (Online, 3600, without_refresh, "openid offline_access", here("5 minutes")),
            (Online, 3600, always.clone(), "openid", here("5 minutes")),
            (All, 3600, file(), "openid offline_access", here("5 minutes")),
            (None, 3600, always, "openid", AWAY.to_owned()),
        ] {
            let server = Server::with(engine, |config| {
                config.sessions.end_grants = ends;
                config.tokens.max_access_token_lifetime_seconds = cap;
            })
            .await;
            server.apply(&file).await;
            let text = words(&asked(&server, scope, &[]).await);
            assert!(text.contains(&format!("For how long {lasts} ")), "{scope} {ends} {cap}: {lasts} {text}");
        }
        let server = Server::with(engine, |config| config.tokens.refresh_token_lifetime_seconds = 40 * 3600).await;
        server.apply(&file()).await;
        let text = words(&asked(&server, "openid offline_access", &[]).await);
        assert!(text.contains("also while you are away; for 40 hours at most."), "{text}");
    }

    /// S-66, T-155: whom nobody vouches for is asked about each time, with a warning, whatever was agreed to before.
    async fn t155_s66_an_unverified_client_asks_each_time_with_a_warning(engine) {
        let server = people(engine).await;
        let mut browser = Browser::new(&server);
        tokens(&server, &mut browser, ADA, "openid").await;
        execute(&server, "UPDATE clients SET managed_by = 'registration' WHERE client_id = 'web'").await;
        server.services.clients.invalidate("web");
        for _ in 0..2 {
            let page = browser.get(&authorization_url(&server, "openid", &[])).await;
            assert!(page.is_at("/consent"), "{}", page.url);
            let text = words(&page);
            assert!(text.contains("Nobody has checked this application It registered itself here."), "{text}");
            assert!(browser.press(&page, "approve", &[]).await.parameter("code").is_some());
        }
        let silent = browser.get(&authorization_url(&server, "openid", &[("prompt", "none")])).await;
        assert!(silent.away.is_none(), "T-112: {silent:?}");
    }

    /// S-73, RFC 8252 §8.6: as whom any program of the person's machine could pose is asked about each time; whom its
    /// credentials or its host tell apart is not, nor one that is set to skip consent.
    async fn s73_a_client_that_anybody_could_pose_as_is_asked_about_each_time(engine) {
        let server = people(engine).await;
        let public = "token_endpoint_auth_method = \"none\"\napplication_type = \"native\"";
        let (loopback, scheme, host) = ("http://127.0.0.1/cb", "com.example.app:/cb", "https://app.example.com/cb");
        for (credentials, uri, each_time) in [
            (public.to_owned(), loopback, true),
            (public.to_owned(), "https://localhost:7070/cb", true),
            (public.to_owned(), scheme, true),
            // What stands where a host would says nothing.
            (public.to_owned(), "com.example.app://bank.example.com/cb", true),
            (public.to_owned(), host, false),
            (format!("{public}\nskip_consent = true"), loopback, false),
            (format!("application_type = \"native\"\nclient_secret = \"{}\"", WEB.1), loopback, false),
        ] {
            let changed = file().replacen(public, &credentials, 1).replacen(&format!("[\"{loopback}\"]"), &format!("[\"{uri}\"]"), 1);
            server.apply(&changed).await;
            let mut browser = Browser::new(&server);
            let url = |more: &[_]| authorization_url(&server, "openid", &[&[("client_id", "app"), ("redirect_uri", uri)], more].concat());
            let first = browser.go_through(&url(&[]), ADA).await;
            assert!(first.parameter("code").is_some(), "{first:?}");
            let silent = browser.get(&url(&[("prompt", "none")])).await;
            assert_eq!(silent.parameter("error").as_deref(), each_time.then_some("consent_required"), "{credentials} {uri}");
            assert_eq!(silent.parameter("code").is_none(), each_time, "{credentials} {uri}");
            let page = browser.get(&url(&[("prompt", "consent")])).await;
            assert_eq!(words(&page).contains("That is why you are asked each time."), each_time, "{credentials} {uri}");
            assert_eq!(words(&page).contains("send you to a program on your device ("), uri != host, "{credentials} {uri}");
            assert!(!words(&page).contains("Nobody has checked"), "whoever runs the server has");
            assert!(!words(&page).contains("bank"), "{uri}");
            // Signed in already; once more; and in another browser, after signing in.
            let pages = [browser.get(&url(&[])).await, browser.get(&url(&[])).await];
            let mut other = Browser::new(&server);
            let login = other.get(&url(&[])).await;
            for page in pages.into_iter().chain([other.fill_in(&login, ADA).await]) {
                assert_eq!(page.is_at("/consent"), each_time, "{credentials} {uri}");
                assert!(each_time || page.parameter("code").is_some(), "{credentials} {uri}");
            }
        }
    }

    /// What another person, or another client, was allowed is not what this one was.
    async fn t155_consents_are_of_one_person_and_one_client(engine) {
        let server = people(engine).await;
        let mut browser = Browser::new(&server);
        tokens(&server, &mut browser, ADA, "openid orders:read").await;
        let agreed = |scope: &str| authorization_url(&server, scope, &[]);
        assert!(browser.get(&agreed("openid orders:read")).await.parameter("code").is_some());
        assert!(browser.get(&agreed("openid")).await.parameter("code").is_some(), "less than that");
        assert!(browser.get(&agreed("openid stock:read")).await.has("approve"), "another API");
        assert!(browser.get(&agreed("openid email")).await.has("approve"), "another scope");
        assert!(browser.get(&authorization_url(&server, "openid", &[("prompt", "consent")])).await.has("approve"));
        let native = [("client_id", "app"), ("redirect_uri", "http://127.0.0.1:7/cb")];
        assert!(browser.get(&authorization_url(&server, "openid", &native)).await.has("approve"), "another client");
        let mut other = Browser::new(&server);
        let login = other.get(&agreed("openid")).await;
        assert!(other.fill_in(&login, BOB).await.has("approve"), "another person");
        // The client is another one now.
        server.apply(&file().replacen("\"Web shop\"", "\"Other shop\"", 1)).await;
        let page = browser.get(&agreed("openid")).await;
        assert!(words(&page).contains("Other shop asks for access"), "{}", page.text);
    }

    /// An API that was asked for by name alone is agreed to as well, and so it is told.
    async fn s73_an_api_without_a_scope_is_told(engine) {
        let server = people(engine).await;
        let mut browser = Browser::new(&server);
        let asked = [("resource", "https://stock.example.com"), ("resource", "https://api.example.com")];
        let login = browser.get(&authorization_url(&server, "openid orders:read", &asked)).await;
        let page = browser.fill_in(&login, ADA).await;
        let told = "Orders API Read orders The stock Act for you, as far as this API lets it";
        assert!(words(&page).contains(told), "{}", words(&page));
        assert!(browser.press(&page, "approve", &[]).await.parameter("code").is_some());
        let account = browser.get("/account").await;
        assert!(words(&account).contains(told), "{}", words(&account));
    }

    /// T-155: who agreed has agreed to what the page showed.
    async fn t155_what_has_changed_since_the_page_is_shown_again(engine) {
        let server = people(engine).await;
        for (old, new, told) in [
            ("\"Web shop\"", "\"Evil shop\"", "Evil shop asks for access"),
            ("cb\"]\npost", "cb\", \"https://evil.example/cb\"]\npost", "Web shop asks for access"),
            ("\"Read orders\"", "\"Read and burn orders\"", "Read and burn orders"),
        ] {
            server.apply(&file()).await;
            let mut browser = Browser::new(&server);
            let login = browser.get(&authorization_url(&server, "openid orders:read", &[])).await;
            let page = browser.fill_in(&login, ADA).await;
            let changed = file().replacen(old, new, 1);
            assert_ne!(changed, file());
            server.apply(&changed).await;
            let again = browser.press(&page, "approve", &[]).await;
            assert!(again.status == 403 && again.is_at("/consent") && words(&again).contains(told), "{}", again.text);
            assert_eq!(server.place.number("SELECT COUNT(*) FROM consents").await, 0);
            assert!(browser.press(&again, "approve", &[]).await.parameter("code").is_some());
            server.place.run("DELETE FROM consents").await;
        }
    }

    /// A claim that the client cannot have is not shown, so nobody agreed to it when one day it can.
    async fn t155_a_claim_beyond_the_clients_scopes_is_not_agreed_to(engine) {
        let server = Server::empty(engine).await;
        let file = |scope: &str| PEOPLE.replacen("openid profile email groups offline_access orders:read", scope, 1);
        server.apply(&file("openid offline_access")).await;
        let claims = [("claims", r#"{"userinfo":{"groups":null,"email":null,"cost_center":null},"id_token":{"email":null}}"#)];
        let mut browser = Browser::new(&server);
        let tokens = tokens_with(&server, &mut browser, ADA, ("openid offline_access", &claims)).await;
        let mapper = "\n[[claim]]\nclaim = \"cost_center\"\nsource = \"profile.cost_center\"\nscope = \"groups\"\n";
        server.apply(&(file("openid offline_access email groups") + mapper)).await;
        let bearer = format!("Bearer {}", tokens["access_token"].as_str().unwrap());
        let told = server.http.get(format!("{}/userinfo", server.url)).header("authorization", bearer).send().await.unwrap();
        let told: serde_json::Value = serde_json::from_str(&told.text().await.unwrap()).unwrap();
        assert!(told.get("sub").is_some(), "{told}");
        for claim in ["email", "groups", "cost_center"] {
            assert!(told.get(claim).is_none(), "{claim}: {told}");
        }
        let silent = [claims[0], ("prompt", "none")];
        let silent = browser.get(&authorization_url(&server, "openid offline_access", &silent)).await;
        assert_eq!(silent.parameter("error").as_deref(), Some("consent_required"));
    }

    /// "Access is taken back" holds for codes that were under way: of those answered about then none is good.
    async fn a_code_under_way_does_not_outlive_the_consent(engine) {
        let server = people(engine).await;
        let nodes = if engine == Engine::Postgres { vec![server.another().await] } else { Vec::new() };
        let url = authorization_url(&server, "openid offline_access orders:read", &[("prompt", "none")]);
        decided(rounds(10), async |_| {
            let mut browser = Browser::new(&server);
            tokens(&server, &mut browser, ADA, "openid offline_access orders:read").await;
            let account = browser.get("/account").await;
            let same = browser.clone();
            let asking = (0..16).map(|at| {
                let mut other = same.clone();
                let to = nodes.get(at % 2).map_or_else(|| url.clone(), |node| url.replacen(&server.url, &node.url, 1));
                async move { other.get(&to).await.parameter("code") }
            });
            let asking = async { join_all(asking).await };
            let (codes, page) = tokio::join!(asking, browser.press(&account, "client", &[]));
            assert!(page.text.contains("is taken back."), "{}", page.text);
            let codes: Vec<String> = codes.into_iter().flatten().collect();
            for code in &codes {
                let form = [("grant_type", "authorization_code"), ("code", code), ("code_verifier", VERIFIER), ("redirect_uri", WEB.2)];
                server.post(TOKEN, Some((WEB.0, WEB.1)), &form).await.assert_error(400, "invalid_grant");
            }
            (1..16).contains(&codes.len())
        })
        .await;
    }

    async fn pages_carry_the_name_colour_and_logo_of_who_runs_them(engine) {
        const LOGO: &str = "<svg xmlns=\"http://www.w3.org/2000/svg\"><circle r=\"1\"/></svg>";
        let path = std::env::temp_dir().join(format!("logo-{:x}.svg", u128::from_be_bytes(sealwright::secret::random().unwrap())));
        std::fs::write(&path, LOGO).unwrap();
        let server = Server::with(engine, |config| {
            config.branding.name = "Larkspur <b>Bank</b>".into();
            config.branding.color = "#006644".into();
            config.branding.logo = Some(path.clone());
        })
        .await;
        std::fs::remove_file(&path).unwrap();
        let mut browser = Browser::new(&server);
        let page = browser.get("/login").await;
        assert!(page.text.contains("Larkspur &#60;b&#62;Bank") && !page.text.contains("<b>"), "{}", page.text);
        let link = |page: &Page, before: &str| page.text.split(before).nth(1).unwrap().split('"').next().unwrap().to_owned();
        let css = browser.get(&link(&page, "rel=\"stylesheet\" href=\"")).await;
        assert!(css.text.contains("--accent:#006644"), "{}", css.text);
        let logo = browser.get(&link(&page, "<img src=\"")).await;
        assert_eq!((logo.status, logo.header("content-type"), logo.text.as_str()), (200, "image/svg+xml", LOGO));
        // What is in it runs nowhere.
        assert!(logo.header("content-security-policy").starts_with("default-src 'none'"), "{logo:?}");
        assert_eq!(logo.header("x-content-type-options"), "nosniff");
    }
}
