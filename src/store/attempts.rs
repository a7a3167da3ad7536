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
        /// One of the browsers that an account knows.
        Browser = "browser",
        /// All browsers that an account knows, beyond what each of them has for itself.
        Browsers = "browsers",
        /// A network address.
        Address = "address",
    }
}

/// One count.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// Of an account its `sub`.
    pub id: String,
    /// What it counts.
    pub kind: Kind,
    /// Which of several of that kind, or empty.
    pub part: String,
}

impl Bucket {
    /// The only one of its kind.
    pub fn new(kind: Kind, id: impl Into<String>) -> Self {
        Self { id: id.into(), kind, part: String::new() }
    }
}

/// $4 is now, $5 when a row that is not charged again is forgotten. The tenth attempt makes the next one wait for 30
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
        "INSERT INTO attempts (id, kind, part, n, free_at, expires_at) VALUES ($1, $2, $3, 1, $4, $5) \
         ON CONFLICT (id, kind, part) DO UPDATE SET \
         n = CASE WHEN attempts.expires_at <= $4 THEN 1 ELSE attempts.n + 1 END, \
         free_at = CASE WHEN attempts.expires_at <= $4 THEN $4 ELSE $4 + ", delay!("attempts.n + 1"), " END, \
         expires_at = excluded.expires_at \
         WHERE attempts.expires_at <= $4 OR attempts.n < 100 AND attempts.free_at <= $4 RETURNING n"
    );
    CHARGE_WINDOW =
        "INSERT INTO attempts (id, kind, part, n, free_at, expires_at) VALUES ($1, $2, $3, 1, $4, $5) \
         ON CONFLICT (id, kind, part) DO UPDATE SET \
         n = CASE WHEN attempts.expires_at <= $4 THEN 1 ELSE attempts.n + 1 END, \
         expires_at = CASE WHEN attempts.expires_at <= $4 THEN excluded.expires_at ELSE attempts.expires_at END \
         WHERE attempts.expires_at <= $4 OR attempts.n < $6 RETURNING n";
    // What counts nothing any more is swept with the next round.
    GIVE_BACK = "UPDATE attempts SET n = n - 1, free_at = CASE WHEN n <= 10 THEN 0 ELSE free_at END, \
                 expires_at = CASE WHEN n <= 1 THEN 0 ELSE expires_at END \
                 WHERE id = $1 AND kind = $2 AND part = $3 AND n > 0";
    CLEAR = "DELETE FROM attempts WHERE id = $1 AND kind = $2 AND part = $3";
    CLEAR_ALL = "DELETE FROM attempts WHERE id = $1";
    SWEEP = "DELETE FROM attempts WHERE (id, kind, part) IN \
             (SELECT id, kind, part FROM attempts WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2)";
}

/// Charges one attempt to a bucket whose delays grow; it is forgotten `kept` microseconds after the last one. How many
/// it has now, or `None` when the attempt may not be made.
pub async fn charge(tx: &mut Tx, bucket: &Bucket, kept: Micros) -> Result<Option<i64>, StoreError> {
    let (Bucket { id, kind, part }, now) = (bucket, tx.now());
    let row: Option<(i64,)> = fetch!(optional, tx, CHARGE, id, kind.as_str(), part, now, now + kept)?;
    Ok(row.map(|(n,)| n))
}

/// Charges one attempt to a bucket of `most` in `window` microseconds. Whether it may be made.
pub async fn charge_window(tx: &mut Tx, bucket: &Bucket, window: Micros, most: i64) -> Result<bool, StoreError> {
    let (Bucket { id, kind, part }, now) = (bucket, tx.now());
    let row: Option<(i64,)> = fetch!(optional, tx, CHARGE_WINDOW, id, kind.as_str(), part, now, now + window, most)?;
    Ok(row.is_some())
}

/// Takes an attempt back that was right.
pub async fn give_back(tx: &mut Tx, bucket: &Bucket) -> Result<(), StoreError> {
    let Bucket { id, kind, part } = bucket;
    execute!(tx, GIVE_BACK, id, kind.as_str(), part).map(drop)
}

/// Forgets a bucket.
pub async fn clear(tx: &mut Tx, bucket: &Bucket) -> Result<(), StoreError> {
    let Bucket { id, kind, part } = bucket;
    execute!(tx, CLEAR, id, kind.as_str(), part).map(drop)
}

/// Forgets every bucket of an account: also those of the browsers that it knows.
pub async fn clear_all(tx: &mut Tx, sub: &str) -> Result<(), StoreError> {
    execute!(tx, CLEAR_ALL, sub).map(drop)
}

/// Forgets up to `limit` buckets that count no more.
pub async fn sweep(tx: &mut Tx, now: Micros, limit: i64) -> Result<u64, StoreError> {
    execute!(tx, SWEEP, now, limit)
}
