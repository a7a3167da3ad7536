//! Userinfo (OpenID Connect Core §5.3, RFC 6750), and the claims that it tells.

use serde_json::{Value, json};

use crate::browser::Browser;
use crate::people::{ADA, PEOPLE, WEB, tokens, tokens_with};
use crate::support::{Answer, FORM, REVOKE, Server, TOKEN, both, encode, part};

const USERINFO: &str = "/userinfo";

async fn ask(server: &Server, token: &str) -> Answer {
    let request =
        server.http.get(format!("{}{USERINFO}", server.url)).header("authorization", format!("Bearer {token}"));
    Answer::of(request.send().await.unwrap()).await
}

#[track_caller]
fn access(tokens: &Value) -> &str {
    tokens["access_token"].as_str().unwrap()
}

#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str) {
    answer.assert_error(status, code);
    let challenge = answer.header("www-authenticate").unwrap();
    assert!(challenge.starts_with("Bearer ") && challenge.contains(&format!("error=\"{code}\"")), "{challenge}");
}

fn without_sub(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text);
    let mut told = answer.json.clone();
    assert!(told.as_object_mut().unwrap().remove("sub").is_some_and(|sub| sub.as_str().unwrap().len() == 36));
    told
}

both! {
    async fn core_5_4_each_scope_stands_for_its_claims(engine) {
        let server = Server::empty(engine).await;
        server.apply(PEOPLE).await;
        let mut browser = Browser::new(&server);
        for (scope, told) in [
            ("openid", json!({})),
            ("openid email", json!({ "email": "ada@example.com", "email_verified": true })),
            ("openid profile", json!({ "name": "Ada Lovelace", "preferred_username": "ada" })),
            ("openid groups", json!({ "groups": ["staff", "admins"] })),
        ] {
            let tokens = tokens(&server, &mut browser, ADA, scope).await;
            let answer = ask(&server, access(&tokens)).await;
            let mut found = without_sub(&answer);
            // When is another test's.
            let updated_at = found.as_object_mut().unwrap().remove("updated_at");
            assert_eq!((updated_at.is_some(), &found), (scope == "openid profile", &told), "{scope}");
            assert_eq!(answer.header("cache-control"), Some("no-store"));
            let id_token = part(tokens["id_token"].as_str().unwrap(), 1);
            assert_eq!(answer.json["sub"], id_token["sub"]);
            // Core §5.4: with a userinfo endpoint, the ID token is not where scopes are told.
            assert!(["email", "name", "groups"].iter().all(|claim| id_token.get(*claim).is_none()), "{id_token}");
        }
    }

    async fn core_5_5_claims_by_name_are_told_where_they_were_asked_for(engine) {
        let server = Server::empty(engine).await;
        server.apply(PEOPLE).await;
        let mut browser = Browser::new(&server);
        let claims = r#"{"id_token":{"email":{"essential":true},"phone_number":null},"userinfo":{"name":null,"cost_center":null}}"#;
        let tokens = tokens_with(&server, &mut browser, ADA, ("openid", &[("claims", claims)])).await;
        let id_token = part(tokens["id_token"].as_str().unwrap(), 1);
        assert_eq!(id_token["email"], "ada@example.com");
        assert!(id_token.get("name").is_none() && id_token.get("email_verified").is_none());
        // A claim without a row is nobody's to ask for.
        assert_eq!(without_sub(&ask(&server, access(&tokens)).await), json!({ "name": "Ada Lovelace" }));
    }

    /// In seconds, and of what is known of the person.
    async fn core_5_1_updated_at_is_when_the_person_was_last_changed(engine) {
        let server = Server::empty(engine).await;
        server.apply(PEOPLE).await;
        let changed = async || server.place.number("SELECT updated_at FROM users WHERE username = 'ada'").await / 1_000_000;
        let wish = [("claims", r#"{"id_token":{"updated_at":null}}"#)];
        let tokens = tokens_with(&server, &mut Browser::new(&server), ADA, ("openid profile", &wish)).await;
        let before = changed().await;
        assert_eq!(part(tokens["id_token"].as_str().unwrap(), 1)["updated_at"], before);
        assert_eq!(ask(&server, access(&tokens)).await.json["updated_at"], before);
        server.clock.advance(std::time::Duration::from_secs(20));
        server.apply(&PEOPLE.replacen("Ada Lovelace", "Ada King", 1)).await;
        let after = changed().await;
        assert!(after >= before + 20);
        assert_eq!(ask(&server, access(&tokens)).await.json["updated_at"], after);
    }

    async fn what_the_client_lost_since_is_not_told(engine) {
        let server = Server::empty(engine).await;
        server.apply(PEOPLE).await;
        let tokens = tokens(&server, &mut Browser::new(&server), ADA, "openid profile groups").await;
        server.apply(&PEOPLE.replacen("openid profile email groups", "openid email groups", 1)).await;
        assert_eq!(without_sub(&ask(&server, access(&tokens)).await), json!({ "groups": ["staff", "admins"] }));
        server.apply(&PEOPLE.replacen("openid profile email groups", "profile email groups", 1)).await;
        refused(&ask(&server, access(&tokens)).await, 403, "insufficient_scope");
        server.apply(PEOPLE).await;
        assert_eq!(without_sub(&ask(&server, access(&tokens)).await)["name"], "Ada Lovelace");
    }

    async fn a_row_gives_a_claim_of_our_own_and_pruning_takes_it(engine) {
        let server = Server::empty(engine).await;
        server.apply(PEOPLE).await;
        let rows = "[[claim]]\nclaim = \"roles\"\nsource = \"groups\"\nscope = \"orders:read\"\n\
                    [[claim]]\nclaim = \"center\"\nsource = \"profile.cost_center\"\nscope = \"openid\"\nclient = \"app\"\n";
        server.apply(rows).await;
        let mut browser = Browser::new(&server);
        let tokens = tokens(&server, &mut browser, ADA, "openid orders:read").await;
        assert_eq!(without_sub(&ask(&server, access(&tokens)).await), json!({ "roles": ["staff", "admins"] }));
        assert_eq!(part(tokens["id_token"].as_str().unwrap(), 1)["roles"], json!(["staff", "admins"]));
        let discovery = async || {
            server.get("/.well-known/openid-configuration").await.json["claims_supported"].to_string()
        };
        let supported = discovery().await;
        assert!(supported.contains("\"roles\"") && supported.contains("\"email\"") && !supported.contains("\"center\""));
        server.try_apply(PEOPLE, true).await.unwrap();
        assert_eq!(without_sub(&ask(&server, access(&tokens)).await), json!({}));
        assert!(!discovery().await.contains("\"roles\""));
    }

    async fn rfc6750_2_a_token_comes_in_the_header_or_the_form_and_once(engine) {
        let server = Server::empty(engine).await;
        server.apply(PEOPLE).await;
        let tokens = tokens(&server, &mut Browser::new(&server), ADA, "openid").await;
        let token = access(&tokens);
        let send = async |method: &str, query: &str, header: Option<String>, form: Option<&str>| {
            let url = format!("{}{USERINFO}{query}", server.url);
            let mut request = if method == "GET" { server.http.get(url) } else { server.http.post(url) };
            if let Some(header) = header {
                request = request.header("authorization", header);
            }
            if let Some(form) = form {
                request = request.header("content-type", FORM).body(form.to_owned());
            }
            Answer::of(request.send().await.unwrap()).await
        };
        let form = encode(&[("access_token", token)]);
        for (method, header, form) in [
            ("GET", Some(format!("bearer {token}")), None),
            ("POST", Some(format!("Bearer {token}")), None),
            ("POST", None, Some(form.as_str())),
            ("POST", Some(format!("Bearer {token}")), Some("x=y")),
        ] {
            let answer = send(method, "", header, form).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
        }
        let twice = send("POST", "", Some(format!("Bearer {token}")), Some(&form)).await;
        refused(&twice, 400, "invalid_request");
        let query = format!("?access_token={token}");
        refused(&send("GET", &query, None, None).await, 400, "invalid_request");
        // RFC 6750 §3.1: who shows nothing is told the scheme and nothing else.
        for header in [None, Some("Basic YTpi".to_owned())] {
            let nothing = send("GET", "", header, None).await;
            assert_eq!((nothing.status, nothing.text.as_str()), (401, ""));
            assert_eq!(nothing.header("www-authenticate"), Some("Bearer realm=\"sealwright\""));
        }
        for bad in ["x", "swa_x", &token[..token.len() - 2], tokens["id_token"].as_str().unwrap()] {
            refused(&send("GET", "", Some(format!("Bearer {bad}")), None).await, 401, "invalid_token");
        }
    }

    async fn t64_tokens_of_services_and_of_other_resources_tell_nothing(engine) {
        let server = Server::empty(engine).await;
        server.apply(PEOPLE).await;
        let service = "[[client]]\nclient_id = \"service\"\nclient_secret = \"imported-secret-of-at-least-32-characters\"\n\
                       scope = \"orders:read\"\n";
        server.apply(service).await;
        let form = [("grant_type", "client_credentials")];
        let answer = server.post(TOKEN, Some(("service", WEB.1)), &form).await;
        refused(&ask(&server, access(&answer.json)).await, 401, "invalid_token");
        let mut browser = Browser::new(&server);
        let tokens = tokens(&server, &mut browser, ADA, "orders:read").await;
        refused(&ask(&server, access(&tokens)).await, 401, "invalid_token");
    }

    async fn t25_after_a_revocation_or_for_somebody_disabled_nothing_is_told(engine) {
        let server = Server::empty(engine).await;
        server.apply(PEOPLE).await;
        let mut browser = Browser::new(&server);
        let first = tokens(&server, &mut browser, ADA, "openid").await;
        let second = tokens(&server, &mut browser, ADA, "openid").await;
        assert_eq!(ask(&server, access(&first)).await.status, 200);
        let answer = server.post(REVOKE, Some((WEB.0, WEB.1)), &[("token", access(&first))]).await;
        assert_eq!(answer.status, 200);
        refused(&ask(&server, access(&first)).await, 401, "invalid_token");
        assert_eq!(ask(&server, access(&second)).await.status, 200);
        server.apply(&PEOPLE.replace("username = \"ada\"", "username = \"ada\"\ndisabled = true")).await;
        refused(&ask(&server, access(&second)).await, 401, "invalid_token");
    }

    async fn core_5_3_2_a_client_that_wants_it_signed_gets_it_signed(engine) {
        let server = Server::empty(engine).await;
        server.apply(PEOPLE).await;
        let native = [("client_id", "app"), ("redirect_uri", "http://127.0.0.1:4567/cb")];
        let tokens = tokens_with(&server, &mut Browser::new(&server), ADA, ("openid profile", &native)).await;
        let answer = ask(&server, access(&tokens)).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/jwt")));
        let (header, claims) = (part(&answer.text, 0), part(&answer.text, 1));
        assert_eq!((&header["alg"], &header["typ"]), (&json!("ES256"), &json!("JWT")));
        assert_eq!((&claims["iss"], &claims["aud"]), (&json!(server.issuer), &json!("app")));
        assert_eq!(claims["name"], "Ada Lovelace");
        let jws = sealwright::keys::Jws::parse(&answer.text, 16_384).unwrap();
        assert!(server.services.keys.ring().verify_own(&jws).is_ok());
        // Nobody signs: it is asked for again.
        let sign = async |state: &str| {
            let sql = format!("UPDATE signing_keys SET state = '{state}' WHERE alg = 'ES256' AND state IN ('active', 'retiring')");
            server.place.run(&sql).await;
            let read = server.services.clone();
            server.services.db.read(move |conn| Box::pin(async move { read.keys.reload(conn).await })).await.unwrap();
        };
        sign("retiring").await;
        let busy = ask(&server, access(&tokens)).await;
        assert_eq!((busy.status, &busy.json["error"]), (503, &json!("temporarily_unavailable")));
        assert!(busy.header("retry-after").is_some());
        sign("active").await;
        // It is no access token and no hint.
        refused(&ask(&server, &answer.text).await, 401, "invalid_token");
        assert_eq!(sealwright::issue::hint(&server.services.keys.ring(), &server.issuer, &answer.text), None);
    }

    async fn only_the_clients_own_origin_may_read_it(engine) {
        let server = Server::empty(engine).await;
        server.apply(PEOPLE).await;
        let tokens = tokens(&server, &mut Browser::new(&server), ADA, "openid").await;
        for (origin, allowed) in [("https://shop.example.com", true), ("https://evil.example.com", false)] {
            let request = server.http.get(format!("{}{USERINFO}", server.url)).header("origin", origin);
            let answer = Answer::of(request.bearer_auth(access(&tokens)).send().await.unwrap()).await;
            assert_eq!(answer.header("access-control-allow-origin"), allowed.then_some(origin));
            assert!(answer.header("vary").is_some_and(|vary| vary.contains("Origin")));
            let preflight = server.http.request(reqwest::Method::OPTIONS, format!("{}{USERINFO}", server.url));
            let answer = Answer::of(preflight.header("origin", origin).send().await.unwrap()).await;
            assert_eq!((answer.status, answer.header("access-control-allow-origin")), (204, allowed.then_some(origin)));
        }
    }
}

both! {
    async fn a_claim_may_not_take_the_place_of_a_tokens_own(engine) {
        let server = Server::empty(engine).await;
        server.apply(crate::support::EXAMPLE).await;
        let row = |claim: &str, source: &str, scope: &str, more: &str| {
            format!("[[claim]]\nclaim = {claim:?}\nsource = {source:?}\nscope = {scope:?}\n{more}\n")
        };
        for (text, field) in [
            (row("sub", "groups", "openid", ""), "claim"),
            (row("aud", "groups", "openid", ""), "claim"),
            (row("a b", "groups", "openid", ""), "claim"),
            (row("roles", "group", "openid", ""), "source"),
            (row("roles", "profile.", "openid", ""), "source"),
            (row("roles", "groups", "nobody:has", ""), "scope"),
            (row("roles", "groups", "openid", "client = \"nobody\""), "client"),
            (row("roles", "groups", "openid", "") + &row("roles", "profile.x", "openid", ""), "claim"),
        ] {
            let said = server.try_apply(&text, false).await.unwrap_err();
            assert!(said.contains(&format!(": {field}: ")), "{text}: {said}");
        }
        // Once more changes nothing, and what export writes is the same file.
        let good = row("roles", "groups", "orders:read", "client = \"orders-sync\"") + &row("roles", "groups", "openid", "");
        server.apply(&good).await;
        let file = sealwright::apply::parse(&good, sealwright::apply::Format::Toml).unwrap();
        let options = sealwright::apply::Options {
            prune: false,
            max_lifetime: 3600,
            algorithms: sealwright::wire::Algorithm::ALL,
            allow_http: true,
            issuer: &server.issuer,
            service: "Sealwright",
            min_password_length: 15,
        };
        let services = &server.services;
        let plan = sealwright::apply::plan(&services.db, &file, &options, &services.passwords).await.unwrap();
        assert!(plan.is_empty(), "{plan}");
        let export = sealwright::apply::export(&services.db).await.unwrap();
        let text = export.to_toml().unwrap();
        let exported = sealwright::apply::parse(&text, sealwright::apply::Format::Toml).unwrap();
        let plan = sealwright::apply::plan(&services.db, &exported, &options, &services.passwords).await.unwrap();
        assert!(plan.is_empty() && exported.claim.len() == 2, "{plan}{text}");
        // A client that goes takes its rows with it.
        server.try_apply(&row("roles", "groups", "openid", ""), true).await.unwrap();
        let left = services.db.read(|conn| Box::pin(sealwright::store::claim_mappers::list(conn))).await.unwrap();
        assert_eq!(left.iter().map(sealwright::store::claim_mappers::MapperRow::id).collect::<Vec<_>>(), ["roles openid"]);
    }
}
