//! Volumes (spec controller-api section 6 V).

use std::collections::{BTreeMap, VecDeque};

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use flynn_types::controller::{EventType, Volume};

use super::follow::{self, Followed};
use crate::api::endpoints::Endpoints;
use crate::database::NewEvent;
use crate::error::{Error, Result, invalid};
use crate::events::{Filter, Stored};
use crate::input::Input;
use crate::shared::Shared;
use crate::store;

pub(super) fn endpoints() -> Endpoints {
    Endpoints::new()
        .get("/volumes", "Volumes as a list or a stream (?since=)", list_or_stream)
        .put("/volumes/{id}", "Record what became of a volume", record)
        .taking::<Volume>()
        .get("/apps/{app}/volumes", "Volumes of an app", list_of_app)
        .get("/apps/{app}/volumes/{id}", "A volume", read)
        .put("/apps/{app}/volumes/{id}/decommission", "Keep a volume from further jobs", decommission)
}

async fn list_or_stream(
    State(shared): State<Shared>,
    Query(parameters): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Result<Response> {
    if flynn_http::wants_events(&headers) {
        return Ok(follow::answer::<Volumes>(shared, parameters.get("since").cloned()));
    }
    Ok(Json(store::volume::list(&mut *shared.sql().await?).await?).into_response())
}

struct Volumes;

impl Followed for Volumes {
    type Object = End;

    fn filter() -> Filter {
        Filter::of_kinds(&[EventType::Volume])
    }

    async fn initial(shared: &Shared, since: DateTime<Utc>) -> Result<VecDeque<Self::Object>> {
        let volumes = store::volume::since(&mut *shared.sql().await?, since).await?;
        Ok(volumes.into_iter().map(|volume| End(Some(volume))).collect())
    }

    async fn changed(_: &Shared, event: &Stored) -> Result<Option<Self::Object>> {
        Ok(event.data().map(|volume| End(Some(volume))))
    }
}

/// A volume, or the end of the initial list: a type and a state without names, which no volume has.
#[derive(Default)]
struct End(Option<Volume>);

impl serde::Serialize for End {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Some(volume) => volume.serialize(serializer),
            None => serializer.collect_map([("id", ""), ("host_id", ""), ("type", ""), ("state", "")]),
        }
    }
}

/// The body's id counts, as the scheduler sends it.
async fn record(
    State(shared): State<Shared>,
    Path(id): Path<String>,
    Input(sent): Input<Volume>,
) -> Result<Json<Volume>> {
    let id = if sent.id.is_empty() { &id } else { &sent.id };
    let id = id.parse().map_err(|_| invalid("id", "must be a UUID"))?;
    let mut change = shared.change().await?;
    let stored = store::volume::upsert(change.sql(), id, &sent).await?;
    change.emit(event(&stored));
    change.commit().await?;
    Ok(Json(stored))
}

fn event(volume: &Volume) -> NewEvent {
    NewEvent::new(EventType::Volume, &volume.id, volume).app_text(&volume.app_id)
}

async fn list_of_app(State(shared): State<Shared>, Path(app): Path<String>) -> Result<Json<Vec<Volume>>> {
    let mut sql = shared.sql().await?;
    let app = store::app::get(&mut sql, &app).await?;
    Ok(Json(store::volume::of_app(&mut sql, store::id(&app.id)?).await?))
}

async fn read(State(shared): State<Shared>, Path((app, id)): Path<(String, String)>) -> Result<Json<Volume>> {
    let mut sql = shared.sql().await?;
    let app = store::app::get(&mut sql, &app).await?;
    let volume = store::volume::get(&mut sql, store::id(&id)?).await?;
    if volume.app_id == app.id { Ok(Json(volume)) } else { Err(Error::NotFound) }
}

async fn decommission(State(shared): State<Shared>, Path((app, id)): Path<(String, String)>) -> Result<Json<Volume>> {
    let mut change = shared.change().await?;
    let app = store::app::get(change.sql(), &app).await?;
    let stored = store::volume::decommission(change.sql(), store::id(&id)?, store::id(&app.id)?).await?;
    change.emit(event(&stored));
    change.commit().await?;
    Ok(Json(stored))
}
