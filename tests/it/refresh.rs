//! Refresh tokens: RFC 6749 §6, RFC 9700 §4.14, and the rules of rotation.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::codes::{
    API, APPLIED, GATEWAY, Granted, OTHER, STOCK, Scene, Shared, WEB, execute, number, patient, redeeming, text, with,
};
use crate::support::{Answer, INTROSPECT, REVOKE, TOKEN, both, decided, part, rounds};

pub fn refreshing(token: &str) -> [(&str, &str); 2] {
    [("grant_type", "refresh_token"), ("refresh_token", token)]
}

/// Made again where a busy machine has lost its lease.
async fn refresh(scene: &Scene, token: &str) -> Answer {
    loop {
        let answer = scene.redeem(WEB, &refreshing(token)).await;
        if answer.status != 503 {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The next refresh token after a successful use.
async fn next(scene: &Scene, token: &str) -> String {
    let answer = refresh(scene, token).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    text(&answer.json, "refresh_token").to_owned()
}

/// The first of a new grant.
async fn first(scene: &Scene) -> String {
    text(&scene.tokens(Granted::default()).await, "refresh_token").to_owned()
}

async fn generation(scene: &Scene) -> i64 {
    number(&scene.server.place, "SELECT MAX(generation) FROM grants").await
}

both! {
    async fn rfc9700_4_14_2_each_use_brings_the_next(engine) {
        let scene = Scene::new(engine).await;
        let tokens = scene.tokens(Granted::default()).await;
        let answer = refresh(&scene, text(&tokens, "refresh_token")).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.json["scope"], "orders:read orders:write");
        let claims = part(text(&answer.json, "access_token"), 1);
        let before = part(text(&tokens, "access_token"), 1);
        for same in ["sub", "aud", "scope", "client_id", "auth_time"] {
            assert_eq!(claims[same], before[same], "{same}");
        }
        assert_ne!(claims["jti"], before["jti"]);
        assert_ne!(text(&answer.json, "refresh_token"), text(&tokens, "refresh_token"));
        // Access tokens of before go on.
        assert!(scene.active(text(&tokens, "access_token")).await && scene.active(text(&answer.json, "access_token")).await);
        let mut token = text(&answer.json, "refresh_token").to_owned();
        for _ in 0..5 {
            token = next(&scene, &token).await;
        }
        assert_eq!(generation(&scene).await, 7);
    }

    async fn rfc6749_6_scope_narrows_and_never_widens(engine) {
        let scene = Scene::new(engine).await;
        let token = first(&scene).await;
        let asking = |token: &'static str, scope: &'static str| [("grant_type", "refresh_token"), ("refresh_token", token), ("scope", scope)];
        let token: &'static str = token.leak();
        // T-152; and a refusal changes nothing.
        for wide in ["orders:read stock:read", "openid", "nonsense", "a  b"] {
            scene.redeem(WEB, &asking(token, wide)).await.assert_error(400, "invalid_scope");
        }
        assert_eq!((generation(&scene).await, scene.revoked().await), (1, 0));
        let answer = scene.redeem(WEB, &asking(token, "orders:read")).await;
        assert_eq!((answer.status, &answer.json["scope"]), (200, &"orders:read".into()), "{}", answer.text);
        let token: &'static str = text(&answer.json, "refresh_token").to_owned().leak();
        let answer = scene.redeem(WEB, &asking(token, "orders:read orders:write")).await;
        assert_eq!((answer.status, &answer.json["scope"]), (200, &"orders:read orders:write".into()), "{}", answer.text);
        // What the client lost since, no old grant brings.
        let token = text(&answer.json, "refresh_token").to_owned();
        scene.server.apply(&APPLIED.replacen("orders:read orders:write stock:read", "orders:read", 1)).await;
        let answer = refresh(&scene, &token).await;
        assert_eq!((answer.status, &answer.json["scope"]), (200, &"orders:read".into()), "{}", answer.text);
        scene.server.apply(&APPLIED.replacen("orders:read orders:write stock:read", "stock:read", 1)).await;
        refresh(&scene, text(&answer.json, "refresh_token")).await.assert_error(400, "invalid_grant");
    }

    /// T-153. More than was granted is refused by whatever parameter it is asked for, `audience` and
    /// `authorization_details` (RFC 9396) among them, and nothing is used up for it.
    async fn t153_a_refresh_brings_no_more_than_was_granted(engine) {
        let scene = Scene::new(engine).await;
        let userinfo = format!("{}/userinfo", scene.server.issuer);
        let tokens = scene.tokens(Granted { scope: "orders:read", ..Granted::default() }).await;
        let mut token = text(&tokens, "refresh_token").to_owned();
        let details = r#"[{"type":"payment_initiation","actions":["initiate"],"locations":["https://stock.example.com"]}]"#;
        for (name, value, error) in [
            ("scope", "orders:read orders:write", "invalid_scope"),
            ("scope", "orders:read openid", "invalid_scope"),
            ("scope", "offline_access", "invalid_scope"),
            ("resource", STOCK, "invalid_target"),
            ("resource", &userinfo, "invalid_target"),
            ("audience", STOCK, "invalid_target"),
            ("audience", &userinfo, "invalid_target"),
            ("authorization_details", details, "invalid_authorization_details"),
            ("authorization_details", "[]", "invalid_authorization_details"),
        ] {
            scene.redeem(WEB, &with(&refreshing(&token), name, value)).await.assert_error(400, error);
        }
        assert_eq!((generation(&scene).await, scene.revoked().await), (1, 0));
        for (name, value) in [("resource", API), ("audience", API), ("scope", "orders:read"), ("unknown", "x")] {
            let answer = scene.redeem(WEB, &with(&refreshing(&token), name, value)).await;
            assert_eq!(answer.status, 200, "{name}: {}", answer.text);
            let claims = part(text(&answer.json, "access_token"), 1);
            assert_eq!((&answer.json["scope"], &claims["scope"]), (&"orders:read".into(), &"orders:read".into()), "{name}");
            assert_eq!(claims["aud"], API, "{name}");
            text(&answer.json, "refresh_token").clone_into(&mut token);
        }
        // Narrowed, it widens back to what was granted, and no further.
        let tokens = scene.tokens(Granted::default()).await;
        text(&tokens, "refresh_token").clone_into(&mut token);
        for (scope, error) in [
            ("orders:read", None),
            ("orders:read orders:write", None),
            ("orders:read orders:write stock:read", Some("invalid_scope")),
            ("orders:write", None),
        ] {
            let answer = scene.redeem(WEB, &with(&refreshing(&token), "scope", scope)).await;
            if let Some(error) = error {
                answer.assert_error(400, error);
                continue;
            }
            assert_eq!((answer.status, &answer.json["scope"]), (200, &scope.into()), "{}", answer.text);
            text(&answer.json, "refresh_token").clone_into(&mut token);
        }
    }

    /// RFC 8707: what the client lost since, no old grant brings.
    async fn a_resource_that_the_client_lost_is_lost_to_its_grants(engine) {
        const MORE: &str = "https://more.example.com";
        let with = |scope: &str, resources: &str| {
            let web = format!("client_id = \"web\"\nresources = [{resources}]");
            let more = format!("[[resource]]\nidentifier = \"{MORE}\"\nscopes = {{ \"more:read\" = \"More\" }}\n");
            let file = APPLIED.replacen("client_id = \"web\"", &web, 1).replacen("offline_access orders:read orders:write stock:read", scope, 1);
            format!("{file}{more}")
        };
        let both = format!("\"{API}\", \"{MORE}\"");
        let one = format!("\"{API}\"");
        let audience = |answer: &Answer| part(text(&answer.json, "access_token"), 1)["aud"].clone();
        for (granted, listed, scope, left) in [
            // By scope, and by being listed.
            ("orders:read more:read", "", "offline_access orders:read", ""),
            ("orders:read", both.as_str(), "offline_access orders:read", one.as_str()),
        ] {
            let scene = Scene::new(engine).await;
            scene.server.apply(&with("offline_access orders:read more:read", listed)).await;
            let tokens = scene.tokens(Granted { scope: granted, resources: vec![API.into(), MORE.into()], ..Granted::default() }).await;
            let before = refresh(&scene, text(&tokens, "refresh_token")).await;
            assert_eq!(audience(&before), serde_json::json!([API, MORE]));
            scene.server.apply(&with(scope, left)).await;
            let token = text(&before.json, "refresh_token").to_owned();
            let form = [("grant_type", "refresh_token"), ("refresh_token", token.as_str()), ("resource", MORE)];
            scene.redeem(WEB, &form).await.assert_error(400, "invalid_target");
            let after = refresh(&scene, &token).await;
            assert_eq!((after.status, audience(&after)), (200, API.into()), "{}", after.text);
        }
    }

    async fn a_lost_answer_is_given_again_within_the_window_and_later_it_is_reuse(engine) {
        let scene = Scene::new(engine).await;
        let one = first(&scene).await;
        let two = next(&scene, &one).await;
        scene.server.clock.advance(Duration::from_secs(8));
        assert_eq!(next(&scene, &one).await, two, "the same successor");
        assert_eq!((generation(&scene).await, scene.revoked().await), (2, 0));
        scene.server.clock.advance(Duration::from_secs(3));
        refresh(&scene, &one).await.assert_error(400, "invalid_grant");
        assert_eq!(scene.revoked().await, 1);
        refresh(&scene, &two).await.assert_error(400, "invalid_grant");
    }

    async fn two_generations_back_is_reuse_at_any_time(engine) {
        let scene = Scene::new(engine).await;
        let tokens = scene.tokens(Granted::default()).await;
        let one = text(&tokens, "refresh_token");
        let two = next(&scene, one).await;
        let three = next(&scene, &two).await;
        refresh(&scene, one).await.assert_error(400, "invalid_grant");
        for token in [&two, &three] {
            refresh(&scene, token).await.assert_error(400, "invalid_grant");
        }
        assert!(!scene.active(text(&tokens, "access_token")).await, "what it issued is dead, too");
    }

    async fn without_a_window_every_second_use_is_reuse(engine) {
        let scene = Scene::with(engine, |config| config.tokens.refresh_retry_seconds = 0).await;
        let one = first(&scene).await;
        let two = next(&scene, &one).await;
        refresh(&scene, &one).await.assert_error(400, "invalid_grant");
        refresh(&scene, &two).await.assert_error(400, "invalid_grant");
    }

    async fn an_unused_refresh_token_ends_and_so_does_a_used_one_at_last(engine) {
        let scene = Scene::with(engine, |config| {
            config.tokens.refresh_token_idle_seconds = 1000;
            config.tokens.refresh_token_lifetime_seconds = 2500;
            // The sign-in that they came of is over before that.
            config.sessions.end_grants = sealwright::wire::EndGrants::None;
        }).await;
        let (mut token, idle) = (first(&scene).await, first(&scene).await);
        for _ in 0..2 {
            scene.server.clock.advance(Duration::from_mins(15));
            token = next(&scene, &token).await;
        }
        refresh(&scene, &idle).await.assert_error(400, "invalid_grant");
        scene.server.clock.advance(Duration::from_mins(10));
        token = next(&scene, &token).await;
        scene.server.clock.advance(Duration::from_secs(150));
        refresh(&scene, &token).await.assert_error(400, "invalid_grant");
        assert_eq!(scene.revoked().await, 0, "an old token is no reuse");
    }

    async fn t63_a_changed_refresh_token_is_nothing(engine) {
        let scene = Scene::new(engine).await;
        let token = first(&scene).await;
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(&token[4..]).unwrap();
        let sealed = |bytes: &[u8]| format!("swr_{}", BASE64_URL_SAFE_NO_PAD.encode(bytes));
        assert_eq!(sealed(&bytes), token);
        let mut bad = vec![sealed(&bytes[..51]), sealed(&[&bytes[..], &[0]].concat()), token.to_uppercase(), format!("{token}=")];
        bad.extend([token[4..].to_owned(), format!("{token}A"), format!("sws_{}", &token[4..]), format!("SWR_{}", &token[4..])]);
        // The last letter has bits to spare: written otherwise, it is another text.
        let last = token.chars().last().unwrap();
        bad.extend("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".chars().filter(|other| *other != last)
            .map(|other| format!("{}{other}", &token[..token.len() - 1])));
        for bit in (0..bytes.len() * 8).step_by(5) {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            bad.push(sealed(&changed));
        }
        for bad in &bad {
            refresh(&scene, bad).await.assert_error(400, "invalid_grant");
        }
        assert_eq!((generation(&scene).await, scene.revoked().await), (1, 0));
        next(&scene, &token).await;
    }

    /// What another client has, somebody gave or took away: nobody goes on by it.
    async fn another_client_gets_nothing_by_it_and_takes_the_family_along(engine) {
        let scene = Scene::new(engine).await;
        decided(3, async |round| {
            let tokens = scene.tokens(Granted::default()).await;
            let (one, revoked) = (text(&tokens, "refresh_token").to_owned(), scene.revoked().await);
            let two = next(&scene, &one).await;
            let leaked = if round % 2 == 0 { &one } else { &two };
            let public = [refreshing(leaked).as_slice(), &[("client_id", "app")]].concat();
            let answer = match round % 3 {
                0 => scene.server.post(TOKEN, None, &public).await,
                _ => scene.redeem(OTHER, &refreshing(leaked)).await,
            };
            if answer.status == 503 {
                return false;
            }
            answer.assert_error(400, "invalid_grant");
            assert_eq!(scene.revoked().await, revoked + 1);
            assert!(!scene.active(text(&tokens, "access_token")).await);
            refresh(&scene, &two).await.assert_error(400, "invalid_grant");
            true
        })
        .await;
    }

    async fn another_client_neither_revokes_it_nor_learns_of_it(engine) {
        let scene = Scene::new(engine).await;
        let one = first(&scene).await;
        let two = next(&scene, &one).await;
        for token in [&one, &two] {
            let revoked = scene.server.post(REVOKE, Some(OTHER), &[("token", token)]).await;
            assert_eq!(revoked.status, 200, "RFC 7009 §2.2");
            let asked = scene.server.post(INTROSPECT, Some(OTHER), &[("token", token)]).await;
            assert_eq!(asked.json["active"], false);
        }
        scene.redeem(("machine", crate::support::SECRET), &refreshing(&two)).await.assert_error(400, "unauthorized_client");
        scene.redeem(("web", "wrong"), &refreshing(&two)).await.assert_error(401, "invalid_client");
        assert_eq!((generation(&scene).await, scene.revoked().await), (2, 0));
        next(&scene, &two).await;
    }

    async fn public_clients_rotate_too(engine) {
        let scene = Scene::new(engine).await;
        let code = scene.code(Granted { client_id: "app", scope: "orders:read", ..Granted::default() }).await;
        let form = [redeeming(&code).as_slice(), &[("client_id", "app")]].concat();
        let answer = scene.server.post(TOKEN, None, &form).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let one = text(&answer.json, "refresh_token").to_owned();
        let use_it = async |token: &str| {
            let form = [refreshing(token).as_slice(), &[("client_id", "app")]].concat();
            scene.server.post(TOKEN, None, &form).await
        };
        let two = use_it(&one).await;
        assert_eq!(two.status, 200, "{}", two.text);
        scene.server.clock.advance(Duration::from_secs(11));
        use_it(&one).await.assert_error(400, "invalid_grant");
        use_it(text(&two.json, "refresh_token")).await.assert_error(400, "invalid_grant");
    }

    async fn rfc7009_2_1_a_revoked_refresh_token_takes_its_access_tokens_along(engine) {
        let scene = Scene::new(engine).await;
        let (tokens, other) = (scene.tokens(Granted::default()).await, scene.tokens(Granted::default()).await);
        let access = text(&tokens, "access_token").to_owned();
        // An access token goes alone.
        let alone = refresh(&scene, text(&other, "refresh_token")).await.json;
        assert_eq!(scene.server.post(REVOKE, Some(WEB), &[("token", text(&other, "access_token"))]).await.status, 200);
        assert!(!scene.active(text(&other, "access_token")).await && scene.active(text(&alone, "access_token")).await);
        let hint = [("token", text(&tokens, "refresh_token")), ("token_type_hint", "refresh_token")];
        for _ in 0..2 {
            assert_eq!(scene.server.post(REVOKE, Some(WEB), &hint).await.status, 200);
            assert!(!scene.active(&access).await);
            refresh(&scene, text(&tokens, "refresh_token")).await.assert_error(400, "invalid_grant");
        }
        next(&scene, text(&alone, "refresh_token")).await;
        let sql = "SELECT COUNT(*) FROM audit_events WHERE kind = 'grant.revoked'";
        assert_eq!(number(&scene.server.place, sql).await, 1);
    }

    async fn rfc7662_its_own_client_may_ask_about_it(engine) {
        let scene = Scene::new(engine).await;
        let one = first(&scene).await;
        let ask = async |who: (&'static str, &'static str), token: &str| {
            let answer = scene.server.post(INTROSPECT, Some(who), &[("token", token)]).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
            answer.json
        };
        let told: Value = ask(WEB, &one).await;
        assert_eq!((&told["active"], &told["client_id"]), (&true.into(), &"web".into()));
        assert_eq!((&told["sub"], &told["scope"]), (&scene.person.sub.as_str().into(), &"orders:read orders:write".into()));
        // Thirty days from its first use on, which came a moment after the grant was made.
        let lives = told["exp"].as_i64().unwrap() - told["iat"].as_i64().unwrap();
        assert!((2_592_000..2_592_060).contains(&lives), "{told}");
        assert!(told.get("token_type").is_none(), "RFC 7662 §2.2 speaks of access tokens");
        assert_eq!(ask(GATEWAY, &one).await, serde_json::json!({"active": false}));
        let two = next(&scene, &one).await;
        assert_eq!(ask(WEB, &one).await, serde_json::json!({"active": false}));
        assert_eq!(ask(WEB, &two).await["active"], true);
    }

    async fn t46_who_is_switched_off_refreshes_nothing(engine) {
        let scene = Scene::new(engine).await;
        let token = first(&scene).await;
        execute(&scene.server.place, "UPDATE users SET disabled = TRUE").await;
        refresh(&scene, &token).await.assert_error(400, "invalid_grant");
        assert_eq!((generation(&scene).await, scene.revoked().await), (1, 0));
        execute(&scene.server.place, "UPDATE users SET disabled = FALSE").await;
        let token = next(&scene, &token).await;
        scene.server.apply(&APPLIED.replacen("client_id = \"web\"", "client_id = \"web\"\ndisabled = true", 1)).await;
        refresh(&scene, &token).await.assert_error(401, "invalid_client");
    }

    async fn race_t20_without_a_window_64_at_once_have_one_winner_and_the_family_is_dead(engine) {
        let scene = Scene::with(engine, |config| config.tokens.refresh_retry_seconds = 0).await;
        decided(rounds(50), async |round| {
            let token = first(&scene).await;
            let Some(answers) = scene.race(&refreshing(&token)).await else { return false };
            let won: Vec<_> = answers.iter().filter(|answer| answer.status == 200).collect();
            assert_eq!(won.len(), 1, "round {round}");
            for lost in answers.iter().filter(|answer| answer.status != 200) {
                lost.assert_error(400, "invalid_grant");
            }
            refresh(&scene, text(&won[0].json, "refresh_token")).await.assert_error(400, "invalid_grant");
            assert!(!scene.active(text(&won[0].json, "access_token")).await, "round {round}");
            true
        }).await;
    }

    async fn race_t20_within_the_window_64_at_once_get_one_successor_and_the_family_lives(engine) {
        // A minute, so that a slow machine is in time, too.
        let scene = Scene::with(engine, |config| config.tokens.refresh_retry_seconds = 60).await;
        decided(rounds(50), async |round| {
            let token = first(&scene).await;
            let Some(answers) = scene.race(&refreshing(&token)).await else { return false };
            let successor = text(&answers[0].json, "refresh_token").to_owned();
            for answer in &answers {
                assert_eq!((answer.status, text(&answer.json, "refresh_token")), (200, successor.as_str()), "round {round}");
            }
            let third = next(&scene, &successor).await;
            refresh(&scene, &token).await.assert_error(400, "invalid_grant");
            refresh(&scene, &third).await.assert_error(400, "invalid_grant");
            true
        }).await;
    }

    /// T-21: what a 200 took back stays so, whatever happens to the process right after it.
    async fn t21_a_revoked_refresh_token_is_dead_after_kill_9(engine) {
        let shared = Shared::new(engine).await;
        let mut server = shared.node.start().await;
        for round in 0..rounds(4) {
            let code = shared.code().await;
            let answer = patient(&server, TOKEN, WEB, &redeeming(&code)).await;
            assert_eq!(answer.status, 200, "round {round}: {}", answer.text);
            let one = text(&answer.json, "refresh_token").to_owned();
            let two = text(&patient(&server, TOKEN, WEB, &refreshing(&one)).await.json, "refresh_token").to_owned();
            // A rotation that was answered, or a revocation, or a code used up: none comes back.
            let revoke = round % 2 == 0;
            if revoke {
                assert_eq!(patient(&server, REVOKE, WEB, &[("token", &two)]).await.status, 200);
            }
            server.kill9();
            server = shared.node.start().await;
            let again = patient(&server, TOKEN, WEB, &refreshing(&two)).await;
            assert_eq!(again.status, if revoke { 400 } else { 200 }, "round {round}: {}", again.text);
            patient(&server, TOKEN, WEB, &redeeming(&code)).await.assert_error(400, "invalid_grant");
            let asked = patient(&server, INTROSPECT, GATEWAY, &[("token", text(&answer.json, "access_token"))]).await;
            assert_eq!(asked.json["active"], false, "round {round}");
        }
    }
}
