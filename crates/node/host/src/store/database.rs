//! The redb file.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use flynn_types::error::with_causes;
use flynn_types::host::ActiveJob;
use flynn_types::id::JobId;
use redb::{ReadableDatabase, ReadableTable, TableDefinition};
use tracing::{error, warn};

const JOBS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("jobs");
const DOCUMENTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("documents");
/// Key in `documents` with the version of this format.
const FORMAT: &str = "format";
const FORMAT_VERSION: &[u8] = b"1";

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("create directory {}", path.display())]
    Directory {
        path: PathBuf,
        #[source]
        err: std::io::Error,
    },
    #[error("open state file {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        err: Box<redb::DatabaseError>,
    },
    #[error("state file {} is in use by another process", .0.display())]
    Locked(PathBuf),
    #[error("move damaged state file {} aside", path.display())]
    MoveAside {
        path: PathBuf,
        #[source]
        err: std::io::Error,
    },
    #[error("state file {} has format {found}, this daemon reads up to 1: use the newer daemon", path.display())]
    Format { path: PathBuf, found: String },
    #[error("{doing} in the state file")]
    Access {
        doing: &'static str,
        #[source]
        err: Box<redb::Error>,
    },
    #[error("the state file is closed")]
    Closed,
    #[error("the state file must be opened again after an error: {0}")]
    Unavailable(String),
}

fn access<E: Into<redb::Error>>(doing: &'static str) -> impl FnOnce(E) -> StoreError {
    move |err| StoreError::Access { doing, err: Box::new(err.into()) }
}

/// What one commit changes. `None` deletes.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) jobs: Vec<(JobId, Option<Vec<u8>>)>,
    pub(crate) documents: Vec<(String, Option<Vec<u8>>)>,
}

/// The open file; a handle that can be closed and opened again, as a hand-over to another daemon needs it.
#[derive(Clone, Debug)]
pub struct Database {
    path: PathBuf,
    open: Arc<Mutex<Result<Arc<redb::Database>, Option<String>>>>,
}

impl Database {
    /// Opens or creates the file. A damaged one is moved aside and a new one begun; the daemon then learns its running
    /// jobs from their monitors.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)
                .map_err(|err| StoreError::Directory { path: directory.to_owned(), err })?;
        }
        let database = Self { path: path.to_owned(), open: Arc::new(Mutex::new(Err(None))) };
        database.reopen()?;
        Ok(database)
    }

    /// Opens the file again after [`Database::close`].
    pub(crate) fn reopen(&self) -> Result<(), StoreError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // The old one must be closed first.
        *open = Err(None);
        let opened = self.open_or_begin_anew();
        *open = opened.as_ref().map(Arc::clone).map_err(|err| Some(with_causes(err)));
        opened.map(drop)
    }

    fn open_or_begin_anew(&self) -> Result<Arc<redb::Database>, StoreError> {
        let reason = match open_checked(&self.path) {
            Ok(opened) => return Ok(Arc::new(opened)),
            Err(Damage::Other(err)) => return Err(err),
            Err(Damage::Damaged(reason)) => reason,
        };
        move_aside(&self.path, &reason)?;
        match open_checked(&self.path) {
            Ok(opened) => Ok(Arc::new(opened)),
            Err(Damage::Other(err)) => Err(err),
            Err(Damage::Damaged(reason)) => {
                let err = std::io::Error::other(reason);
                Err(StoreError::MoveAside { path: self.path.clone(), err })
            }
        }
    }

    /// Closes the file, so that another process can open it. Whatever is asked of it afterwards fails.
    pub fn close(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = Err(None);
    }

    /// The open file. One that was closed by an error is opened again.
    fn handle(&self) -> Result<Arc<redb::Database>, StoreError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(Some(_)) = &*open {
            *open = self.open_or_begin_anew().map_err(|err| Some(with_causes(&err)));
        }
        open.clone().map_err(|reason| reason.map_or(StoreError::Closed, StoreError::Unavailable))
    }

    /// After an I/O error redb refuses all writes until the file is opened again. What the failed commit left in the
    /// kernel's cache does no harm then: it was in two phases, so the data that a new header names is on disk.
    fn close_after(&self, failed: Arc<redb::Database>, err: &StoreError) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // Another one may have opened it again already.
        if open.as_ref().is_ok_and(|now| Arc::ptr_eq(now, &failed)) {
            *open = Err(Some(with_causes(err)));
        }
    }

    /// Commits all changes or none; synced when it returns.
    pub(crate) fn commit(&self, changes: &Changes) -> Result<(), StoreError> {
        let database = self.handle()?;
        let committed = commit(&database, changes);
        if let Err(err) = &committed {
            self.close_after(database, err);
        }
        committed
    }

    /// Whether a job has this id, also one that is no longer listed.
    pub(crate) fn has_job(&self, id: &JobId) -> Result<bool, StoreError> {
        let database = self.handle()?;
        let transaction = database.begin_read().map_err(access("begin reading"))?;
        let table = transaction.open_table(JOBS).map_err(access("open the jobs"))?;
        Ok(table.get(id.as_str()).map_err(access("read a job"))?.is_some())
    }

    /// Deletes the records of ended jobs that nobody will ask for any more.
    pub(crate) fn forget_jobs(&self, ids: &[JobId]) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        let jobs = ids.iter().map(|id| (id.clone(), None)).collect();
        self.commit(&Changes { jobs, documents: Vec::new() })
    }

    /// Writes or deletes one document; synced when it returns.
    pub(crate) fn put_document<T: serde::Serialize>(&self, key: &str, value: Option<&T>) -> Result<(), StoreError> {
        let value = value.map(|value| serde_json::to_vec(value).expect("documents have string keys only"));
        self.commit(&Changes { jobs: Vec::new(), documents: vec![(key.to_owned(), value)] })
    }

    /// The documents whose keys begin with `prefix`; those that cannot be read are reported and left out.
    pub(crate) fn documents<T: serde::de::DeserializeOwned>(&self, prefix: &str) -> Result<Vec<T>, StoreError> {
        let database = self.handle()?;
        let transaction = database.begin_read().map_err(access("begin reading"))?;
        let table = transaction.open_table(DOCUMENTS).map_err(access("open the documents"))?;
        let mut documents = Vec::new();
        for entry in table.range(prefix..).map_err(access("read the documents"))? {
            let (key, value) = entry.map_err(access("read a document"))?;
            if !key.value().starts_with(prefix) {
                break;
            }
            match serde_json::from_slice(value.value()) {
                Ok(document) => documents.push(document),
                Err(err) => warn!(key = key.value(), %err, "recorded document cannot be read, leaving it out"),
            }
        }
        Ok(documents)
    }

    /// Every recorded job. A record that cannot be read is reported and left out.
    pub(crate) fn jobs(&self) -> Result<Vec<(JobId, ActiveJob)>, StoreError> {
        let database = self.handle()?;
        let transaction = database.begin_read().map_err(access("begin reading"))?;
        let table = transaction.open_table(JOBS).map_err(access("open the jobs"))?;
        let mut jobs = Vec::new();
        for entry in table.iter().map_err(access("read the jobs"))? {
            let (key, value) = entry.map_err(access("read a job"))?;
            match (key.value().parse::<JobId>(), serde_json::from_slice::<ActiveJob>(value.value())) {
                (Ok(id), Ok(job)) => jobs.push((id, job)),
                _ => warn!(job_id = key.value(), "recorded job cannot be read, leaving it out"),
            }
        }
        Ok(jobs)
    }

    /// One recorded job, also an old one that is no longer listed.
    pub(crate) fn job(&self, id: &JobId) -> Result<Option<ActiveJob>, StoreError> {
        let database = self.handle()?;
        let transaction = database.begin_read().map_err(access("begin reading"))?;
        let table = transaction.open_table(JOBS).map_err(access("open the jobs"))?;
        let value = table.get(id.as_str()).map_err(access("read a job"))?;
        Ok(value.and_then(|value| serde_json::from_slice(value.value()).ok()))
    }

    /// A document by its key; one that cannot be read is reported and counts as absent.
    pub(crate) fn document<T: serde::de::DeserializeOwned>(&self, key: &str) -> Result<Option<T>, StoreError> {
        let database = self.handle()?;
        let transaction = database.begin_read().map_err(access("begin reading"))?;
        let table = transaction.open_table(DOCUMENTS).map_err(access("open the documents"))?;
        let Some(value) = table.get(key).map_err(access("read a document"))? else { return Ok(None) };
        let parsed = serde_json::from_slice(value.value());
        if let Err(err) = &parsed {
            warn!(key, %err, "recorded document cannot be read, leaving it out");
        }
        Ok(parsed.ok())
    }
}

fn commit(database: &redb::Database, changes: &Changes) -> Result<(), StoreError> {
    let mut transaction = database.begin_write().map_err(access("begin a change"))?;
    transaction.set_quick_repair(true);
    {
        let mut jobs = transaction.open_table(JOBS).map_err(access("open the jobs"))?;
        for (id, value) in &changes.jobs {
            match value {
                Some(value) => drop(jobs.insert(id.as_str(), value.as_slice()).map_err(access("write a job"))?),
                None => drop(jobs.remove(id.as_str()).map_err(access("delete a job"))?),
            }
        }
        let mut documents = transaction.open_table(DOCUMENTS).map_err(access("open the documents"))?;
        for (key, value) in &changes.documents {
            match value {
                Some(value) => {
                    drop(documents.insert(key.as_str(), value.as_slice()).map_err(access("write a document"))?);
                }
                None => drop(documents.remove(key.as_str()).map_err(access("delete a document"))?),
            }
        }
    }
    transaction.commit().map_err(access("commit a change"))
}

enum Damage {
    Damaged(String),
    Other(StoreError),
}

fn open_checked(path: &Path) -> Result<redb::Database, Damage> {
    // redb may panic on damaged files; it must not take the daemon with it.
    let owned = path.to_owned();
    let opened = std::panic::catch_unwind(move || prepare(&owned));
    match opened {
        Ok(result) => result,
        Err(_) => Err(Damage::Damaged("its contents make no sense".into())),
    }
}

fn prepare(path: &Path) -> Result<redb::Database, Damage> {
    let database = match redb::Database::create(path) {
        Ok(database) => database,
        Err(redb::DatabaseError::DatabaseAlreadyOpen) => {
            return Err(Damage::Other(StoreError::Locked(path.to_owned())));
        }
        Err(redb::DatabaseError::Storage(redb::StorageError::Corrupted(reason))) => {
            return Err(Damage::Damaged(reason));
        }
        Err(redb::DatabaseError::Storage(redb::StorageError::Io(err)))
            if matches!(err.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) =>
        {
            return Err(Damage::Damaged(err.to_string()));
        }
        Err(err) => return Err(Damage::Other(StoreError::Open { path: path.to_owned(), err: Box::new(err) })),
    };
    match recorded_format(&database)? {
        Some(version) if version != FORMAT_VERSION => {
            let found = String::from_utf8_lossy(&version).into_owned();
            Err(Damage::Other(StoreError::Format { path: path.to_owned(), found }))
        }
        Some(_) => Ok(database),
        None => {
            begin(&database)?;
            Ok(database)
        }
    }
}

/// Only reads: a full disk keeps no daemon from its jobs.
fn recorded_format(database: &redb::Database) -> Result<Option<Vec<u8>>, Damage> {
    let transaction = database.begin_read().map_err(damage("begin reading"))?;
    if let Err(err) = transaction.open_table(JOBS)
        && !matches!(err, redb::TableError::TableDoesNotExist(_))
    {
        return Err(damage("open the jobs")(err));
    }
    let documents = match transaction.open_table(DOCUMENTS) {
        Ok(documents) => documents,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(err) => return Err(damage("open the documents")(err)),
    };
    let version = documents.get(FORMAT).map_err(damage("read the format"))?;
    Ok(version.map(|version| version.value().to_vec()))
}

/// Makes the tables of a new file.
fn begin(database: &redb::Database) -> Result<(), Damage> {
    let transaction = database.begin_write().map_err(damage("begin a change"))?;
    transaction.open_table(JOBS).map_err(damage("make the jobs"))?;
    let mut documents = transaction.open_table(DOCUMENTS).map_err(damage("make the documents"))?;
    documents.insert(FORMAT, FORMAT_VERSION).map_err(damage("write the format"))?;
    drop(documents);
    transaction.commit().map_err(damage("write the format"))
}

/// Tells a damaged file, which is given up, from a disk that does not do its work now.
fn damage<E: Into<redb::Error>>(doing: &'static str) -> impl FnOnce(E) -> Damage {
    move |err| match err.into() {
        redb::Error::Io(err) if !matches!(err.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) => {
            Damage::Other(StoreError::Access { doing, err: Box::new(redb::Error::Io(err)) })
        }
        err => Damage::Damaged(err.to_string()),
    }
}

fn move_aside(path: &Path, reason: &str) -> Result<(), StoreError> {
    let stamp = chrono::Utc::now().format("%Y%m%dT%H%M%SZ");
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".damaged-{stamp}"));
    error!(path = %path.display(), aside = %Path::new(&aside).display(), reason, "state file is damaged, moving it aside and beginning a new one");
    std::fs::rename(path, &aside).map_err(|err| StoreError::MoveAside { path: path.to_owned(), err })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> JobId {
        text.parse().unwrap()
    }

    #[test]
    fn what_was_committed_is_there_after_opening_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.redb");
        let database = Database::open(&path).unwrap();
        let job = serde_json::to_vec(&ActiveJob { host_id: "h".into(), ..ActiveJob::default() }).unwrap();
        let changes = Changes {
            jobs: vec![(id("h-1"), Some(job))],
            documents: vec![("tags".into(), Some(br#"{"a":"b"}"#.to_vec()))],
        };
        database.commit(&changes).unwrap();
        database.reopen().unwrap();
        assert_eq!(database.jobs().unwrap().len(), 1);
        assert_eq!(database.job(&id("h-1")).unwrap().unwrap().host_id, "h");
        let tags: std::collections::BTreeMap<String, String> = database.document("tags").unwrap().unwrap();
        assert_eq!(tags["a"], "b");
    }

    #[test]
    fn a_file_that_an_error_closed_is_opened_again_by_who_needs_it_next() {
        let directory = tempfile::tempdir().unwrap();
        let database = Database::open(&directory.path().join("state.redb")).unwrap();
        let reader = database.handle().unwrap();
        database.close_after(database.handle().unwrap(), &StoreError::Unavailable("the disk failed".into()));
        assert!(matches!(database.jobs(), Err(StoreError::Unavailable(_))), "it cannot be open twice");
        drop(reader);
        database.put_document("tags", Some(&"a")).unwrap();
        assert_eq!(database.document::<String>("tags").unwrap().as_deref(), Some("a"));
        database.close();
        assert!(matches!(database.jobs(), Err(StoreError::Closed)), "one that was closed on purpose stays closed");
    }

    #[test]
    fn a_damaged_file_is_kept_aside_and_a_new_one_begun() {
        for damage in [vec![0xff; 64 * 1024], b"short".to_vec()] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("state.redb");
            std::fs::write(&path, &damage).unwrap();
            let database = Database::open(&path).unwrap();
            assert!(database.jobs().unwrap().is_empty());
            let aside = std::fs::read_dir(directory.path())
                .unwrap()
                .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().contains(".damaged-"))
                .count();
            assert_eq!(aside, 1);
        }
    }

    #[test]
    fn a_file_torn_at_any_place_never_stops_the_daemon_from_starting() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.redb");
        let database = Database::open(&path).unwrap();
        for n in 0..20 {
            let job = serde_json::to_vec(&ActiveJob::default()).unwrap();
            database.commit(&Changes { jobs: vec![(id(&format!("h-{n}")), Some(job))], documents: vec![] }).unwrap();
        }
        drop(database);
        let whole = std::fs::read(&path).unwrap();
        for step in 1..16 {
            let mut torn = whole.clone();
            let at = whole.len() * step / 16;
            torn[at..(at + 512).min(whole.len())].fill(0xa5);
            let path = directory.path().join(format!("torn-{step}.redb"));
            std::fs::write(&path, &torn).unwrap();
            let database = Database::open(&path).unwrap();
            let _ = database.jobs();
        }
    }

    #[test]
    fn a_second_daemon_is_told_that_the_file_is_in_use() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.redb");
        let _first = Database::open(&path).unwrap();
        assert!(matches!(Database::open(&path), Err(StoreError::Locked(_))));
    }
}
