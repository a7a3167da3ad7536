//! `sealwright check`: what `serve` would refuse, and what it would do.

use super::output::{Failure, give};
use super::source::Source;

/// Check the configuration and say what the server would do; nothing is opened or changed
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  sealwright check
  sealwright check --config /etc/sealwright.toml

Each problem is one line on stderr and names the key and where its value came from.")]
pub struct Args {
    #[command(flatten)]
    source: Source,
}

/// `sealwright check`.
pub fn run(args: &Args) -> Result<(), Failure> {
    give(args.source.load_valid()?.summary().join("\n"))
}
