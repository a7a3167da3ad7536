//! `sealwright export`: the opposite of `apply`.

use super::database;
use super::output::{Failure, give};
use super::source::Source;
use crate::apply;

/// Write what is set up as an apply file. Secrets are not in it: the database does not have them
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  sealwright export --config sealwright.toml > setup.toml
  sealwright export --dev --json")]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// As JSON instead of TOML
    #[arg(long)]
    json: bool,
}

/// `sealwright export`.
pub async fn run(args: Args) -> Result<(), Failure> {
    let db = database::open_ready(&args.source.load()?).await?;
    let export = apply::export(&db).await?;
    give(if args.json { export.to_json()? } else { export.to_toml()? }.trim_end())
}
