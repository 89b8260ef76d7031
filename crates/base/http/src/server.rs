//! Serving: connections, limits, request ids, and an end without cut-off answers.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderName, HeaderValue, Request, StatusCode};
use axum::response::{IntoResponse as _, Response};
use futures_util::FutureExt as _;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service as _;
use tracing::{debug, error, warn};

/// Limits of a server.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Longest time between a connection's begin (or its last answer) and the next request's headers.
    pub header_timeout: Duration,
    /// How long running requests may go on after shutdown was asked for.
    pub grace: Duration,
    /// Connections at once; more wait in the listener's queue.
    pub max_connections: usize,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self { header_timeout: Duration::from_secs(300), grace: Duration::from_secs(5), max_connections: 8192 }
    }
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Pause after a failed accept, for example for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown` is cancelled; then finishes running requests for at most the grace time. Connections that
/// were upgraded no longer belong to the server.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
    options: ServerOptions,
) -> io::Result<()> {
    let (slots, tasks) = (Arc::new(Semaphore::new(options.max_connections)), TaskTracker::new());
    // Cancelled when the grace time is over: what still runs is cut off.
    let cut_off = CancellationToken::new();
    let _cut_off_when_dropped = cut_off.clone().drop_guard();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &slots) => accepted,
        };
        let (stream, peer, slot) = match accepted {
            Ok(accepted) => accepted,
            Err(err) => {
                warn!(%err, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let connection = serve_connection(stream, peer, router.clone(), shutdown.clone(), options.clone());
        let cut_off = cut_off.clone();
        tasks.spawn(async move {
            cut_off.run_until_cancelled(connection).await;
            drop(slot);
        });
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(options.grace, tasks.wait()).await.is_err() {
        debug!(connections = tasks.len(), "cutting off connections that outlast the grace time");
    }
    Ok(())
}

type Accepted = (TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit);

async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> io::Result<Accepted> {
    let slot = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, slot))
}

async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    shutdown: CancellationToken,
    options: ServerOptions,
) {
    let _ = stream.set_nodelay(true); // only slower without
    let service = hyper::service::service_fn(move |request: Request<Incoming>| answer(router.clone(), request, peer));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(options.header_timeout);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(Some(Duration::from_secs(180)));
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(err) = ended {
        debug!(%peer, err, "connection ended early");
    }
}

async fn answer(
    mut router: Router,
    request: Request<Incoming>,
    peer: SocketAddr,
) -> Result<Response, std::convert::Infallible> {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(ConnectInfo(peer));
    let id = match request.headers().get(&REQUEST_ID) {
        Some(id) => id.clone(),
        None => {
            let id = HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()).expect("a UUID is ASCII");
            request.headers_mut().insert(REQUEST_ID, id.clone());
            id
        }
    };
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let handled = std::panic::AssertUnwindSafe(router.call(request)).catch_unwind().await;
    let mut response = match handled {
        Ok(Ok(response)) => response,
        Err(_panic) => {
            error!(%method, path, "the request's handler panicked");
            crate::Failure(flynn_types::error::ApiError::internal("the server failed on this request")).into_response()
        }
    };
    debug!(%method, path, status = response.status().as_u16(), client_ip = %peer.ip(), req_id = id.to_str().unwrap_or(""), "request completed");
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    Ok(response)
}
