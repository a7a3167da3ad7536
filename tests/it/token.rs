//! The token endpoint: RFC 6749, RFC 8707, RFC 9068.

use serde_json::json;

use crate::support::{Answer, EXAMPLE, FORM, INTROSPECT, REVOKE, SECRET, Server, TOKEN, basic, both, part};

const CC: (&str, &str) = ("grant_type", "client_credentials");

/// A second resource, and clients of all kinds.
const MORE: &str = r#"
[[resource]]
identifier = "https://stock.example.com"
scopes = { "stock:read" = "Read stock" }
access_token_lifetime = 60

[[resource]]
identifier = "https://legacy.example.com"
scopes = { "legacy" = "All of it" }
access_token_signed_response_alg = "RS256"

[[resource]]
identifier = "urn:example:opaque"
scopes = { "opaque" = "All of it" }
access_token_format = "opaque"

[[client]]
client_id = "many"
client_secret = "imported-secret-of-at-least-32-characters"
scope = "orders:read stock:read legacy opaque"
resources = ["https://api.example.com", "https://stock.example.com", "https://legacy.example.com", "urn:example:opaque"]

[[client]]
client_id = "bare"
client_secret = "imported-secret-of-at-least-32-characters"
resources = ["https://api.example.com", "https://stock.example.com"]
access_token_lifetime = 30

[[client]]
client_id = "nothing"
client_secret = "imported-secret-of-at-least-32-characters"

[[client]]
client_id = "poster"
token_endpoint_auth_method = "client_secret_post"
client_secret = "imported-secret-of-at-least-32-characters"
scope = "orders:read"

[[client]]
client_id = "page"
token_endpoint_auth_method = "none"
grant_types = []
allowed_origins = ["https://app.example.com"]

[[client]]
client_id = "browser"
client_secret = "imported-secret-of-at-least-32-characters"
scope = "orders:read"
allowed_origins = ["https://app.example.com"]
"#;

async fn ask(server: &Server, id: &str, form: &[(&str, &str)]) -> Answer {
    server.post(TOKEN, Some((id, SECRET)), form).await
}

both! {
    async fn rfc6749_4_4_2_a_service_gets_a_token(engine) {
        let (server, _) = Server::example(engine).await;
        let answer = ask(&server, "orders-sync", &[CC, ("scope", "orders:read")]).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("pragma"), Some("no-cache"));
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.json["token_type"], "Bearer");
        assert_eq!(answer.json["expires_in"], 300);
        assert_eq!(answer.json["scope"], "orders:read");
        assert!(answer.json.get("refresh_token").is_none(), "RFC 6749 section 4.4.3");
    }

    async fn rfc9068_2_header_and_claims(engine) {
        let (server, _) = Server::example(engine).await;
        let token = server.token().await;
        let header = part(&token, 0);
        assert_eq!(header["typ"], "at+jwt");
        assert_eq!(header["alg"], "EdDSA");
        let claims = part(&token, 1);
        assert_eq!(claims["iss"], server.issuer.as_str());
        assert_eq!(claims["sub"], "orders-sync");
        assert_eq!(claims["client_id"], "orders-sync");
        assert_eq!(claims["aud"], "https://api.example.com");
        assert_eq!(claims["scope"], "orders:read orders:write");
        assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 300);
        assert!(claims["jti"].as_str().unwrap().len() >= 22);
        assert_ne!(part(&server.token().await, 1)["jti"], claims["jti"]);
    }

    async fn rfc6749_3_3_scope_is_a_subset_of_the_clients(engine) {
        let (server, _) = Server::example(engine).await;
        server.apply(MORE).await;
        for scope in ["stock:read", "unknown", "orders:read stock:read", "orders:read  orders:write", " orders:read", "orders:r\u{e9}ad", "\"", "orders:readx"] {
            ask(&server, "orders-sync", &[CC, ("scope", scope)]).await.assert_error(400, "invalid_scope");
        }
        // RFC 6749 §3.1: a parameter without a value counts as left out.
        let answer = ask(&server, "orders-sync", &[CC, ("scope", "")]).await;
        assert_eq!(answer.json["scope"], "orders:read orders:write");
        let answer = ask(&server, "orders-sync", &[CC, ("scope", "orders:write orders:read orders:write")]).await;
        assert_eq!(answer.json["scope"], "orders:read orders:write");
    }

    async fn rfc8707_2_resource_chooses_the_audience(engine) {
        let (server, _) = Server::example(engine).await;
        server.apply(MORE).await;
        let answer = ask(&server, "many", &[CC, ("resource", "https://stock.example.com")]).await;
        assert_eq!(answer.json["scope"], "stock:read", "{}", answer.text);
        assert_eq!(answer.json["expires_in"], 60);
        let claims = part(answer.json["access_token"].as_str().unwrap(), 1);
        assert_eq!(claims["aud"], "https://stock.example.com");

        let both = [CC, ("resource", "https://stock.example.com"), ("resource", "https://api.example.com")];
        let answer = ask(&server, "many", &both).await;
        assert_eq!(answer.json["expires_in"], 60, "the shortest lifetime: {}", answer.text);
        let claims = part(answer.json["access_token"].as_str().unwrap(), 1);
        assert_eq!(claims["aud"], json!(["https://api.example.com", "https://stock.example.com"]));

        for resource in ["https://unknown.example.com", "https://api.example.com/", "not a uri", "https://api.example.com#x"] {
            for name in ["resource", "audience"] {
                ask(&server, "many", &[CC, (name, resource)]).await.assert_error(400, "invalid_target");
            }
        }
        // The same by the name that many clients send.
        let answer = ask(&server, "many", &[CC, ("audience", "https://stock.example.com")]).await;
        assert_eq!(part(answer.json["access_token"].as_str().unwrap(), 1)["aud"], "https://stock.example.com");
        let details = [CC, ("authorization_details", "[{\"type\":\"x\"}]")];
        ask(&server, "many", &details).await.assert_error(400, "invalid_authorization_details");
        ask(&server, "orders-sync", &[CC, ("resource", "https://stock.example.com")]).await.assert_error(400, "invalid_target");
        let elsewhere = [CC, ("resource", "https://stock.example.com"), ("scope", "orders:read")];
        ask(&server, "many", &elsewhere).await.assert_error(400, "invalid_scope");
    }

    async fn a_token_for_several_resources_needs_them_to_agree(engine) {
        let (server, _) = Server::example(engine).await;
        server.apply(MORE).await;
        ask(&server, "many", &[CC]).await.assert_error(400, "invalid_target");
        ask(&server, "many", &[CC, ("scope", "orders:read legacy")]).await.assert_error(400, "invalid_target");
        ask(&server, "many", &[CC, ("scope", "orders:read opaque")]).await.assert_error(400, "invalid_target");
        let answer = ask(&server, "many", &[CC, ("scope", "legacy")]).await;
        assert_eq!(part(answer.json["access_token"].as_str().unwrap(), 0)["alg"], "RS256");
        assert_eq!(answer.json["expires_in"], 300, "neither says how long");
        let answer = ask(&server, "many", &[CC, ("scope", "opaque")]).await;
        assert!(answer.json["access_token"].as_str().unwrap().starts_with("swa_"), "{}", answer.text);
    }

    async fn a_client_without_scopes_gets_its_resources(engine) {
        let (server, _) = Server::example(engine).await;
        server.apply(MORE).await;
        let answer = ask(&server, "bare", &[CC]).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert!(answer.json.get("scope").is_none());
        assert_eq!(answer.json["expires_in"], 30, "the client's own lifetime");
        let claims = part(answer.json["access_token"].as_str().unwrap(), 1);
        assert_eq!(claims["aud"], json!(["https://api.example.com", "https://stock.example.com"]));
        assert!(claims.get("scope").is_none());
        ask(&server, "nothing", &[CC]).await.assert_error(400, "invalid_target");
    }

    async fn t47_there_is_no_password_grant_and_no_unknown_one(engine) {
        let (server, _) = Server::example(engine).await;
        for grant in ["password", "urn:ietf:params:oauth:grant-type:device_code", "CLIENT_CREDENTIALS", "x"] {
            let form = [("grant_type", grant), ("username", "a"), ("password", "b")];
            ask(&server, "orders-sync", &form).await.assert_error(400, "unsupported_grant_type");
        }
        for grant in ["authorization_code", "refresh_token"] {
            ask(&server, "orders-sync", &[("grant_type", grant)]).await.assert_error(400, "unauthorized_client");
        }
        ask(&server, "orders-sync", &[("scope", "orders:read")]).await.assert_error(400, "invalid_request");
    }

    async fn t152_a_grant_that_is_not_registered_is_unauthorized_client(engine) {
        let (server, gateway) = Server::example(engine).await;
        let answer = server.post(TOKEN, Some(("edge-gateway", &gateway)), &[CC]).await;
        answer.assert_error(400, "unauthorized_client");
    }

    async fn rfc6749_2_3_1_secrets_by_header_and_by_body(engine) {
        let (server, _) = Server::example(engine).await;
        server.apply(MORE).await;
        let answer = server.post(TOKEN, None, &[CC, ("client_id", "poster"), ("client_secret", SECRET)]).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        // A method that is not the registered one is refused, with the right secret too.
        ask(&server, "poster", &[CC]).await.assert_error(401, "invalid_client");
        let wrong = [CC, ("client_id", "orders-sync"), ("client_secret", SECRET)];
        server.post(TOKEN, None, &wrong).await.assert_error(401, "invalid_client");
        // Naming oneself beside the header is fine; naming another is T-31.
        let answer = ask(&server, "orders-sync", &[CC, ("client_id", "orders-sync")]).await;
        assert_eq!(answer.status, 200);
    }

    async fn t49_two_methods_at_once_are_refused(engine) {
        let (server, _) = Server::example(engine).await;
        let form = [CC, ("client_id", "orders-sync"), ("client_secret", SECRET)];
        ask(&server, "orders-sync", &form).await.assert_error(400, "invalid_request");
        let form = [CC, ("client_assertion", "x"), ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")];
        ask(&server, "orders-sync", &form).await.assert_error(400, "invalid_request");
    }

    async fn t31_header_and_body_name_one_client(engine) {
        let (server, gateway) = Server::example(engine).await;
        for path in [TOKEN, crate::support::INTROSPECT, crate::support::REVOKE] {
            let form = [CC, ("token", "x"), ("client_id", "edge-gateway")];
            server.post(path, Some(("orders-sync", SECRET)), &form).await.assert_error(400, "invalid_request");
            let form = [CC, ("token", "x"), ("client_id", "orders-sync")];
            server.post(path, Some(("edge-gateway", &gateway)), &form).await.assert_error(400, "invalid_request");
        }
    }

    async fn t122_unknown_client_and_wrong_secret_answer_alike(engine) {
        let (server, _) = Server::example(engine).await;
        let wrong = ask(&server, "orders-sync", &[CC]).await;
        assert_eq!(wrong.status, 200);
        let mut answers = Vec::new();
        for (id, secret) in [("orders-sync", "wrong"), ("unknown", "wrong"), ("edge-gateway", SECRET), ("orders-sync", ""), ("unknown", "")] {
            let answer = server.post(TOKEN, Some((id, secret)), &[CC]).await;
            answer.assert_error(401, "invalid_client");
            answers.push(answer.text);
        }
        answers.dedup();
        assert_eq!(answers.len(), 1, "{answers:?}");
    }

    async fn rfc6749_3_2_only_post_and_only_forms(engine) {
        let (server, _) = Server::example(engine).await;
        assert_eq!(server.get("/oauth2/token?grant_type=client_credentials").await.status, 405);
        for (content_type, body) in [
            ("application/json", r#"{"grant_type":"client_credentials"}"#),
            ("text/plain", "grant_type=client_credentials"),
            ("multipart/form-data; boundary=x", "grant_type=client_credentials"),
        ] {
            let request = server.http.post(format!("{}{TOKEN}", server.url));
            let request = request.header("content-type", content_type).header("authorization", basic("orders-sync", SECRET));
            Answer::of(request.body(body).send().await.unwrap()).await.assert_error(400, "invalid_request");
        }
        // A query string is not a form: secrets in URLs end in logs.
        let request = server.http.post(format!("{}{TOKEN}?client_id=orders-sync&client_secret={SECRET}&grant_type=client_credentials", server.url));
        let answer = Answer::of(request.header("content-type", FORM).body("").send().await.unwrap()).await;
        answer.assert_error(401, "invalid_client");
    }

    async fn rfc6749_3_1_a_repeated_parameter_is_invalid_request(engine) {
        let (server, _) = Server::example(engine).await;
        for twice in ["scope", "grant_type", "client_id", "client_secret", "client_assertion", "anything"] {
            let form = [CC, (twice, "x"), (twice, "x")];
            ask(&server, "orders-sync", &form).await.assert_error(400, "invalid_request");
        }
    }

    async fn t46_a_disabled_client_gets_nothing_and_its_tokens_are_dead(engine) {
        let (server, gateway) = Server::example(engine).await;
        let token = server.token().await;
        assert_eq!(server.introspect(&gateway, &token).await.json["active"], true);
        let disabled = EXAMPLE.replace("client_name = \"Orders sync\"", "client_name = \"Orders sync\"\ndisabled = true");
        server.apply(&disabled).await;
        ask(&server, "orders-sync", &[CC]).await.assert_error(401, "invalid_client");
        assert_eq!(server.introspect(&gateway, &token).await.json["active"], false);
        server.post(crate::support::REVOKE, Some(("orders-sync", SECRET)), &[("token", &token)]).await.assert_error(401, "invalid_client");
        server.apply(EXAMPLE).await;
        assert_eq!(ask(&server, "orders-sync", &[CC]).await.status, 200);
        // Enabled again, it gets new tokens; the old ones stay dead, and so do those of one that is made again.
        assert_eq!(server.introspect(&gateway, &token).await.json["active"], false);
        server.clock.advance(std::time::Duration::from_secs(6));
        let token = server.token().await;
        assert_eq!(server.introspect(&gateway, &token).await.json["active"], true);
        server.try_apply(EXAMPLE.split("[[client]]").next().unwrap(), true).await.unwrap();
        let gateway = server.apply(EXAMPLE).await[0].secret.expose().to_owned();
        assert_eq!(server.introspect(&gateway, &token).await.json["active"], false);
    }

    async fn several_secrets_work_until_they_expire_or_go(engine) {
        let server = Server::empty(engine).await;
        server.apply(EXAMPLE).await;
        let soon = "2126-01-01T00:00:00Z";
        let rotating = EXAMPLE.replace(
            "client_secret = \"imported-secret-of-at-least-32-characters\"   # leave out to have one generated",
            &format!("client_secrets = [{{ label = \"default\", secret = \"{SECRET}\", expires_at = \"{soon}\" }}, {{ label = \"next\" }}]"),
        );
        let generated = server.apply(&rotating).await;
        let next = generated.iter().find(|new| new.label == "next").unwrap().secret.expose().to_owned();
        assert!(next.starts_with("sws_"));
        for secret in [SECRET, &next] {
            assert_eq!(server.post(TOKEN, Some(("orders-sync", secret)), &[CC]).await.status, 200);
        }
        server.clock.advance(std::time::Duration::from_hours(24 * 366 * 101));
        server.post(TOKEN, Some(("orders-sync", SECRET)), &[CC]).await.assert_error(401, "invalid_client");
        assert_eq!(server.post(TOKEN, Some(("orders-sync", &next)), &[CC]).await.status, 200);
        let only_next = rotating.replace(&format!("{{ label = \"default\", secret = \"{SECRET}\", expires_at = \"{soon}\" }}, "), "");
        server.apply(&only_next).await;
        assert_eq!(server.post(TOKEN, Some(("orders-sync", &next)), &[CC]).await.status, 200);
    }

    async fn the_hot_path_makes_no_database_round_trip(engine) {
        let (server, gateway) = Server::example(engine).await;
        let token = server.token().await;
        server.introspect(&gateway, &token).await;
        // The node's own work (lease, feed, flush) goes on beside; it is small and does not grow with requests.
        let before = server.services.db.statements();
        for _ in 0..300 {
            server.token().await;
            assert_eq!(server.introspect(&gateway, &token).await.json["active"], true);
            server.get("/.well-known/jwks.json").await;
        }
        let sent = server.services.db.statements() - before;
        assert!(sent < 250, "{sent} statements for 900 requests");
    }

    async fn cors_for_the_origins_a_client_registered(engine) {
        let (server, _) = Server::example(engine).await;
        server.apply(MORE).await;
        let allowed = |answer: &reqwest::Response| {
            answer.headers().get("access-control-allow-origin").map(|value| value.to_str().unwrap().to_owned())
        };
        for path in [TOKEN, REVOKE] {
            let url = format!("{}{path}", server.url);
            for (origin, known) in [("https://app.example.com", true), ("https://evil.example.com", false), ("null", false)] {
                let preflight = server.http.request(reqwest::Method::OPTIONS, &url).header("origin", origin);
                let preflight = preflight.header("access-control-request-method", "POST").send().await.unwrap();
                assert_eq!(allowed(&preflight).as_deref(), known.then_some(origin), "{path}");
                assert!(preflight.headers().get("access-control-allow-credentials").is_none());
                let words = preflight.headers().get("access-control-allow-headers").map(|words| words.to_str().unwrap());
                assert_eq!(words, known.then_some("Authorization, Content-Type"));
                for (client, its) in [("browser", true), ("orders-sync", false)] {
                    // What is done, and what is refused to a client that proved who it is.
                    for (form, status) in [("grant_type=client_credentials&token=x", 200), ("resource=", 400)] {
                        let request = server.http.post(&url).header("origin", origin).header("content-type", FORM);
                        let answer = request.header("authorization", basic(client, SECRET)).body(form).send().await.unwrap();
                        assert_eq!(answer.status(), status, "{path}");
                        assert_eq!(allowed(&answer).as_deref(), (known && its).then_some(origin), "{path} {client} {origin}");
                        assert_eq!(answer.headers()["vary"], "Origin", "no cache mixes them up");
                    }
                }
            }
        }
        // Introspection is no page's business.
        let preflight = server.http.request(reqwest::Method::OPTIONS, format!("{}{INTROSPECT}", server.url));
        let preflight = preflight.header("origin", "https://app.example.com").send().await.unwrap();
        assert_eq!((preflight.status().as_u16(), allowed(&preflight)), (405, None));
        // What is registered no more is allowed no more.
        server.apply(&MORE.replace("allowed_origins = [\"https://app.example.com\"]", "")).await;
        for path in [TOKEN, REVOKE] {
            let preflight = server.http.request(reqwest::Method::OPTIONS, format!("{}{path}", server.url));
            assert_eq!(allowed(&preflight.header("origin", "https://app.example.com").send().await.unwrap()), None);
        }
    }
}
