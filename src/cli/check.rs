//! `sealwright check`: what `serve` would refuse, and what it would do.

use serde_json::{Map, Value};

use super::database;
use super::output::{Failure, give, give_json};
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
  sealwright check --json

Each problem is one line on stderr and names the key and where its value came from. Where there is a database already, it
is asked which master keys it is sealed with.")]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// As JSON: one text for each line, and the use of each master key by its id
    #[arg(long)]
    json: bool,
}

/// `sealwright check`.
pub async fn run(args: Args) -> Result<(), Failure> {
    let config = args.source.load_valid()?;
    let connections = config.connections(open_files()).map_err(|problem| Errors(vec![problem]))?;
    app::acceptor(&config)?;
    let mut summary = config.summary();
    summary.push(("connections", format!("{connections} at one time for each listener")));
    // Where there is no key file yet, nothing can have been sealed with it.
    let master_keys = match app::given(&config)? {
        Some(given) => master_keys(&config, &given).await?,
        None => Vec::new(),
    };
    if args.json {
        let texts = |pairs: Vec<(String, String)>| pairs.into_iter().map(|(name, text)| (name, Value::String(text)));
        let summary = summary.into_iter().map(|(what, how)| (what.replace(' ', "_"), how)).collect();
        let mut json: Map<_, _> = texts(summary).collect();
        json.insert("master_keys".to_owned(), Value::Object(texts(master_keys).collect()));
        return give_json(&json);
    }
    let lines = summary.into_iter().map(|(what, how)| format!("{what}: {how}"));
    let keys = master_keys.into_iter().map(|(id, used)| format!("master key {id}: {used}"));
    give(lines.chain(keys).collect::<Vec<_>>().join("\n"))
}

/// What each master key is for: its id, and that in words. What `serve` would refuse is a failure.
async fn master_keys(config: &Config, given: &MasterKeys) -> Result<Vec<(String, String)>, Failure> {
    let ids = given.ids();
    let each = |used: &dyn Fn(&str) -> String| ids.split(' ').map(|id| (id.to_owned(), used(id))).collect::<Vec<_>>();
    if let DatabaseUrl::Sqlite(path) = &config.database.url
        && !path.exists()
    {
        return Ok(each(&|_| "new".to_owned()));
    }
    let unknown = |why: &str| each(&|_| format!("the database does not tell what it seals: {why}"));
    let db = match database::open(config).await {
        Ok(db) => db,
        Err(cause) => return Ok(unknown(&cause.to_string())),
    };
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
    Ok(each(&|id| {
        let seals = census.get(id).map_or_else(|| "nothing".to_owned(), master::told);
        let more = match (sealing.as_deref() == Some(id), id == newest, census.contains_key(id)) {
            (true, _, _) => ", and everything new",
            (false, true, _) => "; run `sealwright keys reseal`, and it seals everything",
            (false, false, true) => "; run `sealwright keys reseal` before you remove it",
            (false, false, false) => "; it can be removed",
        };
        format!("seals {seals}{more}")
    }))
}
