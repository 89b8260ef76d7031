//! Answers to paths and methods that a router does not know, as Go's routers give them.

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;

const TEXT: [(header::HeaderName, &str); 1] = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];

/// `404 page not found` as text.
pub async fn not_found() -> impl IntoResponse {
    (StatusCode::NOT_FOUND, TEXT, "404 page not found\n")
}

async fn method_not_allowed() -> impl IntoResponse {
    (StatusCode::METHOD_NOT_ALLOWED, TEXT, "Method Not Allowed\n")
}

/// Unknown paths are 404, wrong methods 405, both as text.
pub fn with_text_fallbacks<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    router.fallback(not_found).method_not_allowed_fallback(method_not_allowed)
}
