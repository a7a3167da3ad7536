//! Two `apply` files at once that want the same scope names: one is applied, the other is told to run again.

use std::fmt::Write as _;

use sealwright::apply;

use crate::support::{Server, both, rounds};

/// Two resources that share 40 scope names, half and half, the one half under the first name.
fn file(resources: [&str; 2], first: usize) -> String {
    let mut text = String::new();
    for (at, resource) in resources.iter().enumerate() {
        let names = (0..40).filter(|name| name % 2 == (at + first) % 2);
        let scopes: Vec<String> = names.map(|name| format!("\"s{name:02}\" = \"Scope\"")).collect();
        let _ = write!(text, "[[resource]]\nidentifier = \"{resource}\"\nscopes = {{ {} }}\n", scopes.join(", "));
    }
    text
}

/// Both are compared with the database before either is applied; exactly one of them is, and the other says so.
async fn at_once(server: &Server, files: [String; 2]) {
    let services = &server.services;
    let mut plans = Vec::new();
    for file in files {
        plans.push(server.plan(&file, true).await.unwrap());
    }
    let committing = plans.into_iter().map(|plan| apply::commit(&services.db, plan, &services.passwords));
    let outcomes = futures_util::future::join_all(committing).await;
    let said: Vec<String> = outcomes.into_iter().filter_map(Result::err).map(|failed| failed.to_string()).collect();
    assert!(matches!(said.as_slice(), [one] if one.contains("nothing was applied, run it again")), "{said:?}");
    assert_eq!(server.place.number("SELECT COUNT(*) FROM scopes WHERE name LIKE 's__'").await, 40);
}

both! {
    async fn files_that_give_the_same_scopes_do_not_wait_for_each_other(engine) {
        let server = Server::empty(engine).await;
        for _ in 0..rounds(10) {
            // New ones under two pairs of names.
            at_once(&server, [file(["urn:a:1", "urn:a:2"], 0), file(["urn:b:1", "urn:b:2"], 1)]).await;
            // Those that there are, kept or swapped, and swapped back.
            server.try_apply(&file(["urn:a:1", "urn:a:2"], 0), true).await.unwrap();
            at_once(&server, [file(["urn:a:1", "urn:a:2"], 1), file(["urn:a:2", "urn:a:3"], 0)]).await;
            server.try_apply("", true).await.unwrap();
        }
    }
}
