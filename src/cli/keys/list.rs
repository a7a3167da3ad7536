//! `sealwright keys list`.

use serde::Serialize;

use super::rfc3339;
use crate::cli::database;
use crate::cli::output::{Failure, give, give_json};
use crate::cli::source::Source;
use crate::store::signing_keys::{self, SigningKeyRow, Times};

/// List the signing keys, oldest first
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  sealwright keys list --config sealwright.toml
  sealwright keys list --dev --json

A key is published (in the JWKS, to sign later), active (it signs), retiring (it signs no more; what it signed is
good), retired (all that has expired; listed for another 90 days) or revoked (nothing it signed is good; listed for
ever, so that it cannot come back).")]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// A key as scripts read it; times as RFC 3339, in UTC: as they were, or as they are planned.
#[derive(Serialize)]
struct Listed {
    kid: String,
    alg: String,
    state: String,
    created_at: String,
    published_at: String,
    activate_at: String,
    retire_at: String,
    remove_at: String,
}

impl From<SigningKeyRow> for Listed {
    fn from(row: SigningKeyRow) -> Self {
        let Times { published_at, activate_at, retire_at, remove_at } = row.times;
        Self {
            kid: row.kid,
            // What stands in the headers; `alg` of the row is what it is.
            alg: row.alg_name,
            state: row.state,
            created_at: rfc3339(row.created_at),
            published_at: rfc3339(published_at),
            activate_at: rfc3339(activate_at),
            retire_at: rfc3339(retire_at),
            remove_at: rfc3339(remove_at),
        }
    }
}

impl Listed {
    /// What the schedule has for it next.
    fn next(&self) -> String {
        match self.state.as_str() {
            "published" => format!("signs from {}", self.activate_at),
            "active" => format!("signs until {}", self.retire_at),
            "retiring" => format!("good until {}", self.remove_at),
            _ => format!("ended {}", self.remove_at),
        }
    }
}

/// Lists them.
pub async fn run(args: Args) -> Result<(), Failure> {
    let db = database::open_ready(&args.source.load()?).await?;
    let rows = db.read(|conn| Box::pin(signing_keys::list(conn))).await?;
    let keys: Vec<Listed> = rows.into_iter().map(Listed::from).collect();
    if args.json { give_json(&keys) } else { give(table(&keys)) }
}

fn table(keys: &[Listed]) -> String {
    let head = format!("{:<43}  {:<7}  {:<9}  {:<20}  NEXT", "KID", "ALG", "STATE", "CREATED");
    let rows = keys.iter().map(|key| {
        let Listed { kid, alg, state, created_at, .. } = key;
        format!("{kid:<43}  {alg:<7}  {state:<9}  {created_at:<20}  {}", key.next())
    });
    std::iter::once(head).chain(rows).collect::<Vec<_>>().join("\n")
}
