//! What the database tells of. Only that there is something: what it is, is read.

use std::time::Duration;

use flynn_http::Backoff;
use sqlx::PgPool;
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;
use uuid::Uuid;

use super::lease::QUERY_TIMEOUT;

/// What may be heard of before it is read; a reader that is slower looks anew.
const CAPACITY: usize = 1024;
/// Channel of new jobs of the queue.
const JOBS: &str = "que_jobs";
/// Channel of events; the payload is `<id>` or `<id>:<app>`.
const EVENTS: &str = "events";
/// After so long without a word it is asked whether the server is still there.
const SILENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The queue has changed.
    Jobs,
    /// An event of an app.
    Event(Uuid),
    /// Whatever was told for a while is lost.
    Anything,
}

/// Listens, for all of this process.
pub(crate) struct Wake {
    heard: broadcast::Sender<Heard>,
    _listening: AbortOnDropHandle<()>,
}

impl Wake {
    pub(crate) fn start(pool: PgPool) -> Self {
        let (heard, _) = broadcast::channel(CAPACITY);
        let listening = tokio::spawn(listen(pool, heard.clone()));
        Self { heard, _listening: AbortOnDropHandle::new(listening) }
    }

    pub(crate) fn subscribe(&self) -> Ear {
        Ear(self.heard.subscribe())
    }
}

pub(crate) struct Ear(broadcast::Receiver<Heard>);

impl Ear {
    /// Waits until there is something that `matters`. Whoever waits looks every now and then all the same.
    pub(crate) async fn wait(&mut self, matters: impl Fn(Heard) -> bool) {
        loop {
            match self.0.recv().await {
                Ok(Heard::Anything) | Err(RecvError::Lagged(_)) => return,
                Ok(heard) if matters(heard) => return,
                Ok(_) => {}
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}

async fn listen(pool: PgPool, heard: broadcast::Sender<Heard>) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
    loop {
        let err = follow(&pool, &heard, || backoff.reset()).await;
        debug!(%err, "the connection that listens is lost");
        tokio::time::sleep(backoff.pause()).await;
    }
}

async fn follow(pool: &PgPool, heard: &broadcast::Sender<Heard>, mut works: impl FnMut()) -> sqlx::Error {
    let following = async {
        // Outside of the pool: it is busy for ever.
        let own = PgPoolOptions::new().max_connections(1).connect_lazy_with((*pool.connect_options()).clone());
        let mut listener = PgListener::connect_with(&own).await?;
        listener.ignore_pool_close_event(true);
        listener.eager_reconnect(false);
        listener.listen_all([JOBS, EVENTS]).await?;
        works();
        let _ = heard.send(Heard::Anything); // nobody may want to know
        loop {
            let Ok(received) = tokio::time::timeout(SILENCE, listener.try_recv()).await else {
                // The server's host may be gone without a word.
                let answer = tokio::time::timeout(QUERY_TIMEOUT, sqlx::query("SELECT 1").execute(&mut listener));
                answer.await.unwrap_or(Err(sqlx::Error::PoolTimedOut))?;
                continue;
            };
            let Some(notification) = received? else { return Ok(()) };
            let app = notification.payload().split_once(':').and_then(|(_, app)| app.parse().ok());
            let what = if notification.channel() == JOBS { Some(Heard::Jobs) } else { app.map(Heard::Event) };
            what.map(|what| heard.send(what));
        }
    };
    following.await.err().unwrap_or_else(|| sqlx::Error::Protocol("the server ended it".into()))
}
