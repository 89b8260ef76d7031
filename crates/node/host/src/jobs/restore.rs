//! What happens to the jobs of the last daemon when a new one starts.

use std::collections::BTreeSet;
use std::sync::Arc;

use flynn_container::Reconnect;
use flynn_logmux::JobLog;
use flynn_types::host::{ActiveJob, JobStatus};
use flynn_types::id::{HostId, JobId};
use flynn_types::init::{ExitRecord, InitState};
use tokio::sync::watch;
use tracing::{info, warn};

use super::runner::{Runner, describe};

/// Reconnects that run at once.
const CONCURRENCY: usize = 16;

impl Runner {
    /// Finds the containers of the recorded jobs again, continues their lives, and removes what belongs to no job.
    /// Lost jobs end as failed; those to be resurrected start again as copies.
    pub(crate) async fn restore(self: &Arc<Self>, host: &HostId, resurrect: bool) {
        let known = self.book.list(false);
        let mut tasks = tokio::task::JoinSet::new();
        for (id, job) in known {
            if tasks.len() >= CONCURRENCY {
                tasks.join_next().await;
            }
            let (runner, host) = (Arc::clone(self), host.clone());
            tasks.spawn(async move { runner.restore_job(&host, id, job, resurrect).await });
        }
        while tasks.join_next().await.is_some() {}
        self.remove_strays().await;
    }

    async fn restore_job(self: &Arc<Self>, host: &HostId, id: JobId, job: ActiveJob, resurrect: bool) {
        if !job.status.is_active() {
            if self.run_dir(&id).exists() {
                self.finish(&id).await;
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
                self.note_past_exit(&id, &record, job.pid.unwrap_or_default());
                let runner = Arc::clone(self);
                self.tasks.spawn(async move {
                    if let Some(log) = log {
                        log.finished().await;
                    }
                    if let Some(container) = container {
                        let _ = runner.book.persister().synced().await;
                        container.release().await;
                    }
                    runner.clean_up(&id).await;
                });
            }
            Reconnect::Lost if job.status == JobStatus::Starting && !job.force_stop => {
                info!(job_id = %id, "job was accepted but not started, starting it");
                self.release_container(&id).await;
                self.spawn(id, None);
            }
            Reconnect::Lost => {
                warn!(job_id = %id, "the job's container is gone");
                self.book.failed(&id, "failed to connect to container: it ended together with its host".into());
                self.clean_up(&id).await;
                if resurrect && job.job.resurrect && !job.force_stop {
                    self.resurrect(host, &id, &job).await;
                }
            }
        }
    }

    fn note_past_exit(&self, id: &JobId, record: &ExitRecord, pid: i32) {
        match &record.state {
            InitState::Exited { status } => {
                self.book.started(id, pid);
                let oom = record.oom_kills > 0 && *status == 137;
                self.book.exited(id, *status, oom.then(|| "killed: out of memory".to_owned()));
            }
            InitState::Failed { error } => drop(self.book.failed(id, error.clone())),
            InitState::Initial | InitState::Running => drop(self.book.failed(id, "unknown failure".into())),
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

    /// Removes the remains of a half-built container, so that it can be built anew.
    async fn release_container(&self, id: &JobId) {
        self.release(id).await;
    }

    /// Starts a copy of a lost job under a new id, with the same volumes.
    async fn resurrect(self: &Arc<Self>, host: &HostId, lost: &JobId, job: &ActiveJob) {
        let id = JobId::new(host, uuid::Uuid::new_v4());
        let mut copy = job.job.clone();
        copy.id = id.to_string();
        if let Some(value) = copy.config.env.get_mut("FLYNN_JOB_ID") {
            *value = id.to_string();
        }
        // Given by the host to the lost job; the new one gets its own.
        if !job.internal_ip.is_empty() && copy.config.env.get("EXTERNAL_IP") == Some(&job.internal_ip) {
            copy.config.env.remove("EXTERNAL_IP");
        }
        match self.book.add(&id, copy).await {
            Ok(()) => {
                info!(%lost, job_id = %id, "job is resurrected");
                self.spawn(id, None);
            }
            Err(err) => warn!(%lost, err = describe(&err), "job cannot be resurrected"),
        }
    }

    /// Removes run directories, mounts and containers that belong to no job we know.
    async fn remove_strays(self: &Arc<Self>) {
        let active: BTreeSet<JobId> = self.book.list(true).into_keys().collect();
        let directory = self.run_root.join("container");
        let found = std::fs::read_dir(&directory).into_iter().flatten().flatten();
        let strays: Vec<JobId> = found
            .filter_map(|entry| entry.file_name().to_str()?.parse::<JobId>().ok())
            .filter(|id| !active.contains(id))
            .collect();
        for id in strays {
            info!(job_id = %id, "removing what is left of an unknown job");
            self.release(&id).await;
        }
        let active: Vec<JobId> = self.book.list(true).into_keys().collect();
        if let Err(err) = self.volumes.clean_leftovers(&active).await {
            warn!(err = describe(&err), "what is left of earlier root file systems cannot be removed");
        }
    }
}
