//! A router from its start to its end.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use flynn_http::ServerOptions;
use flynn_telemetry::Metrics;
use futures_util::Stream;
use rustls::server::ProducesTickets;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::api;
use crate::control::{Control, Views};
use crate::events::Events;
use crate::former::Former;
use crate::guard::Crowd;
use crate::listen::Port;
use crate::metrics::RouterMetrics;
use crate::settings::Settings;
use crate::shared::{Drain, Shared, Snapshot};
use crate::sockets::Sockets;
use crate::source::controller::Contact;
use crate::source::{CHANGES, Changes, Domains, Interest};
use crate::tls::Tickets;
use crate::watchdog::{Pulse, Watchdog};
use crate::worker;

/// How long workers may take to notice that they were cut off.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// How long a connection may still bring a request when there is no other process: who started us waits for our end.
const LAST_REQUESTS: Duration = Duration::from_secs(1);

/// Why a router cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("error binding to port (check if another service is listening on {address})")]
    Bind { address: String, source: io::Error },
    #[error("watch the socket of the API")]
    Watch(#[source] io::Error),
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
            metrics: RouterMetrics::new(metrics),
            events: Events::new(),
            crowd: Crowd::new(),
            contact: Arc::default(),
            drain: OnceLock::new(),
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

    /// Where a source tells whether it hears the controller; the status shows it.
    pub fn contact(&self) -> Arc<Contact> {
        Arc::clone(&self.shared.contact)
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

    /// Tells whenever changes have been applied.
    pub fn applied(&self) -> watch::Receiver<()> {
        self.views.changed.clone()
    }

    /// Waits until the backends of all services that routes name are told.
    pub async fn complete(&self) {
        let mut complete = self.views.complete.clone();
        let _ = complete.wait_for(|complete| *complete).await;
    }

    /// This router replaces another process, which may have requests in flight for a while.
    pub fn replaces(&self, former: Arc<Former>) {
        self.shared.events.replaces(former);
    }

    /// Opens all ports and serves. `version` is what the status tells, `sockets` are those that are there already.
    ///
    /// # Errors
    /// When a port is taken, or the system gives no thread.
    pub fn listen(self, version: &str, sockets: Sockets) -> Result<Serving, ListenError> {
        let (settings, sockets) = (&self.shared.settings, Arc::new(sockets));
        let workers = settings.workers.max(1);
        let mut listeners: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
        let mut addresses = Vec::new();
        for http in &settings.http {
            let (address, shares) = open(&sockets, settings.listen, http.port, workers)?;
            let port = Port { number: address.port(), tls: http.tls, default: http.default };
            for (share, listeners) in shares.into_iter().zip(&mut listeners) {
                listeners.extend(share.into_iter().map(|socket| (socket, port)));
            }
            addresses.push(address);
        }
        let (api_address, api) = match settings.api {
            Some(port) => {
                let (address, server) = self.serve_api(&sockets, port, version)?;
                (Some(address), Some(server))
            }
            None => (None, None),
        };
        // Their workers open them again, or wait until they are free. Here only so that inherited ones stay open.
        for port in self.shared.snapshot.load().tcp.keys() {
            let _ = sockets.open(settings.listen_tcp, *port, 1);
        }
        sockets.drop_unwanted();
        let tickets: Arc<dyn ProducesTickets> = Arc::new(Tickets::new(settings.cookie_key.secret()));
        if let Some(position) = settings.http.iter().position(|http| http.tls && http.default) {
            let _ = self.shared.https_port.set(addresses[position].port()); // a router listens once
        }
        let (mut threads, mut pulses) = (Vec::new(), Vec::new());
        for (number, listeners) in listeners.into_iter().enumerate() {
            let pulse = Arc::new(Pulse::default());
            pulses.push(Arc::clone(&pulse));
            let start = worker::Start {
                pulse,
                shared: Arc::clone(&self.shared),
                sockets: Arc::clone(&sockets),
                listeners,
                tickets: Arc::clone(&tickets),
                changed: self.views.changed.clone(),
                share: (number, workers),
            };
            threads.push(worker::start(start).map_err(ListenError::Thread)?);
        }
        let watchdog = Watchdog::start(pulses, settings.limits.worker_stall).map_err(ListenError::Thread)?;
        info!(?addresses, ?api_address, workers, "router is listening");
        Ok(Serving { router: self, sockets, addresses, api_address, api, threads, watchdog })
    }

    fn serve_api(&self, sockets: &Sockets, port: u16, version: &str) -> Result<(SocketAddr, Api), ListenError> {
        let (address, shares) = open(sockets, self.shared.settings.listen, port, 1)?;
        let stop = CancellationToken::new();
        let router = api(Arc::clone(&self.shared), self.metrics.clone(), version);
        let mut servers = JoinSet::new();
        for listener in shares.into_iter().flatten() {
            let listener = TcpListener::from_std(listener).map_err(ListenError::Watch)?;
            let server = flynn_http::serve(listener, router.clone(), stop.clone(), ServerOptions::default());
            servers.spawn(server);
        }
        Ok((address, Api { stop, servers }))
    }
}

struct Api {
    stop: CancellationToken,
    servers: JoinSet<io::Result<()>>,
}

type Shares = Vec<Vec<std::net::TcpListener>>;

fn open(sockets: &Sockets, ip: Option<IpAddr>, port: u16, shares: usize) -> Result<(SocketAddr, Shares), ListenError> {
    let address = || ip.map_or_else(|| format!(":{port}"), |ip| SocketAddr::new(ip, port).to_string());
    sockets.open(ip, port, shares).map_err(|source| ListenError::Bind { address: address(), source })
}

/// A router that serves.
pub struct Serving {
    router: Router,
    sockets: Arc<Sockets>,
    addresses: Vec<SocketAddr>,
    api_address: Option<SocketAddr>,
    api: Option<Api>,
    threads: Vec<JoinHandle<()>>,
    watchdog: Watchdog,
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

    /// Where a source tells whether it hears the controller.
    pub fn contact(&self) -> Arc<Contact> {
        self.router.contact()
    }

    /// The domains whose certificates routes want to be automatic.
    pub fn automatic_domains(&self) -> Domains {
        self.router.automatic_domains()
    }

    /// Tells whenever changes have been applied: requests that come later see them.
    pub fn applied(&self) -> watch::Receiver<()> {
        self.router.views.changed.clone()
    }

    /// Tells names of backends that are down as their last request here has ended, for a process that replaces this one.
    pub fn drained(&self) -> impl Stream<Item = String> + Send + use<> {
        self.router.shared.events.drained()
    }

    /// The listening sockets, for the process that replaces this one.
    pub fn sockets(&self) -> &Sockets {
        &self.sockets
    }

    /// Cancelled when a worker stands still for longer than [`Limits::worker_stall`](crate::Limits::worker_stall): its
    /// clients wait in vain, and the process has to be replaced.
    pub fn stalled(&self) -> CancellationToken {
        self.watchdog.stalled.clone()
    }

    /// How to cut off what lasts too long for [`Serving::drain`].
    pub fn cut_off(&self) -> CancellationToken {
        self.router.shared.cut_off.clone()
    }

    /// Ends because another process takes the connections now: nothing here has to hurry.
    pub fn hand_over(self) -> impl Future<Output = ()> {
        let limits = &self.router.shared.settings.limits;
        let drain = Drain { handed_over: true, idle: limits.drain, busy: limits.drain_handed_over };
        self.end(drain)
    }

    /// Ends: takes no more connections, finishes requests for at most [`Limits::drain`](crate::Limits::drain), and then
    /// closes what is left.
    pub fn drain(self) -> impl Future<Output = ()> {
        let busy = self.router.shared.settings.limits.drain;
        self.end(Drain { handed_over: false, idle: LAST_REQUESTS, busy })
    }

    /// Begins at once, whether or not the future is polled.
    fn end(self, drain: Drain) -> impl Future<Output = ()> {
        let Self { router, sockets, api, threads, .. } = self;
        info!(?drain, "router is draining");
        // Before the workers close theirs: nobody shall wait in a queue that is never looked at.
        sockets.close_all();
        if drain.handed_over
            && let Some(api) = &api
        {
            // Who follows events shall follow those of the router that serves.
            api.stop.cancel();
        }
        router.shared.begin_drain(drain);
        async move {
            let shared = &router.shared;
            let mut joined = tokio::task::spawn_blocking(move || {
                for thread in threads {
                    if thread.join().is_err() {
                        warn!("a worker had panicked");
                    }
                }
            });
            let in_time = shared.cut_off.run_until_cancelled(tokio::time::timeout(drain.busy, &mut joined)).await;
            if !matches!(in_time, Some(Ok(_))) {
                info!("closing connections that outlast the drain");
                shared.cut_off.cancel();
                if tokio::time::timeout(LAST_WORDS, joined).await.is_err() {
                    warn!("a worker does not end");
                }
            }
            if let Some(mut api) = api {
                api.stop.cancel();
                while api.servers.join_next().await.is_some() {}
            }
            router.control.abort();
            info!("router has ended");
        }
    }
}
