//! The peer's HTTP API, on the port after the database's (spec appliances section 4).

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use flynn_http::{Failure, with_text_fallbacks};
use flynn_types::error::ApiError;
use flynn_types::sirenia::{DatabaseInfo, IdKey, Role, Status, Tunables};
use serde_json::json;

use crate::driver::{Database, Handle};
use crate::health;

/// Longest time that the database may take to say how it is.
const INFO_LIMIT: Duration = Duration::from_secs(5);
/// Longest time until new tunables are in the cluster's state.
const TUNE_LIMIT: Duration = Duration::from_secs(15);

/// What the API tells about.
pub struct Api<P> {
    pub peer: Handle,
    pub database: Arc<dyn Database<P>>,
    pub key: IdKey,
    /// Of the program, for `GET /.well-known/status`.
    pub version: String,
    /// What the tunables are as long as nobody changed them, and which there are.
    pub default_tunables: Tunables,
}

type Shared<P> = State<Arc<Api<P>>>;

/// The API's routes.
pub fn router<P: crate::Position>(api: Api<P>) -> Router {
    let routes = Router::new()
        .route("/.well-known/status", get(well_known::<P>))
        .route("/status", get(status::<P>))
        .route("/stop", post(stop::<P>))
        .route("/tunables", get(tunables::<P>).post(tune::<P>));
    with_text_fallbacks(routes).with_state(Arc::new(api))
}

impl<P: crate::Position> Api<P> {
    async fn status(&self) -> Status {
        let known = self.peer.known();
        let info = tokio::time::timeout(INFO_LIMIT, self.database.info()).await;
        let info = info.unwrap_or_default(); // what is not known keeps its zero
        let database = DatabaseInfo { config: known.config, synced_downstream: known.synced_downstream, ..info };
        Status { peer: Some(known.peer), database: Some(database) }
    }

    fn tunables(&self) -> Tunables {
        let cluster = self.peer.known().peer.state;
        cluster.and_then(|cluster| cluster.tunables).unwrap_or_else(|| self.default_tunables.clone())
    }
}

async fn status<P: crate::Position>(State(api): Shared<P>) -> Json<Status> {
    Json(api.status().await)
}

async fn well_known<P: crate::Position>(State(api): Shared<P>) -> Response {
    let (code, data) = match health(&api.status().await, &api.key) {
        Ok(()) => (StatusCode::OK, json!({"status": "healthy", "version": api.version})),
        Err(reason) => {
            let detail = reason.to_string();
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                json!({"status": "unhealthy", "version": api.version, "detail": detail}),
            )
        }
    };
    (code, Json(json!({ "data": data }))).into_response()
}

async fn stop<P: crate::Position>(State(api): Shared<P>) {
    let peer = api.peer.clone();
    // In its own task: a client that hangs up must not leave a database that runs without a registration.
    let _ = tokio::spawn(async move { peer.stop().await }).await;
}

async fn tunables<P: crate::Position>(State(api): Shared<P>) -> Json<Tunables> {
    Json(api.tunables())
}

async fn tune<P: crate::Position>(
    State(api): Shared<P>,
    flynn_http::Json(wanted): flynn_http::Json<Tunables>,
) -> Result<Json<Tunables>, Failure> {
    let refuse = |text: String| Failure(ApiError::validation("", &text));
    if api.peer.known().peer.role != Role::Primary {
        return Err(refuse("peer is not primary, can't update tunables".into()));
    }
    let current = api.tunables().version;
    if wanted.version <= current {
        return Err(refuse(format!("new tunables version must be greater than current version: {current}")));
    }
    let known = &api.default_tunables.data;
    if let Some(unknown) = wanted.data.keys().find(|name| !known.contains_key(*name)) {
        return Err(refuse(format!("unknown tunable: {unknown}")));
    }
    if !api.peer.tune(wanted.clone()) {
        return Err(refuse("concurrent tunable updates not allowed".into()));
    }
    let mut watch = api.peer.watch();
    let in_force = watch
        .wait_for(|known| known.peer.state.as_ref().is_some_and(|cluster| cluster.tunables.as_ref() == Some(&wanted)));
    match tokio::time::timeout(TUNE_LIMIT, in_force).await {
        Ok(Ok(_)) => Ok(Json(wanted)),
        _ => Err(ApiError::unavailable("the tunables could not be written yet; look at them, then try again").into()),
    }
}
