//! What is told of a request when it is over: figures, and a line in the access log.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, StatusCode};
use tracing::info;

use crate::backend::Upload;
use crate::http::tunnel::Traffic;
use crate::metrics::RouteMetrics;
use crate::service::InFlight;

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
    pub(crate) service: std::sync::Arc<str>,
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
        let Some(line) = &self.line else { return };
        let (backend, job_id) = match &self.in_flight {
            Some(in_flight) => (in_flight.0.address.to_string(), &*in_flight.0.instance.job_id),
            None => (String::new(), ""),
        };
        info!(
            target: "flynn_router::access",
            service = &*line.service,
            request_id = line.request_id.to_str().unwrap_or_default(),
            client_addr = %line.client,
            host = line.host,
            path = line.path,
            method = %line.method,
            location = line.location.as_ref().and_then(|location| location.to_str().ok()),
            connect = line.connect.map(tracing::field::debug),
            read_res_first_byte = line.first_byte.map(tracing::field::debug),
            status = self.status.as_u16(),
            job.id = job_id,
            addr = backend,
            conn_reused = line.reused,
            received_bytes = received,
            sent_bytes = self.sent,
            duration = ?took,
            "request complete"
        );
    }
}
