//! `sealwright check`: what `serve` would refuse, and what it would do.

use super::output::{Failure, give};
use super::source::Source;
use crate::config::{Errors, open_files};

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
    let config = args.source.load_valid()?;
    let connections = config.connections(open_files()).map_err(|problem| Errors(vec![problem]))?;
    let mut lines = config.summary();
    lines.push(format!("connections: {connections} at one time for each listener"));
    give(lines.join("\n"))
}
