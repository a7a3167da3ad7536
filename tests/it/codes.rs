//! Authorization codes: RFC 6749 §4.1.3, RFC 7636, RFC 9700; and what their grants are to tokens. The grants here are
//! written as the authorization endpoint writes them, so that these tests need no browser.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use sealwright::clock::{Clock, SECOND};
use sealwright::cx::Cx;
use sealwright::flow::Asked;
use sealwright::issue::{self, Facts};
use sealwright::nodes;
use sealwright::secret::{Id, Prefix, Secret, random, sha256};
use sealwright::session::SignIn;
use sealwright::store::grants::{self, NewGrant};
use sealwright::store::{Db, Location, Options};
use sealwright::wire::{EndGrants, ResponseMode};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _};

use crate::authorize::mutants;
use crate::process::{Node, Process};
use crate::support::{
    Answer, CHALLENGE, Engine, INTROSPECT, Place, REVOKE, SECRET, Server, TOKEN, VERIFIER, both, decided, part, rounds,
};

pub const CALLBACK: &str = "https://web.example.com/callback";
pub const WEB: (&str, &str) = ("web", SECRET);
pub const OTHER: (&str, &str) = ("other", SECRET);
pub const GATEWAY: (&str, &str) = ("gateway", SECRET);
pub const API: &str = "https://api.example.com";
pub const STOCK: &str = "https://stock.example.com";

pub const APPLIED: &str = r#"
[[resource]]
identifier = "https://api.example.com"
scopes = { "orders:read" = "Read orders", "orders:write" = "Change orders" }

[[resource]]
identifier = "https://stock.example.com"
scopes = { "stock:read" = "See the stock" }
access_token_format = "opaque"

[[client]]
client_id = "web"
grant_types = ["authorization_code", "refresh_token"]
redirect_uris = ["https://web.example.com/callback"]
client_secret = "imported-secret-of-at-least-32-characters"
scope = "openid offline_access orders:read orders:write stock:read"

[[client]]
client_id = "other"
grant_types = ["authorization_code", "refresh_token"]
redirect_uris = ["https://web.example.com/callback"]
client_secret = "imported-secret-of-at-least-32-characters"
scope = "openid offline_access orders:read"

[[client]]
client_id = "app"
token_endpoint_auth_method = "none"
application_type = "native"
grant_types = ["authorization_code", "refresh_token"]
redirect_uris = ["https://web.example.com/callback"]
scope = "openid offline_access orders:read"

[[client]]
client_id = "machine"
client_secret = "imported-secret-of-at-least-32-characters"
scope = "orders:read"

[[client]]
client_id = "gateway"
grant_types = []
client_secret = "imported-secret-of-at-least-32-characters"
serves = ["https://api.example.com", "https://stock.example.com"]
"#;

/// Runs a statement beside the server.
pub async fn execute(place: &Place, sql: &str) {
    let (url, sql) = (&place.url, AssertSqlSafe(sql.to_owned()));
    if url.starts_with("sqlite:") {
        let mut conn = sqlx::SqliteConnection::connect(url).await.unwrap();
        sqlx::query("PRAGMA busy_timeout = 20000").execute(&mut conn).await.unwrap();
        sqlx::query(sql).execute(&mut conn).await.unwrap();
    } else {
        let mut conn = sqlx::PgConnection::connect(url).await.unwrap();
        sqlx::query(sql).execute(&mut conn).await.unwrap();
    }
}

/// A number from the database.
pub async fn number(place: &Place, sql: &str) -> i64 {
    let (url, sql) = (&place.url, AssertSqlSafe(sql.to_owned()));
    if url.starts_with("sqlite:") {
        let mut conn = sqlx::SqliteConnection::connect(url).await.unwrap();
        sqlx::query_scalar(sql).fetch_one(&mut conn).await.unwrap()
    } else {
        let mut conn = sqlx::PgConnection::connect(url).await.unwrap();
        sqlx::query_scalar(sql).fetch_one(&mut conn).await.unwrap()
    }
}

/// A person who is signed in.
#[derive(Clone)]
pub struct Person {
    pub sub: String,
    pub sid: String,
}

impl Person {
    pub async fn new(place: &Place, now: i64) -> Self {
        let hex = format!("{:032x}", u128::from_be_bytes(random().unwrap()));
        let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
        let sub = parts.join("-");
        let sid = BASE64_URL_SAFE_NO_PAD.encode(random::<16>().unwrap());
        let user = format!(
            "INSERT INTO users (sub, username, username_key, profile, disabled, managed_by, created_at, updated_at) \
             VALUES ('{sub}', '{sub}', '{sub}', '{{\"name\": \"Ada\"}}', FALSE, 'apply', {now}, {now})"
        );
        execute(place, &user).await;
        let until = now + 3600 * SECOND;
        let sign_in = format!(
            "INSERT INTO sign_ins (sid, browser, sub, auth_time, amr, last_used_at, expires_at) \
             VALUES ('{sid}', '{sid}', '{sub}', {now}, '[\"pwd\"]', {now}, {until})"
        );
        execute(place, &sign_in).await;
        Self { sub, sid }
    }
}

/// What a person grants.
pub struct Granted {
    pub client_id: &'static str,
    pub scope: &'static str,
    pub resources: Vec<String>,
    pub challenge: Option<&'static str>,
    pub refresh: bool,
}

impl Default for Granted {
    fn default() -> Self {
        Self {
            client_id: "web",
            scope: "orders:read orders:write",
            resources: vec![API.to_owned()],
            challenge: Some(CHALLENGE),
            refresh: true,
        }
    }
}

/// A code for what `person` granted.
pub async fn code_for(db: &Db, now: i64, person: &Person, granted: Granted) -> String {
    grant_for(db, now, person, granted).await.1
}

async fn grant_for(db: &Db, now: i64, person: &Person, granted: Granted) -> (Id, String) {
    let id = random().unwrap();
    let code = Prefix::Code.generate().unwrap().expose().to_owned();
    let facts = Facts { auth_time: now / SECOND - 7, amr: vec!["pwd".into()], ..Facts::default() };
    let grant = NewGrant {
        id,
        client_id: granted.client_id.into(),
        sub: person.sub.clone(),
        sid: person.sid.clone(),
        scope: granted.scope.into(),
        resources: serde_json::to_string(&granted.resources).unwrap(),
        facts: serde_json::to_string(&facts).unwrap(),
        code_hash: sha256(code.as_bytes()),
        code_expires_at: now + 60 * SECOND,
        redirect_uri: CALLBACK.into(),
        challenge: granted.challenge.map(str::to_owned),
        generation: i64::from(granted.refresh),
    };
    let added = db.write(move |tx| Box::pin(async move { grants::add(tx, &grant).await })).await.unwrap();
    assert!(added.value, "signed in");
    (id, code)
}

/// The form by which a code is redeemed.
pub fn redeeming(code: &str) -> [(&str, &str); 4] {
    [("grant_type", "authorization_code"), ("code", code), ("redirect_uri", CALLBACK), ("code_verifier", VERIFIER)]
}

/// Takes the key that signs with `alg` away, or gives it back, as this node knows it.
pub async fn signs(scene: &Scene, alg: &str, does: bool) {
    let (from, to) = if does { ("retiring", "active") } else { ("active", "retiring") };
    let sql = format!("UPDATE signing_keys SET state = '{to}' WHERE alg = '{alg}' AND state = '{from}'");
    execute(&scene.server.place, &sql).await;
    let services = scene.server.services.clone();
    let read = services.clone();
    services.db.read(move |conn| Box::pin(async move { read.keys.reload(conn).await })).await.unwrap();
}

both! {
    /// An algorithm that was configured a moment ago has no key that signs yet.
    async fn what_cannot_be_signed_now_uses_up_no_code_and_no_refresh_token(engine) {
        let scene = Scene::new(engine).await;
        // The access token's, and the ID token's.
        for alg in ["EdDSA", "RS256"] {
            decided(1, async |_| {
                let granted = || Granted { scope: "openid orders:read", ..Granted::default() };
                let code = scene.code(granted()).await;
                signs(&scene, alg, false).await;
                let refused = scene.redeem(WEB, &redeeming(&code)).await;
                refused.assert_error(503, "temporarily_unavailable");
                assert!(refused.header("retry-after").is_some());
                signs(&scene, alg, true).await;
                let answer = scene.redeem(WEB, &redeeming(&code)).await;
                if answer.status == 503 {
                    return false;
                }
                assert_eq!(answer.status, 200, "{alg}: {}", answer.text);
                let refresh = answer.json["refresh_token"].as_str().unwrap();
                let generations = "SELECT CAST(SUM(generation) AS BIGINT) FROM grants";
                let (before, form) = (number(&scene.server.place, generations).await, [("grant_type", "refresh_token"), ("refresh_token", refresh)]);
                signs(&scene, "EdDSA", false).await;
                scene.redeem(WEB, &form).await.assert_error(503, "temporarily_unavailable");
                assert_eq!(number(&scene.server.place, generations).await, before);
                signs(&scene, "EdDSA", true).await;
                let answer = scene.redeem(WEB, &form).await;
                assert!([200, 503].contains(&answer.status), "{}", answer.text);
                answer.status == 200
            }).await;
        }
    }
}

/// A server with clients, a person, and a way to get codes.
pub struct Scene {
    pub server: Server,
    pub person: Person,
}

impl Scene {
    pub async fn new(engine: Engine) -> Self {
        Self::with(engine, |_| {}).await
    }

    pub async fn with(engine: Engine, change: impl FnOnce(&mut sealwright::config::Config)) -> Self {
        let server = Server::with(engine, change).await;
        server.apply(APPLIED).await;
        let person = Person::new(&server.place, server.clock.now()).await;
        Self { server, person }
    }

    pub async fn code(&self, granted: Granted) -> String {
        code_for(&self.server.services.db, self.server.clock.now(), &self.person, granted).await
    }

    pub async fn redeem(&self, who: (&str, &str), form: &[(&str, &str)]) -> Answer {
        self.server.post(TOKEN, Some(who), form).await
    }

    /// The same request 64 times at once. `None` when nobody can say who was first: a busy machine lost its lease, and
    /// what was used up was not answered.
    pub async fn race(&self, form: &[(&str, &str)]) -> Option<Vec<Answer>> {
        let answers = join_all((0..64).map(|_| self.redeem(WEB, form))).await;
        answers.iter().all(|answer| answer.status != 503).then_some(answers)
    }

    /// The answer to a code that is redeemed as it should be.
    pub async fn tokens(&self, granted: Granted) -> Value {
        loop {
            let code = self.code(Granted { resources: granted.resources.clone(), ..granted }).await;
            let answer = self.redeem(WEB, &redeeming(&code)).await;
            if answer.status != 503 {
                assert_eq!(answer.status, 200, "{}", answer.text);
                return answer.json;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn active(&self, token: &str) -> bool {
        loop {
            let answer = self.server.post(INTROSPECT, Some(GATEWAY), &[("token", token)]).await;
            if answer.status != 503 {
                assert_eq!(answer.status, 200, "{}", answer.text);
                return answer.json["active"].as_bool().unwrap();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// How many codes were used.
    pub async fn used(&self) -> i64 {
        number(&self.server.place, "SELECT COUNT(*) FROM grants WHERE code_used_at IS NOT NULL").await
    }

    pub async fn revoked(&self) -> i64 {
        number(&self.server.place, "SELECT COUNT(*) FROM grants WHERE revoked_at IS NOT NULL").await
    }
}

/// A token of an answer.
pub fn text<'j>(json: &'j Value, name: &str) -> &'j str {
    json[name].as_str().unwrap_or_else(|| panic!("no {name}: {json}"))
}

pub fn without<'f>(form: &[(&'f str, &'f str)], name: &str) -> Vec<(&'f str, &'f str)> {
    form.iter().copied().filter(|(known, _)| *known != name).collect()
}

pub fn with<'f>(form: &[(&'f str, &'f str)], name: &'f str, value: &'f str) -> Vec<(&'f str, &'f str)> {
    let mut changed = without(form, name);
    changed.push((name, value));
    changed
}

/// Made again where a busy machine has lost its lease.
async fn patiently(scene: &Scene, form: &[(&str, &str)]) -> Answer {
    loop {
        let answer = scene.redeem(WEB, form).await;
        if answer.status != 503 {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A code as the authorization endpoint makes it.
async fn issued(scene: &Scene, scope: &str, resources: Vec<String>) -> sealwright::error::Result<Secret> {
    issued_as_agreed(scene, (scope, resources), None).await
}

/// The same for a client that has to be agreed to, as what it was then.
async fn issued_as_agreed(
    scene: &Scene,
    (scope, resources): (&str, Vec<String>),
    agreed: Option<String>,
) -> sealwright::error::Result<Secret> {
    let services = &scene.server.services;
    let cx = Cx::new(services, std::net::Ipv4Addr::LOCALHOST.into(), "test".into());
    let client = services.clients.get("web").await.unwrap().unwrap();
    let asked = Asked {
        client_id: "web".into(),
        redirect_uri: CALLBACK.into(),
        response_mode: ResponseMode::Query,
        state: None,
        scope: scope.parse().unwrap(),
        resources,
        code_challenge: Some(CHALLENGE.into()),
        nonce: Some("n-1".into()),
        prompt: Vec::new(),
        max_age: None,
        login_hint: None,
        sub: None,
        ui_locales: Vec::new(),
        claims: sealwright::claims::ClaimsRequest::default(),
    };
    let sign_in = SignIn {
        username: String::new(),
        sid: scene.person.sid.clone(),
        sub: scene.person.sub.clone(),
        auth_time: cx.now - 5 * SECOND,
        acr: Some("1".into()),
        amr: vec!["pwd".into()],
        last_used_at: cx.now,
    };
    issue::code(&cx, &client, &asked, &sign_in, agreed).await
}

both! {
    async fn rfc6749_4_1_3_a_code_brings_tokens_of_the_person(engine) {
        let scene = Scene::new(engine).await;
        let before = scene.server.clock.now() / SECOND;
        let code = issued(&scene, "orders:read offline_access", vec![API.into()]).await.unwrap();
        let answer = scene.redeem(WEB, &redeeming(code.expose())).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.json["token_type"], "Bearer");
        assert_eq!(answer.json["expires_in"], 300);
        assert!(answer.json.get("id_token").is_none(), "nobody asked for openid");
        let claims = part(text(&answer.json, "access_token"), 1);
        assert_eq!(part(text(&answer.json, "access_token"), 0)["typ"], "at+jwt");
        assert_eq!(claims["sub"], scene.person.sub.as_str());
        assert_eq!(claims["client_id"], "web");
        assert_eq!(claims["aud"], API);
        assert_eq!(claims["acr"], "1");
        assert!((before - 6..=before + 60).contains(&claims["auth_time"].as_i64().unwrap()));
        let jti = BASE64_URL_SAFE_NO_PAD.decode(claims["jti"].as_str().unwrap()).unwrap();
        assert_eq!(jti.len(), 24);
        let grant = BASE64_URL_SAFE_NO_PAD.encode(&jti[..16]);
        for kind in ["grant.made", "tokens.issued"] {
            let sql = format!("SELECT COUNT(*) FROM audit_events WHERE kind = '{kind}' AND object = '{grant}'");
            assert_eq!(number(&scene.server.place, &sql).await, 1, "{kind}");
        }
        let refresh = text(&answer.json, "refresh_token");
        assert!(refresh.starts_with("swr_") && refresh.len() == 74, "{}", refresh.len());
        assert!(scene.active(text(&answer.json, "access_token")).await);
    }

    /// An overload is refused before anything is used up: here, every place for a slow signature is another's.
    async fn a_code_survives_a_full_signing_queue(engine) {
        let scene = Scene::new(engine).await;
        let slow_api = APPLIED.replacen("[[client]]", "[[resource]]\nidentifier = \"https://slow.example.com\"\n\
            scopes = { \"slow:read\" = \"Wait\" }\naccess_token_signed_response_alg = \"RS256\"\n\n[[client]]", 1);
        // One that needs one slow signature at most, for the ID token; and one that may need two.
        scene.server.apply(&slow_api.replacen("orders:write stock:read\"", "orders:write slow:read\"", 1)).await;
        let services = &scene.server.services;
        let signer = services.keys.ring().active(sealwright::wire::Algorithm::Rs256).unwrap().clone();
        let mut places = Vec::new();
        while let Ok(place) = signer.place() {
            places.push(place.expect("RS256 is slow"));
        }
        let refused = async |who: (&str, &str), code: &str| {
            let answer = scene.redeem(who, &redeeming(code)).await;
            answer.assert_error(503, "temporarily_unavailable");
            assert_eq!(answer.header("retry-after"), Some("1"));
            assert_eq!(scene.used().await, 0);
        };
        let slow = ["https://slow.example.com".to_owned()].to_vec();
        let two = scene.code(Granted { scope: "openid slow:read", resources: slow, ..Granted::default() }).await;
        let one = Granted { client_id: "other", scope: "openid orders:read", ..Granted::default() };
        let one = scene.code(one).await;
        refused(WEB, &two).await;
        refused(OTHER, &one).await;
        places.pop();
        refused(WEB, &two).await;
        for (who, code) in [(OTHER, one), (WEB, two)] {
            let redeemed = scene.redeem(who, &redeeming(&code)).await;
            assert_eq!(redeemed.status, 200, "{}", redeemed.text);
            assert_eq!(part(text(&redeemed.json, "id_token"), 0)["alg"], "RS256");
            places.pop();
        }
        // Those for which they were kept give them back, used or not.
        assert!(signer.place().is_ok());
    }

    async fn a_sign_in_that_ended_makes_no_code(engine) {
        let scene = Scene::new(engine).await;
        // Between the look at it and the code: run out, or gone.
        for end in ["UPDATE sign_ins SET expires_at = 1", "DELETE FROM sign_ins"] {
            execute(&scene.server.place, end).await;
            let refused = issued(&scene, "orders:read", vec![API.into()]).await.unwrap_err();
            assert_eq!(refused.code.as_str(), "login_required");
            assert_eq!(number(&scene.server.place, "SELECT COUNT(*) FROM grants").await, 0);
        }
    }

    /// T-155: the consent is looked at once more where the code is made.
    async fn t155_a_code_is_made_only_while_the_consent_stands(engine) {
        let scene = Scene::new(engine).await;
        let sub = &scene.person.sub;
        let consent = |resource: &str, identity: &str| {
            format!(
                "INSERT INTO consents (sub, client_id, resource, scope, claims, identity, granted_at) \
                 VALUES ('{sub}', 'web', '{resource}', 'orders:read', '[]', '{identity}', 1)"
            )
        };
        let asks = || issued_as_agreed(&scene, ("orders:read", vec![API.into()]), Some("as it is".into()));
        let none = async || {
            let refused = asks().await.unwrap_err();
            assert_eq!(refused.code.as_str(), "consent_required");
            let (grants, events) = ("SELECT COUNT(*) FROM grants", "SELECT COUNT(*) FROM audit_events WHERE kind = 'grant.made'");
            assert_eq!((number(&scene.server.place, grants).await, number(&scene.server.place, events).await), (0, 0));
        };
        none().await;
        scene.server.place.run(&consent("https://b.example", "as it was")).await;
        none().await;
        for resource in [API, "https://c.example"] {
            scene.server.place.run(&consent(resource, "as it is")).await;
        }
        assert!(asks().await.is_ok());
    }

    async fn of_more_than_a_hundred_grants_to_one_client_the_oldest_ends(engine) {
        let scene = Scene::new(engine).await;
        let (oldest, second) = (scene.tokens(Granted::default()).await, Granted { client_id: "other", ..Granted::default() });
        scene.code(second).await;
        scene.server.clock.advance(Duration::from_secs(1));
        let next = scene.tokens(Granted::default()).await;
        scene.server.clock.advance(Duration::from_secs(1));
        // Codes that nobody redeems cost nobody what was redeemed: any page can send a browser here for them.
        for _ in 0..150 {
            scene.code(Granted::default()).await;
        }
        issued(&scene, "orders:read", vec![API.into()]).await.unwrap();
        assert_eq!(scene.revoked().await, 51, "the oldest of the codes, of this client alone");
        assert!(scene.active(text(&oldest, "access_token")).await && scene.active(text(&next, "access_token")).await);
        // 99 of those that wait are redeemed: with the two before, one too many.
        let most = "UPDATE grants SET code_used_at = created_at WHERE id IN (SELECT id FROM grants WHERE client_id = 'web' \
                    AND revoked_at IS NULL AND code_used_at IS NULL ORDER BY id LIMIT 99)";
        scene.server.place.run(most).await;
        issued(&scene, "orders:read", vec![API.into()]).await.unwrap();
        assert_eq!(scene.revoked().await, 52, "the oldest of those redeemed");
        assert!(!scene.active(text(&oldest, "access_token")).await && scene.active(text(&next, "access_token")).await);
    }

    async fn a_refresh_token_comes_for_offline_access_or_by_the_clients_setting(engine) {
        let scene = Scene::new(engine).await;
        let refreshes = async || {
            let code = issued(&scene, "orders:read", vec![API.into()]).await.unwrap();
            let answer = scene.redeem(WEB, &redeeming(code.expose())).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
            answer.json.get("refresh_token").is_some()
        };
        assert!(!refreshes().await);
        scene.server.apply(&APPLIED.replacen("client_id = \"web\"", "client_id = \"web\"\nalways_refresh_token = true", 1)).await;
        assert!(refreshes().await);
        let plain = "client_id = \"web\"\nalways_refresh_token = true\ngrant_types = [\"authorization_code\"]";
        let both = "client_id = \"web\"\ngrant_types = [\"authorization_code\", \"refresh_token\"]";
        scene.server.apply(&APPLIED.replacen(both, plain, 1)).await;
        assert!(!refreshes().await, "what it could not use");
    }

    async fn t10_t12_without_the_verifier_nothing_and_one_wrong_verifier_kills_the_code(engine) {
        let scene = Scene::new(engine).await;
        let (short, long) = ("a".repeat(42), "a".repeat(129));
        let wrong = "wrong-verifier-wrong-verifier-wrong-verifier";
        let plain = format!("{VERIFIER}\u{e4}");
        for bad in [None, Some(wrong), Some(CHALLENGE), Some(&short), Some(&long), Some(&plain)] {
            let code = scene.code(Granted::default()).await;
            let form = redeeming(&code);
            let form = bad.map_or_else(|| without(&form, "code_verifier"), |bad| with(&form, "code_verifier", bad));
            scene.redeem(WEB, &form).await.assert_error(400, "invalid_grant");
            scene.redeem(WEB, &redeeming(&code)).await.assert_error(400, "invalid_grant");
        }
        assert_eq!(scene.used().await, 6);
    }

    async fn t11_a_verifier_without_a_challenge_is_refused(engine) {
        let scene = Scene::new(engine).await;
        let code = scene.code(Granted { challenge: None, ..Granted::default() }).await;
        scene.redeem(WEB, &redeeming(&code)).await.assert_error(400, "invalid_grant");
        let code = scene.code(Granted { challenge: None, ..Granted::default() }).await;
        let answer = scene.redeem(WEB, &without(&redeeming(&code), "code_verifier")).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }

    async fn t13_another_client_gets_nothing_and_burns_nothing(engine) {
        let scene = Scene::new(engine).await;
        let code = scene.code(Granted::default()).await;
        scene.redeem(OTHER, &redeeming(&code)).await.assert_error(400, "invalid_grant");
        let public = with(&redeeming(&code), "client_id", "app");
        scene.server.post(TOKEN, None, &public).await.assert_error(400, "invalid_grant");
        scene.redeem(("web", "wrong"), &redeeming(&code)).await.assert_error(401, "invalid_client");
        // T-31: two names for one caller.
        let answer = scene.redeem(WEB, &with(&redeeming(&code), "client_id", "other")).await;
        assert!(matches!(answer.json["error"].as_str(), Some("invalid_request" | "invalid_client")), "{}", answer.text);
        let machine = scene.redeem(("machine", SECRET), &redeeming(&code)).await;
        machine.assert_error(400, "unauthorized_client");
        assert_eq!((scene.used().await, scene.revoked().await), (0, 0));
        assert_eq!(scene.redeem(WEB, &redeeming(&code)).await.status, 200);
        // Used, it is still nothing to another client: nobody can take others' grants back.
        scene.redeem(OTHER, &redeeming(&code)).await.assert_error(400, "invalid_grant");
        assert_eq!(scene.revoked().await, 0);
    }

    async fn t13_the_redirect_uri_is_that_of_the_authorization_request(engine) {
        let scene = Scene::new(engine).await;
        let code = scene.code(Granted::default()).await;
        let missing = scene.redeem(WEB, &without(&redeeming(&code), "redirect_uri")).await;
        missing.assert_error(400, "invalid_request");
        assert_eq!(scene.used().await, 0);
        assert_eq!(scene.redeem(WEB, &redeeming(&code)).await.status, 200);
        for bad in ["https://web.example.com/callback/", "https://web.example.com/Callback", "https://evil.example.com"] {
            let code = scene.code(Granted::default()).await;
            scene.redeem(WEB, &with(&redeeming(&code), "redirect_uri", bad)).await.assert_error(400, "invalid_grant");
            scene.redeem(WEB, &redeeming(&code)).await.assert_error(400, "invalid_grant");
        }
    }

    /// The redirect verdict table at the token endpoint: what is not byte for byte that of the request gets nothing, and
    /// uses the code up.
    async fn t01_t13_only_the_redirect_uri_itself_redeems_a_code(engine) {
        let scene = Scene::new(engine).await;
        let bad: Vec<String> = mutants(CALLBACK).into_iter().collect();
        let mut refused = 0;
        for uri in bad.iter().step_by(3) {
            let code = scene.code(Granted::default()).await;
            let answer = patiently(&scene, &with(&redeeming(&code), "redirect_uri", uri)).await;
            assert_eq!(answer.status, 400, "{uri:?}: {}", answer.text);
            assert!(answer.json.get("access_token").is_none() && !answer.text.contains("evil"), "{uri:?}");
            // What no parameter can be uses nothing up.
            let used = answer.json["error"] == "invalid_grant";
            let then = patiently(&scene, &redeeming(&code)).await;
            assert_eq!(then.status, if used { 400 } else { 200 }, "{uri:?}: {}", answer.text);
            refused += usize::from(used);
        }
        assert!(refused >= 300, "{refused}");
    }

    async fn a_code_lives_60_seconds(engine) {
        let scene = Scene::new(engine).await;
        let (late, soon) = (scene.code(Granted::default()).await, scene.code(Granted::default()).await);
        scene.server.clock.advance(Duration::from_secs(30));
        assert_eq!(scene.redeem(WEB, &redeeming(&soon)).await.status, 200);
        scene.server.clock.advance(Duration::from_secs(31));
        scene.redeem(WEB, &redeeming(&late)).await.assert_error(400, "invalid_grant");
        let missing = scene.redeem(WEB, &[("grant_type", "authorization_code"), ("redirect_uri", CALLBACK)]).await;
        missing.assert_error(400, "invalid_request");
        let garbage = scene.redeem(WEB, &redeeming("garbage")).await;
        garbage.assert_error(400, "invalid_grant");
    }

    async fn t29_a_code_used_again_takes_back_what_it_brought_on_every_node(engine) {
        let scene = Scene::new(engine).await;
        let second = match engine {
            Engine::Sqlite => None,
            Engine::Postgres => Some(scene.server.another().await),
        };
        let mut other = Granted::default();
        other.resources.clear();
        let code = scene.code(Granted::default()).await;
        let tokens = scene.redeem(WEB, &redeeming(&code)).await.json;
        let refresh = [("grant_type", "refresh_token"), ("refresh_token", text(&tokens, "refresh_token"))];
        let rotated = scene.redeem(WEB, &refresh).await.json;
        let bystander = scene.tokens(Granted::default()).await;
        for token in [&tokens, &rotated, &bystander] {
            assert!(scene.active(text(token, "access_token")).await);
        }
        // A wrong verifier is reuse, too.
        let again = with(&redeeming(&code), "code_verifier", "wrong-verifier-wrong-verifier-wrong-verifier");
        scene.redeem(WEB, &again).await.assert_error(400, "invalid_grant");
        for token in [&tokens, &rotated] {
            assert!(!scene.active(text(token, "access_token")).await);
            if let Some(second) = &second {
                let asked = second.post(INTROSPECT, Some(GATEWAY), &[("token", text(token, "access_token"))]).await;
                assert_eq!(asked.json["active"], false, "{}", asked.text);
            }
            let refresh = [("grant_type", "refresh_token"), ("refresh_token", text(token, "refresh_token"))];
            scene.redeem(WEB, &refresh).await.assert_error(400, "invalid_grant");
        }
        assert!(scene.active(text(&bystander, "access_token")).await);
        let refresh = [("grant_type", "refresh_token"), ("refresh_token", text(&bystander, "refresh_token"))];
        assert_eq!(scene.redeem(WEB, &refresh).await.status, 200);
        let sql = "SELECT COUNT(*) FROM audit_events WHERE kind = 'grant.revoked'";
        assert_eq!(number(&scene.server.place, sql).await, 1);
    }

    async fn rfc8707_2_2_resources_narrow_the_token_and_never_widen_it(engine) {
        let scene = Scene::new(engine).await;
        let userinfo = format!("{}/userinfo", scene.server.issuer);
        let granted = || Granted {
            scope: "openid orders:read stock:read",
            resources: vec![API.into(), STOCK.into(), userinfo.clone()],
            ..Granted::default()
        };
        // A JWT for the one and a reference for the other: no one token can be both.
        let code = scene.code(Granted { scope: "orders:read stock:read", ..granted() }).await;
        scene.redeem(WEB, &redeeming(&code)).await.assert_error(400, "invalid_target");
        let granted = || Granted { scope: "orders:read stock:read", ..granted() };
        let code = scene.code(granted()).await;
        let answer = scene.redeem(WEB, &with(&redeeming(&code), "resource", API)).await;
        assert_eq!((answer.json["scope"].as_str(), answer.status), (Some("orders:read"), 200), "{}", answer.text);
        assert_eq!(part(text(&answer.json, "access_token"), 1)["aud"], API);
        // The refresh token stands for all of it.
        let refresh = text(&answer.json, "refresh_token");
        let form = [("grant_type", "refresh_token"), ("refresh_token", refresh), ("resource", STOCK)];
        let answer = scene.redeem(WEB, &form).await;
        assert_eq!((answer.json["scope"].as_str(), answer.status), (Some("stock:read"), 200), "{}", answer.text);
        assert!(text(&answer.json, "access_token").starts_with("swa_") && scene.active(text(&answer.json, "access_token")).await);
        let code = scene.code(Granted::default()).await;
        scene.redeem(WEB, &with(&redeeming(&code), "resource", STOCK)).await.assert_error(400, "invalid_target");
        let code = scene.code(Granted::default()).await;
        scene.redeem(WEB, &with(&redeeming(&code), "resource", "not a uri")).await.assert_error(400, "invalid_target");
    }

    async fn t46_who_is_switched_off_gets_nothing_by_any_code(engine) {
        let scene = Scene::new(engine).await;
        let (code, other) = (scene.code(Granted::default()).await, scene.code(Granted::default()).await);
        execute(&scene.server.place, "UPDATE users SET disabled = TRUE").await;
        scene.redeem(WEB, &redeeming(&code)).await.assert_error(400, "invalid_grant");
        assert_eq!((scene.used().await, scene.revoked().await), (0, 0));
        execute(&scene.server.place, "UPDATE users SET disabled = FALSE").await;
        assert_eq!(scene.redeem(WEB, &redeeming(&code)).await.status, 200);
        scene.server.apply(&APPLIED.replacen("client_id = \"web\"", "client_id = \"web\"\ndisabled = true", 1)).await;
        scene.redeem(WEB, &redeeming(&other)).await.assert_error(401, "invalid_client");
    }

    async fn t46_everything_of_a_person_is_taken_back_at_once(engine) {
        let scene = Scene::new(engine).await;
        let (tokens, code) = (scene.tokens(Granted::default()).await, scene.code(Granted::default()).await);
        let opaque = scene.tokens(Granted { scope: "stock:read", resources: vec![STOCK.into()], ..Granted::default() }).await;
        let stranger = Person::new(&scene.server.place, scene.server.clock.now()).await;
        let services = &scene.server.services;
        let theirs = code_for(&services.db, scene.server.clock.now(), &stranger, Granted::default()).await;
        let (sub, actor) = (scene.person.sub.clone(), sealwright::audit::Actor::system());
        let revoking = services.db.write(move |tx| Box::pin(async move { issue::revoke_of_user(tx, &sub, &actor).await }));
        nodes::acted_on(services, revoking.await.unwrap().seq.unwrap()).await.unwrap();
        for dead in [&tokens, &opaque] {
            assert!(!scene.active(text(dead, "access_token")).await);
            let refresh = [("grant_type", "refresh_token"), ("refresh_token", text(dead, "refresh_token"))];
            scene.redeem(WEB, &refresh).await.assert_error(400, "invalid_grant");
        }
        scene.redeem(WEB, &redeeming(&code)).await.assert_error(400, "invalid_grant");
        let theirs = scene.redeem(WEB, &redeeming(&theirs)).await;
        assert!(scene.active(text(&theirs.json, "access_token")).await);
    }

    async fn what_came_of_a_sign_in_ends_with_it_but_for_offline_access(engine) {
        let scene = Scene::new(engine).await;
        let (short, waiting) = (scene.tokens(Granted::default()).await, scene.code(Granted::default()).await);
        let long = scene.tokens(Granted { scope: "orders:read offline_access", ..Granted::default() }).await;
        let services = &scene.server.services;
        let sid = scene.person.sid.clone();
        let actor = sealwright::audit::Actor::system();
        let ending = services.db.write(move |tx| Box::pin(async move { issue::revoke_of_session(tx, &sid, EndGrants::Online, &actor).await }));
        nodes::acted_on(services, ending.await.unwrap().seq.unwrap()).await.unwrap();
        assert!(!scene.active(text(&short, "access_token")).await);
        scene.redeem(WEB, &redeeming(&waiting)).await.assert_error(400, "invalid_grant");
        for (tokens, status) in [(&short, 400), (&long, 200)] {
            let refresh = [("grant_type", "refresh_token"), ("refresh_token", text(tokens, "refresh_token"))];
            assert_eq!(scene.redeem(WEB, &refresh).await.status, status);
        }
        assert!(scene.active(text(&long, "access_token")).await);
    }

    async fn t22_an_artefact_of_one_kind_is_nothing_to_another(engine) {
        let scene = Scene::new(engine).await;
        let tokens = scene.tokens(Granted::default()).await;
        let opaque = scene.tokens(Granted { scope: "stock:read", resources: vec![STOCK.into()], ..Granted::default() }).await;
        let code = scene.code(Granted::default()).await;
        let access = text(&tokens, "access_token");
        let jti = part(access, 1)["jti"].as_str().unwrap().to_owned();
        let kinds: BTreeMap<&str, &str> = [
            ("code", code.as_str()),
            ("refresh", text(&tokens, "refresh_token")),
            ("access", access),
            ("opaque", text(&opaque, "access_token")),
            ("jti", &jti),
            ("secret", SECRET),
            ("sid", &scene.person.sid),
            ("verifier", VERIFIER),
        ]
        .into();
        for (kind, value) in &kinds {
            if *kind != "code" {
                scene.redeem(WEB, &redeeming(value)).await.assert_error(400, "invalid_grant");
            }
            if *kind != "refresh" {
                let form = [("grant_type", "refresh_token"), ("refresh_token", *value)];
                scene.redeem(WEB, &form).await.assert_error(400, "invalid_grant");
                // With the other's prefix it is nothing either.
                let renamed = format!("swr_{}", value.get(4..).unwrap_or_default());
                let form = [("grant_type", "refresh_token"), ("refresh_token", renamed.as_str())];
                scene.redeem(WEB, &form).await.assert_error(400, "invalid_grant");
            }
            if !["access", "opaque", "refresh"].contains(kind) {
                let answer = scene.server.post(INTROSPECT, Some(WEB), &[("token", value)]).await;
                assert_eq!(answer.json["active"], false, "{kind}");
                assert_eq!(scene.server.post(REVOKE, Some(WEB), &[("token", value)]).await.status, 200);
            }
        }
        assert_eq!(scene.revoked().await, 0);
        assert_eq!(scene.redeem(WEB, &redeeming(&code)).await.status, 200);
    }

    async fn what_came_of_a_sign_in_that_ran_out_ends_with_it(engine) {
        let scene = Scene::new(engine).await;
        let tokens = scene.tokens(Granted::default()).await;
        let refresh = [("grant_type", "refresh_token"), ("refresh_token", text(&tokens, "refresh_token"))];
        sealwright::jobs::sweep_once(&scene.server.services).await.unwrap();
        assert_eq!(number(&scene.server.place, "SELECT COUNT(*) FROM grants WHERE revoked_at IS NULL").await, 1);
        execute(&scene.server.place, "UPDATE sign_ins SET expires_at = 1").await;
        sealwright::jobs::sweep_once(&scene.server.services).await.unwrap();
        scene.redeem(WEB, &refresh).await.assert_error(400, "invalid_grant");
    }

    async fn grants_that_are_good_for_nothing_are_swept(engine) {
        let scene = Scene::new(engine).await;
        scene.code(Granted::default()).await;
        scene.tokens(Granted { refresh: false, ..Granted::default() }).await;
        scene.tokens(Granted::default()).await;
        // Signed in, and at it, for longer than all of this takes.
        let later = "UPDATE sign_ins SET expires_at = expires_at + 9000000000000, last_used_at = last_used_at + 9000000000000";
        execute(&scene.server.place, later).await;
        let left = async |after: u64| {
            scene.server.clock.advance(Duration::from_secs(after));
            sealwright::jobs::sweep_once(&scene.server.services).await.unwrap();
            number(&scene.server.place, "SELECT COUNT(*) FROM grants").await
        };
        assert_eq!(left(0).await, 3);
        // As long as an access token may live, what gave it is known.
        assert_eq!(left(3600).await, 3);
        assert_eq!(left(86_400).await, 1, "the code that nobody redeemed, and what has no refresh token");
        assert_eq!(left(30 * 86_400).await, 0, "what was idle too long");
    }

    async fn race_one_code_64_times_at_once_one_winner_and_the_grant_is_taken_back(engine) {
        let scene = Scene::new(engine).await;
        decided(rounds(50), async |round| {
            let code = scene.code(Granted::default()).await;
            let form = redeeming(&code);
            let Some(answers) = scene.race(&form).await else { return false };
            let won: Vec<_> = answers.iter().filter(|answer| answer.status == 200).collect();
            assert_eq!(won.len(), 1, "round {round}");
            for lost in answers.iter().filter(|answer| answer.status != 200) {
                lost.assert_error(400, "invalid_grant");
            }
            assert!(!scene.active(text(&won[0].json, "access_token")).await, "round {round}");
            let refresh = [("grant_type", "refresh_token"), ("refresh_token", text(&won[0].json, "refresh_token"))];
            scene.redeem(WEB, &refresh).await.assert_error(400, "invalid_grant");
            true
        }).await;
    }

    /// OpenID Connect Core §2, §3.1.3.3.
    async fn oidc_core_2_the_id_token_says_who_signed_in(engine) {
        let scene = Scene::new(engine).await;
        let userinfo = format!("{}/userinfo", scene.server.issuer);
        let code = issued(&scene, "openid orders:read offline_access", vec![API.into(), userinfo]).await.unwrap();
        let answer = scene.redeem(WEB, &redeeming(code.expose())).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let (token, access) = (text(&answer.json, "id_token"), text(&answer.json, "access_token"));
        assert_eq!((part(token, 0)["alg"].as_str(), part(token, 0)["typ"].as_str()), (Some("RS256"), Some("JWT")));
        let claims = part(token, 1);
        assert_eq!(claims["iss"], scene.server.issuer.as_str());
        assert_eq!(claims["sub"], scene.person.sub.as_str());
        assert_eq!((&claims["aud"], &claims["azp"]), (&"web".into(), &"web".into()));
        assert_eq!((&claims["nonce"], &claims["acr"]), (&"n-1".into(), &"1".into()));
        assert_eq!(claims["amr"], serde_json::json!(["pwd"]));
        assert_eq!(claims["sid"], scene.person.sid.as_str());
        assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 300);
        assert_eq!(claims["at_hash"], BASE64_URL_SAFE_NO_PAD.encode(&sha256(access.as_bytes())[..16]));
        assert!(claims["auth_time"].is_i64() && claims.get("name").is_none());
        // T-64: it is no access token.
        assert!(!scene.active(token).await);
        let refresh = [("grant_type", "refresh_token"), ("refresh_token", text(&answer.json, "refresh_token"))];
        let refreshed = scene.redeem(WEB, &refresh).await;
        assert!(refreshed.json.get("id_token").is_none(), "only where the client wants it");
        scene.server.apply(&APPLIED.replacen("client_id = \"web\"", "client_id = \"web\"\nid_token_on_refresh = true", 1)).await;
        let refresh = [("grant_type", "refresh_token"), ("refresh_token", text(&refreshed.json, "refresh_token"))];
        let again = part(text(&scene.redeem(WEB, &refresh).await.json, "id_token"), 1);
        assert_eq!((&again["sub"], &again["auth_time"], &again["sid"]), (&claims["sub"], &claims["auth_time"], &claims["sid"]));
        assert!(again.get("nonce").is_none());
    }
}

both! {
    /// RS256 where a client says nothing (OpenID Connect Core §2), and what it has registered where it does; the hash of
    /// the access token is by the same algorithm's.
    async fn oidc_core_2_the_id_tokens_algorithm_is_the_clients(engine) {
        let scene = Scene::new(engine).await;
        for (algorithm, hash) in [("", 16), ("ES256", 16), ("PS256", 16), ("EdDSA", 32), ("RS256", 16)] {
            let line = format!("client_id = \"web\"\nid_token_signed_response_alg = {algorithm:?}");
            let line = if algorithm.is_empty() { "client_id = \"web\"" } else { &line };
            scene.server.apply(&APPLIED.replacen("client_id = \"web\"", line, 1)).await;
            let tokens = scene.tokens(Granted { scope: "openid orders:read", ..Granted::default() }).await;
            let (token, access) = (text(&tokens, "id_token"), text(&tokens, "access_token"));
            assert_eq!(part(token, 0)["alg"], if algorithm.is_empty() { "RS256" } else { algorithm });
            let jws = sealwright::keys::Jws::parse(token, 16_384).unwrap();
            assert!(scene.server.services.keys.ring().verify_own(&jws).is_ok(), "{algorithm}");
            let hashed = if hash == 16 { sha256(access.as_bytes())[..16].to_vec() } else {
                aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA512, access.as_bytes()).as_ref()[..32].to_vec()
            };
            assert_eq!(part(token, 1)["at_hash"], BASE64_URL_SAFE_NO_PAD.encode(hashed), "{algorithm}");
        }
    }
}

/// A database that processes serve, and a person in it.
pub struct Shared {
    pub node: Node,
    pub db: Db,
    pub person: Person,
}

impl Shared {
    pub async fn new(engine: Engine) -> Self {
        let node = Node::new(engine).await;
        node.apply(APPLIED);
        let location = match engine {
            Engine::Sqlite => Location::Sqlite(node.place.folder.join("test.db")),
            Engine::Postgres => Location::Postgres(Secret::new(&node.place.url)),
        };
        let options = Options { location, max_connections: 1, deadline: Duration::from_secs(20) };
        let db = Db::open(options, Clock::system()).await.unwrap();
        let person = Person::new(&node.place, Clock::system().now()).await;
        Self { node, db, person }
    }

    pub async fn code(&self) -> String {
        self.grant().await.1
    }

    /// The id of a grant, and its code.
    pub async fn grant(&self) -> (Id, String) {
        grant_for(&self.db, Clock::system().now(), &self.person, Granted::default()).await
    }
}

/// A request that is made again where a busy machine has lost its lease: nothing was used up then.
pub async fn patient(server: &Process, path: &str, who: (&str, &str), form: &[(&str, &str)]) -> Answer {
    loop {
        let answer = server.post(path, Some(who), form).await;
        if answer.status != 503 {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
