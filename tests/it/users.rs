//! People as they are set up: by files, and at the command line beside a running server.

use std::io::Write as _;

use sealwright::password::{HashSettings, PasswordHasher};
use sealwright::secret::Secret;
use sealwright::store::users;
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
    let file = place.folder.join("users.toml");
    std::fs::write(&file, text).unwrap();
    // It holds the master key.
    std::fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    "users.toml".to_owned()
}

both! {
    async fn a_file_with_people_applies_once_and_exports_without_passwords(engine) {
        let server = Server::empty(engine).await;
        server.apply(PEOPLE).await;
        let export = async || {
            let db = &server.services.db;
            let export = sealwright::apply::export(db).await.unwrap();
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

    /// T-121: what was imported is hashed as ours at the first sign-in; it stays the same password, for people, for known
    /// browsers and for the file that it came from.
    async fn t121_an_imported_hash_is_made_ours_at_the_first_sign_in(engine) {
        let server = Server::with(engine, |config| {
            config.secrets.argon2_memory_kib = 256;
            config.secrets.argon2_iterations = 2;
        })
        .await;
        let settings = HashSettings { memory_kib: 64, iterations: 3, concurrency: 1, queue: 8 };
        let elsewhere = PasswordHasher::new(settings).unwrap();
        let hash = elsewhere.hash(&Secret::new(PASSWORD), None).await.unwrap();
        let file = format!("[[user]]\nusername = \"ada\"\npassword_hash = {hash:?}");
        server.apply(&file).await;
        let stored = async || {
            let find = server.services.db.read(|conn| Box::pin(users::by_username(conn, "ada")));
            find.await.unwrap().unwrap()
        };
        let before = stored().await;
        let mut browser = Browser::stepwise(&server);
        assert_eq!(browser.sign_in("ada", "wrong and wrong and wrong").await.status, 403);
        assert_eq!(stored().await.password.as_ref(), Some(&hash), "who does not prove it changes nothing");
        assert_eq!(browser.sign_in("ada", PASSWORD).await.status, 303);
        let after = stored().await;
        let ours = after.password.clone().unwrap();
        assert!(ours.starts_with("$argon2id$v=19$m=256,t=2,p=1$"), "{ours}");
        assert_eq!((after.password_changed_at, after.updated_at), (before.password_changed_at, before.updated_at));
        // The file says what is.
        server.apply(&file).await;
        assert_eq!(stored().await.password.as_ref(), Some(&ours));
        assert_eq!(browser.get("/account").await.status, 200);
        for _ in 0..12 {
            Browser::stepwise(&server).sign_in("ada", "wrong and wrong and wrong").await;
        }
        assert_eq!(browser.sign_in("ada", PASSWORD).await.status, 303, "a browser that is known stays known");
        assert_eq!(stored().await.password.as_ref(), Some(&ours), "once");
        let sets = "SELECT COUNT(*) FROM audit_events WHERE kind = 'password.set'";
        assert_eq!(server.place.number(sets).await, 0, "nobody set another password");
        // Another one in the file is another one.
        let other = elsewhere.hash(&Secret::new(OTHER), None).await.unwrap();
        server.apply(&file.replace(&hash, &other)).await;
        assert_eq!(browser.get("/account").await.status, 303);
        assert_eq!(Browser::stepwise(&server).sign_in("ada", OTHER).await.status, 303);
        server.stop().await;
    }

    /// T-121, T-184: what costs more than our own hashes would be told by its time, and take more memory than there is for
    /// one.
    async fn t121_an_imported_hash_costs_no_more_than_ours(engine) {
        let server = Server::empty(engine).await;
        let settings = HashSettings { memory_kib: 64, iterations: 2, concurrency: 1, queue: 8 };
        let dear = PasswordHasher::new(settings).unwrap().hash(&Secret::new(PASSWORD), None).await.unwrap();
        let told = server.try_apply(&format!("[[user]]\nusername = \"ada\"\npassword_hash = {dear:?}"), false).await;
        let told = told.unwrap_err();
        assert!(told.contains("user \"ada\": password_hash: costs m=64,t=2") && told.contains("secrets.argon2_iterations"), "{told}");
        server.stop().await;
    }

    /// RFC 8265: who types it at another keyboard is the same person with the same password.
    async fn rfc8265_names_and_passwords_are_what_they_mean(engine) {
        let server = Server::empty(engine).await;
        let file = "[[user]]\nusername = \"A\u{30a}sa\"\npassword = \"cafe\u{301} unter alten linden\"";
        server.apply(file).await;
        let composed = "[[user]]\nusername = \"\u{c5}sa\"\npassword = \"caf\u{e9} unter alten linden\"";
        let mut browser = Browser::stepwise(&server);
        assert_eq!(browser.sign_in("\u{e5}SA", "caf\u{e9} unter\u{a0}alten linden").await.status, 303);
        let twice = server.try_apply(&format!("{file}\n{composed}"), false).await.unwrap_err();
        assert!(twice.contains("is there twice"), "{twice}");
        server.apply(composed).await;
        assert_eq!(browser.get("/account").await.status, 200, "the same password is not set again");
        assert_eq!(Browser::stepwise(&server).sign_in("asa", "cafe unter alten linden").await.status, 403);
        server.stop().await;
    }

    /// T-46: a file that says nothing of it leaves a person switched off whom a command switched off; also when that
    /// happens while the file is applied.
    async fn t46_a_file_switches_nobody_on_by_saying_nothing(engine) {
        let server = Server::empty(engine).await;
        server.apply("[[user]]\nusername = \"ada\"").await;
        let switch_off = async || {
            let sub = users::by_username(&mut server.services.db.reader().await.unwrap(), "ada").await.unwrap().unwrap().sub;
            let off = server.services.db.write(move |tx| {
                Box::pin(async move {
                    sealwright::users::set_disabled(tx, &sealwright::audit::Actor::command_line(), &sub, true).await
                })
            });
            off.await.unwrap();
        };
        let off = "SELECT COUNT(*) FROM users WHERE disabled";
        switch_off().await;
        server.apply("[[user]]\nusername = \"ada\"\nname = \"Ada\"").await;
        assert_eq!(server.place.number(off).await, 1);
        server.apply("[[user]]\nusername = \"ada\"\nname = \"Ada\"\ndisabled = false").await;
        assert_eq!(server.place.number(off).await, 0);
        for (text, prune) in [("[[user]]\nusername = \"ada\"\nname = \"Ada L\"", false), ("", true)] {
            let plan = server.plan(text, prune).await.unwrap();
            server.clock.advance(std::time::Duration::from_secs(1));
            switch_off().await;
            let services = &server.services;
            let told = sealwright::apply::commit(&services.db, plan, &services.passwords).await.unwrap_err().to_string();
            assert!(told.contains("have changed since"), "{told}");
            assert_eq!(server.place.number(off).await, 1);
            server.apply("[[user]]\nusername = \"ada\"\ndisabled = false").await;
        }
        server.stop().await;
    }

    /// Of two commands at once that say different things of one person, one finds out that it came second.
    async fn of_two_files_at_once_one_is_told_to_look_again(engine) {
        let server = Server::empty(engine).await;
        server.apply("[[user]]\nusername = \"ada\"").await;
        let file = |name: &str| format!("[[user]]\nusername = \"ada\"\nname = {name:?}\n[[user]]\nusername = \"{name}\"");
        let (one, other) = (server.plan(&file("One"), false).await.unwrap(), server.plan(&file("Other"), false).await.unwrap());
        let services = &server.services;
        let commit = |plan| sealwright::apply::commit(&services.db, plan, &services.passwords);
        let outcomes = tokio::join!(commit(one), commit(other));
        let told: Vec<bool> = vec![outcomes.0.is_ok(), outcomes.1.is_ok()];
        assert_eq!(told.iter().filter(|done| **done).count(), 1, "{told:?}");
        // All of it or nothing.
        let export = sealwright::apply::export(&server.services.db).await.unwrap().to_toml().unwrap();
        for name in ["One", "Other"] {
            assert_eq!(export.matches(&format!("= \"{name}\"")).count() % 2, 0, "{export}");
        }
        server.stop().await;
    }

    /// However a file writes a username, and whether it changes or removes a person, rows are taken in one order: nobody
    /// waits in a circle, and who comes second is told to look again.
    async fn files_that_write_names_differently_do_not_wait_for_each_other(engine) {
        let server = Server::empty(engine).await;
        let services = &server.services;
        let file = |names: [&str; 4], text: &str| {
            names.map(|name| format!("[[user]]\nusername = {name:?}\nname = {text:?}\npassword = \"{text} lantern gravel tuba\"\n")).concat()
        };
        server.apply(&file(["a", "b", "c", "d"], "zero")).await;
        for round in 0..6 {
            // By the letters alone: B C a d, and A D b c.
            let one = server.plan(&file(["a", "B", "C", "d"], &format!("one{round}")), false).await.unwrap();
            let other = match round % 2 {
                0 => server.plan(&file(["A", "b", "c", "D"], &format!("other{round}")), false).await.unwrap(),
                _ => server.plan("", true).await.unwrap(),
            };
            let commit = |plan| sealwright::apply::commit(&services.db, plan, &services.passwords);
            let (one, other) = tokio::join!(commit(one), commit(other));
            assert!(one.is_ok() != other.is_ok(), "{round}: {:?} {:?}", one.err(), other.err());
            let told = one.err().or(other.err()).unwrap().to_string();
            assert!(told.contains("have changed since"), "{round}: {told}");
            server.apply(&file(["a", "b", "c", "d"], "zero")).await;
        }
        server.stop().await;
    }

    /// However many people there are, a file reads whom it names; pruning and the list go through them in pages.
    async fn a_file_finds_its_people_among_many(engine) {
        let server = Server::empty(engine).await;
        let many: Vec<String> = (0..1203).map(|n| format!("[[user]]\nusername = \"name{n}\"\n")).collect();
        let many = many.concat();
        server.apply(&many).await;
        let plan = server.plan(&many, true).await.unwrap();
        assert!(plan.is_empty());
        let config = configured(&server.place, &server.issuer);
        let list = |more: &[&str]| {
            let arguments = [&["user", "list", "--config", &config], more].concat();
            run(command(&server.place.folder, &arguments), None).fine().stdout
        };
        let people: Vec<Value> = serde_json::from_str(&list(&["--json"])).unwrap();
        let names: Vec<&str> = people.iter().map(|person| person["username"].as_str().unwrap()).collect();
        assert_eq!((names.len(), names.iter().collect::<std::collections::BTreeSet<_>>().len()), (1203, 1203));
        let exported = sealwright::apply::export(&server.services.db).await.unwrap().to_toml().unwrap();
        assert!(server.plan(&exported, true).await.unwrap().is_empty() && exported.matches("[[user]]").count() == 1203);
        let lines = list(&[]);
        assert_eq!((lines.lines().count(), lines.lines().next().unwrap().starts_with("SUB ")), (1204, true));
        assert!(lines.lines().skip(1).zip(&names).all(|(line, name)| line.contains(&format!("  {name} "))));
        let rest = "[[user]]\nusername = \"name700\"\n[[user]]\nusername = \"name7\"";
        assert_eq!(server.plan(rest, true).await.unwrap().changes.len(), 1203);
        server.try_apply(rest, true).await.unwrap();
        assert_eq!(server.place.number("SELECT COUNT(*) FROM users").await, 2);
        assert_eq!(list(&["--json"]).matches("\n  {\n").count(), 2);
        server.try_apply("", true).await.unwrap();
        assert_eq!((list(&["--json"]).as_str(), list(&[]).lines().count()), ("[]\n", 1));
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
