//! Volumes as plain folders, on any file system. Snapshots are copies, which cost nothing where files can share blocks
//! (btrfs, XFS).
//!
//! `<id>` folders hold `info.json` beside `tree`, so that they come and go by one rename. Copies of a volume that is
//! written to meanwhile are not of one instant.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use flynn_types::host::VolumeInfo;
use tracing::warn;

use super::{Presence, Provider, ProviderError, ProviderKind, Received};
use crate::error::{StreamError, VolumeError};
use crate::mount;
use crate::record::{SnapshotOf, VolumeRecord};
use crate::stream::{self, copy, send};

/// Says that the folder is there, as opposed to an empty place where a disk should be mounted.
const MARKER: &str = "provider.json";
const INFO: &str = "info.json";
const TREE: &str = "tree";

#[derive(Debug)]
pub(crate) struct DirProvider {
    root: PathBuf,
}

impl DirProvider {
    /// Opens the folder, or sets it up when `fresh`: nobody has a record of a volume in it.
    pub(crate) fn open(root: &Path, fresh: bool) -> Result<Self, VolumeError> {
        for sub in ["data", "snap", "tmp"] {
            let path = root.join(sub);
            fs::create_dir_all(&path).map_err(ProviderError::path("make folder", &path))?;
        }
        let marker = root.join(MARKER);
        if fresh && !marker.exists() {
            mount::write_whole(&marker, b"{\"format\":1}\n").map_err(ProviderError::path("write", &marker))?;
        }
        // Half-made and half-removed things: none of them has a record.
        let tmp = root.join("tmp");
        for entry in fs::read_dir(&tmp).map_err(ProviderError::path("read", &tmp))?.flatten() {
            if let Err(err) = fs::remove_dir_all(entry.path()) {
                warn!(path = %entry.path().display(), error = %err, "a leftover could not be removed");
            }
        }
        Ok(Self { root: root.to_owned() })
    }

    fn check_marker(&self) -> Result<(), VolumeError> {
        if self.root.join(MARKER).exists() {
            return Ok(());
        }
        let reason = format!("{MARKER} is missing there although volumes are recorded: is the right disk mounted?");
        Err(ProviderError::Path { what: "use", path: self.root.clone(), reason }.into())
    }

    fn place(&self, id: &str, snapshot: bool) -> PathBuf {
        self.root.join(if snapshot { "snap" } else { "data" }).join(id)
    }

    fn tree(&self, record: &VolumeRecord) -> PathBuf {
        self.place(&record.info.id, record.snapshot.is_some()).join(TREE)
    }

    /// A new folder in `tmp`.
    fn scratch(&self) -> Result<PathBuf, VolumeError> {
        let path = self.root.join("tmp").join(uuid::Uuid::new_v4().to_string());
        fs::create_dir(&path).map_err(ProviderError::path("make folder", &path))?;
        Ok(path)
    }

    /// Puts a folder made in `tmp` to its place, durably.
    fn install(&self, made: &Path, record: &VolumeRecord) -> Result<(), VolumeError> {
        let info = made.join(INFO);
        let json = serde_json::to_vec_pretty(record).map_err(|err| ProviderError::path("write", &info)(err.into()))?;
        mount::write_whole(&info, &json).map_err(ProviderError::path("write", &info))?;
        let place = self.place(&record.info.id, record.snapshot.is_some());
        let parent = place.parent().unwrap_or(&self.root);
        let install = || {
            mount::sync_fs(std::os::fd::AsFd::as_fd(&mount::open_dir(made)?))?;
            fs::rename(made, &place)?;
            mount::sync_dir(parent)
        };
        install().map_err(|err| match err.kind() {
            io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => {
                VolumeError::Exists { id: record.info.id.clone() }
            }
            _ => ProviderError::path("install", &place)(err),
        })
    }

    /// Makes a snapshot's path read-only.
    fn protect(&self, record: &VolumeRecord) -> Result<(), VolumeError> {
        if record.snapshot.is_none() {
            return Ok(());
        }
        let tree = self.tree(record);
        let mounted = mount::below(&tree).map_err(ProviderError::path("look for mounts of", &tree))?;
        if mounted.contains_key(&tree) {
            return Ok(());
        }
        mount::read_only_over_itself(&tree)
            .map_err(|err| ProviderError::Path { what: "make read-only", path: tree, reason: err.to_string() }.into())
    }

    /// Runs `make` with a new folder, which is removed when that fails.
    fn make<T>(&self, make: impl FnOnce(&Path) -> Result<T, VolumeError>) -> Result<T, VolumeError> {
        let dir = self.scratch()?;
        make(&dir).inspect_err(|_| {
            let _ = fs::remove_dir_all(&dir);
        })
    }
}

impl Provider for DirProvider {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Dir { path: self.root.clone() }
    }

    fn create(&self, info: &VolumeInfo) -> Result<(), VolumeError> {
        self.check_marker()?;
        self.make(|dir| {
            let tree = dir.join(TREE);
            fs::create_dir(&tree).map_err(ProviderError::path("make folder", &tree))?;
            self.install(dir, &VolumeRecord::new(info.clone(), "", None))
        })
    }

    fn destroy(&self, record: &VolumeRecord) -> Result<(), VolumeError> {
        let place = self.place(&record.info.id, record.snapshot.is_some());
        let tree = place.join(TREE);
        if record.snapshot.is_some() {
            mount::release(&tree).map_err(ProviderError::path("unmount", &tree))?;
        }
        let trash = self.root.join("tmp").join(uuid::Uuid::new_v4().to_string());
        match fs::rename(&place, &trash) {
            Ok(()) => {}
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(err) => return Err(ProviderError::path("remove", &place)(err)),
        }
        let parent = place.parent().unwrap_or(&self.root);
        mount::sync_dir(parent).map_err(ProviderError::path("sync", parent))?;
        // Gone for everybody; what cannot be removed now is removed at the next start.
        if let Err(err) = fs::remove_dir_all(&trash) {
            warn!(path = %trash.display(), error = %err, "a destroyed volume's files could not all be removed");
        }
        Ok(())
    }

    fn snapshot(&self, info: &VolumeInfo, of: &SnapshotOf) -> Result<(), VolumeError> {
        let source = self.place(&of.volume, false).join(TREE);
        let record = VolumeRecord::new(info.clone(), "", Some(of.clone()));
        self.make(|dir| {
            copy::tree(&source, &dir.join(TREE))?;
            self.install(dir, &record)
        })?;
        self.protect(&record)
    }

    fn send(
        &self,
        snapshot: &VolumeRecord,
        base: Option<&VolumeRecord>,
        out: &mut dyn Write,
    ) -> Result<(), VolumeError> {
        let name = |record: &VolumeRecord| record.snapshot.as_ref().map(|s| s.name.clone()).unwrap_or_default();
        let header = stream::Header { name: name(snapshot), base: base.map(name) };
        let base = base.map(|base| self.tree(base));
        Ok(send::send(&header, &self.tree(snapshot), base.as_deref(), out)?)
    }

    fn receive(
        &self,
        volume: &VolumeRecord,
        info: &VolumeInfo,
        snapshots: &[VolumeRecord],
        input: &mut dyn Read,
    ) -> Result<Received, VolumeError> {
        let mut receiver = stream::receive::Receiver::open(input)?;
        let header = receiver.header().clone();
        let named = |name: &str| snapshots.iter().find(|r| r.snapshot.as_ref().is_some_and(|s| s.name == name));
        if named(&header.name).is_some() {
            return Err(StreamError::Duplicate { name: header.name }.into());
        }
        let base = match &header.base {
            None if !snapshots.is_empty() => return Err(StreamError::HasSnapshots.into()),
            None => None,
            Some(base) => Some(named(base).ok_or_else(|| StreamError::NoBase { base: base.clone() })?),
        };
        let of = SnapshotOf { volume: volume.info.id.clone(), name: header.name.clone() };
        let record = VolumeRecord::new(info.clone(), "", Some(of));
        // Both are whole before either takes its place.
        let live = self.make(|dir| {
            let live = self.make(|snapshot| {
                let tree = snapshot.join(TREE);
                match base {
                    Some(base) => copy::tree(&self.tree(base), &tree)?,
                    None => fs::create_dir(&tree).map_err(ProviderError::path("make folder", &tree))?,
                }
                receiver.apply(&tree)?;
                copy::tree(&tree, &dir.join(TREE))?;
                self.install(snapshot, &record)?;
                Ok(dir.join(TREE))
            })?;
            self.protect(&record)?;
            Ok(live)
        })?;
        let target = self.tree(volume);
        let swap = || {
            mount::sync_fs(std::os::fd::AsFd::as_fd(&mount::open_dir(&live)?))?;
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            rustix::fs::renameat_with(rustix::fs::CWD, &live, rustix::fs::CWD, &target, flags)?;
            mount::sync_dir(target.parent().unwrap_or(&self.root))
        };
        let swapped = swap().map_err(ProviderError::path("replace", &target));
        if let Some(dir) = live.parent() {
            let _ = fs::remove_dir_all(dir);
        }
        if let Err(err) = swapped {
            self.destroy(&record)?;
            return Err(err);
        }
        Ok(Received { name: header.name })
    }

    fn path(&self, record: &VolumeRecord) -> PathBuf {
        self.tree(record)
    }

    fn restore(&self, record: &VolumeRecord) -> Presence {
        match fs::metadata(self.tree(record)) {
            Ok(_) => match self.protect(record) {
                Ok(()) => Presence::Ready,
                Err(err) => Presence::Failed(err.to_string()),
            },
            Err(err) if err.kind() == io::ErrorKind::NotFound => match self.check_marker() {
                Ok(()) => Presence::Gone,
                Err(err) => Presence::Failed(err.to_string()),
            },
            Err(err) => Presence::Failed(err.to_string()),
        }
    }

    fn found(&self) -> Result<Vec<VolumeRecord>, VolumeError> {
        let mut records = Vec::new();
        for (sub, snapshots) in [("data", false), ("snap", true)] {
            let dir = self.root.join(sub);
            for entry in fs::read_dir(&dir).map_err(ProviderError::path("read", &dir))?.flatten() {
                let info = entry.path().join(INFO);
                let record = fs::read(&info).ok().and_then(|b| serde_json::from_slice::<VolumeRecord>(&b).ok());
                match record {
                    Some(record) if record.snapshot.is_some() == snapshots && entry.file_name() == *record.info.id => {
                        records.push(record);
                    }
                    _ => warn!(path = %entry.path().display(), "this is no volume"),
                }
            }
        }
        Ok(records)
    }

    fn space(&self) -> Result<(u64, u64), VolumeError> {
        mount::space(&self.root).map_err(ProviderError::path("ask for space in", &self.root))
    }

    fn unmount(&self, record: &VolumeRecord) -> Result<(), VolumeError> {
        let tree = self.tree(record);
        mount::release_if_idle(&tree).or_else(|err| match err.kind() {
            io::ErrorKind::ResourceBusy => Ok(()),
            _ => Err(ProviderError::path("unmount", &tree)(err)),
        })
    }
}
