//! The router's own API (spec router section 3): status, events, metrics. Plain HTTP, for the cluster only.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flynn_telemetry::{METRICS_CONTENT_TYPE, Metrics};
use futures_util::StreamExt as _;
use serde::Deserialize;

use crate::shared::Shared;

#[derive(Clone)]
struct Api {
    shared: Arc<Shared>,
    metrics: Metrics,
    version: Arc<str>,
}

pub(crate) fn api(shared: Arc<Shared>, metrics: Metrics, version: &str) -> Router {
    Router::new()
        .route("/.well-known/status", get(status))
        .route("/metrics", get(figures))
        .route("/events", get(events))
        // Bootstrap takes a 404 for the sign that the router is there.
        .fallback(not_found)
        .method_not_allowed_fallback(not_found)
        .with_state(Api { shared, metrics, version: version.into() })
}

async fn status(State(api): State<Api>) -> Response {
    let reason = trouble(&api.shared);
    let mut data = serde_json::json!({
        "status": if reason.is_none() { "healthy" } else { "unhealthy" },
        "version": &*api.version,
    });
    let status = if reason.is_none() { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    if let Some(reason) = reason {
        data["detail"] = serde_json::json!({ "reason": reason });
    }
    let text = serde_json::to_string_pretty(&serde_json::json!({ "data": data })).unwrap_or_default() + "\n";
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// What an operator should know, if anything.
fn trouble(shared: &Shared) -> Option<String> {
    if !shared.snapshot.load().synced {
        return Some("the routes are not known yet".into());
    }
    if shared.is_draining() {
        return Some("the router is ending".into());
    }
    let absent = shared.contact.lost_for().filter(|lost| *lost >= shared.settings.limits.controller_absence)?;
    Some(format!("no controller has answered for {} s: routes may be old", absent.as_secs()))
}

async fn figures(State(api): State<Api>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, METRICS_CONTENT_TYPE)], api.metrics.encode())
}

#[derive(Deserialize)]
struct Wanted {
    /// Names of events, with commas between.
    #[serde(default)]
    types: String,
}

/// Events of the kinds that are asked for; without any there are only keep-alives.
async fn events(State(api): State<Api>, Query(wanted): Query<Wanted>) -> Response {
    let wanted: Vec<String> = wanted.types.split(',').map(|name| name.trim().to_owned()).collect();
    let events = api.shared.events.subscribe();
    let asked = events.filter(move |event| std::future::ready(wanted.iter().any(|name| name == event.event.as_str())));
    flynn_http::sse_every(asked.map(Ok::<_, Infallible>), api.shared.settings.limits.event_keep_alive)
}

async fn not_found() -> impl IntoResponse {
    (StatusCode::NOT_FOUND, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], "404 page not found\n")
}
