//! `sealwright keys rotate`.

use super::{Desk, refused};
use crate::audit::Actor;
use crate::cli::output::{Failure, give_json};
use crate::cli::source::Source;
use crate::keys::KeyState;
use crate::keys::rotate::{Refusal, lives};
use crate::wire::Algorithm;

/// Move to the next key at once, and publish the one after it
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  sealwright keys rotate --config sealwright.toml
  sealwright keys rotate --alg EdDSA --dev

The schedule does this by itself. What the old key signed stays good until it expires. When this returns, running
servers sign with the new key.")]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// Only this algorithm: RS256, EdDSA, ES256 or PS256
    #[arg(long, value_name = "ALG")]
    alg: Option<Algorithm>,
    /// Also to a key that verifiers may not know yet: who keeps a copy of the JWKS may refuse its tokens for so long
    #[arg(long)]
    now: bool,
    /// Give the result as JSON on stdout
    #[arg(long)]
    json: bool,
}

/// Rotates them.
pub async fn run(args: Args) -> Result<(), Failure> {
    let desk = Desk::open(&args.source).await?;
    let configured = desk.keys.schedule().algorithms();
    let algorithms = match args.alg {
        Some(algorithm) if !configured.contains(&algorithm) => {
            return Err(Failure::usage(format!("--alg: {algorithm} is not among keys.algorithms")));
        }
        Some(algorithm) => vec![algorithm],
        None => configured.to_vec(),
    };
    if !args.now {
        ready(&desk, &algorithms).await?;
    }
    let mut outcomes = Vec::new();
    for algorithm in algorithms {
        let changed = desk.keys.rotate(&desk.db, algorithm, args.now, Actor::command_line()).await?;
        outcomes.push(desk.finish(algorithm, changed).await?);
    }
    if args.json {
        return give_json(&outcomes);
    }
    outcomes.iter().for_each(super::Outcome::tell);
    Ok(())
}

/// All of them or none: the standby of each algorithm is known to verifiers.
async fn ready(desk: &Desk, algorithms: &[Algorithm]) -> Result<(), Failure> {
    let (rows, now, schedule) = (desk.rows().await?, desk.clock.now(), desk.keys.schedule());
    for &algorithm in algorithms {
        let keys = lives(&rows, algorithm);
        let standby = keys.iter().find(|key| key.state == KeyState::Published);
        match standby.map(|standby| schedule.known_from(&standby.times)) {
            None => return Err(refused(&Refusal::NoStandby)),
            Some(known) if now < known => return Err(refused(&Refusal::Unknown(known))),
            Some(_) => {}
        }
    }
    Ok(())
}
