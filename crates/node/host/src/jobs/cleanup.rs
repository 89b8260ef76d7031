//! Releasing everything that a job held. Each step may be repeated.

use std::sync::Arc;
use std::time::Duration;

use flynn_container::Reconnect;
use flynn_logmux::JobLog;
use flynn_types::error::with_causes;
use flynn_types::host::ActiveJob;
use flynn_types::id::JobId;
use tracing::warn;

use super::runner::{Runner, remove_tree};

/// How long the end of a job's output may take to reach its log, for example while the disk is full.
const LOG_PATIENCE: Duration = Duration::from_secs(60);
/// Pause between tries to write the end of a job, or to release what is busy.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(500);
const RETRIES: u32 = 20;

/// Waits until an ended job's output is in its log, for a limited time.
pub(super) async fn logged(id: &JobId, log: Option<&JobLog>) {
    if let Some(log) = log
        && tokio::time::timeout(LOG_PATIENCE, log.finished()).await.is_err()
    {
        warn!(job_id = %id, "the job's last output could not be logged in time and is dropped");
    }
}

impl Runner {
    /// Releases address, file systems, volumes and processes of an ended job, then announces it.
    ///
    /// The run directory goes last: as long as it exists, a restarted daemon does all of this again.
    pub(super) async fn clean_up(&self, id: &JobId) {
        let live = self.live.get(id);
        logged(id, live.as_ref().and_then(|live| live.log.as_deref())).await;
        self.recorded().await;
        if let Some(live) = live {
            live.container.release().await;
        }
        self.release(id).await;
        self.live.remove(id);
        self.gate.close(id);
        self.book.cleaned_up(id);
    }

    /// Waits until what is known of all jobs is on disk: an exit must be before the monitor forgets it.
    pub(super) async fn recorded(&self) {
        while let Err(err) = self.book.persister().synced().await {
            warn!(err = with_causes(err.as_ref()), "the job's end is not recorded yet");
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// Removes what is left of a job on this machine.
    pub(super) async fn release(&self, id: &JobId) {
        let run_dir = self.run_dir(id);
        self.runtime.destroy(&run_dir).await;
        let netns = run_dir.join(flynn_types::init::files::NETNS);
        let network = self.network.borrow().clone();
        match network {
            Some(network) => {
                network.detach(id, &netns).await;
                network.release(id);
            }
            // Its interface goes with the namespace.
            None => {
                let _ = rustix::mount::unmount(&netns, rustix::mount::UnmountFlags::DETACH); // or there was none
            }
        }
        self.retry("root file system", || self.volumes.release_rootfs(id)).await;
        if let Some(job) = self.book.find(id).await {
            self.destroy_temporary_volumes(&job).await;
        }
        self.retry("run directory", || {
            let run_dir = run_dir.clone();
            async move { tokio::task::spawn_blocking(move || remove_tree(&run_dir)).await.unwrap_or(Ok(())) }
        })
        .await;
    }

    async fn destroy_temporary_volumes(&self, job: &ActiveJob) {
        for binding in job.job.config.volumes.iter().filter(|binding| binding.delete_on_stop) {
            // A job that came after this one may have it now, as a resurrected one does.
            let free = self.book.user_of_volume(&binding.volume).is_none();
            if free && self.volumes.get(&binding.volume).is_some() {
                self.retry("volume", || self.volumes.destroy(&binding.volume)).await;
            }
        }
    }

    async fn retry<E: std::error::Error, F: Future<Output = Result<(), E>>>(
        &self,
        what: &str,
        mut action: impl FnMut() -> F,
    ) {
        for attempt in 1..=RETRIES {
            match action().await {
                Ok(()) => return,
                Err(err) if attempt == RETRIES => {
                    warn!(what, err = with_causes(&err), "cannot be released, leaving it behind")
                }
                Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
            }
        }
    }

    /// Finishes an ended job that the last daemon had no time to clean up after: its last output, then all it held.
    pub(super) async fn finish(self: &Arc<Self>, id: &JobId) {
        if let (Some(job), Reconnect::Ended(record, container)) =
            (self.book.get(id), self.runtime.reconnect(&self.run_dir(id)).await)
        {
            let log = self.follow_ended(id, &job, &record);
            logged(id, log.as_deref()).await;
            if let Some(container) = container {
                container.release().await;
            }
        }
        self.release(id).await;
        self.book.cleaned_up(id);
    }
}
