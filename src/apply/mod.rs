//! The declarative set-up: `apply` files, what applying one would change, doing it, and writing one (`export`).
//!
//! What a file names is made to be as the file says; what it does not name stays, unless pruned. Applying a file a
//! second time changes nothing.

mod check;
mod claims;
mod commit;
mod credentials;
mod export;
mod fields;
mod file;
mod plan;
mod state;
#[cfg(test)]
mod tests;
mod users;

use std::fmt;

use crate::store::StoreError;
use crate::wire::Algorithm;

pub use claims::ClaimSpec;
pub use commit::{Applied, Generated, commit};
pub use export::{Export, export};
pub use file::{ApplyFile, ClientSpec, FileError, Format, ResourceSpec, SecretSpec, UserSpec, parse};
pub use plan::{Change, Kind, Plan, plan};

/// What the checks of a file need to know of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Remove what `apply` made and the file does not name.
    pub prune: bool,
    /// The longest lifetime of an access token, in seconds.
    pub max_lifetime: u32,
    /// The configured signing algorithms.
    pub algorithms: &'a [Algorithm],
    /// The fewest characters of a password.
    pub min_password_length: usize,
    /// Whether a `jwks_uri` may be plain http.
    pub allow_http: bool,
    /// The issuer, whose own resources a file cannot define.
    pub issuer: &'a str,
    /// What people know this service by: others try it first as a password.
    pub service: &'a str,
}

/// Something in a file that cannot be applied. Never says a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which object, as `client "orders-sync"`.
    pub object: String,
    /// Which of its fields.
    pub field: String,
    /// What is wrong, and what would be right.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.object, self.field, self.text)
    }
}

/// Why nothing was planned or applied.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// The file cannot stand: everything that is wrong with it, in its order.
    #[error("{}", lines(.0))]
    Problems(Vec<Problem>),
    /// The database could not, or it has changed since the plan was made. Nothing was applied, unless the outcome
    /// is [`StoreError::Unknown`].
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Hashing or randomness failed. Nothing was applied.
    #[error(transparent)]
    Secret(#[from] crate::error::Error),
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}
