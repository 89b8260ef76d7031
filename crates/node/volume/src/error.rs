//! Why an operation failed, as users and callers see it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use flynn_types::error::ErrorCode;

use crate::provider::ProviderError;
use crate::record::StoreFailure;

/// Why something could not be done with a volume.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("no volume with id {id:?}")]
    NotFound { id: String },
    #[error("volume exists: {id}")]
    Exists { id: String },
    #[error("invalid volume id {id:?}: it must match [A-Za-z0-9][A-Za-z0-9_.-]{{0,127}}")]
    InvalidId { id: String },
    #[error("no volume provider with id {id:?}")]
    NoProvider { id: String },
    #[error("volume {id} is busy: {operation}")]
    Busy { id: String, operation: String },
    #[error("volume {id} has {count} snapshots: destroy them first")]
    HasSnapshots { id: String, count: usize },
    #[error("can only send a snapshot")]
    NotASnapshot { id: String },
    #[error("volume {id} cannot be used: {reason}")]
    Failed { id: String, reason: String },
    #[error("not enough space in {}: {free_bytes} bytes are free, {needed_bytes} are needed", path.display())]
    NoSpace { path: PathBuf, needed_bytes: u64, free_bytes: u64 },
    #[error("the volume folder {} is used by another process", root.display())]
    Locked { root: PathBuf },
    #[error(transparent)]
    Provider(#[from] ProviderError),
    #[error(transparent)]
    Store(#[from] StoreFailure),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("{what} {}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        err: io::Error,
    },
    #[error("the operation was stopped: the process is shutting down")]
    Stopped,
}

impl VolumeError {
    /// What the HTTP API answers with.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotFound { .. } | Self::NoProvider { .. } => ErrorCode::ObjectNotFound,
            Self::Exists { .. } => ErrorCode::ObjectExists,
            Self::InvalidId { .. } | Self::NotASnapshot { .. } => ErrorCode::Validation,
            Self::Busy { .. } | Self::HasSnapshots { .. } | Self::Failed { .. } => ErrorCode::Conflict,
            Self::Stream(err) if err.is_senders_fault() => ErrorCode::Validation,
            _ => ErrorCode::Unknown,
        }
    }

    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |err| Self::Io { what, path, err }
    }
}

/// What is wrong with a snapshot stream of the `dir` provider.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("this is no snapshot stream of the `dir` provider")]
    Magic,
    #[error("snapshot stream: {0}")]
    Invalid(&'static str),
    #[error("snapshot stream: it ended early")]
    Truncated,
    #[error("snapshot stream: its checksum is wrong")]
    Checksum,
    #[error("the stream builds on snapshot {base}, which is not here")]
    NoBase { base: String },
    #[error("the stream is a whole one, but the volume has snapshots already")]
    HasSnapshots,
    #[error("snapshot {name} is here already")]
    Duplicate { name: String },
    #[error("snapshot stream: {what} {}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        err: io::Error,
    },
}

impl StreamError {
    fn is_senders_fault(&self) -> bool {
        !matches!(self, Self::Io { .. })
    }

    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |err| Self::Io { what, path, err }
    }
}

/// Why a layer's content is not what was promised (texts: spec flynn-host 7.1).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    #[error("verify: invalid data size: {0}")]
    Size(i64),
    #[error("verify: data too short")]
    TooShort,
    #[error("verify: expected {algorithm} hash {expected:?} but got {got:?}")]
    Hash { algorithm: String, expected: String, got: String },
    #[error("verify: no hashes provided")]
    NoHashes,
    #[error("verify: the data is no squashfs file system")]
    NoSquashfs,
}

/// Why a layer cannot be had. Cloned for everybody who waits for the same pull.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LayerError {
    #[error("unknown mountspec type: {0:?}")]
    Type(String),
    #[error("error getting squashfs layer: invalid layer id {0:?}")]
    Id(String),
    #[error("error getting squashfs layer {id}: missing URL")]
    NoUrl { id: String },
    #[error("unknown layer URI scheme: {0}")]
    Scheme(String),
    #[error("error getting squashfs layer from {url}: {err}")]
    Source {
        url: String,
        #[source]
        err: Arc<io::Error>,
    },
    #[error("error getting squashfs layer from {url}: {err}")]
    Verify {
        url: String,
        #[source]
        err: VerifyError,
    },
    #[error("layer {id} is stored with other content: {err}")]
    Different {
        id: String,
        #[source]
        err: VerifyError,
    },
    #[error(
        "error getting squashfs layer from {url}: not enough space in {}: {free_bytes} bytes are free, {needed_bytes} \
         are needed",
        path.display()
    )]
    NoSpace { url: String, path: PathBuf, needed_bytes: u64, free_bytes: u64 },
    #[error("layer {id} cannot be mounted: {reason}")]
    Mount { id: String, reason: String },
    #[error("layer {id}: {what} {}: {err}", path.display())]
    Io {
        id: String,
        what: &'static str,
        path: PathBuf,
        #[source]
        err: Arc<io::Error>,
    },
    #[error("the layer's pull was stopped: the process is shutting down")]
    Stopped,
}

/// Why a job's root file system cannot be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    #[error("a root file system needs at least one layer")]
    NoLayers,
    #[error("{count} layers are more than the {} that one root file system can have", crate::rootfs::MAX_LAYERS)]
    TooManyLayers { count: usize },
    #[error(
        "scratch space of {bytes} bytes is too small: it must be at least {} bytes",
        crate::rootfs::MIN_SCRATCH_BYTES
    )]
    ScratchTooSmall { bytes: u64 },
    #[error("not enough space for scratch in {}: {free_bytes} bytes are free, {needed_bytes} are needed", path.display())]
    NoSpace { path: PathBuf, needed_bytes: u64, free_bytes: u64 },
    #[error("make scratch space with mkfs.ext4: {reason}")]
    Mkfs { reason: String },
    #[error("{what} {}: {reason}", path.display())]
    Mount { what: &'static str, path: PathBuf, reason: String },
    #[error("{what} {}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        err: io::Error,
    },
    #[error("the operation was stopped: the process is shutting down")]
    Stopped,
}

impl RootfsError {
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |err| Self::Io { what, path, err }
    }
}
