//! A client's request head on its way to a backend.

use std::time::SystemTime;

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Uri, Version};
use hyper::body::Incoming;

use crate::headers::{fold_cookies, rewrite_request};
use crate::http::exchange::{Exchange, fresh_request_id, without_user};
use crate::route::BackendProtocol;

/// Headers that HTTP/2 forbids (RFC 9113 section 8.2.2).
const NOT_IN_HTTP2: [HeaderName; 5] = [
    CONNECTION,
    UPGRADE,
    TRANSFER_ENCODING,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Turns a client's request head into the backend's. Gives the request id.
pub(super) fn make_head(
    head: &mut Parts,
    exchange: &Exchange,
    body: &Incoming,
    protocol: BackendProtocol,
) -> HeaderValue {
    use http_body::Body as _;
    let target = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    if let Some(authority) = head.uri.authority() {
        // A target with an authority is what was routed by, whatever Host says (RFC 9112 section 3.2.2).
        let authority = without_user(authority.as_str());
        let known = head.headers.get(HOST).is_some_and(|host| host.as_bytes() == authority.as_bytes());
        if !known && let Ok(host) = HeaderValue::from_str(authority) {
            head.headers.insert(HOST, host);
        }
    }
    if head.version == Version::HTTP_2 {
        head.uri = Uri::from(target.clone());
        fold_cookies(&mut head.headers);
    }
    head.version = Version::HTTP_11;
    head.extensions.clear();
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let unix_ms = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
    let request_id = rewrite_request(&mut head.headers, &exchange.origin.via, unix_ms, fresh_request_id);
    match protocol {
        BackendProtocol::H2c => make_http2(head, target),
        BackendProtocol::Http1 if !body.is_end_stream() && !head.headers.contains_key(CONTENT_LENGTH) => {
            // Otherwise hyper takes a GET for one without a body.
            head.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        BackendProtocol::Http1 => {}
    }
    request_id
}

fn make_http2(head: &mut Parts, target: PathAndQuery) {
    strip_for_http2(&mut head.headers);
    let host = head.headers.remove(HOST);
    let authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    // A client of HTTP/1.0 need not say a host; HTTP/2 has no request without one.
    let authority = authority.unwrap_or_else(|| Authority::from_static("localhost"));
    let uri = Uri::builder().scheme(Scheme::HTTP).authority(authority).path_and_query(target);
    head.uri = uri.build().unwrap_or_else(|_| Uri::from_static("http://localhost/"));
    head.version = Version::HTTP_2;
}

/// Removes what HTTP/2 has no place for.
pub(super) fn strip_for_http2(headers: &mut HeaderMap) {
    for name in NOT_IN_HTTP2 {
        headers.remove(name);
    }
}
