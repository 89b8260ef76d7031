//! What happens to the jobs of the last daemon when a new one starts.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use flynn_container::Reconnect;
use flynn_http::Backoff;
use flynn_logmux::JobLog;
use flynn_types::error::with_causes;
use flynn_types::host::{ActiveJob, JobStatus};
use flynn_types::id::{HostId, JobId};
use flynn_types::init::ExitRecord;
use tokio::sync::watch;
use tracing::{info, warn};

use super::book::RecordError;
use super::cleanup::{RETRY_PAUSE, logged};
use super::runner::Runner;

/// Reconnects that run at once.
const CONCURRENCY: usize = 16;

impl Runner {
    /// Finds the containers of the recorded jobs again, continues their lives, and removes what belongs to no job.
    /// Lost jobs end as failed; those to be resurrected start again as copies.
    pub(crate) async fn restore(self: &Arc<Self>, host: &HostId, resurrect: bool) {
        let known = self.book.list(false);
        // Before any job is started anew: what that one has by then would belong to nobody we know.
        self.remove_strays(known.keys().cloned().collect()).await;
        let mut tasks = tokio::task::JoinSet::new();
        for (id, job) in known {
            if tasks.len() >= CONCURRENCY {
                tasks.join_next().await;
            }
            let (runner, host) = (Arc::clone(self), host.clone());
            tasks.spawn(async move { runner.restore_job(&host, id, job, resurrect).await });
        }
        while tasks.join_next().await.is_some() {}
    }

    async fn restore_job(self: &Arc<Self>, host: &HostId, id: JobId, job: ActiveJob, resurrect: bool) {
        if !job.status.is_active() {
            if self.run_dir(&id).exists() {
                let runner = Arc::clone(self);
                let finish = async move { runner.finish(&id).await };
                self.tasks.spawn(self.leaving.clone().run_until_cancelled_owned(finish));
            }
            return;
        }
        self.reserve_address(&id, &job);
        match self.runtime.reconnect(&self.run_dir(&id)).await {
            Reconnect::Running(container) => {
                info!(job_id = %id, pid = container.pid(), "job is still running");
                self.adopt(id, container);
            }
            Reconnect::Ended(record, container) => {
                info!(job_id = %id, "job ended while the daemon was away");
                let log = self.follow_ended(&id, &job, &record);
                self.note_exit(&id, &record, job.pid.unwrap_or_default());
                let runner = Arc::clone(self);
                let end = async move {
                    logged(&id, log.as_deref()).await;
                    if let Some(container) = container {
                        runner.recorded().await;
                        container.release().await;
                    }
                    runner.clean_up(&id).await;
                };
                self.tasks.spawn(self.leaving.clone().run_until_cancelled_owned(end));
            }
            Reconnect::Lost if job.status == JobStatus::Starting => {
                info!(job_id = %id, "job was accepted but not started, starting it");
                let runner = Arc::clone(self);
                // What is left of a half-built container goes first, so that it can be built anew. It may even have run, when
                // the machine went down before that was recorded.
                let start = async move {
                    runner.release(&id).await;
                    let info = runner.log_info(&id, &job);
                    while let Err(err) = runner.logs.forget_job(&info).await {
                        warn!(job_id = %id, err = with_causes(&err), "the job's log cannot be made ready for another start");
                        tokio::time::sleep(RETRY_PAUSE).await;
                    }
                    runner.spawn(id, None);
                };
                self.tasks.spawn(self.leaving.clone().run_until_cancelled_owned(start));
            }
            Reconnect::Lost => {
                warn!(job_id = %id, "the job's container is gone");
                if job.force_stop {
                    self.book.exited(&id, 0, None, Utc::now());
                } else {
                    self.book.failed(&id, "failed to connect to container: it ended together with its host".into());
                }
                let (runner, host) = (Arc::clone(self), host.clone());
                let end = async move {
                    // First the copy: the volumes that it takes over are not destroyed.
                    if resurrect && job.job.resurrect && !job.force_stop {
                        runner.resurrect(&host, &id, &job).await;
                    }
                    runner.clean_up(&id).await;
                };
                self.tasks.spawn(self.leaving.clone().run_until_cancelled_owned(end));
            }
        }
    }

    /// Follows the output that a monitor left behind.
    pub(super) fn follow_ended(&self, id: &JobId, job: &ActiveJob, record: &ExitRecord) -> Option<Arc<JobLog>> {
        let config = &job.job.config;
        if config.disable_log || config.tty {
            return None;
        }
        let (_, progress) = watch::channel(record.spool);
        Some(Arc::new(self.logs.follow_job(self.log_info(id, job), progress)))
    }

    fn reserve_address(&self, id: &JobId, job: &ActiveJob) {
        if let Ok(ip) = job.internal_ip.parse()
            && let Some(network) = self.network.borrow().as_ref()
        {
            network.reserve(id, ip);
        }
    }

    /// Starts a copy of a lost job under a new id, with the same volumes.
    async fn resurrect(self: &Arc<Self>, host: &HostId, lost: &JobId, job: &ActiveJob) {
        let id = JobId::new(host, uuid::Uuid::new_v4());
        let copy = job.again(&id);
        let mut pause = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        loop {
            match self.book.add(&id, copy.clone()).await {
                Ok(()) => {
                    info!(%lost, job_id = %id, "job is resurrected");
                    return self.spawn(id, None);
                }
                Err(err @ RecordError::Refused(_)) => {
                    return warn!(%lost, err = with_causes(&err), "job cannot be resurrected");
                }
                Err(err @ RecordError::Store(_)) => {
                    warn!(%lost, err = with_causes(&err), "job cannot be resurrected yet");
                    tokio::time::sleep(pause.pause()).await;
                }
            }
        }
    }

    /// Removes interfaces, mounts, run directories and containers that belong to no job we know. Call before jobs are
    /// started. Containers, which may take long to die, are removed in the background.
    async fn remove_strays(self: &Arc<Self>, known: BTreeSet<JobId>) {
        let network = self.network.borrow().clone();
        if let Some(network) = network {
            network.leftovers(&known).await;
        }
        let jobs: Vec<JobId> = known.iter().cloned().collect();
        if let Err(err) = self.volumes.clean_leftovers(&jobs).await {
            warn!(err = with_causes(&err), "what is left of earlier root file systems cannot be removed");
        }
        let (runner, directory) = (Arc::clone(self), self.run_root.join("container"));
        let found = tokio::task::spawn_blocking(move || {
            let names = std::fs::read_dir(&directory).into_iter().flatten().flatten().map(|entry| entry.file_name());
            let names = names.filter_map(|name| name.into_string().ok());
            names.chain(runner.runtime.leftovers()).filter_map(|name| name.parse().ok()).collect::<BTreeSet<JobId>>()
        });
        let found = found.await.unwrap_or_default();
        for id in found.difference(&known) {
            info!(job_id = %id, "removing what is left of an unknown job");
            let (runner, id) = (Arc::clone(self), id.clone());
            let release = async move { runner.release(&id).await };
            self.tasks.spawn(self.leaving.clone().run_until_cancelled_owned(release));
        }
    }
}
