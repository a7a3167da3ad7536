//! A username and a password: whose they are. Unknown, wrong, locked and switched off are one answer at one cost
//! (T-120, T-121): each attempt reads one row, is charged once, and computes one hash.

use crate::audit::{Counted, Event};
use crate::cx::Cx;
use crate::error::Result;
use crate::secret::Secret;
use crate::store::users as rows;

use super::password::MAX_LENGTH;
use super::throttle::{self, Charge};
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
    /// What the attempt was charged to.
    pub charge: Charge,
    /// The hash that their password fits, as it stood when it was looked at.
    pub hash: String,
}

/// Checks a username and a password. `None` for everything that does not prove, whatever the reason.
///
/// # Errors
/// 503 when the database or the pool cannot answer: then the attempt does not count.
pub async fn by_password(cx: &Cx<'_>, presented: &Presented<'_>) -> Result<Option<Proven>> {
    // T-183: over size is refused before anything is computed, whoever it is.
    let Ok(key) = username_key(presented.username) else { return Ok(none(cx, "malformed")) };
    if presented.password.expose().chars().count() > MAX_LENGTH {
        return Ok(none(cx, "malformed"));
    }
    let wanted = key.clone();
    let row = cx.db.read(move |conn| Box::pin(async move { rows::by_username(conn, &wanted).await })).await?;
    let browser = row.as_ref().and_then(|row| known::read(cx, &row.sub, &(presented.known)(&row.sub)?));
    let charge = throttle::charge(cx, &key, browser).await?;
    let hash = row.as_ref().and_then(|row| row.password.as_deref()).filter(|_| charge.is_some());
    let fits = match cx.passwords.verify(presented.password, hash, Some(cx.peer)).await {
        Ok(fits) => fits,
        Err(busy) => {
            if let Some(charge) = charge {
                throttle::give_back(cx, charge).await;
            }
            return Err(busy);
        }
    };
    let Some(row) = row else { return Ok(none(cx, if charge.is_some() { "unknown" } else { "throttled" })) };
    let why = match charge {
        // Locked: what was presented was not looked at; counted, and no row for each.
        None => return Ok(none(cx, "throttled")),
        Some(charge) if fits && !row.disabled => {
            cx.audit.count_attempt(cx, Counted::SignIn, "ok");
            let user = User::from_row(&row)?;
            return Ok(Some(Proven { user, charge, hash: row.password.unwrap_or_default() }));
        }
        Some(_) if fits => "disabled",
        Some(_) => "wrong",
    };
    cx.audit.note(cx, &row.sub, &Event::SignInFailed { why });
    Ok(none(cx, why))
}

fn none(cx: &Cx<'_>, why: &'static str) -> Option<Proven> {
    cx.audit.count_attempt(cx, Counted::SignIn, why);
    None
}
