//! Jobs (spec controller-api section 6 J).

mod container;
mod run;

use axum::Json;
use axum::extract::{Path, State};
use flynn_http::ClientError;
use flynn_types::controller::{EventType, Job, NewJob};
use flynn_types::error::ApiError;
use uuid::Uuid;

use crate::api::endpoints::Endpoints;
use crate::database::NewEvent;
use crate::error::{Error, Result, invalid};
use crate::input::Input;
use crate::shared::Shared;
use crate::{hosts, store};

pub(super) fn endpoints() -> Endpoints {
    Endpoints::new()
        .get("/active-jobs", "Jobs that run or will, newest update first", active)
        .get("/apps/{app}/jobs", "Jobs of an app, newest first", list)
        .post("/apps/{app}/jobs", "Run a one-off job; with Upgrade: flynn-attach/0 attached to it", run::run)
        .taking::<NewJob>()
        .get("/apps/{app}/jobs/{job}", "A job", read)
        .put("/apps/{app}/jobs/{job}", "Record what became of a job", record)
        .taking::<Job>()
        .delete("/apps/{app}/jobs/{job}", "Stop a job", kill)
}

async fn active(State(shared): State<Shared>) -> Result<Json<Vec<Job>>> {
    Ok(Json(store::job::active(&mut *shared.sql().await?).await?))
}

async fn list(State(shared): State<Shared>, Path(app): Path<String>) -> Result<Json<Vec<Job>>> {
    let mut sql = shared.sql().await?;
    let app = store::app::get(&mut sql, &app).await?;
    Ok(Json(store::job::of_app(&mut sql, store::id(&app.id)?).await?))
}

/// A job of this app, by its UUID or by the id that its host knows (J1).
async fn find(shared: &Shared, app: &str, job: &str) -> Result<Job> {
    let mut sql = shared.sql().await?;
    let app = store::app::get(&mut sql, app).await?;
    let id = store::id(job).or_else(|err| job.split_once('-').map_or(Err(err), |(_, uuid)| store::id(uuid)))?;
    let found = store::job::find(&mut sql, id).await?;
    found.filter(|job| job.app_id == app.id).ok_or(Error::NotFound)
}

async fn read(State(shared): State<Shared>, Path((app, job)): Path<(String, String)>) -> Result<Json<Job>> {
    Ok(Json(find(&shared, &app, &job).await?))
}

/// What the scheduler knows of a job. The path's ids say nothing that the body does not.
async fn record(State(shared): State<Shared>, Input(job): Input<Job>) -> Result<Json<Job>> {
    let uuid = |field: &'static str, text: &str| {
        text.parse::<Uuid>().map_err(|_| invalid(field, format!("must be a UUID, not {text:?}")))
    };
    let (id, app_id, release_id) =
        (uuid("uuid", &job.uuid)?, uuid("app", &job.app_id)?, uuid("release", &job.release_id)?);
    let volumes = job.volume_ids.iter().map(|id| uuid("volumes", id)).collect::<Result<Vec<_>>>()?;
    let mut change = shared.change().await?;
    let recorded = store::job::upsert(change.sql(), id, (app_id, release_id), &job, &volumes).await;
    let recorded = recorded.map_err(|err| {
        let foreign = [
            ("job_cache_app_id_fkey", "app"),
            ("job_cache_release_id_fkey", "release"),
            ("job_volumes_volume_id_fkey", "volumes"),
        ];
        match foreign.into_iter().find(|(constraint, _)| err.is_constraint(constraint)) {
            Some((_, field)) => invalid(field, "names what does not exist"),
            None => err,
        }
    })?;
    let stored = store::job::find(change.sql(), id).await?.ok_or(Error::NotFound)?;
    let state = stored.state.unwrap_or_default().as_str();
    if !recorded {
        let wanted = job.state.unwrap_or_default().as_str();
        return Err(ApiError::conflict(format!("job {id} is {state} and cannot be {wanted} again")).into());
    }
    let event = NewEvent::new(EventType::Job, id, &stored).app(app_id).unique(format!("{id}|{state}"));
    change.emit(event);
    change.commit().await?;
    Ok(Json(stored))
}

/// Stops a job on its host and waits for its end (J7).
async fn kill(State(shared): State<Shared>, Path((app, job)): Path<(String, String)>) -> Result<()> {
    let job = find(&shared, &app, &job).await?;
    if job.host_id.is_empty() {
        return Err(invalid("", "cannot kill a job which has not been placed on a host"));
    }
    let host = hosts::find(&shared, &job.host_id).await?;
    host.client.stop_job(&job.id).await.map_err(of_host)
}

/// What a host said, passed on.
pub(super) fn of_host(error: ClientError) -> Error {
    match error {
        ClientError::Status { error, .. } => error.into(),
        error if error.is_retryable() => ApiError::unavailable(format!("the host does not answer: {error}")).into(),
        error => ApiError::internal(format!("the host's answer cannot be used: {error}")).into(),
    }
}
