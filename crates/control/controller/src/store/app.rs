//! `apps`.

use flynn_types::controller::App;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::{Columns as _, all};
use crate::error::{Error, Result};

pub(crate) fn app(row: &PgRow) -> sqlx::Result<App> {
    Ok(App {
        id: row.id("app_id")?,
        name: row.try_get("name")?,
        meta: row.json("meta")?,
        strategy: row.try_get("strategy")?,
        release_id: row.optional_id("release_id")?,
        deploy_timeout: row.try_get("deploy_timeout")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    })
}

/// Whether a reference may be an id (T13).
fn as_id(reference: &str) -> Option<Uuid> {
    let lower = reference.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-'));
    reference.parse().ok().filter(|_| lower)
}

/// An app by id or name. `lock` keeps others from changing it until the transaction ends, but not from referring to it:
/// whoever writes an event does, while it holds the lock that orders events.
async fn look_up(sql: &mut PgConnection, reference: &str, lock: bool) -> Result<App> {
    let found = if lock {
        sqlx::query(
            "SELECT * FROM apps WHERE deleted_at IS NULL AND (app_id = $1 OR name = $2) ORDER BY app_id = $1 DESC NULLS LAST LIMIT 1 FOR NO KEY UPDATE",
        )
    } else {
        sqlx::query(
            "SELECT * FROM apps WHERE deleted_at IS NULL AND (app_id = $1 OR name = $2) ORDER BY app_id = $1 DESC NULLS LAST LIMIT 1",
        )
    };
    let row = found.bind(as_id(reference)).bind(reference).fetch_optional(sql).await?;
    Ok(app(&row.ok_or(Error::NotFound)?)?)
}

pub(crate) async fn get(sql: &mut PgConnection, reference: &str) -> Result<App> {
    look_up(sql, reference, false).await
}

pub(crate) async fn lock(sql: &mut PgConnection, reference: &str) -> Result<App> {
    look_up(sql, reference, true).await
}

/// All, newest first.
pub(crate) async fn list(sql: &mut PgConnection) -> Result<Vec<App>> {
    let rows = sqlx::query("SELECT * FROM apps WHERE deleted_at IS NULL ORDER BY created_at DESC, app_id");
    Ok(all(&rows.fetch_all(sql).await?, app)?)
}

/// Inserts what is filled in already; an index refuses a name that is taken.
pub(crate) async fn insert(sql: &mut PgConnection, new: &App) -> Result<App> {
    let insert = sqlx::query(
        "INSERT INTO apps (app_id, name, meta, strategy, deploy_timeout) VALUES ($1, $2, $3, $4, $5) RETURNING *",
    );
    let insert = insert.bind(super::id(&new.id)?).bind(&new.name).bind(Json(&new.meta));
    let row = insert.bind(&new.strategy).bind(new.deploy_timeout).fetch_one(sql).await?;
    Ok(app(&row)?)
}

pub(crate) async fn is_name_taken(sql: &mut PgConnection, name: &str) -> Result<bool> {
    let taken = sqlx::query_scalar("SELECT EXISTS (SELECT FROM apps WHERE name = $1 AND deleted_at IS NULL)");
    Ok(taken.bind(name).fetch_one(sql).await?)
}

/// Also deleted ones.
pub(crate) async fn get_all(sql: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<App>> {
    let rows = sqlx::query("SELECT * FROM apps WHERE app_id = ANY($1)").bind(ids);
    Ok(all(&rows.fetch_all(sql).await?, app)?)
}

/// Stores what may change.
pub(crate) async fn update(sql: &mut PgConnection, changed: &App) -> Result<App> {
    let update = sqlx::query(
        "UPDATE apps SET strategy = $2, meta = $3, deploy_timeout = $4, updated_at = now() WHERE app_id = $1 RETURNING *",
    );
    let update = update.bind(super::id(&changed.id)?).bind(&changed.strategy).bind(Json(&changed.meta));
    Ok(app(&update.bind(changed.deploy_timeout).fetch_one(sql).await?)?)
}

pub(crate) async fn set_release(sql: &mut PgConnection, app_id: Uuid, release_id: Uuid) -> Result<()> {
    let update = sqlx::query("UPDATE apps SET release_id = $2, updated_at = now() WHERE app_id = $1");
    update.bind(app_id).bind(release_id).execute(sql).await?;
    Ok(())
}

/// The next number for a name that is made up.
pub(crate) async fn next_name_id(sql: &mut PgConnection) -> Result<u32> {
    let next: i64 = sqlx::query_scalar("SELECT nextval('name_ids')").fetch_one(sql).await?;
    Ok(u32::try_from(next & 0xffff_ffff).expect("it has 32 bits"))
}
