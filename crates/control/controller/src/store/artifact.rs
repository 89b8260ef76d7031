//! `artifacts`, and `release_artifacts` as far as it leads to them.

use flynn_types::image::Artifact;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::{Columns as _, all};
use crate::error::{Error, Result};

fn artifact(row: &PgRow) -> sqlx::Result<Artifact> {
    Ok(Artifact {
        id: row.id("artifact_id")?,
        kind: row.try_get("type")?,
        uri: row.try_get("uri")?,
        meta: row.json("meta")?,
        manifest: row.json("manifest")?,
        hashes: row.json("hashes")?,
        size: row.or_default("size")?,
        layer_url_template: row.or_default("layer_url_template")?,
        created_at: row.time("created_at")?,
    })
}

pub(crate) async fn list(sql: &mut PgConnection) -> Result<Vec<Artifact>> {
    let rows = sqlx::query("SELECT * FROM artifacts WHERE deleted_at IS NULL ORDER BY created_at DESC, artifact_id");
    Ok(all(&rows.fetch_all(sql).await?, artifact)?)
}

pub(crate) async fn get(sql: &mut PgConnection, id: Uuid) -> Result<Artifact> {
    let row = sqlx::query("SELECT * FROM artifacts WHERE artifact_id = $1 AND deleted_at IS NULL").bind(id);
    Ok(artifact(&row.fetch_optional(sql).await?.ok_or(Error::NotFound)?)?)
}

/// Those that exist, in the order of `ids`.
pub(crate) async fn get_all(sql: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<Artifact>> {
    let rows = sqlx::query(
        "SELECT a.* FROM unnest($1::uuid[]) WITH ORDINALITY wanted (id, position)
         JOIN artifacts a ON a.artifact_id = wanted.id AND a.deleted_at IS NULL ORDER BY position",
    );
    Ok(all(&rows.bind(ids).fetch_all(sql).await?, artifact)?)
}

/// The live artifact of this type at this address.
pub(crate) async fn find(sql: &mut PgConnection, kind: &str, uri: &str) -> Result<Option<Artifact>> {
    let row = sqlx::query("SELECT * FROM artifacts WHERE type = $1 AND uri = $2 AND deleted_at IS NULL");
    Ok(row.bind(kind).bind(uri).fetch_optional(sql).await?.as_ref().map(artifact).transpose()?)
}

/// Inserts it, or gives the one that is there (R3).
pub(crate) async fn insert(sql: &mut PgConnection, new: &Artifact, id: Uuid) -> Result<Artifact> {
    let insert = sqlx::query(
        "INSERT INTO artifacts (artifact_id, type, uri, meta, manifest, hashes, size, layer_url_template)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (type, uri) WHERE deleted_at IS NULL DO NOTHING RETURNING *",
    );
    let insert = insert.bind(id).bind(&new.kind).bind(&new.uri).bind(Json(&new.meta));
    let insert = insert.bind(new.manifest.as_ref().map(Json)).bind(Json(&new.hashes));
    let row = insert.bind(new.size).bind(&new.layer_url_template).fetch_optional(&mut *sql).await?;
    match row {
        Some(row) => Ok(artifact(&row)?),
        None => find(sql, &new.kind, &new.uri).await?.ok_or(Error::NotFound),
    }
}

/// Deleted ones too.
pub(crate) async fn even_deleted(sql: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<Artifact>> {
    let rows = sqlx::query("SELECT * FROM artifacts WHERE artifact_id = ANY($1)").bind(ids);
    Ok(all(&rows.fetch_all(sql).await?, artifact)?)
}

/// Which of these exist; they stay until the transaction ends.
pub(crate) async fn lock_all(sql: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<Uuid>> {
    let rows = sqlx::query_scalar(
        "SELECT artifact_id FROM artifacts WHERE artifact_id = ANY($1) AND deleted_at IS NULL FOR SHARE",
    );
    Ok(rows.bind(ids).fetch_all(sql).await?)
}
