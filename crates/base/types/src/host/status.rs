//! The host itself: status, network, checks, replacement.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Port, is_default, null_as_default};
use crate::time::{GoTime, nanos};

/// Answer of `GET /host/status`, the health check of load balancers and of the operator's guide.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostStatus {
    pub id: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub tags: BTreeMap<String, String>,
    pub pid: u32,
    /// `http://<external ip>:<port>`
    pub url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discoverd: Option<DiscoverdConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkConfig>,
    pub version: String,
    /// The daemon's command line after `daemon`; `null` when there was none.
    pub flags: Option<Vec<String>>,
    #[serde(skip_serializing_if = "is_default")]
    pub draining: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub jobs_active: u32,
    /// 1 or 2.
    #[serde(skip_serializing_if = "is_default")]
    pub cgroup_version: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<GoTime>,
}

/// Where containers find service discovery.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiscoverdConfig {
    pub job_id: String,
    pub url: String,
    /// `ip:53`
    pub dns: String,
}

/// The host's part of the cluster network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkConfig {
    pub job_id: String,
    /// Address of the bridge with prefix length, for example `100.100.3.1/24`.
    pub subnet: String,
    pub mtu: u32,
    /// Upstream name servers; filled in by the daemon.
    pub resolvers: Option<Vec<String>>,
}

/// Body of `POST /host/resource-check`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourceCheck {
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub ports: Vec<Port>,
}

/// Body and answer of `POST /host/update`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Command {
    pub path: String,
    #[serde(deserialize_with = "null_as_default")]
    pub args: Vec<String>,
    pub pid: u32,
    /// How long the old daemon stays after the new one took over; 1 s when absent.
    #[serde(with = "nanos", skip_serializing_if = "Option::is_none")]
    pub shutdown_delay: Option<Duration>,
}

/// Body of `PUT /host/drain`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DrainRequest {
    #[serde(skip_serializing_if = "is_default")]
    pub reason: String,
}

/// Body of `POST /attach`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttachRequest {
    #[serde(skip_serializing_if = "is_default")]
    pub job_id: String,
    /// Bits of [`attach`].
    #[serde(skip_serializing_if = "is_default")]
    pub flags: u8,
    /// Terminal size in characters.
    #[serde(skip_serializing_if = "is_default")]
    pub height: u16,
    #[serde(skip_serializing_if = "is_default")]
    pub width: u16,
}
