//! Queries in datagrams: local answers are made in the receiving loop, without a task or an allocation.

use std::io;
use std::sync::Arc;

use tokio::net::UdpSocket;
use tokio_util::task::TaskTracker;

use crate::server::{Ends, Reply, Shared};
use crate::zone::{Scratch, Transport};

/// Longest query.
const QUERY_LEN: usize = 4096;
/// Datagrams handled before other tasks get their turn.
const BURST: usize = 256;
/// Queries that wait for upstreams at once; more are dropped, and their clients ask again.
const FORWARDS: usize = 2048;

pub(crate) async fn serve(shared: Arc<Shared>, socket: Arc<UdpSocket>, tasks: TaskTracker, ends: Ends) {
    let mut packet = vec![0; QUERY_LEN];
    let mut answer = Vec::with_capacity(QUERY_LEN);
    let mut scratch = Scratch::default();
    loop {
        tokio::select! {
            biased;
            () = ends.stop.cancelled() => return,
            ready = socket.readable() => if let Err(err) = ready {
                tracing::error!(%err, "DNS socket failed");
                return;
            },
        }
        let mut drained = false;
        for _ in 0..BURST {
            let (len, client) = match socket.try_recv_from(&mut packet) {
                Ok(received) => received,
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {
                    drained = true;
                    break;
                }
                Err(_) => continue, // an earlier answer did not arrive
            };
            match shared.reply(&packet[..len], Transport::Udp, &mut scratch, &mut answer) {
                Reply::None => {}
                Reply::Ready => send(&socket, &answer, client).await,
                Reply::Forward if tasks.len() >= FORWARDS => {}
                Reply::Forward => {
                    let (shared, socket, cut) = (Arc::clone(&shared), Arc::clone(&socket), ends.cut.clone());
                    let query = packet[..len].to_vec();
                    tasks.spawn(cut.run_until_cancelled_owned(async move {
                        let answer = shared.forward(&query, Transport::Udp).await;
                        send(&socket, &answer, client).await;
                    }));
                }
            }
        }
        if !drained {
            tokio::task::yield_now().await;
        }
    }
}

/// A client that is gone is no failure.
async fn send(socket: &UdpSocket, answer: &[u8], client: std::net::SocketAddr) {
    let sent = match socket.try_send_to(answer, client) {
        Err(err) if err.kind() == io::ErrorKind::WouldBlock => socket.send_to(answer, client).await,
        other => other,
    };
    if let Err(err) = sent {
        tracing::debug!(%client, %err, "DNS answer could not be sent");
    }
}
