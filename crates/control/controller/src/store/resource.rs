//! `providers`, `resources` and `app_resources`.

use flynn_types::controller::{Provider, Resource};
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::{Columns as _, all};
use crate::error::{Error, Result};

fn provider(row: &PgRow) -> sqlx::Result<Provider> {
    Ok(Provider {
        id: row.id("provider_id")?,
        url: row.try_get("url")?,
        name: row.try_get("name")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    })
}

pub(crate) async fn providers(sql: &mut PgConnection) -> Result<Vec<Provider>> {
    let rows = sqlx::query("SELECT * FROM providers WHERE deleted_at IS NULL ORDER BY created_at DESC, provider_id");
    Ok(all(&rows.fetch_all(sql).await?, provider)?)
}

/// By id or name.
pub(crate) async fn get_provider(sql: &mut PgConnection, reference: &str) -> Result<Provider> {
    let row = sqlx::query(
        "SELECT * FROM providers WHERE deleted_at IS NULL AND (provider_id = $1 OR name = $2)
         ORDER BY provider_id = $1 DESC NULLS LAST LIMIT 1",
    );
    let row = row.bind(super::id(reference).ok()).bind(reference).fetch_optional(sql).await?;
    Ok(provider(&row.ok_or(Error::NotFound)?)?)
}

pub(crate) async fn insert_provider(sql: &mut PgConnection, id: Uuid, new: &Provider) -> Result<Provider> {
    let insert = sqlx::query("INSERT INTO providers (provider_id, name, url) VALUES ($1, $2, $3) RETURNING *");
    Ok(provider(&insert.bind(id).bind(&new.name).bind(&new.url).fetch_one(sql).await?)?)
}

/// A resource with the ids of its apps.
macro_rules! select {
    ($condition:literal) => {
        concat!(
            "SELECT r.*, ARRAY(SELECT app_id FROM app_resources a WHERE a.resource_id = r.resource_id
                AND a.deleted_at IS NULL ORDER BY created_at DESC, app_id) AS app_ids
             FROM resources r WHERE deleted_at IS NULL AND ",
            $condition
        )
    };
}

fn resource(row: &PgRow) -> sqlx::Result<Resource> {
    let apps: Vec<Uuid> = row.try_get("app_ids")?;
    Ok(Resource {
        id: row.id("resource_id")?,
        provider_id: row.id("provider_id")?,
        external_id: row.try_get("external_id")?,
        env: row.json("env")?,
        apps: apps.iter().map(Uuid::to_string).collect(),
        created_at: row.time("created_at")?,
    })
}

pub(crate) async fn list(sql: &mut PgConnection) -> Result<Vec<Resource>> {
    let rows = sqlx::query(select!("true ORDER BY created_at DESC, resource_id"));
    Ok(all(&rows.fetch_all(sql).await?, resource)?)
}

pub(crate) async fn of_provider(sql: &mut PgConnection, provider_id: Uuid) -> Result<Vec<Resource>> {
    let rows = sqlx::query(select!("provider_id = $1 ORDER BY created_at DESC, resource_id"));
    Ok(all(&rows.bind(provider_id).fetch_all(sql).await?, resource)?)
}

pub(crate) async fn of_app(sql: &mut PgConnection, app_id: Uuid) -> Result<Vec<Resource>> {
    let rows = sqlx::query(select!(
        "resource_id IN (SELECT resource_id FROM app_resources l WHERE l.app_id = $1 AND l.deleted_at IS NULL)
         ORDER BY created_at DESC, resource_id"
    ));
    Ok(all(&rows.bind(app_id).fetch_all(sql).await?, resource)?)
}

pub(crate) async fn get(sql: &mut PgConnection, id: Uuid) -> Result<Resource> {
    let row = sqlx::query(select!("resource_id = $1")).bind(id).fetch_optional(sql).await?;
    Ok(resource(&row.ok_or(Error::NotFound)?)?)
}

/// Records a resource; one that is there already stays, with what it is now (C5).
pub(crate) async fn upsert(sql: &mut PgConnection, id: Uuid, provider_id: Uuid, new: &Resource) -> Result<()> {
    let insert = sqlx::query(
        "INSERT INTO resources (resource_id, provider_id, external_id, env) VALUES ($1, $2, $3, $4)
         ON CONFLICT (resource_id) DO UPDATE
            SET external_id = excluded.external_id, env = excluded.env, deleted_at = NULL",
    );
    let insert = insert.bind(id).bind(provider_id).bind(&new.external_id).bind(Json(&new.env));
    insert.execute(sql).await?;
    Ok(())
}

pub(crate) async fn attach(sql: &mut PgConnection, id: Uuid, apps: &[Uuid]) -> Result<()> {
    let link = sqlx::query(
        "INSERT INTO app_resources (app_id, resource_id) SELECT app_id, $1 FROM unnest($2::uuid[]) app_id
         ON CONFLICT (app_id, resource_id) DO UPDATE SET deleted_at = NULL",
    );
    link.bind(id).bind(apps).execute(sql).await?;
    Ok(())
}

/// `false` when the app did not have it.
pub(crate) async fn detach(sql: &mut PgConnection, id: Uuid, app_id: Uuid) -> Result<bool> {
    let unlink = sqlx::query("DELETE FROM app_resources WHERE resource_id = $1 AND app_id = $2");
    Ok(unlink.bind(id).bind(app_id).execute(sql).await?.rows_affected() > 0)
}

pub(crate) async fn delete(sql: &mut PgConnection, id: Uuid) -> Result<()> {
    sqlx::query("UPDATE resources SET deleted_at = now() WHERE resource_id = $1").bind(id).execute(&mut *sql).await?;
    sqlx::query("DELETE FROM app_resources WHERE resource_id = $1").bind(id).execute(sql).await?;
    Ok(())
}
