//! Events (spec controller-api section 6 E).

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use flynn_types::controller::Event;

use crate::api::endpoints::Endpoints;
use crate::error::{Error, Result, invalid};
use crate::events::{self, Filter};
use crate::shared::Shared;
use crate::store;
use crate::store::event::Bounds;

pub(super) fn endpoints() -> Endpoints {
    Endpoints::new().get("/events", "Events as a list (Accept: application/json) or a stream", list_or_stream).get(
        "/events/{id}",
        "An event",
        read,
    )
}

type Parameters = BTreeMap<String, String>;

async fn list_or_stream(
    State(shared): State<Shared>,
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
) -> Result<Response> {
    let filter = filter(&shared, &parameters).await?;
    let count = number(&parameters, "count")?;
    // E2: anything else streams.
    if headers.get(header::ACCEPT).is_some_and(|accept| accept == "application/json") {
        let (before, since) = (number(&parameters, "before_id")?, number(&parameters, "since_id")?);
        let bounds = Bounds { before, since, count: count.filter(|count| *count > 0) };
        return Ok(Json(store::event::list(&mut *shared.sql().await?, &filter, &bounds).await?).into_response());
    }
    let last = last_event_id(&headers)?;
    let past = parameters.get("past").is_some_and(|past| past == "true");
    let after = if past || last > 0 { Some(last) } else { None };
    let count = count.filter(|count| *count > 0);
    Ok(flynn_http::sse_items(events::resumed(&shared.pool, &shared.feed, filter, after, count).await?))
}

async fn filter(shared: &Shared, parameters: &Parameters) -> Result<Filter> {
    let text = |name: &str| parameters.get(name).filter(|text| !text.is_empty());
    let app_id = match text("app_id") {
        Some(app) => Some(store::id(&store::app::get(&mut *shared.sql().await?, app).await?.id)?),
        None => None,
    };
    let kinds = text("object_types").map(|kinds| kinds.split(',').map(str::to_owned).collect()).unwrap_or_default();
    Ok(Filter { app_id, kinds, object_id: text("object_id").cloned() })
}

fn number(parameters: &Parameters, name: &str) -> Result<Option<i64>> {
    let text = parameters.get(name).filter(|text| !text.is_empty());
    text.map(|text| text.parse().map_err(|_| invalid("", format!("{name} is invalid")))).transpose()
}

/// E4: refused before the stream begins.
fn last_event_id(headers: &HeaderMap) -> Result<i64> {
    let Some(value) = headers.get("last-event-id").filter(|value| !value.is_empty()) else { return Ok(0) };
    let id = value.to_str().ok().and_then(|text| text.parse().ok());
    id.ok_or_else(|| invalid("", "Last-Event-Id is invalid"))
}

async fn read(State(shared): State<Shared>, Path(id): Path<String>) -> Result<Json<Event>> {
    let id = id.parse().map_err(|_| Error::NotFound)?;
    let event = store::event::get(&mut *shared.sql().await?, id).await?;
    event.map(Json).ok_or(Error::NotFound)
}
