//! Which configuration a command works with.

use std::env::var_os;
use std::path::{Path, PathBuf};

use super::dev;
use super::output::Failure;
use crate::config::{Config, Errors, Mode, environment};

/// The file that is taken when nobody names one.
const HERE: &str = "sealwright.toml";

#[derive(clap::Args)]
pub struct Source {
    /// The configuration file. Without it: the one that `SEALWRIGHT_CONFIG` names, or sealwright.toml if this folder has
    /// one, or the environment alone
    #[arg(long, value_name = "FILE", conflicts_with = "dev")]
    config: Option<PathBuf>,
    /// Development: this machine only, everything in the folder sealwright-dev
    #[arg(long)]
    pub dev: bool,
}

impl Source {
    /// What the configuration is for.
    pub fn mode(&self) -> Mode {
        if self.dev { Mode::Development } else { Mode::Production }
    }

    /// Reads the configuration: each key by itself is right.
    pub fn load(&self) -> Result<Config, Errors> {
        if self.dev {
            return dev::config(environment());
        }
        let named = self
            .config
            .clone()
            .or_else(|| var_os("SEALWRIGHT_CONFIG").filter(|name| !name.is_empty()).map(PathBuf::from));
        let file = named.or_else(|| Path::new(HERE).exists().then(|| HERE.into()));
        Config::load(file.as_deref(), environment())
    }

    /// Reads the configuration and refuses what `serve` would refuse.
    pub fn load_valid(&self) -> Result<Config, Failure> {
        let config = self.load()?;
        match config.validate(self.mode()) {
            problems if problems.is_empty() => Ok(config),
            problems => Err(Errors(problems).into()),
        }
    }
}
