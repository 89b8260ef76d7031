//! `volumes`.

use chrono::{DateTime, Utc};
use flynn_types::controller::{Volume, VolumeState};
use flynn_types::host::VolumeType;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::{Columns as _, all};
use crate::error::{Error, Result};

fn volume(row: &PgRow) -> sqlx::Result<Volume> {
    let (kind, state): (String, String) = (row.try_get("type")?, row.try_get("state")?);
    let kinds = [VolumeType::Data, VolumeType::Squashfs, VolumeType::Ext2];
    let states = [VolumeState::Pending, VolumeState::Created, VolumeState::Destroyed];
    Ok(Volume {
        path: row.or_default("path")?,
        delete_on_stop: row.try_get("delete_on_stop")?,
        id: row.id("volume_id")?,
        host_id: row.try_get("host_id")?,
        kind: kinds.into_iter().find(|known| known.as_str() == kind).unwrap_or_default(),
        state: states.into_iter().find(|known| known.as_str() == state).unwrap_or_default(),
        app_id: row.optional_id("app_id")?,
        release_id: row.optional_id("release_id")?,
        job_id: Some(row.optional_id("job_id")?).filter(|id| !id.is_empty()),
        job_type: row.or_default("job_type")?,
        meta: row.json("meta")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
        decommissioned_at: row.time("decommissioned_at")?,
    })
}

/// All, newest update first.
pub(crate) async fn list(sql: &mut PgConnection) -> Result<Vec<Volume>> {
    let rows = sqlx::query("SELECT * FROM volumes ORDER BY updated_at DESC, volume_id");
    Ok(all(&rows.fetch_all(sql).await?, volume)?)
}

pub(crate) async fn since(sql: &mut PgConnection, since: DateTime<Utc>) -> Result<Vec<Volume>> {
    let rows = sqlx::query("SELECT * FROM volumes WHERE updated_at >= $1 ORDER BY updated_at DESC, volume_id");
    Ok(all(&rows.bind(since).fetch_all(sql).await?, volume)?)
}

pub(crate) async fn of_app(sql: &mut PgConnection, app_id: Uuid) -> Result<Vec<Volume>> {
    let rows = sqlx::query("SELECT * FROM volumes WHERE app_id = $1 ORDER BY updated_at DESC, volume_id");
    Ok(all(&rows.bind(app_id).fetch_all(sql).await?, volume)?)
}

pub(crate) async fn get(sql: &mut PgConnection, id: Uuid) -> Result<Volume> {
    let row = sqlx::query("SELECT * FROM volumes WHERE volume_id = $1").bind(id).fetch_optional(sql).await?;
    Ok(volume(&row.ok_or(Error::NotFound)?)?)
}

/// What the scheduler knows of a volume. What does not change stays (V1).
pub(crate) async fn upsert(sql: &mut PgConnection, id: Uuid, new: &Volume) -> Result<Volume> {
    let upsert = sqlx::query(
        "INSERT INTO volumes (volume_id, host_id, type, state, app_id, release_id, job_id, job_type, path,
            delete_on_stop, meta)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
         ON CONFLICT (volume_id) DO UPDATE SET host_id = excluded.host_id, state = excluded.state,
            job_id = excluded.job_id, meta = excluded.meta, updated_at = now()
         RETURNING *",
    );
    let optional = |text: &str| text.parse::<Uuid>().ok();
    let upsert = upsert.bind(id).bind(&new.host_id).bind(new.kind.as_str()).bind(new.state.as_str());
    let upsert = upsert.bind(optional(&new.app_id)).bind(optional(&new.release_id));
    let upsert = upsert.bind(new.job_id.as_deref().and_then(optional)).bind(&new.job_type).bind(&new.path);
    Ok(volume(&upsert.bind(new.delete_on_stop).bind(Json(&new.meta)).fetch_one(sql).await?)?)
}

/// From now on no job gets it.
pub(crate) async fn decommission(sql: &mut PgConnection, id: Uuid, app_id: Uuid) -> Result<Volume> {
    let update = sqlx::query(
        "UPDATE volumes SET updated_at = now(), decommissioned_at = coalesce(decommissioned_at, now())
         WHERE volume_id = $1 AND app_id = $2 RETURNING *",
    );
    let row = update.bind(id).bind(app_id).fetch_optional(sql).await?;
    Ok(volume(&row.ok_or(Error::NotFound)?)?)
}
