//! The known browser: a signed cookie that an account gives to the browsers it was signed in at. It stands for no
//! credential; it keeps others' wrong guesses from locking its owner out (T-136). It ends with the password that it
//! was given for: who had it and must not have it any more is a stranger again.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::clock::{Micros, SECOND};
use crate::cx::Cx;
use crate::error::Result;
use crate::keys::Purpose;
use crate::secret::{Id, random, sha256};
use crate::store::users::UserRow;

/// How long a browser stays known after a sign-in, in seconds.
pub const LIFETIME_SECONDS: i64 = 180 * 86_400;
const CODE: usize = 32;
const HEAD: usize = 16 + 8;

/// The name of the cookie of this account, behind `prefix`: one for each account, and it does not say whose.
pub fn cookie_name(prefix: &str, sub: &str) -> String {
    format!("{prefix}-known-{}", &BASE64_URL_SAFE_NO_PAD.encode(sha256(sub.as_bytes()))[..12])
}

/// The value for a browser that `sub` has just been signed in at: an id, the time, and a code over both, the account and
/// since when it has its password. The id is a new one each time: what was copied before counts for itself.
///
/// # Errors
/// Without randomness.
pub fn make(cx: &Cx<'_>, sub: &str, since: Micros) -> Result<String> {
    let mut value = Vec::with_capacity(HEAD + CODE);
    value.extend_from_slice(&random::<16>()?);
    value.extend_from_slice(&cx.now.to_be_bytes());
    let code = cx.mac.sign(Purpose::KnownBrowser, &[sub.as_bytes(), &value, &since.to_be_bytes()]);
    value.extend_from_slice(&code);
    Ok(BASE64_URL_SAFE_NO_PAD.encode(value))
}

/// The id of the browser that `user` knows by this value, if it is one.
pub fn read(cx: &Cx<'_>, user: &UserRow, value: &str) -> Option<Id> {
    let value = BASE64_URL_SAFE_NO_PAD.decode(value).ok().filter(|value| value.len() == HEAD + CODE)?;
    let (head, code) = value.split_at(HEAD);
    let since = user.password_changed_at.unwrap_or(0).to_be_bytes();
    if !cx.mac.verify(Purpose::KnownBrowser, &[user.sub.as_bytes(), head, &since], code) {
        return None;
    }
    let made_at = Micros::from_be_bytes(head[16..].try_into().ok()?);
    let fresh = cx.now - made_at < LIFETIME_SECONDS * SECOND;
    if fresh { Id::try_from(&head[..16]).ok() } else { None }
}
