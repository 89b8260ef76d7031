//! Backups and the change of the cluster's domain.

use serde::{Deserialize, Serialize};

use crate::host::{is_default, null_as_default};
use crate::time::GoTime;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupStatus {
    #[default]
    Running,
    Complete,
    Error,
}

/// A backup that was made of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterBackup {
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub id: String,
    pub status: BackupStatus,
    /// Hex.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub sha512: String,
    /// Bytes.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub size: i64,
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub error: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<GoTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<GoTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<GoTime>,
}

/// A certificate with its authority, as the router's app has it.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TlsCert {
    pub ca_cert: String,
    pub cert: String,
    /// Base64 of the leaf's SHA-256, by which clients know the cluster.
    pub pin: String,
    pub key: String,
}

/// Without the key.
impl std::fmt::Debug for TlsCert {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsCert").field("pin", &self.pin).finish_non_exhaustive()
    }
}

/// A change of the cluster's domain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DomainMigration {
    #[serde(deserialize_with = "null_as_default")]
    pub id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_tls_cert: Option<TlsCert>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert: Option<TlsCert>,
    #[serde(deserialize_with = "null_as_default")]
    pub old_domain: String,
    #[serde(deserialize_with = "null_as_default")]
    pub domain: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<GoTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<GoTime>,
}
