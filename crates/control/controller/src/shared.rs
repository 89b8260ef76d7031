//! What all requests share.

use std::sync::Arc;

use flynn_discoverd_client::Client as Discoverd;
use sqlx::pool::PoolConnection;
use sqlx::{PgPool, Postgres};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::database::Change;
use crate::error::Result;
use crate::events::Feed;

/// Handed to every handler.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) pool: PgPool,
    pub(crate) feed: Feed,
    /// Where hosts are found; without one there are none.
    pub(crate) discoverd: Option<Discoverd>,
    pub(crate) shutdown: CancellationToken,
    /// Work that goes on when its client has gone; the end waits for it.
    pub(crate) tasks: TaskTracker,
}

impl std::ops::Deref for Shared {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Shared {
    pub(crate) fn new(
        config: Config,
        feed: Feed,
        pool: PgPool,
        discoverd: Option<Discoverd>,
        shutdown: CancellationToken,
    ) -> Self {
        Self(Arc::new(Inner { config, pool, feed, discoverd, shutdown, tasks: TaskTracker::new() }))
    }

    /// A connection for reading.
    pub(crate) async fn sql(&self) -> Result<PoolConnection<Postgres>> {
        Ok(self.pool.acquire().await?)
    }

    pub(crate) async fn change(&self) -> Result<Change> {
        Change::begin(&self.pool).await
    }

    /// Finishes `work` also when the client does not wait for it.
    pub(crate) async fn finish<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let done = self.tasks.spawn(work).await;
        done.unwrap_or_else(|err| {
            Err(flynn_types::error::ApiError::internal(format!("the request's work ended: {err}")).into())
        })
    }
}
