//! Stopping a job.

use std::time::Duration;

use flynn_types::id::JobId;
use tracing::warn;

use super::runner::{Live, Runner, describe, exit_record};
use super::{StopError, StopTarget};

/// Time between SIGTERM and SIGKILL of jobs that name none.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
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

impl Runner {
    /// Stops a job. A starting one is marked and ends as soon as it can; of a running one the end is awaited, until
    /// the time for ending by itself is over and it was killed.
    pub(crate) async fn stop(&self, id: &JobId) -> Result<(), StopFailure> {
        match self.book.request_stop(id)? {
            StopTarget::Starting => {
                self.live.interrupt(id);
                if let Some(live) = self.live.get(id) {
                    // Built, but not running yet: whoever lets it run may have looked at the mark before it was set.
                    let _ = live.container.stop().await;
                }
            }
            StopTarget::Running => {
                if let Some(live) = self.live.get(id) {
                    self.stop_container(id, &live).await;
                }
            }
        }
        Ok(())
    }

    pub(super) async fn stop_container(&self, id: &JobId, live: &Live) {
        let patience = self.book.get(id).and_then(|job| job.job.config.stop_timeout).map_or(STOP_TIMEOUT, |asked| {
            asked.clamp(*STOP_TIMEOUT_RANGE.start(), *STOP_TIMEOUT_RANGE.end())
        });
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
    }

    fn container_of(&self, id: &JobId) -> Result<Live, StopFailure> {
        if self.book.get(id).is_none() {
            return Err(StopError::Unknown.into());
        }
        self.live.get(id).ok_or(StopFailure::NoContainer)
    }

    /// Sends a signal to the job's main process.
    pub(crate) async fn signal(&self, id: &JobId, signal: i32) -> Result<(), StopFailure> {
        let live = self.container_of(id)?;
        live.container.signal(signal).await.map_err(|err| StopFailure::Call(describe(&err)))
    }

    /// Withdraws the job's services; the job goes on.
    pub(crate) async fn deregister(&self, id: &JobId) -> Result<(), StopFailure> {
        let live = self.container_of(id)?;
        live.container.deregister().await.map_err(|err| StopFailure::Call(describe(&err)))
    }
}
