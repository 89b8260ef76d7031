//! The containers of one daemon.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use flynn_types::id::JobId;

use crate::cgroup::{CgroupError, Cgroups};

/// Settings of a [`Runtime`].
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// Command to which the run directory is appended, and which calls [`crate::supervise`].
    pub supervisor: Vec<String>,
    /// `flynn-init`: process 1 of the containers, and their monitor.
    pub init_binary: PathBuf,
    /// Name of our cgroup below each hierarchy's root; may have several components.
    pub cgroup_root: String,
}

impl RuntimeConfig {
    /// Starts this very program as supervisor, with the cgroups below `flynn`.
    pub fn new(init_binary: impl Into<PathBuf>) -> Self {
        Self {
            supervisor: vec!["/proc/self/exe".into(), "supervise".into()],
            init_binary: init_binary.into(),
            cgroup_root: "flynn".into(),
        }
    }
}

/// Why containers cannot be run on this machine at all.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("no supervisor command is configured")]
    NoSupervisor,
    #[error("flynn-init is not at {path}; install it there or name its place with --flynn-init")]
    NoInit {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("invalid cgroup name {0:?}: it may hold letters, digits, `_`, `.` and `-` and not begin with a dot")]
    CgroupName(String),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

/// Starts, finds and removes containers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Runtime {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: RuntimeConfig,
    pub(crate) cgroups: Cgroups,
    /// Processor time of each run directory's container at the last look, for percentages.
    pub(crate) cpu_before: Mutex<HashMap<PathBuf, (u64, Instant)>>,
}

impl Runtime {
    /// Looks at the machine: which cgroup version, which controllers. Changes nothing yet.
    pub fn new(config: RuntimeConfig) -> Result<Self, RuntimeError> {
        if config.supervisor.is_empty() {
            return Err(RuntimeError::NoSupervisor);
        }
        if !config.cgroup_root.split('/').all(is_cgroup_name) {
            return Err(RuntimeError::CgroupName(config.cgroup_root));
        }
        let init_binary = std::fs::canonicalize(&config.init_binary)
            .map_err(|source| RuntimeError::NoInit { path: config.init_binary.clone(), source })?;
        let cgroups = Cgroups::detect(&config.cgroup_root)?;
        let config = RuntimeConfig { init_binary, ..config };
        Ok(Self { inner: Arc::new(Inner { config, cgroups, cpu_before: Mutex::default() }) })
    }

    /// Makes the partitions' cgroups with their processor weights (cpu shares), and whatever of the hierarchies is
    /// missing for containers. Idempotent.
    pub fn ensure_partitions(&self, partitions: &[(String, u64)]) -> Result<(), RuntimeError> {
        if let Some((bad, _)) = partitions.iter().find(|(name, _)| !is_cgroup_name(name)) {
            return Err(RuntimeError::CgroupName(bad.clone()));
        }
        Ok(self.inner.cgroups.ensure_partitions(partitions)?)
    }

    /// Ids of all jobs that have a cgroup in some partition. Those that the daemon does not know are leftovers;
    /// [`Runtime::destroy`] with the run directory that the job had, or would have, removes them.
    pub fn leftovers(&self) -> Vec<String> {
        self.inner.cgroups.job_ids()
    }

    /// Removes our cgroups, partitions and monitors' included, once no job is left. Idempotent.
    pub fn remove_partitions(&self) -> Result<(), RuntimeError> {
        Ok(self.inner.cgroups.remove_root()?)
    }

    /// Cgroup of the container of `run_dir`: as recorded, else the one that carries the directory's name.
    pub(crate) fn cgroup_of(&self, run_dir: &Path) -> Option<String> {
        crate::bundle::recorded_cgroup(run_dir).or_else(|| {
            let id: JobId = run_dir.file_name()?.to_str()?.parse().ok()?;
            self.inner.cgroups.find(id.as_str())
        })
    }
}

/// Whether `name` may be one component of a cgroup's path.
fn is_cgroup_name(name: &str) -> bool {
    flynn_types::id::is_path_safe(name)
}
