//! The HTTP API: a file per resource.

mod app;
mod artifact;
mod attach;
mod cluster;
mod cors;
mod deployment;
mod entry;
mod event;
mod follow;
mod formation;
mod job;
mod log;
mod managed_certificate;
mod release;
mod resource;
mod route;
mod sink;
mod status;
mod volume;

use axum::Router;
use axum::extract::Request;
use axum::http::{Method, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;

use crate::shared::Shared;

/// All endpoints, behind credentials and within CORS.
pub(crate) fn router(shared: Shared) -> Router {
    let routes = Router::new()
        .merge(app::routes())
        .merge(artifact::routes())
        .merge(cluster::routes())
        .merge(deployment::routes())
        .merge(event::routes())
        .merge(formation::routes())
        .merge(job::routes())
        .merge(log::routes())
        .merge(managed_certificate::routes())
        .merge(release::routes())
        .merge(resource::routes())
        .merge(route::routes())
        .merge(sink::routes())
        .merge(volume::routes())
        .route("/.well-known/status", get(status::status))
        .route("/ca-cert", get(status::ca_cert))
        .fallback(unknown)
        .method_not_allowed_fallback(unknown);
    routes
        .layer(middleware::from_fn_with_state(shared.clone(), entry::enter))
        .layer(middleware::from_fn_with_state(shared.clone(), cors::cors))
        .with_state(shared)
}

/// What no endpoint has: a redirection to the path as it is written here, or 404 (T9).
async fn unknown(request: Request) -> Response {
    let path = request.uri().path();
    let clean = format!("/{}", path.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/"));
    if clean == path {
        return flynn_http::not_found().await.into_response();
    }
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let is_get = request.method() == Method::GET;
    let status = if is_get { StatusCode::MOVED_PERMANENTLY } else { StatusCode::TEMPORARY_REDIRECT };
    (status, [(header::LOCATION, format!("{clean}{query}"))]).into_response()
}
