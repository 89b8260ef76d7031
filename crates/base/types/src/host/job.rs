//! Jobs and what became of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ContainerConfig, is_default, null_as_default};
use crate::id::JobId;
use crate::resource::Resources;
use crate::time::GoTime;

/// Keys of [`Job::metadata`] with a meaning to the host.
pub mod metadata {
    pub const APP: &str = "flynn-controller.app";
    pub const APP_NAME: &str = "flynn-controller.app_name";
    pub const RELEASE: &str = "flynn-controller.release";
    pub const TYPE: &str = "flynn-controller.type";
    pub const FORMATION: &str = "flynn-controller.formation";
    pub const SYSTEM_APP: &str = "flynn-system-app";
}

/// Header with the term in which the scheduler leads that sends a request (ours). Whoever refuses what comes with a
/// term below the highest it has seen answers 409, with that one as `term` in the detail.
pub const TERM_HEADER: &str = "Flynn-Scheduler-Term";

/// Partition of jobs that name none.
pub const DEFAULT_PARTITION: &str = "user";

/// What to run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Job {
    /// Taken from the URL when absent; kept as text here so that a wrong one gets an answer of its own.
    #[serde(skip_serializing_if = "is_default")]
    pub id: String,
    /// Layers, bottom first; at least one is required.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub mountspecs: Vec<Mountspec>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub metadata: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub resources: Resources,
    #[serde(skip_serializing_if = "is_default")]
    pub partition: String,
    pub config: ContainerConfig,
    /// Start the job again, as a copy with a new id and the same volumes, when its host comes back from a reboot.
    #[serde(skip_serializing_if = "is_default")]
    pub resurrect: bool,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub profiles: Vec<String>,
}

impl Job {
    /// Value of a metadata key, empty when absent.
    pub fn meta(&self, key: &str) -> &str {
        self.metadata.get(key).map_or("", String::as_str)
    }

    pub fn partition(&self) -> &str {
        if self.partition.is_empty() { DEFAULT_PARTITION } else { &self.partition }
    }

    /// Whether the caller declares this a job of the platform itself. Metadata is the caller's word, not a boundary.
    pub fn is_system(&self) -> bool {
        self.meta(metadata::SYSTEM_APP) == "true" || self.partition == "system"
    }
}

/// One layer of a job's root file system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mountspec {
    /// Only `squashfs`.
    #[serde(rename = "type", skip_serializing_if = "is_default")]
    pub kind: String,
    #[serde(skip_serializing_if = "is_default")]
    pub id: String,
    #[serde(skip_serializing_if = "is_default")]
    pub url: String,
    /// Length of the layer in bytes.
    #[serde(skip_serializing_if = "is_default")]
    pub size: i64,
    /// Algorithm (`sha256`, `sha512`, `sha512_256`) to lower-case hex digest.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub hashes: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub meta: BTreeMap<String, String>,
}

impl Mountspec {
    pub const SQUASHFS: &'static str = "squashfs";
}

/// Where a job is in its life; a number on the wire, 0 omitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum JobStatus {
    /// Accepted, not yet running.
    #[default]
    Starting,
    /// The process was started.
    Running,
    /// Ended with exit status 0.
    Done,
    /// Ended with another exit status.
    Crashed,
    /// Could not be started, or was lost; `error` says why.
    Failed,
}

impl JobStatus {
    const ALL: [Self; 5] = [Self::Starting, Self::Running, Self::Done, Self::Crashed, Self::Failed];

    /// Starting or running.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Starting | Self::Running)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Done => "done",
            Self::Crashed => "crashed",
            Self::Failed => "failed",
        }
    }
}

impl From<JobStatus> for u8 {
    fn from(status: JobStatus) -> u8 {
        status as u8
    }
}

impl TryFrom<u8> for JobStatus {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        Self::ALL.get(usize::from(number)).copied().ok_or_else(|| format!("unknown job status {number}"))
    }
}

/// A job on a host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ActiveJob {
    pub job: Job,
    pub host_id: String,
    #[serde(skip_serializing_if = "is_default")]
    pub internal_ip: String,
    /// Process id of the container's init in the host's process namespace, while it lives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// A stop was asked for before the job ran.
    #[serde(skip_serializing_if = "is_default")]
    pub force_stop: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub status: JobStatus,
    pub created_at: GoTime,
    pub started_at: GoTime,
    pub ended_at: GoTime,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_status: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What a starting job waits for, in words (ours: Go has no such field and ignores it).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
}

impl ActiveJob {
    /// The id, when it is a valid one; jobs in a host's state always have one.
    pub fn id(&self) -> Option<JobId> {
        self.job.id.parse().ok()
    }

    /// What starts the job again under another id, with the same volumes.
    pub fn again(&self, id: &JobId) -> Job {
        let mut job = self.job.clone();
        job.id = id.to_string();
        let env = &mut job.config.env;
        if let Some(value) = env.get_mut("FLYNN_JOB_ID") {
            *value = id.to_string();
        }
        // Given by the host to this job; the new one gets its own.
        if !self.internal_ip.is_empty() && env.get("EXTERNAL_IP") == Some(&self.internal_ip) {
            env.remove("EXTERNAL_IP");
        }
        job
    }
}
