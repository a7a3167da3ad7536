//! The shape of the tree: which way dependencies point, and what the tree is made of.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The layers from the bottom up; a room may use its own layer and those below. Protocol families may not use each
/// other.
const LAYERS: [(&str, &[&str]); 5] = [
    (
        "foundation",
        &["checks", "clock", "config", "error", "form", "log", "look", "password", "pool", "secret", "store", "wire"],
    ),
    (
        "services",
        &[
            "apply",
            "audit",
            "claims",
            "clients",
            "consents",
            "cx",
            "flow",
            "issue",
            "jobs",
            "keys",
            "metrics",
            "nodes",
            "outbound",
            "resources",
            "session",
            "users",
            "visitors",
        ],
    ),
    ("edge", &["http", "pages"]),
    ("protocols", &["account", "oauth", "oidc"]),
    ("app", &["app", "cli"]),
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn layer(room: &str) -> usize {
    LAYERS.iter().position(|(_, rooms)| rooms.contains(&room)).unwrap_or_else(|| panic!("{room} is in no layer"))
}

/// `crate::room` wherever it stands: in `use` lines, one by one or in braces, and in paths.
fn rooms_used(text: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let names: Vec<&str> = match rest.strip_prefix('{') {
            Some(list) => {
                // The first word of each entry at the outer level.
                let mut depth = 0;
                let mut entries = vec![String::new()];
                for c in list.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => entries.push(String::new()),
                        c if depth == 0 => entries.last_mut().unwrap().push(c),
                        _ => {}
                    }
                }
                rooms.extend(
                    entries.iter().map(|entry| word(entry.trim())).filter(|name| !name.is_empty()).map(str::to_owned),
                );
                continue;
            }
            None => vec![word(rest)],
        };
        rooms.extend(names.into_iter().map(str::to_owned));
    }
    rooms
}

fn word(text: &str) -> &str {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default()
}

#[test]
fn dependencies_point_one_way() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for path in sources(&src) {
        let inside = path.strip_prefix(&src).unwrap();
        let room = inside.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned();
        if ["main", "lib"].contains(&room.as_str()) {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let code: String =
            text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
        for used in rooms_used(&code) {
            // Macros and re-exports at the root have names of their own; rooms are what lib.rs declares.
            if !LAYERS.iter().any(|(_, rooms)| rooms.contains(&used.as_str())) {
                continue;
            }
            let (from, to) = (layer(&room), layer(&used));
            let families = LAYERS[from].0 == "protocols" && from == to && room != used;
            if to > from || families {
                wrong.push(format!("{} uses crate::{used} ({} → {})", inside.display(), LAYERS[from].0, LAYERS[to].0));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that point up or across:\n{}", wrong.join("\n"));
}

#[test]
fn every_room_is_declared_and_in_a_layer() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let declared = std::fs::read_to_string(src.join("lib.rs")).unwrap();
    for entry in std::fs::read_dir(&src).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap().trim_end_matches(".rs").to_owned();
        if ["lib", "main"].contains(&name.as_str()) {
            continue;
        }
        layer(&name);
        assert!(declared.contains(&format!("mod {name};")), "{name} is not declared");
    }
}

#[test]
fn files_stay_small_enough_to_read() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for path in sources(&src) {
        let text = std::fs::read_to_string(&path).unwrap();
        if path.file_name().is_some_and(|name| name == "tests.rs" || name == "vectors.rs") {
            continue;
        }
        let lines = text.split("#[cfg(test)]").next().unwrap().lines().count();
        assert!(lines <= 400, "{} has {lines} lines without its tests", path.display());
    }
}

const LICENCES: [&str; 7] = ["Apache-2.0", "BSD-3-Clause", "CDLA-Permissive-2.0", "ISC", "MIT", "Unicode-3.0", "Zlib"];
/// Of these there is one copy.
const ONE_COPY: [&str; 12] = [
    "aws-lc-rs",
    "aws-lc-sys",
    "axum",
    "http",
    "hyper",
    "hyper-util",
    "libsqlite3-sys",
    "reqwest",
    "rustls",
    "sqlx",
    "tokio",
    "url",
];
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The packages that are built for this platform, of tests as well.
fn metadata() -> serde_json::Value {
    let output = cargo(&["metadata", "--format-version", "1", "--filter-platform", TARGET]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn cargo(arguments: &[&str]) -> std::process::Output {
    let mut cargo = std::process::Command::new(env!("CARGO"));
    cargo.args(arguments).args(["--locked", "--offline"]).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap()
}

/// The licences that a user of the binary takes on, where the code comes from, and one copy of what matters.
#[test]
fn the_tree_is_made_of_what_we_allow() {
    let metadata = metadata();
    let used: BTreeSet<&str> =
        metadata["resolve"]["nodes"].as_array().unwrap().iter().map(|node| node["id"].as_str().unwrap()).collect();
    let packages: Vec<&serde_json::Value> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|package| used.contains(package["id"].as_str().unwrap()))
        .collect();
    assert!(packages.len() > 100);
    let mut versions: BTreeMap<&str, usize> = BTreeMap::new();
    for package in packages {
        let name = package["name"].as_str().unwrap();
        *versions.entry(name).or_default() += 1;
        if name == "sealwright" {
            continue;
        }
        let licence = package["license"].as_str().unwrap_or_default().replace('/', " OR ");
        // Every AND-part needs one allowed choice.
        let fine = licence.replace(['(', ')'], "").split(" AND ").all(|part| {
            part.split(" OR ").any(|choice| LICENCES.contains(&choice.split(" WITH ").next().unwrap().trim()))
        });
        assert!(fine, "{name}: {licence}");
        let source = package["source"].as_str().unwrap_or_default();
        assert_eq!(source, "registry+https://github.com/rust-lang/crates.io-index", "{name}");
    }
    for name in ONE_COPY {
        assert_eq!(versions.get(name), Some(&1), "copies of {name}");
    }
    // RUSTSEC-2023-0071 is about private keys: openidconnect, a client in tests, brings rsa for public ones.
    assert!(!shipped(&metadata).contains("rsa"), "RUSTSEC-2023-0071");
}

/// The names of the packages that are in the binary, or build it: those that are not reached by tests alone.
fn shipped(metadata: &serde_json::Value) -> BTreeSet<&str> {
    let nodes: BTreeMap<&str, &serde_json::Value> = metadata["resolve"]["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| (node["id"].as_str().unwrap(), node))
        .collect();
    let names: BTreeMap<&str, &str> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| (package["id"].as_str().unwrap(), package["name"].as_str().unwrap()))
        .collect();
    let mut found = BTreeSet::new();
    let mut ahead = vec![metadata["resolve"]["root"].as_str().unwrap()];
    while let Some(id) = ahead.pop() {
        if !found.insert(id) {
            continue;
        }
        let runs = |dependency: &&serde_json::Value| {
            dependency["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"] != "dev")
        };
        ahead.extend(nodes[id]["deps"].as_array().unwrap().iter().filter(runs).map(|to| to["pkg"].as_str().unwrap()));
    }
    assert!(found.len() > 100);
    found.into_iter().map(|id| names[id]).collect()
}

/// What libFuzzer needs is in a package of its own, and its targets are those that the tests drive.
#[test]
fn the_fuzz_package_is_no_part_of_this_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
    assert!(!read("Cargo.lock").contains("libfuzzer") && !read("Cargo.toml").contains("libfuzzer"));
    let manifest = read("tests/fuzz/Cargo.toml");
    assert!(manifest.contains("\n[workspace]\n") && manifest.contains("publish = false"));
    assert!(read("tests/fuzz/src/main.rs").contains("#[path = \"../../it/targets.rs\"]"));
    // Both build the same versions of what they share.
    let main: toml::Table = read("Cargo.toml").parse().unwrap();
    let fuzz: toml::Table = manifest.parse().unwrap();
    for (name, wanted) in fuzz["dependencies"].as_table().unwrap() {
        let ours = main["dependencies"].get(name).or_else(|| main["dev-dependencies"].get(name));
        assert!(ours.is_none_or(|ours| ours == wanted), "{name}");
    }
}

/// josekit brings OpenSSL: it is for tests. SQLite is the one in its crate, and nothing that is built asks for more than a
/// C compiler and make.
#[test]
fn the_binary_is_built_of_its_crates_alone() {
    let metadata = metadata();
    let shipped = shipped(&metadata);
    for name in ["josekit", "openssl", "openssl-sys", "native-tls", "ring", "bindgen"] {
        // Cargo tells of optional dependencies that nobody switched on, too.
        assert!(!shipped.contains(name) || dependents(name, "normal,build").is_empty(), "{name} is in the binary");
    }
    assert!(shipped.contains("libsqlite3-sys") && shipped.contains("aws-lc-sys"));
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let sqlite = nodes.iter().find(|node| node["id"].as_str().unwrap().contains("libsqlite3-sys@")).unwrap();
    assert!(sqlite["features"].as_array().unwrap().iter().any(|feature| feature == "bundled"), "{sqlite}");
    // What the program asks of the machine that it runs on: the C library, and the unwinder of the compiler.
    let output = std::process::Command::new("ldd").arg(crate::process::program()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("libc.so"), "{text}");
    for line in text.lines() {
        let name = line.trim().rsplit_once('/').map_or(line.trim(), |(_, name)| name);
        let known = ["libc.so.", "libm.so.", "libgcc_s.so.", "ld-linux-", "linux-vdso.so.", "linux-gate.so."];
        assert!(known.iter().any(|start| name.starts_with(start)), "{line}");
    }
}

/// Who depends on a package by such edges; nobody when it is not built.
fn dependents(name: &str, edges: &str) -> Vec<String> {
    let arguments =
        ["tree", "--target", TARGET, "--all-features", "--depth", "1", "--prefix", "none", "-e", edges, "-i", name];
    let output = cargo(&arguments);
    let (said, told) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    if said.is_empty() {
        assert!(told.contains("nothing to print") || told.contains("did not match any packages"), "{told}");
    }
    said.lines().skip(1).filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// cargo-deny, in other people's pipelines, is told what this test holds, and would find nothing.
#[test]
fn deny_toml_says_the_same() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deny.toml")).unwrap();
    let deny: toml::Table = text.parse().unwrap();
    let allowed = deny["licenses"]["allow"].as_array().unwrap();
    assert_eq!(allowed.iter().map(|name| name.as_str().unwrap()).collect::<Vec<_>>(), LICENCES);
    for kind in ["unknown-registry", "unknown-git"] {
        assert_eq!(deny["sources"][kind].as_str(), Some("deny"));
    }
    let (once, banned): (Vec<_>, Vec<_>) =
        deny["bans"]["deny"].as_array().unwrap().iter().partition(|ban| ban.get("deny-multiple-versions").is_some());
    assert_eq!(once.iter().map(|ban| ban["crate"].as_str().unwrap()).collect::<Vec<_>>(), ONE_COPY);
    assert!(banned.len() >= 5);
    for ban in banned {
        let allowed = ban.get("wrappers").and_then(toml::Value::as_array).map_or(&[][..], Vec::as_slice);
        let of = dependents(ban["crate"].as_str().unwrap(), "normal,build,dev");
        let strangers: Vec<_> =
            of.iter().filter(|name| !allowed.iter().any(|known| known.as_str() == Some(name))).collect();
        assert!(strangers.is_empty(), "{ban} is wanted by {strangers:?}");
    }
}

/// What the package says of itself, and how the tests of a change are begun.
#[test]
fn one_package_of_the_2024_edition_under_two_licences() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest: toml::Table = std::fs::read_to_string(root.join("Cargo.toml")).unwrap().parse().unwrap();
    let package = &manifest["package"];
    assert_eq!((package["edition"].as_str(), package["license"].as_str()), (Some("2024"), Some("Apache-2.0 OR MIT")));
    assert!(!manifest.contains_key("workspace"));
    for file in ["LICENSE-APACHE", "LICENSE-MIT", "CHANGELOG.md", "README.md", "src/lib.rs", "src/main.rs"] {
        assert!(root.join(file).exists(), "{file}");
    }
    let (rust, clippy) = (&manifest["lints"]["rust"], &manifest["lints"]["clippy"]);
    assert_eq!(rust["unsafe_code"].as_str(), Some("forbid"));
    assert_eq!(clippy["pedantic"]["level"].as_str(), Some("warn"));
    for lint in ["unwrap_used", "expect_used", "panic", "dbg_macro", "print_stdout"] {
        assert_eq!(clippy[lint].as_str(), Some("warn"), "{lint}");
    }
    for lint in ["allow_attributes", "allow_attributes_without_reason"] {
        assert_eq!(clippy[lint].as_str(), Some("deny"), "every exception says why, and goes when it is none: {lint}");
    }
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
    assert!(read(".ci/run").contains("tests/run.sh"));
    assert!(read("tests/run.sh").contains("clippy --all-targets --locked -- -D warnings"));
}

/// Clock, randomness and outgoing requests have one room each; clippy keeps everybody else out.
#[test]
fn clock_randomness_and_the_http_client_are_read_in_their_own_rooms() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let settings: toml::Table = std::fs::read_to_string(root.join("clippy.toml")).unwrap().parse().unwrap();
    let disallowed: BTreeMap<&str, &str> = settings["disallowed-methods"]
        .as_array()
        .unwrap()
        .iter()
        .map(|method| (method["path"].as_str().unwrap(), method["reason"].as_str().unwrap()))
        .collect();
    for path in [
        "std::time::SystemTime::now",
        "std::time::Instant::now",
        "tokio::time::Instant::now",
        "aws_lc_rs::rand::fill",
        "aws_lc_rs::rand::SystemRandom::new",
        "reqwest::Client::new",
        "reqwest::Client::builder",
        "reqwest::ClientBuilder::new",
        "reqwest::get",
    ] {
        assert!(disallowed.get(path).is_some_and(|reason| !reason.is_empty()), "{path}");
    }
    let src = root.join("src");
    let excepted: BTreeSet<String> = sources(&src)
        .iter()
        .filter(|path| path.file_name().is_some_and(|name| name != "tests.rs"))
        .filter(|path| std::fs::read_to_string(path).unwrap().contains("clippy::disallowed_methods"))
        .map(|path| path.strip_prefix(&src).unwrap().display().to_string())
        .collect();
    let rooms = ["clock.rs", "http/layers.rs", "outbound.rs", "secret.rs"];
    assert_eq!(excepted, rooms.map(str::to_owned).into());
}

/// T-48: what secrets, digests and codes are compared with takes the same time wherever they differ.
#[test]
fn t48_the_one_comparison_of_secrets_is_the_constant_time_one() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/secret.rs")).unwrap();
    let body = text.split("pub fn equal(a: &[u8], b: &[u8]) -> bool {").nth(1).unwrap().split('}').next().unwrap();
    assert_eq!(body.trim(), "aws_lc_rs::constant_time::verify_slices_are_equal(a, b).is_ok()");
}
