//! `sealwright apply`: plan, tell, commit, wait for the running servers.

use std::fs::read_to_string;
use std::path::PathBuf;

use serde::Serialize;

use super::database;
use super::dev;
use super::issuer::stdin;
use super::output::{Failure, give, give_json, say};
use super::source::Source;
use crate::app;
use crate::apply::{self, Applied, Change, Format, Generated, Options};
use crate::audit::Action;
use crate::clock::Clock;
use crate::password::PasswordHasher;

/// Set up clients and resources as a file says; what is so already stays as it is
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  sealwright apply --config sealwright.toml orders.toml
  sealwright apply --dev --dry-run orders.toml
  sealwright export --config a.toml | sealwright apply --config b.toml -

What changes is told on stderr. Secrets that were generated are on stdout, this once: client, label and secret, parted
by tabs. When the command returns, running servers act on the change. All of the file is applied, or nothing.")]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// Show what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Also remove what earlier files made and this one does not name
    #[arg(long)]
    prune: bool,
    /// Give changes and generated secrets as JSON on stdout
    #[arg(long)]
    json: bool,
    /// TOML or JSON; - is stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// What `--json` gives.
#[derive(Serialize)]
struct Report<'a> {
    dry_run: bool,
    changes: &'a [serde_json::Value],
    secrets: Vec<Made<'a>>,
}

/// A generated secret; this is the one time that it is shown.
#[derive(Serialize)]
struct Made<'a> {
    client_id: &'a str,
    label: &'a str,
    client_secret: &'a str,
}

/// `sealwright apply`.
pub async fn run(args: Args) -> Result<(), Failure> {
    let config = args.source.load_valid()?;
    let path = (args.file.as_os_str() != "-").then_some(args.file.as_path());
    let name = path.map_or_else(|| "stdin".to_owned(), |path| path.display().to_string());
    let text = path.map_or_else(stdin, read_to_string);
    let text = text.map_err(|cause| Failure::failed(format!("cannot read {name}: {cause}")))?;
    let file =
        apply::parse(&text, Format::of(path, &text)).map_err(|cause| Failure::failed(format!("{name}: {cause}")))?;

    if args.source.dev {
        dev::make_folder()?;
    }
    let opened = app::open(&config, Clock::system(), false).await?;
    opened.notes.iter().for_each(say);
    let passwords = PasswordHasher::new(app::hash_settings(&config))?;
    let issuer = config.issuer.as_ref().map(ToString::to_string).unwrap_or_default();
    let options = Options {
        prune: args.prune,
        max_lifetime: config.tokens.max_access_token_lifetime_seconds,
        algorithms: &config.keys.algorithms,
        min_password_length: app::min_password_length(&config),
        allow_http: config.outbound.allow_http,
        issuer: &issuer,
        service: &config.branding.name,
    };
    let plan = apply::plan(&opened.db, &file, &options, &passwords).await?;
    plan.to_string().lines().for_each(say);
    let changes = plan.changes.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
    if args.dry_run {
        say("Nothing was changed (--dry-run).");
        let report = Report { dry_run: true, changes: &changes, secrets: Vec::new() };
        return if args.json { give_json(&report) } else { Ok(()) };
    }
    let summary = summary(&plan.changes);
    let Applied { generated, seq } = apply::commit(&opened.db, plan, &passwords).await?;
    // First of all: they cannot be shown again.
    print(&generated, &changes, args.json)?;
    database::acted_on(&opened.db, &opened.clock, seq).await?;
    say(summary);
    Ok(())
}

fn print(generated: &[Generated], changes: &[serde_json::Value], json: bool) -> Result<(), Failure> {
    let made = generated.iter().map(|Generated { client_id, label, secret }| Made {
        client_id,
        label,
        client_secret: secret.expose(),
    });
    let given = if json {
        give_json(&Report { dry_run: false, changes, secrets: made.collect() })
    } else {
        let line = |made: Made<'_>| format!("{}\t{}\t{}", made.client_id, made.label, made.client_secret);
        made.map(line).try_for_each(give)
    };
    given.map_err(|cause| match generated {
        [] => cause,
        _ => Failure::failed(
            "the change is stored, but the generated secrets could not be written to stdout and are lost; remove their \
             labels from the client and apply again to get new ones",
        ),
    })
}

fn summary(changes: &[Change]) -> String {
    let count = |action| changes.iter().filter(|change| change.action == action).count();
    format!(
        "Applied: {} made, {} changed, {} removed, {} as before.",
        count(Action::Create),
        count(Action::Change),
        count(Action::Remove),
        count(Action::Unchanged)
    )
}
