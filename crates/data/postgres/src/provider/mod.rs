//! The provider of databases for apps, `postgres-api` (spec appliances section 5.8).
//!
//! Each database has a role of its own that owns it; nobody else's role may connect to it.

mod api;
mod provision;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use flynn_discoverd_client::{Client, DiscoverdError};
use flynn_http::{Backoff, ServerOptions};
use flynn_types::discoverd::Instance;
use flynn_types::error::with_causes;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::sql::{Sql, SqlError, options};

/// Longest time to ask who leads.
const LEADER_LIMIT: Duration = Duration::from_secs(5);

/// How the provider is set up.
pub struct ProviderConfig {
    /// Of the peers in discoverd.
    pub service: String,
    /// Of the role `flynn`.
    pub password: String,
    pub discovery: Client,
    /// This process as others find it.
    pub instance: Instance,
}

/// Why a database could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    #[error("service {0} has no leader: no peer of the database is ready to take writes")]
    NoLeader(String),
    #[error("the leader's address {0:?} has no host and port")]
    Address(String),
    #[error("the database takes no writes at the moment")]
    ReadOnly,
    #[error("ask who leads")]
    Discovery(#[from] DiscoverdError),
    #[error("ask the database")]
    Sql(#[from] SqlError),
}

/// Serves the provider's API until `shutdown` is cancelled; is registered from the moment that the database takes
/// writes, and answers before that why it does not.
///
/// # Errors
/// When the API cannot be served.
pub async fn run(config: ProviderConfig, listener: TcpListener, shutdown: CancellationToken) -> io::Result<()> {
    let name = format!("{}-api", config.service);
    let database = Arc::new(Database {
        service: config.service,
        password: config.password,
        discovery: config.discovery.clone().with_patience(LEADER_LIMIT),
    });
    let serving =
        flynn_http::serve(listener, api::router(database.clone()), shutdown.clone(), ServerOptions::default());
    let registered = async {
        if shutdown.run_until_cancelled(database.writable()).await.is_some() {
            info!(service = name, "registering");
            let registration = config.discovery.register(&name, config.instance);
            shutdown.cancelled().await;
            registration.deregister().await;
        }
    };
    let (served, ()) = tokio::join!(serving, registered);
    served
}

/// The primary of the peers, whoever that is.
struct Database {
    service: String,
    password: String,
    discovery: Client,
}

impl Database {
    /// Waits until the primary takes writes.
    async fn writable(&self) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2));
        loop {
            match self.connect().await {
                Ok(sql) => return sql.close().await,
                Err(err) => info!(reason = with_causes(&err), "the database takes no writes yet"),
            }
            tokio::time::sleep(backoff.pause()).await;
        }
    }

    /// A connection to a primary that takes writes. For each request its own: requests are rare, idle connections cost
    /// memory, and after a failover none leads to the wrong server.
    async fn connect(&self) -> Result<Sql, ProviderError> {
        let leader = self.discovery.leader(&self.service).await?;
        let leader = leader.ok_or_else(|| ProviderError::NoLeader(self.service.clone()))?;
        let address = leader.host_port().ok_or_else(|| ProviderError::Address(leader.addr.clone()))?;
        let mut sql = Sql::connect(&options(address.0, address.1).password(&self.password)).await?;
        match sql.text("SHOW transaction_read_only").await?.as_deref() {
            Some("off") => Ok(sql),
            _ => Err(ProviderError::ReadOnly),
        }
    }
}
