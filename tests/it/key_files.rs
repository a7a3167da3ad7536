//! Keys that come from elsewhere and go elsewhere: `keys import` and `keys export-public`.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::process::{Node, Said, run};
use crate::support::{EXAMPLE, Engine, MASTER_KEY, SECRET, both, part};

/// What openssl says to these words, in the node's folder.
fn openssl(node: &Node, words: &str) -> String {
    let mut command = Command::new("openssl");
    crate::process::clean(&mut command, &node.place.folder);
    run(
        {
            command.args(words.split(' '));
            command
        },
        None,
    )
    .fine()
    .stdout
}

fn import(node: &Node, key: &str, words: &[&str]) -> Said {
    run(node.command(&[&["keys", "import", "-"], words].concat()), Some(key))
}

/// The `kid` that an import gave.
#[track_caller]
fn imported(said: Said) -> String {
    let said = said.fine();
    assert!(said.stderr.contains("signs next"), "{said:?}");
    said.stdout.trim().to_owned()
}

/// Refused, for this reason, and nothing of the key is told.
#[track_caller]
fn refused(said: &Said, why: &str) {
    assert_eq!((said.status, said.stdout.as_str()), (1, ""), "{said:?}");
    assert!(said.stderr.contains(why), "{why}: {said:?}");
    assert!(!said.stderr.contains("MII") && !said.stderr.contains("BEGIN"), "{said:?}");
}

/// The keys as the command lists them: `kid`, `alg` and state.
fn listed(node: &Node) -> Vec<(String, String, String)> {
    let text = |key: &Value, name: &str| key[name].as_str().unwrap().to_owned();
    let keys = node.run(&["keys", "list", "--json"]).fine().json();
    keys.as_array().unwrap().iter().map(|key| (text(key, "kid"), text(key, "alg"), text(key, "state"))).collect()
}

fn state(node: &Node, kid: &str) -> String {
    listed(node).into_iter().find(|key| key.0 == kid).unwrap_or_else(|| panic!("no {kid}")).2
}

/// A private JWK by josekit.
fn jwk(kind: &str) -> Value {
    use josekit::jwk::Jwk;
    use josekit::jwk::alg::ec::EcCurve;
    use josekit::jwk::alg::ed::EdCurve;
    let jwk = match kind {
        "RSA" => Jwk::generate_rsa_key(2048),
        "EC" => Jwk::generate_ec_key(EcCurve::P256),
        _ => Jwk::generate_ed_key(EdCurve::Ed25519),
    };
    serde_json::to_value(jwk.unwrap()).unwrap()
}

both! {
    async fn an_imported_key_is_published_next_and_every_server_shows_it_when_the_command_returns(engine) {
        let node = Node::new(engine).await;
        node.apply(EXAMPLE);
        let server = node.start().await;
        let shown = async || {
            let jwks = server.http.get(format!("{}/.well-known/jwks.json", server.url)).send().await.unwrap();
            let jwks: Value = serde_json::from_str(&jwks.text().await.unwrap()).unwrap();
            jwks["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let signer = part(&server.token(("orders-sync", SECRET)).await, 0)["kid"].as_str().unwrap().to_owned();
        let first = imported(import(&node, &openssl(&node, "genpkey -algorithm ED25519"), &[]));
        assert!(shown().await.contains(&first));
        assert_eq!(part(&server.token(("orders-sync", SECRET)).await, 0)["kid"], signer, "it does not sign yet");
        // The next one takes its place: it never signed.
        let second = imported(import(&node, &jwk("OKP").to_string(), &["--alg", "Ed25519"]));
        assert_eq!((state(&node, &first), state(&node, &second)), ("retired".to_owned(), "published".to_owned()));
        let kids = shown().await;
        assert!(kids.contains(&second) && kids.contains(&signer) && !kids.contains(&first));
        assert!(listed(&node).contains(&(second.clone(), "Ed25519".to_owned(), "published".to_owned())));
        // Other algorithms have standbys of their own.
        let rsa = imported(import(&node, &jwk("RSA").to_string(), &[]));
        assert_eq!((state(&node, &second), state(&node, &rsa)), ("published".to_owned(), "published".to_owned()));
        let events = "SELECT COUNT(*) FROM audit_events WHERE kind = 'signing_key.imported'";
        assert_eq!(node.number(events).await, 3);
        assert!(!server.run.stderr().contains("left out"), "{}", server.run.stderr());
    }

    async fn s20_no_key_serves_two_algorithms_nor_comes_back(engine) {
        let node = Node::new(engine).await;
        std::fs::write(&node.config, std::fs::read_to_string(&node.config).unwrap()
            + "keys.algorithms = [\"RS256\", \"EdDSA\", \"PS256\"]\n").unwrap();
        let rsa = jwk("RSA").to_string();
        let kid = imported(import(&node, &rsa, &["--alg", "PS256"]));
        refused(&import(&node, &rsa, &["--alg", "RS256"]), "one key serves one algorithm");
        refused(&import(&node, &rsa, &["--alg", "PS256"]), "is here already, for PS256, and is published");
        imported(import(&node, &jwk("RSA").to_string(), &["--alg", "PS256"]));
        refused(&import(&node, &rsa, &["--alg", "PS256"]), "is here already, for PS256, and is retired");
        assert_eq!(listed(&node).iter().filter(|key| key.0 == kid).count(), 1);
        // An algorithm that we keep no keys for.
        refused(&import(&node, &jwk("EC").to_string(), &[]), "keys.algorithms lacks ES256");
    }
}

#[tokio::test]
async fn every_form_of_a_key_is_read_and_is_the_same_key_to_openssl() {
    let node = Node::new(Engine::Sqlite).await;
    std::fs::write(
        &node.config,
        std::fs::read_to_string(&node.config).unwrap()
            + "keys.algorithms = [\"RS256\", \"EdDSA\", \"PS256\", \"ES256\"]\n",
    )
    .unwrap();
    let path = |name: &str| -> PathBuf { node.place.folder.join(name) };
    openssl(&node, "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072 -out pkcs8-rsa.pem");
    openssl(&node, "genpkey -algorithm ED25519 -out pkcs8-ed.pem");
    openssl(&node, "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out pkcs8-ec.pem");
    openssl(&node, "genrsa -traditional -out pkcs1.pem 2048");
    openssl(&node, "ecparam -name prime256v1 -genkey -out sec1.pem");
    for (file, alg, words) in [
        ("pkcs8-rsa.pem", "RS256", &[][..]),
        ("pkcs8-ed.pem", "EdDSA", &[]),
        ("pkcs8-ec.pem", "ES256", &[]),
        ("pkcs1.pem", "PS256", &["--alg", "PS256"]),
        ("sec1.pem", "ES256", &[]),
    ] {
        let said = node.run(&[&["keys", "import", path(file).to_str().unwrap()], words].concat());
        let kid = imported(said);
        assert!(listed(&node).contains(&(kid.clone(), alg.to_owned(), "published".to_owned())), "{file}");
        let exported = node.run(&["keys", "export-public", &kid, "--format", "pem"]).fine().stdout;
        let (about, pem) = exported.split_once('\n').unwrap();
        assert_eq!(about, format!("{kid} {alg}"));
        assert_eq!(pem, openssl(&node, &format!("pkey -in {file} -pubout")), "{file}");
        // The line before it is no hindrance.
        std::fs::write(path("public.pem"), &exported).unwrap();
        assert!(openssl(&node, "pkey -pubin -in public.pem").starts_with("-----BEGIN PUBLIC KEY-----"));
    }
}

#[tokio::test]
async fn s23_weak_and_unfit_keys_are_refused_and_nothing_changes() {
    let node = Node::new(Engine::Sqlite).await;
    let before = listed(&node);
    let rsa = |bits: u32, exponent: u32| {
        let words =
            format!("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:{bits} -pkeyopt rsa_keygen_pubexp:{exponent}");
        openssl(&node, &words)
    };
    refused(&import(&node, &rsa(1024, 65_537), &[]), "neither RSA of 2048 to 4096 bits");
    refused(&import(&node, &rsa(2056, 65_537), &[]), "2048, 3072 or 4096 bits");
    refused(&import(&node, &rsa(2047, 65_537), &[]), "neither RSA of 2048");
    refused(&import(&node, &rsa(2048, 3), &[]), "exponent is below 65537");
    let p384 = openssl(&node, "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384");
    refused(&import(&node, &p384, &[]), "nor P-256");
    refused(&import(&node, &openssl(&node, "genpkey -algorithm X25519"), &[]), "nor Ed25519");
    let good = openssl(&node, "genpkey -algorithm ED25519");
    refused(&import(&node, &(good.clone() + &good), &[]), "several private keys");
    refused(&import(&node, &good, &["--alg", "RS256"]), "is for EdDSA, not for RS256");
    std::fs::write(node.place.folder.join("good.pem"), &good).unwrap();
    refused(&import(&node, &openssl(&node, "pkey -in good.pem -pubout"), &[]), "neither a private JWK nor PEM");
    let locked = openssl(&node, "pkcs8 -topk8 -in good.pem -passout pass:secret");
    refused(&import(&node, &locked, &[]), "must be decrypted first");
    refused(&import(&node, &" ".repeat(70_000), &[]), "too long");
    let mut enc = jwk("OKP");
    enc["use"] = json!("enc");
    refused(&import(&node, &enc.to_string(), &[]), "its use is not sig");
    assert_eq!(import(&node, &good, &["--alg", "none"]).status, 2);
    assert_eq!(listed(&node), before);
    let missing = node.run(&["keys", "import", "/nowhere/key"]);
    refused(&missing, "cannot read /nowhere/key");
}

#[tokio::test]
async fn export_public_gives_what_the_jwks_has_and_no_private_half() {
    let node = Node::new(Engine::Sqlite).await;
    let server = node.start().await;
    let jwks = server.http.get(format!("{}/.well-known/jwks.json", server.url)).send().await.unwrap();
    let jwks: Value = serde_json::from_str(&jwks.text().await.unwrap()).unwrap();
    let mut exported = node.run(&["keys", "export-public"]).fine().json();
    let by_kid = |set: &mut Value| set["keys"].as_array_mut().unwrap().sort_by_key(|key| key["kid"].to_string());
    let mut jwks = jwks;
    by_kid(&mut jwks);
    by_kid(&mut exported);
    assert_eq!(exported, jwks);
    let members = ["alg", "crv", "e", "kid", "kty", "n", "use", "x", "y"];
    for key in exported["keys"].as_array().unwrap() {
        assert!(key.as_object().unwrap().keys().all(|name| members.contains(&name.as_str())), "{key}");
    }
    let count = exported["keys"].as_array().unwrap().len();
    let pem = node.run(&["keys", "export-public", "--format", "pem"]).fine().stdout;
    assert_eq!((pem.matches("BEGIN PUBLIC KEY").count(), pem.matches("PRIVATE").count()), (count, 0));
    // History only when it is asked for.
    let old = imported(import(&node, &jwk("OKP").to_string(), &[]));
    imported(import(&node, &jwk("OKP").to_string(), &[]));
    let has = |words: &[&str]| node.run(&[&["keys", "export-public"], words].concat()).fine().stdout.contains(&old);
    assert!(!has(&[]) && has(&["--all"]) && has(&[&old]));
    refused(&node.run(&["keys", "export-public", "nobody"]), "there is no key nobody");
    assert!(!pem.contains(MASTER_KEY));
}

/// One thumbprint in sixty-four begins with a hyphen (RFC 7638, base64url), and is no option for that.
#[tokio::test]
async fn a_kid_that_begins_with_a_hyphen_is_a_kid() {
    let node = Node::new(Engine::Sqlite).await;
    for command in [&["keys", "retire"][..], &["keys", "revoke"], &["keys", "export-public"]] {
        for kid in ["-BAKLoYZGBFCniEbESG_UllqTd-adPafIYTVQ6XUVfU", "-hAKLoYZGBFCniEbESG_UllqTd-adPafIYTVQ6XUVfU"] {
            let said = node.run(&[command, &[kid]].concat());
            assert_eq!(said.status, 1, "there is no such key: {said:?}");
        }
    }
}
