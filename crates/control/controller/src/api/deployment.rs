//! Deployments (spec controller-api section 6 D). The worker carries them out.

use axum::Json;
use axum::extract::{Path, State};
use flynn_types::controller::{
    App, Deployment, DeploymentEvent, DeploymentStatus, EventType, Release, Strategy, app_meta,
};
use flynn_types::error::ApiError;
use serde_json::json;

use super::release::{make_current, of_app};
use crate::api::endpoints::Endpoints;
use crate::database::{Change, NewEvent, Op};
use crate::error::{Result, invalid};
use crate::input::{Input, ReleaseRef};
use crate::shared::Shared;
use crate::store;

/// Existing clients compare it to the letter.
const IN_PROGRESS: &str = "Cannot create deploy, there is already one in progress for this app.";

pub(super) fn endpoints() -> Endpoints {
    Endpoints::new()
        .post("/apps/{app}/deploy", "Deploy a release; the worker does it", create)
        .taking::<ReleaseRef>()
        .get("/apps/{app}/deployments", "Deployments of an app, newest first", list)
        .get("/deployments/{id}", "A deployment", read)
        .delete("/deployments/{id}", "Cancel a deployment; the worker takes it back", cancel)
}

async fn list(State(shared): State<Shared>, Path(app): Path<String>) -> Result<Json<Vec<Deployment>>> {
    let mut sql = shared.sql().await?;
    let app = store::app::get(&mut sql, &app).await?;
    Ok(Json(store::deployment::of_app(&mut sql, store::id(&app.id)?).await?))
}

async fn read(State(shared): State<Shared>, Path(id): Path<String>) -> Result<Json<Deployment>> {
    Ok(Json(store::deployment::get(&mut *shared.sql().await?, store::id(&id)?).await?))
}

async fn create(
    State(shared): State<Shared>,
    Path(app): Path<String>,
    Input(ReleaseRef { id, .. }): Input<ReleaseRef>,
) -> Result<Json<Deployment>> {
    let mut change = shared.change().await?;
    let app = store::app::lock(change.sql(), &app).await?;
    let release = of_app(&mut change, &app, &id.unwrap_or_default()).await?;
    let (old, deployment) = snapshot(&mut change, &app, &release).await?;
    let nothing_runs = deployment.processes.values().sum::<i64>() == 0;
    let status = if nothing_runs { DeploymentStatus::Complete } else { DeploymentStatus::Pending };
    let deployment = Deployment { status: Some(status), ..deployment };
    let kind = kind(old.as_ref(), &release);
    let inserted = store::deployment::insert(change.sql(), &deployment, kind, nothing_runs).await;
    let deployment =
        inserted.map_err(|err| if err.is_constraint("isolate_deploys") { invalid("", IN_PROGRESS) } else { err })?;
    if nothing_runs {
        make_current(&mut change, &app, &release).await?;
    } else {
        change.enqueue("deployment", &json!({ "ID": deployment.id })).await?;
    }
    let event = DeploymentEvent {
        app_id: app.id.clone(),
        deployment_id: deployment.id.clone(),
        release_id: release.id,
        status: Some(status),
        ..DeploymentEvent::default()
    };
    change.emit(NewEvent::new(EventType::Deployment, &deployment.id, &event).app_text(&app.id).op(Op::Create));
    change.commit().await?;
    Ok(Json(deployment))
}

/// Ends a deployment that is under way (W6). The worker takes back what it did; asking again changes nothing.
async fn cancel(State(shared): State<Shared>, Path(id): Path<String>) -> Result<Json<Deployment>> {
    let id = store::id(&id)?;
    let mut change = shared.change().await?;
    let known = store::deployment::get(change.sql(), id).await?;
    // The worker locks it to end a deployment, and so does whoever gives the app its new release.
    let app = store::app::lock(change.sql(), &known.app_id).await?;
    let deployment = store::deployment::get(change.sql(), id).await?;
    if deployment.finished_at.is_some() {
        let status = deployment.status.unwrap_or_default().as_str();
        return Err(ApiError::conflict(format!("deployment {id} is over already: it is {status}")).into());
    }
    if app.release_id == deployment.new_release_id {
        let text = format!("the app has the release of deployment {id} already: deploy the one before to go back");
        return Err(ApiError::conflict(text).into());
    }
    store::deployment::cancel(change.sql(), id).await?;
    if !change.hasten("deployment", id).await? {
        change.enqueue("deployment", &json!({ "ID": deployment.id })).await?;
    }
    change.commit().await?;
    Ok(Json(deployment))
}

/// The app's settings and what runs of the old release, as they are now (D3).
async fn snapshot(change: &mut Change, app: &App, release: &Release) -> Result<(Option<Release>, Deployment)> {
    let mut deployment = Deployment {
        app_id: app.id.clone(),
        old_release_id: app.release_id.clone(),
        new_release_id: release.id.clone(),
        strategy: app.strategy.clone(),
        deploy_timeout: app.deploy_timeout,
        deploy_batch_size: batch_size(app)?,
        ..Deployment::default()
    };
    let Ok(old_id) = store::id(&app.release_id) else { return Ok((None, deployment)) };
    let old = store::release::get_even_deleted(change.sql(), old_id).await?;
    if let Some(stored) = store::formation::find(change.sql(), store::id(&app.id)?, old_id).await? {
        (deployment.processes, deployment.tags) = (stored.formation.processes, stored.formation.tags);
    }
    Ok((Some(old), deployment))
}

fn batch_size(app: &App) -> Result<Option<i32>> {
    let Some(text) = app.meta.get(app_meta::DEPLOY_BATCH_SIZE) else { return Ok(None) };
    match text.parse() {
        Ok(size) if size > 0 => Ok(Some(size)),
        // It says nothing to other strategies.
        _ if app.strategy != Strategy::InBatches.as_str() => Ok(None),
        _ => Err(invalid(
            "",
            format!("the app's meta {} is {text:?}, it must be a number of jobs", app_meta::DEPLOY_BATCH_SIZE),
        )),
    }
}

fn kind(old: Option<&Release>, new: &Release) -> &'static str {
    let old = old.map_or(&[][..], |release| &release.artifact_ids);
    if old == new.artifact_ids { "config" } else { "code" }
}
