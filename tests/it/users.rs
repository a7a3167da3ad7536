//! People as they are set up: by files, and at the command line beside a running server.

use std::io::Write as _;

use serde_json::Value;

use crate::browser::Browser;
use crate::login::{OTHER, PASSWORD, PEOPLE};
use crate::process::{command, run};
use crate::support::{Engine, MASTER_KEY, Place, Server, both};

/// A configuration of the database of `place`.
fn configured(place: &Place, issuer: &str) -> String {
    let url = &place.url;
    let text = format!(
        "issuer = {issuer:?}\n[database]\nurl = {url:?}\nmigrate = true\n[master_key]\nvalue = \"{MASTER_KEY}\"\n\
         [secrets]\nargon2_memory_kib = 7168\nargon2_iterations = 1\n"
    );
    std::fs::write(place.folder.join("users.toml"), text).unwrap();
    "users.toml".to_owned()
}

both! {
    async fn a_file_with_people_applies_once_and_exports_without_passwords(engine) {
        let server = Server::empty(engine).await;
        server.apply(PEOPLE).await;
        let export = async || {
            let db = &server.services.db;
            let export = db.read(|conn| Box::pin(sealwright::apply::export(conn))).await.unwrap();
            export.to_toml().unwrap()
        };
        let first = export().await;
        assert!(first.contains("username = \"Ada\"") && first.contains("email = \"ada@example.com\""), "{first}");
        assert!(!first.contains("password") && !first.contains("argon2") && !first.contains(PASSWORD));
        let mut browser = Browser::stepwise(&server);
        browser.sign_in("Ada", PASSWORD).await;
        // The same again, and what was exported, change nothing and sign nobody out.
        for text in [PEOPLE, &first, &PEOPLE.replace("\"Ada\"", "\"ada\"").replace("\"ada\"", "\"Ada\"")] {
            server.apply(text).await;
            assert_eq!(export().await, first);
            assert_eq!(browser.get("/account").await.status, 200);
        }
        // What is wrong is told all at once, without the passwords.
        let bad = r#"
            [[user]]
            username = "a b"
            [[user]]
            username = "weak"
            password = "passwordpassword"
            [[user]]
            username = "WEAK"
            password_hash = "$argon2i$v=19$m=64,t=1,p=1$c29tZXNhbHQ$aaaa"
            email = "nobody"
            claims = { sub = "x" }
        "#;
        let told = server.try_apply(bad, false).await.unwrap_err();
        for part in ["user \"a b\": username", "tried first everywhere", "there twice", "password_hash", "email", "\"sub\""] {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert!(!told.contains("passwordpassword") && !told.contains("c29tZXNhbHQ"));
        let mistyped = server.try_apply("[[user]]\nusername = \"x\"\npasword = \"lantern\"", false).await.unwrap_err();
        assert!(mistyped.contains("\"pasword\" is no field") && !mistyped.contains("lantern"), "{mistyped}");
        // Pruned, they are gone.
        server.try_apply("", true).await.unwrap();
        assert_eq!(browser.get("/account").await.status, 303);
        assert!(!export().await.contains("Ada"));
        server.stop().await;
    }

    async fn an_imported_hash_signs_in(engine) {
        let server = Server::empty(engine).await;
        let hash = server.services.passwords.hash(&sealwright::secret::Secret::new(PASSWORD), None).await.unwrap();
        let file = format!("[[user]]\nusername = \"ada\"\npassword_hash = {hash:?}");
        server.apply(&file).await;
        let mut browser = Browser::stepwise(&server);
        assert_eq!(browser.sign_in("ada", PASSWORD).await.status, 303);
        server.apply(&file).await;
        assert_eq!(browser.get("/account").await.status, 200);
        server.stop().await;
    }

    /// T-46: the commands work beside a running server, which acts on them when they return.
    async fn t46_commands_act_on_a_running_server(engine) {
        let server = Server::empty(engine).await;
        let place = server.place.clone();
        let config = configured(&place, &server.issuer);
        let user = |arguments: &[&str], input: Option<&str>| {
            let mut all = vec!["user"];
            all.extend(arguments);
            all.extend(["--config", &config]);
            run(command(&place.folder, &all), input)
        };
        let added = user(&["add", "Ada", "--email", "ada@example.com", "--name", "Ada Lovelace", "--group", "staff", "--json"], Some(PASSWORD));
        assert_eq!(added.status, 0, "{added:?}");
        let told: Value = serde_json::from_str(&added.stdout).unwrap();
        assert_eq!((told["username"].as_str(), told["groups"][0].as_str()), (Some("Ada"), Some("staff")));
        assert!(uuid::Uuid::parse_str(told["sub"].as_str().unwrap()).is_ok() && !added.stdout.contains(PASSWORD));
        let mut browser = Browser::stepwise(&server);
        assert_eq!(browser.sign_in("ada", PASSWORD).await.status, 303);
        // Twice is refused, whatever the case; so is what is guessed first.
        let twice = user(&["add", "ADA"], Some(OTHER));
        assert!(twice.status == 1 && twice.stderr.contains("user reset"), "{twice:?}");
        let weak = user(&["add", "bob"], Some("bob bob bob bob bob"));
        assert!(weak.status == 1 && weak.stderr.contains("the password is made of"), "{weak:?}");
        assert_eq!(user(&["disable", "nobody"], None).status, 1);
        // Off: signed out at once, and back only by signing in.
        let off = user(&["disable", "ada"], None);
        assert_eq!((off.status, off.stdout.as_str()), (0, ""), "{off:?}");
        assert_eq!(browser.get("/account").await.status, 303);
        assert_eq!(browser.sign_in("ada", PASSWORD).await.status, 403);
        assert_eq!(user(&["enable", "ada"], None).status, 0);
        assert_eq!(browser.get("/account").await.status, 303);
        assert_eq!(browser.sign_in("ada", PASSWORD).await.status, 303);
        // Reset: the old one is dead, the new one is shown once, and wrong tries are forgotten.
        for _ in 0..12 {
            Browser::stepwise(&server).sign_in("ada", "wrong and wrong and wrong").await;
        }
        let reset = user(&["reset", "ada", "--generate"], None);
        assert_eq!(reset.status, 0, "{reset:?}");
        let made = reset.stdout.trim().to_owned();
        assert_eq!(made.len(), 29);
        assert_eq!(browser.get("/account").await.status, 303);
        let mut fresh = Browser::stepwise(&server);
        assert_eq!(fresh.sign_in("ada", PASSWORD).await.status, 403);
        assert_eq!(fresh.sign_in("ada", &made).await.status, 303);
        let list = user(&["list"], None);
        assert!(list.stdout.contains("ada@example.com") && list.stdout.contains("enabled"), "{list:?}");
        let list: Value = serde_json::from_str(&user(&["list", "--json"], None).stdout).unwrap();
        assert_eq!(list.as_array().unwrap().len(), 1);
        let _ = std::io::stdout().flush();
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_comes_from_a_file() {
    let place = Place::new(Engine::Sqlite).await;
    let config = configured(&place, "http://127.0.0.1:1");
    std::fs::write(place.folder.join("secret"), format!("{PASSWORD}\n")).unwrap();
    let added =
        run(command(&place.folder, &["user", "add", "ada", "--password-file", "secret", "--config", &config]), None);
    assert_eq!((added.status, added.stdout.as_str()), (0, ""), "{added:?}");
    let both = run(
        command(&place.folder, &["user", "add", "b", "--generate", "--password-file", "secret", "--config", &config]),
        None,
    );
    assert_eq!(both.status, 2);
}
