//! A worker from start to end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use flynn_controller_client::Client;
use flynn_discoverd_client::Client as Discoverd;
use flynn_http::ServerOptions;
use flynn_types::discoverd::Instance;
use serde_json::json;
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::Context;
use crate::queue::{Dispatch, Wake};

/// Jobs at a time (spec section 13.1, Q5).
pub const SLOTS: usize = 10;
/// The controller's migration that this version needs.
const SCHEMA: i64 = 1003;
/// How often it is looked whether the controller has migrated the database.
const SCHEMA_POLL: Duration = Duration::from_secs(1);
/// How long the database may take to say that it is there.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// What a worker needs to know besides its database.
#[derive(Clone, Debug)]
pub struct Config {
    pub controller: Client,
    /// Jobs at a time.
    pub slots: usize,
    /// Reported by the status.
    pub version: String,
}

/// How others find this process.
#[derive(Clone, Debug)]
pub struct Discovery {
    pub client: Discoverd,
    /// What is registered as `controller-worker`.
    pub instance: Instance,
}

/// Why a worker does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the database is not ready")]
    Database(#[source] sqlx::Error),
    #[error("serve the status")]
    Serve(#[from] io::Error),
}

/// Works until `shutdown` is cancelled, and then until jobs that are worked on can be left.
pub async fn serve(
    config: Config,
    database: PgConnectOptions,
    listener: TcpListener,
    discovery: Option<Discovery>,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let pool = flynn_database::pool(database, "worker");
    let serving = tokio::spawn(flynn_http::serve(
        listener,
        axum::Router::new()
            .route("/.well-known/status", get(status))
            .with_state(Arc::new(Status { pool: pool.clone(), version: config.version })),
        shutdown.clone(),
        ServerOptions::default(),
    ));
    let worked = match shutdown.run_until_cancelled(ready(&pool)).await {
        Some(Ok(())) => {
            let registration = discovery.map(|found| found.client.register("controller-worker", found.instance));
            info!("working");
            let context = Arc::new(Context {
                pool: pool.clone(),
                controller: config.controller,
                wake: Wake::start(pool.clone()),
            });
            let stop = shutdown.clone();
            let dispatch = Dispatch { pool: pool.clone(), slots: config.slots, limits: &[], shutdown: stop.clone() };
            let working = dispatch.run(&context.wake, |job, lease| {
                let (context, stop) = (Arc::clone(&context), stop.clone());
                async move { context.work(job, lease, stop).await }
            });
            working.await;
            if let Some(registration) = registration {
                registration.deregister().await;
            }
            Ok(())
        }
        Some(Err(err)) => Err(ServeError::Database(err)),
        None => Ok(()),
    };
    if worked.is_err() {
        serving.abort();
        return worked;
    }
    let served = serving.await.map_err(io::Error::other)?;
    pool.close().await;
    Ok(served?)
}

/// Waits until the database takes writes and the controller has brought it up to date.
async fn ready(pool: &PgPool) -> Result<(), sqlx::Error> {
    drop(flynn_database::wait_writable(pool).await?);
    let known = "SELECT to_regclass('schema_migrations') IS NOT NULL";
    let migrated = "SELECT EXISTS (SELECT FROM schema_migrations WHERE id = $1)";
    let mut told = false;
    loop {
        let there = sqlx::query_scalar(known).fetch_one(pool).await?;
        if there && sqlx::query_scalar(migrated).bind(SCHEMA).fetch_one(pool).await? {
            return Ok(());
        }
        if !std::mem::replace(&mut told, true) {
            info!(migration = SCHEMA, "waiting for the controller to migrate the database");
        }
        tokio::time::sleep(SCHEMA_POLL).await;
    }
}

struct Status {
    pool: PgPool,
    version: String,
}

async fn status(State(status): State<Arc<Status>>) -> Response {
    let ping = tokio::time::timeout(PING_TIMEOUT, sqlx::query("SELECT 1").execute(&status.pool));
    let healthy = matches!(ping.await, Ok(Ok(_)));
    let (code, word) =
        if healthy { (StatusCode::OK, "healthy") } else { (StatusCode::INTERNAL_SERVER_ERROR, "unhealthy") };
    let body = json!({ "data": { "status": word, "version": status.version } }).to_string();
    (code, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
