//! Ids that may be used once: burnt durably, many requests' ids in one statement.

use aws_lc_rs::digest::{Context, SHA256};
use tokio::sync::{mpsc, oneshot};

use crate::clock::Micros;
use crate::error::{Error, Result};
use crate::store::artifacts::{self, Key, Kind};
use crate::store::{Db, StoreError, gather};

const BATCH: usize = 256;
const QUEUE: usize = 4096;

/// The queue of ids to burn.
pub struct Replay {
    queue: mpsc::Sender<Request>,
}

struct Request {
    id: Key,
    expires_at: Micros,
    first: oneshot::Sender<Result<bool, ()>>,
}

impl Replay {
    /// Starts the task that burns; it ends when this is dropped.
    pub fn start(db: Db) -> Self {
        let (queue, requests) = mpsc::channel(QUEUE);
        tokio::spawn(burn_loop(db, requests));
        Self { queue }
    }

    /// Burns the `jti` of a client's assertion; `true` for its first use. Durable when this returns.
    ///
    /// # Errors
    /// 503 when the database does not answer: then the use is refused, and the id may be burnt.
    pub async fn client_assertion(&self, client_id: &str, jti: &str, expires_at: Micros) -> Result<bool> {
        let mut id = Context::new(&SHA256);
        id.update(client_id.as_bytes());
        id.update(&[0]);
        id.update(jti.as_bytes());
        let mut key = Key::default();
        key.copy_from_slice(id.finish().as_ref());
        let (first, answer) = oneshot::channel();
        let busy = || Error::unavailable("The database is not available; try again.", 2);
        self.queue.send(Request { id: key, expires_at, first }).await.map_err(|_| busy())?;
        answer.await.map_err(|_| busy())?.map_err(|()| busy())
    }
}

async fn burn_loop(db: Db, mut requests: mpsc::Receiver<Request>) {
    let mut batch = Vec::with_capacity(BATCH);
    while gather(&mut requests, &mut batch, BATCH).await {
        let mut ids: Vec<(Key, Micros)> = batch.iter().map(|request| (request.id, request.expires_at)).collect();
        // Nodes that burn the same ids at once wait for one another row by row: in one order, none waits in a circle.
        ids.sort_unstable();
        let burnt =
            db.write(move |tx| Box::pin(async move { artifacts::burn(tx, Kind::ClientAssertion, &ids).await })).await;
        answer(burnt.map(|committed| committed.value), &mut batch);
    }
}

/// Of several requests with one id, the first in the batch is the first use.
fn answer(burnt: Result<std::collections::HashSet<Key>, StoreError>, batch: &mut Vec<Request>) {
    match burnt {
        Ok(mut first) => {
            for request in batch.drain(..) {
                let _ = request.first.send(Ok(first.remove(&request.id)));
            }
        }
        Err(cause) => {
            tracing::error!(%cause, "replay ids could not be burnt");
            for request in batch.drain(..) {
                let _ = request.first.send(Err(()));
            }
        }
    }
}
