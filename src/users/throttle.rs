//! How often somebody may try: per account, per known browser of an account, and per address. An attempt is charged
//! before the password is looked at, and given back when it was right (store/attempts.rs has the arithmetic).
//!
//! Ten wrong attempts at an account are free; then each waits for the one before it: 30 seconds, a minute, up to an
//! hour, and the hundredth in a row is the last (NIST SP 800-63B §5.2.2) until the password is set anew, or a week has
//! passed without one. A browser that the account knows has a count of its own, so that nobody else's guesses keep
//! its owner out; and it is not counted against its address.

use std::net::{IpAddr, Ipv6Addr};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::clock::{Micros, SECOND};
use crate::cx::Cx;
use crate::error::Result;
use crate::keys::Purpose;
use crate::secret::Id;
use crate::store::attempts::{self, Kind};
use crate::store::{StoreError, Tx};

/// How long a count of wrong attempts is kept after the last one.
const KEPT: Micros = 7 * 86_400 * SECOND;
/// Wrong attempts from one address, at any accounts, in this time: many people share an address.
const MOST_OF_ADDRESS: i64 = 100;
const WINDOW: Micros = 900 * SECOND;

/// What an attempt was charged to.
#[derive(Clone, Debug)]
pub struct Charge {
    kind: Kind,
    id: String,
    address: Option<String>,
}

/// Charges an attempt of whoever is at `cx.peer`; `known` is the browser, where the account knows it. `None`: not now.
///
/// # Errors
/// 503 when the database does not take it: nobody guesses while nobody counts.
pub async fn charge(cx: &Cx<'_>, username_key: &str, known: Option<Id>) -> Result<Option<Charge>> {
    let charge = match known {
        Some(browser) => {
            let id = format!("{}:{}", bucket(cx, username_key), BASE64_URL_SAFE_NO_PAD.encode(browser));
            Charge { kind: Kind::Browser, id, address: None }
        }
        None => Charge { kind: Kind::Account, id: bucket(cx, username_key), address: Some(network(cx.peer)) },
    };
    let charged = charge.clone();
    let allowed = cx.db.write(move |tx| {
        Box::pin(async move {
            if let Some(address) = &charge.address
                && !attempts::charge_window(tx, Kind::Address, address, WINDOW, MOST_OF_ADDRESS).await?
            {
                return Ok(false);
            }
            attempts::charge(tx, charge.kind, &charge.id, KEPT).await
        })
    });
    Ok(allowed.await?.value.then_some(charged))
}

/// The attempt was right: what was charged is forgotten, in the transaction of the sign-in.
///
/// # Errors
/// When the database cannot.
pub async fn succeeded(tx: &mut Tx, charge: &Charge) -> Result<(), StoreError> {
    if let Some(address) = &charge.address {
        attempts::give_back(tx, Kind::Address, address).await?;
    }
    attempts::clear(tx, charge.kind, &charge.id).await
}

/// Nobody looked at the password: the attempt did not take place.
pub async fn give_back(cx: &Cx<'_>, charge: Charge) {
    let given = cx.db.write(move |tx| {
        Box::pin(async move {
            if let Some(address) = &charge.address {
                attempts::give_back(tx, Kind::Address, address).await?;
            }
            attempts::give_back(tx, charge.kind, &charge.id).await
        })
    });
    if let Err(cause) = given.await {
        tracing::debug!(%cause, "an attempt that nobody looked at stays counted");
    }
}

/// Forgets what counts against a username, for a password that was set anew.
///
/// # Errors
/// When the database cannot.
pub async fn forget(tx: &mut Tx, mac: &crate::keys::MacKeys, username_key: &str) -> Result<(), StoreError> {
    attempts::clear(tx, Kind::Account, &bucket_of(mac, username_key)).await
}

fn bucket(cx: &Cx<'_>, username_key: &str) -> String {
    bucket_of(&cx.mac, username_key)
}

/// Not the username: what people type there may be their password.
fn bucket_of(mac: &crate::keys::MacKeys, username_key: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(mac.sign(Purpose::Attempt, &[username_key.as_bytes()]))
}

/// What one party commands: an IPv4 address, or an IPv6 network of 64 bits.
fn network(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("{}/64", Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
    }
}
