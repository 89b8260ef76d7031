//! Settings of a manager.

use std::path::{Path, PathBuf};

use flynn_types::id::HostId;

/// Which provider is the default one of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProviderChoice {
    /// What the node's volumes are in already. At first ZFS where the kernel has it and the `zfs` command is there, else
    /// folders.
    #[default]
    Auto,
    Zfs,
    Dir,
}

impl ProviderChoice {
    /// Decides for the volumes below `root`. A node whose kernel has lost ZFS, or got it, must not look for its volumes
    /// in the wrong place, find none and forget them: it stays with what it began with, and says so if that is missing.
    pub(crate) fn settled(self, root: &Path, zfs_is_possible: bool) -> Self {
        let begun = |provider: &str| root.join(provider).is_dir();
        match self {
            Self::Auto if begun("zfs") => Self::Zfs,
            Self::Auto if begun("dir") => Self::Dir,
            Self::Auto if zfs_is_possible => Self::Zfs,
            Self::Auto => Self::Dir,
            chosen => chosen,
        }
    }
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

#[cfg(test)]
mod tests {
    use super::ProviderChoice::{Auto, Dir, Zfs};

    #[test]
    fn a_node_stays_with_the_provider_it_began_with() {
        for (begun, zfs_is_possible, expected) in [
            (None, true, Zfs),
            (None, false, Dir),
            (Some("zfs"), false, Zfs), // an upgraded kernel without the module
            (Some("zfs"), true, Zfs),
            (Some("dir"), true, Dir), // ZFS was installed later
            (Some("dir"), false, Dir),
        ] {
            let root = tempfile::tempdir().unwrap();
            if let Some(begun) = begun {
                std::fs::create_dir(root.path().join(begun)).unwrap();
            }
            assert_eq!(Auto.settled(root.path(), zfs_is_possible), expected, "{begun:?} {zfs_is_possible}");
            assert_eq!(Dir.settled(root.path(), zfs_is_possible), Dir, "as told");
        }
    }
}
