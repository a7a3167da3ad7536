//! Signing keys and JOSE: keys sealed at rest, compact JWS made and checked, the key set that we publish.
//!
//! [`Keys`] reads the rows; they become a [`KeyRing`], one immutable snapshot. Nothing else here touches the database.

mod book;
pub mod import;
pub mod json;
mod jwk;
mod jws;
mod mac;
pub mod master;
mod moves;
mod pair;
mod queue;
mod ring;
pub mod rotate;
pub mod schedule;
mod seal;
mod sign;

pub use book::Keys;
pub use jwk::{JwkError, JwkSet, PublicJwk, VerifyError};
pub use jws::{Header, Jws, JwsError};
pub use mac::{MacKeys, Purpose};
pub use master::MasterKeys;
pub use pair::{KeyError, KeyPair};
pub use queue::{Place, SigningQueue};
pub use ring::{KeyEntry, KeyRing};
pub use schedule::KeyState;
pub use seal::{MalformedMasterKey, MasterKey, MasterKeyId, OpenError};
pub use sign::{Signer, Typ};

#[cfg(test)]
mod model;
#[cfg(test)]
mod vectors;
