//! Volumes and log sinks as the controller records them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::host::{VolumeType, is_default, null_as_default};
use crate::time::GoTime;

/// Keys in the metadata of a host's volume that say for which jobs it is.
pub mod volume_meta {
    pub const APP: &str = "flynn-controller.app";
    pub const RELEASE: &str = "flynn-controller.release";
    pub const TYPE: &str = "flynn-controller.type";
    pub const PATH: &str = "flynn-controller.path";
    pub const DELETE_ON_STOP: &str = "flynn-controller.delete_on_stop";
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeState {
    #[default]
    Pending,
    Created,
    Destroyed,
}

impl VolumeState {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Created => "created",
            Self::Destroyed => "destroyed",
        }
    }
}

/// A volume of an app, on one host for ever.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Volume {
    /// Where its job mounts it.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub path: String,
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub delete_on_stop: bool,
    #[serde(deserialize_with = "null_as_default")]
    pub id: String,
    #[serde(deserialize_with = "null_as_default")]
    pub host_id: String,
    #[serde(rename = "type")]
    pub kind: VolumeType,
    pub state: VolumeState,
    #[serde(rename = "app", skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub app_id: String,
    #[serde(rename = "release", skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub release_id: String,
    /// UUID of the job that has it.
    #[serde(rename = "job", skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub job_type: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub meta: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<GoTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<GoTime>,
    /// From then on no job gets it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decommissioned_at: Option<GoTime>,
}

/// Where all hosts send their log lines. Without `config` in a stream it was deleted.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Sink {
    #[serde(deserialize_with = "null_as_default")]
    pub id: String,
    /// `syslog`
    #[serde(deserialize_with = "null_as_default")]
    pub kind: String,
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub host_managed: bool,
    /// Kept byte for byte: it is compared with what hosts have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<GoTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<GoTime>,
}
