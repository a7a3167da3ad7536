use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::clock::Clock;
use crate::password::{HashSettings, PasswordHasher};
use crate::secret::{Prefix, Secret};
use crate::store::clients::{ClientRow, CredentialRow};
use crate::store::{Db, Location, audit, clients, feed};

/// As it stands in issue 2.
const EXAMPLE: &str = r#"
    [[resource]]
    identifier = "https://api.example.com"
    name = "Orders API"
    scopes = { "orders:read" = "Read orders", "orders:write" = "Change orders" }
    access_token_lifetime = 300
    access_token_signed_response_alg = "EdDSA"

    [[client]]
    client_id = "orders-sync"
    client_name = "Orders sync"
    grant_types = ["client_credentials"]
    token_endpoint_auth_method = "client_secret_basic"
    client_secret = "imported-secret-of-at-least-32-characters"   # leave out to have one generated
    scope = "orders:read orders:write"
    resources = ["https://api.example.com"]

    [[client]]
    client_id = "edge-gateway"
    token_endpoint_auth_method = "client_secret_basic"
    grant_types = []
    serves = ["https://api.example.com"]        # may introspect tokens for this audience
"#;

const IMPORTED: &str = "imported-secret-of-at-least-32-characters";
const ED25519: &str =
    r#"{ kty = "OKP", crv = "Ed25519", kid = "k1", x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" }"#;
const THUMBPRINT: &str = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";

struct Fixture {
    db: Db,
    passwords: PasswordHasher,
    folder: PathBuf,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

const OPTIONS: Options<'static> = Options {
    prune: false,
    max_lifetime: 3600,
    algorithms: &[Algorithm::EdDsa, Algorithm::Rs256],
    min_password_length: 15,
    allow_http: false,
    issuer: "https://id.example.com",
    service: "Sealwright",
};
const PRUNE: Options<'static> = Options { prune: true, ..OPTIONS };

fn toml(text: &str) -> ApplyFile {
    parse(text, Format::Toml).unwrap()
}

impl Fixture {
    async fn new() -> Self {
        let folder = std::env::temp_dir()
            .join(format!("sealwright-apply-{:x}", u128::from_be_bytes(crate::secret::random().unwrap())));
        std::fs::create_dir(&folder).unwrap();
        let options = crate::store::Options {
            location: Location::Sqlite(folder.join("test.db")),
            max_connections: 4,
            deadline: Duration::from_secs(5),
        };
        let db = Db::open(options, Clock::system()).await.unwrap();
        db.migrate().await.unwrap();
        let settings = HashSettings { memory_kib: 64, iterations: 1, concurrency: 2, queue: 8 };
        Self { db, passwords: PasswordHasher::new(settings).unwrap(), folder }
    }

    async fn with(text: &str) -> Self {
        let new = Self::new().await;
        new.apply(text).await;
        new
    }

    async fn plan(&self, text: &str, options: &Options<'_>) -> Result<Plan, Failed> {
        plan(&self.db, &toml(text), options, &self.passwords).await
    }

    async fn apply_with(&self, text: &str, options: &Options<'_>) -> (String, Applied) {
        let plan = self.plan(text, options).await.unwrap();
        let shown = plan.to_string();
        (shown, commit(&self.db, plan, &self.passwords).await.unwrap())
    }

    async fn apply(&self, text: &str) -> (String, Applied) {
        self.apply_with(text, &OPTIONS).await
    }

    async fn problems(&self, text: &str, options: &Options<'_>) -> Vec<String> {
        match self.plan(text, options).await {
            Err(Failed::Problems(problems)) => problems.iter().map(Problem::to_string).collect(),
            other => panic!("{other:?}"),
        }
    }

    async fn client(&self, client_id: &str) -> Option<(ClientRow, Vec<CredentialRow>)> {
        clients::find(&mut self.db.reader().await.unwrap(), client_id).await.unwrap()
    }

    /// (label, kind, id) of a client's credentials, by label.
    async fn credentials(&self, client_id: &str) -> Vec<(String, String, Vec<u8>)> {
        let (_, rows) = self.client(client_id).await.unwrap();
        let mut rows: Vec<_> = rows.into_iter().map(|row| (row.label, row.kind, row.id)).collect();
        rows.sort();
        rows
    }

    async fn head(&self) -> i64 {
        feed::head(&mut self.db.reader().await.unwrap()).await.unwrap()
    }

    async fn events(&self) -> Vec<audit::EventRow> {
        audit::latest(&mut self.db.reader().await.unwrap(), 100).await.unwrap()
    }

    async fn export(&self) -> Export {
        export(&self.db).await.unwrap()
    }
}

#[tokio::test]
async fn the_example_applies_and_a_second_time_changes_nothing() {
    let fixture = Fixture::new().await;
    let (shown, applied) = fixture.apply(EXAMPLE).await;
    assert!(shown.starts_with("+ resource https://api.example.com\n"), "{shown}");
    assert!(
        shown.contains("+ client orders-sync\n") && shown.contains("scope: \"orders:read orders:write\""),
        "{shown}"
    );
    assert!(!shown.contains(IMPORTED));
    assert!(applied.seq.is_some());
    let [only] = applied.generated.as_slice() else { panic!("{:?}", applied.generated) };
    assert_eq!((only.client_id.as_str(), only.label.as_str()), ("edge-gateway", "default"));
    assert!(Prefix::ClientSecret.matches(only.secret.expose()));
    let (_, rows) = fixture.client("orders-sync").await.unwrap();
    assert!(fixture.passwords.verify(&Secret::new(IMPORTED), Some(&rows[0].value), None).await.unwrap());

    let head = fixture.head().await;
    let plan = fixture.plan(EXAMPLE, &PRUNE).await.unwrap();
    assert!(plan.is_empty());
    assert_eq!(plan.to_string(), "= resource https://api.example.com\n= client orders-sync\n= client edge-gateway\n");
    let applied = commit(&fixture.db, plan, &fixture.passwords).await.unwrap();
    assert!(applied.generated.is_empty() && applied.seq.is_none());
    assert_eq!(fixture.head().await, head);
}

#[tokio::test]
async fn audit_names_what_was_done_and_no_secret() {
    let fixture = Fixture::with(EXAMPLE).await;
    let events = fixture.events().await;
    let mut kinds: Vec<_> = events.iter().map(|event| (event.kind.as_str(), event.object.as_str())).collect();
    kinds.sort_unstable();
    assert_eq!(
        kinds,
        [
            ("client.saved", "edge-gateway"),
            ("client.saved", "orders-sync"),
            ("credential.added", "edge-gateway"),
            ("credential.added", "orders-sync"),
            ("resource.saved", "https://api.example.com"),
        ]
    );
    assert!(events.iter().all(|event| event.actor == "cli" && !event.details.contains("imported-secret-of")));
}

#[tokio::test]
async fn json_says_the_same() {
    let fixture = Fixture::with(EXAMPLE).await;
    let value: toml::Value = toml::from_str(EXAMPLE).unwrap();
    let text = serde_json::to_string_pretty(&value).unwrap();
    assert_eq!(Format::of(None, &text), Format::Json);
    let file = parse(&text, Format::Json).unwrap();
    assert!(plan(&fixture.db, &file, &OPTIONS, &fixture.passwords).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_the_file_says_of_a_named_object_is_all_there_is() {
    let fixture = Fixture::with(EXAMPLE).await;
    let less = EXAMPLE
        .replace(r#", "orders:write" = "Change orders""#, "")
        .replace("scope = \"orders:read orders:write\"", "scope = \"orders:read\"")
        .replace("name = \"Orders API\"\n", "");
    let plan = fixture.plan(&less, &OPTIONS).await.unwrap();
    let shown = plan.to_string();
    assert!(shown.contains("~ resource") && shown.contains("name: \"Orders API\" -> (none)"), "{shown}");
    assert!(shown.contains("scope: \"orders:read orders:write\" -> \"orders:read\""), "{shown}");
    commit(&fixture.db, plan, &fixture.passwords).await.unwrap();
    assert!(fixture.plan(&less, &OPTIONS).await.unwrap().is_empty());
}

#[tokio::test]
async fn resources_left_out_are_the_owners_of_the_scopes() {
    let fixture = Fixture::with(&EXAMPLE.replace("    resources = [\"https://api.example.com\"]\n", "")).await;
    let (row, _) = fixture.client("orders-sync").await.unwrap();
    assert!(row.metadata.contains(r#""resources":["https://api.example.com"]"#), "{}", row.metadata);
    assert!(fixture.plan(EXAMPLE, &OPTIONS).await.unwrap().is_empty());
}

#[tokio::test]
async fn all_problems_are_told_at_once_and_nothing_is_changed() {
    let fixture =
        Fixture::with("[[resource]]\nidentifier = \"https://old.example.com\"\nscopes = { taken = \"T\" }").await;
    let head = fixture.head().await;
    let found = fixture
        .problems(
            r#"
            [[resource]]
            identifier = "https://a.example.com"
            scopes = { "bad scope" = "x", empty = "", taken = "y" }
            access_token_lifetime = 99999
            access_token_signed_response_alg = "PS256"
            [[resource]]
            identifier = "https://a.example.com"
            [[resource]]
            identifier = "https://id.example.com/userinfo"
            [[client]]
            client_id = "a b"
            jwks_uri = "http://x"
            scope = "nowhere"
            resources = ["https://no.example.com"]
            [[client]]
            client_id = "twice"
            client_secret = "short"
            client_secrets = []
            [[client]]
            client_id = "twice"
            client_secrets = [{ label = "a" }, { label = "a", secret = "with\u0000control-characters-that-are-no-good" }]
            [[client]]
            client_id = "keys"
            token_endpoint_auth_method = "private_key_jwt"
            client_secret = "imported-secret-of-at-least-32-characters"
            [[client]]
            client_id = "outside"
            scope = "taken"
            resources = ["https://a.example.com"]
            jwks = { keys = [] }
            "#,
            &OPTIONS,
        )
        .await;
    let expected = [
        ("resource \"https://a.example.com\": access_token_lifetime:", "3600"),
        ("resource \"https://a.example.com\": access_token_signed_response_alg:", "PS256"),
        ("resource \"https://a.example.com\": scopes:", "\"bad scope\""),
        ("resource \"https://a.example.com\": scopes:", "\"empty\""),
        ("resource \"https://a.example.com\": scopes:", "belongs to resource \"https://old.example.com\""),
        ("resource \"https://a.example.com\": identifier:", "twice"),
        ("resource \"https://id.example.com/userinfo\": identifier:", "the server's own"),
        ("client \"a b\": client_id:", ""),
        ("client \"a b\": jwks_uri:", "https"),
        ("client \"a b\": jwks_uri:", "private_key_jwt"),
        ("client \"a b\": resources:", "no resource \"https://no.example.com\""),
        ("client \"a b\": scope:", "\"nowhere\""),
        ("client \"twice\": client_secrets:", "not both"),
        ("client \"twice\": client_secret:", "32 to 256"),
        ("client \"twice\": client_secrets:", "one at least"),
        ("client \"twice\": client_id:", "twice"),
        ("client \"twice\": client_secrets:", "\"a\" is there twice"),
        ("client \"twice\": client_secrets:", "control characters"),
        ("client \"keys\": client_secret:", "private_key_jwt"),
        ("client \"keys\": jwks:", "jwks or jwks_uri"),
        ("client \"outside\": scope:", "not among the client's resources"),
        ("client \"outside\": jwks:", "is only for"),
        ("client \"outside\": jwks:", "one key"),
    ];
    for (start, part) in expected {
        assert!(
            found.iter().any(|text| text.starts_with(start) && text.contains(part)),
            "{start} {part} in {found:#?}"
        );
    }
    let all = found.join("\n");
    assert!(found.len() == expected.len(), "{all}");
    assert!(!all.contains("short") && !all.contains("imported-secret") && !all.contains("no-good"), "{all}");
    assert_eq!(fixture.head().await, head);
}

/// T-184: a wrong guess costs one hash for each.
#[tokio::test]
async fn a_client_has_two_imported_secrets_at_most() {
    let secret = |label: &str, secret: Option<&str>| {
        let secret = secret.map_or_else(String::new, |text| format!(", secret = {text:?}"));
        format!("{{ label = {label:?}{secret} }}")
    };
    let client =
        |secrets: &[String]| format!("[[client]]\nclient_id = \"c\"\nclient_secrets = [{}]", secrets.join(", "));
    let (a, b, c) = (secret("a", Some(IMPORTED)), secret("b", Some(IMPORTED)), secret("c", Some(IMPORTED)));
    let fixture = Fixture::with(&client(&[a.clone(), b.clone(), secret("made", None)])).await;
    let kept = [secret("a", None), secret("b", None), c.clone()];
    for three in [client(&kept), client(&[a, b, c.clone()])] {
        let found = fixture.problems(&three, &OPTIONS).await;
        assert!(found.len() == 1 && found[0].contains("takes 2 imported secrets at most"), "{found:?}");
    }
    fixture.apply(&client(&[secret("b", None), c, secret("made", None)])).await;
}

#[tokio::test]
async fn a_private_key_is_refused_and_not_quoted() {
    let fixture = Fixture::new().await;
    let key = ED25519.replace(" }", ", d = \"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A\" }");
    let text = format!(
        "[[client]]\nclient_id = \"c\"\ntoken_endpoint_auth_method = \"private_key_jwt\"\njwks = {{ keys = [{key}, {ED25519}, {ED25519}] }}"
    );
    let found = fixture.problems(&text, &OPTIONS).await;
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("client \"c\": jwks: key 1: ") && !found[0].contains("nWGx"), "{found:?}");
    assert!(found[1].contains("\"k1\" is there twice"), "{found:?}");
    assert!(!format!("{:?}", toml(&text)).contains("nWGx"));
}

#[tokio::test]
async fn a_generated_secret_is_given_once_and_stays() {
    let fixture = Fixture::new().await;
    let (_, first) = fixture.apply("[[client]]\nclient_id = \"c\"").await;
    let before = fixture.credentials("c").await;
    let (shown, second) = fixture.apply("[[client]]\nclient_id = \"c\"\nclient_name = \"C\"").await;
    assert_eq!((first.generated.len(), second.generated.len()), (1, 0));
    assert_eq!(shown, "~ client c\n    client_name: \"C\"\n");
    assert_eq!(fixture.credentials("c").await, before);
    // The same secret, imported into another database, keeps its fast form.
    let other = Fixture::new().await;
    let text = format!("[[client]]\nclient_id = \"c\"\nclient_secret = \"{}\"", first.generated[0].secret.expose());
    other.apply(&text).await;
    assert_eq!(other.credentials("c").await[0].1, "generated_secret");
    assert!(other.plan(&text, &OPTIONS).await.unwrap().is_empty());
    assert!(fixture.plan(&text, &OPTIONS).await.unwrap().to_string().contains("~ client c"));
}

#[tokio::test]
async fn secrets_rotate_with_two_at_once() {
    let client = |secrets: &str| format!("[[client]]\nclient_id = \"c\"\nclient_secrets = [{secrets}]");
    let fixture = Fixture::with(&client(r#"{ label = "2026" }"#)).await;
    let old = fixture.credentials("c").await;
    let both = client(
        r#"{ label = "2026", expires_at = 2027-01-01T00:00:00Z }, { label = "2027", secret = "the-secret-of-next-year-0123456789" }"#,
    );
    let plan = fixture.plan(&both, &OPTIONS).await.unwrap();
    assert_eq!(
        plan.to_string(),
        "~ client c\n    client_secrets \"2026\" expires_at: \"never\" -> \"2027-01-01T00:00:00Z\"\n    \
         client_secrets \"2027\": \"new imported secret\"\n"
    );
    let applied = commit(&fixture.db, plan, &fixture.passwords).await.unwrap();
    assert!(applied.generated.is_empty());
    let two = fixture.credentials("c").await;
    assert_eq!((two.len(), &two[0]), (2, &old[0]));
    let (_, rows) = fixture.client("c").await.unwrap();
    assert!(rows.iter().any(|row| row.expires_at == Some(1_798_761_600_000_000)));
    // Text and date-time are the same moment.
    assert!(
        fixture
            .plan(&both.replace("2027-01-01T00:00:00Z", "\"2027-01-01T01:00:00+01:00\""), &OPTIONS)
            .await
            .unwrap()
            .is_empty()
    );

    let (shown, _) = fixture.apply(&client(r#"{ label = "2027" }"#)).await;
    assert!(
        shown.contains("client_secrets \"2026\": \"generated secret until 2027-01-01T00:00:00Z\" -> (none)"),
        "{shown}"
    );
    assert_eq!(fixture.credentials("c").await, two[1..]);

    // Another secret under the same label is another credential.
    let other = client(r#"{ label = "2027", secret = "another-secret-of-next-year-0123456789" }"#);
    let (shown, _) = fixture.apply(&other).await;
    assert!(shown.contains("client_secrets \"2027\": \"imported secret\" -> \"new imported secret\""), "{shown}");
    assert_ne!(fixture.credentials("c").await, two[1..]);
    assert!(fixture.plan(&other, &OPTIONS).await.unwrap().is_empty());
}

#[tokio::test]
async fn keys_replace_secrets_and_back() {
    let keys = |keys: &str| {
        format!(
            "[[client]]\nclient_id = \"c\"\ntoken_endpoint_auth_method = \"private_key_jwt\"\njwks = {{ keys = [{keys}] }}"
        )
    };
    let fixture = Fixture::with("[[client]]\nclient_id = \"c\"").await;
    let nameless = keys(&ED25519.replace("kid = \"k1\", ", ""));
    fixture.apply(&nameless).await;
    let now = fixture.credentials("c").await;
    assert_eq!((now.len(), now[0].0.as_str(), now[0].1.as_str()), (1, THUMBPRINT, "jwk"));
    assert!(fixture.plan(&nameless, &OPTIONS).await.unwrap().is_empty());
    let (shown, _) = fixture.apply(&keys(ED25519)).await;
    assert!(
        shown.contains("jwks \"k1\": \"new jwk\"")
            && shown.contains(&format!("jwks \"{THUMBPRINT}\": \"jwk\" -> (none)")),
        "{shown}"
    );
    let remote = "[[client]]\nclient_id = \"c\"\ntoken_endpoint_auth_method = \"private_key_jwt\"\njwks_uri = \"https://c.example.com/jwks\"";
    fixture.apply(remote).await;
    assert!(fixture.credentials("c").await.is_empty());
    let (_, applied) = fixture.apply("[[client]]\nclient_id = \"c\"").await;
    assert_eq!(applied.generated.len(), 1);
}

#[tokio::test]
async fn disabling_is_a_change_both_ways() {
    let fixture = Fixture::with(EXAMPLE).await;
    let text = EXAMPLE.replace("client_id = \"orders-sync\"", "client_id = \"orders-sync\"\ndisabled = true");
    let plan = fixture.plan(&text, &OPTIONS).await.unwrap();
    assert!(plan.to_string().contains("disabled: \"false\" -> \"true\""));
    commit(&fixture.db, plan, &fixture.passwords).await.unwrap();
    assert!(fixture.client("orders-sync").await.unwrap().0.disabled);
    let back = fixture.plan(EXAMPLE, &OPTIONS).await.unwrap();
    assert!(back.to_string().contains("disabled: \"true\" -> \"false\""));
}

#[tokio::test]
async fn pruning_removes_what_apply_made_and_nothing_else() {
    let fixture = Fixture::with(EXAMPLE).await;
    let row =
        ClientRow { client_id: "by-hand".into(), metadata: "{}".into(), disabled: false, managed_by: "admin".into() };
    fixture.db.write(move |tx| Box::pin(async move { clients::save(tx, &row, &[]).await })).await.unwrap();
    let rest = EXAMPLE.split("[[client]]").next().unwrap();
    assert!(fixture.plan(rest, &OPTIONS).await.unwrap().is_empty());
    let (shown, _) = fixture.apply_with(rest, &PRUNE).await;
    assert_eq!(shown, "= resource https://api.example.com\n- client edge-gateway\n- client orders-sync\n");
    assert!(fixture.client("orders-sync").await.is_none() && fixture.client("by-hand").await.is_some());
    let (shown, _) = fixture.apply_with("", &PRUNE).await;
    assert_eq!(shown, "- resource https://api.example.com\n");
    let kinds: Vec<String> = fixture.events().await.into_iter().map(|event| event.kind).collect();
    assert!(kinds.iter().any(|kind| kind == "client.removed") && kinds.iter().any(|kind| kind == "resource.removed"));

    // Named by a file, it is the file's.
    let (shown, _) = fixture.apply("[[client]]\nclient_id = \"by-hand\"").await;
    assert!(shown.contains("managed_by: \"admin\" -> \"apply\""), "{shown}");
    let (shown, _) = fixture.apply_with("", &PRUNE).await;
    assert_eq!(shown, "- client by-hand\n");
}

#[tokio::test]
async fn nothing_is_taken_from_under_a_client_that_the_file_does_not_name() {
    let fixture = Fixture::with(EXAMPLE).await;
    let without = "[[resource]]\nidentifier = \"https://api.example.com\"\nscopes = { \"orders:read\" = \"Read\" }";
    let found = fixture.problems(without, &OPTIONS).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("client \"orders-sync\": scope: names \"orders:write\", which would be removed"),
        "{found:?}"
    );
    let moved = "[[resource]]\nidentifier = \"https://api.example.com\"\nscopes = { \"orders:read\" = \"Read\" }\n\
                 [[resource]]\nidentifier = \"https://new.example.com\"\nscopes = { \"orders:write\" = \"Write\" }";
    let found = fixture.problems(moved, &OPTIONS).await;
    assert!(found.len() == 1 && found[0].contains("would move to \"https://new.example.com\""), "{found:?}");
    fixture
        .db
        .write(|tx| {
            Box::pin(async move {
                let (mut row, _) = clients::find(tx, "edge-gateway").await?.unwrap();
                row.managed_by = "admin".into();
                clients::save(tx, &row, &[]).await
            })
        })
        .await
        .unwrap();
    let found = fixture.problems("", &PRUNE).await;
    assert!(
        found.len() == 1 && found[0].starts_with("client \"edge-gateway\": serves: names the resource"),
        "{found:?}"
    );
}

#[tokio::test]
async fn a_scope_moves_between_two_resources_in_either_order() {
    let file = |a: &str, b: &str| {
        format!(
            "[[resource]]\nidentifier = \"https://a.example.com\"\nscopes = {{ {a} }}\n\
             [[resource]]\nidentifier = \"https://b.example.com\"\nscopes = {{ {b} }}\n\
             [[client]]\nclient_id = \"c\"\nscope = \"x\""
        )
    };
    let fixture = Fixture::with(&file("x = \"X\"", "")).await;
    for (a, b, owner) in [("", "x = \"X\"", "https://b.example.com"), ("x = \"X\"", "", "https://a.example.com")] {
        let (shown, _) = fixture.apply(&file(a, b)).await;
        assert!(shown.contains("scopes \"x\": \"X\" -> (none)") && shown.contains("scopes \"x\": \"X\"\n"), "{shown}");
        let (row, _) = fixture.client("c").await.unwrap();
        assert!(row.metadata.contains(&format!("\"resources\":[\"{owner}\"]")), "{}", row.metadata);
    }
}

#[tokio::test]
async fn a_plan_of_yesterday_is_refused_whole() {
    let fixture = Fixture::with(EXAMPLE).await;
    let first = fixture.plan("[[client]]\nclient_id = \"one\"", &OPTIONS).await.unwrap();
    let second =
        fixture.plan("[[client]]\nclient_id = \"two\"\n[[client]]\nclient_id = \"one\"", &OPTIONS).await.unwrap();
    commit(&fixture.db, first, &fixture.passwords).await.unwrap();
    let refused = commit(&fixture.db, second, &fixture.passwords).await.unwrap_err().to_string();
    assert!(refused.contains("have changed") && refused.contains("run it again"), "{refused}");
    assert!(fixture.client("two").await.is_none());

    // Revocations in between are none of its business.
    let third = fixture.plan("[[client]]\nclient_id = \"three\"", &OPTIONS).await.unwrap();
    for n in 0..1_100 {
        let other = fixture.db.write(move |tx| {
            Box::pin(async move {
                tx.announce(feed::Kind::Revocation, format!("token:{n}"));
                Ok(())
            })
        });
        other.await.unwrap();
    }
    commit(&fixture.db, third, &fixture.passwords).await.unwrap();
    // But a feed that was swept in between is.
    let fourth = fixture.plan("[[client]]\nclient_id = \"four\"", &OPTIONS).await.unwrap();
    fixture.apply("[[client]]\nclient_id = \"five\"").await;
    fixture.db.write(|tx| Box::pin(feed::sweep(tx, i64::MAX, 1000))).await.unwrap();
    assert!(commit(&fixture.db, fourth, &fixture.passwords).await.is_err());
}

#[tokio::test]
async fn what_is_exported_applies_to_nothing_new() {
    let full = format!(
        r#"{EXAMPLE}
        [[resource]]
        identifier = "https://plain.example.com"
        access_token_format = "opaque"
        [[client]]
        client_id = "keys"
        disabled = true
        token_endpoint_auth_method = "private_key_jwt"
        token_endpoint_auth_signing_alg = "EdDSA"
        client_assertion_audience = "issuer_or_token_endpoint"
        require_client_assertion_typ = true
        jwks = {{ keys = [{ED25519}] }}
        contacts = ["a@example.com", "Ünï \"quoted\""]
        allowed_origins = ["https://app.example.com"]
        [[client]]
        client_id = "two-secrets"
        access_token_lifetime = 60
        client_secrets = [{{ label = "b", expires_at = "2031-05-06T07:08:09.123456Z" }}, {{ label = "a" }}]
        "#
    );
    let fixture = Fixture::with(&full).await;
    let export = fixture.export().await;
    let text = export.to_toml().unwrap();
    assert!(!text.contains("sws_") && !text.contains("$argon2") && !text.contains(IMPORTED), "{text}");
    assert!(text.starts_with("[[resource]]\nidentifier = \"https://api.example.com\"\n"), "{text}");
    let plan = fixture.plan(&text, &PRUNE).await.unwrap();
    assert!(plan.is_empty(), "{plan}\n{text}");
    let json = parse(&export.to_json().unwrap(), Format::Json).unwrap();
    assert!(super::plan(&fixture.db, &json, &PRUNE, &fixture.passwords).await.unwrap().is_empty());

    // Elsewhere it makes the same, but for the secrets.
    let other = Fixture::new().await;
    let (_, applied) = other.apply(&text).await;
    assert_eq!(applied.generated.len(), 4);
    assert_eq!(other.export().await.to_toml().unwrap(), text);
}

/// The server applies its demo data on a runtime of many threads.
#[test]
fn futures_can_move_between_threads() {
    fn is_send<T: Send>(_: &T) {}
    let _ = |db: Db, passwords: PasswordHasher, file: ApplyFile, made: Plan| {
        is_send(&plan(&db, &file, &OPTIONS, &passwords));
        is_send(&commit(&db, made, &passwords));
    };
}

#[tokio::test]
async fn an_empty_database_exports_an_empty_file() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.export().await.to_toml().unwrap(), "");
    assert!(fixture.plan("", &PRUNE).await.unwrap().is_empty());
}

#[test]
fn errors_name_the_place_and_the_field() {
    for (text, expected) in [
        ("[[client]]\nclient_id = 5", "line 2, column 13: client_id: takes a string"),
        ("[[client]]\nclient_id = \"c\"\n  scope = true", "line 3, column 11: scope: takes"),
        (
            "[[client]]\nclient_id = \"c\"\nclient_secert = \"s3cret\"",
            "line 3, column 1: unknown field `client_secert`",
        ),
        ("[[resource]]\nscopes = {}", "line 1, column 1: missing field `identifier`"),
        ("[[client]]\nclient_id = \"c\"\ngrant_types = [\"magic\"]", "unknown variant `magic`"),
        ("[[group]]\nname = \"x\"", "line 1, column 3: unknown field `group`"),
        ("[[client]]\nclient_id = \"c\"\njwks = { keys = [], x = 1 }", "line 3, column 21: unknown field `x`"),
        ("[[client]]\nclient_id = ", "line 2, column"),
        (
            "[[client]]\nclient_id = \"c\"\nclient_secrets = [{ label = \"a\", expires_at = 2027-01-01 }]",
            "line 3, column 47: expires_at: takes a time with an offset",
        ),
    ] {
        let error = parse(text, Format::Toml).unwrap_err().to_string();
        assert!(error.contains(expected), "{error} — {expected}");
    }
    for (text, expected) in [
        ("{\n \"client\": [{\n  \"client_id\": 5\n}]}", "line 3, column 16: client_id: takes a string"),
        ("{\"client\":[{\"client_id\":\"c\",\"client_secert\":\"x\"}]}", "unknown field `client_secert`"),
        ("{\"client\":[{\"client_id\":\"c\",\"client_id\":\"d\"}]}", "duplicate field `client_id`"),
        ("{\"client\":[", "line 1, column 11: EOF"),
    ] {
        let error = parse(text, Format::Json).unwrap_err().to_string();
        assert!(error.contains(expected), "{error} — {expected}");
    }
    let unknown = parse("[[client]]\nclient_id = \"c\"\nclient_secert = 1", Format::Toml).unwrap_err().text;
    assert!(unknown.contains("`client_name`") && unknown.contains("`client_secret`"), "{unknown}");
}

#[test]
fn t174_errors_and_debug_show_no_secret() {
    for text in [
        "client_secrets = \"hunter2-hunter2-hunter2\"",
        "client_secrets = [\"hunter2-hunter2\"]",
        "client_secret = [\"hunter2\"]",
        "client_secret = { hunter2 = 1 }",
        "client_secrets = [{ label = \"a\", secret = [\"hunter2\"] }]",
        "client_secret = \"hunter2\" hunter2",
        "client_secret = \"hunter2",
        "client_secret = 'hunter2=\\q'x",
        "client_secret = \"hunter2=\\q\"",
        "client_secrets = [{ label = \"a\", expires_at = \"hunter2\" }]",
        "jwks = \"hunter2, expected nothing\"",
        "jwks = { keys = \"hunter2\" }",
    ] {
        let error = parse(&format!("[[client]]\nclient_id = \"c\"\n{text}"), Format::Toml).unwrap_err();
        // A name is no secret.
        if !text.contains("{ hunter2") {
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }
    for text in [
        "\"client_secrets\": \"hunter2\"",
        "\"client_secret\": [\"hunter2\"]",
        "\"client_secret\": \"hunter2\\\":",
        "\"jwks\": \"hunter2 at line 5\"",
    ] {
        let error = parse(&format!("{{\"client\":[{{\"client_id\":\"c\",{text}}}]}}"), Format::Json).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
    assert!(!format!("{:?}", toml(EXAMPLE)).contains(IMPORTED));
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,80}", json in any::<bool>()) {
        let _ = parse(&text, if json { Format::Json } else { Format::Toml });
    }

    #[test]
    fn any_mutation_of_a_file_is_read_or_refused(at in 0..EXAMPLE.len(), with in "[\\[\\]{}=\",.#a-z0-9\\n\u{feff}ä:\\\\]{0,6}", cut in 0..12usize) {
        let end = (at + cut).min(EXAMPLE.len());
        let text = format!("{}{with}{}", &EXAMPLE[..at], &EXAMPLE[end..]);
        if let Err(error) = parse(&text, Format::Toml) {
            prop_assert!(!error.to_string().contains("imported-secret"), "{}", error);
        }
        let json = text.replace(" = ", ": ");
        let _ = parse(&json, Format::Json);
    }
}
