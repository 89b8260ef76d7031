//! Serving: connections, limits, request ids, and an end without cut-off answers.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderName, HeaderValue, Request, StatusCode, Version, header};
use axum::response::{IntoResponse as _, Response};
use flynn_types::error::ApiError;
use futures_util::{FutureExt as _, StreamExt as _};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service as _;
use tracing::{Instrument as _, debug, error, info, warn};

use crate::Failure;
use crate::kept::keep;
use crate::stall::{Lift, StallGuard};

/// Limits of a server.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Longest time between a connection's begin (or its last answer) and the next request's headers.
    pub header_timeout: Duration,
    /// How long running requests may go on after shutdown was asked for.
    pub grace: Duration,
    /// Connections at once; more wait in the listener's queue.
    pub max_connections: usize,
    /// Longest time that a write may make no progress before the connection is cut. Upgraded ones have no limit.
    pub stall_limit: Duration,
    /// Log each request at level info (spec flynn-host section 2.7) and not only at debug.
    pub log_requests: bool,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(300),
            grace: Duration::from_secs(5),
            max_connections: 8192,
            stall_limit: Duration::from_secs(120),
            log_requests: false,
        }
    }
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// How long a new connection's first request is waited for after shutdown was asked for.
const FIRST_REQUEST: Duration = Duration::from_secs(1);
/// Pause after a failed accept, for example for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown` is cancelled; then ends event streams, and finishes running requests for at most the grace
/// time. Connections that were upgraded no longer belong to the server.
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
    // Spec flynn-host section 4.1.
    let _ = SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(180)));
    let lift = Lift::default();
    let io = TokioIo::new(StallGuard::new(stream, options.stall_limit, lift.clone()));
    let begun = CancellationToken::new();
    let exchange = Exchange {
        router,
        peer,
        lift,
        shutdown: shutdown.clone(),
        begun: begun.clone(),
        log_requests: options.log_requests,
    };
    let service = hyper::service::service_fn(move |request: Request<Incoming>| exchange.clone().answer(request));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(options.header_timeout);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(Some(Duration::from_secs(180)));
    let mut connection = pin!(builder.serve_connection_with_upgrades(io, service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            // The first request of a new connection may be on its way: closing now would lose it.
            let first = tokio::time::timeout(FIRST_REQUEST, begun.cancelled());
            tokio::select! {
                ended = connection.as_mut() => ended,
                _ = first => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
    };
    if let Err(err) = ended {
        debug!(%peer, err, "connection ended early");
    }
}

/// What one request needs.
#[derive(Clone)]
struct Exchange {
    router: Router,
    peer: SocketAddr,
    lift: Lift,
    shutdown: CancellationToken,
    /// Cancelled when the connection's first request has come.
    begun: CancellationToken,
    log_requests: bool,
}

impl Exchange {
    async fn answer(mut self, request: Request<Incoming>) -> Result<Response, std::convert::Infallible> {
        self.begun.cancel();
        // Who waits for leave to send its body does not send it when it is refused.
        let waits = request.headers().contains_key(header::EXPECT);
        let (parts, body) = request.into_parts();
        let (kept, rest) = keep(body);
        let mut request = Request::from_parts(parts, Body::new(kept));
        request.extensions_mut().insert(ConnectInfo(self.peer));
        let id = request
            .headers()
            .get(&REQUEST_ID)
            .cloned()
            .unwrap_or_else(|| HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()).expect("a UUID is ASCII"));
        request.headers_mut().insert(REQUEST_ID, id.clone());
        let version = request.version();
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let req_id = String::from_utf8_lossy(id.as_bytes()).into_owned();
        let span = tracing::info_span!("request", req_id, %method, path, client_ip = %self.peer.ip());
        let mut response = self.handle(request).instrument(span).await;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            self.lift.lift();
            return Ok(response);
        }
        response.headers_mut().insert(REQUEST_ID, id);
        if self.shutdown.is_cancelled() && version < Version::HTTP_2 {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if !waits {
            rest.drain().await;
        }
        if is_event_stream(&response) {
            let shutdown = self.shutdown.cancelled_owned();
            response = response.map(|body| Body::from_stream(body.into_data_stream().take_until(shutdown)));
        }
        Ok(response)
    }

    async fn handle(&mut self, request: Request<Body>) -> Response {
        let begin = Instant::now();
        self.log(|| debug!("request started"), || info!("request started"));
        let handled = std::panic::AssertUnwindSafe(self.router.call(request)).catch_unwind().await;
        let response = match handled {
            Ok(Ok(response)) => response,
            Err(_panic) => {
                error!("the request's handler panicked");
                Failure(ApiError::internal("the server failed on this request, its log says why")).into_response()
            }
        };
        let (status, duration) = (response.status().as_u16(), begin.elapsed());
        self.log(|| debug!(status, ?duration, "request completed"), || info!(status, ?duration, "request completed"));
        response
    }

    fn log(&self, quiet: impl FnOnce(), loud: impl FnOnce()) {
        if self.log_requests { loud() } else { quiet() }
    }
}

fn is_event_stream(response: &Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("text/event-stream"))
}
