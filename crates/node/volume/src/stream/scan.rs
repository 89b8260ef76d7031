//! Reads a tree: what is in it, and where its files have data. Nothing outside is ever reached, whatever a job puts
//! into its volume meanwhile: every path is opened beneath the tree and through no link.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, major, minor, openat2};
use rustix::io::Errno;

use super::codec::{Entry, Kind};
use crate::error::StreamError;

/// An opened tree.
pub(super) struct Tree {
    root: OwnedFd,
    path: PathBuf,
}

impl Tree {
    pub(super) fn open(path: &Path) -> Result<Self, StreamError> {
        let root = crate::mount::open_dir(path).map_err(StreamError::io("open", path))?;
        Ok(Self { root, path: path.to_owned() })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// For messages.
    pub(super) fn full(&self, path: &[u8]) -> PathBuf {
        if path.is_empty() { self.path.clone() } else { self.path.join(OsStr::from_bytes(path)) }
    }

    pub(super) fn open_at(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        open_beneath(self.fd(), path, flags)
    }

    /// Everything in the tree, sorted by path, folders before what is in them. What vanishes meanwhile is left out.
    /// Files that have several names appear once as what they are, then as links to that.
    pub(super) fn scan(&self) -> Result<Vec<Entry>, StreamError> {
        let mut entries = Vec::new();
        let mut pending = vec![Vec::new()];
        let mut names: BTreeMap<(u64, u64), Vec<u8>> = BTreeMap::new();
        let mut linked = Vec::new();
        while let Some(path) = pending.pop() {
            let Some((mut entry, stat)) = self.entry(&path)? else { continue };
            if entry.kind == Kind::Dir {
                pending.extend(self.children(&path)?);
            } else if stat.st_nlink > 1 {
                linked.push(((stat.st_dev, stat.st_ino), entries.len()));
                // The first in order of paths is the file itself.
                let first = names.entry((stat.st_dev, stat.st_ino)).or_insert_with(|| path.clone());
                if path < *first {
                    first.clone_from(&path);
                }
            }
            entry.path = path;
            entries.push(entry);
        }
        for (inode, index) in linked {
            let entry: &mut Entry = &mut entries[index];
            if names[&inode] != entry.path {
                entry.kind = Kind::HardLink { to: names[&inode].clone() };
            }
        }
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(entries)
    }

    fn entry(&self, path: &[u8]) -> Result<Option<(Entry, Stat)>, StreamError> {
        let read = || {
            let fd = self.open_at(path, OFlags::PATH | OFlags::NOFOLLOW)?;
            let stat = fstat(&fd)?;
            let kind = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => Kind::Dir,
                FileType::RegularFile => {
                    Kind::File { size_bytes: u64::try_from(stat.st_size).unwrap_or(0), patch: false }
                }
                FileType::Symlink => {
                    Kind::Symlink { target: rustix::fs::readlinkat(&fd, "", Vec::new())?.into_bytes() }
                }
                kind @ (FileType::CharacterDevice | FileType::BlockDevice) => Kind::Device {
                    character: kind == FileType::CharacterDevice,
                    major: major(stat.st_rdev),
                    minor: minor(stat.st_rdev),
                },
                FileType::Fifo => Kind::Fifo,
                FileType::Socket => Kind::Socket,
                FileType::Unknown => return Err(Errno::INVAL),
            };
            let entry = Entry {
                path: Vec::new(),
                kind,
                mode: stat.st_mode & 0o7777,
                uid: stat.st_uid,
                gid: stat.st_gid,
                secs: stat.st_mtime,
                nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
                xattrs: xattrs(&fd)?,
            };
            Ok((entry, stat))
        };
        match read() {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT) if !path.is_empty() => Ok(None),
            Err(err) => Err(StreamError::io("read", self.full(path))(err.into())),
        }
    }

    fn children(&self, path: &[u8]) -> Result<Vec<Vec<u8>>, StreamError> {
        let read = || {
            let mut children = Vec::new();
            let dir = match self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW) {
                Err(Errno::NOENT | Errno::NOTDIR) => return Ok(children), // it went away
                dir => dir?,
            };
            for entry in Dir::new(dir)? {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if name != b"." && name != b".." {
                    children.push(if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() });
                }
            }
            Ok(children)
        };
        read().map_err(|err: Errno| StreamError::io("list", self.full(path))(err.into()))
    }
}

/// Opens `path` beneath `root`; the empty path is `root`.
pub(super) fn open_beneath(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { OsStr::new(".") } else { OsStr::from_bytes(path) };
    // With O_PATH and O_NOFOLLOW, a link at the end is opened itself.
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Extended attributes, sorted, by way of the descriptor's name, which also works for those that cannot be read from.
fn xattrs(fd: &OwnedFd) -> rustix::io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let name = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let mut list = vec![0; 64 << 10];
    let len = match rustix::fs::listxattr(&*name, &mut list[..]) {
        Ok(len) => len,
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(err) => return Err(err),
    };
    let mut xattrs = Vec::new();
    for key in list[..len].split(|b| *b == 0).filter(|key| !key.is_empty()) {
        let mut value = vec![0; rustix::fs::getxattr_query(&*name, OsStr::from_bytes(key))?];
        let read = rustix::fs::getxattr(&*name, OsStr::from_bytes(key), &mut value[..])?;
        value.truncate(read);
        xattrs.push((key.to_vec(), value));
    }
    xattrs.sort();
    Ok(xattrs)
}

/// Where a file has data: ranges `(start, end)` without holes, in order.
pub(super) fn data_ranges(file: BorrowedFd<'_>, size_bytes: u64) -> io::Result<Vec<(u64, u64)>> {
    use rustix::fs::{SeekFrom, seek};
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < size_bytes {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL) => return Ok(vec![(0, size_bytes)]), // a file system that knows no holes
            Err(err) => return Err(err.into()),
        };
        let end = seek(file, SeekFrom::Hole(start))?.min(size_bytes);
        if start >= end {
            break;
        }
        ranges.push((start, end));
        at = end;
    }
    Ok(ranges)
}
