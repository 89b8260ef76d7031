//! Contents as files in a folder, which a volume keeps: `<folder>/<two digits>/<id>`.
//!
//! A content is written under another name, synced, and then renamed, so that what has its name is whole, also after a
//! loss of power. Contents never change; a copy is a second link to the same content.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use uuid::Uuid;

use super::PIECE;
use crate::error::Error;

/// End of the names of contents that are being written.
const UNFINISHED: &str = "unfinished";
/// What was written last so long ago, nobody goes on with.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// A folder of contents. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    folder: Arc<Path>,
}

/// A content that is being written; without [`Writing::finish`], nothing of it stays.
#[derive(Debug)]
pub(crate) struct Writing {
    local: Local,
    object: Uuid,
    file: Arc<File>,
    finished: bool,
}

/// A content that can be read, also after it was removed.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    object: Uuid,
    file: Arc<File>,
}

impl Local {
    /// Makes the folder, and removes what an earlier process left unfinished.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let local = Self { folder: folder.into() };
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                local.sweep(&path)?;
            }
        }
        Ok(local)
    }

    fn sweep(&self, folder: &Path) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let unfinished = entry.path().extension().is_some_and(|end| end == UNFINISHED);
            let age = SystemTime::now().duration_since(entry.metadata()?.modified()?).unwrap_or_default();
            if unfinished && age > ABANDONED {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Begins a content.
    pub(crate) async fn create(&self) -> Result<Writing, Error> {
        let (local, object) = (self.clone(), Uuid::new_v4());
        blocking(object, move || {
            let path = local.unfinished(object);
            if let Some(folder) = path.parent() {
                make(folder)?;
            }
            let file = OpenOptions::new().write(true).create_new(true).open(path)?;
            Ok(Writing { local, object, file: Arc::new(file), finished: false })
        })
        .await
    }

    pub(crate) async fn read(&self, object: Uuid) -> Result<Reading, Error> {
        let path = self.path(object);
        blocking(object, move || Ok(Reading { object, file: Arc::new(File::open(path)?) })).await
    }

    /// A second name for a content.
    pub(crate) async fn copy(&self, object: Uuid) -> Result<Uuid, Error> {
        let (local, copy) = (self.clone(), Uuid::new_v4());
        blocking(object, move || {
            let path = local.path(copy);
            let folder = path.parent().map(Path::to_owned).unwrap_or_default();
            make(&folder)?;
            fs::hard_link(local.path(object), &path)?;
            File::open(folder)?.sync_all()?;
            Ok(copy)
        })
        .await
    }

    /// Removes a content; one that is not there is no error.
    pub(crate) async fn remove(&self, object: Uuid) -> Result<(), Error> {
        let path = self.path(object);
        blocking(object, move || match fs::remove_file(path) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        })
        .await
    }

    fn path(&self, object: Uuid) -> PathBuf {
        let name = object.to_string();
        self.folder.join(name.get(..2).unwrap_or_default()).join(name)
    }

    fn unfinished(&self, object: Uuid) -> PathBuf {
        self.path(object).with_extension(UNFINISHED)
    }
}

impl Writing {
    pub(crate) async fn write(&mut self, piece: Bytes) -> Result<(), Error> {
        let file = Arc::clone(&self.file);
        blocking(self.object, move || (&*file).write_all(&piece)).await
    }

    /// Makes the content last; gives its name.
    pub(crate) async fn finish(mut self) -> Result<Uuid, Error> {
        let (local, object, file) = (self.local.clone(), self.object, Arc::clone(&self.file));
        blocking(object, move || {
            file.sync_all()?;
            let path = local.path(object);
            fs::rename(local.unfinished(object), &path)?;
            let folder = path.parent().map(Path::to_owned).unwrap_or_default();
            File::open(folder)?.sync_all()
        })
        .await?;
        self.finished = true;
        Ok(object)
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if !self.finished {
            // Quick, and nobody could wait for it here. What cannot be removed is swept some day.
            let _ = fs::remove_file(self.local.unfinished(self.object));
        }
    }
}

impl Reading {
    /// Up to `length` bytes, at most a piece; fewer only at the end.
    pub(crate) async fn read(&self, offset: u64, length: usize) -> Result<Bytes, Error> {
        let (file, length) = (Arc::clone(&self.file), length.min(PIECE));
        blocking(self.object, move || {
            let mut piece = vec![0; length];
            let mut filled = 0;
            while filled < length {
                match file.read_at(&mut piece[filled..], offset + filled as u64) {
                    Ok(0) => break,
                    Ok(count) => filled += count,
                    Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                    Err(err) => return Err(err),
                }
            }
            piece.truncate(filled);
            Ok(piece.into())
        })
        .await
    }
}

/// Makes a folder that is there after a loss of power, too.
fn make(folder: &Path) -> io::Result<()> {
    if !folder.is_dir() {
        fs::create_dir_all(folder)?;
        if let Some(parent) = folder.parent() {
            File::open(parent)?.sync_all()?;
        }
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    object: Uuid,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|err| Err(io::Error::other(err)))
        .map_err(|err| Error::Content { object: object.to_string(), err })
}
