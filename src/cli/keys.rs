//! `sealwright keys`: the signing keys of the database.

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::database;
use super::output::{Failure, give, give_json};
use super::source::Source;
use crate::clock::Micros;
use crate::store::signing_keys::{self, SigningKeyRow};

/// Signing keys
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List the signing keys, oldest first
    #[command(after_help = "\
Examples:
  sealwright keys list --config sealwright.toml
  sealwright keys list --dev --json")]
    List {
        #[command(flatten)]
        source: Source,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// A key as scripts read it; times as RFC 3339, in UTC.
#[derive(Serialize)]
struct Listed {
    kid: String,
    alg: String,
    state: String,
    created_at: String,
    published_at: Option<String>,
    activate_at: Option<String>,
    retire_at: Option<String>,
    remove_at: Option<String>,
}

impl From<SigningKeyRow> for Listed {
    fn from(row: SigningKeyRow) -> Self {
        Self {
            kid: row.kid,
            // What stands in the headers; `alg` of the row is what it is.
            alg: row.alg_name,
            state: row.state,
            created_at: rfc3339(row.created_at),
            published_at: row.published_at.map(rfc3339),
            activate_at: row.activate_at.map(rfc3339),
            retire_at: row.retire_at.map(rfc3339),
            remove_at: row.remove_at.map(rfc3339),
        }
    }
}

/// `sealwright keys list`.
pub async fn run(args: Args) -> Result<(), Failure> {
    let Command::List { source, json } = args.command;
    let db = database::open_ready(&source.load()?).await?;
    let rows = db.read(|conn| Box::pin(signing_keys::list(conn))).await?;
    let keys: Vec<Listed> = rows.into_iter().map(Listed::from).collect();
    if json { give_json(&keys) } else { give(table(&keys)) }
}

fn table(keys: &[Listed]) -> String {
    let head = format!("{:<43}  {:<7}  {:<9}  CREATED", "KID", "ALG", "STATE");
    let rows = keys.iter().map(|key| format!("{:<43}  {:<7}  {:<9}  {}", key.kid, key.alg, key.state, key.created_at));
    std::iter::once(head).chain(rows).collect::<Vec<_>>().join("\n")
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
