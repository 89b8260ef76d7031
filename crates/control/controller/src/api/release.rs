//! Releases (spec controller-api section 6 R).

mod delete;

use axum::Json;
use axum::extract::{Path, State};
use flynn_types::controller::{App, AppRelease, EventType, Release};
use flynn_types::error::{ApiError, ErrorCode};
use uuid::Uuid;

use crate::api::endpoints::Endpoints;
use crate::database::{Change, NewEvent};
use crate::error::{Error, Result, invalid};
use crate::input::{Input, ReleaseRef};
use crate::shared::Shared;
use crate::store;

pub(super) fn endpoints() -> Endpoints {
    Endpoints::new()
        .get("/releases", "All releases, newest first", list)
        .post("/releases", "Create a release", create)
        .taking::<Release>()
        .get("/releases/{id}", "A release", read)
        .get("/apps/{app}/releases", "Releases of an app, newest first", list_of_app)
        .delete("/apps/{app}/releases/{id}", "Delete a release and what only it used", delete::delete)
        .get("/apps/{app}/release", "The current release of an app", current)
        .put("/apps/{app}/release", "Set the current release without a deployment", set_current)
        .taking::<ReleaseRef>()
}

async fn list(State(shared): State<Shared>) -> Result<Json<Vec<Release>>> {
    Ok(Json(store::release::list(&mut *shared.sql().await?).await?))
}

async fn read(State(shared): State<Shared>, Path(id): Path<String>) -> Result<Json<Release>> {
    Ok(Json(store::release::get(&mut *shared.sql().await?, store::id(&id)?).await?))
}

async fn list_of_app(State(shared): State<Shared>, Path(app): Path<String>) -> Result<Json<Vec<Release>>> {
    let mut sql = shared.sql().await?;
    let app = store::app::get(&mut sql, &app).await?;
    Ok(Json(store::release::of_app(&mut sql, store::id(&app.id)?).await?))
}

async fn create(State(shared): State<Shared>, Input(release): Input<Release>) -> Result<Json<Release>> {
    let release = normalized(release)?;
    let ids = |field: &'static str, text: &str| {
        text.parse::<Uuid>().map_err(|_| invalid(field, format!("must hold UUIDs, not {text:?}")))
    };
    let id = if release.id.is_empty() { Uuid::new_v4() } else { ids("id", &release.id)? };
    let app_id = ids("app_id", &release.app_id)?;
    let artifacts = release.artifact_ids.iter().map(|id| ids("artifacts", id)).collect::<Result<Vec<_>>>()?;
    let mut change = shared.change().await?;
    store::app::get(change.sql(), &app_id.to_string()).await.map_err(|err| match err {
        Error::NotFound => invalid("app_id", format!("names no app: {app_id}")),
        err => err,
    })?;
    let known = store::artifact::lock_all(change.sql(), &artifacts).await?;
    if let Some(unknown) = artifacts.iter().find(|id| !known.contains(id)) {
        return Err(invalid("artifacts", format!("name no artifact: {unknown}")));
    }
    store::release::insert(change.sql(), id, app_id, &release, &artifacts).await.map_err(|err| {
        if err.is_constraint("releases_pkey") {
            ApiError::new(ErrorCode::ObjectExists, format!("a release with the id {id} exists or existed")).into()
        } else if err.is_constraint("release_artifacts_pkey") {
            invalid("artifacts", "must not name one twice")
        } else {
            err
        }
    })?;
    let created = store::release::get(change.sql(), id).await?;
    change.emit(NewEvent::new(EventType::Release, id, &created).app(app_id));
    change.commit().await?;
    Ok(Json(created))
}

/// Older forms become today's, defaults are filled in (R5 to R7).
fn normalized(mut release: Release) -> Result<Release> {
    if release.app_id.is_empty() {
        let text = r#"Required error. The data must be an object with "app_id" as one of its keys"#;
        return Err(invalid("", text));
    }
    if let Some(value) = release.env.get("") {
        let text = format!("you can't create an env var with an empty key (tried to set \"\"=\"{value}\")");
        return Err(invalid("env", text));
    }
    if release.artifact_ids.is_empty() && !release.artifact_id.is_empty() {
        release.artifact_ids.push(std::mem::take(&mut release.artifact_id));
    }
    release.processes.values_mut().for_each(flynn_types::controller::ProcessType::normalize);
    Ok(release)
}

async fn current(State(shared): State<Shared>, Path(app): Path<String>) -> Result<Json<Release>> {
    let mut sql = shared.sql().await?;
    let app = store::app::get(&mut sql, &app).await?;
    Ok(Json(store::release::get(&mut sql, store::id(&app.release_id)?).await?))
}

async fn set_current(
    State(shared): State<Shared>,
    Path(app): Path<String>,
    Input(ReleaseRef { id, deployment }): Input<ReleaseRef>,
) -> Result<Json<Release>> {
    let mut change = shared.change().await?;
    let app = store::app::lock(change.sql(), &app).await?;
    let release = of_app(&mut change, &app, &id.unwrap_or_default()).await?;
    if let Some(deployment) = deployment.filter(|id| !id.is_empty()) {
        let id = store::id(&deployment).map_err(|_| invalid("deployment", "must be a UUID"))?;
        // Whoever cancels it locks the app too.
        if !store::deployment::goes_on(change.sql(), id, store::id(&app.id)?).await? {
            return Err(ApiError::conflict(format!("deployment {id} is over or to end")).into());
        }
    }
    make_current(&mut change, &app, &release).await?;
    change.commit().await?;
    Ok(Json(release))
}

/// A release that an app may run: its own, or one that it runs already (R8, W13).
pub(super) async fn of_app(change: &mut Change, app: &App, id: &str) -> Result<Release> {
    let unknown = || invalid("", format!("could not find release with ID {id}"));
    let release_id = store::id(id).map_err(|_| unknown())?;
    if !store::release::belongs_to(change.sql(), release_id, store::id(&app.id)?).await? {
        return Err(unknown());
    }
    store::release::get(change.sql(), release_id).await
}

/// Points the app at a release and tells of it.
pub(super) async fn make_current(change: &mut Change, app: &App, release: &Release) -> Result<()> {
    let prev_release = match store::id(&app.release_id) {
        Ok(id) => Some(store::release::get_even_deleted(change.sql(), id).await?),
        Err(_) => None,
    };
    store::app::set_release(change.sql(), store::id(&app.id)?, store::id(&release.id)?).await?;
    let data = AppRelease { prev_release, release: Some(release.clone()) };
    change.emit(NewEvent::new(EventType::AppRelease, &release.id, &data).app_text(&app.id));
    Ok(())
}
