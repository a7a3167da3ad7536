//! Browser sessions: the store behind the cookie, and who is signed in there.
//!
//! The cookie names a session, which says which browser this is and by what its forms are known; people are signed in
//! at the browser, each by a row of their own. A session of nobody lasts half an hour, and each network may have so many
//! (visitors.rs), so that visitors cost little.

mod agent;
mod store;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use tower_sessions::cookie::SameSite;
use tower_sessions::{Session, SessionManagerLayer};

use crate::audit::{self, Actor, Event};
use crate::clock::{Micros, SECOND};
use crate::cx::{Cx, Services};
use crate::error::{Error, Result};
use crate::issue;
use crate::keys::Purpose;
use crate::nodes;
use crate::pool::network;
use crate::secret::{equal, random, random_text};
use crate::store::sessions::{self, Elsewhere, SignInRow};
use crate::store::{StoreError, Tx, users};
use crate::users::prove::{Proven, Rehash};
use crate::users::{known, throttle};
use crate::visitors;
use crate::wire::EndGrants;

pub use agent::agent;
pub use store::Store;
use store::key;

/// How long a session lasts at which nobody is signed in, unless a sign-in is begun there again.
const ANONYMOUS: Micros = 1800 * SECOND;
/// When one that goes on is kept for longer.
const RENEWED: Micros = 300 * SECOND;
/// How often the use of a sign-in is written down.
const TOUCHED: Micros = 60 * SECOND;

/// What a session holds.
const BROWSER: &str = "browser";
const CSRF: &str = "csrf";
const SIGNED_IN: &str = "signed_in";
/// While nobody is signed in: whence it came, and when it was last kept.
const NOBODY: &str = "nobody";

/// How long people stay signed in, and what ends with that.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Without being used.
    pub idle: Micros,
    /// In all.
    pub absolute: Micros,
    /// What ends with a sign-in.
    pub end_grants: EndGrants,
    /// What strangers may leave.
    pub visitors: visitors::Settings,
}

/// One browser: an id that stays in its session while the session's own id changes. Base64url of 16 random bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Browser(pub String);

/// A person signed in at a browser.
#[derive(Clone, Debug)]
pub struct SignIn {
    /// The session id that clients learn (OpenID Connect Front-Channel Logout §3): base64url of 16 random bytes.
    pub sid: String,
    /// Who.
    pub sub: String,
    /// What they sign in by.
    pub username: String,
    /// When they last proved it.
    pub auth_time: Micros,
    /// The authentication context class that this reached.
    pub acr: Option<String>,
    /// By what (RFC 8176): `pwd`.
    pub amr: Vec<String>,
    /// When it was last used, to the minute.
    pub last_used_at: Micros,
}

impl From<SignInRow> for SignIn {
    fn from(row: SignInRow) -> Self {
        let amr = row.amr.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect();
        let SignInRow { sid, sub, username, auth_time, acr, last_used_at, .. } = row;
        Self { sid, sub, username, auth_time, acr, amr, last_used_at }
    }
}

/// What the names of our cookies begin with. With https the browser itself sees to it that only we can set them, for
/// all paths (RFC 6265bis §4.1.3.2); on a loopback issuer it cannot.
pub fn cookie_prefix(services: &Services) -> &'static str {
    if services.issuer.is_https() { "__Host-sealwright" } else { "sealwright" }
}

/// The layer that people's routes need around them.
pub fn layer(services: &Services) -> SessionManagerLayer<Store> {
    let absolute = services.sessions.absolute;
    let most = services.sessions.visitors.of_network;
    let (db, clock, visitors) = (services.db.clone(), services.clock.clone(), services.visitors.clone());
    SessionManagerLayer::new(Store { db, clock, absolute, most, visitors })
        .with_name(cookie_prefix(services))
        .with_secure(services.issuer.is_https())
        .with_http_only(true)
        // Lax: a client's redirect to us brings it, a foreign form does not.
        .with_same_site(SameSite::Lax)
        .with_path("/")
}

/// The browser of a session, if it has one: nothing is made for who only looks.
///
/// # Errors
/// 503 when the database cannot answer.
pub async fn find(session: &Session) -> Result<Option<Browser>> {
    Ok(session.get::<String>(BROWSER).await.map_err(unavailable)?.map(Browser))
}

/// The browser of a session; one that has none yet gets one (and with it a session row and a cookie).
///
/// # Errors
/// 503 when the database cannot answer; 429 and 503 when there are too many sessions of nobody.
pub async fn browser(cx: &Cx<'_>, session: &Session) -> Result<Browser> {
    let nobody = Nobody { source: network(cx.peer).to_string(), kept_at: cx.now };
    if let Some(browser) = find(session).await? {
        let before: Option<Nobody> = session.get(NOBODY).await.map_err(unavailable)?;
        if let Some(before) = before.filter(|before| cx.now - before.kept_at >= RENEWED) {
            // Who begins again has the whole time for it.
            session.insert(NOBODY, Nobody { source: before.source, ..nobody }).await.map_err(unavailable)?;
        }
        return Ok(browser);
    }
    visitors::admit(cx).await?;
    let browser = random_text::<16>()?;
    session.insert(BROWSER, &browser).await.map_err(unavailable)?;
    session.insert(NOBODY, nobody).await.map_err(unavailable)?;
    renew_forms(session).await?;
    Ok(Browser(browser))
}

/// Of a session at which nobody is signed in.
#[derive(Serialize, Deserialize)]
struct Nobody {
    /// The network whose share it is of.
    source: String,
    kept_at: Micros,
}

/// From now on no form is good that was given out before.
async fn renew_forms(session: &Session) -> Result<()> {
    session.insert(CSRF, random_text::<32>()?).await.map_err(unavailable)
}

/// The token that ties a form to this session: `form` is which one, `about` what it speaks of.
///
/// # Errors
/// 503 when the database cannot answer.
pub async fn form_token(cx: &Cx<'_>, session: &Session, form: &str, about: &str) -> Result<String> {
    browser(cx, session).await?;
    let key = session.get::<String>(CSRF).await.map_err(unavailable)?.unwrap_or_default();
    Ok(bound(cx, &key, form, about))
}

/// Whether `token` is of this session, this form and what it speaks of (T-103).
///
/// # Errors
/// 503 when the database cannot answer.
pub async fn is_form_token(cx: &Cx<'_>, session: &Session, form: &str, about: &str, token: &str) -> Result<bool> {
    let Some(key) = session.get::<String>(CSRF).await.map_err(unavailable)? else { return Ok(false) };
    Ok(equal(bound(cx, &key, form, about).as_bytes(), token.as_bytes()))
}

fn bound(cx: &Cx<'_>, key: &str, form: &str, about: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(cx.mac.sign(Purpose::Csrf, &[key.as_bytes(), form.as_bytes(), about.as_bytes()]))
}

/// Signs in who has just proved who they are: a new id for the session (T-101), and forms that begin anew. Who is signed
/// in at this browser already keeps their `sid`, and what came of it: proving it again is no new session. `None`, and
/// nothing has changed: their password was changed meanwhile, they were switched off, or this session has become another
/// one. `agent` is what the browser is called ([`agent()`]).
///
/// # Errors
/// 503 when the database does not take it.
pub async fn begin(cx: &Cx<'_>, session: &Session, agent: Option<String>, proven: Proven) -> Result<Option<Begun>> {
    let Browser(browser) = browser(cx, session).await?;
    let Some(id) = session.id().map(key) else { return Ok(None) };
    let Proven { user, acr, charge, hash, rehash } = proven;
    let mut row = SignInRow {
        sid: BASE64_URL_SAFE_NO_PAD.encode(random::<16>()?),
        sub: user.sub,
        auth_time: cx.now,
        acr: Some(acr.to_string()),
        amr: acr.amr().to_owned(),
        last_used_at: cx.now,
        expires_at: cx.now + cx.sessions.absolute,
        username: user.username,
    };
    let (new, actor) = (row.clone(), Actor::person(cx, &row.sub));
    let (now, settings) = (cx.now, cx.sessions);
    let committed = cx.db.write(move |tx| {
        Box::pin(async move {
            let Some(since) = users::stands(tx, &new.sub, &hash).await? else { return Ok(None) };
            // One session becomes one other: who holds a copy of its id has nothing of what comes after (T-101).
            if !sessions::delete(tx, &id).await? {
                return Ok(None);
            }
            if let Some(Rehash { old, new: rehash }) = rehash {
                users::rehash(tx, &new.sub, &old, &rehash).await?;
            }
            // One that is over and not swept yet does not begin again. As with the sweep, nobody waits for its end.
            let here = (browser.as_str(), new.sub.as_str());
            if let Some(over) = sessions::end_dead(tx, here, now, now - settings.idle).await? {
                issue::revoke_of_session(tx, &over, settings.end_grants, &Actor::system()).await?;
            }
            let sid = sessions::sign_in(tx, (&browser, agent.as_deref()), &new).await?;
            throttle::succeeded(tx, &charge).await?;
            let event = Event::SignedIn { sid: sid.clone(), amr: new.amr };
            audit::record(tx, &actor, &new.sub, &event)?;
            Ok(Some((sid, since)))
        })
    });
    let Some((sid, since)) = committed.await?.value else { return Ok(None) };
    row.sid = sid;
    session.cycle_id().await.map_err(unavailable)?;
    session.insert(SIGNED_IN, true).await.map_err(unavailable)?;
    session.remove_value(NOBODY).await.map_err(unavailable)?;
    renew_forms(session).await?;
    let known = known::make(cx, &row.sub, since)?;
    Ok(Some(Begun { sign_in: row.into(), known }))
}

/// A sign-in that has just begun.
pub struct Begun {
    /// Who, and where.
    pub sign_in: SignIn,
    /// The value of the cookie by which the account knows this browser from now on.
    pub known: String,
}

/// Who is signed in at `browser` now, the last used first. Disabled people and ended sessions are not among them.
///
/// # Errors
/// 503 when the database cannot answer.
pub async fn sign_ins(cx: &Cx<'_>, browser: &Browser) -> Result<Vec<SignIn>> {
    let (browser, now, idle_since) = (browser.0.clone(), cx.now, cx.now - cx.sessions.idle);
    let rows =
        cx.db.read(move |conn| Box::pin(async move { sessions::of_browser(conn, &browser, now, idle_since).await }));
    Ok(rows.await?.into_iter().map(SignIn::from).collect())
}

/// Notes that this one of those who are signed in did something: they stay so for longer, and nobody else does.
///
/// # Errors
/// 503 when the database does not take it.
pub async fn used(cx: &Cx<'_>, sign_in: &SignIn) -> Result<()> {
    let (sid, now) = (sign_in.sid.clone(), cx.now);
    if now - sign_in.last_used_at >= TOUCHED {
        cx.db.write(move |tx| Box::pin(async move { sessions::touch(tx, &sid, now).await })).await?;
    }
    Ok(())
}

/// Notes in this transaction that an application which a person is signed in to goes on: so does that sign-in, unless it
/// is over.
///
/// # Errors
/// When the database cannot.
pub async fn kept(tx: &mut Tx, sid: &str, settings: Settings) -> Result<(), StoreError> {
    let now = tx.now();
    sessions::keep(tx, sid, now - TOUCHED, now - settings.idle).await
}

/// Ends sign-ins, all of them or none, and the grants that came of them as configured. When this returns every node
/// acts on it.
///
/// # Errors
/// 503 when the database cannot answer, or a node has not confirmed it: what stands then, nobody knows yet.
pub async fn end(cx: &Cx<'_>, sids: Vec<String>) -> Result<()> {
    let (ends, actor) = (cx.sessions.end_grants, Actor::person(cx, ""));
    let committed = cx.db.write(move |tx| {
        Box::pin(async move {
            for sid in sids {
                let Some(sub) = sessions::end(tx, &sid).await? else { continue };
                let actor = actor.clone().named(&sub);
                audit::record(tx, &actor, &sub, &Event::SignedOut { sid: sid.clone() })?;
                issue::revoke_of_session(tx, &sid, ends, &actor).await?;
            }
            Ok(())
        })
    });
    match committed.await?.seq {
        Some(seq) => nodes::acted_on(cx, seq).await,
        None => Ok(()),
    }
}

/// Where else `sub` is signed in: not at `browser`; the last used first.
///
/// # Errors
/// 503 when the database cannot answer.
pub async fn elsewhere(cx: &Cx<'_>, browser: &Browser, sub: &str) -> Result<Vec<Elsewhere>> {
    let (browser, sub, now, idle_since) = (browser.0.clone(), sub.to_owned(), cx.now, cx.now - cx.sessions.idle);
    let reading = cx
        .db
        .read(move |conn| Box::pin(async move { sessions::of_user(conn, (&sub, &browser), now, idle_since).await }));
    Ok(reading.await?)
}

/// Signs those of `here` out of this browser whom `leaves` names; `here` are all who are signed in at it. Forms that were
/// given out are good no more, and who comes after the last of them begins with nothing of theirs.
///
/// # Errors
/// As [`end`].
pub async fn leave(cx: &Cx<'_>, session: &Session, here: &[SignIn], leaves: impl Fn(&SignIn) -> bool) -> Result<()> {
    end(cx, here.iter().filter(|sign_in| leaves(sign_in)).map(|sign_in| sign_in.sid.clone()).collect()).await?;
    if here.iter().all(leaves) {
        return session.flush().await.map_err(unavailable);
    }
    // Of several at once one becomes the next session: no copy of the old id leads to it.
    let Some(id) = session.id().map(key) else { return Ok(()) };
    if cx.db.write(move |tx| Box::pin(async move { sessions::delete(tx, &id).await })).await?.value {
        session.cycle_id().await.map_err(unavailable)?;
        renew_forms(session).await?;
    }
    Ok(())
}

/// Forgets up to `limit` sign-ins that are over `now`, by their end or by not being used, and takes back what came of
/// them: how many.
///
/// # Errors
/// When the database cannot.
pub async fn sweep(tx: &mut Tx, settings: Settings, now: Micros, limit: i64) -> Result<u64, StoreError> {
    let swept = sessions::sweep_sign_ins(tx, now, now - settings.idle, limit).await?;
    for sid in &swept {
        issue::revoke_of_session(tx, sid, settings.end_grants, &Actor::system()).await?;
    }
    Ok(u64::try_from(swept.len()).unwrap_or(u64::MAX))
}

/// Ends every sign-in of a person and takes back all that anybody got for them: they are switched off or removed, or
/// their password was changed by somebody else. The caller waits for the transaction's `seq`.
///
/// # Errors
/// When the database cannot.
pub async fn end_all(tx: &mut Tx, actor: &Actor, sub: &str) -> Result<(), StoreError> {
    sessions::end_all(tx, sub).await?;
    issue::revoke_of_user(tx, sub, actor).await
}

#[expect(clippy::needless_pass_by_value, reason = "what map_err hands over")]
fn unavailable(cause: tower_sessions::session::Error) -> Error {
    Error::unavailable("The session cannot be read; try again.", 2).because(cause.to_string())
}
