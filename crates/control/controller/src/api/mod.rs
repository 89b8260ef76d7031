//! The HTTP API: a file per resource.

mod app;
mod artifact;
mod attach;
mod audit;
mod cluster;
mod cors;
mod deployment;
mod endpoints;
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

use crate::shared::Shared;
use endpoints::Endpoints;

/// All endpoints, behind credentials and within CORS.
pub(crate) fn router(shared: Shared) -> Router {
    let routes = endpoints().into_router().fallback(unknown).method_not_allowed_fallback(unknown);
    routes
        .layer(middleware::from_fn_with_state(shared.clone(), entry::enter))
        .layer(middleware::from_fn_with_state(shared.clone(), cors::cors))
        .with_state(shared)
}

fn endpoints() -> Endpoints {
    Endpoints::new()
        .merge(app::endpoints())
        .merge(artifact::endpoints())
        .merge(cluster::endpoints())
        .merge(deployment::endpoints())
        .merge(event::endpoints())
        .merge(formation::endpoints())
        .merge(job::endpoints())
        .merge(log::endpoints())
        .merge(managed_certificate::endpoints())
        .merge(release::endpoints())
        .merge(resource::endpoints())
        .merge(route::endpoints())
        .merge(sink::endpoints())
        .merge(status::endpoints())
        .merge(volume::endpoints())
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
