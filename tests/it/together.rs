//! Codes and refresh tokens that come at once are used up together (`store::Together`): each gets the answer that it
//! would get alone, and no other's.

use futures_util::future::join_all;

use crate::codes::{Granted, OTHER, Person, Scene, WEB, code_for, execute, number, redeeming, signs, text};
use crate::refresh::refreshing;
use crate::support::{Answer, both, decided, part};

/// The people that several grants at once are of.
async fn people(scene: &Scene) -> Vec<Person> {
    let mut people = Vec::new();
    for _ in 0..8 {
        people.push(Person::new(&scene.server.place, scene.server.clock.now()).await);
    }
    people
}

async fn code(scene: &Scene, person: &Person, scope: &'static str) -> String {
    let granted = Granted { scope, ..Granted::default() };
    code_for(&scene.server.services.db, scene.server.clock.now(), person, granted).await
}

const OPENID: &str = "openid orders:read";

/// Whether a busy machine kept its lease all the while; else nobody can say what was used up.
fn answered(answers: &[Answer]) -> bool {
    answers.iter().all(|answer| answer.status != 503)
}

fn succeeded<'a>(answers: impl IntoIterator<Item = &'a Answer>) -> usize {
    answers.into_iter().filter(|answer| answer.status == 200).count()
}

fn subject(answer: &Answer, token: &str) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text);
    text(&part(text(&answer.json, token), 1), "sub").to_owned()
}

both! {
    async fn rfc6749_4_1_3_codes_that_come_at_once_get_each_its_own_answer(engine) {
        let scene = Scene::new(engine).await;
        let people = people(&scene).await;
        decided(2, async |_| {
            let revoked = scene.revoked().await;
            let mut codes = Vec::new();
            for at in 0..48 {
                codes.push(code(&scene, &people[at % people.len()], OPENID).await);
            }
            let (good, rest) = codes.split_at(16);
            let (twice, rest) = rest.split_at(8);
            let (unproven, rest) = rest.split_at(8);
            let (others, unused) = rest.split_at(8);
            let presented = good.iter().chain(twice).chain(unproven).chain(others).chain(twice);
            let answers = join_all(presented.enumerate().map(async |(at, code)| {
                let mut form = redeeming(code);
                if (24..32).contains(&at) {
                    form[3].1 = "a-verifier-of-somebody-else-that-is-long-enough";
                }
                let who = if (32..40).contains(&at) { OTHER } else { WEB };
                scene.redeem(who, &form).await
            }))
            .await;
            if !answered(&answers) {
                return false;
            }
            for (at, answer) in answers[..16].iter().enumerate() {
                let sub = &people[at % people.len()].sub;
                assert_eq!((&subject(answer, "access_token"), &subject(answer, "id_token")), (sub, sub));
            }
            for answer in &answers[24..40] {
                answer.assert_error(400, "invalid_grant");
            }
            // Of two that present one code, one gets tokens, and they are taken back with all of the grant.
            for (first, second) in answers[16..24].iter().zip(&answers[40..]) {
                assert_eq!(succeeded([first, second]), 1);
                let good = if first.status == 200 { first } else { second };
                assert!(!scene.active(text(&good.json, "access_token")).await);
            }
            assert_eq!(scene.revoked().await, revoked + 8);
            assert!(scene.active(text(&answers[0].json, "access_token")).await);
            // A wrong verifier used its code up; another client did not, and nobody the rest.
            let again = join_all(unproven.iter().chain(others).chain(unused).map(async |code| scene.redeem(WEB, &redeeming(code)).await)).await;
            if !answered(&again) {
                return false;
            }
            assert_eq!((succeeded(&again[..8]), succeeded(&again[8..])), (0, 16));
            true
        })
        .await;
    }

    async fn rfc6749_6_refresh_tokens_that_come_at_once_get_each_its_own_answer(engine) {
        let scene = Scene::new(engine).await;
        let people = people(&scene).await;
        decided(2, async |_| {
            let revoked = scene.revoked().await;
            let mut tokens = Vec::new();
            for at in 0..40 {
                let code = code(&scene, &people[at % people.len()], OPENID).await;
                let answer = scene.redeem(WEB, &redeeming(&code)).await;
                if !answered(std::slice::from_ref(&answer)) {
                    return false;
                }
                tokens.push(text(&answer.json, "refresh_token").to_owned());
            }
            // Eight are two generations behind: they were stolen.
            let stolen = tokens.split_off(32);
            for token in &stolen {
                let mut token = token.clone();
                for _ in 0..2 {
                    let answer = scene.redeem(WEB, &refreshing(&token)).await;
                    if !answered(std::slice::from_ref(&answer)) {
                        return false;
                    }
                    text(&answer.json, "refresh_token").clone_into(&mut token);
                }
            }
            let (good, rest) = tokens.split_at(16);
            let (twice, others) = rest.split_at(8);
            let presented = good.iter().chain(twice).chain(others).chain(&stolen).chain(twice);
            let answers = join_all(presented.enumerate().map(async |(at, token)| {
                scene.redeem(if (24..32).contains(&at) { OTHER } else { WEB }, &refreshing(token)).await
            }))
            .await;
            if !answered(&answers) {
                return false;
            }
            for (at, answer) in answers[..24].iter().enumerate() {
                assert_eq!(subject(answer, "access_token"), people[at % people.len()].sub);
            }
            for answer in &answers[24..40] {
                answer.assert_error(400, "invalid_grant");
            }
            // Who lost an answer asks again, and gets the same successor.
            for (first, second) in answers[16..24].iter().zip(&answers[40..]) {
                assert_eq!(text(&first.json, "refresh_token"), text(&second.json, "refresh_token"));
            }
            // What another client has is as good as stolen.
            assert_eq!(scene.revoked().await, revoked + 16);
            let next = answers[..24].iter().map(|answer| text(&answer.json, "refresh_token"));
            let next = next.chain(others.iter().map(String::as_str));
            let again = join_all(next.map(async |token| scene.redeem(WEB, &refreshing(token)).await)).await;
            answered(&again) && {
                assert_eq!((succeeded(&again[..24]), succeeded(&again[24..])), (24, 0));
                true
            }
        })
        .await;
        let standing = "SELECT COUNT(*) FROM grants WHERE revoked_at IS NULL AND generation = 3";
        assert!(number(&scene.server.place, standing).await >= 48);
    }

    /// Some of those that come together cannot be had now, or never: the others do not notice.
    async fn what_is_refused_to_some_is_not_refused_to_those_beside_them(engine) {
        let scene = Scene::new(engine).await;
        let people = people(&scene).await;
        decided(2, async |_| {
            let disabled = |who: &str| format!("UPDATE users SET disabled = {} WHERE sub = '{}'", who, people[7].sub);
            let mut codes = Vec::new();
            for at in 0..32 {
                let scope = if at % 4 == 0 { OPENID } else { "orders:read" };
                codes.push(code(&scene, &people[at % people.len()], scope).await);
            }
            execute(&scene.server.place, &disabled("TRUE")).await;
            // No key signs ID tokens at this moment.
            signs(&scene, "RS256", false).await;
            // Every second one is presented by two clients, before its own or after.
            let presented = codes.iter().enumerate().flat_map(|(at, code)| match at % 4 {
                1 => vec![(WEB, code), (OTHER, code)],
                2 => vec![(OTHER, code), (WEB, code)],
                _ => vec![(WEB, code)],
            });
            let answers = join_all(presented.map(async |(who, code)| {
                (who == WEB).then_some(scene.redeem(who, &redeeming(code)).await)
            }))
            .await;
            let answers: Vec<Answer> = answers.into_iter().flatten().collect();
            signs(&scene, "RS256", true).await;
            execute(&scene.server.place, &disabled("FALSE")).await;
            if answers.iter().enumerate().any(|(at, answer)| at % 4 != 0 && answer.status == 503) {
                return false;
            }
            for (at, answer) in answers.iter().enumerate() {
                match at {
                    at if at % 4 == 0 => answer.assert_error(503, "temporarily_unavailable"),
                    at if at % 8 == 7 => answer.assert_error(400, "invalid_grant"),
                    _ => assert_eq!(subject(answer, "access_token"), people[at % people.len()].sub),
                }
            }
            // What was refused for a reason that passed is good afterwards.
            let again = join_all(codes.iter().enumerate().filter(|(at, _)| at % 4 == 0 || at % 8 == 7).map(
                async |(_, code)| scene.redeem(WEB, &redeeming(code)).await,
            ))
            .await;
            if !answered(&again) {
                return false;
            }
            assert_eq!(succeeded(&again), 12);
            // Each answer with tokens has one event, and no refusal has one.
            let issued = "SELECT COUNT(*) - COUNT(DISTINCT object) FROM audit_events WHERE kind = 'tokens.issued'";
            assert_eq!(number(&scene.server.place, issued).await, 0);
            true
        })
        .await;
        let (used, issued) = (
            "SELECT COUNT(*) FROM grants WHERE code_used_at IS NOT NULL",
            "SELECT COUNT(*) FROM audit_events WHERE kind = 'tokens.issued'",
        );
        assert_eq!(number(&scene.server.place, used).await, number(&scene.server.place, issued).await);
    }
}
