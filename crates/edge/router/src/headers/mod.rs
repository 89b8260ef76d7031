//! What becomes of headers on their way through (spec router sections 10.2 and 10.5). Pure.

mod forward;
mod request_id;
mod trailers;

pub(crate) use forward::{Claims, Via, fold_cookies, rewrite_request, rewrite_response};
pub(crate) use request_id::is_acceptable as is_acceptable_request_id;
pub(crate) use trailers::strip_trailers;

use http::header::CONNECTION;
use http::{HeaderMap, HeaderName};

pub(crate) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(crate) const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const X_REQUEST_START: HeaderName = HeaderName::from_static("x-request-start");

/// Tokens of all `Connection` lines, without blanks and empty items.
pub(crate) fn connection_tokens(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(CONNECTION).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

/// Whether `Connection` asks for another protocol.
pub(crate) fn wants_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(CONNECTION) && connection_tokens(headers).any(|token| token.eq_ignore_ascii_case("upgrade"))
}

#[cfg(test)]
mod tests;
