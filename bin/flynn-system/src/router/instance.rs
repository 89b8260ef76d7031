//! A router with its sources and registrations: everything between start and end, but for the listening sockets.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use flynn_acme::Engine;
use flynn_discoverd_client::{Client, Registration};
use flynn_handover::Control;
use flynn_router::source::discoverd;
use flynn_router::{Former, Page, Router, Serving, Settings, Sockets};
use flynn_telemetry::Metrics;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use super::{Options, Vars, acme, registration, routes};

/// How long the backends of all services are waited for. Without them a router that was alone would answer 503 anyway.
const BACKENDS_LIMIT: Duration = Duration::from_secs(5);

pub(super) struct Instance {
    pub(super) serving: Serving,
    sources: JoinSet<()>,
    /// Orders automatic certificates.
    engine: Option<Engine>,
    discovery: Option<Client>,
    registrations: Vec<Registration>,
}

/// What all routers of this process are made with.
pub(super) struct Setup<'a> {
    pub(super) options: &'a Options,
    pub(super) vars: Vars<'a>,
    pub(super) settings: Settings,
}

impl<'a> Setup<'a> {
    pub(super) async fn new(options: &'a Options, vars: Vars<'a>) -> anyhow::Result<Self> {
        let mut settings = options.settings(&vars)?;
        settings.unavailable_page = unavailable_page(options, vars("ERROR_503_PAGE_URL")).await?;
        Ok(Self { options, vars, settings })
    }
}

impl Instance {
    /// Takes routes and backends in, and then connections.
    pub(super) async fn start(
        setup: &Setup<'_>,
        sockets: Sockets,
        former: Option<Arc<Former>>,
    ) -> anyhow::Result<Self> {
        let metrics = Metrics::new("flynn_router");
        let router = Router::new(setup.settings.clone(), &metrics);
        if let Some(former) = former {
            router.replaces(former);
        }
        let mut sources = JoinSet::new();
        // Before the routes: the first connection, and who takes over from another router, has what is issued already.
        let automatic = match setup.options.acme.automatic(&setup.vars, &setup.settings)? {
            Some(automatic) => Some((acme::open(&automatic, &router).await?, automatic)),
            None => None,
        };
        let servers = (setup.vars)("DISCOVERD");
        let discovery = servers.map(|servers| Client::from_list(&servers).context("read DISCOVERD")).transpose()?;
        if let Some(client) = &discovery {
            sources.spawn(discoverd::follow(client.clone(), router.interest(), router.changes()));
        }
        let origin = setup.options.routes.origin(setup.vars)?;
        routes::start(origin, discovery.as_ref(), &router, &mut sources).await?;
        if discovery.is_some() && tokio::time::timeout(BACKENDS_LIMIT, router.complete()).await.is_err() {
            warn!("discoverd does not tell the backends of all services, serving without them");
        }
        let engine = match automatic {
            Some((store, automatic)) => Some(acme::start(automatic, store, &router, &metrics, &mut sources)),
            None => {
                acme::warn_when_wanted(&router, &mut sources);
                None
            }
        };
        let serving = router.listen(env!("CARGO_PKG_VERSION"), sockets)?;
        let kinds = ["http", "https"].into_iter().chain(std::iter::repeat("extra"));
        for (address, kind) in serving.addresses().iter().zip(kinds) {
            info!(%address, kind, "listening");
        }
        Ok(Self { serving, sources, engine, discovery, registrations: Vec::new() })
    }

    /// Lets others find this router, which knows its routes by now.
    pub(super) fn register(&mut self, vars: Vars<'_>) {
        if let Some(client) = &self.discovery {
            self.registrations = registration::register(client, &self.serving, vars);
        }
    }

    /// Hears what the process that this one has replaced does not use any more.
    pub(super) fn hear(&mut self, control: Arc<Control>, former: Arc<Former>) {
        self.sources.spawn(async move {
            while let Some(backend) = control.released().await {
                former.released(backend);
            }
            former.done();
        });
    }

    /// Ends for good.
    pub(super) async fn end(mut self) {
        futures_util::future::join_all(self.registrations.into_iter().map(Registration::deregister)).await;
        if let Some(engine) = self.engine {
            // Who takes over may order already while we drain.
            engine.stop().await;
        }
        self.serving.drain().await;
        self.sources.shutdown().await;
    }

    /// Ends slowly, because another process serves at the same addresses and is registered with them. Begins at once.
    pub(super) fn hand_over(self) -> impl Future<Output = ()> + Send + 'static {
        let Self { serving, mut sources, engine, registrations, .. } = self;
        drop(registrations); // ends the heartbeats; what is registered stays
        let ending = serving.hand_over();
        async move {
            if let Some(engine) = engine {
                engine.stop().await;
            }
            ending.await;
            sources.shutdown().await;
        }
    }
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
