//! What a cluster is made of.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Settings of a cluster.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// How many hosts, named `host1`, `host2` …
    pub hosts: usize,
    /// Part of control group and folder names; letters and digits. A test leaves it `None` and gets a unique one.
    pub name: Option<String>,
    /// Folder of everything the cluster writes. A test leaves it `None`: a temporary folder, removed at the end unless
    /// `FLYNN_KEEP` is set.
    pub dir: Option<PathBuf>,
    /// The cluster lives on after this process. Tests leave it `false`: then nothing survives the process.
    pub detached: bool,
    pub daemon: Daemon,
    /// Start the daemons (else only the hosts; see [`crate::Host::start_daemon`]).
    pub start_daemons: bool,
    /// Size in bytes of each host's disk, an ext4 file system of its own that can be full. Without it a host writes to a
    /// folder of the machine's file system.
    pub disk_bytes: Option<u64>,
    /// Run daemons under `libfaketime`, so that [`crate::Host::shift_clock`] works.
    pub movable_clock: bool,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            hosts: 1,
            name: None,
            dir: None,
            detached: false,
            daemon: Daemon::default(),
            start_daemons: true,
            disk_bytes: None,
            movable_clock: false,
        }
    }
}

/// The program that every host runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Daemon {
    /// Command; `{id}`, `{ip}`, `{peers}`, `{dir}` (the host's folder) and `{cgroup}` are replaced. Empty: `flynn-host daemon`
    /// with all that makes it this host's.
    pub command: Vec<String>,
    /// Appended to the command, with the same replacements.
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub ready: Ready,
    /// Longest a daemon may take to be ready.
    pub patience: Duration,
}

impl Default for Daemon {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            args: Vec::new(),
            env: BTreeMap::new(),
            ready: Ready::Http { port: 1113, path: "/host/status".to_owned() },
            patience: Duration::from_secs(60),
        }
    }
}

/// When a daemon counts as up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Ready {
    /// As soon as its process runs.
    Started,
    /// When a GET is answered with 200.
    Http { port: u16, path: String },
}
