//! What a job's container is made of.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{is_default, null_as_default};
use crate::time::nanos;

/// How a job runs. Every field is optional on the wire; the object itself is always present.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    /// Command line; empty is rejected.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub args: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub tty: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub stdin: bool,
    /// Legacy, ignored by the host.
    #[serde(skip_serializing_if = "is_default")]
    pub data: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub env: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub mounts: Vec<Mount>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub volumes: Vec<VolumeBinding>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub ports: Vec<Port>,
    #[serde(skip_serializing_if = "is_default")]
    pub working_dir: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    #[serde(skip_serializing_if = "is_default")]
    pub host_network: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub host_pid_namespace: bool,
    /// Output is not stored but streamed to a single attacher.
    #[serde(skip_serializing_if = "is_default")]
    pub disable_log: bool,
    /// `None` means the defaults, a list (also an empty one) means exactly this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linux_capabilities: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_devices: Option<Vec<Device>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_created_devices: Option<Vec<Device>>,
    #[serde(skip_serializing_if = "is_default")]
    pub writeable_cgroups: bool,
    /// Time between SIGTERM and SIGKILL when the job is stopped; the host's default is 30 s.
    #[serde(with = "nanos", skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<Duration>,
}

/// A mount into the container. Note the names: `location` is inside the container, `target` is the host's side.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// Path inside the container.
    #[serde(skip_serializing_if = "is_default")]
    pub location: String,
    /// Source path on the host, or the source of a device mount.
    #[serde(skip_serializing_if = "is_default")]
    pub target: String,
    #[serde(skip_serializing_if = "is_default")]
    pub writeable: bool,
    /// File system type; empty means a recursive bind mount.
    #[serde(skip_serializing_if = "is_default")]
    pub device: String,
    /// Mount options.
    #[serde(skip_serializing_if = "is_default")]
    pub data: String,
    /// Linux `MS_*` flags.
    #[serde(skip_serializing_if = "is_default")]
    pub flags: i64,
}

/// A volume in the container. No field is ever omitted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeBinding {
    /// Path in the container.
    pub target: String,
    /// Volume id.
    pub volume: String,
    pub writeable: bool,
    pub delete_on_stop: bool,
}

/// A port of the job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Port {
    /// 0 lets the host choose 5000 + index.
    #[serde(skip_serializing_if = "is_default")]
    pub port: u16,
    /// `tcp` or `udp`.
    #[serde(skip_serializing_if = "is_default")]
    pub proto: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Service>,
}

/// The service under which a port is registered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// Create the service when it does not exist.
    #[serde(skip_serializing_if = "is_default")]
    pub create: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<HealthCheck>,
}

/// How the job's init decides whether the port is up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthCheck {
    /// `tcp`, `http` or `https`.
    #[serde(rename = "type", skip_serializing_if = "is_default")]
    pub kind: String,
    #[serde(with = "nanos", skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,
    #[serde(skip_serializing_if = "is_default")]
    pub threshold: u32,
    #[serde(skip_serializing_if = "is_default")]
    pub kill_down: bool,
    #[serde(with = "nanos", skip_serializing_if = "Option::is_none")]
    pub start_timeout: Option<Duration>,
    #[serde(skip_serializing_if = "is_default")]
    pub path: String,
    #[serde(skip_serializing_if = "is_default")]
    pub host: String,
    #[serde(rename = "match", skip_serializing_if = "is_default")]
    pub body_match: String,
    #[serde(skip_serializing_if = "is_default")]
    pub status: u16,
}

impl HealthCheck {
    /// Spec flynn-host section 3.4.
    pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(2);
    pub const DEFAULT_THRESHOLD: u32 = 2;
    pub const DEFAULT_START_TIMEOUT: Duration = Duration::from_secs(10);
    pub const DEFAULT_STATUS: u16 = 200;
}

/// A device node. `type` is the code point of the letter (`99` is `c`), -1 means any number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    #[serde(rename = "type")]
    pub kind: u32,
    pub path: String,
    pub major: i64,
    pub minor: i64,
    /// Some of `rwm`.
    pub permissions: String,
    pub file_mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub allow: bool,
}

impl ContainerConfig {
    /// This configuration with `other` on top: booleans OR; `args`, `working_dir`, `uid`, `gid` from `other` when set;
    /// environment merged with `other` winning; mounts, volumes and ports concatenated; the rest stays.
    #[must_use]
    pub fn merged(mut self, other: &Self) -> Self {
        self.tty |= other.tty;
        self.stdin |= other.stdin;
        self.data |= other.data;
        self.host_network |= other.host_network;
        self.host_pid_namespace |= other.host_pid_namespace;
        self.disable_log |= other.disable_log;
        self.writeable_cgroups |= other.writeable_cgroups;
        if !other.args.is_empty() {
            self.args.clone_from(&other.args);
        }
        if !other.working_dir.is_empty() {
            self.working_dir.clone_from(&other.working_dir);
        }
        self.uid = other.uid.or(self.uid);
        self.gid = other.gid.or(self.gid);
        self.env.extend(other.env.iter().map(|(k, v)| (k.clone(), v.clone())));
        self.mounts.extend(other.mounts.iter().cloned());
        self.volumes.extend(other.volumes.iter().cloned());
        self.ports.extend(other.ports.iter().cloned());
        self
    }
}
