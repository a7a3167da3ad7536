//! `sealwright login`: a browser without script signs in where the command says, and the command shows the tokens.

use std::time::Duration;

use base64::Engine as _;
use serde_json::Value;

use crate::browser::Browser;
use crate::dev::Folder;
use crate::process::{Run, command};
use crate::support::client;

/// The address that the command tells, once it does.
async fn told(run: &mut Run) -> String {
    loop {
        if let Some(line) = run.stderr().lines().find(|line| line.starts_with("http")) {
            return line.to_owned();
        }
        assert!(!run.has_ended(), "{}", run.stderr());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn demo(folder: &Folder) -> (String, String, Value) {
    let text = std::fs::read_to_string(folder.path().join("sealwright-dev/dev.json")).unwrap();
    let told: Value = serde_json::from_str(&text).unwrap();
    let text = |name: &str| told["user"][name].as_str().unwrap().to_owned();
    (text("username"), text("password"), told.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_user_signs_in_and_the_tokens_are_shown() {
    let folder = Folder::new().await;
    let _server = folder.serve().await;
    let (username, password, told_there) = demo(&folder);
    assert!(password.len() >= 15);
    for json in [true, false] {
        let mut arguments = vec!["login", "--dev"];
        if json {
            arguments.push("--json");
        }
        let mut run = Run::spawn(command(folder.path(), &arguments), None);
        let url = told(&mut run).await;
        let mut browser = Browser::at(told_there["issuer"].as_str().unwrap());
        let page = browser.go_through(&url, (&username, &password)).await;
        let away = page.away.unwrap_or_else(|| panic!("{}", page.text));
        let shown = client().get(&away).send().await.unwrap();
        assert_eq!(shown.status(), 200);
        assert_eq!(shown.headers()["referrer-policy"], "no-referrer");
        assert!(shown.text().await.unwrap().contains("Signed in"));
        assert_eq!(run.wait(), 0, "{}", run.stderr());
        let (out, said) = (run.stdout(), run.stderr());
        if json {
            let report: Value = serde_json::from_str(&out).unwrap();
            assert!(report["tokens"]["refresh_token"].is_string() && report["id_token_claims"]["sub"].is_string());
            assert_eq!(report["access_token_claims"]["client_id"], "demo-web");
        } else {
            assert!(out.contains("ID token, verified:") && out.contains("\"nonce\""), "{out}");
            assert!(!out.contains("swr_") && !said.contains("swr_"));
        }
    }
}

/// Any client that has a loopback redirect: here a native one without a secret, by the issuer's address.
#[tokio::test(flavor = "multi_thread")]
async fn any_client_with_a_loopback_redirect_signs_in() {
    let folder = Folder::new().await;
    let _server = folder.serve().await;
    let (username, password, told_there) = demo(&folder);
    let client = "[[client]]\nclient_id = \"pocket\"\ntoken_endpoint_auth_method = \"none\"\napplication_type = \"native\"\n\
                  grant_types = [\"authorization_code\"]\nredirect_uris = [\"http://[::1]/here\"]\nscope = \"openid profile\"\n";
    folder.run(&["apply", "--dev", "-"], Some(client)).fine();
    let issuer = told_there["issuer"].as_str().unwrap();
    let arguments = [
        "login",
        "--issuer",
        issuer,
        "--client-id",
        "pocket",
        "--redirect-uri",
        "http://[::1]/here",
        "--scope",
        "openid profile",
        "--json",
    ];
    let mut run = Run::spawn(command(folder.path(), &arguments), None);
    let url = told(&mut run).await;
    let page = Browser::at(issuer).go_through(&url, (&username, &password)).await;
    let away = page.away.unwrap_or_else(|| panic!("{}", page.text));
    assert!(away.starts_with("http://[::1]:"), "a free port: {away}");
    crate::support::client().get(&away).send().await.unwrap();
    assert_eq!(run.wait(), 0, "{}", run.stderr());
    let report: Value = serde_json::from_str(&run.stdout()).unwrap();
    assert_eq!(report["id_token_claims"]["aud"], "pocket");
    assert!(report["tokens"].get("refresh_token").is_none() && report["access_token_claims"]["client_id"] == "pocket");
}

/// However the client is registered to authenticate; the same options are those of `token` and `introspect`.
#[tokio::test(flavor = "multi_thread")]
async fn any_client_authenticates_as_it_is_registered() {
    let folder = Folder::new().await;
    let _server = folder.serve().await;
    let (username, password, told_there) = demo(&folder);
    let issuer = told_there["issuer"].as_str().unwrap();
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    std::fs::write(folder.path().join("key.pem"), pair.serialize_pem()).unwrap();
    std::fs::write(folder.path().join("secret"), "a-secret-of-32-characters-at-least\n").unwrap();
    let x = base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(pair.public_key_raw());
    let entry = |id: &str, method: &str, more: &str| {
        format!(
            "[[client]]\nclient_id = \"{id}\"\ntoken_endpoint_auth_method = \"{method}\"\n{more}\n\
             grant_types = [\"authorization_code\", \"client_credentials\"]\napplication_type = \"native\"\n\
             redirect_uris = [\"http://127.0.0.1/callback\"]\nscope = \"openid demo:read\"\n\n"
        )
    };
    let jwk = format!(
        "jwks = {{ keys = [{{ kty = \"OKP\", crv = \"Ed25519\", x = \"{x}\" }}] }}\nrequire_client_assertion_typ = true"
    );
    let secret = "client_secret = \"a-secret-of-32-characters-at-least\"";
    let file = entry("signs", "private_key_jwt", &jwk) + &entry("posts", "client_secret_post", secret);
    folder.run(&["apply", "--dev", "-"], Some(&file)).fine();
    for (id, how) in [
        ("signs", &["--client-key-file", "key.pem"][..]),
        ("posts", &["--client-secret-file", "secret", "--post-secret"]),
    ] {
        let who = [&["--issuer", issuer, "--client-id", id], how].concat();
        let mut run =
            Run::spawn(command(folder.path(), &[&["login", "--scope", "openid", "--json"], &who[..]].concat()), None);
        let url = told(&mut run).await;
        let page = Browser::at(issuer).go_through(&url, (&username, &password)).await;
        client().get(page.away.unwrap_or_else(|| panic!("{}", page.text))).send().await.unwrap();
        assert_eq!(run.wait(), 0, "{}", run.stderr());
        let report: Value = serde_json::from_str(&run.stdout()).unwrap();
        assert_eq!(report["id_token_claims"]["aud"], id);
        let token = folder.run(&[&["token", "--scope", "demo:read"], &who[..]].concat(), None).fine().stdout;
        let told = folder.run(&[&["introspect"], &who[..]].concat(), Some(&token)).fine();
        assert_eq!((&told.json()["active"], &told.json()["client_id"]), (&Value::Bool(true), &Value::from(id)));
    }
    // The other's way is refused, and says so.
    let said = folder.run(&["token", "--issuer", issuer, "--client-id", "posts", "--client-key-file", "key.pem"], None);
    assert!(said.status == 1 && said.stderr.contains("how it is registered"), "{said:?}");
    let said = folder.run(&["token", "--issuer", issuer, "--client-id", "signs", "--client-key-file", "secret"], None);
    assert!(said.status == 1 && said.stderr.contains("private JWK") && !said.stderr.contains("a-secret"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_somebody_else_is_turned_away_and_a_refusal_told() {
    let folder = Folder::new().await;
    let _server = folder.serve().await;
    let (_, _, told_there) = demo(&folder);
    let issuer = told_there["issuer"].as_str().unwrap();
    let mut run = Run::spawn(command(folder.path(), &["login", "--dev"]), None);
    let url = url::Url::parse(&told(&mut run).await).unwrap();
    let parameter = |name: &str| url.query_pairs().find(|(key, _)| key == name).unwrap().1.into_owned();
    let (at, state) = (parameter("redirect_uri"), parameter("state"));
    for bad in ["?code=x", "?code=x&state=wrong", "?code=x&state=", &format!("?code=x&code=y&state={state}")] {
        assert_eq!(client().get(format!("{at}{bad}")).send().await.unwrap().status(), 400, "{bad}");
    }
    let elsewhere = at.replace("/callback", "/other");
    assert_eq!(client().get(format!("{elsewhere}?code=x&state={state}")).send().await.unwrap().status(), 400);
    assert!(!run.has_ended());
    let answer = client().get(format!("{at}?error=access_denied&iss={issuer}&state={state}")).send().await.unwrap();
    assert!(answer.text().await.unwrap().contains("Not signed in"));
    assert_eq!(run.wait(), 1);
    assert!(run.stderr().contains("access_denied"), "{}", run.stderr());

    // RFC 9207: the code of another issuer goes nowhere.
    let mut run = Run::spawn(command(folder.path(), &["login", "--dev"]), None);
    let url = url::Url::parse(&told(&mut run).await).unwrap();
    let parameter = |name: &str| url.query_pairs().find(|(key, _)| key == name).unwrap().1.into_owned();
    let (at, state) = (parameter("redirect_uri"), parameter("state"));
    client().get(format!("{at}?code=x&iss=https://evil.test&state={state}")).send().await.unwrap();
    assert_eq!(run.wait(), 1);
    assert!(run.stderr().contains("RFC 9207"), "{}", run.stderr());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_does_not_wait_for_ever_and_says_what_is_wrong() {
    let folder = Folder::new().await;
    let _server = folder.serve().await;
    let said = folder.run(&["login", "--dev", "--timeout", "1"], None);
    assert_eq!(said.status, 1);
    assert!(said.stderr.contains("nobody signed in within 1 seconds"), "{said:?}");
    for uri in ["https://app.example.com/cb", "com.example:/cb", "x"] {
        let said = folder.run(&["login", "--dev", "--redirect-uri", uri], None);
        assert_eq!(said.status, 2, "{said:?}");
    }
}
