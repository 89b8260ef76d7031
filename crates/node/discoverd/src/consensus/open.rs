//! Opening the store's file.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use redb::{Database, DatabaseError, Durability};

use super::log_store::{LogStore, Unflushed, decode, encode};
use super::writer::{FACTS, LOG, Writer, fact, read_fact, to_io};

/// Version of the tables.
const FORMAT: u32 = 1;
/// Of the store that are copied at once.
const COPIED_BYTES: usize = 1 << 20;
/// The store is small; most of redb's default cache of 1 GiB would only be copies of dead pages.
const CACHE_BYTES: usize = 32 << 20;

/// An open store.
pub(super) struct Store {
    pub(super) log: LogStore,
    pub(super) node: u64,
    pub(super) thread: JoinHandle<()>,
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("open {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
    /// Another process has it; it may be about to end.
    #[error("{} is in use by another process", path.display())]
    InUse { path: PathBuf },
    #[error("{} has format {found}, this program knows {FORMAT}", path.display())]
    Newer { path: PathBuf, found: u32 },
}

/// How a store is opened after its last use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reopening {
    AsItIs,
    /// Its last write failed: what the kernel shows of it may not be on disk, and a later sync would not tell. It is
    /// written anew before anything in it counts.
    Anew,
}

impl Reopening {
    /// After that error. A full disk lost nothing that was on it, and has no room for a copy.
    pub(super) fn after(failure: Option<io::ErrorKind>) -> Self {
        match failure {
            None | Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => Self::AsItIs,
            Some(_) => Self::Anew,
        }
    }
}

/// Opens or makes the store. One that is damaged is moved aside: the node then returns under a new id, because one that
/// forgot its votes must not vote again as itself. Blocks.
pub(super) fn open(path: &Path, reopening: Reopening) -> Result<Store, OpenError> {
    let failed = |err| OpenError::Io { path: path.to_owned(), err };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    if reopening == Reopening::Anew {
        write_anew(path).map_err(failed)?;
    }
    let database = match open_database(path)? {
        Some(database) => database,
        None => {
            move_aside(path).map_err(failed)?;
            open_database(path)?.ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?
        }
    };
    let node = prepare(&database, path)?;
    let database = Arc::new(database);
    let unflushed = Unflushed::default();
    let queue = unflushed.clone();
    let (writer, thread) = Writer::start(database.clone(), move |indexes| queue.flushed(indexes)).map_err(failed)?;
    Ok(Store { log: LogStore::new(database, writer, unflushed), node, thread })
}

/// `None` when the file is damaged.
fn open_database(path: &Path) -> Result<Option<Database>, OpenError> {
    // redb may panic on files that were torn by a loss of power
    let opened = catch_unwind(AssertUnwindSafe(|| Database::builder().set_cache_size(CACHE_BYTES).create(path)));
    let damaged = |what: &str| {
        tracing::error!(path = %path.display(), what, "the store is damaged and will be moved aside");
        Ok(None)
    };
    match opened {
        Ok(Ok(database)) => Ok(Some(database)),
        Ok(Err(DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch)) => {
            Err(OpenError::InUse { path: path.to_owned() })
        }
        Ok(Err(err)) => {
            let io = to_io(err);
            if io.kind() == io::ErrorKind::InvalidData {
                return damaged(&io.to_string());
            }
            Err(OpenError::Io { path: path.to_owned(), err: io })
        }
        Err(_panic) => damaged("the library panicked"),
    }
}

/// Replaces the file by a copy that is on disk.
fn write_anew(path: &Path) -> io::Result<()> {
    let mut copy = path.as_os_str().to_owned();
    copy.push(".new");
    let written = copy_and_sync(path, Path::new(&copy)).and_then(|()| std::fs::rename(&copy, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&copy);
    }
    written?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Reads and writes: a clone of a block that was never written would be no better than that.
fn copy_and_sync(from: &Path, to: &Path) -> io::Result<()> {
    let (mut from, mut to) = (File::open(from)?, File::create(to)?);
    let mut buffer = vec![0; COPIED_BYTES];
    loop {
        match from.read(&mut buffer)? {
            0 => return to.sync_all(),
            count => to.write_all(&buffer[..count])?,
        }
    }
}

fn move_aside(path: &Path) -> io::Result<()> {
    let stamp = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |t| t.as_secs());
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".damaged-{stamp}"));
    std::fs::rename(path, aside)
}

/// Makes the tables, checks the format, and gives the node's id, a new one in a new store.
fn prepare(database: &Database, path: &Path) -> Result<u64, OpenError> {
    let work = || -> io::Result<Result<u64, u32>> {
        let mut transaction = database.begin_write().map_err(to_io)?;
        transaction.set_durability(Durability::Immediate).map_err(to_io)?;
        {
            transaction.open_table(LOG).map_err(to_io)?;
            transaction.open_table(FACTS).map_err(to_io)?;
        }
        transaction.commit().map_err(to_io)?;
        if let Some(found) = read_fact(database, fact::FORMAT)?.map(|b| decode::<u32>(&b)).transpose()?
            && found > FORMAT
        {
            return Ok(Err(found));
        }
        if let Some(node) = read_fact(database, fact::NODE_ID)?.map(|b| decode::<u64>(&b)).transpose()? {
            return Ok(Ok(node));
        }
        let node = rand::random_range(1..=u64::MAX);
        let transaction = database.begin_write().map_err(to_io)?;
        {
            let mut facts = transaction.open_table(FACTS).map_err(to_io)?;
            facts.insert(fact::FORMAT, encode(&FORMAT)?.as_slice()).map_err(to_io)?;
            facts.insert(fact::NODE_ID, encode(&node)?.as_slice()).map_err(to_io)?;
        }
        transaction.commit().map_err(to_io)?;
        Ok(Ok(node))
    };
    match work().map_err(|err| OpenError::Io { path: path.to_owned(), err })? {
        Ok(node) => Ok(node),
        Err(found) => Err(OpenError::Newer { path: path.to_owned(), found }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_store_whose_disk_failed_is_written_anew_unless_the_disk_is_full() {
        for (failure, expected) in [
            (None, Reopening::AsItIs),
            (Some(io::ErrorKind::StorageFull), Reopening::AsItIs),
            (Some(io::ErrorKind::Other), Reopening::Anew),
        ] {
            assert_eq!(Reopening::after(failure), expected, "{failure:?}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let reopened = |reopening| {
            let store = open(&path, reopening).unwrap();
            let node = store.node;
            drop(store.log);
            store.thread.join().unwrap();
            (node, std::fs::metadata(&path).unwrap().ino())
        };
        let (node, inode) = reopened(Reopening::AsItIs);
        assert_eq!(reopened(Reopening::AsItIs), (node, inode));
        let (same, another) = reopened(Reopening::Anew);
        assert!(same == node && another != inode, "another file with the same content");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left");
    }
}
