//! `sealwright keys reseal`.

use serde::Serialize;

use crate::app;
use crate::cli::dev;
use crate::cli::output::{Failure, give, give_json, say};
use crate::cli::source::Source;
use crate::clock::Clock;
use crate::keys::master::{self, Seals, Turned};

/// Seal everything secret in the database with the newest master key
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  sealwright keys reseal --config sealwright.toml
  sealwright keys reseal --config sealwright.toml --json

The newest master key is the first one in the file, or in the setting. Every running server must have it: add it
everywhere, restart, reseal, and only then remove the old one. Works beside running servers; when it is broken off, run
it again.")]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// What was done, as scripts read it.
#[derive(Serialize)]
struct Report<'a> {
    sealed_by: &'a str,
    rewritten: &'a Seals,
    left: &'a [String],
}

/// `sealwright keys reseal`.
pub async fn run(args: Args) -> Result<(), Failure> {
    let config = args.source.load_valid()?;
    if args.source.dev {
        dev::make_folder()?;
    }
    let opened = app::open(&config, Clock::system(), false).await?;
    opened.notes.iter().for_each(say);
    let (db, keys) = (&opened.db, &opened.master);
    let newest = keys.newest().id().to_string();
    match master::turn(db, keys.clone()).await? {
        Turned::Already => {}
        Turned::From(old) => say(format_args!("The master key {newest} seals from now on; {old} did before.")),
        Turned::Lacking(servers) => {
            return Err(Failure::failed(format!(
                "nothing was changed: {servers} running servers do not have the master key {newest}, and could not open \
                 what it seals; add it to the configuration of every server, restart them, and run this again"
            )));
        }
    }
    let done = master::reseal(db, keys).await?;
    if args.json {
        give_json(&Report { sealed_by: &newest, rewritten: &done.rewritten, left: &done.left })?;
    } else {
        give(format_args!("sealed anew: {}", master::told(&done.rewritten)))?;
    }
    let census = db.read(|conn| Box::pin(master::census(conn))).await?;
    for id in keys.ids().split(' ').filter(|id| *id != newest) {
        match census.get(id) {
            None => say(format_args!("The master key {id} seals nothing any more: remove it, on every server.")),
            Some(seals) => say(format_args!("The master key {id} still seals {}.", master::told(seals))),
        }
    }
    if done.left.is_empty() {
        return Ok(());
    }
    let left: Vec<String> = done.left.iter().map(|left| format!("not sealed anew: {left}")).collect();
    Err(Failure::failed(left.join("\n")))
}
