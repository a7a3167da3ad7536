//! The store behind the session layer: sessions as rows, keyed by a hash of what the cookie says.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;

use time::OffsetDateTime;
use tower_sessions::SessionStore;
use tower_sessions::session::{Id as SessionId, Record};
use tower_sessions::session_store::{Error as Failed, Result as Stored};

use super::{ANONYMOUS, NOBODY, Nobody, SIGNED_IN};
use crate::clock::{Clock, Micros, SECOND};
use crate::secret::{random, sha256};
use crate::store::{Db, StoreError, sessions};
use crate::visitors::{self, Visitors};

/// The rows.
#[derive(Clone)]
pub struct Store {
    pub(super) db: Db,
    pub(super) clock: Clock,
    /// How long people stay signed in, in all.
    pub(super) absolute: Micros,
    /// What one network may have waiting.
    pub(super) most: i64,
    pub(super) visitors: Visitors,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store")
    }
}

type Work<'w, T> = Pin<Box<dyn Future<Output = Stored<T>> + Send + 'w>>;

pub(super) fn key(id: SessionId) -> sessions::Key {
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
        let (now, most) = (self.clock.now(), self.most);
        let nobody: Option<Nobody> =
            record.data.get(NOBODY).and_then(|nobody| serde_json::from_value(nobody.clone()).ok());
        let _lane = match nobody.as_ref().filter(|_| is_new) {
            Some(nobody) => self.visitors.lane(&self.db, &nobody.source).await,
            None => None,
        };
        let put = self.db.write(move |tx| {
            Box::pin(async move {
                if !is_new {
                    return sessions::save(tx, &id, &data, now + lasts).await.map(|()| true);
                }
                let source = nobody.as_ref().map(|nobody| nobody.source.as_str());
                // Many at once were all admitted.
                if let Some(source) = source
                    && !visitors::has_room(tx, source, now, most).await?
                {
                    return Ok(false);
                }
                sessions::create(tx, &id, &data, now + lasts, source).await.map(|()| true)
            })
        });
        let full = || Failed::Backend("too many sessions of nobody".into());
        if put.await.map_err(failed)?.value { Ok(()) } else { Err(full()) }
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
