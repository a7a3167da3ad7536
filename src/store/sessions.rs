//! Rows of browser sessions, and of who is signed in at which browser.

use sqlx::FromRow;

use super::conn::{On, execute, fetch, queries};
use super::{Conn, StoreError, Tx};
use crate::clock::Micros;

queries! {
    CREATE = "INSERT INTO sessions (id, data, expires_at, source) VALUES ($1, $2, $3, $4)";
    SAVE = "UPDATE sessions SET data = $2, expires_at = $3 WHERE id = $1";
    GET = "SELECT data, expires_at FROM sessions WHERE id = $1 AND expires_at > $2";
    DELETE = "DELETE FROM sessions WHERE id = $1";
    WAITING_OF = "SELECT COUNT(*) FROM \
                  (SELECT 1 FROM sessions WHERE source = $1 AND expires_at > $2 LIMIT $3) AS waiting";
    WAITING = "SELECT COUNT(*) FROM \
               (SELECT 1 FROM sessions WHERE source IS NOT NULL AND expires_at > $1 LIMIT $2) AS waiting";
    SWEEP = "DELETE FROM sessions WHERE id IN \
             (SELECT id FROM sessions WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2)";
    OF_BROWSER = "SELECT s.sid, s.sub, s.auth_time, s.acr, s.amr, s.last_used_at, s.expires_at, u.username \
                  FROM sign_ins s JOIN users u ON u.sub = s.sub \
                  WHERE s.browser = $1 AND s.expires_at > $2 AND s.last_used_at > $3 AND NOT u.disabled \
                  ORDER BY s.last_used_at DESC, s.sid";
    OF_USER = "SELECT sid, agent, auth_time, last_used_at FROM sign_ins \
               WHERE sub = $1 AND browser <> $2 AND expires_at > $3 AND last_used_at > $4 \
               ORDER BY last_used_at DESC, sid LIMIT 100";
    SIGN_IN = "INSERT INTO sign_ins (sid, browser, sub, auth_time, acr, amr, agent, last_used_at, expires_at) \
               VALUES ($1, $2, $3, $4, $5, $6, $8, $4, $7) ON CONFLICT (browser, sub) DO UPDATE SET \
               auth_time = excluded.auth_time, acr = excluded.acr, amr = excluded.amr, agent = excluded.agent, \
               last_used_at = excluded.last_used_at, expires_at = excluded.expires_at RETURNING sid";
    TOUCH = "UPDATE sign_ins SET last_used_at = $2 WHERE sid = $1 AND last_used_at < $2";
    KEEP = "UPDATE sign_ins SET last_used_at = $2 WHERE sid = $1 AND last_used_at <= $3 AND last_used_at > $4";
    END = "DELETE FROM sign_ins WHERE sid = $1 RETURNING sub";
    END_ALL = "DELETE FROM sign_ins WHERE sub = $1";
    END_DEAD = "DELETE FROM sign_ins WHERE browser = $1 AND sub = $2 AND (expires_at <= $3 OR last_used_at <= $4) \
                RETURNING sid";
    SWEEP_SIGN_INS = "DELETE FROM sign_ins WHERE sid IN (SELECT sid FROM sign_ins \
                      WHERE expires_at <= $1 OR last_used_at <= $2 LIMIT $3) RETURNING sid";
}

/// Until the commit nobody else has the lock of this name. PostgreSQL only: SQLite's transactions come one by one.
const ONE_AT_A_TIME: &str = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))";

/// SHA-256 of the cookie's id: who reads the table signs in nowhere.
pub type Key = [u8; 32];

/// A person signed in at a browser, as it is kept.
#[derive(Clone, Debug, FromRow)]
pub struct SignInRow {
    /// What clients know the session by.
    pub sid: String,
    /// Who.
    pub sub: String,
    /// When they proved it.
    pub auth_time: Micros,
    /// The authentication context class.
    pub acr: Option<String>,
    /// By what (RFC 8176), words parted by spaces.
    pub amr: String,
    /// When it was last used, to the minute.
    pub last_used_at: Micros,
    /// When it ends, however often it is used.
    pub expires_at: Micros,
    /// What the person signs in by.
    pub username: String,
}

/// A sign-in at another browser, for the person to see.
#[derive(Clone, Debug, FromRow)]
pub struct Elsewhere {
    /// Which one.
    pub sid: String,
    /// What the browser is called, if it said so.
    pub agent: Option<String>,
    /// When they proved who they are.
    pub auth_time: Micros,
    /// When it was last used, to the minute.
    pub last_used_at: Micros,
}

/// Begins a session; one of nobody is counted as of `source`.
pub async fn create(
    tx: &mut Tx,
    id: &Key,
    data: &str,
    expires_at: Micros,
    source: Option<&str>,
) -> Result<(), StoreError> {
    execute!(tx, CREATE, &id[..], data, expires_at, source).map(drop)
}

/// How many live sessions of nobody are counted as of `source`, or in all; not more than `most` are counted.
pub async fn waiting(conn: &mut Conn, source: Option<&str>, now: Micros, most: i64) -> Result<i64, StoreError> {
    let (count,): (i64,) = match source {
        Some(source) => fetch!(one, conn, WAITING_OF, source, now, most)?,
        None => fetch!(one, conn, WAITING, now, most)?,
    };
    Ok(count)
}

/// Of several transactions that ask for it with the same `source`, the next goes on when the one before it is committed.
pub async fn one_at_a_time(tx: &mut Tx, source: &str) -> Result<(), StoreError> {
    if let On::Postgres(conn) = tx.on() {
        sqlx::query(ONE_AT_A_TIME).bind(source).execute(conn).await?;
    }
    Ok(())
}

/// Keeps what a session has become. One that has ended stays so.
pub async fn save(tx: &mut Tx, id: &Key, data: &str, expires_at: Micros) -> Result<(), StoreError> {
    execute!(tx, SAVE, &id[..], data, expires_at).map(drop)
}

/// A live session: its data and its end.
pub async fn get(conn: &mut Conn, id: &Key, now: Micros) -> Result<Option<(String, Micros)>, StoreError> {
    fetch!(optional, conn, GET, &id[..], now)
}

/// Ends a session: whether it was there. Of several at once, one ends it.
pub async fn delete(tx: &mut Tx, id: &Key) -> Result<bool, StoreError> {
    Ok(execute!(tx, DELETE, &id[..])? == 1)
}

/// Forgets up to `limit` sessions that ended before `now`.
pub async fn sweep(tx: &mut Tx, now: Micros, limit: i64) -> Result<u64, StoreError> {
    execute!(tx, SWEEP, now, limit)
}

/// Who is signed in at `browser`, the last used first: not who was idle since `idle_since`, and nobody switched off.
pub async fn of_browser(
    conn: &mut Conn,
    browser: &str,
    now: Micros,
    idle_since: Micros,
) -> Result<Vec<SignInRow>, StoreError> {
    fetch!(all, conn, OF_BROWSER, browser, now, idle_since)
}

/// Where `sub` is signed in beside `browser`, the last used first and 100 at most.
pub async fn of_user(
    conn: &mut Conn,
    (sub, browser): (&str, &str),
    now: Micros,
    idle_since: Micros,
) -> Result<Vec<Elsewhere>, StoreError> {
    fetch!(all, conn, OF_USER, sub, browser, now, idle_since)
}

/// Signs a person in at `browser`, which is called `agent`, and gives the `sid`: that of `row`, or the one they have
/// there since before.
pub async fn sign_in(
    tx: &mut Tx,
    (browser, agent): (&str, Option<&str>),
    row: &SignInRow,
) -> Result<String, StoreError> {
    let SignInRow { sid, sub, auth_time, acr, amr, expires_at, .. } = row;
    let (sid,): (String,) = fetch!(one, tx, SIGN_IN, sid, browser, sub, *auth_time, acr, amr, *expires_at, agent)?;
    Ok(sid)
}

/// Ends the sign-in of `sub` at `browser` if it is over, by its end or by not being used since `idle_since`: which.
pub async fn end_dead(
    tx: &mut Tx,
    (browser, sub): (&str, &str),
    now: Micros,
    idle_since: Micros,
) -> Result<Option<String>, StoreError> {
    let row: Option<(String,)> = fetch!(optional, tx, END_DEAD, browser, sub, now, idle_since)?;
    Ok(row.map(|(sid,)| sid))
}

/// Notes that a sign-in is in use.
pub async fn touch(tx: &mut Tx, sid: &str, now: Micros) -> Result<(), StoreError> {
    execute!(tx, TOUCH, sid, now).map(drop)
}

/// Notes that a sign-in is in use, if it was used between `idle_since` and `before`.
pub async fn keep(tx: &mut Tx, sid: &str, before: Micros, idle_since: Micros) -> Result<(), StoreError> {
    let now = tx.now();
    execute!(tx, KEEP, sid, now, before, idle_since).map(drop)
}

/// Ends a sign-in: whose it was, if it was there.
pub async fn end(tx: &mut Tx, sid: &str) -> Result<Option<String>, StoreError> {
    let row: Option<(String,)> = fetch!(optional, tx, END, sid)?;
    Ok(row.map(|(sub,)| sub))
}

/// Ends every sign-in of a person.
pub async fn end_all(tx: &mut Tx, sub: &str) -> Result<(), StoreError> {
    execute!(tx, END_ALL, sub).map(drop)
}

/// Forgets up to `limit` sign-ins that ended before `now` or were not used since `idle_since`: which.
pub async fn sweep_sign_ins(
    tx: &mut Tx,
    now: Micros,
    idle_since: Micros,
    limit: i64,
) -> Result<Vec<String>, StoreError> {
    let rows: Vec<(String,)> = fetch!(all, tx, SWEEP_SIGN_INS, now, idle_since, limit)?;
    Ok(rows.into_iter().map(|(sid,)| sid).collect())
}
