//! The one place where lines enter logs: batches of all jobs, one after the other.
//!
//! One lock for all apps keeps announcements in the order of the messages' stamps, which sinks depend on. It is held
//! while a batch is written to the page cache, under a millisecond.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use flynn_types::id::JobId;

use crate::applog::{AppLog, Batch, Place, Rotation, Stamp, Writing, apps_in, backups_of};
use crate::journal::{JobCursor, JobEntry};
use crate::message::Source;
use crate::published::Published;

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Committed {
    Done,
    /// Another follower of the job, which ended with this step under way, was quicker: look at the cursor again.
    Stale,
}

/// Owner of all log files.
#[derive(Debug)]
pub(crate) struct Writer {
    log_dir: PathBuf,
    state_dir: PathBuf,
    rotation: Rotation,
    pub(crate) published: Published,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    stamp: Stamp,
    /// Logs of apps that have a live job.
    open: BTreeMap<String, AppLog>,
    live: BTreeMap<String, BTreeSet<JobId>>,
    writing: Writing,
}

impl Writer {
    /// Recovers all logs and announces their ends.
    pub(crate) fn open(log_dir: PathBuf, state_dir: PathBuf, rotation: Rotation) -> io::Result<Self> {
        let writer = Self { log_dir, state_dir, rotation, published: Published::default(), inner: Mutex::default() };
        writer.delete_expired();
        let mut last = 0;
        for app in apps_in(&writer.log_dir)? {
            let log = AppLog::open(writer.place(&app))?;
            last = last.max(log.last_micros());
            writer.published.announce(&app, log.end());
        }
        // The numbers begin again with this process, so the time must be a later one.
        writer.lock().stamp.last = last + 1;
        Ok(writer)
    }

    /// Opens the log for a job and gives the job's cursor.
    pub(crate) fn begin(&self, app: &str, app_name: &str, job: &JobId) -> io::Result<JobCursor> {
        let mut inner = self.lock();
        if !inner.open.contains_key(app) {
            let log = AppLog::open(self.place(app))?;
            self.published.announce(app, log.end());
            inner.open.insert(app.to_owned(), log);
        }
        inner.live.entry(app.to_owned()).or_default().insert(job.clone());
        let log = inner.open.get_mut(app).ok_or(io::ErrorKind::NotFound)?;
        log.set_app_name(app_name);
        Ok(log.jobs.get(job).map(|job| job.cursor.clone()).unwrap_or_default())
    }

    /// The job begins anew: what it wrote before stays, and its output is read from the begin.
    pub(crate) fn forget(&self, app: &str, job: &JobId) -> io::Result<()> {
        let mut inner = self.lock();
        match inner.open.get_mut(app) {
            Some(log) => log.forget(job),
            None if self.place(app).log().exists() => AppLog::open(self.place(app))?.forget(job),
            None => Ok(()),
        }
    }

    /// Appends lines that follow on the cursor `before` and records the job's new cursor, then announces both. After an
    /// error nothing has changed.
    pub(crate) fn commit(
        &self,
        app: &str,
        source: &Source,
        batch: &Batch,
        before: &JobCursor,
        job: &JobEntry,
    ) -> io::Result<Committed> {
        let mut inner = self.lock();
        let Inner { stamp, open, live, writing } = &mut *inner;
        let log = open.get_mut(app).ok_or(io::ErrorKind::NotFound)?;
        if log.jobs.get(&job.id).map_or(&JobCursor::default(), |job| &job.cursor) != before {
            return Ok(Committed::Stale);
        }
        let committed = log.commit(batch, source, job, stamp, self.rotation, writing);
        writing.rest();
        // Also after a failure: the file may have been rotated before it.
        self.published.announce(app, log.end());
        committed?;
        let live = live.get(app);
        log.tidy(|id| live.is_some_and(|live| live.contains(id)));
        Ok(Committed::Done)
    }

    /// The job writes no more; the log is closed with its app's last job.
    pub(crate) fn end(&self, app: &str, job: &JobId) {
        let mut inner = self.lock();
        let Some(live) = inner.live.get_mut(app) else { return };
        live.remove(job);
        if live.is_empty() {
            inner.live.remove(app);
            inner.open.remove(app);
        }
    }

    pub(crate) fn place(&self, app: &str) -> Place {
        Place { app: app.to_owned(), log_dir: self.log_dir.clone(), state_dir: self.state_dir.clone() }
    }

    /// Deletes files that nobody wrote to for longer than logs are kept.
    pub(crate) fn delete_expired(&self) {
        let inner = self.lock();
        for app in apps_in(&self.log_dir).unwrap_or_default() {
            let place = self.place(&app);
            for path in backups_of(&self.log_dir, &app).unwrap_or_default() {
                if self.is_expired(&path) {
                    remove(&path);
                }
            }
            if inner.live.contains_key(&app) || !self.is_expired(&place.log()) {
                continue;
            }
            tracing::info!(app_id = app, "deleting an old log");
            remove(&place.log());
            remove(&place.journal());
            self.published.forget(&app);
        }
    }

    fn is_expired(&self, path: &std::path::Path) -> bool {
        let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
        let age = modified.ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
        age.unwrap_or(Duration::ZERO) > self.rotation.max_age
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn remove(path: &std::path::Path) {
    if let Err(err) = fs::remove_file(path)
        && err.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %err, "old log cannot be deleted");
    }
}
