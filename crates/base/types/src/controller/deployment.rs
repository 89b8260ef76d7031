//! Deployments: the way from one release to the next.

use serde::{Deserialize, Serialize};

use super::{JobState, Processes, Tags};
use crate::host::{is_default, null_as_default};
use crate::time::GoTime;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeploymentStatus {
    #[default]
    Pending,
    Running,
    Complete,
    Failed,
}

impl DeploymentStatus {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Failed => "failed",
        }
    }
}

/// A deployment, with the app's strategy and the old release's formation as they were when it began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Deployment {
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub id: String,
    #[serde(rename = "app", skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub app_id: String,
    /// Empty for the first release of an app.
    #[serde(rename = "old_release", skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub old_release_id: String,
    #[serde(rename = "new_release", skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub new_release_id: String,
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub strategy: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<DeploymentStatus>,
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub processes: Processes,
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub tags: Tags,
    /// Seconds, for each step.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub deploy_timeout: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deploy_batch_size: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<GoTime>,
    /// Set once it is over, well or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<GoTime>,
}

/// What happened in a deployment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeploymentEvent {
    #[serde(rename = "app", skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub app_id: String,
    #[serde(rename = "deployment", skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub deployment_id: String,
    #[serde(rename = "release", skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub release_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<DeploymentStatus>,
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub job_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_state: Option<JobState>,
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub error: String,
}
