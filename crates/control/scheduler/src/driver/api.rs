//! What a scheduler serves (spec scheduler-and-deployer sections 2 and 4.1): that it is there, and what it knows.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use flynn_http::{Failure, with_text_fallbacks};
use flynn_types::error::ApiError;
use serde_json::json;

use super::Handle;

/// The routes, of a program of this version.
pub fn router(handle: Handle, version: &str) -> Router {
    // Always well: what it cannot do at the moment it does as soon as it can.
    let status = json!({ "data": { "status": "healthy", "version": version } });
    let routes = Router::new()
        .route("/.well-known/status", get(async move || Json(status)))
        .route("/debug/state", get(state))
        .with_state(handle);
    with_text_fallbacks(routes)
}

async fn state(State(handle): State<Handle>) -> Response {
    match handle.state().await {
        Some(state) => Json(state).into_response(),
        None => Failure(ApiError::unavailable("the scheduler is ending")).into_response(),
    }
}
