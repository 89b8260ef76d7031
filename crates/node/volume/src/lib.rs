//! What a node keeps on its disks: data volumes, image layers, and the root file systems of jobs.
//!
//! Entry point: [`VolumeManager::open`]. Data volumes lie in a provider ([`ProviderChoice`]: ZFS datasets, or plain
//! folders), their records in a [`VolumeStore`] that the caller implements. Layers and scratch space need no records:
//! the folder `root` itself says what is there, so that a lost database loses none.
//!
//! | below `root` | |
//! |---|---|
//! | `lock` | held by the manager: one per folder |
//! | `dir/{data,snap}/<id>/{info.json,tree}` | volumes and snapshots of the `dir` provider |
//! | `zfs/mnt/data/<id>` | mount points of the `zfs` provider |
//! | `layers/<id>.{squashfs,json}`, `layers/mnt/<id>` | layers, and where they are mounted |
//! | `layers/partial/` | layers on their way |
//! | `scratch/<job>.{img,json}`, `scratch/mnt/<job>` | a job's writable space: a sparse ext4 image on a loop device |
//!
//! **Invariant:** a volume of type `data` goes away only through [`VolumeManager::destroy`] of its id.
//! **Invariant:** a layer that is listed is complete and verified: its `.json` appears last, after everything is synced.
//! **Invariant:** a job writes at most its scratch size, and gets `ENOSPC` then.
//! **Invariant:** mounts outlive the manager; a later one on the same folder finds and owns them.
//! **Invariant:** every operation of several steps runs to its end when its caller goes away, and can be repeated after
//! a crash between any two steps.

#![deny(unsafe_op_in_unsafe_fn)]

mod config;
mod error;
mod gc;
mod layer;
mod manager;
mod mount;
mod provider;
mod record;
mod rootfs;
mod stream;
mod sys;

pub use config::{ProviderChoice, VolumeConfig};
pub use error::{LayerError, RootfsError, StreamError, VerifyError, VolumeError};
pub use gc::{GcPolicy, GcReport};
pub use layer::LayerGuard;
pub use layer::source::{FileSource, LayerBody, LayerSource};
pub use manager::{VolumeManager, VolumeStatus};
pub use provider::{DEFAULT_PROVIDER, ProviderError, ProviderKind};
pub use record::{SnapshotOf, StoreFailure, VolumeRecord, VolumeStore};
pub use rootfs::Rootfs;
