//! `formations` and `scale_requests`.

use std::collections::BTreeMap;

use flynn_types::controller::{
    ExpandedFormation, Formation, Processes, Release, ScaleRequest, ScaleRequestState, Tags,
};
use flynn_types::image::Artifact;
use flynn_types::time::GoTime;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::{Columns as _, all};
use crate::error::Result;

/// A row, also of a formation that was deleted.
pub(crate) struct Stored {
    pub(crate) formation: Formation,
    pub(crate) deleted: bool,
}

fn stored(row: &PgRow) -> sqlx::Result<Stored> {
    let formation = Formation {
        app_id: row.id("app_id")?,
        release_id: row.id("release_id")?,
        processes: row.json("processes")?,
        tags: row.json("tags")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    };
    Ok(Stored { formation, deleted: row.time("deleted_at")?.is_some() })
}

fn formation(row: &PgRow) -> sqlx::Result<Formation> {
    Ok(stored(row)?.formation)
}

pub(crate) async fn find(sql: &mut PgConnection, app_id: Uuid, release_id: Uuid) -> Result<Option<Stored>> {
    let row = sqlx::query("SELECT * FROM formations WHERE app_id = $1 AND release_id = $2");
    Ok(row.bind(app_id).bind(release_id).fetch_optional(sql).await?.as_ref().map(stored).transpose()?)
}

pub(crate) async fn of_app(sql: &mut PgConnection, app_id: Uuid) -> Result<Vec<Formation>> {
    let rows = sqlx::query(
        "SELECT * FROM formations WHERE app_id = $1 AND deleted_at IS NULL ORDER BY created_at DESC, release_id",
    );
    Ok(all(&rows.bind(app_id).fetch_all(sql).await?, formation)?)
}

/// Those that some job runs of (F9), newest update first.
pub(crate) async fn active(sql: &mut PgConnection) -> Result<Vec<Stored>> {
    let rows = sqlx::query(
        "SELECT * FROM formations WHERE deleted_at IS NULL AND jsonb_typeof(processes) = 'object'
            AND (SELECT sum(value::bigint) FROM jsonb_each_text(processes)) > 0 ORDER BY updated_at DESC",
    );
    Ok(all(&rows.fetch_all(sql).await?, stored)?)
}

/// Live ones that changed since, newest update first.
pub(crate) async fn since(sql: &mut PgConnection, since: chrono::DateTime<chrono::Utc>) -> Result<Vec<Stored>> {
    let rows =
        sqlx::query("SELECT * FROM formations WHERE deleted_at IS NULL AND updated_at >= $1 ORDER BY updated_at DESC");
    Ok(all(&rows.bind(since).fetch_all(sql).await?, stored)?)
}

/// Other apps that have a live formation of a release.
pub(crate) async fn other_apps(sql: &mut PgConnection, release_id: Uuid, app_id: Uuid) -> Result<Vec<String>> {
    let ids = sqlx::query_scalar::<_, Uuid>(
        "SELECT app_id FROM formations WHERE release_id = $1 AND app_id <> $2 AND deleted_at IS NULL ORDER BY app_id",
    );
    let ids = ids.bind(release_id).bind(app_id).fetch_all(sql).await?;
    Ok(ids.iter().map(Uuid::to_string).collect())
}

/// Stores counts and tags; a deleted formation lives again.
pub(crate) async fn upsert(
    sql: &mut PgConnection,
    app_id: Uuid,
    release_id: Uuid,
    processes: &Processes,
    tags: &Tags,
) -> Result<Formation> {
    let upsert = sqlx::query(
        "INSERT INTO formations (app_id, release_id, processes, tags) VALUES ($1, $2, $3, $4)
         ON CONFLICT (app_id, release_id) DO UPDATE
            SET processes = excluded.processes, tags = excluded.tags, updated_at = now(), deleted_at = NULL
         RETURNING *",
    );
    let upsert = upsert.bind(app_id).bind(release_id).bind(Json(processes)).bind(Json(tags));
    Ok(formation(&upsert.fetch_one(sql).await?)?)
}

pub(crate) async fn delete(sql: &mut PgConnection, app_id: Uuid, release_id: Uuid) -> Result<()> {
    let delete = sqlx::query(
        "UPDATE formations SET deleted_at = now(), updated_at = now(), processes = NULL, tags = NULL
         WHERE app_id = $1 AND release_id = $2 AND deleted_at IS NULL",
    );
    delete.bind(app_id).bind(release_id).execute(sql).await?;
    Ok(())
}

/// Adds what running them takes, with few queries however many there are.
pub(crate) async fn expand(sql: &mut PgConnection, formations: Vec<Stored>) -> Result<Vec<ExpandedFormation>> {
    let ids = |id: fn(&Formation) -> &str| {
        formations.iter().filter_map(|stored| id(&stored.formation).parse().ok()).collect::<Vec<Uuid>>()
    };
    let (app_ids, release_ids) = (ids(|formation| &formation.app_id), ids(|formation| &formation.release_id));
    let apps = super::app::get_all(sql, &app_ids).await?;
    let apps: BTreeMap<_, _> = apps.into_iter().map(|app| (app.id.clone(), app)).collect();
    let releases = super::release::get_all_even_deleted(sql, &release_ids).await?;
    let releases: BTreeMap<_, _> = releases.into_iter().map(|release| (release.id.clone(), release)).collect();
    let artifact_ids: Vec<_> =
        releases.values().flat_map(|release| &release.artifact_ids).filter_map(|id| id.parse().ok()).collect();
    let artifacts = super::artifact::even_deleted(sql, &artifact_ids).await?;
    let artifacts: BTreeMap<_, _> = artifacts.into_iter().map(|artifact| (artifact.id.clone(), artifact)).collect();
    let mut pending = pending(sql, &app_ids).await?;
    let expanded = formations.into_iter().map(|Stored { formation, deleted }| {
        let release = releases.get(&formation.release_id).cloned();
        ExpandedFormation {
            app: apps.get(&formation.app_id).cloned(),
            artifacts: artifacts_of(release.as_ref(), &artifacts),
            release,
            pending_scale_request: pending.remove(&(formation.app_id, formation.release_id)),
            processes: formation.processes,
            tags: formation.tags,
            updated_at: formation.updated_at.unwrap_or(GoTime::UNSET),
            deleted,
            deprecated_artifact: None,
        }
    });
    Ok(expanded.collect())
}

fn artifacts_of(release: Option<&Release>, artifacts: &BTreeMap<String, Artifact>) -> Vec<Artifact> {
    release.iter().flat_map(|release| &release.artifact_ids).filter_map(|id| artifacts.get(id).cloned()).collect()
}

fn request(row: &PgRow) -> sqlx::Result<ScaleRequest> {
    let state: String = row.try_get("state")?;
    let states = [ScaleRequestState::Pending, ScaleRequestState::Cancelled, ScaleRequestState::Complete];
    Ok(ScaleRequest {
        id: row.id("scale_request_id")?,
        app_id: row.id("app_id")?,
        release_id: row.id("release_id")?,
        state: states.into_iter().find(|known| known.as_str() == state).unwrap_or_default(),
        old_processes: row.json("old_processes")?,
        new_processes: row.json("new_processes")?,
        old_tags: row.json("old_tags")?,
        new_tags: row.json("new_tags")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    })
}

/// The pending request of each formation of these apps; within formations `updated_at` is null.
async fn pending(sql: &mut PgConnection, app_ids: &[Uuid]) -> Result<BTreeMap<(String, String), ScaleRequest>> {
    let rows =
        sqlx::query("SELECT * FROM scale_requests WHERE app_id = ANY($1) AND state = 'pending' ORDER BY created_at");
    let requests = all(&rows.bind(app_ids).fetch_all(sql).await?, request)?;
    let key = |request: &ScaleRequest| (request.app_id.clone(), request.release_id.clone());
    let without_update = |request| ScaleRequest { updated_at: None, ..request };
    Ok(requests.into_iter().map(|request| (key(&request), without_update(request))).collect())
}

/// Cancels what is pending for a formation (F4).
pub(crate) async fn cancel_pending(
    sql: &mut PgConnection,
    app_id: Uuid,
    release_id: Uuid,
) -> Result<Vec<ScaleRequest>> {
    let cancel = sqlx::query(
        "UPDATE scale_requests SET state = 'cancelled', updated_at = now()
         WHERE app_id = $1 AND release_id = $2 AND state = 'pending' RETURNING *",
    );
    Ok(all(&cancel.bind(app_id).bind(release_id).fetch_all(sql).await?, request)?)
}

pub(crate) async fn insert_request(
    sql: &mut PgConnection,
    app_id: Uuid,
    release_id: Uuid,
    new: &ScaleRequest,
) -> Result<ScaleRequest> {
    let insert = sqlx::query(
        "INSERT INTO scale_requests
            (scale_request_id, app_id, release_id, state, old_processes, new_processes, old_tags, new_tags)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING *",
    );
    let insert = insert.bind(Uuid::new_v4()).bind(app_id).bind(release_id).bind(new.state.as_str());
    let insert = insert.bind(Json(&new.old_processes)).bind(new.new_processes.as_ref().map(Json));
    let insert = insert.bind(Json(&new.old_tags)).bind(new.new_tags.as_ref().map(Json));
    Ok(request(&insert.fetch_one(sql).await?)?)
}

/// Ends a request. `None` when it has ended before.
pub(crate) async fn end_request(
    sql: &mut PgConnection,
    id: Uuid,
    state: ScaleRequestState,
) -> Result<Option<ScaleRequest>> {
    let end = sqlx::query(
        "UPDATE scale_requests SET state = $2, updated_at = now() WHERE scale_request_id = $1 AND state = 'pending'
         RETURNING *",
    );
    Ok(end.bind(id).bind(state.as_str()).fetch_optional(sql).await?.as_ref().map(request).transpose()?)
}

/// A request of a formation.
pub(crate) async fn find_request(
    sql: &mut PgConnection,
    id: Uuid,
    app_id: Uuid,
    release_id: Uuid,
) -> Result<Option<ScaleRequest>> {
    let row =
        sqlx::query("SELECT * FROM scale_requests WHERE scale_request_id = $1 AND app_id = $2 AND release_id = $3");
    let row = row.bind(id).bind(app_id).bind(release_id).fetch_optional(sql).await?;
    Ok(row.as_ref().map(request).transpose()?)
}
