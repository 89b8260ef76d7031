//! Apps (spec controller-api section 6 P).

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use flynn_types::controller::{
    App, DEFAULT_DEPLOY_TIMEOUT, EventType, InvalidAppName, Strategy, app_meta, check_app_name,
};
use flynn_types::error::{ApiError, ErrorCode};
use serde_json::Value;
use tracing::warn;

use super::route;

use crate::api::endpoints::Endpoints;
use crate::database::{Change, NewEvent, Op};
use crate::error::{Error, Result, invalid};
use crate::input::{Document, Input, STRATEGIES, one_of};
use crate::shared::Shared;
use crate::{names, store};

/// Tries to find a name that is not taken: restored clusters have names from other lists.
const NAME_TRIES: u32 = 50;

pub(super) fn endpoints() -> Endpoints {
    Endpoints::new()
        .get("/apps", "All apps, newest first", list)
        .post("/apps", "Create an app", create)
        .taking::<App>()
        .get("/apps/{app}", "An app", read)
        .post("/apps/{app}", "Change strategy, metadata or deploy timeout of an app", update)
        .taking::<App>()
        .delete("/apps/{app}", "Delete an app with all that it has; the worker does it", delete)
        .post("/apps/{app}/meta", "Change an app", update)
        .taking::<App>()
        .post("/apps/{app}/gc", "Delete old releases of an app; the worker does it", collect_garbage)
}

async fn list(State(shared): State<Shared>) -> Result<Json<Vec<App>>> {
    Ok(Json(store::app::list(&mut *shared.sql().await?).await?))
}

async fn read(State(shared): State<Shared>, Path(app): Path<String>) -> Result<Json<App>> {
    Ok(Json(store::app::get(&mut *shared.sql().await?, &app).await?))
}

async fn create(State(shared): State<Shared>, Input(mut app): Input<App>) -> Result<Json<App>> {
    if !app.name.is_empty() {
        check_app_name(&app.name).map_err(|err: InvalidAppName| invalid("name", err.to_string()))?;
    }
    check_timeout(app.deploy_timeout)?;
    fill_in(&mut app);
    let mut change = shared.change().await?;
    if app.name.is_empty() {
        app.name = free_name(&shared, &mut change).await?;
    }
    let created = store::app::insert(change.sql(), &app).await.map_err(|err| {
        if err.is_constraint("apps_name_idx") {
            taken(format!("application \"{}\" already exists", app.name))
        } else if err.is_constraint("apps_pkey") {
            taken(format!("an application with the id {} exists or existed", app.id))
        } else if matches!(err, Error::NotFound) {
            invalid("id", "must be a UUID")
        } else {
            err
        }
    })?;
    change.emit(event(&created).op(Op::Create));
    change.commit().await?;
    if !created.is_system() && !shared.config.default_route_domain.is_empty() {
        let route = route::create_default(&shared, &created).await;
        let _ = route.inspect_err(|err| warn!(%err, app = created.name, "an app stays without its default route"));
    }
    Ok(Json(created))
}

fn taken(message: String) -> Error {
    ApiError::new(ErrorCode::ObjectExists, message).into()
}

fn event(app: &App) -> NewEvent {
    NewEvent::new(EventType::App, &app.id, app).app_text(&app.id)
}

/// P1: what a new app has unless it says otherwise.
fn fill_in(app: &mut App) {
    if app.id.is_empty() {
        app.id = uuid::Uuid::new_v4().to_string();
    }
    if app.strategy.is_empty() {
        app.strategy = Strategy::OneByOne.as_str().to_owned();
    }
    if app.deploy_timeout == 0 {
        app.deploy_timeout = DEFAULT_DEPLOY_TIMEOUT;
    }
    app.meta.entry(app_meta::MAX_INACTIVE_RELEASES.to_owned()).or_insert_with(|| "10".to_owned());
}

fn check_timeout(seconds: i32) -> Result<()> {
    if seconds < 0 { Err(invalid("deploy_timeout", "must be a number of seconds, not below 0")) } else { Ok(()) }
}

async fn free_name(shared: &Shared, change: &mut Change) -> Result<String> {
    for _ in 0..NAME_TRIES {
        let number = store::app::next_name_id(change.sql()).await?;
        let name = names::name(&shared.config.name_seed, number);
        if !store::app::is_name_taken(change.sql(), &name).await? {
            return Ok(name);
        }
    }
    Err(invalid("name", "must be given: no name that could be made up is free"))
}

/// Fields that an app may have in an update; all but three are ignored (P5).
const FIELDS: [&str; 9] =
    ["id", "name", "meta", "strategy", "release", "deploy_timeout", "created_at", "updated_at", "protected"];

async fn update(State(shared): State<Shared>, Path(reference): Path<String>, body: Document) -> Result<Json<App>> {
    body.only(&FIELDS)?;
    let sent: App = body.decode()?;
    let has = |field: &str| body.fields.get(field).is_some_and(|value| !value.is_null());
    let mut change = shared.change().await?;
    let mut app = store::app::lock(change.sql(), &reference).await?;
    if has("strategy") {
        one_of("strategy", &sent.strategy, &STRATEGIES)?;
        app.strategy = sent.strategy;
    }
    if has("meta") {
        app.meta = sent.meta;
    }
    if has("deploy_timeout") {
        check_timeout(sent.deploy_timeout)?;
        app.deploy_timeout = sent.deploy_timeout;
    }
    let app = store::app::update(change.sql(), &app).await?;
    change.emit(event(&app).op(Op::Update));
    change.commit().await?;
    Ok(Json(app))
}

/// P9: only ordered here; the worker deletes. System apps take `?force=true`: without them there is no cluster.
async fn delete(
    State(shared): State<Shared>,
    Path(reference): Path<String>,
    axum::extract::Query(query): axum::extract::Query<BTreeMap<String, String>>,
) -> Result<()> {
    let mut change = shared.change().await?;
    let app = store::app::lock(change.sql(), &reference).await?;
    // Databases that providers made are system apps too, and come and go.
    if app.is_critical() && query.get("force").is_none_or(|force| force != "true") {
        return Err(invalid("", format!("{} is part of the cluster: delete it with ?force=true", app.name)));
    }
    change.enqueue("app_deletion", &app).await?;
    change.commit().await
}

async fn collect_garbage(State(shared): State<Shared>, Path(reference): Path<String>) -> Result<()> {
    let mut change = shared.change().await?;
    let app = store::app::get(change.sql(), &reference).await?;
    let args = BTreeMap::from([("app_id", Value::String(app.id)), ("deleted_releases", Value::Null)]);
    change.enqueue("app_garbage_collection", &args).await?;
    change.commit().await
}
