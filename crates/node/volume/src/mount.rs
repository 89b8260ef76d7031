//! Mounting and unmounting.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};

/// Longest value that `fsconfig` takes for a string, without its end (`strndup_user(.., 256)` in the kernel).
const MAX_FSCONFIG_LEN: usize = 255;
/// Longest option string of mount(2): a page, without its end.
const MAX_OPTIONS_LEN: usize = 4095;
/// How long a busy mount is asked again before it is detached: containers end a little later than their processes.
const UNMOUNT_PATIENCE: Duration = Duration::from_millis(100);

/// Why something could not be mounted: the call's error and the kernel's own words, if it had any.
#[derive(Debug)]
pub(crate) struct MountError {
    pub(crate) err: io::Error,
    words: String,
}

impl std::fmt::Display for MountError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.words.is_empty() { write!(f, "{}", self.err) } else { write!(f, "{} ({})", self.words, self.err) }
    }
}

impl From<Errno> for MountError {
    fn from(err: Errno) -> Self {
        Self { err: err.into(), words: String::new() }
    }
}

/// A file system being configured.
struct Context(OwnedFd);

impl Context {
    fn new(kind: &str) -> Result<Self, MountError> {
        Ok(Self(fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?))
    }

    fn set(&self, key: &str, value: impl rustix::path::Arg) -> Result<(), MountError> {
        fsconfig_set_string(&self.0, key, value).map_err(|err| self.explain(err))
    }

    fn flag(&self, key: &str) -> Result<(), MountError> {
        fsconfig_set_flag(&self.0, key).map_err(|err| self.explain(err))
    }

    /// Creates it and mounts it at `target` in one step: nobody sees anything half-made.
    fn mount(&self, attributes: MountAttrFlags, target: &Path) -> Result<(), MountError> {
        fsconfig_create(&self.0).map_err(|err| self.explain(err))?;
        let mount = fsmount(&self.0, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(|err| self.explain(err))?;
        move_mount(&mount, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        Ok(())
    }

    /// The kernel leaves messages to be read from the context.
    fn explain(&self, err: Errno) -> MountError {
        let mut words = String::new();
        let mut buffer = [0; 1024];
        while let Ok(read) = rustix::io::read(&self.0, &mut buffer) {
            let message = String::from_utf8_lossy(&buffer[..read]);
            let message = message.trim_end().split_once(' ').map_or("", |(_, text)| text); // "e text"
            let _ = write!(words, "{}{message}", if words.is_empty() { "" } else { "; " });
        }
        MountError { err: err.into(), words }
    }
}

/// Mounts a squashfs read-only.
pub(crate) fn squashfs(device: &Path, target: &Path) -> Result<(), MountError> {
    let context = Context::new("squashfs")?;
    context.set("source", device)?;
    context.flag("ro")?;
    context.mount(MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV, target)
}

/// Mounts an ext4 whose content need not outlive the machine.
pub(crate) fn scratch_ext4(device: &Path, target: &Path) -> Result<(), MountError> {
    let context = Context::new("ext4")?;
    context.set("source", device)?;
    for flag in ["nobarrier", "noinit_itable", "noauto_da_alloc"] {
        context.flag(flag)?;
    }
    context.set("errors", "continue")?;
    context.mount(MountAttrFlags::MOUNT_ATTR_NOATIME | MountAttrFlags::MOUNT_ATTR_NODEV, target)
}

/// Mounts an overlay. `lowers` has the topmost layer first. Writes are not synced: `upper` is not needed after a crash.
pub(crate) fn overlay(lowers: &[PathBuf], upper: &Path, work: &Path, target: &Path) -> Result<(), MountError> {
    match overlay_by_parts(lowers, upper, work, target) {
        // Before Linux 6.8 layers cannot be given one by one.
        Err(err) if err.err.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
            overlay_by_string(lowers, upper, work, target)
        }
        result => result,
    }
}

fn overlay_by_parts(lowers: &[PathBuf], upper: &Path, work: &Path, target: &Path) -> Result<(), MountError> {
    let context = Context::new("overlay")?;
    context.set("source", "overlay")?;
    let mut short = Shortened::default();
    for lower in lowers {
        context.set("lowerdir+", &*short.name(lower, MAX_FSCONFIG_LEN)?)?;
    }
    context.set("upperdir", &*short.name(upper, MAX_FSCONFIG_LEN)?)?;
    context.set("workdir", &*short.name(work, MAX_FSCONFIG_LEN)?)?;
    context.flag("volatile")?;
    context.mount(MountAttrFlags::empty(), target)
}

/// With mount(2), whose options are one string of at most a page.
fn overlay_by_string(lowers: &[PathBuf], upper: &Path, work: &Path, target: &Path) -> Result<(), MountError> {
    let plain = |path: &Path| !path.as_os_str().as_bytes().iter().any(|b| matches!(b, b':' | b',' | b'\\'));
    let whole: usize =
        lowers.iter().chain([&upper.to_owned(), &work.to_owned()]).map(|p| p.as_os_str().len() + 1).sum();
    let fits = whole + 64 < MAX_OPTIONS_LEN && lowers.iter().all(|p| plain(p)) && plain(upper) && plain(work);
    let limit = if fits { usize::MAX } else { 0 };
    let mut short = Shortened::default();
    let mut options = b"lowerdir=".to_vec();
    for (index, lower) in lowers.iter().enumerate() {
        if index > 0 {
            options.push(b':');
        }
        options.extend_from_slice(short.name(lower, limit)?.as_os_str().as_bytes());
    }
    for (key, path) in [(",upperdir=", upper), (",workdir=", work)] {
        options.extend_from_slice(key.as_bytes());
        options.extend_from_slice(short.name(path, limit)?.as_os_str().as_bytes());
    }
    options.extend_from_slice(b",volatile");
    if options.len() > MAX_OPTIONS_LEN {
        return Err(Errno::NAMETOOLONG.into());
    }
    let options = std::ffi::CString::new(options).map_err(|_| MountError::from(Errno::INVAL))?;
    rustix::mount::mount("overlay", target, "overlay", MountFlags::empty(), options.as_c_str())?;
    Ok(())
}

/// Names for paths that are too long: of descriptors, which are closed when this is dropped.
#[derive(Default)]
struct Shortened(Vec<OwnedFd>);

impl Shortened {
    fn name(&mut self, path: &Path, limit: usize) -> Result<PathBuf, MountError> {
        if path.as_os_str().len() <= limit {
            return Ok(path.to_owned());
        }
        let fd = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let name = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        self.0.push(fd);
        Ok(name)
    }
}

/// Makes a folder read-only for everybody who comes by its path, by mounting it over itself.
pub(crate) fn read_only_over_itself(dir: &Path) -> Result<(), MountError> {
    let tree = open_tree(CWD, dir, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    // mount_setattr(2) would be one call, but rustix has none; this way nobody sees a writable mount that was not there
    // before: it is the folder itself until the remount.
    move_mount(&tree, "", CWD, dir, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOATIME;
    if let Err(err) = rustix::mount::mount_remount(dir, flags, "") {
        let _ = unmount(dir, UnmountFlags::DETACH);
        return Err(err.into());
    }
    Ok(())
}

/// Unmounts everything that is mounted at `target`. A mount that stays busy is detached: it goes away with its last
/// user. Nothing mounted, or nothing there, is success.
pub(crate) fn release(target: &Path) -> io::Result<()> {
    let start = Instant::now();
    loop {
        match unmount(target, UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY) if start.elapsed() < UNMOUNT_PATIENCE => std::thread::sleep(Duration::from_millis(5)),
            Err(Errno::BUSY) => unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?,
            Err(err) => return Err(err.into()),
        }
    }
}

/// Unmounts at once or fails with `EBUSY`.
pub(crate) fn release_if_idle(target: &Path) -> io::Result<()> {
    match unmount(target, UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(err) => Err(err.into()),
    }
}

/// Mount points at or below `dir` with their file system types.
pub(crate) fn below(dir: &Path) -> io::Result<HashMap<PathBuf, String>> {
    let mut text = Vec::new();
    File::open("/proc/self/mountinfo")?.read_to_end(&mut text)?;
    let parse = |line: &[u8]| {
        let fields: Vec<_> = line.split(|b| *b == b' ').collect();
        let separator = fields.iter().position(|f| *f == b"-")?;
        let kind = String::from_utf8_lossy(fields.get(separator + 1)?).into_owned();
        Some((unescape(fields.get(4)?), kind))
    };
    Ok(text.split(|b| *b == b'\n').filter_map(parse).filter(|(point, _)| point.starts_with(dir)).collect())
}

/// Octal escapes of space, tab, newline and backslash in mountinfo.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let code = tail.get(..3).and_then(|t| std::str::from_utf8(t).ok()).and_then(|t| u8::from_str_radix(t, 8).ok());
        match (first, code) {
            (b'\\', Some(byte)) => {
                out.push(byte);
                rest = &tail[3..];
            }
            _ => {
                out.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

/// Free bytes (for us, who are root) and size of the file system of `path`.
pub(crate) fn space(path: &Path) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::statvfs(path)?;
    Ok((stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize))
}

/// Opens a folder.
pub(crate) fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Makes renames and unlinks in a folder durable.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes everything of the file system durable.
pub(crate) fn sync_fs(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::fs::syncfs(fd.as_fd())?)
}

/// Writes a small file so that a reader, also one after a power cut, sees the old or the new content.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = dir.join(format!(".{name}.{}", uuid::Uuid::new_v4()));
    let write = || {
        let mut file = File::create(&new)?;
        io::Write::write_all(&mut file, bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        sync_dir(dir)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&new);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_of_mountinfo_are_undone() {
        assert_eq!(unescape(b"/a\\040b\\134c"), Path::new("/a b\\c"));
        assert_eq!(unescape(b"/a\\04"), Path::new("/a\\04"));
    }
}
