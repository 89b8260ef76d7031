//! Providers and resources (spec controller-api section 6 C).

mod provision;

use axum::Json;
use axum::extract::{Path, State};
use flynn_types::controller::{EventType, Provider, Resource, ResourceReq};
use flynn_types::error::{ApiError, ErrorCode};
use uuid::Uuid;

use crate::api::endpoints::Endpoints;
use crate::database::{Change, NewEvent};
use crate::error::{Error, Result, invalid};
use crate::input::Input;
use crate::shared::Shared;
use crate::store;

pub(super) fn endpoints() -> Endpoints {
    Endpoints::new()
        .get("/providers", "All providers", list_providers)
        .post("/providers", "Create a provider", create_provider)
        .taking::<Provider>()
        .get("/providers/{provider}", "A provider", read_provider)
        .get("/resources", "All resources, newest first", list)
        .get("/apps/{app}/resources", "Resources of an app", list_of_app)
        .get("/providers/{provider}/resources", "Resources of a provider", list_of_provider)
        .post("/providers/{provider}/resources", "Make a resource", provision::provision)
        .taking::<ResourceReq>()
        .get("/providers/{provider}/resources/{id}", "A resource", read)
        .put("/providers/{provider}/resources/{id}", "Record a resource that exists", record)
        .taking::<Resource>()
        .delete("/providers/{provider}/resources/{id}", "Unmake a resource", provision::deprovision)
        .put("/providers/{provider}/resources/{id}/apps/{app}", "Give a resource to an app", attach)
        .delete("/providers/{provider}/resources/{id}/apps/{app}", "Take a resource from an app", detach)
}

async fn list_providers(State(shared): State<Shared>) -> Result<Json<Vec<Provider>>> {
    Ok(Json(store::resource::providers(&mut *shared.sql().await?).await?))
}

async fn read_provider(State(shared): State<Shared>, Path(provider): Path<String>) -> Result<Json<Provider>> {
    Ok(Json(store::resource::get_provider(&mut *shared.sql().await?, &provider).await?))
}

async fn create_provider(State(shared): State<Shared>, Input(sent): Input<Provider>) -> Result<Json<Provider>> {
    let id = if sent.id.is_empty() {
        Uuid::new_v4()
    } else {
        sent.id.parse().map_err(|_| invalid("id", "must be a UUID"))?
    };
    let mut change = shared.change().await?;
    let created = store::resource::insert_provider(change.sql(), id, &sent).await.map_err(|err| {
        let taken = |what: String| ApiError::new(ErrorCode::ObjectExists, what).into();
        if err.is_constraint("providers_name_key") {
            taken(format!("provider {:?} already exists", sent.name))
        } else if err.is_constraint("providers_url_key") {
            taken(format!("a provider at {} already exists", sent.url))
        } else {
            err
        }
    })?;
    change.emit(NewEvent::new(EventType::Provider, &created.id, &created));
    change.commit().await?;
    Ok(Json(created))
}

async fn list(State(shared): State<Shared>) -> Result<Json<Vec<Resource>>> {
    Ok(Json(store::resource::list(&mut *shared.sql().await?).await?))
}

async fn list_of_app(State(shared): State<Shared>, Path(app): Path<String>) -> Result<Json<Vec<Resource>>> {
    let mut sql = shared.sql().await?;
    let app = store::app::get(&mut sql, &app).await?;
    Ok(Json(store::resource::of_app(&mut sql, store::id(&app.id)?).await?))
}

async fn list_of_provider(State(shared): State<Shared>, Path(provider): Path<String>) -> Result<Json<Vec<Resource>>> {
    let mut sql = shared.sql().await?;
    let provider = store::resource::get_provider(&mut sql, &provider).await?;
    Ok(Json(store::resource::of_provider(&mut sql, store::id(&provider.id)?).await?))
}

async fn read(State(shared): State<Shared>, Path((provider, id)): Path<(String, String)>) -> Result<Json<Resource>> {
    let mut sql = shared.sql().await?;
    store::resource::get_provider(&mut sql, &provider).await?;
    Ok(Json(store::resource::get(&mut sql, store::id(&id)?).await?))
}

/// Ids of apps given by id or name (C3).
async fn apps(change: &mut Change, references: &[String]) -> Result<Vec<Uuid>> {
    let mut ids = Vec::new();
    for reference in references {
        let app = store::app::get(change.sql(), reference).await.map_err(|err| match err {
            Error::NotFound => invalid("apps", format!("name no app: {reference}")),
            err => err,
        })?;
        ids.push(store::id(&app.id)?);
    }
    Ok(ids)
}

/// One event for each of these apps, or one without any.
fn emit(change: &mut Change, kind: EventType, resource: &Resource, apps: &[String]) {
    let event = || NewEvent::new(kind, &resource.id, resource);
    if apps.is_empty() {
        change.emit(event());
    }
    for app in apps {
        change.emit(event().app_text(app));
    }
}

/// Stores a resource, with links to its apps, and tells of it.
async fn store(change: &mut Change, id: Uuid, provider: &Provider, new: &Resource, apps: &[Uuid]) -> Result<Resource> {
    store::resource::upsert(change.sql(), id, store::id(&provider.id)?, new).await.map_err(|err| {
        if err.is_constraint("resources_provider_id_external_id_key") {
            let text = format!("the provider's resource {:?} is recorded already", new.external_id);
            ApiError::new(ErrorCode::ObjectExists, text).into()
        } else {
            err
        }
    })?;
    store::resource::attach(change.sql(), id, apps).await?;
    let stored = store::resource::get(change.sql(), id).await?;
    emit(change, EventType::Resource, &stored, &stored.apps);
    Ok(stored)
}

/// Records what a provider made before, for example in another cluster.
async fn record(
    State(shared): State<Shared>,
    Path((provider, id)): Path<(String, String)>,
    Input(sent): Input<Resource>,
) -> Result<Json<Resource>> {
    if sent.external_id.is_empty() {
        return Err(invalid("external_id", "must not be empty"));
    }
    let mut change = shared.change().await?;
    let provider = store::resource::get_provider(change.sql(), &provider).await?;
    let apps = apps(&mut change, &sent.apps).await?;
    let stored = store(&mut change, store::id(&id)?, &provider, &sent, &apps).await?;
    change.commit().await?;
    Ok(Json(stored))
}

type Link = Path<(String, String, String)>;

async fn attach(State(shared): State<Shared>, Path((provider, id, app)): Link) -> Result<Json<Resource>> {
    let mut change = shared.change().await?;
    store::resource::get_provider(change.sql(), &provider).await?;
    let id = store::id(&id)?;
    store::resource::get(change.sql(), id).await?;
    let app = store::app::get(change.sql(), &app).await?;
    store::resource::attach(change.sql(), id, &[store::id(&app.id)?]).await?;
    let stored = store::resource::get(change.sql(), id).await?;
    emit(&mut change, EventType::Resource, &stored, &[app.id]);
    change.commit().await?;
    Ok(Json(stored))
}

/// Other resources of the app, and other apps of the resource, stay linked (W4).
async fn detach(State(shared): State<Shared>, Path((provider, id, app)): Link) -> Result<Json<Resource>> {
    let mut change = shared.change().await?;
    store::resource::get_provider(change.sql(), &provider).await?;
    let id = store::id(&id)?;
    let app = store::app::get(change.sql(), &app).await?;
    if !store::resource::detach(change.sql(), id, store::id(&app.id)?).await? {
        return Err(Error::NotFound);
    }
    let stored = store::resource::get(change.sql(), id).await?;
    emit(&mut change, EventType::ResourceAppDeletion, &stored, &[app.id]);
    change.commit().await?;
    Ok(Json(stored))
}

/// What a request for a resource says, with the default of its configuration.
fn config(request: &ResourceReq) -> serde_json::Value {
    match &request.config {
        None | Some(serde_json::Value::Null) => serde_json::json!({}),
        Some(config) => config.clone(),
    }
}
