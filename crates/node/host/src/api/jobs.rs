//! `/host/jobs…`

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use flynn_http::{Failure, Json};
use flynn_types::error::{ApiError, ErrorCode};
use flynn_types::host::{Job, metadata};
use flynn_types::id::JobId;
use serde::Deserialize;

use super::error::failure;
use crate::host::Host;
use crate::jobs::StopError;

/// SIGRTMAX, see signal(7).
const MAX_SIGNAL: i32 = 64;

fn unknown() -> Failure {
    ApiError::object_not_found(StopError::Unknown.to_string()).into()
}

/// An id that cannot be one names no job.
fn lookup(id: &str) -> Result<JobId, Failure> {
    id.parse().map_err(|_| unknown())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ListQuery {
    active: String,
}

pub(super) async fn list(
    State(host): State<Arc<Host>>,
    Query(query): Query<ListQuery>,
    headers: HeaderMap,
) -> Response {
    if flynn_http::wants_events(&headers) {
        return host.job_events(None);
    }
    axum::Json(host.runner().book.list(query.active == "true")).into_response()
}

pub(super) async fn get(
    State(host): State<Arc<Host>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let id = lookup(&id)?;
    if flynn_http::wants_events(&headers) {
        return Ok(host.job_events(Some(id)));
    }
    let job = host.runner().book.find(&id).await.ok_or_else(unknown)?;
    Ok(axum::Json(job).into_response())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct AddQuery {
    allow_draining: String,
}

pub(super) async fn add(
    State(host): State<Arc<Host>>,
    Path(id): Path<String>,
    Query(query): Query<AddQuery>,
    body: axum::extract::Request,
) -> Result<Response, Failure> {
    // A busy host does not even read the job.
    let slots = &host.runner().slots;
    if slots.available_permits() == 0 {
        return Err(busy());
    }
    if host.is_stopping() {
        return Ok((StatusCode::INTERNAL_SERVER_ERROR, axum::Json(serde_json::json!({}))).into_response());
    }
    let Json(mut job) = Json::<Job>::read(body).await?;
    if host.settings().get().draining && query.allow_draining != "true" {
        return Err(ApiError::unavailable("host is draining").into());
    }
    let id: JobId =
        id.parse().map_err(|err: flynn_types::id::InvalidJobId| ApiError::validation("", &err.to_string()))?;
    if job.id.is_empty() {
        job.id = id.to_string();
    } else if job.id != id.as_str() {
        let text = format!("{:?} of the body differs from {:?} of the URL", job.id, id.as_str());
        return Err(ApiError::validation("id", &text).into());
    }
    if job.mountspecs.is_empty() {
        return Err(ApiError::validation("mountspecs", "must be set").into());
    }
    if host.restricts_privileges() && !may_be_privileged(&job) {
        for (asked, name) in
            [(job.config.host_network, "host_network"), (job.config.host_pid_namespace, "host_pid_namespace")]
        {
            if asked {
                return Err(ApiError::validation(name, "only allowed for system jobs").into());
            }
        }
    }
    // Not taken before: a client that sends slowly takes no turn away.
    let slot = Arc::clone(slots).try_acquire_owned().map_err(|_| busy())?;
    // In a task of its own: a client that hangs up must not leave a recorded job that nobody starts.
    let adding = {
        let (host, id) = (Arc::clone(&host), id.clone());
        async move {
            host.runner().book.add(&id, job).await?;
            host.runner().spawn(id, Some(slot));
            Ok::<_, crate::jobs::RecordError>(())
        }
    };
    host.runner().tasks.spawn(adding).await.map_err(|err| ApiError::internal(err.to_string()))?.map_err(failure)?;
    Ok(axum::Json(serde_json::json!({})).into_response())
}

fn busy() -> Failure {
    let text = "maximum concurrent AddJob calls running, try again later";
    ApiError::new(ErrorCode::RateLimited, text).retryable().into()
}

fn may_be_privileged(job: &Job) -> bool {
    job.is_system() || job.meta(metadata::APP_NAME) == "builder"
}

pub(super) async fn stop(State(host): State<Arc<Host>>, Path(id): Path<String>) -> Result<(), Failure> {
    let id = lookup(&id)?;
    let (runner, leaving) = (Arc::clone(host.runner()), host.runner().leaving.clone());
    // Goes on when the client hangs up: a stop is not taken back. The next daemon goes on with it, too.
    let stop = leaving.run_until_cancelled_owned(async move { runner.stop(&id).await });
    let stopped = host.runner().tasks.spawn(stop).await.map_err(|err| ApiError::internal(err.to_string()))?;
    stopped
        .ok_or_else(|| ApiError::unavailable("the daemon ends, the next one goes on with the stop"))?
        .map_err(failure)
}

pub(super) async fn signal(
    State(host): State<Arc<Host>>,
    Path((id, signal)): Path<(String, String)>,
) -> Result<(), Failure> {
    let id = lookup(&id)?;
    let signal: i32 = signal.parse().map_err(|_| ApiError::validation("sig", "must be an integer"))?;
    if !(0..=MAX_SIGNAL).contains(&signal) {
        return Err(ApiError::validation("sig", "must be the number of a signal").into());
    }
    host.runner().signal(&id, signal).await.map_err(failure)
}

pub(super) async fn deregister(State(host): State<Arc<Host>>, Path(id): Path<String>) -> Result<(), Failure> {
    host.runner().deregister(&lookup(&id)?).await.map_err(failure)
}
