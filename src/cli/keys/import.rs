//! `sealwright keys import`.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::Desk;
use crate::audit::Actor;
use crate::cli::output::{Failure, give, say};
use crate::cli::source::Source;
use crate::keys::import::private_key;
use crate::wire::Algorithm;

/// Take a private key that was made elsewhere as the next one to sign
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  sealwright keys import signing.pem --config sealwright.toml
  sealwright keys import signing.jwk --alg PS256
  openssl genpkey -algorithm ED25519 | sealwright keys import -

The file has a private JWK, or PEM (PKCS#8, PKCS#1 or SEC1, not encrypted). RSA of 2048, 3072 or 4096 bits with an exponent
from 65537 on, P-256 and Ed25519 are taken. The key is published at once, in the place of the one that would have signed
next, and signs when its turn comes: by schedule, or by `sealwright keys rotate`.")]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// JWK or PEM; - is stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What it signs with. Default: what the JWK says; RS256 for an RSA key that says nothing
    #[arg(long, value_name = "ALG", value_parser = algorithm)]
    alg: Option<String>,
}

/// More than any key takes.
const MOST: u64 = 65_536;

fn algorithm(name: &str) -> Result<String, String> {
    let known = Algorithm::ALL.iter().flat_map(|algorithm| algorithm.names()).copied().collect::<Vec<_>>();
    if known.contains(&name) { Ok(name.to_owned()) } else { Err(format!("there are {}", known.join(", "))) }
}

/// `sealwright keys import`.
pub async fn run(args: Args) -> Result<(), Failure> {
    let imported = private_key(&read(&args.file)?, args.alg.as_deref()).map_err(Failure::failed)?;
    let (algorithm, kid) = (imported.pair.algorithm(), imported.pair.public_jwk().thumbprint());
    let desk = Desk::open(&args.source).await?;
    if !desk.config.keys.algorithms.contains(&algorithm) {
        return Err(Failure::failed(format!("keys.algorithms lacks {algorithm}, so the key would never sign")));
    }
    let changed = desk.keys.adopt(&desk.db, imported, Actor::command_line()).await?;
    desk.finish(algorithm, changed).await?;
    give(&kid)?;
    say(format_args!("It is published, and signs next with {algorithm}. Destroy what you imported it from."));
    Ok(())
}

/// What a file, or stdin for `-`, holds of a private key.
pub fn read(file: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    // Room for all of it at once: a buffer that grows leaves copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(65_537));
    let taken = if file.as_os_str() == "-" {
        std::io::stdin().lock().take(MOST + 1).read_to_end(&mut text)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(MOST + 1).read_to_end(&mut text))
    };
    match taken {
        Ok(length) if length as u64 > MOST => Err(Failure::failed(format!("{} is too long for a key", file.display()))),
        Ok(_) => Ok(text),
        Err(cause) => Err(Failure::failed(format!("cannot read {}: {cause}", file.display()))),
    }
}
