//! `sealwright keys export-public`.

use serde_json::{Map, Value};

use crate::cli::database;
use crate::cli::output::{Failure, give, json};
use crate::cli::source::Source;
use crate::keys::{KeyState, PublicJwk};
use crate::store::signing_keys::{self, SigningKeyRow};

/// Write down public keys, for verifiers that cannot fetch them
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  sealwright keys export-public --config sealwright.toml
  sealwright keys export-public --format pem
  sealwright keys export-public KID --format pem

Without KID: the keys that the JWKS has now. They change when keys rotate, so a verifier that keeps a copy needs a new one
as often as it would fetch the JWKS.")]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// The one key of this `kid`
    #[arg(conflicts_with = "all", allow_hyphen_values = true)]
    kid: Option<String>,
    /// Retired and revoked keys as well, for looking at old tokens; not for a verifier
    #[arg(long)]
    all: bool,
    /// `jwks`, a JWK Set, or `pem`, each key behind a line with its `kid` and its algorithm
    #[arg(long, value_enum, default_value_t = Format::Jwks)]
    format: Format,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    Jwks,
    Pem,
}

/// `sealwright keys export-public`.
pub async fn run(args: Args) -> Result<(), Failure> {
    let db = database::open_ready(&args.source.load()?).await?;
    let mut rows = db.read(|conn| Box::pin(signing_keys::list(conn))).await?;
    match &args.kid {
        Some(kid) => rows.retain(|row| row.kid == *kid),
        None if args.all => {}
        None => rows.retain(|row| row.state.parse().is_ok_and(KeyState::verifies)),
    }
    if let (Some(kid), true) = (&args.kid, rows.is_empty()) {
        return Err(Failure::failed(format!("there is no key {kid}; see `sealwright keys list`")));
    }
    match args.format {
        Format::Jwks => {
            let keys = rows.iter().map(jwk).collect::<Result<Vec<_>, _>>()?;
            give(json(&serde_json::json!({ "keys": keys }))?)
        }
        Format::Pem => {
            let keys = rows.iter().map(pem).collect::<Result<Vec<_>, _>>()?;
            give(keys.concat().trim_end())
        }
    }
}

/// As the JWKS has it.
fn jwk(row: &SigningKeyRow) -> Result<Map<String, Value>, Failure> {
    let mut jwk: Map<String, Value> = serde_json::from_str(&row.public_jwk)?;
    for (name, value) in [("kid", &row.kid[..]), ("use", "sig"), ("alg", &row.alg_name)] {
        jwk.insert(name.to_owned(), value.into());
    }
    Ok(jwk)
}

/// RFC 7468 §2: what stands before the first line of a key explains it.
fn pem(row: &SigningKeyRow) -> Result<String, Failure> {
    Ok(format!("{} {}\n{}", row.kid, row.alg_name, PublicJwk::parse(row.public_jwk.as_bytes())?.pem()))
}
