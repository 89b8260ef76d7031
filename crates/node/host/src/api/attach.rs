//! `POST /attach`

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use flynn_types::host::AttachRequest;
use flynn_types::host::attach::PROTOCOL;
use hyper_util::rt::TokioIo;
use tracing::debug;

use crate::host::Host;

/// Longest request body in bytes.
const MAX_BODY: usize = 64 << 10;

pub(super) async fn attach(State(host): State<Arc<Host>>, mut request: Request) -> Response {
    if !request.headers().contains_key(header::UPGRADE) {
        return (StatusCode::BAD_REQUEST, format!("upgrade to {PROTOCOL} required")).into_response();
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let body = axum::body::to_bytes(request.into_body(), MAX_BODY).await.unwrap_or_default();
    let Ok(asked) = serde_json::from_slice::<AttachRequest>(&body) else {
        return (StatusCode::BAD_REQUEST, "invalid JSON").into_response();
    };
    let runner = Arc::clone(host.runner());
    let leaving = runner.leaving.clone();
    let session = async move {
        match upgrade.await {
            Ok(connection) => crate::attach::serve(runner, asked, TokioIo::new(connection)).await,
            Err(err) => debug!(%err, "client did not take up the attach connection"),
        }
    };
    host.runner().tasks.spawn(leaving.run_until_cancelled_owned(session));
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, PROTOCOL)
        .body(Body::empty())
        .unwrap_or_else(|err| (StatusCode::INTERNAL_SERVER_ERROR, err.to_string()).into_response())
}
