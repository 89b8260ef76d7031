//! Settings of a manager.

use std::path::PathBuf;

use flynn_types::id::HostId;

/// Which provider is the default one of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProviderChoice {
    /// ZFS where the kernel has it and the `zfs` command is there, else folders.
    #[default]
    Auto,
    Zfs,
    Dir,
}

/// Settings of a [`crate::VolumeManager`].
#[derive(Clone, Debug)]
pub struct VolumeConfig {
    /// Folder of everything; made when missing.
    pub root: PathBuf,
    pub provider: ProviderChoice,
    /// Pool of the ZFS provider. Used as it is when it exists, else made on a file below `root`.
    pub zfs_pool: String,
    /// Largest file for a new file-backed pool, in bytes. `None`: 70 % of the file system.
    pub max_zpool_bytes: Option<u64>,
    pub host_id: HostId,
    /// Free bytes below which no layer is pulled and no root file system made.
    pub min_free_bytes: u64,
}

impl VolumeConfig {
    /// Default pool name (spec flynn-host 11.1) and a reserve of 64 MiB.
    pub fn new(root: impl Into<PathBuf>, host_id: HostId) -> Self {
        Self {
            root: root.into(),
            provider: ProviderChoice::Auto,
            zfs_pool: "flynn-default".into(),
            max_zpool_bytes: None,
            host_id,
            min_free_bytes: 64 << 20,
        }
    }
}
