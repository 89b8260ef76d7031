//! Jobs as the controller records them, and one-off jobs to start.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::host::{is_default, null_as_default};
use crate::resource::Resources;
use crate::time::GoTime;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// Will be started.
    #[default]
    Pending,
    /// Cannot be started now, for a reason that others can change: a tag no host has, a volume in use.
    Blocked,
    Starting,
    Up,
    Stopping,
    Down,
    /// Written by older versions; means [`Down`](Self::Down).
    Crashed,
    /// Written by older versions; means [`Down`](Self::Down).
    Failed,
}

impl JobState {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Blocked => "blocked",
            Self::Starting => "starting",
            Self::Up => "up",
            Self::Stopping => "stopping",
            Self::Down => "down",
            Self::Crashed => "crashed",
            Self::Failed => "failed",
        }
    }

    /// Whether nothing follows: a job that is down stays down.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Down | Self::Crashed | Self::Failed)
    }
}

/// A job. Identified by its `uuid`: the id that hosts know begins with the host, which is found later.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Job {
    /// `<host>-<uuid>`; empty while it has no host.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub id: String,
    #[serde(deserialize_with = "null_as_default")]
    pub uuid: String,
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub host_id: String,
    #[serde(rename = "app", skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub app_id: String,
    #[serde(rename = "release", skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub release_id: String,
    /// Process type; empty for one-off jobs.
    #[serde(rename = "type", skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<JobState>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub args: Vec<String>,
    /// Ids, in the order of the process type's volumes.
    #[serde(rename = "volumes", skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub volume_ids: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub meta: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_status: Option<i32>,
    /// Why the host could not run it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_error: Option<String>,
    /// When it will be started again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_at: Option<GoTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restarts: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<GoTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<GoTime>,
}

/// A one-off job to start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NewJob {
    #[serde(rename = "release", skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub release_id: String,
    /// Instead of the release's.
    #[serde(rename = "artifacts", skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub artifact_ids: Vec<String>,
    /// Takes the release's environment over.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub release_env: bool,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub args: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub env: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub meta: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub tty: bool,
    #[serde(rename = "tty_columns", skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub columns: u16,
    #[serde(rename = "tty_lines", skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub lines: u16,
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub disable_log: bool,
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub resources: Resources,
    /// A volume at `/data` that goes with the job.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub data: bool,
    /// `background`, `system` or `user`.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub partition: String,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub profiles: Vec<String>,
    /// Process type whose mounts the job gets.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub mounts_from: String,
}
