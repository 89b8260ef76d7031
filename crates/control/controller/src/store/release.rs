//! `releases` and their artifacts.

use flynn_types::controller::Release;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::{Columns as _, all};
use crate::error::{Error, Result};

/// A release with the ids of its artifacts, in their order.
macro_rules! select {
    ($condition:literal) => {
        concat!(
            "SELECT r.*, ARRAY(SELECT artifact_id FROM release_artifacts a
                WHERE a.release_id = r.release_id AND a.deleted_at IS NULL ORDER BY index) AS artifact_ids
             FROM releases r WHERE ",
            $condition
        )
    };
}

pub(crate) fn release(row: &PgRow) -> sqlx::Result<Release> {
    let artifacts: Vec<Uuid> = row.try_get("artifact_ids")?;
    let artifact_ids: Vec<_> = artifacts.iter().map(Uuid::to_string).collect();
    Ok(Release {
        id: row.id("release_id")?,
        app_id: row.optional_id("app_id")?,
        artifact_id: artifact_ids.first().cloned().unwrap_or_default(),
        artifact_ids,
        env: row.json("env")?,
        meta: row.json("meta")?,
        processes: row.json("processes")?,
        created_at: row.time("created_at")?,
    })
}

pub(crate) async fn get(sql: &mut PgConnection, id: Uuid) -> Result<Release> {
    let row = sqlx::query(select!("release_id = $1 AND deleted_at IS NULL")).bind(id).fetch_optional(sql).await?;
    Ok(release(&row.ok_or(Error::NotFound)?)?)
}

/// Also one that was deleted, for formations that still end.
pub(crate) async fn get_even_deleted(sql: &mut PgConnection, id: Uuid) -> Result<Release> {
    Ok(release(&sqlx::query(select!("release_id = $1")).bind(id).fetch_one(sql).await?)?)
}

pub(crate) async fn get_all_even_deleted(sql: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<Release>> {
    Ok(all(&sqlx::query(select!("release_id = ANY($1)")).bind(ids).fetch_all(sql).await?, release)?)
}

pub(crate) async fn list(sql: &mut PgConnection) -> Result<Vec<Release>> {
    let rows = sqlx::query(select!("deleted_at IS NULL ORDER BY created_at DESC, release_id"));
    Ok(all(&rows.fetch_all(sql).await?, release)?)
}

/// Those that were made for an app, and those that it has formations of.
pub(crate) async fn of_app(sql: &mut PgConnection, app_id: Uuid) -> Result<Vec<Release>> {
    let rows = sqlx::query(select!(
        "deleted_at IS NULL AND (app_id = $1 OR release_id IN
            (SELECT release_id FROM formations f WHERE f.app_id = $1 AND f.deleted_at IS NULL))
         ORDER BY created_at DESC, release_id"
    ));
    Ok(all(&rows.bind(app_id).fetch_all(sql).await?, release)?)
}

/// Whether a release is an app's own, or one that it runs (R8).
pub(crate) async fn belongs_to(sql: &mut PgConnection, release_id: Uuid, app_id: Uuid) -> Result<bool> {
    let belongs = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM releases r WHERE release_id = $1 AND deleted_at IS NULL AND (app_id = $2
            OR EXISTS (SELECT FROM formations f WHERE f.release_id = $1 AND f.app_id = $2)
            OR EXISTS (SELECT FROM apps a WHERE a.release_id = $1 AND a.app_id = $2)))",
    );
    Ok(belongs.bind(release_id).bind(app_id).fetch_one(sql).await?)
}

pub(crate) async fn insert(
    sql: &mut PgConnection,
    id: Uuid,
    app_id: Uuid,
    new: &Release,
    artifacts: &[Uuid],
) -> Result<()> {
    let insert =
        sqlx::query("INSERT INTO releases (release_id, app_id, env, meta, processes) VALUES ($1, $2, $3, $4, $5)");
    let insert = insert.bind(id).bind(app_id).bind(Json(&new.env)).bind(Json(&new.meta)).bind(Json(&new.processes));
    insert.execute(&mut *sql).await?;
    let link = sqlx::query(
        "INSERT INTO release_artifacts (release_id, artifact_id, index)
         SELECT $1, id, position - 1 FROM unnest($2::uuid[]) WITH ORDINALITY list (id, position)",
    );
    link.bind(id).bind(artifacts).execute(sql).await?;
    Ok(())
}

pub(crate) async fn is_current(sql: &mut PgConnection, id: Uuid) -> Result<bool> {
    let current = sqlx::query_scalar("SELECT EXISTS (SELECT FROM apps WHERE release_id = $1)");
    Ok(current.bind(id).fetch_one(sql).await?)
}

/// Deletes a release and its links; gives the artifacts that nothing uses any more, deleted too (R11).
pub(crate) async fn delete(sql: &mut PgConnection, id: Uuid) -> Result<Vec<Uuid>> {
    let delete = sqlx::query("UPDATE releases SET deleted_at = now() WHERE release_id = $1 AND deleted_at IS NULL");
    delete.bind(id).execute(&mut *sql).await?;
    let unlink = sqlx::query_scalar(
        "UPDATE release_artifacts SET deleted_at = now() WHERE release_id = $1 AND deleted_at IS NULL
         RETURNING artifact_id",
    );
    let unlinked: Vec<Uuid> = unlink.bind(id).fetch_all(&mut *sql).await?;
    // First locked, then looked at again: a release that is being created keeps its artifacts (`artifact::lock_all`).
    let lock = sqlx::query("SELECT FROM artifacts WHERE artifact_id = ANY($1) ORDER BY artifact_id FOR UPDATE");
    lock.bind(&unlinked).execute(&mut *sql).await?;
    let unused = sqlx::query_scalar(
        "UPDATE artifacts a SET deleted_at = now() WHERE artifact_id = ANY($1) AND deleted_at IS NULL
            AND coalesce(meta->>'flynn.system-image', '') <> 'true'
            AND NOT EXISTS (SELECT FROM release_artifacts r WHERE r.artifact_id = a.artifact_id AND r.deleted_at IS NULL)
         RETURNING artifact_id",
    );
    Ok(unused.bind(unlinked).fetch_all(sql).await?)
}

/// Of these layers, those that no live artifact has.
pub(crate) async fn unused_layers(sql: &mut PgConnection, layers: &[String]) -> Result<Vec<String>> {
    let unused = sqlx::query_scalar(
        "SELECT id FROM unnest($1::text[]) id WHERE NOT EXISTS (
            SELECT FROM artifacts WHERE deleted_at IS NULL
                AND manifest @> jsonb_build_object('rootfs', jsonb_build_array(jsonb_build_object(
                    'layers', jsonb_build_array(jsonb_build_object('id', id))))))",
    );
    Ok(unused.bind(layers).fetch_all(sql).await?)
}
