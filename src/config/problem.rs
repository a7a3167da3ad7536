//! What is wrong with a configuration, told so that the reader can go and mend it.

use std::fmt;
use std::path::{Path, PathBuf};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The configuration file.
    File {
        /// The file, as it was named to us.
        path: PathBuf,
        /// The line of the key, from 1.
        line: usize,
    },
    /// An environment variable of this name.
    Variable(String),
    /// A file that holds a secret and nothing else.
    SecretFile {
        /// The file.
        path: PathBuf,
        /// What names it.
        named_by: Box<Self>,
    },
}

impl Origin {
    /// The file that holds the value.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Default | Self::Variable(_) => None,
            Self::File { path, .. } | Self::SecretFile { path, .. } => Some(path),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::SecretFile { named_by, .. } => named_by.fmt(f),
        }
    }
}

/// One thing that is wrong. It prints as one line, `http.listen (config.toml:3): what is wrong; allowed: …`, and
/// never holds the value of a secret key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key's name; empty where the whole file or an unknown variable is meant.
    pub key: String,
    /// Where the offending value came from.
    pub origin: Origin,
    /// What is wrong, and what is allowed.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.key.as_str(), &self.origin) {
            ("", Origin::Default) => f.write_str(&self.text),
            ("", origin) => write!(f, "{origin}: {}", self.text),
            (key, Origin::Default) => write!(f, "{key}: {}", self.text),
            (key, origin) => write!(f, "{key} ({origin}): {}", self.text),
        }
    }
}

/// Every problem that was found, one a line. Never empty when it is returned as an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors(pub Vec<Problem>);

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}
