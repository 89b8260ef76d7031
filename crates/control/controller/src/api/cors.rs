//! Calls from browsers (spec controller-api section 3.2).

use axum::extract::{Request, State};
use axum::http::header::{self, HeaderMap};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::shared::Shared;

const METHODS: HeaderValue = HeaderValue::from_static("GET,POST,PUT,PATCH,DELETE,HEAD");
const HEADERS: HeaderValue =
    HeaderValue::from_static("Auth-Key,Authorization,Accept,Content-Type,If-Match,If-None-Match,X-GRPC-Web");
const EXPOSED: HeaderValue = HeaderValue::from_static("ETag,Content-Disposition");

pub(super) async fn cors(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let allowed = origin.filter(|origin| is_allowed(shared.config.cors_origins.as_deref(), origin));
    let Some(origin) = allowed else { return next.run(request).await };
    let mut response =
        if request.method() == Method::OPTIONS { StatusCode::OK.into_response() } else { next.run(request).await };
    allow(response.headers_mut(), origin);
    response
}

fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("3600"));
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
}

fn is_allowed(origins: Option<&[String]>, origin: &HeaderValue) -> bool {
    let Some(patterns) = origins else { return true };
    origin.to_str().is_ok_and(|origin| patterns.iter().any(|pattern| glob(pattern.as_bytes(), origin.as_bytes())))
}

/// `*` stands for anything, `?` for one character.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => (0..=text.len()).any(|skipped| glob(rest, &text[skipped..])),
        (Some((b'?', pattern)), Some((_, text))) => glob(pattern, text),
        (Some((expected, pattern)), Some((byte, text))) => expected.eq_ignore_ascii_case(byte) && glob(pattern, text),
        (Some(_), None) | (None, Some(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_may_have_wildcards() {
        let patterns = ["https://*.example.com".to_owned(), "http://local?".to_owned()];
        for (origin, allowed) in [
            ("https://a.example.com", true),
            ("https://a.b.example.com", true),
            ("https://example.com", false),
            ("https://a.example.com.evil.org", false),
            ("http://local1", true),
            ("http://local", false),
        ] {
            assert_eq!(is_allowed(Some(&patterns), &HeaderValue::from_static(origin)), allowed, "{origin}");
            assert!(is_allowed(None, &HeaderValue::from_static(origin)));
        }
    }
}
