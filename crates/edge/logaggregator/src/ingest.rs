//! Connections of hosts' log muxes (spec operations section 11.1).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::frames::{self, Broken};
use crate::message::{Message, Rejected};
use crate::store::Store;

/// Most connections at once: each host has one. More wait in the listener's queue.
const CONNECTIONS: usize = 4096;
/// Most bytes that are read at once; longer than the longest frame.
const BUFFER: usize = 64 * 1024;
/// Hosts say nothing while nothing is logged; whether they still live is found out this way.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// Pause after a failed accept, for example for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Takes messages in until `stop` is cancelled.
pub(crate) async fn listen(listener: TcpListener, store: Arc<Store>, stop: CancellationToken) {
    let (slots, tasks) = (Arc::new(Semaphore::new(CONNECTIONS)), TaskTracker::new());
    let accepting = async {
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(err) => {
                    warn!(%err, "cannot accept a connection of a host");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let connection = connection(stream, peer, Arc::clone(&store));
            let stop = stop.clone();
            tasks.spawn(async move {
                stop.run_until_cancelled(connection).await;
                drop(slot);
            });
        }
    };
    stop.run_until_cancelled(accepting).await;
    tasks.close();
    tasks.wait().await;
}

async fn connection(stream: TcpStream, peer: SocketAddr, store: Arc<Store>) {
    debug!(%peer, "a host sends its logs");
    // Without it, dead hosts keep their slots.
    let _ = SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE));
    match read(stream, peer, &store).await {
        Ok(()) => debug!(%peer, "a host has ended its logs"),
        Err(err) => info!(%peer, %err, "logs of a host have broken off"),
    }
}

async fn read(mut stream: impl AsyncRead + Unpin, peer: SocketAddr, store: &Store) -> io::Result<()> {
    let (mut frames, mut complained) = (Frames::default(), false);
    loop {
        let ended = frames.fill(&mut stream).await?;
        let taken = frames.take();
        if let (Some(reason), false) = (taken.rejected, complained) {
            complained = true; // once for each connection
            warn!(%peer, %reason, "messages are rejected");
        }
        store.insert(taken.messages);
        match taken.broken {
            Some(broken) => return Err(io::Error::new(io::ErrorKind::InvalidData, broken)),
            None if ended => return Ok(()),
            None => {}
        }
    }
}

/// Messages out of a stream of frames.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    buffer: BytesMut,
}

#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) messages: Vec<Message>,
    /// Why the first message was rejected that was.
    pub(crate) rejected: Option<Rejected>,
    /// Why nothing can be read behind these messages.
    pub(crate) broken: Option<Broken>,
}

impl Frames {
    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether the last frame is cut off.
    pub(crate) fn is_cut(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Reads more; gives whether the stream has ended.
    async fn fill(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<bool> {
        self.buffer.reserve(BUFFER);
        Ok(stream.read_buf(&mut self.buffer).await? == 0)
    }

    /// All whole messages that are there.
    pub(crate) fn take(&mut self) -> Taken {
        let mut taken = Taken::default();
        loop {
            match frames::next(&mut self.buffer).map(|frame| frame.map(|frame| Message::parse(&frame))) {
                Ok(Some(Ok(message))) => taken.messages.push(message),
                Ok(Some(Err(reason))) => taken.rejected = taken.rejected.or(Some(reason)),
                Ok(None) => return taken,
                Err(broken) => return Taken { broken: Some(broken), ..taken },
            }
        }
    }
}
