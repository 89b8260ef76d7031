//! What a cluster is, on disk, so that it can be found again by another process.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::options::Daemon;
use crate::process::ProcessId;

/// `cluster.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    pub(crate) detached: bool,
    pub(crate) movable_clock: bool,
    pub(crate) disk_bytes: Option<u64>,
    pub(crate) daemon: Daemon,
    /// Holds the network namespace of the bridge.
    pub(crate) hub: Option<ProcessId>,
    pub(crate) hosts: Vec<HostRecord>,
    /// Process namespaces that hosts have ever had, to prove that they are gone.
    pub(crate) namespaces: Vec<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct HostRecord {
    pub(crate) id: String,
    pub(crate) ip: Ipv4Addr,
    /// Process 1 of the host, while it is up.
    pub(crate) init: Option<ProcessId>,
}

impl Record {
    pub(crate) fn file(dir: &Path) -> PathBuf {
        dir.join("cluster.json")
    }

    pub(crate) fn load(dir: &Path) -> anyhow::Result<Self> {
        let file = Self::file(dir);
        let text = std::fs::read(&file).with_context(|| {
            format!("there is no cluster in {} (`up` makes one): read {}", dir.display(), file.display())
        })?;
        serde_json::from_slice(&text).with_context(|| format!("parse {}", file.display()))
    }

    pub(crate) fn save(&self) -> anyhow::Result<()> {
        let file = Self::file(&self.dir);
        let new = file.with_extension("new");
        std::fs::write(&new, serde_json::to_vec_pretty(self)?).with_context(|| format!("write {}", new.display()))?;
        std::fs::rename(&new, &file).with_context(|| format!("rename {}", new.display()))
    }

    pub(crate) fn host_dir(&self, id: &str) -> PathBuf {
        self.dir.join(id)
    }

    /// ZFS pool of a host's volumes.
    pub(crate) fn pool(&self, id: &str) -> String {
        format!("{}-{id}", self.cgroup())
    }

    /// Parent of all control groups of the cluster, relative to each hierarchy's root.
    pub(crate) fn cgroup(&self) -> String {
        format!("flynn-{}", self.name)
    }
}
