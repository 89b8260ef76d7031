//! What is told of a request when it is over: figures, and a line in the access log.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, Request, StatusCode};
use tracing::info;

use crate::backend::Upload;
use crate::http::exchange::{Exchange, host};
use crate::http::tunnel::Traffic;
use crate::metrics::RouteMetrics;
use crate::service::{Backend, InFlight};

/// A request that took a route. It is over when this is dropped: the response was passed on completely, or cannot be.
pub(crate) struct Record {
    begin: Instant,
    metrics: RouteMetrics,
    /// 499 until a response is known: whoever drops this before that is a client that went away.
    pub(crate) status: StatusCode,
    pub(crate) in_flight: Option<InFlight>,
    upload: Option<Rc<Upload>>,
    received: u64,
    pub(crate) sent: u64,
    line: Option<Box<Line>>,
}

/// What the access log tells.
pub(crate) struct Line {
    pub(crate) client: SocketAddr,
    pub(crate) host: String,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) request_id: HeaderValue,
    pub(crate) service: Arc<str>,
    pub(crate) reused: bool,
    pub(crate) location: Option<HeaderValue>,
    /// From the begin of the request to a new connection, where one was made.
    pub(crate) connect: Option<Duration>,
    /// From the begin of the request to the head of the response.
    pub(crate) first_byte: Option<Duration>,
}

impl Record {
    pub(crate) fn new(metrics: &RouteMetrics, upload: Option<Rc<Upload>>, line: Option<Box<Line>>) -> Self {
        metrics.begin();
        Self {
            begin: Instant::now(),
            metrics: metrics.clone(),
            status: StatusCode::from_u16(499).expect("499 is a status"),
            in_flight: None,
            upload,
            received: 0,
            sent: 0,
            line,
        }
    }

    /// What a tunnel has carried.
    pub(crate) fn tunnelled(&mut self, traffic: &Traffic) {
        self.received += traffic.there.get();
        self.sent += traffic.back.get();
    }

    /// A new connection to a backend is there.
    pub(crate) fn connected(&mut self) {
        if let Some(line) = &mut self.line {
            line.connect = Some(self.begin.elapsed());
        }
    }

    /// The head of the response is there.
    pub(crate) fn answered(&mut self) {
        if let Some(line) = &mut self.line {
            line.first_byte = Some(self.begin.elapsed());
        }
    }

    /// Where the response sends the client.
    pub(crate) fn located(&mut self, location: Option<&HeaderValue>) {
        if let Some(line) = &mut self.line {
            line.location = location.cloned();
        }
    }

    pub(crate) fn used_connection(&mut self, reused: bool) {
        if let Some(line) = &mut self.line {
            line.reused = reused;
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let took = self.begin.elapsed();
        let received = self.received + self.upload.as_ref().map_or(0, |upload| upload.bytes());
        self.metrics.end(self.status, took, received, self.sent);
        if let Some(line) = &self.line {
            let backend = self.in_flight.as_ref().map(|in_flight| &*in_flight.0);
            line.write(self.status, backend, (received, self.sent), took);
        }
    }
}

impl Line {
    /// The line of a request that has just come.
    pub(crate) fn new<B>(exchange: &Exchange, service: &Arc<str>, request: &Request<B>) -> Self {
        Self {
            client: exchange.origin.peer,
            host: host(request).to_owned(),
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            request_id: HeaderValue::from_static(""),
            service: Arc::clone(service),
            reused: false,
            location: None,
            connect: None,
            first_byte: None,
        }
    }

    /// Writes the line of a request that is over. `bytes` are those received and sent.
    pub(crate) fn write(&self, status: StatusCode, backend: Option<&Backend>, bytes: (u64, u64), took: Duration) {
        info!(
            target: "flynn_router::access",
            service = &*self.service,
            request_id = self.request_id.to_str().unwrap_or_default(),
            client_addr = %self.client,
            host = self.host,
            path = self.path,
            method = %self.method,
            location = self.location.as_ref().and_then(|location| location.to_str().ok()),
            connect = self.connect.map(tracing::field::debug),
            read_res_first_byte = self.first_byte.map(tracing::field::debug),
            status = status.as_u16(),
            job.id = backend.map(|backend| &*backend.instance.job_id),
            addr = backend.map(|backend| backend.address.to_string()),
            conn_reused = self.reused,
            received_bytes = bytes.0,
            sent_bytes = bytes.1,
            duration = ?took,
            "request complete"
        );
    }
}
