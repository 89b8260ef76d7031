//! Stopping a job.

use std::sync::Arc;
use std::time::Duration;

use flynn_container::CallError;
use flynn_types::error::with_causes;
use flynn_types::host::JobStatus;
use flynn_types::id::JobId;
use tracing::warn;

use super::runner::{Live, Runner, exit_record};
use super::{StopError, StopTarget};

/// Time between SIGTERM and SIGKILL of jobs that name none.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a killed job may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// Bounds of what a job may ask for.
const STOP_TIMEOUT_RANGE: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

/// Why a request about a running job failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StopFailure {
    #[error(transparent)]
    State(#[from] StopError),
    #[error("unknown container")]
    NoContainer,
    #[error("{0}")]
    Call(String),
}

impl From<CallError> for StopFailure {
    fn from(err: CallError) -> Self {
        match err {
            CallError::Disconnected => Self::NoContainer, // it ended just now
            err @ (CallError::Timeout | CallError::Refused(_)) => Self::Call(with_causes(&err)),
        }
    }
}

impl Runner {
    /// Stops a job. A starting one is marked and ends as soon as it can; of a running one the end is awaited, until
    /// the time for ending by itself is over and it was killed.
    pub(crate) async fn stop(self: &Arc<Self>, id: &JobId) -> Result<(), StopFailure> {
        let target = match self.book.request_stop(id) {
            // One that ended so long ago that it is no longer listed.
            Err(StopError::Unknown) if self.book.find(id).await.is_some() => {
                return Err(StopError::AlreadyStopped.into());
            }
            target => target?,
        };
        match target {
            // Who starts it sees the mark, at the latest when the job runs.
            StopTarget::Starting => self.live.interrupt(id),
            StopTarget::Running => {
                if let Some(live) = self.live.get(id) {
                    self.stop_container(id, &live).await;
                }
            }
        }
        Ok(())
    }

    pub(super) async fn stop_container(self: &Arc<Self>, id: &JobId, live: &Live) {
        let patience = self
            .book
            .get(id)
            .and_then(|job| job.job.config.stop_timeout)
            .map_or(STOP_TIMEOUT, |asked| asked.clamp(*STOP_TIMEOUT_RANGE.start(), *STOP_TIMEOUT_RANGE.end()));
        let mut exit = live.container.exit();
        let ended = async {
            // An init that vanished meanwhile is as stopped as can be; its end is recorded by the job's task.
            if let Err(err) = live.container.stop().await {
                tracing::debug!(job_id = %id, err = &err as &dyn std::error::Error, "stop request went unanswered");
            }
            exit_record(&mut exit).await
        };
        if tokio::time::timeout(patience, ended).await.is_ok() {
            return;
        }
        warn!(job_id = %id, ?patience, "job ignored SIGTERM, killing it");
        if let Err(err) = live.container.kill().await {
            warn!(job_id = %id, err = &err as &dyn std::error::Error, "job cannot be killed through its init");
        }
        // Who asked for the stop does not wait for the rest; the job's task does not either.
        let (runner, run_dir) = (Arc::clone(self), self.run_dir(id));
        self.tasks.spawn(self.leaving.clone().run_until_cancelled_owned(async move {
            if tokio::time::timeout(KILL_PATIENCE, exit_record(&mut exit)).await.is_err() {
                warn!(run_dir = %run_dir.display(), "killed job does not end, killing all of its processes");
                runner.runtime.destroy(&run_dir).await;
            }
        }));
    }

    async fn container_of(&self, id: &JobId) -> Result<Live, StopFailure> {
        let job = self.book.find(id).await.ok_or(StopError::Unknown)?;
        let runs = job.status == JobStatus::Running;
        self.live.get(id).filter(|_| runs).ok_or(StopFailure::NoContainer)
    }

    /// Sends a signal to the job's main process.
    pub(crate) async fn signal(&self, id: &JobId, signal: i32) -> Result<(), StopFailure> {
        let live = self.container_of(id).await?;
        live.container.signal(signal).await.map_err(StopFailure::from)
    }

    /// Withdraws the job's services; the job goes on.
    pub(crate) async fn deregister(&self, id: &JobId) -> Result<(), StopFailure> {
        let live = self.container_of(id).await?;
        live.container.deregister().await.map_err(StopFailure::from)
    }
}
