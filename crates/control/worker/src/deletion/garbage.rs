//! Deletes old releases of an app that were made by `git push` (spec section 14.3).

use std::collections::BTreeSet;

use flynn_types::controller::{AppGarbageCollection, AppGarbageCollectionEvent, EventType, app_meta};
use sqlx::PgPool;
use uuid::Uuid;

use super::{Failure, concluded};
use crate::Context;
use crate::events::NewEvent;
use crate::queue::{Ended, Job, Lease};

/// A release of the app, for which the decision is made.
#[derive(Clone, Debug)]
struct Candidate {
    id: Uuid,
    /// Some of its jobs run, or are to run.
    is_active: bool,
    is_git: bool,
    /// Address of its slug in the blob store.
    slug: Option<String>,
}

/// Which of these releases, newest first, are too many (X12): all after `limit` different slugs.
fn superfluous(candidates: &[Candidate], limit: usize) -> Vec<Uuid> {
    let mut slugs = BTreeSet::new();
    let mut superfluous = Vec::new();
    for release in candidates.iter().filter(|release| release.is_git && !release.is_active) {
        if slugs.len() >= limit {
            superfluous.push(release.id);
        } else {
            slugs.extend(&release.slug);
        }
    }
    superfluous
}

pub(crate) async fn run(context: &Context, job: &Job, lease: &Lease) -> Ended {
    let app = match serde_json::from_str::<AppGarbageCollection>(&job.args) {
        Ok(arguments) => arguments.app_id,
        Err(err) => return Ended::Failed(Failure::from(err).to_string()),
    };
    let event = |deleted: Vec<String>, error: String| {
        let collection = AppGarbageCollection { app_id: app.clone(), deleted_releases: Some(deleted) };
        let data = AppGarbageCollectionEvent { app_garbage_collection: Some(collection), error };
        NewEvent::new(EventType::AppGarbageCollection, &app, &data).app_text(&app)
    };
    match collect(context, lease, &app, &event).await {
        Ok(ended) => ended,
        Err(failure) => failure.ended(context, |error| event(Vec::new(), error)).await,
    }
}

async fn collect(
    context: &Context,
    lease: &Lease,
    app: &str,
    event: &impl Fn(Vec<String>, String) -> NewEvent,
) -> Result<Ended, Failure> {
    let Some(known) = context.controller.app(app).await? else { return Ok(Ended::Done) };
    let limit = match known.meta.get(app_meta::MAX_INACTIVE_RELEASES).map(String::as_str) {
        None | Some("false") => return Ok(Ended::Done),
        Some(text) => text.parse::<usize>(),
    };
    let Ok(limit) = limit else {
        // No further try helps before somebody changes it.
        let error = format!("the app's meta {} is no number and not false", app_meta::MAX_INACTIVE_RELEASES);
        concluded(context, lease, event(Vec::new(), error)).await?;
        return Ok(Ended::Recorded);
    };
    let mut deleted = Vec::new();
    for release in superfluous(&candidates(&context.pool, app).await?, limit) {
        lease.ensure().await?;
        let release = release.to_string();
        match context.controller.delete_release(app, &release).await {
            Ok(true) => deleted.push(release),
            Ok(false) => {}
            Err(err) if err.is_retryable() => return Err(err.into()),
            // In use again, or by another app (X13).
            Err(err) => tracing::info!(app, release, %err, "an old release stays"),
        }
    }
    concluded(context, lease, event(deleted, String::new())).await?;
    Ok(Ended::Recorded)
}

/// All releases of an app, newest first.
async fn candidates(pool: &PgPool, app: &str) -> Result<Vec<Candidate>, sqlx::Error> {
    let rows = sqlx::query_as::<_, (Uuid, bool, bool, Option<String>)>(
        "SELECT r.release_id,
            EXISTS (SELECT FROM formations f, jsonb_each_text(CASE jsonb_typeof(f.processes) WHEN 'object'
                    THEN f.processes ELSE '{}' END) counts
                WHERE f.release_id = r.release_id AND f.deleted_at IS NULL AND counts.value::bigint > 0),
            coalesce(r.meta->>'git' = 'true', false),
            (SELECT a.uri FROM release_artifacts ra JOIN artifacts a USING (artifact_id)
                WHERE ra.release_id = r.release_id AND ra.deleted_at IS NULL AND ra.index = 1
                    AND a.meta->>'blobstore' = 'true')
         FROM releases r WHERE r.app_id = $1 AND r.deleted_at IS NULL ORDER BY r.created_at DESC, r.release_id",
    );
    let rows = rows.bind(app.parse::<Uuid>().ok()).fetch_all(pool).await?;
    let candidate = |(id, is_active, is_git, slug)| Candidate { id, is_active, is_git, slug };
    Ok(rows.into_iter().map(candidate).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t42_active_ones_do_not_count_and_a_slug_counts_once() {
        let release = |number: u128, is_active, slug: &str| Candidate {
            id: Uuid::from_u128(number),
            is_active,
            is_git: true,
            slug: Some(slug.to_owned()),
        };
        let mut releases = vec![
            release(7, false, "e"),
            release(6, true, "d"),
            release(5, false, "c"),
            release(4, false, "c"),
            release(3, false, "b"),
            release(2, false, "a"),
            release(1, false, "d"),
        ];
        releases.push(Candidate { is_git: false, ..release(0, false, "z") });
        let numbers = |limit| superfluous(&releases, limit).iter().map(Uuid::as_u128).collect::<Vec<_>>();
        assert_eq!(numbers(3), [2, 1]);
        assert_eq!(numbers(0), [7, 5, 4, 3, 2, 1]);
        assert_eq!(numbers(10), []);
    }
}
