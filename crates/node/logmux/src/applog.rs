//! One app's log: its files, its journal, and how both stay in agreement.

mod files;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flynn_types::id::JobId;

pub(crate) use self::files::{app_key, apps_in, backups_of, log_file_name};
use self::files::{count_messages, open_log};
use crate::journal::{JobCursor, JobEntry, Journal, LogState};
use crate::message::{Clock, Source, write_frame};
use crate::published::{AppEnd, Backup};

/// Where an app's files are.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// App id, empty for jobs without one.
    pub(crate) app: String,
    pub(crate) log_dir: PathBuf,
    pub(crate) state_dir: PathBuf,
}

impl Place {
    pub(crate) fn log(&self) -> PathBuf {
        self.log_dir.join(log_file_name(&self.app))
    }

    /// `-` cannot be an app id.
    pub(crate) fn journal(&self) -> PathBuf {
        let name = if self.app.is_empty() { "-" } else { &self.app };
        self.state_dir.join(format!("{name}.journal"))
    }
}

/// Gives messages times that never go back and numbers that count up, so that together they order a host's messages.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stamp {
    pub(crate) last: i64,
    pub(crate) seq: u32,
}

/// A clock that is ahead of the machine's by more than this was set back since, and is followed back.
const CLOCK_SET_BACK: i64 = 60_000_000;

impl Stamp {
    fn next(&mut self, micros: i64, now: i64) -> (i64, u32) {
        if micros >= self.last || self.last > now + CLOCK_SET_BACK {
            self.last = micros;
        }
        self.seq = self.seq.wrapping_add(1);
        (self.last, self.seq)
    }
}

/// Lines on their way into the log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    text: Vec<u8>,
    /// Stream, time in unix microseconds, and where the line ends in `text`.
    lines: Vec<(u8, i64, usize)>,
}

impl Batch {
    pub(crate) fn push(&mut self, stream: u8, micros: i64, line: &[u8]) {
        self.text.extend_from_slice(line);
        self.lines.push((stream, micros, self.text.len()));
    }

    pub(crate) fn len_bytes(&self) -> usize {
        self.text.len() + self.lines.len() * 128
    }
}

#[derive(Debug)]
pub(crate) struct AppLog {
    place: Place,
    file: File,
    state: LogState,
    backup: Option<Backup>,
    /// Time of the file's first message.
    started: Option<i64>,
    journal: Journal,
    /// Whether the journal knows of this file. Nothing is appended to a file that it does not know: what a killed writer
    /// left there could not be told from what was recorded.
    recorded: bool,
    pub(crate) jobs: BTreeMap<JobId, JobEntry>,
}

/// When a file is full.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rotation {
    pub(crate) file_bytes: u64,
    pub(crate) max_age: Duration,
}

impl AppLog {
    /// Opens the log and brings file and journal into agreement.
    pub(crate) fn open(place: Place) -> io::Result<Self> {
        let (journal, contents) = Journal::open(&place.journal())?;
        let (file, inode, len) = open_log(&place.log())?;
        let backup = backups_of(&place.log_dir, &place.app)?.pop();
        let mut state = LogState { inode, ..contents.log.clone().unwrap_or_default() };
        let mut backup_first = state.previous_first;
        let recorded = contents.log.as_ref().is_some_and(|log| log.inode == inode && len >= log.len);
        match contents.log {
            Some(log) if log.inode == inode && len >= log.len => {
                if len > log.len {
                    tracing::info!(
                        app_id = place.app,
                        bytes = len - log.len,
                        "cutting off log lines that were not recorded"
                    );
                    file.set_len(log.len)?;
                }
            }
            Some(log) if log.inode == inode => {
                tracing::warn!(app_id = place.app, expected = log.len, found = len, "log is shorter than recorded");
                let (_, whole) = count_messages(&file, len)?;
                file.set_len(whole)?;
                state.len = whole;
            }
            // A rotation whose first entry was never written, or a file that somebody replaced.
            Some(log) => {
                let (messages, whole) = count_messages(&file, len)?;
                file.set_len(whole)?;
                backup_first = log.first;
                state.generation = log.generation + 1;
                (state.first, state.len, state.messages) = (log.messages, whole, log.messages + messages);
            }
            None => {
                let mut first = 0;
                if let Some(path) = &backup {
                    let old = File::open(path)?;
                    let len = old.metadata()?.len();
                    first = count_messages(&old, len)?.0;
                }
                let (messages, whole) = count_messages(&file, len)?;
                file.set_len(whole)?;
                (state.generation, state.first, state.len, state.messages) = (1, first, whole, first + messages);
                backup_first = 0;
            }
        }
        state.previous_first = backup_first;
        let backup = backup.map(|path| Backup { path, first: backup_first });
        let started = files::first_time(&file)?;
        Ok(Self { place, file, state, backup, started, journal, recorded, jobs: contents.jobs })
    }

    pub(crate) fn end(&self) -> AppEnd {
        AppEnd {
            generation: self.state.generation,
            inode: self.state.inode,
            len: self.state.len,
            messages: self.state.messages,
            first: self.state.first,
            backup: self.backup.clone(),
            app_name: self.state.app_name.clone(),
        }
    }

    pub(crate) fn last_micros(&self) -> i64 {
        self.state.micros
    }

    pub(crate) fn set_app_name(&mut self, name: &str) {
        if !name.is_empty() {
            name.clone_into(&mut self.state.app_name);
        }
    }

    /// Appends lines and records the job's cursor. After an error nothing has changed, and the same may be tried again.
    pub(crate) fn commit(
        &mut self,
        batch: &Batch,
        source: &Source,
        job: &JobEntry,
        stamp: &mut Stamp,
        rotation: Rotation,
        writing: &mut Writing,
    ) -> io::Result<()> {
        let now = micros_now();
        let mut next = *stamp;
        let frames = &mut writing.frames;
        frames.clear();
        let mut start = 0;
        for (stream, micros, end) in &batch.lines {
            let (micros, seq) = next.next(*micros, now);
            let line = batch.text.get(start..*end).unwrap_or(&[]);
            write_frame(frames, &mut writing.clock, source, micros, seq, *stream, line);
            start = *end;
        }
        if !frames.is_empty() {
            let expired = self.started.is_some_and(|started| now - started > micros_of(rotation.max_age));
            if self.state.len > 0 && (expired || self.state.len + frames.len() as u64 > rotation.file_bytes) {
                self.rotate(now)?;
            }
        }
        self.record_file()?;
        let len = self.state.len;
        let mut state = self.state.clone();
        let appended = self.file.write_all_at(frames, len).and_then(|()| {
            state.len += frames.len() as u64;
            state.messages += batch.lines.len() as u64;
            state.micros = state.micros.max(next.last);
            self.journal.append(&state, Some(job))
        });
        if let Err(err) = appended {
            self.file.set_len(len)?;
            return Err(err);
        }
        if self.started.is_none() && !batch.lines.is_empty() {
            self.started = Some(now);
        }
        (self.state, *stamp) = (state, next);
        self.jobs.insert(job.id.clone(), job.clone());
        Ok(())
    }

    /// Makes the current file known to the journal.
    fn record_file(&mut self) -> io::Result<()> {
        if !self.recorded {
            self.journal.append(&self.state, None)?;
            self.recorded = true;
        }
        Ok(())
    }

    /// Begins a new file; the current one becomes the backup, and older ones are deleted.
    fn rotate(&mut self, now: i64) -> io::Result<()> {
        let (path, temporary) = (self.place.log(), self.place.log().with_extension("log-new"));
        let _ = fs::remove_file(&temporary); // of a rotation that was cut short
        let (file, inode, _) = open_log(&temporary)?;
        let older = backups_of(&self.place.log_dir, &self.place.app)?;
        let backup = files::backup_path(&self.place, now);
        fs::rename(&path, &backup)?;
        fs::rename(&temporary, &path)?;
        for path in older.into_iter().filter(|path| *path != backup) {
            if let Err(err) = fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %err, "old log cannot be deleted");
            }
        }
        self.file = file;
        self.backup = Some(Backup { path: backup, first: self.state.first });
        (self.started, self.recorded) = (None, false);
        let state = &mut self.state;
        state.previous_first = state.first;
        (state.generation, state.inode, state.len, state.first) = (state.generation + 1, inode, 0, state.messages);
        Ok(())
    }

    /// Sets a job's cursor to the begin of its output.
    pub(crate) fn forget(&mut self, job: &JobId) -> io::Result<()> {
        let Some(known) = self.jobs.get(job) else { return Ok(()) };
        let anew = JobEntry { cursor: JobCursor::default(), ..known.clone() };
        self.journal.append(&self.state, Some(&anew))?;
        self.jobs.insert(job.clone(), anew);
        Ok(())
    }

    /// Shortens a long journal: cursors of jobs that are gone are dropped.
    pub(crate) fn tidy(&mut self, is_live: impl Fn(&JobId) -> bool) {
        if !self.journal.is_long() {
            return;
        }
        self.jobs.retain(|id, job| is_live(id) || job.run_dir.exists());
        if let Err(err) = self.journal.compact(&self.state, self.jobs.values()) {
            tracing::warn!(app_id = self.place.app, %err, "log journal cannot be shortened");
        }
    }
}

/// Buffers of the writer.
#[derive(Debug, Default)]
pub(crate) struct Writing {
    frames: Vec<u8>,
    clock: Clock,
}

impl Writing {
    /// Gives large buffers back.
    pub(crate) fn rest(&mut self) {
        if self.frames.capacity() > 64 * 1024 {
            self.frames = Vec::new();
        }
    }
}

pub(crate) fn micros_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, micros_of)
}

fn micros_of(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// The inode of an open file.
pub(crate) fn inode_of(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.ino())
}

#[cfg(test)]
mod tests;
