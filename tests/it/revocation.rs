//! Revocation: RFC 7009, and what its 200 promises.

use crate::support::{EXAMPLE, Engine, INTROSPECT, REVOKE, SECRET, Server, TOKEN, both, rounds};

async fn revoke(server: &Server, token: &str) {
    let answer = server.post(REVOKE, Some(("orders-sync", SECRET)), &[("token", token)]).await;
    assert_eq!((answer.status, answer.text.as_str()), (200, ""));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
}

both! {
    async fn rfc7009_2_2_a_revoked_token_is_inactive(engine) {
        let (server, gateway) = Server::example(engine).await;
        let (token, other) = (server.token().await, server.token().await);
        revoke(&server, &token).await;
        assert_eq!(server.introspect(&gateway, &token).await.json["active"], false);
        assert_eq!(server.introspect(&gateway, &other).await.json["active"], true);
        // Again, and a token that never was: 200.
        revoke(&server, &token).await;
        revoke(&server, "garbage").await;
        revoke(&server, &"a".repeat(9000)).await;
    }

    async fn t28_a_client_revokes_its_own_tokens_only(engine) {
        let (server, gateway) = Server::example(engine).await;
        let token = server.token().await;
        let answer = server.post(REVOKE, Some(("edge-gateway", &gateway)), &[("token", &token)]).await;
        assert_eq!(answer.status, 200);
        assert_eq!(server.introspect(&gateway, &token).await.json["active"], true);
        server.post(REVOKE, None, &[("token", &token)]).await.assert_error(401, "invalid_client");
        server.post(REVOKE, Some(("orders-sync", "wrong")), &[("token", &token)]).await.assert_error(401, "invalid_client");
        assert_eq!(server.introspect(&gateway, &token).await.json["active"], true);
        revoke(&server, &token).await;
        assert_eq!(server.introspect(&gateway, &token).await.json["active"], false);
        let answer = server.post(REVOKE, Some(("orders-sync", SECRET)), &[("token_type_hint", "access_token")]).await;
        answer.assert_error(400, "invalid_request");
    }

    async fn opaque_tokens_are_revoked_too(engine) {
        let server = Server::empty(engine).await;
        let opaque = EXAMPLE.replace("access_token_signed_response_alg = \"EdDSA\"", "access_token_format = \"opaque\"");
        let gateway = server.apply(&opaque).await[0].secret.expose().to_owned();
        let token = server.token().await;
        assert!(token.starts_with("swa_"));
        assert_eq!(server.introspect(&gateway, &token).await.json["active"], true);
        revoke(&server, &token).await;
        assert_eq!(server.introspect(&gateway, &token).await.json["active"], false);
    }

    async fn a_revocation_outlives_a_restart(engine) {
        let (server, gateway) = Server::example(engine).await;
        let (token, other) = (server.token().await, server.token().await);
        revoke(&server, &token).await;
        let place = server.place.clone();
        let (issuer, clock) = (server.issuer.clone(), server.clock.clone());
        server.stop().await;
        let change = move |config: &mut sealwright::config::Config| {
            config.issuer = Some(sealwright::config::Issuer::parse(&issuer).unwrap());
        };
        let server = Server::at(place, clock, change).await;
        assert_eq!(server.introspect(&gateway, &token).await.json["active"], false);
        assert_eq!(server.introspect(&gateway, &other).await.json["active"], true);
    }

    async fn revocations_and_used_ids_are_swept_when_they_no_longer_matter(engine) {
        let (server, _) = Server::example(engine).await;
        revoke(&server, &server.token().await).await;
        assert_eq!(server.services.revocations.len(), 1);
        server.clock.advance(std::time::Duration::from_secs(400));
        sealwright::jobs::sweep_once(&server.services).await.unwrap();
        assert_eq!(server.services.revocations.len(), 0);
        let now = 0;
        let left = server.services.db.read(move |conn| Box::pin(sealwright::store::revocations::all(conn, now))).await.unwrap();
        assert!(left.is_empty());
    }

    async fn t24_a_token_is_never_too_long_to_be_taken_back(engine) {
        let server = Server::empty(engine).await;
        let scopes: Vec<String> = (0..240).map(|n| format!("a-scope-with-a-rather-long-name-{n:04}")).collect();
        let words = scopes.iter().map(|scope| format!("\"{scope}\" = \"x\"")).collect::<Vec<_>>().join(", ");
        let big = EXAMPLE
            .replace("\"orders:read\" = \"Read orders\", \"orders:write\" = \"Change orders\"", &words)
            .replace("orders:read orders:write", &scopes.join(" "));
        let gateway = server.apply(&big).await[0].secret.expose().to_owned();
        let token = server.token().await;
        assert!(token.len() > 8 * 1024, "{}", token.len());
        assert_eq!(server.introspect(&gateway, &token).await.json["active"], true);
        revoke(&server, &token).await;
        assert_eq!(server.introspect(&gateway, &token).await.json["active"], false);
        // What would be longer than what the endpoints take is not issued.
        let longer = big.replace("a-scope-with", "a-scope-that-is-longer-still-by-some-characters-with");
        server.try_apply(&longer, true).await.unwrap();
        let form = [("grant_type", "client_credentials")];
        server.post(TOKEN, Some(("orders-sync", SECRET)), &form).await.assert_error(400, "invalid_scope");
    }

    /// What is not recorded is not done: a change and its audit event are one transaction.
    async fn a_revocation_that_cannot_be_recorded_is_none(engine) {
        let (server, gateway) = Server::example(engine).await;
        let token = server.token().await;
        server.place.run("ALTER TABLE audit_events RENAME TO away").await;
        let answer = server.post(REVOKE, Some(("orders-sync", SECRET)), &[("token", &token)]).await;
        assert!(answer.status >= 500, "{}", answer.text);
        let off = EXAMPLE.replace("client_name = \"Orders sync\"", "disabled = true");
        let more = format!("{off}\n[[client]]\nclient_id = \"new\"\nclient_secret = {SECRET:?}\nscope = \"orders:read\"\n");
        server.try_apply(&more, false).await.unwrap_err();
        server.place.run("ALTER TABLE away RENAME TO audit_events").await;
        for (what, count) in [("revocations", 0), ("clients", 2), ("clients WHERE disabled", 0)] {
            assert_eq!(server.place.number(&format!("SELECT COUNT(*) FROM {what}")).await, count, "{what}");
        }
        assert_eq!(server.introspect(&gateway, &token).await.json["active"], true);
        server.token().await;
        revoke(&server, &token).await;
        assert_eq!(server.introspect(&gateway, &token).await.json["active"], false);
    }

    async fn i6_revoking_again_writes_nothing_more(engine) {
        let (server, _) = Server::example(engine).await;
        let token = server.token().await;
        for _ in 0..5 {
            revoke(&server, &token).await;
        }
        let events = server.services.db.read(|conn| Box::pin(sealwright::store::audit::latest(conn, 100))).await.unwrap();
        assert_eq!(events.iter().filter(|event| event.kind == "token.revoked").count(), 1);
    }
}

/// T-25: from the moment of the 200 at one node, no other of three says active. From each of them, without a pause, for
/// signed tokens and opaque ones, and for everything of a client at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t25_what_one_node_revoked_is_inactive_on_the_others_from_the_200_on() {
    let (a, gateway) = Server::example(Engine::Postgres).await;
    let opaque = "[[resource]]\nidentifier = \"urn:opaque\"\naccess_token_format = \"opaque\"\nscopes = { o = \"O\" }\n\n\
                  [[client]]\nclient_id = \"edge-gateway\"\ngrant_types = []\nserves = [\"https://api.example.com\", \"urn:opaque\"]\n";
    a.apply(opaque).await;
    let nodes = [a.another().await, a.another().await, a];
    for round in 0..rounds(99) {
        let (here, id) = (&nodes[round % 3], format!("worker-{round}"));
        // Every second token is opaque, and of every fifth client all is taken back.
        let scope = if round % 2 == 0 { "orders:read" } else { "o" };
        let file = format!("[[client]]\nclient_id = {id:?}\nclient_secret = {SECRET:?}\nscope = {scope:?}\n");
        here.apply(&file).await;
        let answer = here.post(TOKEN, Some((&id, SECRET)), &[("grant_type", "client_credentials")]).await;
        let token = answer.json["access_token"].as_str().unwrap_or_else(|| panic!("{}", answer.text));
        assert_eq!(token.starts_with("swa_"), round % 2 == 1);
        // Known to every node's memory before it is revoked.
        for node in &nodes {
            assert_eq!(node.introspect(&gateway, token).await.json["active"], true, "round {round}");
        }
        if round % 5 == 4 {
            here.apply(&format!("{file}disabled = true\n")).await;
        } else {
            let answer = here.post(REVOKE, Some((&id, SECRET)), &[("token", token)]).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
        }
        for node in &nodes {
            assert_eq!(node.introspect(&gateway, token).await.text, "{\"active\":false}", "round {round}");
        }
    }
}

/// A client that one node has in memory is refused there from the moment `apply` at another returns.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t46_a_disabled_client_is_refused_on_every_node_when_apply_returns() {
    let (a, _) = Server::example(Engine::Postgres).await;
    let b = a.another().await;
    let form = [("grant_type", "client_credentials")];
    for round in 0..10 {
        b.token().await;
        let disabled = EXAMPLE.replace("client_name = \"Orders sync\"", "disabled = true");
        a.apply(&disabled).await;
        b.post(TOKEN, Some(("orders-sync", SECRET)), &form).await.assert_error(401, "invalid_client");
        a.apply(EXAMPLE).await;
        assert_eq!(
            b.post(INTROSPECT, Some(("orders-sync", SECRET)), &[("token", "x")]).await.status,
            200,
            "round {round}"
        );
    }
}
