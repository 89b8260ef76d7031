//! A request from its head to the head of its response.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use hyper::body::Incoming;

use crate::guard::{Busy, Conversation, REFUSED_METHOD};
use crate::headers::{X_REQUEST_ID, is_acceptable_request_id};
use crate::http::Origin;
use crate::http::body::ResponseBody;
use crate::http::page::{HEALTH_PATH, Reason, page};
use crate::http::relay::relay;
use crate::route::HttpRoute;
use crate::table::host_name;
use crate::watchdog::Activity;
use crate::worker::Worker;

/// What the requests of a connection share.
pub(crate) struct Exchange {
    pub(crate) worker: Rc<Worker>,
    pub(crate) origin: Rc<Origin>,
    pub(crate) conversation: Arc<Conversation>,
}

/// Answers a request. Nothing fails: what cannot be relayed gets a page that says so.
pub(crate) async fn answer(exchange: &Exchange, request: Request<Incoming>) -> Response<ResponseBody> {
    exchange.worker.pulse.note(Activity::Request);
    let busy = exchange.conversation.request();
    let version = request.version();
    let mut response = match decide(exchange, &request) {
        Decision::Page(reason) => {
            let id = request_id(request.headers());
            exchange.page(reason, request.headers().get(ACCEPT), &id, busy)
        }
        Decision::Relay(route) => relay(exchange, &route, request, busy).await,
    };
    if version < Version::HTTP_2 && exchange.worker.shared.is_draining() && response.status() != 101 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if version == Version::HTTP_2 {
        // Of the pages; HTTP/2 knows no such header.
        response.headers_mut().remove(CONNECTION);
    }
    response
}

enum Decision {
    Page(Reason),
    Relay(Arc<HttpRoute>),
}

/// What is to be done with a request.
fn decide(exchange: &Exchange, request: &Request<Incoming>) -> Decision {
    let shared = &exchange.worker.shared;
    match request.method().as_str() {
        REFUSED_METHOD if request.version() < Version::HTTP_2 => {
            shared.metrics.requests_refused.inc();
            return Decision::Page(Reason::Refused(exchange.conversation.refusal()));
        }
        "CONNECT" => return Decision::Page(Reason::NoTunnels),
        _ => {}
    }
    if request.method() == Method::OPTIONS && request.uri().path() == "*" {
        return Decision::Page(Reason::OptionsOfRouter);
    }
    let host = host(request);
    let path = request.uri().path();
    let snapshot = shared.snapshot.load();
    if let Some(route) = snapshot.table.find(exchange.origin.port_key, &host_name(host), path) {
        return Decision::Relay(Arc::clone(route));
    }
    if path == HEALTH_PATH {
        let healthy = snapshot.synced && !shared.is_draining();
        return Decision::Page(if healthy { Reason::Healthy } else { Reason::Unhealthy });
    }
    shared.metrics.requests_unrouted.inc();
    Decision::Page(Reason::NoRoute)
}

/// The host of a request as the client wrote it: the target's, where that has one, else that of the header.
pub(super) fn host<B>(request: &Request<B>) -> &str {
    match request.uri().authority() {
        Some(authority) => authority.as_str().rsplit_once('@').map_or(authority.as_str(), |(_, host)| host),
        None => request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
    }
}

/// The client's request id when it is acceptable, else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    match headers.get(X_REQUEST_ID) {
        Some(id) if is_acceptable_request_id(id.as_bytes()) => id.clone(),
        _ => fresh_request_id(),
    }
}

/// A random UUID of version 4.
pub(super) fn fresh_request_id() -> HeaderValue {
    let uuid = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    HeaderValue::from_str(uuid.hyphenated().encode_lower(&mut text)).expect("a UUID is a header value")
}

impl Exchange {
    pub(super) fn page(
        &self,
        reason: Reason,
        accept: Option<&HeaderValue>,
        request_id: &HeaderValue,
        busy: Busy,
    ) -> Response<ResponseBody> {
        let unavailable = self.worker.shared.settings.unavailable_page.as_ref().map(|page| &page.0);
        page(reason, accept, request_id, unavailable).map(|bytes: Bytes| ResponseBody::page(bytes, busy))
    }
}
