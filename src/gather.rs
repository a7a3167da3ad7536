//! What many ask for at the same time, taken together.

use tokio::sync::mpsc;

/// Waits for something in `queue` and adds up to `most` of what is there to `batch`, which is empty; false when nothing
/// comes any more. Whoever is about to ask comes along, since a batch costs little more than one: the tasks that are ready
/// have a turn, and another one for as long as the batch at least doubles by it. One turn is microseconds where nobody is
/// ready, and on a busy worker some milliseconds.
pub async fn gather<T>(queue: &mut mpsc::Receiver<T>, batch: &mut Vec<T>, most: usize) -> bool {
    let mut came = queue.recv_many(batch, most).await;
    let any = came > 0;
    while came > 0 && came * 2 >= batch.len() && batch.len() < most {
        tokio::task::yield_now().await;
        let before = batch.len();
        while batch.len() < most
            && let Ok(one) = queue.try_recv()
        {
            batch.push(one);
        }
        came = batch.len() - before;
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On one thread, tasks have their turns in order: the batch holds whoever was ready when it began, and who came of
    /// them, and no more than it may.
    #[tokio::test]
    async fn who_is_about_to_ask_comes_along() {
        let (ask, mut queue) = mpsc::channel(8);
        for n in 0..3 {
            let ask = ask.clone();
            tokio::spawn(async move {
                for _ in 0..n {
                    tokio::task::yield_now().await;
                }
                ask.send(n).await.unwrap();
            });
        }
        let mut batch = Vec::new();
        assert!(gather(&mut queue, &mut batch, 8).await);
        assert_eq!(batch, [0, 1, 2]);
        for n in 0..8 {
            ask.send(n).await.unwrap();
        }
        for expected in [&[0, 1, 2, 3, 4][..], &[5, 6, 7]] {
            batch.clear();
            assert!(gather(&mut queue, &mut batch, 5).await);
            assert_eq!(batch, expected);
        }
        drop(ask);
        assert!(!gather(&mut queue, &mut batch, 8).await);
    }

    /// Where somebody comes at each turn without end, those who came first are not kept waiting for them.
    #[tokio::test]
    async fn a_stream_of_others_keeps_nobody_waiting() {
        let (ask, mut queue) = mpsc::channel(1000);
        tokio::spawn(async move {
            while ask.send(()).await.is_ok() {
                tokio::task::yield_now().await;
            }
        });
        let mut batch = Vec::new();
        assert!(gather(&mut queue, &mut batch, 1000).await);
        assert!(batch.len() < 8, "{}", batch.len());
    }
}
