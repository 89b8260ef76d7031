//! One client's connection, HTTP/1 or HTTP/2.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, server};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::debug;

use crate::guard::{Conversation, Guarded, GuardedHttp2, MAX_HEAD};
use crate::headers::Via;
use crate::http::exchange::{Exchange, answer};
use crate::http::stalls::Stalls;
use crate::worker::Worker;

/// How long an HTTP/2 client without requests may take to say good-bye.
const GOOD_BYE: Duration = Duration::from_secs(5);
/// Streams of one HTTP/2 client at once.
const MAX_STREAMS: u32 = 250;

/// Header fields of one HTTP/2 request in bytes. Less than over HTTP/1, because many are in flight on one connection.
const MAX_HTTP2_FIELDS: u32 = 128 * 1024;

/// Where requests of a connection come from.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) via: Via,
    pub(crate) peer: SocketAddr,
    /// Under which port the table has the routes.
    pub(crate) port_key: u16,
}

impl Origin {
    /// Whether the connection to us is encrypted.
    pub(crate) fn is_tls(&self) -> bool {
        self.via.proto == "https"
    }
}

/// Serves a connection to its end.
pub(crate) async fn serve<S>(worker: &Rc<Worker>, stream: S, origin: Rc<Origin>, http2: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let conversation = Conversation::new();
    let (limits, metrics) = (&worker.shared.settings.limits, &worker.shared.metrics);
    let stalls = http2.then(|| Stalls::new(limits.response_pause, metrics.clients_ended.slow_response.clone()));
    let exchange = Rc::new(Exchange {
        worker: Rc::clone(worker),
        origin,
        conversation: Arc::clone(&conversation),
        stalls: stalls.clone(),
    });
    let service = service_fn(move |request: Request<Incoming>| {
        let exchange = Rc::clone(&exchange);
        async move { Ok::<_, Infallible>(answer(&exchange, request).await) }
    });
    let (limits, draining) = (&worker.shared.settings.limits, &worker.shared.draining);
    let ended = if let Some(stalls) = stalls {
        let mut builder = server::conn::http2::Builder::new(LocalExecutor);
        builder.timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS);
        builder.max_header_list_size(MAX_HTTP2_FIELDS);
        builder.keep_alive_interval(Some(limits.idle)).keep_alive_timeout(limits.request_head);
        let guarded = GuardedHttp2::new(stream, limits, metrics.clients_ended.clone());
        let connection = builder.serve_connection(TokioIo::new(guarded), service);
        let mut connection = pin!(connection);
        let idle = async {
            conversation.idle_for(limits.request_head, limits.idle).await;
            if conversation.requests() == 0 {
                metrics.clients_ended.slow_head.inc();
            }
        };
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = stalls.mind(&conversation) => return,
            // Loses nothing: the client is told twice, and what it sent before the second time is answered (RFC 9113
            // section 6.8).
            () = async { tokio::select! { () = draining.cancelled() => {}, () = idle => {} } } => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = cut_off(worker, connection) => ended,
                    () = unanswered(&conversation) => return,
                }
            }
        }
    } else {
        let guarded = Guarded::new(stream, conversation, limits.clone(), metrics.clients_ended.clone());
        let mut builder = server::conn::http1::Builder::new();
        builder.max_buf_size(MAX_HEAD + 64 * 1024);
        let connection = builder.serve_connection(TokioIo::new(guarded), service).with_upgrades();
        let mut connection = pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = worker.shared.idle_are_closed() => {
                connection.as_mut().graceful_shutdown();
                cut_off(worker, connection).await
            }
        }
    };
    if let Err(err) = ended {
        debug!(%err, "connection of a client ended early");
    }
}

/// Waits until there are no requests and the client was given time to close.
async fn unanswered(conversation: &Conversation) {
    loop {
        tokio::time::sleep(GOOD_BYE).await;
        if conversation.is_idle() {
            return;
        }
    }
}

/// Goes on until waiting for clients is over.
async fn cut_off(worker: &Worker, connection: impl Future<Output = hyper::Result<()>>) -> hyper::Result<()> {
    worker.shared.cut_off.run_until_cancelled(connection).await.unwrap_or(Ok(()))
}

/// Runs HTTP/2 streams on this thread.
#[derive(Clone, Copy)]
pub(crate) struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor
where
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
