//! `sealwright migrate`: the schema, and nothing else.

use super::database;
use super::output::{Failure, say};
use super::source::Source;

/// Bring the database to this release's schema
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  sealwright migrate --config /etc/sealwright.toml

On PostgreSQL, run it before the new release starts: the previous release works on the new schema, and `serve` waits,
not ready, until it is there. On SQLite `serve` does it by itself. Running it again changes nothing.")]
pub struct Args {
    #[command(flatten)]
    source: Source,
}

/// `sealwright migrate`.
pub async fn run(args: Args) -> Result<(), Failure> {
    let config = args.source.load()?;
    let db = database::open(&config).await?;
    db.migrate().await?;
    say(format_args!("The database has this release's schema ({}).", config.database.url.describe()));
    Ok(())
}
