//! Releases: what an app runs, and how.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::host::{Device, Mount, Service, is_default, null_as_default};
use crate::resource::Resources;
use crate::time::GoTime;

/// Keys of [`Release::meta`] with a meaning to the platform.
pub mod release_meta {
    /// `true`: made by `git push`; collected when enough newer ones exist.
    pub const GIT: &str = "git";
    /// `true`: made by `docker push`.
    pub const DOCKER: &str = "docker-receive";
}

/// Artifacts, environment and process types. Never changes once it is created.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Release {
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub id: String,
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub app_id: String,
    /// Ids, in the order of their layers.
    #[serde(rename = "artifacts", skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub artifact_ids: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub env: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub meta: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub processes: BTreeMap<String, ProcessType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<GoTime>,
    /// Older form: the first of `artifacts`.
    #[serde(rename = "artifact", skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub artifact_id: String,
}

/// How jobs of one type run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessType {
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub args: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub env: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub ports: Vec<ProcessPort>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub volumes: Vec<VolumeReq>,
    /// The count is for each host.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub omni: bool,
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub host_network: bool,
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub host_pid_namespace: bool,
    /// A job counts as up when it is registered under this name.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub service: String,
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub resurrect: bool,
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub resources: Resources,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub mounts: Vec<Mount>,
    /// Some of `zfs`, `kvm`, `loop`.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub profiles: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub linux_capabilities: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub allowed_devices: Vec<Device>,
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub writeable_cgroups: bool,
    /// Older form: what follows `entrypoint` in `args`.
    #[serde(rename = "cmd", skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub deprecated_cmd: Vec<String>,
    /// Older form: the begin of `args`.
    #[serde(rename = "entrypoint", skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub deprecated_entrypoint: Vec<String>,
    /// Older form: a volume at `/data`.
    #[serde(rename = "data", skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub deprecated_data: bool,
}

impl ProcessType {
    /// Rewrites the older forms and fills in default resources, as the controller stores it (R6).
    pub fn normalize(&mut self) {
        if !self.deprecated_entrypoint.is_empty() {
            self.args.clone_from(&self.deprecated_entrypoint);
        }
        self.args.extend(self.deprecated_cmd.iter().cloned());
        if std::mem::take(&mut self.deprecated_data) && self.volumes.is_empty() {
            self.volumes.push(VolumeReq { path: "/data".into(), delete_on_stop: false });
        }
        self.resources.fill_defaults();
    }
}

/// A port of a process type. Unlike the host's object, number and protocol are always there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessPort {
    /// 0 lets the host choose.
    #[serde(deserialize_with = "null_as_default")]
    pub port: u16,
    /// `tcp` or `udp`.
    #[serde(deserialize_with = "null_as_default")]
    pub proto: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Service>,
}

/// A volume that each job of a type has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeReq {
    /// Where it is mounted.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub path: String,
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub delete_on_stop: bool,
}
