//! What the database knows of a deployment.

use chrono::{DateTime, Utc};
use flynn_types::controller::{DeploymentEvent, DeploymentStatus, EventType, Processes, Strategy, Tags};
use serde_json::value::RawValue;
use sqlx::types::Json;
use sqlx::{PgPool, Row as _};
use uuid::Uuid;

use super::next::{Formation, Plan, Rollout, Seen};
use super::step::Outcome;
use crate::events::{self, NewEvent};
use crate::queue::{Lease, LeaseError, storable};

/// Events read at once.
const PAGE: i64 = 200;

/// A deployment that is not over.
#[derive(Clone, Debug)]
pub(super) struct Deployment {
    pub(super) id: Uuid,
    pub(super) app: Uuid,
    pub(super) old_release: Option<Uuid>,
    pub(super) new_release: Uuid,
    pub(super) strategy: String,
    pub(super) counts: Processes,
    pub(super) tags: Tags,
    /// For each step.
    pub(super) timeout_seconds: u64,
    pub(super) batch_size: Option<i32>,
    pub(super) created_at: DateTime<Utc>,
    /// Why it goes back, if it does.
    pub(super) failure: Option<String>,
    /// Types of the new release.
    types: Vec<String>,
}

impl Deployment {
    /// What it is to reach; `hosts` is the batch's size where nobody set one. `None` for a strategy that is none of these.
    pub(super) fn plan(&self, rollout: Rollout) -> Plan {
        Plan {
            rollout,
            counts: self.counts.clone(),
            types: self.types.iter().cloned().collect(),
            tags: self.tags.clone(),
            same_release: self.old_release == Some(self.new_release),
        }
    }

    pub(super) fn strategy(&self) -> Option<Strategy> {
        Strategy::ALL.into_iter().find(|strategy| strategy.as_str() == self.strategy)
    }
}

/// A deployment, if it is not over: one that is will not be run again (K7).
pub(super) async fn unfinished(pool: &PgPool, id: Uuid) -> Result<Option<Deployment>, sqlx::Error> {
    let found = sqlx::query(
        "SELECT d.app_id, d.old_release_id, d.new_release_id, d.strategy, d.processes, d.tags, d.deploy_timeout,
            d.deploy_batch_size, d.created_at, d.failure,
            ARRAY(SELECT jsonb_object_keys(CASE jsonb_typeof(r.processes) WHEN 'object' THEN r.processes ELSE '{}' END))
                AS types
         FROM deployments d JOIN releases r ON r.release_id = d.new_release_id
         WHERE d.deployment_id = $1 AND d.finished_at IS NULL",
    );
    let Some(row) = found.bind(id).fetch_optional(pool).await? else { return Ok(None) };
    let timeout: i32 = row.try_get("deploy_timeout")?;
    let timeout = if timeout > 0 { timeout } else { flynn_types::controller::DEFAULT_DEPLOY_TIMEOUT };
    Ok(Some(Deployment {
        id,
        app: row.try_get("app_id")?,
        old_release: row.try_get("old_release_id")?,
        new_release: row.try_get("new_release_id")?,
        strategy: row.try_get("strategy")?,
        counts: counts(row.try_get("processes")?),
        tags: row.try_get::<Option<Json<Tags>>, _>("tags")?.map(|tags| tags.0).unwrap_or_default(),
        timeout_seconds: u64::try_from(timeout).unwrap_or_default(),
        batch_size: row.try_get("deploy_batch_size")?,
        created_at: row.try_get("created_at")?,
        failure: row.try_get("failure")?,
        types: row.try_get("types")?,
    }))
}

/// The types that run at all.
fn counts(processes: Option<Json<Option<Processes>>>) -> Processes {
    let processes = processes.and_then(|json| json.0).unwrap_or_default();
    processes.into_iter().filter(|(_, count)| *count > 0).collect()
}

/// Both formations and what is asked of them, at one moment.
pub(super) async fn look(pool: &PgPool, deployment: &Deployment) -> Result<Seen, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT d.cancelled_at IS NOT NULL AS cancelled, a.release_id IS NOT DISTINCT FROM d.new_release_id AS switched,
            f.release_id, f.processes, s.scale_request_id, s.created_at
         FROM deployments d LEFT JOIN apps a ON a.app_id = d.app_id
         LEFT JOIN formations f ON f.app_id = d.app_id AND f.release_id IN (d.old_release_id, d.new_release_id)
            AND f.deleted_at IS NULL
         LEFT JOIN scale_requests s ON s.app_id = f.app_id AND s.release_id = f.release_id AND s.state = 'pending'
         WHERE d.deployment_id = $1 ORDER BY s.created_at",
    );
    let mut seen = Seen::default();
    for row in rows.bind(deployment.id).fetch_all(pool).await? {
        (seen.cancelled, seen.switched) = (row.try_get("cancelled")?, row.try_get("switched")?);
        let Some(release) = row.try_get::<Option<Uuid>, _>("release_id")? else { continue };
        let is_new = release == deployment.new_release;
        // Requests of the old release from before are none of the deployment's: they may never be fulfilled.
        let asked: Option<DateTime<Utc>> = row.try_get("created_at")?;
        let is_ours = is_new || asked.is_some_and(|at| at >= deployment.created_at);
        let request = row.try_get::<Option<Uuid>, _>("scale_request_id")?.filter(|_| is_ours);
        let counts = counts(row.try_get("processes")?);
        let formation = Formation { exists: true, counts, pending: request.map(|id| id.to_string()) };
        *(if is_new { &mut seen.new } else { &mut seen.old }) = formation;
    }
    Ok(seen)
}

pub(super) async fn is_cancelled(pool: &PgPool, deployment: Uuid) -> Result<bool, sqlx::Error> {
    let cancelled = sqlx::query_scalar("SELECT cancelled_at IS NOT NULL FROM deployments WHERE deployment_id = $1");
    Ok(cancelled.bind(deployment).fetch_optional(pool).await?.unwrap_or(false))
}

/// From here on the deployment goes back. Gives the reason that counts: the first one.
pub(super) async fn save_failure(pool: &PgPool, deployment: Uuid, reason: &str) -> Result<String, sqlx::Error> {
    let save = sqlx::query_scalar(
        "UPDATE deployments SET failure = coalesce(failure, $2) WHERE deployment_id = $1 RETURNING failure",
    );
    save.bind(deployment).bind(storable(reason)).fetch_one(pool).await
}

/// Whether a request has ended, and with it being fulfilled; `None` while it is pending.
pub(super) async fn ended(pool: &PgPool, request: Uuid) -> Result<Option<bool>, sqlx::Error> {
    let state = sqlx::query_scalar::<_, String>("SELECT state FROM scale_requests WHERE scale_request_id = $1");
    Ok(match state.bind(request).fetch_optional(pool).await?.as_deref() {
        Some("pending") => None,
        state => Some(state == Some("complete")),
    })
}

/// The event with which a request began: what follows it belongs to the request's step.
pub(super) async fn begin_of(pool: &PgPool, request: &str) -> Result<i64, sqlx::Error> {
    let first = sqlx::query_scalar(
        "SELECT coalesce(min(event_id), 0) FROM events WHERE object_type = 'scale_request' AND object_id = $1",
    );
    first.bind(request).fetch_one(pool).await
}

/// An event of an app.
pub(super) struct Told {
    pub(super) id: i64,
    pub(super) is_job: bool,
    pub(super) object_id: String,
    pub(super) data: Box<RawValue>,
}

/// What was told of an app's jobs and scale requests after an event, oldest first.
pub(super) async fn told(pool: &PgPool, app: Uuid, after: i64) -> Result<Vec<Told>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT event_id, object_type = 'job' AS is_job, object_id, data FROM events
         WHERE app_id = $1 AND event_id > $2 AND object_type IN ('job', 'scale_request') AND data IS NOT NULL
         ORDER BY event_id LIMIT $3",
    );
    let rows = rows.bind(app).bind(after).bind(PAGE).fetch_all(pool).await?;
    let told = rows.iter().map(|row| {
        Ok(Told {
            id: row.try_get("event_id")?,
            is_job: row.try_get("is_job")?,
            object_id: row.try_get("object_id")?,
            data: row.try_get::<Json<_>, _>("data")?.0,
        })
    });
    told.collect()
}

/// A job of a release that is not up, and why.
pub(super) struct Missing {
    pub(super) kind: String,
    pub(super) state: String,
    pub(super) reason: Option<String>,
}

/// Jobs of a release that shall run and do not, and what is known of why.
pub(super) async fn missing(pool: &PgPool, app: Uuid, release: Uuid) -> Result<Vec<Missing>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT coalesce(process_type, '') AS kind, state, host_error FROM job_cache
         WHERE app_id = $1 AND release_id = $2 AND state IN ('pending', 'blocked', 'starting')
         ORDER BY process_type, created_at LIMIT 5",
    );
    let rows = rows.bind(app).bind(release).fetch_all(pool).await?;
    let missing = rows.iter().map(|row| {
        let (kind, state) = (row.try_get("kind")?, row.try_get("state")?);
        Ok(Missing { kind, state, reason: row.try_get("host_error")? })
    });
    missing.collect()
}

/// Ends a deployment: that it is over, its last event and the end of the job, or none of it.
pub(super) async fn finish(
    pool: &PgPool,
    deployment: &Deployment,
    outcome: &Outcome,
    lease: &Lease,
) -> Result<(), LeaseError> {
    let mut transaction = pool.begin().await?;
    // In the order in which the controller locks.
    let lock = sqlx::query("SELECT FROM apps WHERE app_id = $1 FOR NO KEY UPDATE");
    lock.bind(deployment.app).execute(&mut *transaction).await?;
    lease.end(&mut transaction).await?;
    let finished = sqlx::query(
        "UPDATE deployments SET finished_at = now() WHERE deployment_id = $1 AND finished_at IS NULL RETURNING 1",
    );
    if finished.bind(deployment.id).fetch_optional(&mut *transaction).await?.is_some() {
        let (status, error) = match outcome {
            Outcome::Complete => (DeploymentStatus::Complete, String::new()),
            Outcome::Failed(reason) => (DeploymentStatus::Failed, storable(reason)),
        };
        if *outcome == Outcome::Complete {
            let args = serde_json::json!({ "app_id": deployment.app, "deleted_releases": null });
            crate::queue::enqueue(&mut transaction, "app_garbage_collection", &args).await?;
        }
        let data = DeploymentEvent {
            app_id: deployment.app.to_string(),
            deployment_id: deployment.id.to_string(),
            release_id: deployment.new_release.to_string(),
            status: Some(status),
            error,
            ..DeploymentEvent::default()
        };
        let event = NewEvent::new(EventType::Deployment, &data.deployment_id, &data);
        events::insert(&mut transaction, event.app(deployment.app).update()).await?;
    }
    Ok(transaction.commit().await?)
}
