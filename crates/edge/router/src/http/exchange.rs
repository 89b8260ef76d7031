//! A request from its head to the head of its response.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, LOCATION};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;

use crate::guard::{Busy, Conversation, MAX_FIELDS, REFUSED_METHOD, Refusal};
use crate::headers::{X_REQUEST_ID, is_acceptable_request_id};
use crate::http::Origin;
use crate::http::body::ResponseBody;
use crate::http::page::{HEALTH_PATH, Reason, page};
use crate::http::record::{Line, Record};
use crate::http::relay::relay;
use crate::http::secure::{STRICT_TRANSPORT_SECURITY, redirect};
use crate::http::stalls::Stalls;
use crate::route::HttpRoute;
use crate::table::{DEFAULT_PORTS, host_name};
use crate::watchdog::Activity;
use crate::worker::Worker;

/// What the requests of a connection share.
pub(crate) struct Exchange {
    pub(crate) worker: Rc<Worker>,
    pub(crate) origin: Rc<Origin>,
    pub(crate) conversation: Arc<Conversation>,
    /// Of HTTP/2 only.
    pub(crate) stalls: Option<Rc<Stalls>>,
}

/// Answers a request. Nothing fails: what cannot be relayed gets a page that says so.
pub(crate) async fn answer(exchange: &Exchange, request: Request<Incoming>) -> Response<ResponseBody> {
    exchange.worker.pulse.note(Activity::Request);
    let busy = exchange.conversation.request();
    let version = request.version();
    let mut response = match decide(exchange, &request) {
        Decision::Page(reason) => exchange.own_answer(reason, None, &request, busy),
        Decision::Maintenance(route) => exchange.own_answer(Reason::Maintenance, Some(&route), &request, busy),
        Decision::Challenge(answer) => {
            text(StatusCode::OK, answer, request_id(request.headers())).map(|answer| ResponseBody::page(answer, busy))
        }
        Decision::Redirect(route, location) => {
            let id = request_id(request.headers());
            let line = exchange.line(&route, &request).map(|line| Box::new(Line { request_id: id.clone(), ..*line }));
            let mut response = text(StatusCode::PERMANENT_REDIRECT, Bytes::new(), id);
            response.headers_mut().insert(LOCATION, location);
            Record::new(&route.metrics, None, line).status = response.status();
            response.map(|empty| ResponseBody::page(empty, busy))
        }
        Decision::Relay(route) => {
            let mut response = relay(exchange, &route, request, busy).await;
            if let Some(hsts) = route.hsts.as_ref().filter(|_| exchange.origin.is_tls()) {
                // A backend that says it itself knows better.
                response.headers_mut().entry(STRICT_TRANSPORT_SECURITY).or_insert_with(|| hsts.clone());
            }
            response
        }
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
    Maintenance(Arc<HttpRoute>),
    /// The answer to an authority that verifies a domain.
    Challenge(Bytes),
    /// To HTTPS, where the route wants all requests.
    Redirect(Arc<HttpRoute>, HeaderValue),
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
    if request.version() == Version::HTTP_2
        && let Some(refusal) = refusal_of_http2(request)
    {
        shared.metrics.requests_refused.inc();
        return Decision::Page(Reason::Refused(refusal));
    }
    if request.method() == Method::OPTIONS && request.uri().path() == "*" {
        return Decision::Page(Reason::OptionsOfRouter);
    }
    let host = host(request);
    let path = request.uri().path();
    let snapshot = shared.snapshot.load();
    let name = host_name(host);
    if let Some(answer) = snapshot.challenges.text(&name, path) {
        return Decision::Challenge(answer.clone());
    }
    if let Some(route) = snapshot.table.find(exchange.origin.port_key, &name, path) {
        if route.maintenance {
            return Decision::Maintenance(Arc::clone(route));
        }
        return match redirect_to(exchange, route, request, host) {
            Some(location) => Decision::Redirect(Arc::clone(route), location),
            None => Decision::Relay(Arc::clone(route)),
        };
    }
    if path == HEALTH_PATH {
        let healthy = snapshot.synced && !shared.is_draining();
        return Decision::Page(if healthy { Reason::Healthy } else { Reason::Unhealthy });
    }
    shared.metrics.requests_unrouted.inc();
    Decision::Page(Reason::NoRoute)
}

/// What is wrong with a request that h2 takes for sound, and that would be refused over HTTP/1.
fn refusal_of_http2(request: &Request<Incoming>) -> Option<Refusal> {
    let headers = request.headers();
    // Cookies come in many fields and leave as one.
    let cookies = headers.get_all(COOKIE).iter().count();
    if headers.len() - cookies > MAX_FIELDS {
        return Some(Refusal::HeadTooLarge);
    }
    let authority = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    let mut hosts = headers.get_all(HOST).iter();
    match (authority, hosts.next(), hosts.next()) {
        (None, None, _) => Some(Refusal::NoHost),
        (_, Some(_), Some(_)) => Some(Refusal::Malformed("Host is given twice")),
        (Some(authority), Some(host), None) if !authority.eq_ignore_ascii_case(host.as_bytes()) => {
            Some(Refusal::Malformed("Host is other than :authority"))
        }
        _ => None,
    }
}

/// Where a request is sent that should have come by HTTPS. Additional ports have no counterpart.
fn redirect_to(exchange: &Exchange, route: &HttpRoute, request: &Request<Incoming>, host: &str) -> Option<HeaderValue> {
    if !route.https_redirect || exchange.origin.is_tls() || exchange.origin.port_key != DEFAULT_PORTS {
        return None;
    }
    let https_port = exchange.worker.shared.https_port.get().copied().unwrap_or(443);
    redirect(host, request.uri().path_and_query().map_or("/", |path| path.as_str()), https_port)
}

/// A small response of plain text.
fn text(status: StatusCode, body: Bytes, request_id: HeaderValue) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let length = response.body().len();
    let headers = response.headers_mut();
    if length > 0 {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(X_REQUEST_ID, request_id);
    response
}

/// The host of a request as the client wrote it: the target's, where that has one, else that of the header.
pub(super) fn host<B>(request: &Request<B>) -> &str {
    match request.uri().authority() {
        Some(authority) => without_user(authority.as_str()),
        None => request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
    }
}

/// An authority without the name of a user.
pub(super) fn without_user(authority: &str) -> &str {
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
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
    /// Answers without asking a backend. What was refused before it was understood has no line in the access log.
    fn own_answer(
        &self,
        reason: Reason,
        route: Option<&HttpRoute>,
        request: &Request<Incoming>,
        busy: Busy,
    ) -> Response<ResponseBody> {
        let id = request_id(request.headers());
        let nobody = || Arc::from("");
        let is_told = self.worker.shared.settings.access_log && !matches!(reason, Reason::Refused(_));
        let service = route.map_or_else(nobody, |route| Arc::clone(&route.service.name));
        let line = is_told.then(|| Line { request_id: id.clone(), ..Line::new(self, &service, request) });
        match (route, line) {
            (Some(route), line) => {
                let mut record = Record::new(&route.metrics, None, line.map(Box::new));
                record.status = reason.status();
            }
            (None, Some(line)) => line.write(reason.status(), None, (0, 0), Duration::ZERO),
            (None, None) => {}
        }
        self.page(reason, request.headers().get(ACCEPT), &id, busy)
    }

    /// What the access log tells of a request, if there is one.
    pub(super) fn line(&self, route: &HttpRoute, request: &Request<Incoming>) -> Option<Box<Line>> {
        let is_told = self.worker.shared.settings.access_log;
        is_told.then(|| Box::new(Line::new(self, &route.service.name, request)))
    }

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
