//! How far each job's output is in its app's log: a file of JSON lines beside the cursors' log.
//!
//! Every batch of lines appends one entry after the lines were appended to the log. The last whole entry says how long
//! the log is; what the log has beyond it is derived from the spool again. An entry that was cut off is none.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use flynn_types::id::JobId;
use serde::{Deserialize, Serialize};

/// Version of the format.
const VERSION: u32 = 1;
/// The journal is written anew when it is longer than this and than twice its last new version.
const COMPACT_LEN: u64 = 256 * 1024;

/// A job's place in its spool. Streams are stdout, stderr and init log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct JobCursor {
    /// Offset behind the last record that was read.
    pub(crate) next: u64,
    /// Beginnings of lines that have not ended.
    pub(crate) partials: [Option<PartialCursor>; 3],
    /// All output is in the log.
    pub(crate) closed: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PartialCursor {
    /// Bytes that are no longer in the spool.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) carry: Vec<u8>,
    /// Offset of the record where the line goes on, and how much of its payload comes before.
    pub(crate) from: u64,
    pub(crate) skip: usize,
}

impl JobCursor {
    /// The spool before this is not needed any more.
    pub(crate) fn needed_from(&self) -> u64 {
        self.partials.iter().flatten().map(|partial| partial.from).min().unwrap_or(self.next).min(self.next)
    }
}

/// The state of the log file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct LogState {
    /// Counts the app's log files.
    pub(crate) generation: u64,
    pub(crate) inode: u64,
    /// Length in bytes.
    pub(crate) len: u64,
    /// Messages of the app so far, and before this file and the one before it.
    pub(crate) messages: u64,
    pub(crate) first: u64,
    pub(crate) previous_first: u64,
    /// Time of the last message in unix microseconds.
    pub(crate) micros: i64,
    pub(crate) app_name: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry<'a> {
    v: u32,
    log: std::borrow::Cow<'a, LogState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    job: Option<JobEntry>,
}

/// A job's cursor, and its directory: the cursor is kept as long as that exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JobEntry {
    pub(crate) id: JobId,
    pub(crate) cursor: JobCursor,
    pub(crate) run_dir: PathBuf,
}

#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    len: u64,
    compacted_len: u64,
}

/// What a journal says.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) log: Option<LogState>,
    pub(crate) jobs: BTreeMap<JobId, JobEntry>,
}

impl Journal {
    pub(crate) fn open(path: &Path) -> io::Result<(Self, Contents)> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let bytes = fs::read(path)?;
        let (mut contents, mut len) = (Contents::default(), 0);
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let Ok(entry) = serde_json::from_slice::<Entry<'_>>(line) else { break };
            if !line.ends_with(b"\n") || entry.v > VERSION {
                break;
            }
            len += line.len() as u64;
            contents.log = Some(entry.log.into_owned());
            if let Some(job) = entry.job {
                contents.jobs.insert(job.id.clone(), job);
            }
        }
        if len < bytes.len() as u64 {
            tracing::info!(path = %path.display(), bytes = bytes.len() as u64 - len, "cutting off an unfinished log journal entry");
            file.set_len(len)?;
        }
        Ok((Self { path: path.to_owned(), file, len, compacted_len: 0 }, contents))
    }

    /// Appends an entry, whole or not at all.
    pub(crate) fn append(&mut self, log: &LogState, job: Option<&JobEntry>) -> io::Result<()> {
        let line = entry_line(log, job.cloned())?;
        if let Err(err) = self.file.write_all_at(&line, self.len) {
            let _ = self.file.set_len(self.len); // at worst an unfinished line stays, which is overwritten
            return Err(err);
        }
        self.len += line.len() as u64;
        Ok(())
    }

    pub(crate) fn is_long(&self) -> bool {
        self.len > COMPACT_LEN.max(2 * self.compacted_len)
    }

    /// Writes a new journal with these jobs in place of the old one.
    pub(crate) fn compact<'a>(&mut self, log: &LogState, jobs: impl Iterator<Item = &'a JobEntry>) -> io::Result<()> {
        let mut bytes = entry_line(log, None)?;
        for job in jobs {
            bytes.extend(entry_line(log, Some(job.clone()))?);
        }
        let temporary = self.path.with_extension("journal-new");
        let written = fs::write(&temporary, &bytes).and_then(|()| {
            let file = OpenOptions::new().read(true).write(true).open(&temporary)?;
            file.sync_data()?;
            fs::rename(&temporary, &self.path)?;
            Ok(file)
        });
        match written {
            Ok(file) => {
                (self.file, self.len, self.compacted_len) = (file, bytes.len() as u64, bytes.len() as u64);
                Ok(())
            }
            Err(err) => {
                let _ = fs::remove_file(&temporary);
                Err(err)
            }
        }
    }
}

fn entry_line(log: &LogState, job: Option<JobEntry>) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(&Entry { v: VERSION, log: std::borrow::Cow::Borrowed(log), job })?;
    line.push(b'\n');
    Ok(line)
}
