//! The server: sockets, tasks and what they share.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::directory::Directory;
use crate::forward::Forwarder;
use crate::wire::{Answer, CLASS_ANY, CLASS_IN, EDNS_LEN, Invalid, Query, UDP_LEN, error_reply, rcode};
use crate::zone::{Scratch, Transport, Zone};
use crate::{tcp, udp};

/// Receive buffer of the UDP socket in bytes: a burst of thousands of queries while the loop is busy.
const RECEIVE_BUFFER: usize = 1 << 20;
/// How long queries that were taken may go on when the server ends.
const GRACE: Duration = Duration::from_secs(2);
/// Ports tried until one is free for both UDP and TCP.
const PORT_ATTEMPTS: usize = 20;

/// Where to listen and whom to ask.
#[derive(Debug)]
pub struct DnsConfig {
    /// Addresses to bind, for UDP and TCP; others may bind the same ones at the same time (`SO_REUSEPORT`).
    pub listen: Vec<SocketAddr>,
    /// Sockets that are already bound, as passed over by a predecessor.
    pub udp: Vec<UdpSocket>,
    pub tcp: Vec<TcpListener>,
    /// Resolvers for names outside the zone, in order of preference. Own addresses are left out.
    pub upstreams: Vec<SocketAddr>,
    /// The zone.
    pub domain: String,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            udp: Vec::new(),
            tcp: Vec::new(),
            upstreams: Vec::new(),
            domain: "discoverd".to_owned(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    #[error("listen for DNS on {address} ({protocol})")]
    Bind {
        address: SocketAddr,
        protocol: &'static str,
        #[source]
        err: io::Error,
    },
    #[error("use a DNS socket that was passed over")]
    Adopt(#[source] io::Error),
}

/// Duplicates of the server's sockets, to be passed to a successor.
#[derive(Debug)]
pub struct Sockets {
    pub udp: Vec<OwnedFd>,
    pub tcp: Vec<OwnedFd>,
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Answers about discoverd names.
    pub answered: u64,
    /// Queries for other names, those answered from the cache included.
    pub forwarded: u64,
    pub cached: u64,
    /// Forwarded queries that no upstream answered.
    pub failed: u64,
    /// Packets that were no proper query.
    pub malformed: u64,
}

/// A running DNS server. Ends when dropped.
pub struct DnsServer {
    shared: Arc<Shared>,
    udp: Vec<Arc<UdpSocket>>,
    tcp: Vec<Arc<tokio::net::TcpListener>>,
    ends: Ends,
    tasks: TaskTracker,
}

/// How the server's tasks are ended.
#[derive(Clone, Default)]
pub(crate) struct Ends {
    /// No new queries are taken.
    pub(crate) stop: CancellationToken,
    /// Whatever still runs is given up.
    pub(crate) cut: CancellationToken,
}

impl std::fmt::Debug for DnsServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DnsServer").field("udp", &self.udp).field("tcp", &self.tcp).finish_non_exhaustive()
    }
}

impl DnsServer {
    /// Binds and serves. Must be called in a Tokio runtime.
    pub fn start(config: DnsConfig, directory: Arc<dyn Directory>) -> Result<Self, DnsError> {
        let (mut udp, mut tcp) = (config.udp, config.tcp);
        for address in config.listen {
            let (datagrams, connections) = bind(address)?;
            udp.push(datagrams);
            tcp.push(connections);
        }
        let udp = udp.into_iter().map(adopt_udp).collect::<io::Result<Vec<_>>>().map_err(DnsError::Adopt)?;
        let tcp = tcp.into_iter().map(adopt_tcp).collect::<io::Result<Vec<_>>>().map_err(DnsError::Adopt)?;
        let own = udp.iter().filter_map(|socket| socket.local_addr().ok());
        let own = own.chain(tcp.iter().filter_map(|listener| listener.local_addr().ok())).collect();
        let forwarder = Forwarder::new(own);
        forwarder.set_upstreams(config.upstreams);
        let shared = Arc::new(Shared::new(&config.domain, directory, forwarder));
        let (ends, tasks) = (Ends::default(), TaskTracker::new());
        for socket in &udp {
            tasks.spawn(udp::serve(Arc::clone(&shared), Arc::clone(socket), tasks.clone(), ends.clone()));
        }
        for listener in &tcp {
            tasks.spawn(tcp::serve(Arc::clone(&shared), Arc::clone(listener), tasks.clone(), ends.clone()));
        }
        Ok(Self { shared, udp, tcp, ends, tasks })
    }

    /// Where UDP is answered.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.udp.iter().filter_map(|socket| socket.local_addr().ok()).collect()
    }

    /// Duplicates of all sockets. Until this server is shut down, both servers answer.
    pub fn sockets(&self) -> io::Result<Sockets> {
        Ok(Sockets {
            udp: self.udp.iter().map(|socket| socket.as_fd().try_clone_to_owned()).collect::<io::Result<_>>()?,
            tcp: self.tcp.iter().map(|socket| socket.as_fd().try_clone_to_owned()).collect::<io::Result<_>>()?,
        })
    }

    /// Replaces the upstreams, for example after `/etc/resolv.conf` was changed.
    pub fn set_upstreams(&self, upstreams: Vec<SocketAddr>) {
        self.shared.forwarder.set_upstreams(upstreams);
    }

    /// The upstreams in use.
    pub fn upstreams(&self) -> Vec<SocketAddr> {
        self.shared.forwarder.upstreams().to_vec()
    }

    pub fn statistics(&self) -> Statistics {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Statistics {
            answered: count(&self.shared.answered),
            forwarded: count(&self.shared.forwarded),
            cached: count(&self.shared.forwarder.hits),
            failed: count(&self.shared.forwarder.failures),
            malformed: count(&self.shared.malformed),
        }
    }

    /// Takes no more queries; those that were taken get their answers, within two seconds. Queries that arrive from now
    /// on wait in the sockets for whoever else has them.
    pub async fn shutdown(self) {
        self.ends.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(GRACE, self.tasks.wait()).await.is_err() {
            self.ends.cut.cancel();
            self.tasks.wait().await;
        }
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.ends.stop.cancel();
        self.ends.cut.cancel();
    }
}

/// UDP and TCP on one address; with port 0, on the same free port.
fn bind(address: SocketAddr) -> Result<(UdpSocket, TcpListener), DnsError> {
    let mut attempt = 0;
    loop {
        let err = |protocol| move |err| DnsError::Bind { address, protocol, err };
        let udp: UdpSocket = open(address, Type::DGRAM).map_err(err("UDP"))?.into();
        let bound = udp.local_addr().map_err(err("UDP"))?;
        match open(bound, Type::STREAM) {
            Ok(tcp) => return Ok((udp, tcp.into())),
            Err(taken) if address.port() == 0 && attempt < PORT_ATTEMPTS => {
                tracing::debug!(err = %taken, "port is taken for TCP, trying another");
                attempt += 1;
            }
            Err(failure) => return Err(err("TCP")(failure)),
        }
    }
}

fn open(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let protocol = if kind == Type::DGRAM { Protocol::UDP } else { Protocol::TCP };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    } else {
        let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER); // the system's limit will do
    }
    socket.bind(&address.into())?;
    if kind == Type::STREAM {
        socket.listen(1024)?;
    }
    Ok(socket)
}

fn adopt_udp(socket: UdpSocket) -> io::Result<Arc<UdpSocket>> {
    socket.set_nonblocking(true)?;
    Ok(Arc::new(socket))
}

fn adopt_tcp(listener: TcpListener) -> io::Result<Arc<tokio::net::TcpListener>> {
    listener.set_nonblocking(true)?;
    Ok(Arc::new(tokio::net::TcpListener::from_std(listener)?))
}

/// What all tasks use.
pub(crate) struct Shared {
    zone: Zone,
    directory: Arc<dyn Directory>,
    forwarder: Forwarder,
    answered: AtomicU64,
    forwarded: AtomicU64,
    malformed: AtomicU64,
}

/// What to do with a packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// The answer is in the buffer.
    Ready,
    /// The upstreams have to be asked.
    Forward,
    /// No answer.
    None,
}

impl Shared {
    pub(crate) fn new(domain: &str, directory: Arc<dyn Directory>, forwarder: Forwarder) -> Self {
        Self {
            zone: Zone::new(domain),
            directory,
            forwarder,
            answered: AtomicU64::new(0),
            forwarded: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
        }
    }

    /// Answers what can be answered at once.
    pub(crate) fn reply(&self, packet: &[u8], transport: Transport, scratch: &mut Scratch, out: &mut Vec<u8>) -> Reply {
        let query = match Query::parse(packet) {
            Ok(query) => query,
            Err(invalid) => {
                self.malformed.fetch_add(1, Ordering::Relaxed);
                let Invalid::Code(code) = invalid else { return Reply::None };
                error_reply(packet, code, out);
                return Reply::Ready;
            }
        };
        let limit = limit(&query, transport);
        let available = self.forwarder.is_available();
        let before = query.name.below(&self.zone.labels);
        if before.is_none() && available {
            self.forwarded.fetch_add(1, Ordering::Relaxed);
            let cached = self.forwarder.cached(&query, transport, limit, out);
            return if cached { Reply::Ready } else { Reply::Forward };
        }
        let mut answer = Answer::begin(&query, limit, available, out);
        match before {
            _ if query.edns.is_some_and(|edns| edns.version != 0) => answer.bad_version(),
            None => answer.code(rcode::SERVFAIL),
            Some(_) if !matches!(query.qclass, CLASS_IN | CLASS_ANY) => answer.code(rcode::REFUSED),
            Some(before) => {
                self.zone.answer(&query, before, transport, &*self.directory, scratch, &mut answer);
            }
        }
        answer.finish();
        self.answered.fetch_add(1, Ordering::Relaxed);
        Reply::Ready
    }

    /// The upstreams' answer to a packet that [`Shared::reply`] wants forwarded.
    pub(crate) async fn forward(&self, packet: &[u8], transport: Transport) -> Vec<u8> {
        let mut out = Vec::new();
        let Ok(query) = Query::parse(packet) else { return out };
        let limit = limit(&query, transport);
        match self.forwarder.ask(&query, transport, limit).await {
            Ok(answer) => answer,
            Err(code) => {
                let mut answer = Answer::begin(&query, limit, true, &mut out);
                answer.code(code);
                answer.finish();
                out
            }
        }
    }
}

/// Longest answer to a query in bytes.
fn limit(query: &Query<'_>, transport: Transport) -> usize {
    match (transport, query.edns) {
        (Transport::Tcp, _) => usize::from(u16::MAX),
        (Transport::Udp, None) => UDP_LEN,
        (Transport::Udp, Some(edns)) => usize::from(edns.payload_len.min(EDNS_LEN)).max(UDP_LEN),
    }
}
