//! Health, and the certificate of the cluster's authority.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::api::endpoints::Endpoints;
use crate::shared::Shared;

pub(super) fn endpoints() -> Endpoints {
    Endpoints::new().get("/.well-known/status", "Health", status).get(
        "/ca-cert",
        "Certificate of the cluster's authority",
        ca_cert,
    )
}

async fn status(State(shared): State<Shared>) -> Response {
    let ping =
        async { sqlx::query("SELECT 1").execute(&mut *shared.sql().await?).await.map_err(crate::error::Error::from) };
    let healthy = ping.await.inspect_err(|err| tracing::warn!(%err, "the database does not answer")).is_ok();
    let (code, status) =
        if healthy { (StatusCode::OK, "healthy") } else { (StatusCode::INTERNAL_SERVER_ERROR, "unhealthy") };
    let body = json!({ "data": { "status": status, "version": shared.config.version } });
    let body = format!("{}\n", serde_json::to_string_pretty(&body).expect("JSON"));
    (code, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn ca_cert(State(shared): State<Shared>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/x-x509-ca-cert")], shared.config.ca_cert.clone())
}
