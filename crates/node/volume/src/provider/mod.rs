//! Where data volumes lie.

pub(crate) mod dir;
pub(crate) mod zfs;

use std::fmt;
use std::io::{Read, Write};
use std::path::PathBuf;

use flynn_types::host::VolumeInfo;

use crate::error::VolumeError;
use crate::record::{SnapshotOf, VolumeRecord};

/// Id of the provider that every node has (spec flynn-host 11.1).
pub const DEFAULT_PROVIDER: &str = "default";

/// What a provider is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProviderKind {
    Zfs { pool: String },
    Dir { path: PathBuf },
}

impl ProviderKind {
    /// As in `ProviderSpec::kind`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Zfs { .. } => "zfs",
            Self::Dir { .. } => "dir",
        }
    }
}

impl fmt::Display for ProviderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What went wrong in a provider.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    #[error("`{command}` failed: {stderr}")]
    Command { command: String, stderr: String },
    #[error("`{command}` did not end within {seconds} s")]
    Timeout { command: String, seconds: u64 },
    #[error("{program} command is not available: install it, or choose the volume provider `dir`")]
    Missing { program: &'static str },
    #[error("the pool's file {} is there, but holds no pool that can be imported: {reason}", path.display())]
    Pool { path: PathBuf, reason: String },
    #[error("{what} {}: {reason}", path.display())]
    Path { what: &'static str, path: PathBuf, reason: String },
}

impl ProviderError {
    pub(crate) fn path(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> VolumeError {
        let path = path.into();
        move |err| Self::Path { what, path, reason: err.to_string() }.into()
    }
}

/// Whether a volume is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    Ready,
    /// The provider works, and does not have it.
    Gone,
    Failed(String),
}

/// A snapshot that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    /// As the stream calls it.
    pub(crate) name: String,
}

/// One kind of place for data volumes. All methods block; the manager lets no two of them work on one volume at once.
pub(crate) trait Provider: Send + Sync + fmt::Debug {
    fn kind(&self) -> ProviderKind;
    /// Makes an empty volume.
    fn create(&self, info: &VolumeInfo) -> Result<(), VolumeError>;
    /// Removes a volume or snapshot; one that is not there is success.
    fn destroy(&self, record: &VolumeRecord) -> Result<(), VolumeError>;
    /// Makes a read-only copy of the volume `of.volume`, called `of.name`, as volume `info.id`.
    fn snapshot(&self, info: &VolumeInfo, of: &SnapshotOf) -> Result<(), VolumeError>;
    /// Writes a snapshot, as a difference to `base` if given.
    fn send(
        &self,
        snapshot: &VolumeRecord,
        base: Option<&VolumeRecord>,
        out: &mut dyn Write,
    ) -> Result<(), VolumeError>;
    /// Reads a stream: the snapshot becomes volume `info.id`, the volume's own content is replaced by it. `snapshots`
    /// are those that the volume has.
    fn receive(
        &self,
        volume: &VolumeRecord,
        info: &VolumeInfo,
        snapshots: &[VolumeRecord],
        input: &mut dyn Read,
    ) -> Result<Received, VolumeError>;
    /// Where the content is.
    fn path(&self, record: &VolumeRecord) -> PathBuf;
    /// Mounts what has to be mounted.
    fn restore(&self, record: &VolumeRecord) -> Presence;
    /// Volumes that are there, whether anybody has a record or not; and removes what was left half-made.
    fn found(&self) -> Result<Vec<VolumeRecord>, VolumeError>;
    /// Free and total bytes.
    fn space(&self) -> Result<(u64, u64), VolumeError>;
    /// Unmounts what [`Self::restore`] mounted.
    fn unmount(&self, record: &VolumeRecord) -> Result<(), VolumeError>;
}
