//! `sealwright check`: what `serve` would refuse, and what it would do.

use super::database;
use super::output::{Failure, give};
use super::source::Source;
use crate::app::{self, StartError};
use crate::config::{Config, DatabaseUrl, Errors, open_files};
use crate::keys::{MasterKeys, master};

/// Check the configuration and say what the server would do; nothing is changed
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  sealwright check
  sealwright check --config /etc/sealwright.toml

Each problem is one line on stderr and names the key and where its value came from. Where there is a database already, it
is asked which master keys it is sealed with.")]
pub struct Args {
    #[command(flatten)]
    source: Source,
}

/// `sealwright check`.
pub async fn run(args: Args) -> Result<(), Failure> {
    let config = args.source.load_valid()?;
    let connections = config.connections(open_files()).map_err(|problem| Errors(vec![problem]))?;
    let mut lines = config.summary();
    lines.push(format!("connections: {connections} at one time for each listener"));
    // Where there is no key file yet, nothing can have been sealed with it.
    if let Some(given) = app::given(&config)? {
        lines.extend(master_keys(&config, &given).await?);
    }
    give(lines.join("\n"))
}

/// What each master key is for: one line each. What `serve` would refuse is a failure.
async fn master_keys(config: &Config, given: &MasterKeys) -> Result<Vec<String>, Failure> {
    if let DatabaseUrl::Sqlite(path) = &config.database.url
        && !path.exists()
    {
        return Ok(given.ids().split(' ').map(|id| format!("master key {id}: new")).collect());
    }
    let unknown =
        |why: &str| vec![format!("master keys: {}; the database does not tell what they seal: {why}", given.ids())];
    let Ok(db) = database::open(config).await else { return Ok(unknown("it cannot be opened")) };
    match db.is_migrated().await {
        Ok(true) => {}
        Ok(false) => return Ok(unknown("it does not have this release's schema")),
        Err(cause) => return Ok(unknown(&cause.to_string())),
    }
    match app::has_all(&db, given).await {
        Ok(()) => {}
        Err(StartError::Store(cause)) => return Ok(unknown(&cause.to_string())),
        Err(refused) => return Err(refused.into()),
    }
    let (sealing, census) = db
        .read(|conn| Box::pin(async move { Ok((master::sealing(conn).await?, master::census(conn).await?)) }))
        .await?;
    let newest = given.newest().id().to_string();
    let line = |id: &str| {
        let seals = census.get(id).map_or_else(|| "nothing".to_owned(), master::told);
        let more = match (sealing.as_deref() == Some(id), id == newest, census.contains_key(id)) {
            (true, _, _) => ", and everything new",
            (false, true, _) => "; run `sealwright keys reseal`, and it seals everything",
            (false, false, true) => "; run `sealwright keys reseal` before you remove it",
            (false, false, false) => "; it can be removed",
        };
        format!("master key {id}: seals {seals}{more}")
    };
    Ok(given.ids().split(' ').map(line).collect())
}
