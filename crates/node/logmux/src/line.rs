//! What readers of logs ask for and get.

use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use flynn_types::id::JobId;

/// One line of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    pub job_id: String,
    pub process_type: String,
    /// 1 stdout, 2 stderr, 3 init log.
    pub stream: u8,
    pub timestamp: DateTime<Utc>,
    pub seq: u64,
    /// Without newline; any bytes.
    pub text: Bytes,
}

/// Which lines, and how long.
#[derive(Clone, Debug, Default)]
pub struct StreamOptions {
    /// Only this job's lines.
    pub job: Option<JobId>,
    /// Only these streams; empty: all.
    pub streams: Vec<u8>,
    /// Lines logged at this time or later.
    pub since: Option<DateTime<Utc>>,
    /// What was logged before the call.
    pub history: History,
    /// Go on with lines as they are logged, until the job (if one is named) has ended.
    pub follow: bool,
}

/// How much of the past.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum History {
    None,
    #[default]
    All,
    /// The last so many matching lines.
    Last(usize),
}

#[derive(Debug, thiserror::Error)]
#[error("read log {}", path.display())]
pub struct ReadError {
    pub path: PathBuf,
    #[source]
    pub err: io::Error,
}
