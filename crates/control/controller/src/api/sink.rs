//! Log sinks (spec controller-api section 6 N).

use std::collections::{BTreeMap, VecDeque};

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use flynn_types::controller::{EventType, Sink};
use uuid::Uuid;

use super::follow::{self, Followed};
use crate::api::endpoints::Endpoints;
use crate::database::NewEvent;
use crate::error::{Result, invalid};
use crate::events::{Filter, Stored};
use crate::input::Input;
use crate::shared::Shared;
use crate::store;

pub(super) fn endpoints() -> Endpoints {
    Endpoints::new()
        .get("/sinks", "Log sinks as a list or a stream (?since=)", list_or_stream)
        .post("/sinks", "Create a log sink", create)
        .taking::<Sink>()
        .get("/sinks/{id}", "A log sink", read)
        .delete("/sinks/{id}", "Delete a log sink", delete)
}

async fn list_or_stream(
    State(shared): State<Shared>,
    Query(parameters): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Result<Response> {
    if flynn_http::wants_events(&headers) {
        return Ok(follow::answer::<Sinks>(shared, parameters.get("since").cloned()));
    }
    Ok(Json(store::sink::list(&mut *shared.sql().await?).await?).into_response())
}

struct Sinks;

impl Followed for Sinks {
    type Object = Sink;

    fn filter() -> Filter {
        Filter::of_kinds(&[EventType::Sink, EventType::SinkDeletion])
    }

    async fn initial(shared: &Shared, since: DateTime<Utc>) -> Result<VecDeque<Self::Object>> {
        Ok(store::sink::since(&mut *shared.sql().await?, since).await?.into())
    }

    /// A deleted one is told by lacking its configuration (N3).
    async fn changed(_: &Shared, event: &Stored) -> Result<Option<Self::Object>> {
        let deleted = event.kind == EventType::SinkDeletion.as_str();
        let sink = event.data::<Sink>();
        Ok(sink.map(|sink| if deleted { Sink { config: None, ..sink } } else { sink }))
    }
}

async fn create(State(shared): State<Shared>, Input(sent): Input<Sink>) -> Result<Json<Sink>> {
    let config = sent.config.filter(|config| config.get().starts_with('{'));
    let config = config.ok_or_else(|| invalid("config", "must be the sink's configuration, an object"))?;
    let id = if sent.id.is_empty() {
        Uuid::new_v4()
    } else {
        sent.id.parse().map_err(|_| invalid("id", "must be a UUID"))?
    };
    let mut change = shared.change().await?;
    let created = store::sink::insert(change.sql(), id, &sent.kind, &config).await?;
    change.emit(NewEvent::new(EventType::Sink, &created.id, &created));
    change.commit().await?;
    Ok(Json(created))
}

async fn read(State(shared): State<Shared>, Path(id): Path<String>) -> Result<Json<Sink>> {
    Ok(Json(store::sink::get(&mut *shared.sql().await?, store::id(&id)?).await?))
}

async fn delete(State(shared): State<Shared>, Path(id): Path<String>) -> Result<Json<Sink>> {
    let mut change = shared.change().await?;
    let deleted = store::sink::delete(change.sql(), store::id(&id)?).await?;
    change.emit(NewEvent::new(EventType::SinkDeletion, &deleted.id, &deleted));
    change.commit().await?;
    Ok(Json(deleted))
}
