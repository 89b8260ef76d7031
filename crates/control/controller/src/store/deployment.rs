//! `deployments`.

use flynn_types::controller::{Deployment, DeploymentStatus};
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::{Columns as _, all};
use crate::error::{Error, Result};

fn deployment(row: &PgRow) -> sqlx::Result<Deployment> {
    use DeploymentStatus::{Complete, Failed, Pending, Running};
    let status: Option<String> = row.try_get("status")?;
    let known =
        |status: String| [Pending, Running, Complete, Failed].into_iter().find(|known| known.as_str() == status);
    Ok(Deployment {
        id: row.id("deployment_id")?,
        app_id: row.id("app_id")?,
        old_release_id: row.optional_id("old_release_id")?,
        new_release_id: row.id("new_release_id")?,
        strategy: row.try_get("strategy")?,
        status: status.and_then(known),
        processes: row.json("processes")?,
        tags: row.json("tags")?,
        deploy_timeout: row.try_get("deploy_timeout")?,
        deploy_batch_size: row.try_get("deploy_batch_size")?,
        created_at: row.time("created_at")?,
        finished_at: row.time("finished_at")?,
    })
}

pub(crate) async fn get(sql: &mut PgConnection, id: Uuid) -> Result<Deployment> {
    let row =
        sqlx::query("SELECT *, deployment_status(deployment_id) AS status FROM deployments WHERE deployment_id = $1");
    Ok(deployment(&row.bind(id).fetch_optional(sql).await?.ok_or(Error::NotFound)?)?)
}

pub(crate) async fn of_app(sql: &mut PgConnection, app_id: Uuid) -> Result<Vec<Deployment>> {
    let rows = sqlx::query(
        "SELECT *, deployment_status(deployment_id) AS status FROM deployments WHERE app_id = $1
         ORDER BY created_at DESC, deployment_id",
    );
    Ok(all(&rows.bind(app_id).fetch_all(sql).await?, deployment)?)
}

/// Records a deployment; an index refuses a second unfinished one of an app. `kind` is `code` or `config`; one without
/// anything to do is finished at once.
pub(crate) async fn insert(sql: &mut PgConnection, new: &Deployment, kind: &str, finished: bool) -> Result<Deployment> {
    let insert = sqlx::query(
        "INSERT INTO deployments (deployment_id, app_id, old_release_id, new_release_id, strategy, processes, tags,
            deploy_timeout, deploy_batch_size, type, finished_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, CASE WHEN $11 THEN now() END)
         RETURNING *, $12 AS status",
    );
    let insert = insert.bind(Uuid::new_v4()).bind(super::id(&new.app_id)?).bind(super::id(&new.old_release_id).ok());
    let insert = insert.bind(super::id(&new.new_release_id)?).bind(&new.strategy).bind(Json(&new.processes));
    let insert = insert.bind(Json(&new.tags)).bind(new.deploy_timeout).bind(new.deploy_batch_size).bind(kind);
    let status = new.status.unwrap_or_default().as_str();
    Ok(deployment(&insert.bind(finished).bind(status).fetch_one(sql).await?)?)
}

/// From now on the worker takes it back.
pub(crate) async fn cancel(sql: &mut PgConnection, id: Uuid) -> Result<()> {
    let cancel = sqlx::query(
        "UPDATE deployments SET cancelled_at = coalesce(cancelled_at, now())
         WHERE deployment_id = $1 AND finished_at IS NULL",
    );
    cancel.bind(id).execute(sql).await?;
    Ok(())
}

/// Whether it is a deployment of this app that is neither over nor cancelled.
pub(crate) async fn goes_on(sql: &mut PgConnection, id: Uuid, app_id: Uuid) -> Result<bool> {
    let found = sqlx::query(
        "SELECT FROM deployments
         WHERE deployment_id = $1 AND app_id = $2 AND finished_at IS NULL AND cancelled_at IS NULL",
    );
    Ok(found.bind(id).bind(app_id).fetch_optional(sql).await?.is_some())
}
