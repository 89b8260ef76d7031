//! Removing what is left of a container.

use std::path::Path;
use std::time::Duration;

use tracing::{debug, warn};

use crate::bundle::{self, MonitorProcess};
use crate::profile;
use crate::runtime::Runtime;

/// How long processes may take to die and their cgroups to empty.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a monitor may take to end by itself after its container has.
const MONITOR_PATIENCE: Duration = Duration::from_millis(100);
const RETRY: Duration = Duration::from_millis(2);

impl Runtime {
    /// Kills what still runs of the container of `run_dir`, its monitor included, and removes its cgroups and the files
    /// that this crate made there. The spool, the pinned network namespace and the root file system are not touched.
    /// Idempotent; works also when the run directory is gone or the container was never finished.
    pub async fn destroy(&self, run_dir: &Path) {
        let monitor = MonitorProcess::find(run_dir);
        if let Some(monitor) = &monitor {
            let record = bundle::exit_record(run_dir).await;
            if record.is_none() {
                // It may be a supervisor still at work: first, so that nothing new appears in the cgroup.
                monitor.kill();
            }
        }
        if let Some(cgroup) = self.cgroup_of(run_dir) {
            self.empty_cgroup(&cgroup).await;
        }
        if let Some(monitor) = monitor
            && tokio::time::timeout(MONITOR_PATIENCE, monitor.ended()).await.is_err()
        {
            monitor.kill();
            let _ = tokio::time::timeout(PATIENCE, monitor.ended()).await;
        }
        if let Ok(mut cpu_before) = self.inner.cpu_before.lock() {
            cpu_before.remove(run_dir);
        }
        let run_dir = run_dir.to_owned();
        let removed = tokio::task::spawn_blocking(move || remove_files(&run_dir)).await;
        if let Err(err) = removed {
            warn!(%err, "removing the container's files failed");
        }
    }

    async fn empty_cgroup(&self, cgroup: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let (cgroups, path) = (self.inner.cgroups.clone(), cgroup.to_owned());
            // Reading and removing cgroups waits for kernel locks: not on the daemon's threads.
            let removed = tokio::task::spawn_blocking(move || {
                cgroups.kill(&path);
                cgroups.remove(&path)
            });
            match removed.await {
                Ok(Ok(())) => return,
                Ok(Err(err)) if tokio::time::Instant::now() > deadline => {
                    warn!(cgroup, %err, "the container's cgroup cannot be removed");
                    return;
                }
                Ok(Err(err)) => debug!(cgroup, %err, "the container's cgroup is still in use"),
                Err(err) => {
                    warn!(cgroup, %err, "removing the container's cgroup failed");
                    return;
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Removes the files of an earlier or ended container. The supervisor's configuration goes last: it names the rest.
pub(crate) fn remove_files(run_dir: &Path) {
    if let Some(number) = bundle::load(run_dir).ok().and_then(|config| config.loop_device) {
        profile::release_loop_device(number);
    }
    for directory in [bundle::RUNTIME, bundle::SHARED] {
        tolerate(run_dir, directory, std::fs::remove_dir_all(run_dir.join(directory)));
    }
    for file in bundle::LEFT {
        tolerate(run_dir, file, std::fs::remove_file(run_dir.join(file)));
    }
}

fn tolerate(run_dir: &Path, name: &str, result: std::io::Result<()>) {
    match result {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
            warn!(run_dir = %run_dir.display(), name, %err, "a file of the container cannot be removed");
        }
        _ => {}
    }
}
