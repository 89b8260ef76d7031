//! Formations and their changes (spec controller-api section 6 F).

mod scale;
mod stream;

pub(super) use scale::scale_to_zero;

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use flynn_types::controller::{App, Formation, Release, ScaleRequest, ScaleRequestState};

use crate::api::endpoints::Endpoints;
use crate::database::Change;
use crate::error::{Error, Result, invalid};
use crate::input::Input;
use crate::shared::Shared;
use crate::store;
use scale::Wanted;

pub(super) fn endpoints() -> Endpoints {
    Endpoints::new()
        .get("/formations", "Active formations (?active=true), or a stream of all (?since=)", active_or_stream)
        .get("/apps/{app}/formations", "Formations of an app", list)
        .get("/apps/{app}/formations/{release}", "A formation; with ?expand=true all that it takes to run", read)
        .put("/apps/{app}/formations/{release}", "Set how many jobs of a release run", set)
        .taking::<Formation>()
        .delete("/apps/{app}/formations/{release}", "Stop all jobs of a release", delete)
        .put("/apps/{app}/scale/{release}", "Create a scale request, or end one", put_request)
        .taking::<ScaleRequest>()
}

type Parameters = BTreeMap<String, String>;

async fn active_or_stream(
    State(shared): State<Shared>,
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
) -> Result<Response> {
    if flynn_http::wants_events(&headers) {
        return Ok(stream::stream(shared, parameters.get("since").cloned()));
    }
    if parameters.get("active").is_none_or(|active| active != "true") {
        return Err(invalid("", "must either request a stream or only active formations"));
    }
    let mut sql = shared.sql().await?;
    let active = store::formation::active(&mut sql).await?;
    Ok(Json(store::formation::expand(&mut sql, active).await?).into_response())
}

async fn list(State(shared): State<Shared>, Path(app): Path<String>) -> Result<Json<Vec<Formation>>> {
    let mut sql = shared.sql().await?;
    let app = store::app::get(&mut sql, &app).await?;
    Ok(Json(store::formation::of_app(&mut sql, store::id(&app.id)?).await?))
}

async fn read(
    State(shared): State<Shared>,
    Path((app, release)): Path<(String, String)>,
    Query(parameters): Query<Parameters>,
) -> Result<Response> {
    let mut sql = shared.sql().await?;
    let app = store::app::get(&mut sql, &app).await?;
    let found = store::formation::find(&mut sql, store::id(&app.id)?, store::id(&release)?).await?;
    let found = found.filter(|stored| !stored.deleted).ok_or(Error::NotFound)?;
    if parameters.get("expand").is_some_and(|expand| expand == "true") {
        let expanded = store::formation::expand(&mut sql, vec![found]).await?;
        return Ok(Json(expanded.into_iter().next()).into_response());
    }
    Ok(Json(found.formation).into_response())
}

/// The app, locked, and a release that it may run; unknown ones are 404.
async fn subject(change: &mut Change, app: &str, release: &str) -> Result<(App, Release)> {
    let app = store::app::lock(change.sql(), app).await?;
    let release = store::release::get(change.sql(), store::id(release)?).await?;
    Ok((app, release))
}

async fn set(
    State(shared): State<Shared>,
    Path((app, release)): Path<(String, String)>,
    Input(formation): Input<Formation>,
) -> Result<Json<Formation>> {
    let mut change = shared.change().await?;
    let (app, release) = subject(&mut change, &app, &release).await?;
    if release.artifact_ids.is_empty() {
        return Err(invalid("", "release is not deployable"));
    }
    // Nothing said means nothing runs (F1).
    let mut processes = formation.processes;
    if processes.is_empty() {
        processes = release.processes.keys().map(|kind| (kind.clone(), 0)).collect();
    }
    let wanted = Wanted { processes: Some(processes), tags: Some(formation.tags).filter(|tags| !tags.is_empty()) };
    scale::check(&wanted, &release, "processes")?;
    scale::apply(&mut change, &app, &release, wanted).await?;
    let stored = store::formation::find(change.sql(), store::id(&app.id)?, store::id(&release.id)?).await?;
    change.commit().await?;
    stored.map(|stored| Json(stored.formation)).ok_or(Error::NotFound)
}

async fn delete(State(shared): State<Shared>, Path((app, release)): Path<(String, String)>) -> Result<()> {
    let mut change = shared.change().await?;
    let (app, release) = subject(&mut change, &app, &release).await?;
    if !scale_to_zero(&mut change, &app, &release).await? {
        return Err(Error::NotFound);
    }
    change.commit().await
}

async fn put_request(
    State(shared): State<Shared>,
    Path((app, release)): Path<(String, String)>,
    Input(request): Input<ScaleRequest>,
) -> Result<Json<ScaleRequest>> {
    let mut change = shared.change().await?;
    let (app, release) = subject(&mut change, &app, &release).await?;
    let request = if request.state == ScaleRequestState::Pending {
        let wanted = Wanted { processes: request.new_processes, tags: request.new_tags };
        if wanted.processes.is_none() && wanted.tags.is_none() {
            return Err(invalid("", "scale request must have either processes or tags set"));
        }
        scale::check(&wanted, &release, "new_processes")?;
        scale::apply(&mut change, &app, &release, wanted).await?
    } else {
        scale::end(&mut change, &app, &release, &request).await?
    };
    change.commit().await?;
    Ok(Json(request))
}
