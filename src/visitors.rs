//! What anybody may leave in the database without signing in: sessions of nobody, and sign-ins on their way. So much
//! of each network, so that a flood from one hurts nobody elsewhere, and so much in all, so that the database stays
//! bounded. What has ended counts no more, whether it was finished or has expired.
//!
//! What a network has is counted in the transaction that adds to it, and those of one network come one after the other:
//! so it never has more. On PostgreSQL, where transactions meet, they wait for each other: in each node before they take
//! a connection, so that a flood from one network keeps none from others, and between the nodes by a lock of the
//! database. What there is in all is counted once a second, and each node adds
//! what it admits meanwhile: several nodes may go beyond the bound by what they admit in a second.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::MutexGuard;

use crate::clock::{Micros, SECOND};
use crate::cx::Cx;
use crate::error::{Code, Error, Result};
use crate::pool::network;
use crate::secret::sha256;
use crate::store::{Conn, Db, StoreError, Tx, artifacts, sessions};

/// How old a count of all may be.
const COUNTED: Micros = SECOND;
/// When to come again, in seconds.
const LATER: u32 = 60;

/// How much is taken.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Of one network.
    pub of_network: i64,
    /// In all.
    pub in_all: i64,
}

/// How many networks do not wait for each other.
const LANES: usize = 64;

/// How many there are in all, as this node knows it, and who of one network is next. Clones are the same.
#[derive(Clone, Debug)]
pub struct Visitors(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    count: Mutex<Count>,
    lanes: [tokio::sync::Mutex<()>; LANES],
}

impl Default for Visitors {
    fn default() -> Self {
        let lanes = std::array::from_fn(|_| tokio::sync::Mutex::default());
        Self(Arc::new(Shared { count: Mutex::default(), lanes }))
    }
}

impl Visitors {
    /// Waits for whoever else of `source` adds something on this node. Held until the commit. SQLite's writer is such a
    /// queue itself.
    pub async fn lane(&self, db: &Db, source: &str) -> Option<MutexGuard<'_, ()>> {
        if db.sqlite_path().is_some() {
            return None;
        }
        Some(self.0.lanes[usize::from(sha256(source.as_bytes())[0]) % LANES].lock().await)
    }
}

#[derive(Debug, Default)]
struct Count {
    at: Micros,
    waiting: i64,
}

/// Whether whoever is at `cx.peer` may leave a session and a sign-in here.
///
/// # Errors
/// 429 when their network has left too much, 503 when all have: nothing is stored then.
pub async fn admit(cx: &Cx<'_>) -> Result<()> {
    admit_one(cx).await?;
    let (source, now, most) = (network(cx.peer).to_string(), cx.now, cx.sessions.visitors.of_network);
    let waiting = cx.db.read(move |conn| Box::pin(async move { of_network(conn, &source, now, most).await })).await?;
    // One for the session, and one for what it is for.
    if waiting + 2 > most { Err(too_many()) } else { Ok(()) }
}

/// Whether there is room for one more in all.
///
/// # Errors
/// 503 when there is none.
pub async fn admit_one(cx: &Cx<'_>) -> Result<()> {
    let most = cx.sessions.visitors.in_all;
    let count = || cx.visitors.0.count.lock().unwrap_or_else(PoisonError::into_inner);
    let is_old = {
        let mut count = count();
        // A clock that was set back is no reason to wait for it.
        let is_old = !(count.at..count.at + COUNTED).contains(&cx.now);
        if is_old {
            // One counts; the others go by what is known meanwhile.
            count.at = cx.now;
        }
        is_old
    };
    if is_old {
        let now = cx.now;
        let waiting = cx.db.read(move |conn| Box::pin(async move { of_all(conn, now, most).await })).await?;
        count().waiting = waiting;
    }
    let mut count = count();
    if count.waiting >= most {
        let detail = "Too many people have begun to sign in; try again.";
        return Err(Error::new(Code::Crowded, detail).after(LATER));
    }
    count.waiting += 1;
    Ok(())
}

/// What a network is told that has left too much.
pub fn too_many() -> Error {
    let detail = "Too many people have begun to sign in from this network; try again.";
    Error::new(Code::TooManyRequests, detail).after(LATER)
}

/// Whether there is room for one more of `source`, in the transaction that adds it: until the commit no other one counts.
///
/// # Errors
/// When the database cannot be read.
pub async fn has_room(tx: &mut Tx, source: &str, now: Micros, most: i64) -> Result<bool, StoreError> {
    sessions::one_at_a_time(tx, source).await?;
    Ok(of_network(tx, source, now, most).await? < most)
}

/// What `source` has waiting; `most` and more are one answer.
///
/// # Errors
/// When the database cannot be read.
async fn of_network(conn: &mut Conn, source: &str, now: Micros, most: i64) -> Result<i64, StoreError> {
    let sessions = sessions::waiting(conn, Some(source), now, most).await?;
    Ok(sessions + artifacts::waiting(conn, Some(source), now, most).await?)
}

async fn of_all(conn: &mut Conn, now: Micros, most: i64) -> Result<i64, StoreError> {
    Ok(sessions::waiting(conn, None, now, most).await? + artifacts::waiting(conn, None, now, most).await?)
}
