//! `sealwright keys`: the signing keys of the database. One file for each command.

mod export_public;
mod import;
mod list;
mod reseal;
mod retire;
mod revoke;
mod rotate;

pub(super) use import::read as read_key;

use std::io::{IsTerminal as _, Write as _};

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::output::{Failure, give_json, say};
use super::source::Source;
use super::{database, dev};
use crate::app;
use crate::clock::{Clock, Micros};
use crate::config::Config;
use crate::keys::rotate::{Refusal, Turned};
use crate::keys::{KeyState, Keys};
use crate::store::signing_keys::{self, SigningKeyRow};
use crate::store::{Committed, Db, StoreError};
use crate::wire::Algorithm;

/// Signing keys: list them, and change them before the schedule does
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    List(list::Args),
    Rotate(rotate::Args),
    Retire(retire::Args),
    Revoke(revoke::Args),
    Import(import::Args),
    ExportPublic(export_public::Args),
    Reseal(reseal::Args),
}

/// What a command takes that ends one key.
#[derive(clap::Args)]
struct OneKey {
    /// Which key, as `keys list` shows it
    #[arg(value_name = "KID", allow_hyphen_values = true)]
    kid: String,
    #[command(flatten)]
    source: Source,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Give the result as JSON on stdout
    #[arg(long)]
    json: bool,
}

/// `sealwright keys …`.
pub async fn run(args: Args) -> Result<(), Failure> {
    match args.command {
        Command::List(args) => list::run(args).await,
        Command::Rotate(args) => rotate::run(args).await,
        Command::Retire(args) => retire::run(args).await,
        Command::Revoke(args) => revoke::run(args).await,
        Command::Import(args) => import::run(args).await,
        Command::ExportPublic(args) => export_public::run(args).await,
        Command::Reseal(args) => reseal::run(args).await,
    }
}

/// The database with what opens and makes its keys.
struct Desk {
    config: Config,
    db: Db,
    clock: Clock,
    keys: Keys,
}

impl Desk {
    async fn open(source: &Source) -> Result<Self, Failure> {
        let config = source.load_valid()?;
        if source.dev {
            dev::make_folder()?;
        }
        let opened = app::open(&config, Clock::system(), false).await?;
        opened.notes.iter().for_each(say);
        let keys = Keys::new(opened.master, &config);
        Ok(Self { config, db: opened.db, clock: opened.clock, keys })
    }

    async fn rows(&self) -> Result<Vec<SigningKeyRow>, StoreError> {
        self.db.read(|conn| Box::pin(signing_keys::list(conn))).await
    }

    /// The key `kid`, its algorithm and its state.
    async fn find(&self, kid: &str) -> Result<(SigningKeyRow, Algorithm, KeyState), Failure> {
        let found = self.rows().await?.into_iter().find(|row| row.kid == kid);
        let row = found.ok_or_else(|| {
            Failure::failed(format!("there is no signing key {kid}; see `sealwright keys list` for those there are"))
        })?;
        let (algorithm, state) = (row.alg.parse()?, row.state.parse()?);
        Ok((row, algorithm, state))
    }

    /// Waits until running servers act on a change, and gives what it came to.
    async fn finish(
        &self,
        algorithm: Algorithm,
        changed: Committed<Result<Turned, Refusal>>,
    ) -> Result<Outcome, Failure> {
        let Turned { active, standby } = changed.value.map_err(|refusal| refused(&refusal))?;
        database::acted_on(&self.db, &self.clock, changed.seq).await?;
        Ok(Outcome { alg: algorithm, active, standby })
    }
}

/// What `--json` gives of a change.
#[derive(Serialize)]
struct Outcome {
    alg: Algorithm,
    /// The key that signs now.
    active: Option<String>,
    /// The one that will.
    standby: Option<String>,
}

impl Outcome {
    fn tell(&self) {
        let or = |kid: &Option<String>| kid.clone().unwrap_or_else(|| "none".to_owned());
        say(format_args!("{}: {} signs from now on; the next is {}.", self.alg, or(&self.active), or(&self.standby)));
    }

    /// As JSON, or in words, of which `word` is first.
    fn give(&self, json: bool, word: &str) -> Result<(), Failure> {
        if json {
            return give_json(self);
        }
        say(word);
        self.tell();
        Ok(())
    }
}

fn refused(refusal: &Refusal) -> Failure {
    let mend = match refusal {
        Refusal::NoStandby => "; --now makes one and signs with it at once, whoever knows it".to_owned(),
        Refusal::Unknown(from) => format!(
            ": who keeps a copy of the JWKS may refuse its tokens before {}; --now moves to it all the same",
            rfc3339(*from)
        ),
        Refusal::State(_) | Refusal::Known(..) => "; see `sealwright keys list`".to_owned(),
    };
    Failure::failed(format!("nothing was changed: {refusal}{mend}"))
}

/// Has somebody at the terminal say yes, unless `yes` did.
fn confirm(yes: bool, question: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage("nothing was changed: there is nobody to ask at this stdin; --yes goes ahead"));
    }
    let mut stderr = std::io::stderr();
    let _ = write!(stderr, "{question} [yes/no] ").and_then(|()| stderr.flush());
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if answer.trim() == "yes" { Ok(()) } else { Err(Failure::failed("nothing was changed")) }
}

/// A time to the second, in UTC.
pub(super) fn rfc3339(at: Micros) -> String {
    let moment = OffsetDateTime::from_unix_timestamp(at.div_euclid(1_000_000)).ok();
    moment.and_then(|moment| moment.format(&Rfc3339).ok()).unwrap_or_else(|| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_rfc3339_in_utc() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(1_767_225_599_999_999), "2025-12-31T23:59:59Z");
    }
}
