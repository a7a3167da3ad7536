//! README: what a newcomer pastes works. (Its configuration reference is held to the definitions in `config`.)

use std::path::Path;
use std::process::Command;

use crate::dev::Folder;
use crate::process::{Process, Said, clean, port, program, run};
use crate::support::{Engine, Place};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn readme() -> String {
    std::fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap()
}

/// What is indented by four spaces, block by block, and the text of every ```` ```toml ```` block.
fn blocks() -> (Vec<String>, Vec<String>) {
    let (mut commands, mut files, mut in_file, mut in_commands) =
        (Vec::<String>::new(), Vec::<String>::new(), false, false);
    for line in readme().lines() {
        if let Some(kind) = line.strip_prefix("```") {
            in_file = kind == "toml";
            if in_file {
                files.push(String::new());
            }
        } else if in_file {
            files.last_mut().unwrap().extend([line, "\n"]);
        } else if let Some(command) = line.strip_prefix("    ") {
            if !in_commands {
                commands.push(String::new());
            }
            commands.last_mut().unwrap().extend([command, "\n"]);
        }
        in_commands = !in_file && line.starts_with("    ");
    }
    (commands, files)
}

fn containing<'a>(blocks: &'a [String], text: &str) -> &'a str {
    let mut found = blocks.iter().filter(|block| block.contains(text));
    let block = found.next().unwrap_or_else(|| panic!("README has no block with {text:?}"));
    assert!(found.next().is_none(), "README has several blocks with {text:?}");
    block
}

/// A folder in which `sealwright` is a command.
struct Shell {
    place: Place,
    port: u16,
    management: u16,
}

impl Shell {
    async fn new(engine: Engine) -> Self {
        let place = Place::new(engine).await;
        std::fs::create_dir(place.folder.join("bin")).unwrap();
        std::os::unix::fs::symlink(program(), place.folder.join("bin/sealwright")).unwrap();
        Self { place, port: port(), management: port() }
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.place.folder.join(name), text).unwrap();
    }

    /// bash, with ports that are free here instead of the default ones.
    fn bash(&self, lines: &str) -> Command {
        let mut bash = Command::new("bash");
        clean(&mut bash, &self.place.folder);
        let path = std::env::var("PATH").unwrap();
        bash.env("PATH", format!("{}/bin:{path}", self.place.folder.display()));
        bash.env("SEALWRIGHT_HTTP__LISTEN", format!("127.0.0.1:{}", self.port));
        bash.env("SEALWRIGHT_MANAGEMENT__LISTEN", format!("127.0.0.1:{}", self.management));
        bash.args(["-c", lines]);
        bash
    }

    #[track_caller]
    fn paste(&self, lines: &str) -> Said {
        run(self.bash(&format!("set -e\n{lines}")), None).fine()
    }

    async fn serve(&self, line: &str) -> Process {
        Process::start(self.bash(&format!("exec {line}")), self.port, self.management).await
    }
}

#[tokio::test]
async fn the_first_commands_run_it_test_it_and_get_a_token() {
    let (commands, _) = blocks();
    assert_eq!(commands[0], "cargo run --release -- serve --dev\n");
    assert_eq!(commands[1], "bash tests/run.sh\n");
    assert!(Path::new(ROOT).join("tests/run.sh").exists());
    // The third is pasted while the first runs: the program is where `cargo run --release` puts it.
    let folder = Folder::new().await;
    let _server = folder.serve().await;
    std::fs::create_dir_all(folder.path().join("target/release")).unwrap();
    std::os::unix::fs::symlink(program(), folder.path().join("target/release/sealwright")).unwrap();
    let said = folder.paste(&commands[2]);
    assert!(
        said.stdout.trim().matches('.').count() == 2 && said.stderr.contains("\"client_id\": \"demo-service\""),
        "{said:?}"
    );
    // The fourth waits for a person (login_command.rs is one); here nobody comes.
    let said = folder.try_paste(&format!("{} --timeout 1", commands[3].trim_end()));
    assert!(said.status == 1 && said.stderr.contains("/oauth2/authorize?"), "{said:?}");
}

#[tokio::test]
async fn a_server_of_your_own_and_its_first_apply_file() {
    let (commands, files) = blocks();
    let shell = Shell::new(Engine::Sqlite).await;
    shell.write("sealwright.toml", containing(&files, "issuer = "));
    let lines: Vec<&str> = containing(&commands, "sealwright check").lines().collect();
    let said = shell.paste(lines[0]);
    assert!(said.stdout.starts_with("issuer: https://id.example.com\n"), "{said:?}");
    let mut server = shell.serve(lines[1]).await;
    for file in ["sealwright.db", "sealwright.key"] {
        assert!(readme().contains(&format!("`{file}`")) && shell.place.folder.join(file).exists(), "{file}");
    }

    shell.write("orders.toml", containing(&files, "edge-gateway"));
    let lines: Vec<&str> = containing(&commands, "sealwright apply --dry-run").lines().collect();
    let said = shell.paste(lines[0]);
    assert!(said.stdout.is_empty() && said.stderr.contains("+ client orders-sync"), "{said:?}");
    let said = shell.paste(lines[1]);
    let secrets: Vec<Vec<&str>> = said.stdout.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(secrets.len(), 2, "client, label, secret: {said:?}");
    let secret = secrets.iter().find(|line| line[0] == "orders-sync").expect("its own line")[2];
    server.token(("orders-sync", secret)).await;
    assert!(shell.paste(lines[1]).stderr.contains("3 as before"));

    shell.write("people.toml", containing(&files, "username = \"ada\""));
    let lines: Vec<&str> = containing(&commands, "sealwright user reset").lines().collect();
    let said = shell.paste(lines[0]);
    assert!(said.stdout.starts_with("shop\tdefault\t"), "{said:?}");
    let said = shell.paste(lines[1]);
    assert!(said.stdout.trim().len() >= 15, "{said:?}");

    // The other files are taken as they stand, too; the times in them may have passed.
    for file in files.iter().filter(|file| file.contains("client_secrets = [") || file.contains("private_key_jwt")) {
        shell.write("more.toml", file);
        shell.paste("sealwright apply more.toml");
    }
    assert_eq!(server.terminate(), 0);
}

#[tokio::test]
async fn several_nodes() {
    let (commands, _) = blocks();
    let shell = Shell::new(Engine::Postgres).await;
    let lines = containing(&commands, "sealwright migrate")
        .replace("postgres://sealwright@db/sealwright", &format!("'{}'", shell.place.url));
    let (before, serve) = lines.trim_end().rsplit_once('\n').unwrap();
    assert!(serve.starts_with("sealwright serve"), "{serve}");
    let said = shell.paste(before);
    assert!(said.stderr.contains("has this release's schema"), "{said:?}");
    let exports: Vec<&str> = before.lines().filter(|line| line.starts_with("export ")).collect();
    let issuer = format!("export SEALWRIGHT_ISSUER=http://127.0.0.1:{}", shell.port);
    let bash = format!("{}\n{issuer}\nexec {serve}", exports.join("\n"));
    Process::start(shell.bash(&bash), shell.port, shell.management).await;
}

#[test]
fn the_files_that_it_points_at_are_there() {
    let text = readme();
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let mut seen = 0;
    for target in targets.filter(|target| !target.contains("://") && !target.starts_with('#')) {
        assert!(Path::new(ROOT).join(target).exists(), "{target}");
        seen += 1;
    }
    assert!(seen >= 4, "{seen}");
}

/// Whoever revokes a key reads here what that does not reach, and for how long; the recipes' tests hold it.
#[test]
fn what_an_offline_verifier_still_accepts_is_told() {
    let text = readme().split_whitespace().collect::<Vec<_>>().join(" ");
    let section = text.split("**When a key leaked**").nth(1).unwrap().split("### ").next().unwrap();
    let minutes = sealwright::config::Config::default().keys.jwks_max_age_seconds / 60;
    for told in [
        "makes every token that it signed inactive at introspection on every node",
        "Who verifies by signature alone, offline, goes on accepting what the key signed, and what a thief signs with it",
        &format!("{minutes} minutes if they go by `max-age`"),
        "for as long as they do, which for a thief's tokens no `exp` shortens",
    ] {
        assert!(section.contains(told), "{told}");
    }
}

/// Every command of the table, and no other.
#[test]
fn the_table_of_commands_is_whole() {
    let help = run(crate::process::command(Path::new(ROOT), &["--help"]), None).fine().stdout;
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let mut listed: Vec<&str> =
        listed.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").collect();
    let text = readme();
    let section = text.split("\n## Command line\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    let mut told: Vec<&str> = rows
        .flat_map(|row| row.split(','))
        .filter_map(|name| name.trim().trim_matches('`').split(' ').next())
        .collect();
    listed.sort_unstable();
    told.sort_unstable();
    assert_eq!(told, listed);
}
