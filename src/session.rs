//! Browser sessions: the store behind the cookie, and who is signed in there.
//!
//! The cookie names a session, which says which browser this is and by what its forms are known; people are signed in
//! at the browser, each by a row of their own. A session of nobody lasts an hour, so that visitors cost little.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use time::OffsetDateTime;
use tower_sessions::cookie::SameSite;
use tower_sessions::session::{Id as SessionId, Record};
use tower_sessions::session_store::{Error as Failed, Result as Stored};
use tower_sessions::{Session, SessionManagerLayer, SessionStore};

use crate::audit::{self, Actor, Event};
use crate::clock::{Clock, Micros, SECOND};
use crate::cx::{Cx, Services};
use crate::error::{Error, Result};
use crate::issue;
use crate::keys::Purpose;
use crate::nodes;
use crate::secret::{equal, random, random_text, sha256};
use crate::store::sessions::{self, SignInRow};
use crate::store::{Db, StoreError, Tx, users};
use crate::users::prove::Proven;
use crate::users::throttle;
use crate::wire::EndGrants;

/// How long a session lasts at which nobody is signed in.
const ANONYMOUS: Micros = 3600 * SECOND;
/// How often the use of a sign-in is written down.
const TOUCHED: Micros = 60 * SECOND;

/// What a session holds.
const BROWSER: &str = "browser";
const CSRF: &str = "csrf";
const SIGNED_IN: &str = "signed_in";

/// How long people stay signed in, and what ends with that.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Without being used.
    pub idle: Micros,
    /// In all.
    pub absolute: Micros,
    /// What ends with a sign-in.
    pub end_grants: EndGrants,
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
}

impl From<SignInRow> for SignIn {
    fn from(row: SignInRow) -> Self {
        let amr = row.amr.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect();
        let SignInRow { sid, sub, username, auth_time, acr, .. } = row;
        Self { sid, sub, username, auth_time, acr, amr }
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
    SessionManagerLayer::new(Store { db: services.db.clone(), clock: services.clock.clone(), absolute })
        .with_name(cookie_prefix(services))
        .with_secure(services.issuer.is_https())
        .with_http_only(true)
        // Lax: a client's redirect to us brings it, a foreign form does not.
        .with_same_site(SameSite::Lax)
        .with_path("/")
}

/// The browser of a session; one that has none yet gets one (and with it a session row and a cookie).
///
/// # Errors
/// 503 when the database cannot answer.
pub async fn browser(session: &Session) -> Result<Browser> {
    if let Some(browser) = session.get::<String>(BROWSER).await.map_err(unavailable)? {
        return Ok(Browser(browser));
    }
    let browser = random_text::<16>()?;
    session.insert(BROWSER, &browser).await.map_err(unavailable)?;
    renew_forms(session).await?;
    Ok(Browser(browser))
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
    browser(session).await?;
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
/// in at this browser already keeps their `sid`, and what came of it: proving it again is no new session. `None`: their
/// password was changed meanwhile, they were switched off, or this session has become another one.
///
/// # Errors
/// 503 when the database does not take it.
pub async fn begin(cx: &Cx<'_>, session: &Session, proven: Proven) -> Result<Option<SignIn>> {
    let Browser(browser) = browser(session).await?;
    let Some(id) = session.id().map(key) else { return Ok(None) };
    let Proven { user, charge, hash } = proven;
    let mut row = SignInRow {
        sid: BASE64_URL_SAFE_NO_PAD.encode(random::<16>()?),
        sub: user.sub,
        auth_time: cx.now,
        acr: None,
        amr: "pwd".to_owned(),
        last_used_at: cx.now,
        expires_at: cx.now + cx.sessions.absolute,
        username: user.username,
    };
    let (new, actor) = (row.clone(), Actor::person(cx, &row.sub));
    let committed = cx.db.write(move |tx| {
        Box::pin(async move {
            // One session becomes one other: who holds a copy of its id has nothing of what comes after (T-101).
            if !sessions::delete(tx, &id).await? || !users::stands(tx, &new.sub, &hash).await? {
                return Ok(None);
            }
            let sid = sessions::sign_in(tx, &browser, &new).await?;
            throttle::succeeded(tx, &charge).await?;
            let event = Event::SignedIn { sid: sid.clone(), amr: new.amr };
            audit::record(tx, &actor, &new.sub, &event).await?;
            Ok(Some(sid))
        })
    });
    let Some(sid) = committed.await?.value else { return Ok(None) };
    row.sid = sid;
    session.cycle_id().await.map_err(unavailable)?;
    session.insert(SIGNED_IN, true).await.map_err(unavailable)?;
    renew_forms(session).await?;
    Ok(Some(row.into()))
}

/// Who is signed in at `browser` now, the last used first. Disabled people and ended sessions are not among them.
///
/// # Errors
/// 503 when the database cannot answer.
pub async fn sign_ins(cx: &Cx<'_>, browser: &Browser) -> Result<Vec<SignIn>> {
    let (browser, now, idle_since) = (browser.0.clone(), cx.now, cx.now - cx.sessions.idle);
    let rows =
        cx.db.read(move |conn| Box::pin(async move { sessions::of_browser(conn, &browser, now, idle_since).await }));
    let rows = rows.await?;
    let stale: Vec<String> =
        rows.iter().filter(|row| now - row.last_used_at >= TOUCHED).map(|row| row.sid.clone()).collect();
    if !stale.is_empty() {
        let touched = cx.db.write(move |tx| {
            Box::pin(async move {
                for sid in &stale {
                    sessions::touch(tx, sid, now).await?;
                }
                Ok(())
            })
        });
        touched.await?;
    }
    Ok(rows.into_iter().map(SignIn::from).collect())
}

/// Ends a sign-in, and the grants that came of it as configured. When this returns every node acts on it.
///
/// # Errors
/// 503 when the database cannot answer, or a node has not confirmed it.
pub async fn end(cx: &Cx<'_>, sid: &str) -> Result<()> {
    let (sid, ends) = (sid.to_owned(), cx.sessions.end_grants);
    let actor = Actor::person(cx, "");
    let committed = cx.db.write(move |tx| {
        Box::pin(async move {
            let Some(sub) = sessions::end(tx, &sid).await? else { return Ok(()) };
            let actor = actor.named(&sub);
            audit::record(tx, &actor, &sub, &Event::SignedOut { sid: sid.clone() }).await?;
            issue::revoke_of_session(tx, &sid, ends, &actor).await
        })
    });
    match committed.await?.seq {
        Some(seq) => nodes::acted_on(cx, seq).await,
        None => Ok(()),
    }
}

/// Signs those of `here` out of this browser whom `leaves` names; `here` are all who are signed in at it. Forms that were
/// given out are good no more, and who comes after the last of them begins with nothing of theirs.
///
/// # Errors
/// As [`end`].
pub async fn leave(cx: &Cx<'_>, session: &Session, here: &[SignIn], leaves: impl Fn(&SignIn) -> bool) -> Result<()> {
    for sign_in in here.iter().filter(|sign_in| leaves(sign_in)) {
        end(cx, &sign_in.sid).await?;
    }
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

/// Forgets up to `limit` sign-ins that ended before `now`, and takes back what came of them: how many.
///
/// # Errors
/// When the database cannot.
pub async fn sweep(tx: &mut Tx, ends: EndGrants, now: Micros, limit: i64) -> Result<u64, StoreError> {
    let swept = sessions::sweep_sign_ins(tx, now, limit).await?;
    for sid in &swept {
        issue::revoke_of_session(tx, sid, ends, &Actor::system()).await?;
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

/// Sessions as rows, keyed by a hash of what the cookie says.
#[derive(Clone)]
pub struct Store {
    db: Db,
    clock: Clock,
    absolute: Micros,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store")
    }
}

type Work<'w, T> = Pin<Box<dyn Future<Output = Stored<T>> + Send + 'w>>;

fn key(id: SessionId) -> sessions::Key {
    sha256(&id.0.to_le_bytes())
}

#[expect(clippy::needless_pass_by_value, reason = "what map_err hands over")]
fn failed(cause: StoreError) -> Failed {
    Failed::Backend(cause.to_string())
}

impl Store {
    async fn put(&self, record: &Record, is_new: bool) -> Stored<()> {
        let id = key(record.id);
        let data = serde_json::to_string(&record.data).map_err(|cause| Failed::Encode(cause.to_string()))?;
        let lasts = if record.data.contains_key(SIGNED_IN) { self.absolute } else { ANONYMOUS };
        let until = self.clock.now() + lasts;
        let put = self.db.write(move |tx| {
            Box::pin(async move {
                if is_new {
                    sessions::create(tx, &id, &data, until).await
                } else {
                    sessions::save(tx, &id, &data, until).await
                }
            })
        });
        put.await.map(drop).map_err(failed)
    }

    async fn get(&self, id: SessionId) -> Stored<Option<Record>> {
        let (hash, now) = (key(id), self.clock.now());
        let row = self.db.read(move |conn| Box::pin(async move { sessions::get(conn, &hash, now).await }));
        let Some((data, until)) = row.await.map_err(failed)? else { return Ok(None) };
        let data: HashMap<String, serde_json::Value> =
            serde_json::from_str(&data).map_err(|cause| Failed::Decode(cause.to_string()))?;
        let expiry_date =
            OffsetDateTime::from_unix_timestamp(until / SECOND).map_err(|cause| Failed::Decode(cause.to_string()))?;
        Ok(Some(Record { id, data, expiry_date }))
    }
}

/// What `async fn` in the trait stands for.
impl SessionStore for Store {
    fn create<'s, 'r, 'w>(&'s self, record: &'r mut Record) -> Work<'w, ()>
    where
        's: 'w,
        'r: 'w,
        Self: 'w,
    {
        // 128 random bits meet no other's; a row that is there would be taken over, which is what an attacker wants.
        Box::pin(async move {
            record.id = SessionId(i128::from_le_bytes(random().map_err(|cause| Failed::Backend(cause.to_string()))?));
            self.put(record, true).await
        })
    }

    fn save<'s, 'r, 'w>(&'s self, record: &'r Record) -> Work<'w, ()>
    where
        's: 'w,
        'r: 'w,
        Self: 'w,
    {
        Box::pin(self.put(record, false))
    }

    fn load<'s, 'r, 'w>(&'s self, id: &'r SessionId) -> Work<'w, Option<Record>>
    where
        's: 'w,
        'r: 'w,
        Self: 'w,
    {
        Box::pin(self.get(*id))
    }

    fn delete<'s, 'r, 'w>(&'s self, id: &'r SessionId) -> Work<'w, ()>
    where
        's: 'w,
        'r: 'w,
        Self: 'w,
    {
        let id = key(*id);
        Box::pin(async move {
            let gone = self.db.write(move |tx| Box::pin(async move { sessions::delete(tx, &id).await }));
            gone.await.map(drop).map_err(failed)
        })
    }
}
