//! Listeners: taking connections in.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use rustls::server::ProducesTickets;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tracing::{debug, warn};

use crate::headers::{Claims, Via};
use crate::http::{Origin, serve};
use crate::proxied::read_proxy_header;
use crate::table::DEFAULT_PORTS;
use crate::tls::{Acceptor, handshake};
use crate::watchdog::Activity;
use crate::worker::Worker;

/// Pause after a failed accept, for example for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Silence after which the kernel asks whether a peer is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(180);

/// A port of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) number: u16,
    pub(crate) tls: bool,
    pub(crate) default: bool,
}

impl Port {
    /// Under which port the table has the routes of this one.
    pub(crate) fn key(self) -> u16 {
        if self.default { DEFAULT_PORTS } else { self.number }
    }
}

/// Serves the clients of one listener until the router drains, and then those that wait already: the kernel would reset
/// them. When the socket was handed over, whoever waits is left to the process that has it now.
pub(crate) async fn accept_all<F>(worker: &Worker, listener: StdListener, port: u16, client: impl Fn(Accepted) -> F)
where
    F: Future<Output = ()> + 'static,
{
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(err) => return warn!(%err, port, "cannot listen"),
    };
    let shared = &worker.shared;
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.handed_over() => return,
            accepted = accept(worker, &listener) => accepted,
            () = shared.draining.cancelled() => return,
        };
        match accepted {
            Ok(accepted) => {
                worker.pulse.note(Activity::Accepting);
                drop(tokio::task::spawn_local(worker.tasks.track_future(client(accepted))));
            }
            Err(err) => {
                warn!(%err, port, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A client's connection, whose slot is free again when this is dropped.
pub(crate) struct Accepted {
    pub(crate) stream: TcpStream,
    pub(crate) peer: SocketAddr,
    _slot: OwnedSemaphorePermit,
}

async fn accept(worker: &Worker, listener: &TcpListener) -> io::Result<Accepted> {
    let slot = Arc::clone(&worker.slots).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    let _ = stream.set_nodelay(true); // only slower without
    let _ = SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEP_ALIVE));
    Ok(Accepted { stream, peer, _slot: slot })
}

/// Serves the clients of an HTTP or HTTPS port.
pub(crate) async fn serve_port(
    worker: Rc<Worker>,
    listener: StdListener,
    port: Port,
    tickets: Arc<dyn ProducesTickets>,
) {
    let acceptor = port.tls.then(|| Acceptor::new(Arc::clone(&worker.shared), port.key(), tickets));
    accept_all(&worker, listener, port.number, |accepted| client(Rc::clone(&worker), accepted, port, acceptor.clone()))
        .await;
}

/// A client's connection from its first byte to its end.
async fn client(worker: Rc<Worker>, accepted: Accepted, port: Port, acceptor: Option<Acceptor>) {
    let Accepted { stream, peer, _slot } = accepted;
    let metrics = worker.shared.metrics.clone();
    metrics.connections.inc();
    if let Err(err) = greet(&worker, stream, peer, port, acceptor).await {
        debug!(%peer, port.number, %err, "connection ended before a request");
    }
    metrics.connections.dec();
}

/// What comes before HTTP: a PROXY header, then TLS.
async fn greet(
    worker: &Rc<Worker>,
    stream: TcpStream,
    peer: SocketAddr,
    port: Port,
    acceptor: Option<Acceptor>,
) -> io::Result<()> {
    let limits = &worker.shared.settings.limits;
    let settings = &worker.shared.settings;
    // A header of others is what follows: no HTTP, and no TLS.
    let may_have_header = settings.proxy_protocol && settings.is_trusted(peer.ip()).unwrap_or(true);
    let (source, stream) = match may_have_header {
        true => within(limits.proxy_header, read_proxy_header(stream)).await?,
        false => (None, stream.into()),
    };
    let peer = source.unwrap_or(peer);
    let trusted = settings.is_trusted(peer.ip());
    let _seat = match (limits.connections_per_client, trusted) {
        (None, _) | (_, Some(true)) => None,
        (Some(most), _) => Some(worker.shared.crowd.enter(peer.ip(), most).ok_or_else(|| {
            worker.shared.metrics.clients_ended.crowd.inc();
            io::Error::other("the client has too many connections")
        })?),
    };
    let claims = match trusted {
        None => Claims::AddedTo,
        Some(true) => Claims::Believed,
        Some(false) => Claims::Dropped,
    };
    let origin = Rc::new(Origin { via: via(peer, port, claims), peer, port_key: port.key() });
    let Some(acceptor) = acceptor else {
        serve(worker, stream, origin, false).await;
        return Ok(());
    };
    worker.pulse.note(Activity::Handshake);
    let shaken = within(limits.tls_handshake, handshake(&acceptor, stream)).await;
    if shaken.is_err() {
        worker.shared.metrics.handshakes_failed.inc();
    }
    let stream = shaken?;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    serve(worker, stream, origin, http2).await;
    Ok(())
}

async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(limit, work).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

fn via(peer: SocketAddr, port: Port, claims: Claims) -> Via {
    // A client of IPv4 on a socket of both families.
    let client = peer.ip().to_canonical().to_string();
    Via {
        client: HeaderValue::from_str(&client).expect("an address is a header value"),
        proto: HeaderValue::from_static(if port.tls { "https" } else { "http" }),
        port: HeaderValue::from(port.number),
        claims,
    }
}
