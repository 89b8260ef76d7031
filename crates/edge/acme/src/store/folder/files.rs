//! JSON files that are replaced as a whole.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;
use tracing::error;

/// Time stamps are coarser than changes: what changed so lately may change again without showing it.
const YOUNG: Duration = Duration::from_millis(500);
/// A file that was not finished in this time never will be.
const LEFT_OVER: Duration = Duration::from_secs(3600);
/// Longest file in bytes; a chain with its key has a few thousand.
const MAX_BYTES: u64 = 4 << 20;

/// Tells one state of a file or folder from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    young: bool,
}

impl Stamp {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|metadata| Self::from(&metadata))
    }

    /// Whether it may change without another stamp.
    pub(super) fn is_young(&self) -> bool {
        self.young
    }
}

impl From<&fs::Metadata> for Stamp {
    fn from(metadata: &fs::Metadata) -> Self {
        let age = metadata.modified().ok().map(|modified| SystemTime::now().duration_since(modified));
        Self {
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            // Also what comes from a clock that is ahead.
            young: !matches!(age, Some(Ok(age)) if age > YOUNG),
        }
    }
}

/// The records of a folder as they were read last.
pub(super) struct Cache<T> {
    known: BTreeMap<OsString, (Stamp, Arc<T>)>,
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self { known: BTreeMap::new() }
    }
}

impl<T: DeserializeOwned> Cache<T> {
    /// All records. One that cannot be read is moved aside and named in the log.
    pub(super) fn read(&mut self, folder: &Path) -> io::Result<Vec<Arc<T>>> {
        let mut now = BTreeMap::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if !is_record(&name) {
                continue;
            }
            let stamp = match entry.metadata() {
                Ok(metadata) => Stamp::from(&metadata),
                Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
                Err(err) => return Err(err),
            };
            let known = self.known.remove(&name).filter(|(known, _)| *known == stamp && !stamp.young);
            let record = match known {
                Some((_, record)) => Some(record),
                None => read(&entry.path())?.map(Arc::new),
            };
            now.extend(record.map(|record| (name, (stamp, record))));
        }
        self.known = now;
        Ok(self.known.values().map(|(_, record)| Arc::clone(record)).collect())
    }
}

fn is_record(name: &OsString) -> bool {
    name.to_str().is_some_and(|name| !name.starts_with('.') && name.ends_with(".json"))
}

/// Reads a record; `None` when there is none, or when it is damaged, which moves it aside.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::metadata(path).map(|metadata| metadata.len()) {
        Ok(bytes) if bytes > MAX_BYTES => return set_aside(path, "it is too long").map(|()| None),
        Ok(_) => {}
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(err),
    }
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(err),
    };
    match serde_json::from_slice(&text) {
        Ok(record) => Ok(Some(record)),
        Err(err) => set_aside(path, &err.to_string()).map(|()| None),
    }
}

fn set_aside(path: &Path, reason: &str) -> io::Result<()> {
    let aside = path.with_extension("damaged");
    error!(path = %path.display(), reason, aside = %aside.display(), "file is damaged and moved aside; it is made anew");
    match fs::rename(path, aside) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
        _ => Ok(()),
    }
}

/// Makes a folder that only its owner enters.
pub(super) fn make(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Writes a file that only its owner reads. After a crash there is the old or the new one.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or_else(|| io::Error::other("a file is in a folder"))?;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let unfinished = folder.join(format!(".{name}.{}", uuid::Uuid::new_v4()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        File::open(folder)?.sync_all()
    })();
    if written.is_err() {
        let _ = fs::remove_file(&unfinished); // the first error counts
    }
    written
}

/// Removes a file; one that is not there is removed already.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
        _ => match path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        },
    }
}

/// Takes a lock that ends with the file's handle; `None` when another has it.
pub(super) fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(err)) => Err(err),
    }
}

/// Removes what processes left when they were killed while they wrote, and records of processes that are long gone.
pub(super) fn remove_leftovers(folders: impl IntoIterator<Item = PathBuf>) {
    for folder in folders {
        let of_processes = folder.ends_with(super::WANTED);
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let unfinished = entry.file_name().to_str().is_some_and(|name| name.starts_with('.'));
            let age = entry.metadata().and_then(|metadata| metadata.modified()).map(|time| time.elapsed());
            if (unfinished || of_processes) && matches!(age, Ok(Ok(age)) if age > LEFT_OVER) {
                let _ = fs::remove_file(entry.path()); // or the next leader does
            }
        }
    }
}
