//! A router from its start to its end.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use flynn_http::ServerOptions;
use flynn_telemetry::Metrics;
use rustls::server::ProducesTickets;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::api;
use crate::control::{Control, Views};
use crate::events::Events;
use crate::listen::{Port, bind};
use crate::metrics::RouterMetrics;
use crate::settings::{HttpPort, Settings};
use crate::shared::{Shared, Snapshot};
use crate::source::{CHANGES, Changes, Domains, Interest};
use crate::tls::Tickets;
use crate::worker;

/// How long workers may take to notice that they were cut off.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Why a router cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("error binding to port (check if another service is listening on {address})")]
    Bind { address: String, source: io::Error },
    #[error("start a worker thread")]
    Thread(#[source] io::Error),
}

/// A router that takes in routes, and does not listen yet.
pub struct Router {
    shared: Arc<Shared>,
    metrics: Metrics,
    changes: Changes,
    views: Views,
    control: tokio::task::JoinHandle<()>,
}

impl Router {
    /// Begins to take in routes. Figures go to `metrics`.
    pub fn new(settings: Settings, metrics: &Metrics) -> Self {
        let shared = Arc::new(Shared {
            settings,
            snapshot: ArcSwap::from_pointee(Snapshot::default()),
            services: ArcSwap::default(),
            metrics: RouterMetrics::new(metrics),
            events: Events::new(),
            https_port: OnceLock::new(),
            draining: CancellationToken::new(),
            cut_off: CancellationToken::new(),
        });
        let (changes, inbox) = mpsc::channel(CHANGES);
        let (control, views) = Control::new(Arc::clone(&shared));
        let control = tokio::spawn(control.run(inbox));
        Self { shared, metrics: metrics.clone(), changes, views, control }
    }

    /// Where sources send what they know.
    pub fn changes(&self) -> Changes {
        self.changes.clone()
    }

    /// The services that routes name, for a source of backends.
    pub fn interest(&self) -> Interest {
        self.views.interest.clone()
    }

    /// The domains whose certificates routes want to be automatic, for who orders them.
    pub fn automatic_domains(&self) -> Domains {
        self.views.automatic.clone()
    }

    /// Waits until a complete list of routes is there.
    pub async fn synced(&self) {
        let mut synced = self.views.synced.clone();
        // The sender lives as long as the control, which lives as long as `changes`.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    /// Binds all ports and serves. `version` is what the status tells.
    ///
    /// # Errors
    /// When a port is taken, or the system gives no thread.
    pub async fn listen(self, version: &str) -> Result<Serving, ListenError> {
        let settings = &self.shared.settings;
        let workers = settings.workers.max(1);
        let mut listeners: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
        let mut addresses = Vec::new();
        for http in &settings.http {
            let (address, sockets) = bind_all(settings, *http, workers)?;
            let port = Port { number: address.port(), tls: http.tls, default: http.default };
            for (socket, listeners) in sockets.into_iter().zip(&mut listeners) {
                listeners.push((socket, port));
            }
            addresses.push(address);
        }
        let (api_address, api) = match settings.api {
            Some(port) => {
                let (address, server) = self.serve_api(port, version)?;
                (Some(address), Some(server))
            }
            None => (None, None),
        };
        let tickets: Arc<dyn ProducesTickets> = Arc::new(Tickets::new(settings.cookie_key.secret()));
        if let Some(position) = settings.http.iter().position(|http| http.tls && http.default) {
            let _ = self.shared.https_port.set(addresses[position].port()); // a router listens once
        }
        let mut threads = Vec::new();
        for (number, listeners) in listeners.into_iter().enumerate() {
            let start = worker::Start {
                shared: Arc::clone(&self.shared),
                listeners,
                tickets: Arc::clone(&tickets),
                changed: self.views.changed.clone(),
                share: (number, workers),
            };
            threads.push(worker::start(start).map_err(ListenError::Thread)?);
        }
        info!(?addresses, ?api_address, workers, "router is listening");
        Ok(Serving { router: self, addresses, api_address, api, threads })
    }

    fn serve_api(&self, port: u16, version: &str) -> Result<(SocketAddr, Api), ListenError> {
        let ip = self.shared.settings.listen;
        let describe = |source| ListenError::Bind { address: described(ip, port), source };
        let listener = bind(ip, port).and_then(TcpListener::from_std).map_err(describe)?;
        let address = listener.local_addr().map_err(describe)?;
        let stop = CancellationToken::new();
        let router = api(Arc::clone(&self.shared), self.metrics.clone(), version);
        let server = flynn_http::serve(listener, router, stop.clone(), ServerOptions::default());
        Ok((address, Api { stop, server: tokio::spawn(server) }))
    }
}

struct Api {
    stop: CancellationToken,
    server: tokio::task::JoinHandle<io::Result<()>>,
}

/// One listener on the same port for each worker.
fn bind_all(
    settings: &Settings,
    http: HttpPort,
    workers: usize,
) -> Result<(SocketAddr, Vec<std::net::TcpListener>), ListenError> {
    let describe = |source| ListenError::Bind { address: described(settings.listen, http.port), source };
    let first = bind(settings.listen, http.port).map_err(describe)?;
    let address = first.local_addr().map_err(describe)?;
    let mut sockets = vec![first];
    for _ in 1..workers {
        sockets.push(bind(settings.listen, address.port()).map_err(describe)?);
    }
    Ok((address, sockets))
}

fn described(ip: Option<std::net::IpAddr>, port: u16) -> String {
    ip.map_or_else(|| format!(":{port}"), |ip| SocketAddr::new(ip, port).to_string())
}

/// A router that serves.
pub struct Serving {
    router: Router,
    addresses: Vec<SocketAddr>,
    api_address: Option<SocketAddr>,
    api: Option<Api>,
    threads: Vec<JoinHandle<()>>,
}

impl Serving {
    /// Addresses of the HTTP and HTTPS ports, in the order of [`Settings::http`].
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Address of the router's own API.
    pub fn api_address(&self) -> Option<SocketAddr> {
        self.api_address
    }

    /// Where sources send what they know.
    pub fn changes(&self) -> Changes {
        self.router.changes()
    }

    /// The domains whose certificates routes want to be automatic.
    pub fn automatic_domains(&self) -> Domains {
        self.router.automatic_domains()
    }

    /// Tells whenever changes have been applied: requests that come later see them.
    pub fn applied(&self) -> watch::Receiver<()> {
        self.router.views.changed.clone()
    }

    /// Ends: takes no more connections, finishes requests for at most [`Limits::drain`](crate::Limits::drain), and then
    /// closes what is left.
    pub async fn drain(self) {
        let shared = &self.router.shared;
        info!("router is draining");
        shared.draining.cancel();
        let threads = self.threads;
        let mut joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                if thread.join().is_err() {
                    warn!("a worker had panicked");
                }
            }
        });
        if tokio::time::timeout(shared.settings.limits.drain, &mut joined).await.is_err() {
            info!("closing connections that outlast the drain");
            shared.cut_off.cancel();
            if tokio::time::timeout(LAST_WORDS, joined).await.is_err() {
                warn!("a worker does not end");
            }
        }
        if let Some(api) = self.api {
            api.stop.cancel();
            let _ = api.server.await;
        }
        self.router.control.abort();
        info!("router has ended");
    }
}
