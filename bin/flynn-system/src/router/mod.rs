//! `flynn-system router`

mod options;

use anyhow::Context as _;
use flynn_discoverd_client::Client;
use flynn_router::Router;
use flynn_router::source::{discoverd, file};
use flynn_telemetry::{LogConfig, Metrics};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tracing::{info, warn};

pub(crate) use options::Options;

/// Runs the router until it is told to end.
pub(crate) fn run(options: &Options, vars: impl Fn(&str) -> Option<String>) -> anyhow::Result<()> {
    let vars = |name: &str| vars(name).filter(|value| !value.is_empty());
    let mut log = LogConfig::from_vars("router", vars)?;
    if vars("DEBUG").is_some() {
        log.filter = log.filter.replacen("info", "debug", 1);
    }
    flynn_telemetry::init(log).context("set up the log")?;
    // Sources and the API only: requests have threads of their own.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(serve(options, vars))
}

async fn serve(options: &Options, vars: impl Fn(&str) -> Option<String>) -> anyhow::Result<()> {
    let mut settings = options.settings(&vars)?;
    if let Some(url) = vars("ERROR_503_PAGE_URL") {
        warn!(url, "ERROR_503_PAGE_URL is not fetched yet, give a file with --unavailable-page");
    }
    if let Some(path) = &options.unavailable_page {
        settings.unavailable_page = Some(options::unavailable_page(path)?);
    }
    let router = Router::new(settings, &Metrics::new("flynn_router"));
    let mut sources = JoinSet::new();
    // A file that is wrong at the start is a mistake of who starts us; later the last good state goes on.
    router.changes().send(file::read(&options.routes).await?).await.context("take in the first routes")?;
    sources.spawn(file::follow(options.routes.clone(), router.changes()));
    if let Some(servers) = vars("DISCOVERD") {
        let client = Client::from_list(&servers).context("read DISCOVERD")?;
        sources.spawn(discoverd::follow(client, router.interest(), router.changes()));
    }
    router.synced().await;
    let serving = router.listen(env!("CARGO_PKG_VERSION")).await?;
    for (address, kind) in
        serving.addresses().iter().zip(["http", "https"].into_iter().chain(std::iter::repeat("extra")))
    {
        info!(%address, kind, "listening");
    }
    ended().await?;
    serving.drain().await;
    sources.shutdown().await;
    Ok(())
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
