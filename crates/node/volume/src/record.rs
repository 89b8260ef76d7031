//! What is remembered of a data volume, and where.

use std::collections::BTreeMap;
use std::fmt;

use flynn_types::host::{VolumeInfo, VolumeType};
use serde::{Deserialize, Serialize};

/// A data volume or snapshot as the store keeps it. JSON; unknown fields survive.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeRecord {
    pub info: VolumeInfo,
    /// Id of the provider.
    pub provider: String,
    /// Present for snapshots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotOf>,
    /// Destroying was begun: it is finished at the next start.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub destroying: bool,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub extra: BTreeMap<String, serde_json::Value>,
}

/// What a snapshot is one of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SnapshotOf {
    /// Id of the volume.
    pub volume: String,
    /// Equal on all hosts that hold this snapshot; what [`flynn_types::host::SnapshotHave`] names.
    pub name: String,
}

impl VolumeRecord {
    pub(crate) fn is_snapshot_of(&self, volume: &str) -> bool {
        self.snapshot.as_ref().is_some_and(|s| s.volume == volume)
    }

    pub(crate) fn new(info: VolumeInfo, provider: &str, snapshot: Option<SnapshotOf>) -> Self {
        let info = VolumeInfo { kind: VolumeType::Data, ..info };
        Self { info, provider: provider.to_owned(), snapshot, ..Self::default() }
    }
}

/// Why the store did not do its work.
#[derive(Debug, thiserror::Error)]
#[error("volume store: {0}")]
pub struct StoreFailure(#[source] pub Box<dyn std::error::Error + Send + Sync>);

impl StoreFailure {
    pub fn new(err: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(err.into())
    }
}

/// Where records of data volumes are kept. Methods may block; they are called on blocking threads.
pub trait VolumeStore: Send + Sync {
    fn load(&self) -> Result<Vec<VolumeRecord>, StoreFailure>;
    /// Replaces or removes (`None`) a record; durable when it returns.
    fn save(&self, id: &str, record: Option<&VolumeRecord>) -> Result<(), StoreFailure>;
}

impl fmt::Debug for dyn VolumeStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VolumeStore")
    }
}
