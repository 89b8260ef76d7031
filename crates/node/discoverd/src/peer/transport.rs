//! Sending messages.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::Instant;

use super::{Contacts, Envelope, Message, PATH, Reply};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_REPLY: usize = 64 << 20;

/// Sends messages in this node's name. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Transport {
    client: Client<HttpConnector, Full<Bytes>>,
    node: Arc<AtomicU64>,
    addr: SocketAddr,
    contacts: Arc<Contacts>,
}

/// Why a message got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// It was certainly not received.
    #[error("connect to {addr}: {reason}")]
    Connect { addr: SocketAddr, reason: String },
    #[error("no answer from {addr} within {} ms", after.as_millis())]
    Timeout { addr: SocketAddr, after: Duration },
    #[error("answer from {addr}: {reason}")]
    Answer { addr: SocketAddr, reason: String },
    /// Another node has that address now.
    #[error("{addr} is no longer the address of node {wanted}")]
    WrongNode { addr: SocketAddr, wanted: u64 },
    #[error("node at {addr} cannot take part: {reason}")]
    Unavailable { addr: SocketAddr, reason: String },
}

impl CallError {
    /// Whether the receiver certainly did not act.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::WrongNode { .. } | Self::Unavailable { .. })
    }
}

impl Transport {
    pub(crate) fn new(addr: SocketAddr, contacts: Arc<Contacts>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(20))
            .build(connector);
        Self { client, node: Arc::default(), addr, contacts }
    }

    pub(crate) fn contacts(&self) -> &Contacts {
        &self.contacts
    }

    /// The id under which this node speaks from now on.
    pub(crate) fn set_node(&self, node: u64) {
        self.node.store(node, Ordering::Relaxed);
    }

    /// Sends a message to the node `to` (0: whoever it is) at `addr`.
    pub(crate) async fn call(
        &self,
        to: u64,
        addr: SocketAddr,
        message: Message,
        timeout: Duration,
    ) -> Result<Reply, CallError> {
        let sent = Instant::now();
        let from = self.node.load(Ordering::Relaxed);
        let envelope = Envelope { to, from, from_addr: self.addr, message };
        let reply = tokio::time::timeout(timeout, self.exchange(addr, &envelope))
            .await
            .unwrap_or(Err(CallError::Timeout { addr, after: timeout }))?;
        match reply {
            Reply::WrongNode(found) => {
                self.contacts.unlearn(to, addr);
                self.contacts.learn(found, addr);
                Err(CallError::WrongNode { addr, wanted: to })
            }
            Reply::Unavailable(reason) => Err(CallError::Unavailable { addr, reason }),
            reply => {
                if to != 0 {
                    self.contacts.answered(to, sent);
                }
                Ok(reply)
            }
        }
    }

    async fn exchange(&self, addr: SocketAddr, envelope: &Envelope) -> Result<Reply, CallError> {
        let broken = |reason: String| CallError::Answer { addr, reason };
        let body = serde_json::to_vec(envelope).map_err(|err| broken(err.to_string()))?;
        let request = Request::post(format!("http://{addr}{PATH}"))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|err| broken(err.to_string()))?;
        let response = self.client.request(request).await.map_err(|err| {
            let reason = innermost(&err);
            if err.is_connect() { CallError::Connect { addr, reason } } else { broken(reason) }
        })?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_REPLY).collect().await;
        let body = body.map_err(|err| broken(err.to_string()))?.to_bytes();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            return Err(CallError::Unavailable { addr, reason: String::from_utf8_lossy(&body).into_owned() });
        }
        if status != StatusCode::OK {
            return Err(broken(format!("status {status}")));
        }
        serde_json::from_slice(&body).map_err(|err| broken(err.to_string()))
    }
}

fn innermost(err: &dyn std::error::Error) -> String {
    let mut last = err;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
