//! Formations: how many jobs of a release run; and the requests that change them.

use serde::{Deserialize, Serialize};

use super::{App, Processes, Release, Tags};
use crate::host::{is_default, null_as_default};
use crate::image::Artifact;
use crate::time::GoTime;

/// Counts and tags of a release of an app.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Formation {
    #[serde(rename = "app", skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub app_id: String,
    #[serde(rename = "release", skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub release_id: String,
    /// A count below zero is refused by the API, not by decoding.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub processes: Processes,
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub tags: Tags,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<GoTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<GoTime>,
}

/// A formation with everything that running it takes. `{"updated_at": "0001-01-01T00:00:00Z"}`, without an app, ends
/// the initial list of a stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExpandedFormation {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<App>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<Release>,
    /// In the release's order.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub artifacts: Vec<Artifact>,
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub processes: Processes,
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub tags: Tags,
    pub updated_at: GoTime,
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub deleted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_scale_request: Option<ScaleRequest>,
    /// Only in backups, for older versions.
    #[serde(rename = "artifact", skip_serializing_if = "Option::is_none")]
    pub deprecated_artifact: Option<Artifact>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScaleRequestState {
    #[default]
    Pending,
    /// A newer one took its place.
    Cancelled,
    Complete,
}

impl ScaleRequestState {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Cancelled => "cancelled",
            Self::Complete => "complete",
        }
    }
}

/// A change of a formation. What was and what shall be; `None` changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScaleRequest {
    #[serde(default, deserialize_with = "null_as_default")]
    pub id: String,
    #[serde(rename = "app", default, deserialize_with = "null_as_default")]
    pub app_id: String,
    #[serde(rename = "release", default, deserialize_with = "null_as_default")]
    pub release_id: String,
    /// Required on the wire.
    pub state: ScaleRequestState,
    #[serde(default, skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub old_processes: Processes,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_processes: Option<Processes>,
    #[serde(default, skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub old_tags: Tags,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_tags: Option<Tags>,
    #[serde(default)]
    pub created_at: Option<GoTime>,
    #[serde(default)]
    pub updated_at: Option<GoTime>,
}
