//! Relaying a request to a backend: choosing one, trying again where that is safe, and what the client gets back.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{ACCEPT, CONNECTION, CONTENT_LENGTH, HOST, SET_COOKIE, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;
use tracing::warn;

use crate::backend::{LOOK, Sender, Upload, UploadBody, hangs, open};
use crate::cookie;
use crate::guard::Busy;
use crate::headers::{fold_cookies, rewrite_request, rewrite_response, wants_upgrade};
use crate::http::body::{Relayed, ResponseBody};
use crate::http::exchange::{Exchange, fresh_request_id};
use crate::http::page::Reason;
use crate::http::record::{Line, Record};
use crate::http::tunnel::copy_both_ways;
use crate::route::HttpRoute;
use crate::service::{Backend, InFlight};
use crate::watchdog::Activity;
use crate::worker::Worker;

/// Requests that were sent and not answered are sent again so many times.
const RESENDS: usize = 2;

/// Headers that HTTP/2 forbids (RFC 9113 section 8.2.2).
const NOT_IN_HTTP2: [HeaderName; 4] =
    [CONNECTION, UPGRADE, HeaderName::from_static("keep-alive"), HeaderName::from_static("proxy-connection")];

/// Relays a request and gives what the client gets.
pub(super) async fn relay(
    exchange: &Exchange,
    route: &Arc<HttpRoute>,
    mut request: Request<Incoming>,
    busy: Busy,
) -> Response<ResponseBody> {
    let settings = &exchange.worker.shared.settings;
    let http2 = request.version() == Version::HTTP_2;
    // HTTP/1.0 and HTTP/2 have no upgrades.
    let upgrade = request.version() == Version::HTTP_11 && wants_upgrade(request.headers());
    let client_upgrade = upgrade.then(|| hyper::upgrade::on(&mut request));
    let line = exchange.line(route, &request);
    let pinned = match route.sticky {
        true => cookie::find(request.headers()).and_then(|value| settings.cookie_key.open(value)),
        false => None,
    };
    let (mut head, incoming) = request.into_parts();
    let request_id = make_head(&mut head, exchange, &incoming);
    let upload = Upload::new(incoming);
    let line = line.map(|line| Box::new(Line { request_id: request_id.clone(), ..*line }));
    let mut record = Record::new(&route.metrics, Some(Rc::clone(&upload)), line);
    let accept = head.headers.get(ACCEPT).cloned();
    let attempt = Attempts { worker: &exchange.worker, route, upload: &upload, pinned, upgrade };
    let (mut response, answered) = match attempt.run(head, &mut record).await {
        Ok(answered) => answered,
        Err(reason) => {
            record.status = reason.status();
            return exchange.page(reason, accept.as_ref(), &request_id, busy);
        }
    };
    let pinned_to = (route.sticky && pinned != Some(answered.address)).then_some(answered.address);
    *response.version_mut() = Version::HTTP_11;
    rewrite_response(response.headers_mut());
    if let Some(address) = pinned_to {
        response.headers_mut().append(SET_COOKIE, cookie::set_cookie(&settings.cookie_key.seal(address)));
    }
    record.status = response.status();
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let client = client_upgrade.expect("a response that nobody asked to switch is none");
        let backend = hyper::upgrade::on(&mut response);
        open_tunnel(&exchange.worker, client, backend, record);
        return response.map(|_empty| ResponseBody::page(bytes::Bytes::new(), busy));
    }
    if upgrade {
        // Bytes behind the request were not looked at: no other request can follow.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if http2 {
        for name in NOT_IN_HTTP2 {
            response.headers_mut().remove(name);
        }
    }
    let connection = (route.keep_alive && !upgrade).then(|| (Rc::clone(&exchange.worker), answered.sender));
    response.map(|incoming| ResponseBody::relayed(Relayed { incoming, record, connection }, busy))
}

/// Turns a client's request head into the backend's. Gives the request id.
fn make_head(head: &mut Parts, exchange: &Exchange, body: &Incoming) -> HeaderValue {
    use http_body::Body as _;
    if head.version == Version::HTTP_2 {
        if let Some(authority) = head.uri.authority()
            && let Ok(host) = HeaderValue::from_str(authority.as_str())
        {
            head.headers.insert(HOST, host);
        }
        let target = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        head.uri = Uri::from(target);
        fold_cookies(&mut head.headers);
    }
    head.version = Version::HTTP_11;
    head.extensions.clear();
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let unix_ms = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
    let request_id = rewrite_request(&mut head.headers, &exchange.origin.via, unix_ms, fresh_request_id);
    if !body.is_end_stream() && !head.headers.contains_key(CONTENT_LENGTH) {
        // Otherwise hyper takes a GET for one without a body.
        head.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    request_id
}

/// Trying backends for one request.
struct Attempts<'a> {
    worker: &'a Rc<Worker>,
    route: &'a HttpRoute,
    upload: &'a Rc<Upload>,
    pinned: Option<SocketAddr>,
    upgrade: bool,
}

/// Who answered.
struct Answered {
    address: SocketAddr,
    sender: Sender,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
enum NoResponse {
    #[error("the connection had closed before the request was written")]
    Unsent { request: Box<Request<UploadBody>>, source: hyper::Error },
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
    async fn run(&self, head: Parts, record: &mut Record) -> Result<(Response<Incoming>, Answered), Reason> {
        let mut tried: Vec<u64> = Vec::new();
        let (mut head, mut resent, mut only_fresh) = (head, 0, !self.route.keep_alive || self.upgrade);
        loop {
            let in_flight = self.choose(&tried)?;
            let backend = Arc::clone(&in_flight.0);
            let pooled = if only_fresh { None } else { self.worker.pool.take(backend.id) };
            let reused = pooled.is_some();
            let connected = match pooled {
                Some(sender) => Some(sender),
                None => self.connect(&backend, tried.len()).await,
            };
            let Some(mut sender) = connected else {
                tried.push(backend.id);
                continue;
            };
            record.in_flight = Some(in_flight);
            record.used_connection(reused);
            let repeatable = resent < RESENDS && !self.upgrade && is_idempotent(&head.method);
            let spare = (repeatable && !self.upload.is_started()).then(|| head.clone());
            // A request that a stopped process has may be carried out when it goes on, after newer ones: only what changes
            // nothing is sent elsewhere meanwhile.
            let movable = spare.is_some() && head.method.is_safe();
            let failure = match self.send(&mut sender, head, (&backend, &tried, movable)).await {
                Ok(response) => {
                    backend.succeeded();
                    self.worker.pulse.note(Activity::Response);
                    return Ok((response, Answered { address: backend.address, sender }));
                }
                Err(failure) => failure,
            };
            if self.upload.has_failed() {
                return Err(Reason::ClientGone);
            }
            if let NoResponse::Stuck = failure {
                tried.push(backend.id);
            } else if !reused {
                backend.failed(true);
                tried.push(backend.id);
            }
            // What was never written on a connection that had just become stale is sent again, and so is what changes
            // nothing when it comes twice. Both on a new connection.
            let again = match (&failure, spare) {
                (NoResponse::Unsent { .. } | NoResponse::Broken(_) | NoResponse::Stuck, Some(spare))
                    if !self.upload.is_started() =>
                {
                    Some(spare)
                }
                _ => None,
            };
            let text = with_sources(&failure);
            head = match (again, failure) {
                (Some(spare), _) => spare,
                (None, NoResponse::Unsent { request, .. }) if reused => request.into_parts().0,
                (None, _) => {
                    let (service, job_id) = (&*self.route.service.name, &*backend.instance.job_id);
                    warn!(service, job.id = job_id, addr = %backend.address, err = text, attempt = resent, status = 503,
                        "unretriable request error");
                    return Err(Reason::Unavailable);
                }
            };
            (resent, only_fresh) = (resent + 1, true);
            self.worker.shared.metrics.requests_resent.inc();
        }
    }

    /// The next backend to try.
    fn choose(&self, tried: &[u64]) -> Result<InFlight, Reason> {
        // An upgrade may try all there are.
        if !self.upgrade && tried.len() >= self.worker.shared.settings.limits.attempts {
            return Err(Reason::Unavailable);
        }
        self.route.service.choose(self.route.leader, self.pinned, tried).ok_or(Reason::Unavailable)
    }

    async fn connect(&self, backend: &Backend, attempt: usize) -> Option<Sender> {
        match open(backend.address, self.worker.shared.settings.limits.dial).await {
            Ok(sender) => Some(sender),
            Err(err) => {
                backend.failed(false);
                self.worker.shared.metrics.dials_failed.inc();
                let (service, job_id) = (&*self.route.service.name, &*backend.instance.job_id);
                warn!(service, job.id = job_id, addr = %backend.address, %err, attempt, "retriable dial error");
                None
            }
        }
    }

    /// Waits until waiting for a response makes no more sense.
    async fn patience(&self, backend: &Arc<Backend>, tried: &[u64], movable: bool) -> NoResponse {
        let limits = &self.worker.shared.settings.limits;
        if movable && !limits.backend_silence.is_zero() && limits.backend_silence < limits.response_head {
            tokio::time::sleep(limits.backend_silence).await;
            tokio::select! {
                () = self.others_are_better(backend, tried) => return NoResponse::Stuck,
                () = self.overdue(limits.response_head) => {}
            }
        } else {
            self.overdue(limits.response_head).await;
        }
        NoResponse::Silent
    }

    /// Ends when the backend hangs, and another one does not.
    async fn others_are_better(&self, backend: &Arc<Backend>, tried: &[u64]) {
        loop {
            hangs(backend, &self.worker.shared.settings.limits).await;
            if self.route.service.has_other(self.route.leader, tried, backend.id) {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Ends when the response is overdue. The limit begins when the request has been passed on, which may take as long
    /// as it likes.
    async fn overdue(&self, limit: Duration) {
        let deadline = || self.upload.ended().unwrap_or_else(Instant::now) + limit;
        let mut end = deadline();
        loop {
            tokio::time::sleep_until(end).await;
            end = deadline();
            if end <= Instant::now() {
                return;
            }
        }
    }

    /// Sends the request and waits for the head of its response.
    async fn send(
        &self,
        sender: &mut Sender,
        mut head: Parts,
        (backend, tried, movable): (&Arc<Backend>, &[u64], bool),
    ) -> Result<Response<Incoming>, NoResponse> {
        if !self.route.keep_alive && !self.upgrade {
            head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let mut response = pin!(sender.try_send_request(Request::from_parts(head, self.upload.body())));
        let response = tokio::select! {
            biased;
            response = response.as_mut() => response,
            reason = self.patience(backend, tried, movable) => return Err(reason),
        };
        match response {
            Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS && !self.upgrade => {
                Err(NoResponse::Switched)
            }
            Ok(response) => Ok(response),
            Err(mut err) => match err.take_message() {
                Some(request) => Err(NoResponse::Unsent { request: Box::new(request), source: err.into_error() }),
                None => Err(NoResponse::Broken(err.into_error())),
            },
        }
    }
}

/// Whether a request that comes twice does the same as one that comes once (RFC 9110 section 9.2.2).
fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE].contains(method)
}

/// An error with its sources, in one line.
fn with_sources(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut source = err.source();
    while let Some(err) = source {
        text = format!("{text}: {err}");
        source = err.source();
    }
    text
}

/// Joins both connections once they have left HTTP. The tunnel counts as in flight until both sides have ended.
fn open_tunnel(worker: &Rc<Worker>, client: OnUpgrade, backend: OnUpgrade, mut record: Record) {
    let shared = Arc::clone(&worker.shared);
    let tunnel = async move {
        shared.metrics.tunnels.inc();
        if let Ok((client, backend)) = futures_util::try_join!(client, backend) {
            let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
            let copying = copy_both_ways(&mut client, &mut backend);
            if let Some(Ok((received, sent))) = shared.cut_off.run_until_cancelled(copying).await {
                record.tunnelled(received, sent);
            }
        }
        shared.metrics.tunnels.dec();
    };
    tokio::task::spawn_local(worker.tasks.track_future(tunnel));
}
