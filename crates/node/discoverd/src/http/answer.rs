//! Answers.

use bytes::Bytes;
use flynn_types::error::ApiError;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{Either, Full};
use serde::Serialize;

use super::stream::EventBody;

pub(super) type Body = Either<Full<Bytes>, EventBody>;

/// What a request leads to.
pub(super) type Answer = Result<Response<Body>, ApiError>;

fn with_body(status: StatusCode, content_type: Option<&'static str>, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(body.into())));
    *response.status_mut() = status;
    if let Some(content_type) = content_type {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    response
}

/// 200 without a body: the success of most requests.
pub(super) fn done() -> Response<Body> {
    with_body(StatusCode::OK, None, Bytes::new())
}

pub(super) fn json(value: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(value).map_err(|err| ApiError::internal(format!("write the answer: {err}")))?;
    Ok(with_body(StatusCode::OK, Some("application/json"), body))
}

pub(super) fn pretty(status: StatusCode, value: &serde_json::Value) -> Response<Body> {
    with_body(status, Some("application/json; charset=utf-8"), format!("{value:#}\n"))
}

pub(super) fn error(err: &ApiError) -> Response<Body> {
    let status = StatusCode::from_u16(err.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if status == StatusCode::INTERNAL_SERVER_ERROR {
        tracing::error!(message = err.message, "request failed");
    }
    with_body(status, Some("application/json"), serde_json::to_vec(err).unwrap_or_default())
}

/// What Go's router says to unknown paths and methods.
pub(super) fn not_found() -> Response<Body> {
    with_body(StatusCode::NOT_FOUND, Some("text/plain; charset=utf-8"), "404 page not found\n")
}

/// A redirect with Go's texts.
pub(super) fn redirect(status: StatusCode, location: &str, is_get: bool) -> Response<Body> {
    let reason = status.canonical_reason().unwrap_or_default();
    let mut response = if is_get {
        let escaped = location.replace('&', "&amp;").replace('"', "&#34;").replace('<', "&lt;").replace('>', "&gt;");
        with_body(status, Some("text/html; charset=utf-8"), format!("<a href=\"{escaped}\">{reason}</a>.\n\n"))
    } else {
        with_body(status, None, Bytes::new())
    };
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}
