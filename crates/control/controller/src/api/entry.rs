//! What every request passes first (spec controller-api section 2): the end of the process, `/ping`, credentials.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use flynn_types::error::{ApiError, ErrorCode};

use super::audit;
use crate::auth;
use crate::error::Error;
use crate::shared::Shared;

/// Who asks, as other components are told. What clients send under these names is never believed (A11).
const IDENTITY_HEADERS: [&str; 2] = ["flynn-auth-id", "flynn-auth-user"];

/// For requests that hosts, providers and stores of images have a part in.
const LONG_LIMIT: Duration = Duration::from_secs(900);

pub(super) async fn enter(State(shared): State<Shared>, mut request: Request, next: Next) -> Response {
    if shared.shutdown.is_cancelled() {
        return Error::from(ApiError::unavailable("controller: shutting down")).into_response();
    }
    let path = request.uri().path().to_owned();
    if path == "/ping" {
        return StatusCode::OK.into_response();
    }
    for name in IDENTITY_HEADERS {
        request.headers_mut().remove(name);
    }
    // The authority's certificate is public, a wrong key is still one (A5).
    if path == "/ca-cert" && request.method() == Method::GET && !auth::has_password(request.headers()) {
        return next.run(request).await;
    }
    let Some(identity) = auth::identify(&shared.config, request.headers(), chrono::Utc::now()) else {
        return StatusCode::UNAUTHORIZED.into_response();
    };
    if !identity.may(request.method(), &path) {
        return forbidden().into_response();
    }
    let limit = limit(&shared, request.method(), &path);
    let answer = async {
        if shared.config.audit { audit::answer(identity, request, next).await } else { next.run(request).await }
    };
    // Its connections go with it: a database whose host is gone says nothing.
    let answer = tokio::time::timeout(limit, answer).await;
    answer.unwrap_or_else(|_| {
        let text = format!("not done within {} seconds: the database does not answer", limit.as_secs());
        Error::from(ApiError::unavailable(text)).into_response()
    })
}

/// How long it may take until a request is answered, or its stream begins.
fn limit(shared: &Shared, method: &Method, path: &str) -> Duration {
    let waits_for_others = ["/jobs", "/artifacts", "/resources"].iter().any(|end| path.ends_with(end));
    let deletes = *method == Method::DELETE && (path.contains("/resources/") || path.contains("/jobs/"));
    if (waits_for_others && *method == Method::POST) || deletes { LONG_LIMIT } else { shared.config.request_limit }
}

fn forbidden() -> Error {
    let text = "this credential is not allowed to perform this operation on the controller";
    ApiError::new(ErrorCode::Other("forbidden".into()), text).into()
}
