//! Running the blob store.

use std::io;
use std::time::Duration;

use flynn_discoverd_client::Client;
use flynn_http::ServerOptions;
use flynn_types::discoverd::Instance;
use sqlx::postgres::PgConnectOptions;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::api;
use crate::backend::settings::Settings;
use crate::backend::{BackendError, Backends};
use crate::migrate::{MigrateError, migrate};
use crate::store::Store;

/// How long uploads and downloads may go on at the end.
const GRACE: Duration = Duration::from_secs(60);
const SERVICE: &str = "blobstore";

/// What a blob store is told.
#[derive(Clone, Debug)]
pub struct Config {
    pub database: PgConnectOptions,
    /// Where contents are.
    pub backends: Settings,
    /// Shown in the status.
    pub version: String,
}

/// How others find this process.
#[derive(Clone, Debug)]
pub struct Discovery {
    pub client: Client,
    pub instance: Instance,
}

/// Why it does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the database is not ready")]
    Database(#[source] sqlx::Error),
    #[error("bring the database up to date")]
    Migrate(#[from] MigrateError),
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error("serve the API")]
    Serve(#[from] io::Error),
}

/// Runs until `shutdown` is cancelled: waits for the database, brings it up to date, serves, registers.
pub async fn serve(
    config: Config,
    listener: TcpListener,
    discovery: Option<Discovery>,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let backends = match shutdown.run_until_cancelled(Backends::open(&config.backends)).await {
        None => return Ok(()),
        Some(opened) => opened?,
    };
    let pool = flynn_database::pool(config.database, SERVICE);
    let preparing = async {
        let connection = flynn_database::wait_writable(&pool).await.map_err(ServeError::Database)?;
        // Not given back: it has other limits than those of requests.
        Ok::<_, ServeError>(migrate(&mut connection.detach()).await?)
    };
    match shutdown.run_until_cancelled(preparing).await {
        None => return Ok(()),
        Some(prepared) => prepared?,
    }
    info!(address = %listener.local_addr()?, "listening");
    let registration = discovery.map(|discovery| discovery.client.register(SERVICE, discovery.instance));
    let options = ServerOptions { grace: GRACE, log_requests: true, ..ServerOptions::default() };
    let serving = flynn_http::serve(
        listener,
        api::router(Store::new(pool.clone(), backends), config.version),
        shutdown.clone(),
        options,
    );
    let leaving = async {
        shutdown.cancelled().await;
        if let Some(registration) = registration {
            registration.deregister().await;
        }
    };
    let (served, ()) = tokio::join!(serving, leaving);
    pool.close().await;
    Ok(served?)
}
