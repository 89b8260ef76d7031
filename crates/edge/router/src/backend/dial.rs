//! New connections to backends.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tracing::debug;

use super::UploadBody;
use crate::http::LocalExecutor;

/// Pause after which the kernel asks whether a silent peer is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Header fields of one response over HTTP/2 in bytes.
const MAX_HTTP2_FIELDS: u32 = 256 * 1024;

/// Connects within `limit`.
pub(crate) async fn dial(address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let connected = tokio::time::timeout(limit, TcpStream::connect(address)).await;
    let stream = connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let _ = stream.set_nodelay(true); // only slower without
    let _ = SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEP_ALIVE));
    Ok(stream)
}

/// Connects for HTTP/1. The connection is driven by a task of its own, which ends when the sender and the last response
/// are dropped.
pub(super) async fn open(address: SocketAddr, limit: Duration) -> io::Result<http1::SendRequest<UploadBody>> {
    let stream = TokioIo::new(dial(address, limit).await?);
    let (sender, connection) = http1::Builder::new().handshake(stream).await.map_err(io::Error::other)?;
    tokio::task::spawn_local(async move { ended(address, connection.with_upgrades().await) });
    Ok(sender)
}

/// The sending side of a connection of HTTP/2, and how many requests at once its backend takes.
pub(super) struct Http2Sender {
    pub(super) sender: http2::SendRequest<UploadBody>,
    pub(super) most_streams: Rc<Cell<usize>>,
}

/// Connects for HTTP/2 in clear text, without asking first. No pings of ours: servers of gRPC take them for an attack.
pub(super) async fn open_h2c(address: SocketAddr, limit: Duration) -> io::Result<Http2Sender> {
    let stream = TokioIo::new(dial(address, limit).await?);
    let mut builder = http2::Builder::new(LocalExecutor);
    builder.max_header_list_size(MAX_HTTP2_FIELDS);
    let (sender, mut connection) = builder.handshake(stream).await.map_err(io::Error::other)?;
    let most_streams = Rc::new(Cell::new(connection.current_max_send_streams()));
    let most = Rc::clone(&most_streams);
    tokio::task::spawn_local(async move {
        let driven = std::future::poll_fn(|cx| {
            let end = Pin::new(&mut connection).poll(cx);
            // The backend says it with its first words, and may change its mind.
            most.set(connection.current_max_send_streams());
            end
        });
        ended(address, driven.await);
    });
    Ok(Http2Sender { sender, most_streams })
}

fn ended(address: SocketAddr, end: hyper::Result<()>) {
    if let Err(err) = end {
        debug!(%address, %err, "connection to a backend ended early");
    }
}
