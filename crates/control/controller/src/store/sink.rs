//! `sinks`.

use chrono::{DateTime, Utc};
use flynn_types::controller::Sink;
use serde_json::value::RawValue;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::{Columns as _, all};
use crate::error::{Error, Result};

fn sink(row: &PgRow) -> sqlx::Result<Sink> {
    Ok(Sink {
        id: row.id("sink_id")?,
        kind: row.try_get("kind")?,
        host_managed: false,
        config: row.try_get::<Option<Json<Box<RawValue>>>, _>("config")?.map(|json| json.0),
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    })
}

/// All that changed since, newest update first; all there are from the begin of time.
pub(crate) async fn since(sql: &mut PgConnection, since: DateTime<Utc>) -> Result<Vec<Sink>> {
    let rows = sqlx::query(
        "SELECT * FROM sinks WHERE deleted_at IS NULL AND updated_at >= $1 ORDER BY updated_at DESC, sink_id",
    );
    Ok(all(&rows.bind(since).fetch_all(sql).await?, sink)?)
}

pub(crate) async fn list(sql: &mut PgConnection) -> Result<Vec<Sink>> {
    let rows = sqlx::query("SELECT * FROM sinks WHERE deleted_at IS NULL ORDER BY created_at DESC, sink_id");
    Ok(all(&rows.fetch_all(sql).await?, sink)?)
}

pub(crate) async fn get(sql: &mut PgConnection, id: Uuid) -> Result<Sink> {
    let row = sqlx::query("SELECT * FROM sinks WHERE sink_id = $1 AND deleted_at IS NULL").bind(id);
    Ok(sink(&row.fetch_optional(sql).await?.ok_or(Error::NotFound)?)?)
}

pub(crate) async fn insert(sql: &mut PgConnection, id: Uuid, kind: &str, config: &RawValue) -> Result<Sink> {
    let insert = sqlx::query("INSERT INTO sinks (sink_id, kind, config) VALUES ($1, $2, $3) RETURNING *");
    Ok(sink(&insert.bind(id).bind(kind).bind(Json(config)).fetch_one(sql).await?)?)
}

pub(crate) async fn delete(sql: &mut PgConnection, id: Uuid) -> Result<Sink> {
    let delete = sqlx::query(
        "UPDATE sinks SET deleted_at = now(), updated_at = now() WHERE sink_id = $1 AND deleted_at IS NULL RETURNING *",
    );
    Ok(sink(&delete.bind(id).fetch_optional(sql).await?.ok_or(Error::NotFound)?)?)
}
