//! Running the aggregator.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use flynn_discoverd_client::Client;
use flynn_http::ServerOptions;
use flynn_types::discoverd::Instance;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::store::Store;
use crate::{api, ingest, peer};

/// What an aggregator is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// The service as which it registers, and whose leader it begins with.
    pub service: String,
    /// Most memory of all messages, in bytes. When it is full, the largest logs lose their oldest lines.
    pub memory_bytes: usize,
    /// Port of other aggregators' HTTP API: registered is their syslog port (spec operations section 11).
    pub peer_api_port: u16,
    /// How long the leader's messages may take to come.
    pub snapshot_limit: Duration,
    /// Shown in the status.
    pub version: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            service: "logaggregator".to_owned(),
            // Half of what a job may use by default, as other things need some too.
            memory_bytes: 512 << 20,
            peer_api_port: 80,
            snapshot_limit: Duration::from_secs(60),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// How hosts and clients find this aggregator.
#[derive(Clone, Debug)]
pub struct Discovery {
    pub client: Client,
    /// With the address of the syslog port.
    pub instance: Instance,
}

/// Runs until `shutdown` is cancelled: gets the leader's messages, serves, registers.
pub async fn serve(
    config: Config,
    api: TcpListener,
    syslog: TcpListener,
    discovery: Option<Discovery>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let store = Arc::new(Store::new(config.memory_bytes));
    if let Some(discovery) = &discovery {
        let loading = peer::load(&config, discovery, &store);
        if shutdown.run_until_cancelled(loading).await.is_none() {
            return Ok(());
        }
    }
    info!(api = %api.local_addr()?, syslog = %syslog.local_addr()?, "listening");
    // Hosts connect as soon as it is registered, and ask for cursors first.
    let registration = discovery.map(|it| it.client.register(&config.service, it.instance));
    let router = api::router(Arc::clone(&store), config.version, shutdown.clone());
    let serving = flynn_http::serve(api, router, shutdown.clone(), ServerOptions::default());
    let taking = ingest::listen(syslog, store, shutdown.clone());
    let leaving = async {
        shutdown.cancelled().await;
        if let Some(registration) = registration {
            registration.deregister().await;
        }
    };
    let (served, (), ()) = tokio::join!(serving, taking, leaving);
    served
}
