//! `flynn-system router`

mod acme;
mod options;
mod registration;

use anyhow::Context as _;
use flynn_discoverd_client::{Client, Registration};
use flynn_router::source::{discoverd, file};
use flynn_router::{Page, Router};
use flynn_telemetry::{LogConfig, Metrics};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tracing::{error, info};

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
    settings.unavailable_page = unavailable_page(options, vars("ERROR_503_PAGE_URL")).await?;
    let automatic = options.acme.automatic(&vars, &settings)?;
    let metrics = Metrics::new("flynn_router");
    let router = Router::new(settings, &metrics);
    let mut sources = JoinSet::new();
    // A file that is wrong at the start is a mistake of who starts us; later the last good state goes on.
    router.changes().send(file::read(&options.routes).await?).await.context("take in the first routes")?;
    sources.spawn(file::follow(options.routes.clone(), router.changes()));
    let discovery =
        vars("DISCOVERD").map(|servers| Client::from_list(&servers).context("read DISCOVERD")).transpose()?;
    if let Some(client) = &discovery {
        sources.spawn(discoverd::follow(client.clone(), router.interest(), router.changes()));
    }
    router.synced().await;
    let engine = match automatic {
        Some(automatic) => Some(acme::start(automatic, &router, &metrics, &mut sources).await?),
        None => {
            acme::warn_when_wanted(&router, &mut sources);
            None
        }
    };
    let serving = router.listen(env!("CARGO_PKG_VERSION")).await?;
    for (address, kind) in
        serving.addresses().iter().zip(["http", "https"].into_iter().chain(std::iter::repeat("extra")))
    {
        info!(%address, kind, "listening");
    }
    // Only now: who finds this router finds one that knows its routes.
    let registrations = discovery.map(|client| registration::register(&client, &serving, &vars)).unwrap_or_default();
    ended().await?;
    futures_util::future::join_all(registrations.into_iter().map(Registration::deregister)).await;
    if let Some(engine) = engine {
        // Who takes over may order already while we drain.
        engine.stop().await;
    }
    serving.drain().await;
    sources.shutdown().await;
    Ok(())
}

/// The operator's page. One that cannot be fetched is done without; a file that cannot be read is a mistake.
async fn unavailable_page(options: &Options, url: Option<String>) -> anyhow::Result<Option<Page>> {
    if let Some(path) = &options.unavailable_page {
        return Ok(Some(Page::read(path).await?));
    }
    let Some(url) = url else { return Ok(None) };
    let fetched = Page::fetch(&url).await.map_err(anyhow::Error::new);
    Ok(fetched.inspect_err(|err| error!("ERROR_503_PAGE_URL is done without: {err:#}")).ok())
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
