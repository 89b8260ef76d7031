//! The listening sockets of a router: bound here, or taken from the process that this one replaces.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use socket2::{Domain, Socket, Type};

/// Connections that wait to be accepted; the kernel lowers it to its own limit.
const BACKLOG: i32 = 65_535;

/// All listening sockets of a router. What workers get are duplicates, so that a socket is never closed by accident:
/// the kernel would reset the connections that wait in its queue.
#[derive(Debug, Default)]
pub struct Sockets(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Of the former process, and not asked for yet.
    inherited: Vec<TcpListener>,
    open: BTreeMap<SocketAddr, Vec<TcpListener>>,
    is_held: bool,
}

impl Sockets {
    /// Sockets of the process that this one replaces. Which is for what, their addresses say.
    pub fn inherited(sockets: Vec<OwnedFd>) -> Self {
        let inherited = sockets.into_iter().map(TcpListener::from).collect();
        Self(Mutex::new(State { inherited, ..State::default() }))
    }

    /// Duplicates of all that are open.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn duplicates(&self) -> io::Result<Vec<OwnedFd>> {
        let state = self.state();
        state.open.values().flatten().map(|socket| socket.try_clone().map(OwnedFd::from)).collect()
    }

    /// While sockets are being handed over, no new ones are bound: the other process would not know of them.
    pub fn hold(&self, hold: bool) {
        self.state().is_held = hold;
    }

    /// Listens on a port; `shares` of its sockets, one for each worker. An open one is duplicated, an inherited one
    /// taken over, and only then one bound.
    ///
    /// # Errors
    /// When the port is taken, or sockets are being handed over.
    pub(crate) fn open(
        &self,
        ip: Option<IpAddr>,
        port: u16,
        shares: usize,
    ) -> io::Result<(SocketAddr, Vec<Vec<TcpListener>>)> {
        let mut state = self.state();
        let wanted: Vec<SocketAddr> = addresses(ip, port).collect();
        let known = wanted.iter().find(|address| state.open.contains_key(address)).copied();
        let address = match known {
            Some(address) => address,
            None => {
                let mut sockets = state.take_inherited(&wanted);
                if sockets.is_empty() {
                    if state.is_held {
                        let reason = "the sockets are being handed over to another process";
                        return Err(io::Error::new(io::ErrorKind::ResourceBusy, reason));
                    }
                    sockets = bind(&wanted, shares)?;
                }
                let address = sockets.first().ok_or(io::ErrorKind::AddrNotAvailable)?.local_addr()?;
                state.open.insert(address, sockets);
                address
            }
        };
        let sockets = &state.open[&address];
        let mut shared: Vec<Vec<TcpListener>> = (0..shares).map(|_| Vec::new()).collect();
        // Each socket has a worker, and each worker a socket.
        for number in 0..sockets.len().max(shares) {
            shared[number % shares].push(sockets[number % sockets.len()].try_clone()?);
        }
        Ok((address, shared))
    }

    /// Forgets a port. The kernel closes it when the last duplicate is gone.
    pub(crate) fn close(&self, ip: Option<IpAddr>, port: u16) {
        let mut state = self.state();
        for address in addresses(ip, port) {
            state.open.remove(&address);
        }
    }

    /// Forgets inherited sockets that nothing asked for.
    pub(crate) fn drop_unwanted(&self) {
        self.state().inherited.clear();
    }

    /// Forgets all.
    pub(crate) fn close_all(&self) {
        *self.state() = State::default();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take_inherited(&mut self, wanted: &[SocketAddr]) -> Vec<TcpListener> {
        let is_wanted = |socket: &mut TcpListener| socket.local_addr().is_ok_and(|address| wanted.contains(&address));
        self.inherited.extract_if(.., is_wanted).collect()
    }
}

/// Where to listen, the best first: for all addresses one socket of both families, and on a machine without IPv6 one of
/// the other.
fn addresses(ip: Option<IpAddr>, port: u16) -> impl Iterator<Item = SocketAddr> {
    let all = [IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
    let ips = ip.map_or(all.to_vec(), |ip| vec![ip]);
    ips.into_iter().map(move |ip| SocketAddr::new(ip, port))
}

/// Binds so many sockets to the first of these addresses that there is.
fn bind(wanted: &[SocketAddr], count: usize) -> io::Result<Vec<TcpListener>> {
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in wanted {
        match bind_to(*address) {
            Ok(first) => {
                let address = first.local_addr()?; // has the port that the system chose
                let mut sockets = vec![first];
                for _ in 1..count {
                    sockets.push(bind_to(address)?);
                }
                return Ok(sockets);
            }
            Err(err) => failure = err,
        }
    }
    Err(failure)
}

/// Binds a listener that shares its port with those of other workers.
fn bind_to(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));

    fn counts(shares: &[Vec<TcpListener>]) -> Vec<usize> {
        shares.iter().map(Vec::len).collect()
    }

    #[test]
    fn inherited_sockets_are_used_by_any_number_of_workers() {
        let first = Sockets::default();
        let (address, shares) = first.open(LOOPBACK, 0, 3).unwrap();
        assert_eq!(counts(&shares), [1, 1, 1]);
        for (workers, expected) in [(2, vec![2, 1]), (3, vec![1, 1, 1]), (4, vec![1, 1, 1, 1])] {
            let next = Sockets::inherited(first.duplicates().unwrap());
            let (same, shares) = next.open(LOOPBACK, address.port(), workers).unwrap();
            assert_eq!((same, counts(&shares)), (address, expected));
            assert_eq!(next.duplicates().unwrap().len(), 3);
        }
    }

    #[test]
    fn what_nobody_wants_is_closed_and_nothing_is_bound_while_sockets_are_handed_over() {
        let first = Sockets::default();
        let (address, shares) = first.open(LOOPBACK, 0, 1).unwrap();
        first.hold(true);
        assert!(first.open(LOOPBACK, 0, 1).is_err());
        assert!(first.open(LOOPBACK, address.port(), 1).is_ok(), "this one is open already");
        let next = Sockets::inherited(first.duplicates().unwrap());
        next.drop_unwanted();
        first.close_all();
        drop(shares);
        assert!(std::net::TcpStream::connect(address).is_err());
    }
}
