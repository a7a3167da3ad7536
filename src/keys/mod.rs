//! Signing keys and JOSE: keys sealed at rest, compact JWS made and checked, the key set that we publish.
//!
//! Nothing here touches the database; the rows are read elsewhere and become a [`KeyRing`], one immutable snapshot.

pub mod json;
mod jwk;
mod jws;
mod pair;
mod ring;
mod seal;
mod sign;

pub use jwk::{JwkError, JwkSet, PublicJwk, VerifyError};
pub use jws::{Header, Jws, JwsError, algorithm_named};
pub use pair::{KeyError, KeyPair};
pub use ring::{KeyEntry, KeyRing, KeyState};
pub use seal::{MalformedMasterKey, MasterKey, MasterKeyId, OpenError};
pub use sign::{Permit, Signer, SigningPool, Typ};

#[cfg(test)]
mod vectors;
