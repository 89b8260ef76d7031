//! Queries in datagrams, answered on a thread of their own: neither a task nor an allocation is needed for an answer, and
//! whatever keeps the daemon's other threads busy does not delay it.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use crate::server::{Ends, Reply, Shared};
use crate::zone::{Scratch, Transport};

/// Longest query.
const QUERY_LEN: usize = 4096;
/// Queries that wait for upstreams at once; more are dropped, and their clients ask again.
const FORWARDS: usize = 2048;

/// Serves `socket`, which must not block, until the server stops taking queries. Ends with the thread.
pub(crate) async fn serve(shared: Arc<Shared>, socket: Arc<UdpSocket>, tasks: TaskTracker, ends: Ends) {
    let wake = match eventfd(0, EventfdFlags::CLOEXEC) {
        Ok(wake) => Arc::new(wake),
        Err(err) => {
            tracing::error!(%err, "DNS over UDP is not served");
            return;
        }
    };
    let (ended_tx, mut ended) = tokio::sync::oneshot::channel();
    let worker = Worker { shared, socket, tasks, ends: ends.clone(), runtime: Handle::current() };
    let woken = Arc::clone(&wake);
    let thread = std::thread::Builder::new().name("dns-udp".to_owned()).stack_size(256 * 1024).spawn(move || {
        worker.run(&woken);
        let _ = ended_tx.send(()); // nobody waits when the runtime is gone
    });
    if let Err(err) = thread {
        tracing::error!(%err, "DNS over UDP is not served");
        return;
    }
    // Also when this future is dropped with its runtime, the thread is told.
    let waker = Waker(wake, ends.clone());
    tokio::select! {
        () = ends.stop.cancelled() => {}
        _ = &mut ended => return,
    }
    drop(waker);
    let _ = ended.await; // the query in hand is answered
}

/// Tells the thread to end when dropped.
struct Waker(Arc<OwnedFd>, Ends);

impl Drop for Waker {
    fn drop(&mut self) {
        self.1.stop.cancel();
        if let Err(err) = rustix::io::write(&*self.0, &1u64.to_ne_bytes()) {
            tracing::error!(%err, "DNS thread cannot be told to end");
        }
    }
}

struct Worker {
    shared: Arc<Shared>,
    socket: Arc<UdpSocket>,
    tasks: TaskTracker,
    ends: Ends,
    runtime: Handle,
}

impl Worker {
    fn run(&self, wake: &OwnedFd) {
        let mut packet = vec![0; QUERY_LEN];
        let mut answer = Vec::with_capacity(QUERY_LEN);
        let mut scratch = Scratch::default();
        while !self.ends.stop.is_cancelled() {
            match self.socket.recv_from(&mut packet) {
                Ok((len, client)) => self.handle(&packet[..len], client, &mut scratch, &mut answer),
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {
                    let mut fds = [
                        PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN),
                        PollFd::from_borrowed_fd(wake.as_fd(), PollFlags::IN),
                    ];
                    let _ = poll(&mut fds, None); // interrupted: looked at again
                }
                Err(_) => {} // an earlier answer did not arrive
            }
        }
    }

    fn handle(&self, packet: &[u8], client: SocketAddr, scratch: &mut Scratch, answer: &mut Vec<u8>) {
        match self.shared.reply(packet, Transport::Udp, scratch, answer) {
            Reply::None => {}
            Reply::Ready => send(&self.socket, answer, client),
            Reply::Forward if self.tasks.len() >= FORWARDS => {}
            Reply::Forward => {
                let (shared, socket, cut) = (Arc::clone(&self.shared), Arc::clone(&self.socket), self.ends.cut.clone());
                let query = packet.to_vec();
                let forwarding = cut.run_until_cancelled_owned(async move {
                    let answer = shared.forward(&query, Transport::Udp).await;
                    send(&socket, &answer, client);
                });
                self.tasks.spawn_on(forwarding, &self.runtime);
            }
        }
    }
}

/// A client that is gone is no failure; an answer for which the socket has no room is lost as in any network.
fn send(socket: &UdpSocket, answer: &[u8], client: SocketAddr) {
    if let Err(err) = socket.send_to(answer, client) {
        tracing::debug!(%client, %err, "DNS answer could not be sent");
    }
}
