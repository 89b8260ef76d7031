//! Deletes an app with all that it has (spec section 14.1).

use std::time::Duration;

use flynn_types::controller::{App, AppDeletion, AppDeletionEvent, EventType};
use flynn_types::router::RouteKind;
use sqlx::PgPool;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Failure, delete_file};
use crate::Context;
use crate::events::{self, NewEvent};
use crate::queue::{Ended, Job, Lease};

/// How long the files of the app's releases are waited for; what takes longer is deleted all the same.
const FILES: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(200);

pub(crate) async fn run(context: &Context, job: &Job, lease: &Lease) -> Ended {
    let app = match serde_json::from_str::<App>(&job.args) {
        Ok(app) => app.id,
        Err(err) => return Ended::Failed(Failure::from(err).to_string()),
    };
    let mut deleted = AppDeletion { app_id: app.clone(), ..AppDeletion::default() };
    let done = async {
        let Ok(id) = app.parse::<Uuid>() else { return Ok(Ended::Done) };
        // Gone with an earlier try, or never there.
        if context.controller.app(&app).await?.is_none() {
            return Ok(Ended::Done);
        }
        delete(context, lease, id, &mut deleted).await?;
        record(context, lease, id, event(&deleted, String::new())).await?;
        Ok::<_, Failure>(Ended::Recorded)
    };
    match done.await {
        Ok(ended) => ended,
        Err(failure) => failure.ended(context, |error| event(&deleted, error)).await,
    }
}

fn event(deletion: &AppDeletion, error: String) -> NewEvent {
    let data = AppDeletionEvent { app_deletion: Some(deletion.clone()), error };
    NewEvent::new(EventType::AppDeletion, &deletion.app_id, &data).app_text(&deletion.app_id)
}

/// In the order of X1. What was deleted is noted as it goes (X3).
async fn delete(context: &Context, lease: &Lease, id: Uuid, deleted: &mut AppDeletion) -> Result<(), Failure> {
    let (app, controller) = (id.to_string(), &context.controller);
    for route in controller.app_routes(&app).await? {
        lease.ensure().await?;
        let kind = match route.kind {
            RouteKind::Http => "http",
            RouteKind::Tcp => "tcp",
        };
        if controller.delete_route(&app, kind, &route.id).await? {
            deleted.deleted_routes.get_or_insert_default().push(route);
        }
    }
    let releases = controller.releases(&app).await?;
    unset_release(&context.pool, id).await?;
    for release in releases {
        lease.ensure().await?;
        match controller.delete_release(&app, &release.id).await {
            Ok(true) => deleted.deleted_releases.get_or_insert_default().push(release),
            Ok(false) => {}
            Err(err) if err.is_retryable() => return Err(err.into()),
            Err(err) => tracing::info!(app, release = release.id, %err, "a release stays: another app runs it"),
        }
    }
    for resource in controller.resources(&app).await? {
        lease.ensure().await?;
        if resource.apps.iter().all(|user| *user == app)
            && controller.delete_resource(&resource.provider_id, &resource.id).await?
        {
            deleted.deleted_resources.get_or_insert_default().push(resource);
        }
    }
    for file in [format!("repos/{app}.tar"), format!("{app}-cache.tgz")] {
        lease.ensure().await?;
        delete_file(context, &format!("{}/{file}", context.files.base())).await?;
    }
    files_deleted(&context.pool, &app).await
}

async fn unset_release(pool: &PgPool, app: Uuid) -> Result<(), sqlx::Error> {
    let unset = sqlx::query("UPDATE apps SET release_id = NULL, updated_at = now() WHERE app_id = $1");
    unset.bind(app).execute(pool).await.map(drop)
}

/// Waits for the jobs which delete what only the app's releases used.
async fn files_deleted(pool: &PgPool, app: &str) -> Result<(), Failure> {
    let until = Instant::now() + FILES;
    let left = "SELECT EXISTS (SELECT FROM que_jobs WHERE job_class = 'release_cleanup' AND error_count = 0
        AND args->>'AppID' = $1)";
    while sqlx::query_scalar::<_, bool>(left).bind(app).fetch_one(pool).await? && Instant::now() < until {
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// The app is gone, and that is told, or neither.
async fn record(context: &Context, lease: &Lease, app: Uuid, event: NewEvent) -> Result<(), Failure> {
    let mut transaction = context.pool.begin().await?;
    let mark = [
        "UPDATE apps SET deleted_at = now(), updated_at = now() WHERE app_id = $1 AND deleted_at IS NULL",
        "UPDATE formations SET deleted_at = now(), updated_at = now(), processes = NULL
            WHERE app_id = $1 AND deleted_at IS NULL",
        "DELETE FROM app_resources WHERE app_id = $1",
    ];
    for statement in mark {
        sqlx::query(statement).bind(app).execute(&mut *transaction).await?;
    }
    lease.end(&mut transaction).await?;
    events::insert(&mut transaction, event).await?;
    Ok(transaction.commit().await?)
}
