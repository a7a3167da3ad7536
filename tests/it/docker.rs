//! What is in docker/, as far as it can be known without an engine: the build is sent all that it reads, the image runs
//! the program as nobody in particular, and the settings of both files are settings.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use sealwright::config::Config;

use crate::process::{Said, clean, command, run};
use crate::support::{Engine, Place};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(ROOT).join(name)).unwrap()
}

/// The instructions of the Dockerfile, stage by stage: word and rest, continued lines as one.
fn stages() -> Vec<Vec<(String, String)>> {
    let text = read("docker/Dockerfile").replace("\\\n", " ");
    let mut stages: Vec<Vec<(String, String)>> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let (word, rest) = line.split_once(' ').unwrap();
        if word == "FROM" {
            stages.push(Vec::new());
        }
        stages.last_mut().unwrap().push((word.to_owned(), rest.split_whitespace().collect::<Vec<_>>().join(" ")));
    }
    stages
}

/// The rest of each instruction of this word.
fn all<'s>(stage: &'s [(String, String)], word: &str) -> Vec<&'s str> {
    stage.iter().filter(|(found, _)| found == word).map(|(_, rest)| rest.as_str()).collect()
}

#[track_caller]
fn one<'s>(stage: &'s [(String, String)], word: &str) -> &'s str {
    let [rest] = all(stage, word)[..] else { panic!("{word} stands once in a stage: {stage:?}") };
    rest
}

/// An instruction's command: without a shell only the form of a JSON list is one.
#[track_caller]
fn exec(text: &str) -> Vec<String> {
    serde_json::from_str(text).unwrap_or_else(|cause| panic!("{text}: {cause}"))
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(from, to).unwrap();
    }
}

/// The build is sent what is allowed by name, and that is all that it reads.
#[tokio::test]
async fn the_image_is_built_of_what_is_sent() {
    let [build, image] = &stages()[..] else { panic!("two stages") };
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let rust = manifest["package"]["rust-version"].as_str().unwrap();
    let (from, name) = one(build, "FROM").split_once(" AS ").unwrap();
    let debian = from.strip_prefix(&format!("rust:{rust}-")).expect("the Rust of Cargo.toml");
    // One C library for both: Debian 12 is bookworm.
    assert_eq!((debian, one(image, "FROM").contains("-debian12:")), ("bookworm", true));
    assert_eq!(all(build, "COPY"), [". ."]);
    let made = one(build, "RUN");
    assert!(made.contains("cargo build --release --locked --bin sealwright"), "{made}");
    for copied in all(image, "COPY") {
        let words: Vec<&str> = copied.split(' ').filter(|word| !word.starts_with("--chown=")).collect();
        let [stage, source, _] = words[..] else { panic!("{copied}") };
        assert_eq!(stage, format!("--from={name}"));
        assert!(
            made.split(" && ").any(|step| step.starts_with("install ") && step.ends_with(source)),
            "{copied}: {made}"
        );
    }

    let rules = read("docker/Dockerfile.dockerignore");
    let rules: Vec<&str> = rules.lines().filter(|rule| !rule.starts_with('#')).collect();
    assert_eq!(rules[0], "*", "what is not named is not sent");
    let place = Place::new(Engine::Sqlite).await;
    let sent = place.folder.join("sent");
    for rule in &rules[1..] {
        match rule.strip_prefix('!') {
            Some(allowed) => copy(&Path::new(ROOT).join(allowed), &sent.join(allowed)),
            None => std::fs::remove_dir_all(sent.join(rule)).unwrap(),
        }
    }
    for secret in ["docker", "target", "sealwright-dev", ".git", ".env"] {
        assert!(!sent.join(secret).exists(), "{secret}");
    }
    let listed = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(&sent)
        .output()
        .unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let benches = manifest["bench"].as_array().unwrap().iter().map(|bench| bench["name"].as_str().unwrap());
    for name in benches {
        assert!(sent.join("benches").join(name).with_extension("rs").exists(), "Cargo.toml names the bench {name}");
    }
    let mut included = 0;
    for (file, text) in sources(&sent.join("src")) {
        let texts = |before: &str| -> Vec<String> {
            text.split(before).skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
        };
        let beside = ["include_str!(\"", "include_bytes!(\""].iter().flat_map(|name| texts(name));
        let beside = beside.map(|path| file.parent().unwrap().join(path));
        let templates = texts("#[template(path = \"").into_iter().map(|path| sent.join("templates").join(path));
        for path in beside.chain(templates) {
            assert!(path.exists(), "{} is read by {}", path.display(), file.display());
            included += 1;
        }
    }
    assert!(included > 10, "{included}");
}

fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else {
            let text = std::fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    found
}

#[tokio::test]
async fn the_image_runs_the_program_without_a_shell_and_not_as_root() {
    let [_, image] = &stages()[..] else { panic!("two stages") };
    // The base sets the user 65532 and has no shell: nothing may be RUN in it, and nobody takes another user.
    assert!(one(image, "FROM").starts_with("gcr.io/distroless/") && one(image, "FROM").ends_with(":nonroot"));
    assert!(all(image, "RUN").is_empty() && all(image, "USER").is_empty() && all(image, "SHELL").is_empty());
    let [program, data] = all(image, "COPY")[..] else { panic!("{image:?}") };
    assert!(program.starts_with("--from=build --chown=0:0 ") && data.contains("--chown=65532:65532 "), "{image:?}");
    let program = program.rsplit(' ').next().unwrap();
    for (word, place) in [("WORKDIR", "/data"), ("VOLUME", "/data"), ("STOPSIGNAL", "SIGTERM")] {
        assert_eq!(one(image, word), place);
    }
    assert!(data.ends_with(" /data"));

    // What it runs are commands of the program.
    let folder = Place::new(Engine::Sqlite).await;
    let entry = exec(one(image, "ENTRYPOINT"));
    assert_eq!(entry, [program]);
    let check = exec(one(image, "HEALTHCHECK").split_once(" CMD ").unwrap().1);
    assert_eq!((check.len(), check[0].as_str()), (2, program));
    let mut commands = vec![check[1].clone()];
    commands.extend(exec(one(image, "CMD")));
    commands.extend(exec(compose().iter().find_map(|line| line.strip_prefix("    command: ")).unwrap()));
    assert_eq!(commands, ["healthcheck", "serve", "migrate"]);
    for name in &commands {
        run(command(&folder.folder, &[name, "--help"]), None).fine();
    }

    // Where it listens, and what is looked at from within.
    let said = checked(&folder, &[("SEALWRIGHT_ISSUER".into(), "https://id.example.com".into())]).fine().stdout;
    assert!(said.contains("http: 0.0.0.0:8080\n") && said.contains("management: 127.0.0.1:"), "{said}");
    let tls = Config::default().tls.listen[0].to_string();
    assert_eq!(one(image, "EXPOSE"), format!("8080 {}", tls.rsplit(':').next().unwrap()));
}

/// `check` with the settings of the image and these.
fn checked(place: &Place, more: &[(String, String)]) -> Said {
    let stages = stages();
    let mut check = command(&place.folder, &["check"]);
    for setting in all(stages.last().unwrap(), "ENV") {
        let (name, value) = setting.split_once('=').unwrap();
        check.env(name, value);
    }
    check.envs(more.iter().map(|(name, value)| (name, value)));
    run(check, None)
}

fn compose() -> Vec<String> {
    read("docker/compose.yaml").lines().filter(|line| !line.trim_start().starts_with('#')).map(str::to_owned).collect()
}

/// The lines under a heading, as far as they stand deeper, without its indentation.
fn section(lines: &[String], heading: &str) -> Vec<String> {
    let at = lines.iter().position(|line| line == heading).unwrap_or_else(|| panic!("no {heading}"));
    let deep = heading.len() - heading.trim_start().len();
    let inside = |line: &&String| line.trim().is_empty() || line.len() - line.trim_start().len() > deep;
    lines[at + 1..].iter().take_while(inside).filter(|line| !line.trim().is_empty()).cloned().collect()
}

fn pairs(lines: &[String]) -> BTreeMap<String, String> {
    lines.iter().map(|line| line.trim().split_once(": ").unwrap()).map(|(a, b)| (a.into(), b.into())).collect()
}

/// `${NAME:-default}` is its default, as for somebody who sets nothing.
fn by_default(value: &str) -> String {
    value
        .strip_prefix("${")
        .and_then(|rest| rest.strip_suffix('}')?.split_once(":-"))
        .map_or(value, |(_, text)| text)
        .into()
}

#[tokio::test]
async fn the_compose_file_sets_up_two_nodes_with_secrets_of_their_own() {
    let lines = compose();
    let node = section(&lines, "x-sealwright: &sealwright");
    for line in ["  read_only: true", "  cap_drop: [ALL]", "  security_opt: [\"no-new-privileges:true\"]"] {
        assert!(node.iter().any(|found| found == line), "{line}: {node:?}");
    }
    assert!(Path::new(ROOT).join("docker").join("..").join("docker/Dockerfile").exists());
    assert!(
        node.contains(&"    context: ..".to_owned()) && node.contains(&"    dockerfile: docker/Dockerfile".to_owned())
    );

    // secrets.sh makes what the file names, for nobody else to read, and leaves what is there.
    let place = Place::new(Engine::Sqlite).await;
    let docker = place.folder.join("docker");
    copy(&Path::new(ROOT).join("docker/secrets.sh"), &docker.join("secrets.sh"));
    let make = || {
        let mut sh = Command::new("sh");
        clean(&mut sh, &place.folder);
        sh.arg(docker.join("secrets.sh"));
        run(sh, None).fine();
    };
    make();
    let first = std::fs::read_to_string(docker.join("secrets/master_key")).unwrap();
    make();
    assert_eq!(std::fs::read_to_string(docker.join("secrets/master_key")).unwrap(), first, "made once");
    let secrets = pairs(&section(&lines, "secrets:"));
    assert_eq!(secrets.len(), 3);
    let file = |name: &str| {
        let place = &secrets[name];
        docker.join(place.strip_prefix("{ file: ").and_then(|rest| rest.strip_suffix(" }")).unwrap())
    };
    for name in secrets.keys() {
        let mode = std::fs::metadata(file(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    // The containers run as who may read them, which is never root.
    let user = std::fs::read_to_string(docker.join(".env")).unwrap();
    let user = user.trim().strip_prefix("SEALWRIGHT_USER=").unwrap();
    assert!(!user.starts_with("0:") && user.split(':').count() == 2, "{user}");
    assert!(
        node.iter().any(|line| line.starts_with("  user: ${SEALWRIGHT_USER:?")),
        "nobody starts them as root by mistake"
    );
    for ignored in ["docker/secrets/", "docker/.env"] {
        assert!(read(".gitignore").lines().any(|line| line == ignored), "{ignored}");
    }

    // Its settings are settings, and they say what its other services are.
    let given = node.iter().find_map(|line| line.strip_prefix("  secrets: [")?.strip_suffix(']')).unwrap();
    let settings: Vec<(String, String)> = pairs(&section(&node, "  environment:"))
        .into_iter()
        .map(|(name, value)| {
            let value = by_default(&value);
            let value = value.strip_prefix("/run/secrets/").map_or(value.clone(), |secret| {
                assert!(given.split(", ").any(|name| name == secret), "{secret} is given to it");
                file(secret).display().to_string()
            });
            (name, value)
        })
        .collect();
    assert!(settings.len() >= 4 && settings.iter().all(|(name, _)| name.starts_with("SEALWRIGHT_")), "{settings:?}");
    let said = checked(&place, &settings).fine().stdout;
    let subnet = section(&lines, "networks:").concat();
    let (_, subnet) = subnet.split_once("subnet: \"").unwrap();
    let subnet = by_default(subnet.split('"').next().unwrap());
    for line in [
        "issuer: http://localhost:8080\n",
        "database: PostgreSQL, postgres port 5432, database \"sealwright\"",
        &format!("master key: file {}", file("master_key").display()),
        &format!("trusted proxies: {subnet}\n"),
        "http: 0.0.0.0:8080\n",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }

    let services = section(&lines, "services:");
    let named: Vec<&str> = services
        .iter()
        .filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' '))?.split(':').next())
        .collect();
    assert_eq!(named, ["postgres", "migrate", "node-a", "node-b", "proxy"]);
    // The proxy knows both nodes, and listens where its port is published.
    let proxy = read("docker/proxy.conf");
    for node in ["node-a", "node-b"] {
        assert!(proxy.contains(&format!("    server {node}:8080 resolve;\n")), "{node}");
    }
    assert!(proxy.contains("    listen 8080;\n"));
    let proxy = section(&services, "  proxy:").concat();
    assert!(proxy.contains("\"127.0.0.1:8080:8080\"") && proxy.contains("./proxy.conf:"), "{proxy}");
    let password = std::fs::read_to_string(file("postgres_password")).unwrap();
    let url = std::fs::read_to_string(file("database_url")).unwrap();
    assert_eq!(url.trim(), format!("postgres://sealwright:{}@postgres:5432/sealwright", password.trim()));
    assert!(section(&services, "  postgres:").concat().contains("POSTGRES_USER: sealwright"));
}
