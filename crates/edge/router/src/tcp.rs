//! TCP routes (spec router section 17): one listener each, bound while the route exists.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, info, warn};

use crate::backend::dial;
use crate::http::{Traffic, copy_both_ways};
use crate::listen::{Accepted, accept_all};
use crate::proxy_protocol::header;
use crate::route::TcpRoute;
use crate::service::InFlight;
use crate::shared::Shared;
use crate::watchdog::Activity;
use crate::worker::Worker;

/// Pause before a port that could not be bound is tried again.
const BIND_PAUSE: Duration = Duration::from_millis(500);

/// Keeps the listeners of this worker's TCP routes as the routes are, until the router drains.
pub(crate) async fn serve_routes(worker: Rc<Worker>, mut changed: watch::Receiver<()>, share: (usize, usize)) {
    let mut listeners: BTreeMap<u16, DropGuard> = BTreeMap::new();
    let mut running = JoinSet::new();
    let draining = worker.shared.draining.clone();
    loop {
        let ports: Vec<u16> = worker.shared.snapshot.load().tcp.keys().copied().collect();
        listeners.retain(|port, _| {
            let is_wanted = ports.contains(port);
            if !is_wanted {
                worker.sockets.close(worker.shared.settings.listen_tcp, *port);
            }
            is_wanted
        });
        for port in ports.into_iter().filter(|port| usize::from(*port) % share.1 == share.0) {
            listeners.entry(port).or_insert_with(|| {
                let stop = CancellationToken::new();
                let listening = listen(Rc::clone(&worker), port);
                let stopped = stop.clone();
                running.spawn_local(async move { stopped.run_until_cancelled(listening).await });
                stop.drop_guard()
            });
        }
        tokio::select! {
            change = changed.changed() => if change.is_err() { return },
            () = draining.cancelled() => break,
            Some(_ended) = running.join_next() => {}
        }
    }
    // Those who wait in the queues are still served.
    while running.join_next().await.is_some() {}
}

/// Takes connections of one port. The route is looked up for each, so that a change of it is one for the next.
async fn listen(worker: Rc<Worker>, port: u16) {
    let bound = worker.shared.draining.run_until_cancelled(bind(&worker, port)).await;
    let Some(listeners) = bound else { return };
    info!(port, "listening for a TCP route");
    let accepting = listeners
        .into_iter()
        .map(|listener| accept_all(&worker, listener, port, |accepted| connection(Rc::clone(&worker), accepted, port)));
    futures_util::future::join_all(accepting).await;
}

/// Binds a port, however long it takes until it is free.
async fn bind(worker: &Worker, port: u16) -> Vec<TcpListener> {
    loop {
        match worker.sockets.open(worker.shared.settings.listen_tcp, port, 1) {
            Ok((_, shares)) => return shares.into_iter().flatten().collect(),
            Err(err) => warn!(port, %err, "error binding to port (check if another service is listening on it)"),
        }
        tokio::time::sleep(BIND_PAUSE).await;
    }
}

/// Joins a client with the first backend that takes the connection. Without one the client's ends.
async fn connection(worker: Rc<Worker>, accepted: Accepted, port: u16) {
    let Accepted { stream: mut client, peer, .. } = accepted;
    let shared = &worker.shared;
    worker.pulse.note(Activity::Tcp);
    let Some(route) = shared.snapshot.load().tcp.get(&port).cloned() else { return };
    let mut counted = Counted::new(shared, &route, peer);
    let Some((in_flight, mut backend)) = connect(shared, &route).await else { return };
    counted.backend = Some(in_flight);
    let joined = async {
        if let Some(version) = route.proxy_header {
            backend.write_all(&header(version, peer, client.local_addr()?)).await?;
        }
        copy_both_ways(&mut client, &mut backend, &counted.traffic).await
    };
    let ended: Option<io::Result<()>> = shared.cut_off.run_until_cancelled(joined).await;
    if let Some(Err(err)) = ended {
        let host_addr = counted.backend.as_ref().map(|backend| backend.0.address.to_string());
        debug!(client_addr = %peer, host_addr, %err, proxy = "tcp", "connection failed");
    }
}

/// The first backend that takes a connection; each is asked once.
async fn connect(shared: &Shared, route: &TcpRoute) -> Option<(InFlight, TcpStream)> {
    let mut tried = Vec::new();
    loop {
        let in_flight = route.service.choose(route.leader, None, &tried)?;
        let backend = Arc::clone(&in_flight.0);
        match dial(backend.address, shared.settings.limits.dial).await {
            Ok(stream) => {
                backend.succeeded();
                return Some((in_flight, stream));
            }
            Err(err) => {
                backend.failed(false);
                shared.metrics.dials_failed.inc();
                let service = &*route.service.name;
                warn!(service, addr = %backend.address, %err, attempt = tried.len(), proxy = "tcp", "dial failed");
                tried.push(backend.id);
            }
        }
    }
}

/// A connection in the figures and, when it is over, in the access log.
struct Counted<'a> {
    shared: &'a Shared,
    route: &'a TcpRoute,
    peer: SocketAddr,
    begin: Instant,
    backend: Option<InFlight>,
    traffic: Traffic,
}

impl<'a> Counted<'a> {
    fn new(shared: &'a Shared, route: &'a TcpRoute, peer: SocketAddr) -> Self {
        shared.metrics.tcp_connections.inc();
        route.metrics.begin();
        Self { shared, route, peer, begin: Instant::now(), backend: None, traffic: Traffic::default() }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let (received, sent) = (self.traffic.there.get(), self.traffic.back.get());
        self.shared.metrics.tcp_connections.dec();
        self.route.metrics.end_tcp(received, sent);
        if !self.shared.settings.access_log {
            return;
        }
        info!(
            target: "flynn_router::access",
            service = &*self.route.service.name,
            route = &*self.route.id,
            client_addr = %self.peer,
            job.id = self.backend.as_ref().map(|backend| &*backend.0.instance.job_id),
            addr = self.backend.as_ref().map(|backend| backend.0.address.to_string()),
            received_bytes = received,
            sent_bytes = sent,
            duration = ?self.begin.elapsed(),
            proxy = "tcp",
            "connection complete"
        );
    }
}
