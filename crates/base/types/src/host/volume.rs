//! Volumes of a host.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{is_default, null_as_default};
use crate::time::GoTime;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeType {
    /// Holds what apps keep: never collected.
    #[default]
    Data,
    /// An image layer.
    Squashfs,
    /// Scratch space of a job.
    Ext2,
}

impl VolumeType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Squashfs => "squashfs",
            Self::Ext2 => "ext2",
        }
    }
}

/// A volume as the API shows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeInfo {
    pub id: String,
    #[serde(rename = "type")]
    pub kind: VolumeType,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub meta: BTreeMap<String, String>,
    pub created_at: GoTime,
}

/// Key in [`VolumeInfo::meta`] whose value `true` keeps a layer for ever.
pub const META_SYSTEM_IMAGE: &str = "flynn.system-image";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeEventKind {
    Create,
    Destroy,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VolumeEvent {
    #[serde(rename = "type")]
    pub kind: VolumeEventKind,
    pub volume: VolumeInfo,
}

/// A volume provider to set up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProviderSpec {
    pub id: String,
    pub kind: String,
    /// Provider configuration.
    #[serde(rename = "metadata", skip_serializing_if = "Option::is_none")]
    pub config: Option<serde_json::Value>,
}

/// Body of `POST …/pull_snapshot`: where the snapshot is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PullCoordinate {
    pub host_id: String,
    pub snapshot_id: String,
}

/// A snapshot that the receiver has, oldest first in a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SnapshotHave {
    #[serde(skip_serializing_if = "is_default")]
    pub snap_id: String,
}

/// `Accept` and `Content-Type` of snapshot streams.
pub const SNAPSHOT_STREAM_MIME: &str = "application/vnd.zfs.snapshot-stream";
