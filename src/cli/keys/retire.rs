//! `sealwright keys retire`.

use super::{Desk, OneKey, confirm, refused, rfc3339};
use crate::audit::Actor;
use crate::cli::output::{Failure, say};
use crate::clock::SECOND;
use crate::keys::KeyState;
use crate::keys::rotate::Refusal;

/// End a retiring key before its time
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  sealwright keys retire n2Yw5cF0bW3mJ4yQ8sT1uV6xZ7aD9eG_hKiLpOqRrSt --config sealwright.toml

It says what breaks, and asks. Only a key that signs no more can be ended so; see `keys rotate`, and `keys revoke` for
one that leaked.")]
pub struct Args {
    #[command(flatten)]
    key: OneKey,
}

/// Retires it.
pub async fn run(Args { key: args }: Args) -> Result<(), Failure> {
    let desk = Desk::open(&args.source).await?;
    let (row, algorithm, state) = desk.find(&args.kid).await?;
    if state != KeyState::Retiring {
        return Err(refused(&Refusal::State(Some(state))));
    }
    let longest = i64::from(desk.config.keys_outlast_seconds()) * SECOND;
    let last = row.times.remove_at.min(row.times.retire_at + longest);
    if last <= desk.clock.now() {
        say("Nothing breaks: all tokens that it signed have expired.");
    } else {
        say(format_args!(
            "Tokens that it signed before {} are dead from now on: inactive at introspection at once, and unknown to \
             verifiers when their copy of the JWKS ends, within {} s. The last of them would have been good until {}.",
            rfc3339(row.times.retire_at),
            desk.config.keys.jwks_max_age_seconds,
            rfc3339(last)
        ));
        confirm(args.yes, "End it now?")?;
    }
    let changed = desk.keys.retire(&desk.db, algorithm, &args.kid, Actor::command_line()).await?;
    desk.finish(algorithm, changed).await?.give(args.json, "It is retired.")
}
