//! Serving the API.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use flynn_discoverd_client::{Client as Discoverd, Registration};
use flynn_http::ServerOptions;
use flynn_types::discoverd::Instance;
use sqlx::postgres::PgConnectOptions;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::Config;
use crate::database::{self, MigrateError, SchemaChange, migrate};
use crate::events::Feed;
use crate::shared::Shared;
use crate::{api, store};

/// How long running requests may go on at the end.
const GRACE: Duration = Duration::from_secs(20);

/// Why the API does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the database is not ready")]
    Database(#[source] sqlx::Error),
    #[error("bring the database up to date")]
    Migrate(#[from] MigrateError),
    #[error("serve the API")]
    Serve(#[from] io::Error),
}

/// How others find this process.
#[derive(Clone, Debug)]
pub struct Discovery {
    pub client: Discoverd,
    /// What is registered as `controller`; others read the key from its metadata.
    pub instance: Instance,
}

/// Runs the API until `shutdown` is cancelled: waits for the database, brings it up to date, serves.
pub async fn serve(
    config: Config,
    database: PgConnectOptions,
    listener: TcpListener,
    discovery: Option<Discovery>,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let changes = SchemaChange::default();
    let pool = database::pool(database, changes.clone());
    let ready = shutdown.run_until_cancelled(prepare(&pool));
    match ready.await {
        None => return Ok(()),
        Some(prepared) => prepared?,
    }
    // Before anything is answered: a stream must not miss what is committed while the feed begins.
    let newest = async { store::event::newest(&mut *pool.acquire().await?).await };
    let newest = newest.await.map_err(ServeError::Database)?;
    let client = discovery.as_ref().map(|discovery| discovery.client.clone());
    let shared = Shared::new(
        config,
        Feed::start(pool.clone(), changes, newest, shutdown.clone()),
        pool.clone(),
        client,
        shutdown.clone(),
    );
    let router = api::router(shared.clone());
    let address = listener.local_addr()?;
    let registration = discovery.map(|discovery| register(&discovery, address));
    info!(%address, "listening");
    let options = ServerOptions { grace: GRACE, log_requests: true, ..ServerOptions::default() };
    let serving = flynn_http::serve(listener, router, shutdown.clone(), options);
    let leaving = async {
        shutdown.cancelled().await;
        if let Some(registration) = registration {
            registration.deregister().await;
        }
    };
    let (served, ()) = tokio::join!(serving, leaving);
    shared.tasks.close();
    if tokio::time::timeout(GRACE, shared.tasks.wait()).await.is_err() {
        warn!(tasks = shared.tasks.len(), "cutting off work that outlasts the grace time");
    }
    pool.close().await;
    Ok(served?)
}

fn register(discovery: &Discovery, address: SocketAddr) -> Registration {
    info!(%address, "registering as controller");
    discovery.client.register("controller", discovery.instance.clone())
}

/// Waits until the database takes writes, and migrates it.
async fn prepare(pool: &sqlx::PgPool) -> Result<(), ServeError> {
    let connection = flynn_database::wait_writable(pool).await.map_err(ServeError::Database)?;
    // Not given back: it has other limits than those of requests.
    Ok(migrate(&mut connection.detach()).await?)
}
