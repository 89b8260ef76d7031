//! `flynn-system controller` (spec controller-api sections 1.2 and 1.3).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use flynn_controller::{Config, Discovery, serve};
use flynn_discoverd_client::{Client, own_instance};
use flynn_telemetry::LogConfig;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// Port of the API without `PORT`.
const DEFAULT_PORT: u16 = 3000;

/// Runs the controller's API until it is told to end.
pub(crate) fn run(vars: impl Fn(&str) -> Option<String>) -> anyhow::Result<()> {
    let vars = |name: &str| vars(name).filter(|value| !value.is_empty());
    flynn_telemetry::init(LogConfig::from_vars("controller", vars)?).context("set up the log")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(start(vars))
}

async fn start(vars: impl Fn(&str) -> Option<String>) -> anyhow::Result<()> {
    let mut config = Config::from_vars(&vars)?;
    config.version = format!("v{}", env!("CARGO_PKG_VERSION"));
    let database = flynn_database::options_from_vars(&vars)?;
    let port = vars("PORT").map_or(Ok(DEFAULT_PORT), |text| text.parse().context("PORT is no port"))?;
    let listener = TcpListener::bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)).await;
    let listener = listener.with_context(|| format!("listen on port {port}"))?;
    let discovery = discovery(&config, port, &vars)?;
    let shutdown = CancellationToken::new();
    let serving = serve(config, database, listener, discovery, shutdown.clone());
    let ended = async {
        let ended = ended().await;
        shutdown.cancel();
        ended
    };
    let (served, ended) = tokio::join!(serving, ended);
    served?;
    ended
}

/// How others find this process, and one key for them: each of them takes a single one (W7).
fn discovery(config: &Config, port: u16, vars: &impl Fn(&str) -> Option<String>) -> anyhow::Result<Option<Discovery>> {
    let Some(servers) = vars("DISCOVERD") else { return Ok(None) };
    let client = Client::from_list(&servers).context("read DISCOVERD")?;
    let ip = ["EXTERNAL_IP", "LISTEN_IP"].into_iter().find_map(vars);
    let ip = ip.context("neither EXTERNAL_IP nor LISTEN_IP says where this controller is")?;
    let mut instance = own_instance("http", &format!("{ip}:{port}"), vars);
    if let Some(key) = config.keys.first() {
        instance.meta.insert("AUTH_KEY".to_owned(), key.to_owned());
    }
    Ok(Some(Discovery { client, instance }))
}

/// Waits for SIGTERM or SIGINT.
async fn ended() -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => info!("SIGTERM"),
        _ = interrupt.recv() => info!("SIGINT"),
    }
    Ok(())
}
