//! Which clients there are: known to every node at once, and what an unknown one costs (T-122).

use crate::support::{EXAMPLE, Engine, INTROSPECT, REVOKE, SECRET, Server, TOKEN, both};

const CC: (&str, &str) = ("grant_type", "client_credentials");

fn another(id: &str) -> String {
    format!("{EXAMPLE}\n[[client]]\nclient_id = {id:?}\nclient_secret = {SECRET:?}\nscope = \"orders:read\"\n")
}

both! {
    async fn t122_an_unknown_client_costs_no_database_round_trip(engine) {
        let (server, gateway) = Server::example(engine).await;
        server.token().await;
        let unlike = format!("sws_{}", "a".repeat(49));
        // The node's own work (lease, feed, flush) goes on beside; it is small and does not grow with requests.
        let before = server.services.db.statements();
        for round in 0..100 {
            let id = format!("unknown-{round}");
            for path in [TOKEN, INTROSPECT, REVOKE] {
                for secret in [SECRET, &gateway, &unlike] {
                    server.post(path, Some((&id, secret)), &[CC, ("token", "x")]).await.assert_error(401, "invalid_client");
                }
            }
            server.post(TOKEN, None, &[CC, ("client_id", &id)]).await.assert_error(401, "invalid_client");
        }
        let sent = server.services.db.statements() - before;
        assert!(sent < 300, "{sent} statements for 1000 requests");
    }

    async fn a_client_is_known_and_forgotten_everywhere_once_apply_returns(engine) {
        let (here, _) = Server::example(engine).await;
        let there = if engine == Engine::Postgres { Some(here.another().await) } else { None };
        let nodes: Vec<&Server> = [&here].into_iter().chain(&there).collect();
        for round in 0..8 {
            let id = format!("new-{round}");
            for node in &nodes {
                node.post(TOKEN, Some((&id, SECRET)), &[CC]).await.assert_error(401, "invalid_client");
            }
            for _ in 0..2 {
                here.apply(&another(&id)).await;
                for node in &nodes {
                    assert_eq!(node.post(TOKEN, Some((&id, SECRET)), &[CC]).await.status, 200, "round {round}");
                }
                here.try_apply(EXAMPLE, true).await.unwrap();
                for node in &nodes {
                    node.post(TOKEN, Some((&id, SECRET)), &[CC]).await.assert_error(401, "invalid_client");
                }
            }
        }
    }

    /// At its start a node knows all that are there.
    async fn a_client_is_known_to_a_node_that_starts_later(engine) {
        let (server, _) = Server::example(engine).await;
        let later = match engine {
            Engine::Postgres => server.another().await,
            Engine::Sqlite => {
                let place = server.place.clone();
                server.stop().await;
                Server::at(place, sealwright::clock::Clock::system(), |_| {}).await
            }
        };
        later.token().await;
    }
}
