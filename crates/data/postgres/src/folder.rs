//! The peer's volume: the database's folder, who else uses it, and how a new database takes an old one's place.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::account::Account;

/// Why a volume cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("use {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
    #[error("{} is used by another process: stop it, or wait for its end", path.display())]
    Busy { path: PathBuf },
}

/// The volume's folder. Whoever has one is alone on the volume.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    root: PathBuf,
    account: Option<Account>,
    lock: Arc<File>,
}

/// The database in force.
const DATABASE: &str = "db";
/// A database that is being made.
const DRAFT: &str = "db.draft";
/// A complete one that takes the place of [`DATABASE`].
const NEXT: &str = "db.next";
/// Says that there was a database once: if none is found, it was lost.
const MARKER: &str = "has_database";
const LOCK: &str = "lock";
/// Makes a server a standby when it starts.
const STANDBY: &str = "standby.signal";

impl Folder {
    /// Takes possession of a volume, and ends what the last peer was about.
    pub(crate) fn open(root: &Path, account: Option<Account>) -> Result<Self, FolderError> {
        let failed = |err| FolderError::Io { path: root.to_owned(), err };
        fs::create_dir_all(root).map_err(failed)?;
        let lock = File::create(root.join(LOCK)).map_err(failed)?;
        if rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(FolderError::Busy { path: root.to_owned() });
        }
        if let Some(account) = account {
            account.own_all(root).map_err(failed)?;
        }
        fs::set_permissions(root, fs::Permissions::from_mode(0o700)).map_err(failed)?;
        let folder = Self { root: root.to_owned(), account, lock: Arc::new(lock) };
        folder.finish().map_err(failed)?;
        folder.remove_draft().map_err(failed)?;
        if folder.has_database() {
            folder.mark().map_err(failed)?; // one of the Go implementation
        }
        Ok(folder)
    }

    /// Bytes that can still be written.
    pub(crate) fn free(&self) -> io::Result<u64> {
        let space = rustix::fs::statvfs(&self.root)?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }

    /// Held by a server too, which may outlive its peer.
    pub(crate) fn lock(&self) -> &Arc<File> {
        &self.lock
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.root.join(DATABASE)
    }

    pub(crate) fn draft(&self) -> PathBuf {
        self.root.join(DRAFT)
    }

    /// Whether there is a database now.
    pub(crate) fn has_database(&self) -> bool {
        self.database().join("PG_VERSION").exists()
    }

    /// Whether there ever was one.
    pub(crate) fn had_database(&self) -> bool {
        self.root.join(MARKER).exists()
    }

    /// Whether the database starts as a standby.
    pub(crate) fn is_standby(&self) -> bool {
        self.database().join(STANDBY).exists()
    }

    pub(crate) fn make_standby(&self) -> io::Result<()> {
        self.write(&self.database().join(STANDBY), "")
    }

    /// Removes an unfinished database.
    pub(crate) fn remove_draft(&self) -> io::Result<()> {
        remove(&self.draft())
    }

    /// The draft, a standby or not, is complete and takes the place of the database, which is gone then.
    pub(crate) fn install(&self, standby: bool) -> io::Result<()> {
        if standby {
            self.write(&self.draft().join(STANDBY), "")?;
        }
        self.mark()?;
        fs::rename(self.draft(), self.root.join(NEXT))?;
        self.sync()?;
        self.finish()
    }

    /// Ends an [`Self::install`], at whatever point it was interrupted.
    fn finish(&self) -> io::Result<()> {
        let next = self.root.join(NEXT);
        if next.exists() {
            remove(&self.database())?;
            fs::rename(next, self.database())?;
            self.sync()?;
        }
        Ok(())
    }

    fn mark(&self) -> io::Result<()> {
        if !self.had_database() {
            self.write(&self.root.join(MARKER), "")?;
        }
        Ok(())
    }

    /// A file of the server's account that after a power cut has the old text or the new one.
    pub(crate) fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        use std::io::Write as _;
        let new = path.with_extension("flynn-new");
        let mut file = File::create(&new)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        if let Some(account) = self.account {
            account.own(&new)?;
        }
        fs::rename(&new, path)?;
        File::open(path.parent().unwrap_or(&self.root))?.sync_all()
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.root)?.sync_all()
    }
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(path: &Path, text: &str) {
        fs::create_dir_all(path).unwrap();
        fs::write(path.join("PG_VERSION"), text).unwrap();
    }

    #[test]
    fn a_new_database_takes_the_old_ones_place_at_whatever_point_that_was_interrupted() {
        let volume = tempfile::tempdir().unwrap();
        let open = || Folder::open(volume.path(), None).unwrap();
        let version = |folder: &Folder| fs::read_to_string(folder.database().join("PG_VERSION")).unwrap();
        let folder = open();
        assert!(!folder.has_database() && !folder.had_database());
        database(&folder.draft(), "1");
        drop(folder);
        let folder = open();
        assert!(!folder.draft().exists() && !folder.had_database(), "an unfinished one is nothing");

        database(&folder.draft(), "1");
        folder.install(false).unwrap();
        assert!(folder.has_database() && folder.had_database() && !folder.is_standby());
        database(&folder.draft(), "2");
        folder.install(true).unwrap();
        assert_eq!((version(&folder).as_str(), folder.is_standby()), ("2", true));
        drop(folder);

        for old in [true, false] {
            database(&volume.path().join(NEXT), "3");
            if !old {
                fs::remove_dir_all(volume.path().join(DATABASE)).unwrap();
            }
            let folder = open();
            assert_eq!((version(&folder).as_str(), volume.path().join(NEXT).exists()), ("3", false));
        }
        let folder = open();
        fs::remove_dir_all(folder.database()).unwrap();
        assert!(!folder.has_database() && folder.had_database(), "it was lost");
    }

    #[test]
    fn a_volume_has_one_user() {
        let volume = tempfile::tempdir().unwrap();
        let first = Folder::open(volume.path(), None).unwrap();
        assert!(matches!(Folder::open(volume.path(), None), Err(FolderError::Busy { .. })));
        drop(first);
        Folder::open(volume.path(), None).unwrap();
    }
}
