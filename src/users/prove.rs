//! A username and a password: whose they are. Unknown, wrong, locked and switched off are one answer at one cost
//! (T-120, T-121): each attempt reads one row, waits for its turn, is charged once, and computes one hash.

use crate::audit::{Counted, Event};
use crate::cx::Cx;
use crate::error::Result;
use crate::secret::Secret;
use crate::store::users as rows;
use crate::wire::Acr;

use super::password::{self, MAX_LENGTH};
use super::throttle::{self, At, Charge};
use super::{User, known, username_key};

/// What somebody who wants to sign in presents.
pub struct Presented<'p> {
    /// As it was typed.
    pub username: &'p str,
    /// As it was typed.
    pub password: &'p Secret,
    /// The value of the cookie by which the account with this subject would know the browser.
    pub known: &'p (dyn Fn(&str) -> Option<String> + Sync),
}

/// Who proved to be who they say; with the charge to take back when they are signed in.
pub struct Proven {
    /// Who.
    pub user: User,
    /// What that proves.
    pub acr: Acr,
    /// What the attempt was charged to.
    pub charge: Charge,
    /// The hash that their password fits, as it stood when it was looked at.
    pub hash: String,
    /// The same password as we hash it now, where that hash is of another making.
    pub rehash: Option<Rehash>,
}

/// Another hash of one password.
pub struct Rehash {
    /// The hash that it stands in for, and for no other.
    pub old: String,
    /// The hash as we make it.
    pub new: String,
}

/// Checks a username and a password. `None` for everything that does not prove, whatever the reason.
///
/// # Errors
/// 503 when the database or the pool cannot answer: then the attempt does not count.
pub async fn by_password(cx: &Cx<'_>, presented: &Presented<'_>) -> Result<Option<Proven>> {
    // T-183: over size is refused before anything is computed, whoever it is.
    let Ok(key) = username_key(presented.username) else { return Ok(none(cx, "", "malformed")) };
    let password = password::prepare(presented.password);
    if password.expose().chars().count() > MAX_LENGTH {
        return Ok(none(cx, "", "malformed"));
    }
    let wanted = key.clone();
    let row = cx.db.read(move |conn| Box::pin(async move { rows::by_username(conn, &wanted).await })).await?;
    let cookie = row.as_ref().and_then(|row| (presented.known)(&row.sub));
    let browser = row.as_ref().and_then(|row| known::read(cx, row, &cookie?));
    // First the turn: who gets none has made no attempt.
    let turn = cx.passwords.turn(Some(cx.peer)).await?;
    let charge = throttle::charge(cx, At::new(row.as_ref(), &key, browser)).await?;
    let hash = row.as_ref().and_then(|row| row.password.as_deref()).filter(|_| charge.is_some());
    let fits = turn.verify(&password, hash).await?;
    let Some(row) = row else {
        return Ok(none(cx, "", if charge.is_some() { "unknown" } else { "throttled" }));
    };
    let why = match charge {
        // Locked: what was presented was not looked at.
        None => "throttled",
        Some(charge) if fits && !row.disabled => {
            let hash = row.password.clone().unwrap_or_default();
            let rehash = if cx.passwords.is_own(&hash) {
                None
            } else {
                // Where there is no room for it now, there will be next time.
                cx.passwords.hash(&password, Some(cx.peer)).await.ok().map(|new| Rehash { old: hash.clone(), new })
            };
            cx.audit.count_attempt(cx, Counted::SignIn, "ok");
            let user = User::from_row(&row)?;
            return Ok(Some(Proven { user, acr: Acr::Password, charge, hash, rehash }));
        }
        Some(_) if fits => "disabled",
        Some(_) => "wrong",
    };
    Ok(none(cx, &row.sub, why))
}

/// Counts and records a failed attempt. Each has a row of its own at which the password of `sub` was looked at; the
/// throttle bounds these. Of the others there are samples.
fn none(cx: &Cx<'_>, sub: &str, why: &'static str) -> Option<Proven> {
    cx.audit.count_attempt(cx, Counted::SignIn, why);
    match why {
        "wrong" | "disabled" => cx.audit.note(cx, sub, &Event::SignInFailed { why }),
        _ => cx.audit.sample(cx, sub, Counted::SignIn, why),
    }
    None
}
