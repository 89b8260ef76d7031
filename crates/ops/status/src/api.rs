//! Answering.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::{IntoResponse as _, Response};
use flynn_discoverd_client::Client;
use flynn_http::ServerOptions;
use flynn_types::status::Status;
use http::{HeaderValue, Method, StatusCode, header};
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::access::Access;
use crate::ask;
use crate::components::{COMPONENTS, Component};

/// What the status service is told.
#[derive(Clone, Debug)]
pub struct Config {
    pub discoverd: Client,
    /// What requests from public addresses need; without it, all are answered.
    pub key: Option<String>,
    /// Shown as the cluster's.
    pub version: String,
    pub components: &'static [Component],
    /// So long, an answer is given again.
    pub kept: Duration,
}

impl Config {
    pub fn new(discoverd: Client, key: Option<String>) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self { discoverd, key, version, components: COMPONENTS, kept: Duration::from_secs(1) }
    }
}

struct Shared {
    config: Config,
    access: Access,
    /// Held while components are asked: who comes meanwhile waits for that answer and asks nobody.
    last: Mutex<Option<(Instant, Status)>>,
}

/// Serves until `shutdown` is cancelled.
pub async fn serve(config: Config, listener: TcpListener, shutdown: CancellationToken) -> io::Result<()> {
    info!(address = %listener.local_addr()?, "listening");
    let access = Access::new(config.key.clone());
    let shared = Arc::new(Shared { config, access, last: Mutex::default() });
    let router = Router::new().fallback(answer).with_state(shared);
    flynn_http::serve(listener, router, shutdown, ServerOptions::default()).await
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let mut response = match *request.method() {
        Method::GET | Method::HEAD => {
            if shared.access.allows(peer.ip(), request.headers(), request.uri().query()) {
                flynn_http::status(&shared.status().await)
            } else {
                StatusCode::UNAUTHORIZED.into_response()
            }
        }
        Method::OPTIONS => preflight(),
        _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
    };
    response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

/// Browsers ask first whether they may send a key (the dashboard does).
fn preflight() -> Response {
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "Authorization, Accept, Content-Type"),
        (header::ACCESS_CONTROL_MAX_AGE, "3600"),
    ];
    headers.into_response()
}

impl Shared {
    async fn status(&self) -> Status {
        let mut last = self.last.lock().await;
        if let Some((at, status)) = &*last
            && at.elapsed() < self.config.kept
        {
            return status.clone();
        }
        let status = ask::cluster(self.config.components, &self.config.discoverd, &self.config.version).await;
        *last = Some((Instant::now(), status.clone()));
        status
    }
}
