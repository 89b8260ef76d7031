//! A client that writes all the time and remembers what was acknowledged.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};
use tokio::task::JoinHandle;

use crate::rig::limit;

/// Longest time for one commit; after it, the connection is given up, and whether it happened is unknown.
const COMMIT_LIMIT: Duration = Duration::from_secs(3);

pub(crate) struct Writer {
    acknowledged: Arc<Mutex<Vec<i64>>>,
    task: JoinHandle<()>,
}

impl Writer {
    /// Writes one row after another to whichever of the servers takes it.
    pub(crate) fn start(servers: Vec<PgConnectOptions>) -> Self {
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(write(servers, acknowledged.clone()));
        Self { acknowledged, task }
    }

    pub(crate) fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    /// Waits until so many more are acknowledged.
    pub(crate) async fn until_more(&self, count: usize) {
        let wanted = self.count() + count;
        let waiting = async {
            while self.count() < wanted {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(limit(), waiting).await;
        assert!(waited.is_ok(), "the writer stays at {} of {wanted}", self.count());
    }

    /// Stops, and gives what was acknowledged.
    pub(crate) async fn stop(self) -> Vec<i64> {
        self.task.abort();
        let _ = self.task.await;
        std::mem::take(&mut *self.acknowledged.lock().unwrap())
    }
}

async fn write(servers: Vec<PgConnectOptions>, acknowledged: Arc<Mutex<Vec<i64>>>) {
    let mut number = 0;
    for options in servers.iter().cycle() {
        let connecting = tokio::time::timeout(COMMIT_LIMIT, PgConnection::connect_with(options)).await;
        let Ok(Ok(mut connection)) = connecting else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        loop {
            number += 1;
            let commit = sqlx::query("INSERT INTO written VALUES ($1)").bind(number).execute(&mut connection);
            match tokio::time::timeout(COMMIT_LIMIT, commit).await {
                Ok(Ok(_)) => acknowledged.lock().unwrap().push(number),
                _ => break,
            }
        }
    }
}
