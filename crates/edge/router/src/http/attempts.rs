//! Trying backends for one request, again where that is safe.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use flynn_types::error::with_causes;
use http::header::CONNECTION;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::time::Instant;
use tracing::warn;

use crate::backend::{LOOK, Lease, Upload, UploadBody, UploadFailure, hangs};
use crate::http::page::Reason;
use crate::http::record::Record;
use crate::route::{BackendProtocol, HttpRoute};
use crate::service::{Backend, InFlight};
use crate::watchdog::Activity;
use crate::worker::Worker;

/// Requests that were sent and not answered are sent again so many times.
const RESENDS: usize = 2;

/// What is tried.
pub(super) struct Attempts<'a> {
    pub(super) worker: &'a Rc<Worker>,
    pub(super) route: &'a HttpRoute,
    pub(super) upload: &'a Rc<Upload>,
    pub(super) pinned: Option<SocketAddr>,
    pub(super) upgrade: bool,
}

/// Who answered.
pub(super) struct Answered {
    pub(super) address: SocketAddr,
    pub(super) lease: Lease,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
enum NoResponse {
    #[error("the connection had closed before the request was written")]
    Unsent { request: Box<Request<UploadBody>>, source: hyper::Error },
    #[error("the backend refused the request without looking at it")]
    Refused(#[source] hyper::Error),
    #[error("the connection broke before a response came")]
    Broken(#[source] hyper::Error),
    #[error("no response came in time")]
    Silent,
    #[error("the backend hangs")]
    Stuck,
    #[error("the response changes the protocol, which nobody asked for")]
    Switched,
}

impl Attempts<'_> {
    pub(super) async fn run(&self, head: Parts, record: &mut Record) -> Result<(Response<Incoming>, Answered), Reason> {
        let mut tried: Vec<u64> = Vec::new();
        let (mut head, mut resent, mut only_fresh) = (head, 0, !self.route.keep_alive || self.upgrade);
        loop {
            let in_flight = self.choose(&tried)?;
            let backend = Arc::clone(&in_flight.0);
            let pooled = if only_fresh { None } else { Lease::pooled(self.worker, &backend, self.route.protocol) };
            let reused = pooled.is_some();
            let connected = match pooled {
                Some(lease) => Some(lease),
                None => self.connect(&backend, tried.len(), only_fresh, record).await,
            };
            let Some(mut lease) = connected else {
                tried.push(backend.id);
                continue;
            };
            record.in_flight = Some(in_flight);
            record.used_connection(reused);
            let repeatable = resent < RESENDS
                && !self.upgrade
                && (is_idempotent(&head.method) || self.route.protocol == BackendProtocol::H2c);
            let spare = (repeatable && !self.upload.is_started()).then(|| head.clone());
            // A request that a stopped process has may be carried out when it goes on, after newer ones: only what changes
            // nothing is sent elsewhere meanwhile.
            let movable = spare.is_some() && head.method.is_safe();
            let failure = match self.send(&mut lease, head, (&backend, &tried, movable)).await {
                Ok(response) => {
                    backend.succeeded();
                    self.worker.pulse.note(Activity::Response);
                    record.answered();
                    return Ok((response, Answered { address: backend.address, lease }));
                }
                Err(failure) => failure,
            };
            if let Some(failure) = self.upload.failure() {
                return Err(self.client_failed(failure, &backend));
            }
            // A refusal of one request says nothing against its backend.
            if let NoResponse::Stuck = failure {
                tried.push(backend.id);
            } else if !reused && !matches!(failure, NoResponse::Refused(_)) {
                backend.failed(true);
                tried.push(backend.id);
            }
            let method = spare.as_ref().map(|spare| &spare.method);
            // What was never looked at is sent again, and so is what changes nothing when it comes twice. Both on a new
            // connection.
            let may_repeat = match &failure {
                NoResponse::Refused(_) | NoResponse::Stuck => true,
                NoResponse::Unsent { .. } | NoResponse::Broken(_) => method.is_some_and(is_idempotent),
                NoResponse::Silent | NoResponse::Switched => false,
            };
            let text = with_causes(&failure);
            let again = spare.filter(|_| may_repeat && !self.upload.is_started());
            head = match (again, failure) {
                (Some(spare), _) => spare,
                (None, NoResponse::Unsent { request, .. }) if reused => request.into_parts().0,
                (None, _) => {
                    self.give_up(&backend, &text, resent, 503);
                    return Err(Reason::Unavailable);
                }
            };
            // One that carries many requests is not left for the failure of one of them.
            (resent, only_fresh) = (resent + 1, self.route.protocol == BackendProtocol::Http1 || only_fresh);
            self.worker.shared.metrics.requests_resent.inc();
        }
    }

    /// The request's body did not come as it should.
    fn client_failed(&self, failure: UploadFailure, backend: &Backend) -> Reason {
        let ended = &self.worker.shared.metrics.clients_ended;
        let (reason, err) = match failure {
            UploadFailure::Broken => (Reason::ClientGone, "the client went away"),
            UploadFailure::TooLarge => {
                ended.large_body.inc();
                (Reason::BodyTooLarge, "the body is longer than the route allows")
            }
            UploadFailure::TooSlow => {
                ended.slow_body.inc();
                (Reason::BodyTooSlow, "the body came too slowly")
            }
        };
        self.give_up(backend, err, 0, reason.status().as_u16());
        reason
    }

    fn give_up(&self, backend: &Backend, err: &str, attempt: usize, status: u16) {
        let (service, job_id) = (&*self.route.service.name, &*backend.instance.job_id);
        warn!(service, job.id = job_id, addr = %backend.address, err, attempt, status, "unretriable request error");
    }

    /// The next backend to try.
    fn choose(&self, tried: &[u64]) -> Result<InFlight, Reason> {
        // An upgrade may try all there are.
        if !self.upgrade && tried.len() >= self.worker.shared.settings.limits.attempts {
            return Err(Reason::Unavailable);
        }
        self.route.service.choose(self.route.leader, self.pinned, tried).ok_or(Reason::Unavailable)
    }

    async fn connect(&self, backend: &Arc<Backend>, attempt: usize, own: bool, record: &mut Record) -> Option<Lease> {
        match Lease::open(self.worker, backend, self.route.protocol, own).await {
            Ok(lease) => {
                record.connected();
                Some(lease)
            }
            Err(err) => {
                backend.failed(false);
                self.worker.shared.metrics.dials_failed.inc();
                let (service, job_id) = (&*self.route.service.name, &*backend.instance.job_id);
                warn!(service, job.id = job_id, addr = %backend.address, %err, attempt, "retriable dial error");
                None
            }
        }
    }

    /// Ends when the backend hangs, and another one does not; for requests that may move there.
    async fn others_are_better(&self, backend: &Arc<Backend>, tried: &[u64], movable: bool) {
        let limits = &self.worker.shared.settings.limits;
        if !movable || limits.backend_silence.is_zero() || limits.backend_silence >= limits.response_head {
            return std::future::pending().await;
        }
        tokio::time::sleep(limits.backend_silence).await;
        loop {
            hangs(backend, limits).await;
            if self.route.service.has_other(self.route.leader, tried, backend.id) {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Ends when the response is overdue. The limit begins whenever the backend has taken something of the request, which
    /// may take as long as its client likes.
    async fn overdue(&self, limit: Duration) {
        let mut end = Instant::now() + limit;
        loop {
            tokio::time::sleep_until(end).await;
            end = self.upload.backend_since().unwrap_or_else(Instant::now) + limit;
            if end <= Instant::now() {
                return;
            }
        }
    }

    /// Sends the request and waits for the head of its response.
    async fn send(
        &self,
        lease: &mut Lease,
        mut head: Parts,
        (backend, tried, movable): (&Arc<Backend>, &[u64], bool),
    ) -> Result<Response<Incoming>, NoResponse> {
        if !self.route.keep_alive && !self.upgrade && self.route.protocol == BackendProtocol::Http1 {
            head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let limit = self.worker.shared.settings.limits.response_head;
        let mut response = pin!(lease.send(Request::from_parts(head, self.upload.body())));
        let response = tokio::select! {
            biased;
            response = response.as_mut() => response,
            () = self.overdue(limit) => return Err(NoResponse::Silent),
            () = self.others_are_better(backend, tried, movable) => return Err(NoResponse::Stuck),
        };
        match response {
            Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS && !self.upgrade => {
                Err(NoResponse::Switched)
            }
            Ok(response) => Ok(response),
            Err(mut err) => match err.take_message() {
                Some(request) => Err(NoResponse::Unsent { request: Box::new(request), source: err.into_error() }),
                None => Err(broken(err.into_error())),
            },
        }
    }
}

/// Tells what a backend of HTTP/2 did not even look at from what it may have done.
fn broken(err: hyper::Error) -> NoResponse {
    let is_refused = std::iter::successors(std::error::Error::source(&err), |err| err.source())
        .filter_map(|err| err.downcast_ref::<h2::Error>())
        .any(|err| err.reason() == Some(h2::Reason::REFUSED_STREAM));
    if is_refused { NoResponse::Refused(err) } else { NoResponse::Broken(err) }
}

/// Whether a request that comes twice does the same as one that comes once (RFC 9110 section 9.2.2).
fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE].contains(method)
}
