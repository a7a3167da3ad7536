//! Rows of attempts at signing in. Each is charged by one statement before the password is looked at, so that as many
//! at once, on as many nodes, count as many one after the other do.

use super::conn::{execute, fetch, queries};
use super::{StoreError, Tx};
use crate::clock::Micros;
use crate::wire::vocabulary;

vocabulary! {
    /// What attempts count against.
    pub enum Kind {
        /// An account, or what would be one, from browsers that it does not know.
        Account = "account",
        /// A browser that an account knows.
        Browser = "browser",
        /// A network address.
        Address = "address",
    }
}

/// $3 is now, $4 when a row that is not charged again is forgotten. The tenth attempt makes the next one wait for 30
/// seconds, each further one for twice as long, up to an hour; the hundredth is the last.
macro_rules! delay {
    ($n:literal) => {
        concat!(
            "CASE WHEN ",
            $n,
            " < 10 THEN CAST(0 AS BIGINT) WHEN ",
            $n,
            " >= 17 THEN CAST(3600000000 AS BIGINT) ",
            "ELSE CAST(30000000 AS BIGINT) << CAST(",
            $n,
            " - 10 AS INTEGER) END"
        )
    };
}

queries! {
    CHARGE = concat!(
        "INSERT INTO attempts (kind, id, n, free_at, expires_at) VALUES ($1, $2, 1, $3, $4) \
         ON CONFLICT (kind, id) DO UPDATE SET \
         n = CASE WHEN attempts.expires_at <= $3 THEN 1 ELSE attempts.n + 1 END, \
         free_at = CASE WHEN attempts.expires_at <= $3 THEN $3 ELSE $3 + ", delay!("attempts.n + 1"), " END, \
         expires_at = excluded.expires_at \
         WHERE attempts.expires_at <= $3 OR attempts.n < 100 AND attempts.free_at <= $3 RETURNING n"
    );
    CHARGE_WINDOW =
        "INSERT INTO attempts (kind, id, n, free_at, expires_at) VALUES ($1, $2, 1, $3, $4) \
         ON CONFLICT (kind, id) DO UPDATE SET \
         n = CASE WHEN attempts.expires_at <= $3 THEN 1 ELSE attempts.n + 1 END, \
         expires_at = CASE WHEN attempts.expires_at <= $3 THEN excluded.expires_at ELSE attempts.expires_at END \
         WHERE attempts.expires_at <= $3 OR attempts.n < $5 RETURNING n";
    GIVE_BACK = "UPDATE attempts SET n = n - 1, free_at = CASE WHEN n <= 10 THEN 0 ELSE free_at END \
                 WHERE kind = $1 AND id = $2 AND n > 0";
    CLEAR = "DELETE FROM attempts WHERE kind = $1 AND id = $2";
    SWEEP = "DELETE FROM attempts WHERE (kind, id) IN \
             (SELECT kind, id FROM attempts WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2)";
}

/// Charges one attempt to a bucket whose delays grow; it is forgotten `kept` microseconds after the last one. Whether
/// the attempt may be made.
pub async fn charge(tx: &mut Tx, kind: Kind, id: &str, kept: Micros) -> Result<bool, StoreError> {
    let now = tx.now();
    let row: Option<(i64,)> = fetch!(optional, tx, CHARGE, kind.as_str(), id, now, now + kept)?;
    Ok(row.is_some())
}

/// Charges one attempt to a bucket of `most` in `window` microseconds. Whether it may be made.
pub async fn charge_window(tx: &mut Tx, kind: Kind, id: &str, window: Micros, most: i64) -> Result<bool, StoreError> {
    let now = tx.now();
    let row: Option<(i64,)> = fetch!(optional, tx, CHARGE_WINDOW, kind.as_str(), id, now, now + window, most)?;
    Ok(row.is_some())
}

/// Takes an attempt back that was right, or that nobody looked at.
pub async fn give_back(tx: &mut Tx, kind: Kind, id: &str) -> Result<(), StoreError> {
    execute!(tx, GIVE_BACK, kind.as_str(), id).map(drop)
}

/// Forgets a bucket.
pub async fn clear(tx: &mut Tx, kind: Kind, id: &str) -> Result<(), StoreError> {
    execute!(tx, CLEAR, kind.as_str(), id).map(drop)
}

/// Forgets up to `limit` buckets that count no more.
pub async fn sweep(tx: &mut Tx, now: Micros, limit: i64) -> Result<u64, StoreError> {
    execute!(tx, SWEEP, now, limit)
}
