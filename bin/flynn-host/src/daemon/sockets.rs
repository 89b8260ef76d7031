//! The listening sockets that outlive a node and are handed to the next daemon.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use anyhow::{Context as _, bail};
use flynn_handover::Passed;
use socket2::{Domain, Protocol, Socket, Type};

use super::setup::{DISCOVERD_PORT, Setup};

pub(super) const HTTP: &str = "http";
pub(super) const DISCOVERD: &str = "discoverd";
pub(super) const CONTROL: &str = "control";
const BACKLOG: i32 = 4096;

/// Sockets of the host API and of discoverd.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    pub(super) http: Vec<TcpListener>,
    pub(super) discoverd: Vec<TcpListener>,
}

impl Sockets {
    /// Binds them: all addresses, or with `--listen-ip` that one and the loopback for the operator's commands.
    pub(super) fn bind(setup: &Setup) -> anyhow::Result<Self> {
        let addresses: Vec<IpAddr> = match setup.listen_ip {
            None => vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED)],
            Some(ip) if ip.is_loopback() => vec![ip],
            Some(ip) => vec![ip, IpAddr::V4(Ipv4Addr::LOCALHOST)],
        };
        let listen = |port: u16, what: &str| -> anyhow::Result<Vec<TcpListener>> {
            let bound = addresses.iter().map(|ip| listen((*ip, port).into()));
            bound.collect::<io::Result<_>>().with_context(|| format!("listen on port {port} for {what}"))
        };
        Ok(Self {
            http: listen(setup.options.http_port, "the host API")?,
            discoverd: listen(DISCOVERD_PORT, "discoverd")?,
        })
    }

    /// Duplicates for a node.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        let clone = |listeners: &[TcpListener]| listeners.iter().map(TcpListener::try_clone).collect::<io::Result<_>>();
        Ok(Self { http: clone(&self.http)?, discoverd: clone(&self.discoverd)? })
    }

    /// Duplicates with their names, in the order in which a new daemon gets them.
    pub(super) fn to_pass(&self, control: OwnedFd) -> io::Result<Vec<(&'static str, OwnedFd)>> {
        let Self { http, discoverd } = self.try_clone()?;
        let mut http = http.into_iter().map(|listener| (HTTP, OwnedFd::from(listener)));
        let mut all: Vec<_> = http.next().into_iter().collect();
        // Third and fourth descriptor are what the Go daemon passes too.
        all.push((CONTROL, control));
        all.extend(http);
        all.extend(discoverd.into_iter().map(|listener| (DISCOVERD, OwnedFd::from(listener))));
        Ok(all)
    }
}

/// What a new daemon got from the one it replaces.
#[derive(Debug)]
pub(super) struct Inherited {
    pub(super) sockets: Sockets,
    pub(super) control: UnixStream,
}

/// Takes what a daemon that is being replaced left us; `None` when this one was started afresh.
pub(super) fn inherited() -> anyhow::Result<Option<Inherited>> {
    let Ok(names) = std::env::var(flynn_handover::NAMES) else { return Ok(None) };
    let mut passed = Passed::new(&names);
    let (mut sockets, mut control) = (Sockets::default(), None);
    for (index, name) in passed.names().to_vec().into_iter().enumerate() {
        match name.as_str() {
            HTTP => sockets.http.push(passed.listener(index)?),
            DISCOVERD => sockets.discoverd.push(passed.listener(index)?),
            CONTROL => control = Some(passed.stream(index)?),
            other => bail!("unknown descriptor {other:?} was passed"),
        }
    }
    Ok(Some(Inherited { sockets, control: control.context("no control socket was passed")? }))
}

/// Listens with an address that may have been in use a moment ago, and a queue long enough for a pause of the server.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into()).map_err(|err| io::Error::new(err.kind(), format!("{address}: {err}")))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
