//! `events`.

use flynn_types::controller::{Event, EventType};
use serde_json::value::RawValue;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgConnection, Postgres, QueryBuilder, Row as _};
use uuid::Uuid;

use super::{Columns as _, all};
use crate::events::{Filter, Stored};

const SELECT: &str = "SELECT event_id, app_id, object_type, object_id, data, created_at FROM events WHERE true";

fn stored(row: &PgRow) -> sqlx::Result<Stored> {
    let (id, kind, object_id) =
        (row.try_get("event_id")?, row.try_get::<String, _>("object_type")?, row.try_get::<String, _>("object_id")?);
    let event = Event {
        id,
        app_id: row.optional_id("app_id")?,
        object_type: EventType::ALL.iter().copied().find(|known| known.as_str() == kind),
        object_id: object_id.clone(),
        data: row.try_get::<Option<Json<Box<RawValue>>>, _>("data")?.map(|json| json.0),
        created_at: row.time("created_at")?,
    };
    Ok(Stored { id, app_id: row.try_get::<Option<Uuid>, _>("app_id")?, kind, object_id, event })
}

fn filtered(filter: &Filter) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new(SELECT);
    if let Some(id) = filter.app_id {
        query.push(" AND app_id = ").push_bind(id);
    }
    if !filter.kinds.is_empty() {
        query.push(" AND object_type = ANY(").push_bind(filter.kinds.clone()).push(")");
    }
    if let Some(id) = &filter.object_id {
        query.push(" AND object_id = ").push_bind(id.clone());
    }
    query
}

/// The id of the newest event, 0 without one.
pub(crate) async fn newest(sql: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar("SELECT coalesce(max(event_id), 0) FROM events").fetch_one(sql).await
}

/// All events after one, oldest first.
pub(crate) async fn after(sql: &mut PgConnection, id: i64, limit: i64) -> sqlx::Result<Vec<Stored>> {
    page(sql, &Filter::default(), id, i64::MAX, limit).await
}

/// Events with `after < id <= until`, oldest first.
pub(crate) async fn page(
    sql: &mut PgConnection,
    filter: &Filter,
    after: i64,
    until: i64,
    limit: i64,
) -> sqlx::Result<Vec<Stored>> {
    let mut query = filtered(filter);
    query.push(" AND event_id > ").push_bind(after).push(" AND event_id <= ").push_bind(until);
    query.push(" ORDER BY event_id LIMIT ").push_bind(limit);
    all(&query.build().fetch_all(sql).await?, stored)
}

/// The id before the `count` newest events after `after`.
pub(crate) async fn start_of_newest(
    sql: &mut PgConnection,
    filter: &Filter,
    after: i64,
    count: i64,
) -> sqlx::Result<i64> {
    if count <= 0 {
        return newest(sql).await;
    }
    let bounds = Bounds { since: Some(after), count: Some(count), before: None };
    let events = list(sql, filter, &bounds).await?;
    let short = i64::try_from(events.len()).is_ok_and(|length| length < count);
    Ok(if short { after } else { events.last().map_or(after, |event| event.id - 1) })
}

/// Which part of a list.
#[derive(Default)]
pub(crate) struct Bounds {
    pub(crate) before: Option<i64>,
    pub(crate) since: Option<i64>,
    pub(crate) count: Option<i64>,
}

/// Events, newest first.
pub(crate) async fn list(sql: &mut PgConnection, filter: &Filter, bounds: &Bounds) -> sqlx::Result<Vec<Event>> {
    let mut query = filtered(filter);
    if let Some(id) = bounds.before {
        query.push(" AND event_id < ").push_bind(id);
    }
    if let Some(id) = bounds.since {
        query.push(" AND event_id > ").push_bind(id);
    }
    query.push(" ORDER BY event_id DESC");
    if let Some(count) = bounds.count {
        query.push(" LIMIT ").push_bind(count.max(0));
    }
    Ok(all(&query.build().fetch_all(sql).await?, stored)?.into_iter().map(|stored| stored.event).collect())
}

pub(crate) async fn get(sql: &mut PgConnection, id: i64) -> sqlx::Result<Option<Event>> {
    let mut query = filtered(&Filter::default());
    query.push(" AND event_id = ").push_bind(id);
    Ok(query.build().fetch_optional(sql).await?.as_ref().map(stored).transpose()?.map(|stored| stored.event))
}
