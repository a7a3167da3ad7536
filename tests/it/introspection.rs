//! Introspection: RFC 7662.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::json;

use crate::support::{EXAMPLE, INTROSPECT, SECRET, Server, TOKEN, both, part};

const OPAQUE: &str = r#"
[[resource]]
identifier = "urn:example:opaque"
scopes = { "opaque" = "All of it" }
access_token_format = "opaque"
access_token_lifetime = 120

[[client]]
client_id = "blind"
client_secret = "imported-secret-of-at-least-32-characters"
scope = "opaque"

[[client]]
client_id = "warehouse"
client_secret = "imported-secret-of-at-least-32-characters"
grant_types = []
serves = ["urn:example:opaque"]

[[client]]
client_id = "page"
token_endpoint_auth_method = "none"
grant_types = []
"#;

const INACTIVE: &str = "{\"active\":false}";

both! {
    async fn rfc7662_2_2_a_live_token_is_described(engine) {
        let (server, gateway) = Server::example(engine).await;
        let token = server.token().await;
        let answer = server.introspect(&gateway, &token).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let claims = part(&token, 1);
        assert_eq!(answer.json["active"], true);
        assert_eq!(answer.json["token_type"], "Bearer");
        for member in ["iss", "sub", "aud", "client_id", "scope", "iat", "exp", "jti"] {
            assert_eq!(answer.json[member], claims[member], "{member}");
        }
    }

    async fn t156_only_its_client_and_its_resource_may_know(engine) {
        let (server, gateway) = Server::example(engine).await;
        server.apply(OPAQUE).await;
        let token = server.token().await;
        let by = async |id: &str, secret: &str| server.post(INTROSPECT, Some((id, secret)), &[("token", &token)]).await;
        assert_eq!(by("edge-gateway", &gateway).await.json["active"], true);
        assert_eq!(by("orders-sync", SECRET).await.json["active"], true);
        assert_eq!(by("warehouse", SECRET).await.text, INACTIVE);
        assert_eq!(by("blind", SECRET).await.text, INACTIVE);
        server.post(INTROSPECT, None, &[("token", &token)]).await.assert_error(401, "invalid_client");
        server.post(INTROSPECT, None, &[("token", &token), ("client_id", "page")]).await.assert_error(401, "invalid_client");
        by("edge-gateway", "wrong").await.assert_error(401, "invalid_client");
    }

    async fn rfc7662_2_1_the_token_parameter_is_required(engine) {
        let (server, gateway) = Server::example(engine).await;
        let answer = server.post(INTROSPECT, Some(("edge-gateway", &gateway)), &[("token_type_hint", "access_token")]).await;
        answer.assert_error(400, "invalid_request");
        // A hint is a hint (RFC 7662 §2.1): a wrong or unknown one changes nothing.
        let token = server.token().await;
        for hint in ["refresh_token", "unknown"] {
            let form = [("token", token.as_str()), ("token_type_hint", hint)];
            assert_eq!(server.post(INTROSPECT, Some(("edge-gateway", &gateway)), &form).await.json["active"], true);
        }
    }

    async fn an_expired_token_is_inactive_from_its_last_second(engine) {
        let (server, gateway) = Server::example(engine).await;
        let token = server.token().await;
        server.clock.advance(Duration::from_secs(298));
        assert_eq!(server.introspect(&gateway, &token).await.json["active"], true);
        server.clock.advance(Duration::from_secs(3));
        assert_eq!(server.introspect(&gateway, &token).await.text, INACTIVE);
    }

    async fn opaque_tokens_are_described_and_expire(engine) {
        let server = Server::empty(engine).await;
        server.apply(OPAQUE).await;
        let answer = server.post(TOKEN, Some(("blind", SECRET)), &[("grant_type", "client_credentials")]).await;
        let token = answer.json["access_token"].as_str().unwrap().to_owned();
        assert_eq!(answer.json["expires_in"], 120);
        let ask = async || server.post(INTROSPECT, Some(("warehouse", SECRET)), &[("token", &token)]).await;
        let answer = ask().await;
        assert_eq!(answer.json["active"], true, "{}", answer.text);
        assert_eq!(answer.json["aud"], "urn:example:opaque");
        assert_eq!(answer.json["scope"], "opaque");
        server.clock.advance(Duration::from_secs(121));
        assert_eq!(ask().await.text, INACTIVE);
    }

    async fn t63b_a_changed_token_is_inactive(engine) {
        let (server, gateway) = Server::example(engine).await;
        server.apply(OPAQUE).await;
        let opaque = server.post(TOKEN, Some(("blind", SECRET)), &[("grant_type", "client_credentials")]).await;
        let opaque = opaque.json["access_token"].as_str().unwrap().to_owned();
        let signed = server.token().await;
        for (token, by, secret) in [(&opaque, "warehouse", SECRET), (&signed, "edge-gateway", gateway.as_str())] {
            assert_eq!(server.post(INTROSPECT, Some((by, secret)), &[("token", token)]).await.json["active"], true);
            let flipped: String = token.chars().map(|c| if c.is_ascii_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() }).collect();
            let mutants = [
                token[..token.len() - 1].to_owned(),
                token[..80.min(token.len() - 1)].to_owned(),
                format!("{token}A"),
                format!("{token}="),
                format!(" {token}"),
                format!("{token}\n"),
                flipped,
                token.replace('.', ".."),
                token.replacen('.', "", 1),
                format!("Bearer {token}"),
                // The same bytes in another spelling.
                token.bytes().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}")),
                token.bytes().fold(String::new(), |percent, byte| format!("{percent}%{byte:02X}")),
                BASE64_URL_SAFE_NO_PAD.encode(token),
            ];
            for mutant in mutants.iter().filter(|mutant| *mutant != token) {
                let answer = server.post(INTROSPECT, Some((by, secret)), &[("token", mutant)]).await;
                assert_eq!((answer.status, answer.text.as_str()), (200, INACTIVE), "{mutant:?}");
            }
            // Every character counts.
            for at in (0..token.len()).step_by(7) {
                let mut bytes = token.clone().into_bytes();
                bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
                let mutant = String::from_utf8(bytes).unwrap();
                if mutant != *token {
                    let answer = server.post(INTROSPECT, Some((by, secret)), &[("token", &mutant)]).await;
                    assert_eq!(answer.text, INACTIVE, "{at}");
                }
            }
        }
    }

    async fn a_token_of_a_removed_client_or_resource_is_inactive(engine) {
        let (server, gateway) = Server::example(engine).await;
        server.apply(OPAQUE).await;
        let token = server.token().await;
        let opaque = server.post(TOKEN, Some(("blind", SECRET)), &[("grant_type", "client_credentials")]).await;
        let opaque = opaque.json["access_token"].as_str().unwrap().to_owned();
        let know = async |by: &str, secret: &str, token: &str| server.post(INTROSPECT, Some((by, secret)), &[("token", token)]).await.json["active"].clone();
        assert_eq!(know("warehouse", SECRET, &opaque).await, json!(true));
        server.try_apply(EXAMPLE, true).await.unwrap();
        assert_eq!(know("edge-gateway", &gateway, &token).await, json!(true));
        server.post(INTROSPECT, Some(("warehouse", SECRET)), &[("token", &opaque)]).await.assert_error(401, "invalid_client");
        let only_gateway = EXAMPLE.split("[[client]]").enumerate().filter(|(at, _)| *at != 1).map(|(_, text)| text).collect::<Vec<_>>().join("[[client]]");
        server.try_apply(&only_gateway, true).await.unwrap();
        assert_eq!(know("edge-gateway", &gateway, &token).await, json!(false));
    }
}
