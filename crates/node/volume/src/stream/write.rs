//! Writes a tree, confined to it.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags,
    chownat, fallocate, linkat, makedev, mkdirat, mknodat, openat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::codec::{Entry, Kind};
use super::scan::Tree;
use crate::error::StreamError;

/// Writes entries in the order of their paths. A file's attributes are set after its data, a folder's at the end.
pub(super) struct Writer {
    tree: Tree,
    /// The file whose data comes now.
    open: Option<(File, Entry)>,
    dirs: Vec<Entry>,
}

impl Writer {
    pub(super) fn open(root: &Path) -> Result<Self, StreamError> {
        Ok(Self { tree: Tree::open(root)?, open: None, dirs: Vec::new() })
    }

    fn fail<'e>(&'e self, what: &'static str, path: &'e [u8]) -> impl Fn(Errno) -> StreamError + 'e {
        move |err| StreamError::io(what, self.tree.full(path))(err.into())
    }

    /// The folder of `path`, and its last part.
    fn place<'p>(&self, path: &'p [u8]) -> Result<(OwnedFd, &'p OsStr), StreamError> {
        let split = path.iter().rposition(|b| *b == b'/');
        let (parent, name) = split.map_or((&path[..0], path), |at| (&path[..at], &path[at + 1..]));
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let parent_fd = self.tree.open_at(parent, flags).map_err(self.fail("open", parent))?;
        Ok((parent_fd, OsStr::from_bytes(name)))
    }

    /// Makes what `entry` says, in place of whatever was there; a file that is patched stays.
    pub(super) fn put(&mut self, entry: Entry) -> Result<(), StreamError> {
        self.close_file()?;
        let path = entry.path.clone();
        if path.is_empty() {
            if entry.kind != Kind::Dir {
                return Err(StreamError::Invalid("the volume itself is no folder"));
            }
            self.dirs.push(entry);
            return Ok(());
        }
        let (parent, name) = self.place(&path)?;
        let fail = self.fail("write", &path);
        let there = match statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(FileType::from_raw_mode(stat.st_mode)),
            Err(Errno::NOENT) => None,
            Err(err) => return Err(fail(err)),
        };
        let patch = matches!(entry.kind, Kind::File { patch: true, .. });
        if patch && there != Some(FileType::RegularFile) {
            return Err(StreamError::Invalid("a difference is of a file that is not there"));
        }
        let keep = patch || (entry.kind == Kind::Dir && there == Some(FileType::Directory));
        if there.is_some() && !keep {
            self.remove(&path)?;
        }
        let private = Mode::from_raw_mode(0o600);
        match &entry.kind {
            Kind::Dir => {
                if !keep {
                    mkdirat(&parent, name, Mode::from_raw_mode(0o700)).map_err(&fail)?;
                }
                drop(fail);
                self.dirs.push(entry);
                return Ok(());
            }
            Kind::File { size_bytes, .. } => {
                let create = if patch { OFlags::empty() } else { OFlags::CREATE | OFlags::EXCL };
                let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | create;
                let file = File::from(openat(&parent, name, flags, private).map_err(&fail)?);
                file.set_len(*size_bytes).map_err(StreamError::io("write", self.tree.full(&path)))?;
                drop(fail);
                self.open = Some((file, entry));
                return Ok(());
            }
            Kind::Symlink { target } => symlinkat(OsStr::from_bytes(target), &parent, name).map_err(&fail)?,
            Kind::Device { character, major, minor } => {
                let kind = if *character { FileType::CharacterDevice } else { FileType::BlockDevice };
                mknodat(&parent, name, kind, private, makedev(*major, *minor)).map_err(&fail)?;
            }
            Kind::Fifo => mknodat(&parent, name, FileType::Fifo, private, 0).map_err(&fail)?,
            Kind::Socket => mknodat(&parent, name, FileType::Socket, private, 0).map_err(&fail)?,
            Kind::HardLink { to } => {
                let (to_parent, to_name) = self.place(to)?;
                // Its attributes are those of the other name.
                return linkat(&to_parent, to_name, &parent, name, AtFlags::empty()).map_err(&fail);
            }
        }
        self.attributes(&entry)
    }

    /// Writes into the file of the last entry.
    pub(super) fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StreamError> {
        let (file, entry) = self.file(offset, bytes.len() as u64)?;
        file.write_all_at(bytes, offset).map_err(StreamError::io("write", self.tree.full(&entry.path)))
    }

    pub(super) fn hole(&mut self, offset: u64, len: u64) -> Result<(), StreamError> {
        let (file, entry) = self.file(offset, len)?;
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(file, punch, offset, len) {
            Err(Errno::OPNOTSUPP) => {}
            result => return result.map_err(self.fail("write", &entry.path)),
        }
        let zeros = vec![0; super::codec::BLOCK_BYTES];
        let mut at = offset;
        while at < offset + len {
            let piece = usize::try_from(offset + len - at).unwrap_or(usize::MAX).min(zeros.len());
            file.write_all_at(&zeros[..piece], at).map_err(StreamError::io("write", self.tree.full(&entry.path)))?;
            at += piece as u64;
        }
        Ok(())
    }

    /// The open file, when the range lies in it.
    fn file(&self, offset: u64, len: u64) -> Result<(&File, &Entry), StreamError> {
        let Some((file, entry)) = &self.open else { return Err(StreamError::Invalid("data without a file")) };
        let Kind::File { size_bytes, .. } = entry.kind else { return Err(StreamError::Invalid("data without a file")) };
        match offset.checked_add(len) {
            Some(end) if end <= size_bytes => Ok((file, entry)),
            _ => Err(StreamError::Invalid("data behind a file's end")),
        }
    }

    /// The content of the last entry's file is that of `source`, as far as it still has it. Blocks are shared where the
    /// file system can do that.
    pub(super) fn data_from(&mut self, source: &File) -> Result<(), StreamError> {
        let Some((file, entry)) = &self.open else { return Err(StreamError::Invalid("data without a file")) };
        let Kind::File { size_bytes, .. } = entry.kind else { return Err(StreamError::Invalid("data without a file")) };
        let copy = || -> io::Result<()> {
            if size_bytes == 0 {
                return Ok(());
            }
            if rustix::fs::ioctl_ficlone(file, source).is_ok() {
                return file.set_len(size_bytes);
            }
            for (start, end) in super::scan::data_ranges(source.as_fd(), size_bytes)? {
                copy_range(source, file, start, end)?;
            }
            Ok(())
        };
        copy().map_err(StreamError::io("write", self.tree.full(&entry.path)))
    }

    /// Removes a file or a folder with all that is in it. What is not there is gone.
    pub(super) fn remove(&self, path: &[u8]) -> Result<(), StreamError> {
        if path.is_empty() {
            return Err(StreamError::Invalid("the volume itself cannot be removed"));
        }
        let (parent, name) = match self.place(path) {
            Ok(place) => place,
            Err(StreamError::Io { err, .. }) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(err) => return Err(err),
        };
        match unlinkat(&parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR) => {}
            Err(err) => return Err(self.fail("remove", path)(err)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = openat(&parent, name, flags, Mode::empty()).map_err(self.fail("remove", path))?;
        for entry in rustix::fs::Dir::new(dir).map_err(self.fail("remove", path))? {
            let entry = entry.map_err(self.fail("remove", path))?;
            let child = entry.file_name().to_bytes();
            if child != b"." && child != b".." {
                self.remove(&[path, b"/", child].concat())?;
            }
        }
        unlinkat(&parent, name, AtFlags::REMOVEDIR).map_err(self.fail("remove", path))
    }

    fn close_file(&mut self) -> Result<(), StreamError> {
        match self.open.take() {
            Some((file, entry)) => {
                drop(file);
                self.attributes(&entry)
            }
            None => Ok(()),
        }
    }

    /// Owner first, as a change of it clears capabilities and set-id bits; time last.
    fn attributes(&self, entry: &Entry) -> Result<(), StreamError> {
        let fail = self.fail("set attributes of", &entry.path);
        let fd = self.tree.open_at(&entry.path, OFlags::PATH | OFlags::NOFOLLOW).map_err(&fail)?;
        let name = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        chownat(&fd, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH).map_err(&fail)?;
        let symlink = matches!(entry.kind, Kind::Symlink { .. });
        if !symlink {
            rustix::fs::chmodat(CWD, &*name, Mode::from_raw_mode(entry.mode), AtFlags::empty()).map_err(&fail)?;
        }
        self.xattrs(&name, entry)?;
        let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let modified = Timespec { tv_sec: entry.secs, tv_nsec: i64::from(entry.nanos) };
        let times = Timestamps { last_access: omit, last_modification: modified };
        // AT_EMPTY_PATH on descriptors without access came with Linux 6.?; the parent always works.
        if entry.path.is_empty() {
            return utimensat(CWD, &*name, &times, AtFlags::empty()).map_err(&fail);
        }
        let (parent, last) = self.place(&entry.path)?;
        utimensat(&parent, last, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(&fail)
    }

    fn xattrs(&self, name: &str, entry: &Entry) -> Result<(), StreamError> {
        let fail = self.fail("set extended attributes of", &entry.path);
        let mut list = vec![0; 64 << 10];
        let len = match rustix::fs::listxattr(name, &mut list[..]) {
            Err(Errno::OPNOTSUPP) if entry.xattrs.is_empty() => return Ok(()),
            result => result.map_err(&fail)?,
        };
        let old = list[..len].split(|b| *b == 0).filter(|key| !key.is_empty());
        for key in old.filter(|key| !entry.xattrs.iter().any(|(k, _)| k == key)) {
            match rustix::fs::removexattr(name, OsStr::from_bytes(key)) {
                Ok(()) | Err(Errno::NODATA) => {}
                Err(err) => return Err(fail(err)),
            }
        }
        for (key, value) in &entry.xattrs {
            rustix::fs::setxattr(name, OsStr::from_bytes(key), value, XattrFlags::empty()).map_err(&fail)?;
        }
        Ok(())
    }

    /// Sets the folders' attributes, the deepest first.
    pub(super) fn finish(mut self) -> Result<(), StreamError> {
        self.close_file()?;
        self.dirs.sort_by(|a, b| a.path.cmp(&b.path));
        for entry in self.dirs.iter().rev() {
            self.attributes(entry)?;
        }
        Ok(())
    }
}

fn copy_range(source: &File, target: &File, start: u64, end: u64) -> io::Result<()> {
    let (mut from, mut to) = (start, start);
    while from < end {
        let wanted = usize::try_from(end - from).unwrap_or(usize::MAX).min(64 << 20);
        match rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), wanted) {
            Ok(0) => return Ok(()), // it became shorter meanwhile
            Ok(_) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                return copy_bytes(source, target, from, end);
            }
            Err(err) => return Err(err.into()),
        }
    }
    Ok(())
}

fn copy_bytes(source: &File, target: &File, mut at: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; super::codec::BLOCK_BYTES];
    while at < end {
        let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let read = source.read_at(&mut buffer[..wanted], at)?;
        if read == 0 {
            return Ok(());
        }
        target.write_all_at(&buffer[..read], at)?;
        at += read as u64;
    }
    Ok(())
}
