//! What all components begin with: a log, a runtime, their place in the cluster, and an end on a signal.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use flynn_discoverd_client::{Client, own_instance};
use flynn_telemetry::LogConfig;
use flynn_types::discoverd::Instance;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// What a component is given.
#[derive(Clone, Debug)]
pub(crate) struct Component {
    /// Cancelled by SIGTERM and SIGINT.
    pub(crate) shutdown: CancellationToken,
}

/// Runs a component until it ends by itself or is told to; `name` is its name in the log.
pub(crate) fn run<F: Future<Output = anyhow::Result<()>>>(
    name: &'static str,
    start: impl FnOnce(Component) -> F,
) -> anyhow::Result<()> {
    flynn_telemetry::init(LogConfig::from_vars(name, var)?).context("set up the log")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let signals = Signals::new()?;
        tokio::spawn(signals.cancel(shutdown.clone()));
        start(Component { shutdown }).await
    });
    // What still blocks a thread, such as a name being looked up, is not waited for.
    runtime.shutdown_background();
    ended
}

/// A variable of the environment; empty ones count as unset.
pub(crate) fn var(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Component {
    /// Listens on `PORT` of all addresses.
    pub(crate) async fn listen(&self, default_port: u16) -> anyhow::Result<TcpListener> {
        self.listen_at("PORT", default_port).await
    }

    /// Listens on the port that a variable names.
    pub(crate) async fn listen_at(&self, name: &str, default_port: u16) -> anyhow::Result<TcpListener> {
        let port = var(name).map_or(Ok(default_port), |text| text.parse());
        let port = port.with_context(|| format!("{name} is no port"))?;
        let listener = TcpListener::bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)).await;
        listener.with_context(|| format!("listen on port {port}"))
    }

    /// The servers of discovery that `DISCOVERD` names; none without it.
    pub(crate) fn discovery(&self) -> anyhow::Result<Option<Client>> {
        var("DISCOVERD").map(|servers| Client::from_list(&servers).context("read DISCOVERD")).transpose()
    }

    /// This process as others find it, at a port of its own address.
    pub(crate) fn instance(&self, proto: &str, port: u16) -> anyhow::Result<Instance> {
        let ip = ["EXTERNAL_IP", "LISTEN_IP"].into_iter().find_map(var);
        let ip = ip.context("neither EXTERNAL_IP nor LISTEN_IP says at which address this process is")?;
        Ok(own_instance(proto, &format!("{ip}:{port}"), var))
    }
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn cancel(mut self, shutdown: CancellationToken) {
        tokio::select! {
            _ = self.terminate.recv() => info!("SIGTERM"),
            _ = self.interrupt.recv() => info!("SIGINT"),
        }
        shutdown.cancel();
    }
}
