//! `job_cache` and `job_volumes`.

use flynn_types::controller::{Job, JobState};
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::{Columns as _, all};
use crate::error::Result;

macro_rules! select {
    ($condition:literal) => {
        concat!(
            "SELECT j.*, ARRAY(SELECT volume_id FROM job_volumes v WHERE v.job_id = j.job_id ORDER BY index) AS volume_ids
             FROM job_cache j WHERE ",
            $condition
        )
    };
}

const STATES: [JobState; 8] = [
    JobState::Pending,
    JobState::Blocked,
    JobState::Starting,
    JobState::Up,
    JobState::Stopping,
    JobState::Down,
    JobState::Crashed,
    JobState::Failed,
];

fn job(row: &PgRow) -> sqlx::Result<Job> {
    let state: String = row.try_get("state")?;
    let volumes: Vec<Uuid> = row.try_get("volume_ids")?;
    Ok(Job {
        id: row.try_get("cluster_id")?,
        uuid: row.id("job_id")?,
        host_id: row.or_default("host_id")?,
        app_id: row.id("app_id")?,
        release_id: row.id("release_id")?,
        kind: row.or_default("process_type")?,
        state: STATES.into_iter().find(|known| known.as_str() == state),
        args: row.json("args")?,
        volume_ids: volumes.iter().map(Uuid::to_string).collect(),
        meta: row.json("meta")?,
        exit_status: row.try_get("exit_status")?,
        host_error: row.try_get("host_error")?,
        run_at: row.time("run_at")?,
        restarts: row.try_get("restarts")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    })
}

pub(crate) async fn find(sql: &mut PgConnection, id: Uuid) -> Result<Option<Job>> {
    let row = sqlx::query(select!("job_id = $1")).bind(id).fetch_optional(sql).await?;
    Ok(row.as_ref().map(job).transpose()?)
}

/// All that were ever recorded, newest first.
pub(crate) async fn of_app(sql: &mut PgConnection, app_id: Uuid) -> Result<Vec<Job>> {
    let rows = sqlx::query(select!("app_id = $1 ORDER BY created_at DESC, job_id"));
    Ok(all(&rows.bind(app_id).fetch_all(sql).await?, job)?)
}

/// Those that run, or will (J6); newest update first.
pub(crate) async fn active(sql: &mut PgConnection) -> Result<Vec<Job>> {
    let rows = sqlx::query(select!(
        "state IN ('pending', 'blocked', 'starting', 'up', 'stopping') ORDER BY updated_at DESC, job_id"
    ));
    Ok(all(&rows.fetch_all(sql).await?, job)?)
}

/// Records a job (J2). `false` when it is down and was to be in another state again (J4).
pub(crate) async fn upsert(
    sql: &mut PgConnection,
    id: Uuid,
    (app_id, release_id): (Uuid, Uuid),
    new: &Job,
    volumes: &[Uuid],
) -> Result<bool> {
    let upsert = sqlx::query(
        "INSERT INTO job_cache (job_id, cluster_id, host_id, app_id, release_id, process_type, state, meta, exit_status,
            host_error, run_at, restarts, args)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
         ON CONFLICT (job_id) DO UPDATE SET cluster_id = excluded.cluster_id, host_id = excluded.host_id,
            state = excluded.state, exit_status = excluded.exit_status, host_error = excluded.host_error,
            run_at = excluded.run_at, restarts = excluded.restarts, args = excluded.args, updated_at = now()
         WHERE job_cache.state NOT IN ('down', 'crashed', 'failed') OR excluded.state IN ('down', 'crashed', 'failed')
         RETURNING job_id",
    );
    let upsert = upsert.bind(id).bind(&new.id).bind(&new.host_id).bind(app_id).bind(release_id).bind(&new.kind);
    let upsert = upsert.bind(new.state.unwrap_or_default().as_str()).bind(Json(&new.meta)).bind(new.exit_status);
    let upsert = upsert.bind(&new.host_error).bind(new.run_at.and_then(|time| time.0)).bind(new.restarts);
    if upsert.bind(Json(&new.args)).fetch_optional(&mut *sql).await?.is_none() {
        return Ok(false);
    }
    let link = sqlx::query(
        "INSERT INTO job_volumes (job_id, volume_id, index)
         SELECT $1, id, position - 1 FROM unnest($2::uuid[]) WITH ORDINALITY list (id, position)
         ON CONFLICT (job_id, volume_id) DO UPDATE SET index = excluded.index",
    );
    link.bind(id).bind(volumes).execute(sql).await?;
    Ok(true)
}
