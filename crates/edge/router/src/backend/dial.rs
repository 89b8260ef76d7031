//! New connections to backends.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tracing::debug;

use super::Sender;

/// Pause after which the kernel asks whether a silent peer is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Connects within `limit`.
pub(crate) async fn dial(address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let connected = tokio::time::timeout(limit, TcpStream::connect(address)).await;
    let stream = connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let _ = stream.set_nodelay(true); // only slower without
    let _ = SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEP_ALIVE));
    Ok(stream)
}

/// Connects for HTTP. The connection is driven by a task of its own, which ends when the sender and the last response
/// are dropped.
pub(crate) async fn open(address: SocketAddr, limit: Duration) -> io::Result<Sender> {
    let stream = TokioIo::new(dial(address, limit).await?);
    let (sender, connection) = http1::Builder::new().handshake(stream).await.map_err(io::Error::other)?;
    tokio::task::spawn_local(async move {
        if let Err(err) = connection.with_upgrades().await {
            debug!(%address, %err, "connection to a backend ended early");
        }
    });
    Ok(sender)
}
