//! How often somebody may try: per account, per known browser of an account, and per address. An attempt is charged
//! before the password is looked at, and given back when it was right (store/attempts.rs has the arithmetic).
//!
//! Ten wrong attempts at an account are free; then each waits for the one before it: 30 seconds, a minute, up to an
//! hour, and the hundredth in a row is the last (NIST SP 800-63B §5.2.2) until the password is set anew, or a week has
//! passed without one. A browser that the account knows has a count of its own, so that nobody else's guesses keep
//! its owner out; and it is not counted against its address. What all known browsers of an account try beyond their
//! free ones is bounded together: stolen cookies are not worth a hundred guesses each. The free ones are each
//! browser's own, whatever happens at the others, so that no browser is locked out by another.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::clock::{Micros, SECOND};
use crate::cx::Cx;
use crate::error::Result;
use crate::keys::Purpose;
use crate::pool::network;
use crate::secret::Id;
use crate::store::attempts::{self, Bucket, Kind};
use crate::store::users::UserRow;
use crate::store::{StoreError, Tx};

/// How long a count of wrong attempts is kept after the last one.
const KEPT: Micros = 7 * 86_400 * SECOND;
/// Wrong attempts from one address, at any accounts, in this time: many people share an address.
const MOST_OF_ADDRESS: i64 = 100;
const WINDOW: Micros = 900 * SECOND;
/// Wrong attempts of one known browser that depend on nothing else.
const FREE: i64 = 10;
/// Wrong attempts of all known browsers of an account beyond those, in [`KEPT`].
const MOST_OF_BROWSERS: i64 = 200;

/// Whom an attempt is at, and from where.
#[derive(Clone, Copy, Debug)]
pub enum At<'a> {
    /// A username that nobody has, as it is compared.
    Nobody(&'a str),
    /// The account with this subject, from a browser that it does not know.
    Account(&'a str),
    /// The account with this subject, from a browser that it knows.
    Known(&'a str, Id),
}

impl<'a> At<'a> {
    /// For the row that was found, the username as it is compared, and the browser where the account knows it.
    pub fn new(row: Option<&'a UserRow>, username_key: &'a str, known: Option<Id>) -> Self {
        match (row, known) {
            (None, _) => Self::Nobody(username_key),
            (Some(row), None) => Self::Account(&row.sub),
            (Some(row), Some(browser)) => Self::Known(&row.sub, browser),
        }
    }
}

/// What an attempt was charged to.
#[derive(Clone, Debug)]
pub struct Charge {
    /// From a browser that is not known.
    address: Option<Bucket>,
    own: Bucket,
    /// Beyond the free ones of a known browser.
    browsers: Option<Bucket>,
}

/// Charges an attempt of whoever is at `cx.peer`. `None`: not now.
///
/// # Errors
/// 503 when the database does not take it: nobody guesses while nobody counts.
pub async fn charge(cx: &Cx<'_>, at: At<'_>) -> Result<Option<Charge>> {
    let address = || Some(Bucket::new(Kind::Address, network(cx.peer).to_string()));
    let (mut charge, kept) = match at {
        // Not the username: what people type there may be their password. Nobody is to be protected, so it is kept no
        // longer than the address's own count: what strangers make us store is bounded by their addresses.
        At::Nobody(username_key) => {
            let id = BASE64_URL_SAFE_NO_PAD.encode(cx.mac.sign(Purpose::Attempt, &[username_key.as_bytes()]));
            (Charge { address: address(), own: Bucket::new(Kind::Account, id), browsers: None }, WINDOW)
        }
        At::Account(sub) => (Charge { address: address(), own: Bucket::new(Kind::Account, sub), browsers: None }, KEPT),
        At::Known(sub, browser) => {
            let part = BASE64_URL_SAFE_NO_PAD.encode(browser);
            let own = Bucket { part, ..Bucket::new(Kind::Browser, sub) };
            (Charge { address: None, own, browsers: Some(Bucket::new(Kind::Browsers, sub)) }, KEPT)
        }
    };
    let charged = cx.db.write(move |tx| {
        Box::pin(async move {
            if let Some(address) = &charge.address
                && !attempts::charge_window(tx, address, WINDOW, MOST_OF_ADDRESS).await?
            {
                return Ok(None);
            }
            let Some(n) = attempts::charge(tx, &charge.own, kept).await? else { return Ok(None) };
            charge.browsers = charge.browsers.filter(|_| n > FREE);
            if let Some(all) = &charge.browsers
                && !attempts::charge_window(tx, all, KEPT, MOST_OF_BROWSERS).await?
            {
                return Ok(None);
            }
            Ok(Some(charge))
        })
    });
    Ok(charged.await?.value)
}

/// The attempt was right: what was charged is forgotten, in the transaction of the sign-in.
///
/// # Errors
/// When the database cannot.
pub async fn succeeded(tx: &mut Tx, charge: &Charge) -> Result<(), StoreError> {
    // In the order in which they were charged: transactions that meet wait for each other, and never in a circle.
    if let Some(address) = &charge.address {
        attempts::give_back(tx, address).await?;
    }
    attempts::clear(tx, &charge.own).await?;
    match &charge.browsers {
        Some(all) => attempts::give_back(tx, all).await,
        None => Ok(()),
    }
}

/// Forgets all that counts against a person, also at the browsers that know them: for a password that was set anew.
///
/// # Errors
/// When the database cannot.
pub async fn forget(tx: &mut Tx, sub: &str) -> Result<(), StoreError> {
    attempts::clear_all(tx, sub).await
}
