//! Carries a deployment out: does what the state machine says, and tells it what happened.

use std::sync::Arc;
use std::time::Duration;

use flynn_controller_client::{Client, ClientError};
use flynn_http::Backoff;
use flynn_types::controller::{Job, JobState, ScaleRequest, ScaleRequestState};
use sqlx::PgPool;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::evidence;
use super::next::{Change, Plan, Release};
use super::step::{Down, Effect, Event, Limit, State, begin, step};
use super::store::{self, Deployment, Told};
use crate::queue::{Ear, Heard, Lease, LeaseError, QUERY_TIMEOUT};

/// How long old jobs may take to come back before the new ones go (B1).
const RESTORE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is looked whether what is waited for has come, when nothing is heard of.
const POLL: Duration = Duration::from_secs(1);
/// How long the controller or the database may be away within a step; then the job is tried again later.
const PATIENCE: Duration = Duration::from_secs(300);

/// Why a deployment is not over, and goes on later.
#[derive(Debug, thiserror::Error)]
pub(super) enum Paused {
    /// This worker is to end.
    #[error("the worker ends")]
    Stopped,
    #[error(transparent)]
    Lease(#[from] LeaseError),
    #[error("the controller: {0}")]
    Controller(#[source] ClientError),
    #[error("the database: {0}")]
    Database(#[source] sqlx::Error),
}

pub(super) struct Driver {
    pub(super) pool: PgPool,
    pub(super) controller: Client,
    pub(super) lease: Arc<Lease>,
    pub(super) stop: CancellationToken,
    pub(super) ear: Ear,
    pub(super) deployment: Deployment,
    pub(super) plan: Plan,
}

/// Where in the events a wait is.
struct Wait {
    request: String,
    after: i64,
    until: Instant,
    limit: Limit,
}

impl Driver {
    /// Until the deployment is over, its job included.
    pub(super) async fn run(mut self, failure: Option<String>) -> Result<(), Paused> {
        let (mut state, mut effect) = begin(&self.plan, failure);
        let mut wait: Option<Wait> = None;
        while state != State::Over {
            let event = match (effect.take(), state.awaited()) {
                (Some(effect), _) => self.perform(effect).await?,
                (None, Some((request, limit))) => {
                    let waiting = match wait.take().filter(|wait| wait.request == request) {
                        Some(waiting) => waiting,
                        None => self.begin_wait(request, limit).await?,
                    };
                    self.next_event(wait.insert(waiting)).await?
                }
                (None, None) => unreachable!("the machine waits for nobody: {state:?}"),
            };
            tracing::debug!(deployment = %self.deployment.id, ?state, ?event, "step");
            (state, effect) = step(&self.plan, state, event);
        }
        Ok(())
    }

    async fn perform(&self, effect: Effect) -> Result<Event, Paused> {
        if self.stop.is_cancelled() {
            return Err(Paused::Stopped);
        }
        self.lease.ensure().await?;
        match effect {
            Effect::Look => self.sql(|| store::look(&self.pool, &self.deployment)).await.map(Event::Seen),
            Effect::Scale(change) => self.scale(change).await,
            Effect::Switch => {
                let (app, release) = (self.deployment.app.to_string(), self.deployment.new_release.to_string());
                let known = self.ask(async || self.controller.app(&app).await).await?;
                match known {
                    Ok(Some(app)) if app.release_id == release => return Ok(Event::Switched),
                    Ok(Some(_)) => {}
                    Ok(None) => return Ok(Event::Refused("the app is gone".into())),
                    Err(reason) => return Ok(Event::Refused(reason)),
                }
                let id = self.deployment.id.to_string();
                let set = self.ask(async || self.controller.switch_app_release(&app, &release, &id).await).await?;
                match set {
                    Ok(()) => Ok(Event::Switched),
                    Err(_) if self.sql(|| store::is_cancelled(&self.pool, self.deployment.id)).await? => {
                        Ok(Event::Cancelled)
                    }
                    Err(reason) => Ok(Event::Refused(reason)),
                }
            }
            Effect::Save { reason, culprit } => {
                let reason = evidence::with(self, reason, culprit.as_ref()).await;
                self.sql(|| store::save_failure(&self.pool, self.deployment.id, &reason)).await.map(Event::Saved)
            }
            Effect::Remove => {
                let (app, release) = (self.deployment.app.to_string(), self.deployment.new_release.to_string());
                let removed = self.ask(async || self.controller.delete_formation(&app, &release).await).await?;
                Ok(removed.map_or_else(Event::Refused, |_| Event::Removed))
            }
            Effect::Finish(outcome) => {
                tracing::info!(deployment = %self.deployment.id, ?outcome, "deployment is over");
                let finish = || async {
                    match store::finish(&self.pool, &self.deployment, &outcome, &self.lease).await {
                        Err(LeaseError::Database(err)) => Err(err),
                        ended => Ok(ended),
                    }
                };
                self.sql(finish).await??;
                Ok(Event::Finished)
            }
        }
    }

    async fn scale(&self, change: Change) -> Result<Event, Paused> {
        let release = match change.release {
            Release::Old => self.deployment.old_release,
            Release::New => Some(self.deployment.new_release),
        };
        let Some(release) = release else { return Ok(Event::Refused("there is no old release".into())) };
        let request = ScaleRequest {
            id: String::new(),
            app_id: self.deployment.app.to_string(),
            release_id: release.to_string(),
            state: ScaleRequestState::Pending,
            old_processes: Default::default(),
            new_processes: Some(change.counts),
            old_tags: Default::default(),
            new_tags: change.tags,
            created_at: None,
            updated_at: None,
        };
        let accepted = self.ask(async || self.controller.scale(&request).await).await?;
        Ok(accepted.map_or_else(Event::Refused, |request| Event::Requested(request.id)))
    }

    async fn begin_wait(&self, request: &str, limit: Limit) -> Result<Wait, Paused> {
        let until = Instant::now() + self.length(limit);
        let after = self.sql(|| store::begin_of(&self.pool, request)).await?;
        Ok(Wait { request: request.to_owned(), after, until, limit })
    }

    fn length(&self, limit: Limit) -> Duration {
        match limit {
            Limit::Step => Duration::from_secs(self.deployment.timeout_seconds),
            Limit::Restoring => RESTORE_TIMEOUT,
        }
    }

    /// The next thing that happens to what is waited for. Events are read by id, so that none is missed and none comes
    /// twice, however long the database was away.
    async fn next_event(&mut self, wait: &mut Wait) -> Result<Event, Paused> {
        loop {
            if self.stop.is_cancelled() {
                return Err(Paused::Stopped);
            }
            let app = self.deployment.app;
            let told = self.sql(|| store::told(&self.pool, app, wait.after)).await?;
            for told in told {
                wait.after = told.id;
                if let Some(event) = self.event(&told, &wait.request) {
                    return Ok(event);
                }
            }
            if let Ok(request) = wait.request.parse::<Uuid>()
                && let Some(fulfilled) = self.sql(|| store::ended(&self.pool, request)).await?
            {
                return Ok(Event::Ended { request: wait.request.clone(), fulfilled });
            }
            let may_be_cancelled = wait.limit == Limit::Step;
            if may_be_cancelled && self.sql(|| store::is_cancelled(&self.pool, self.deployment.id)).await? {
                return Ok(Event::Cancelled);
            }
            if Instant::now() >= wait.until {
                return Ok(Event::TimedOut(self.length(wait.limit).as_secs()));
            }
            let pause = POLL.min(wait.until.saturating_duration_since(Instant::now()));
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = self.ear.wait(|heard| heard == Heard::Event(app) || heard == Heard::Jobs) => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn event(&self, told: &Told, awaited: &str) -> Option<Event> {
        if !told.is_job {
            let request: ScaleRequest = serde_json::from_str(told.data.get()).ok()?;
            let fulfilled = request.state == ScaleRequestState::Complete;
            let has_ended = told.object_id == awaited && request.state != ScaleRequestState::Pending;
            return has_ended.then(|| Event::Ended { request: awaited.to_owned(), fulfilled });
        }
        let job: Job = serde_json::from_str(told.data.get()).ok()?;
        if !job.state.is_some_and(JobState::is_terminal) || job.kind.is_empty() {
            return None;
        }
        let is_new = job.release_id == self.deployment.new_release.to_string();
        let release = if is_new { Release::New } else { Release::Old };
        let error = job.host_error.filter(|error| !error.is_empty());
        Some(Event::Down(Down { release, kind: job.kind, job: job.id, error, exit_status: job.exit_status }))
    }

    /// Repeats a query while the database is away.
    pub(super) async fn sql<T, F>(&self, query: impl FnMut() -> F) -> Result<T, Paused>
    where
        F: Future<Output = Result<T, sqlx::Error>>,
    {
        let mut query = query;
        let attempt = || {
            // A server whose host is gone says nothing.
            let answer = tokio::time::timeout(QUERY_TIMEOUT, query());
            async { answer.await.unwrap_or(Err(sqlx::Error::PoolTimedOut)) }
        };
        self.patiently(|_| true, attempt).await.map_err(Paused::Database)
    }

    /// Repeats a request while the controller is away. What it refuses is an answer.
    async fn ask<T, F>(&self, request: impl FnMut() -> F) -> Result<Result<T, String>, Paused>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        match self.patiently(ClientError::is_retryable, request).await {
            Ok(answer) => Ok(Ok(answer)),
            Err(err) if err.is_retryable() => Err(Paused::Controller(err)),
            Err(err) => Ok(Err(err.to_string())),
        }
    }

    async fn patiently<T, E, F>(&self, may_pass: impl Fn(&E) -> bool, work: impl FnMut() -> F) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
    {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        flynn_http::retry(backoff, PATIENCE, &self.stop, may_pass, work).await
    }
}
