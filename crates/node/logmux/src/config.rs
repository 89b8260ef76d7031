//! What the log mux is told at its start, and the errors of its start.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use flynn_types::host::Job;
use flynn_types::id::{HostId, JobId};

/// Where logs live and how much may be kept.
#[derive(Clone, Debug)]
pub struct MuxConfig {
    /// Directory of the app logs (`<app id>.log`).
    pub log_dir: PathBuf,
    /// Directory of cursors and of the lock that keeps a second daemon away.
    pub state_dir: PathBuf,
    /// File with the configured sinks.
    pub sink_state: PathBuf,
    pub host_id: HostId,
    pub limits: Limits,
}

impl MuxConfig {
    /// Sinks are recorded in the state directory, limits are the defaults.
    pub fn new(log_dir: PathBuf, state_dir: PathBuf, host_id: HostId) -> Self {
        let sink_state = state_dir.join("sinks.json");
        Self { log_dir, state_dir, sink_state, host_id, limits: Limits::default() }
    }
}

/// Bounds in size and time.
#[derive(Clone, Debug)]
pub struct Limits {
    /// A log file that would grow beyond this is rotated; one older file is kept (spec flynn-host 10.2: 100 MiB).
    pub file_bytes: u64,
    /// A log file whose first line is older than this is rotated, and older files are deleted.
    pub max_age: Duration,
    /// How long to wait for the lock of a daemon that is leaving.
    pub lock_patience: Duration,
    /// Longest pause between tries to reach a sink (spec flynn-host G6: 10 s).
    pub retry_max: Duration,
    /// Limit of connecting to a sink, TLS included (spec flynn-host 10.4).
    pub connect_timeout: Duration,
    /// A sink that takes nothing for so long is reconnected.
    pub write_timeout: Duration,
    /// Port of a log aggregator's HTTP interface, where its cursors are.
    pub aggregator_http_port: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            file_bytes: 100 << 20,
            max_age: Duration::from_secs(30 * 24 * 3600),
            lock_patience: Duration::from_secs(10),
            retry_max: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(10),
            aggregator_http_port: 80,
        }
    }
}

/// A job whose output is to be followed.
#[derive(Clone, Debug)]
pub struct JobLogInfo {
    pub job_id: JobId,
    pub job: Job,
    /// The spool is in its directory `spool`.
    pub run_dir: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("another daemon writes the logs (lock {}): stop it first", path.display())]
    Locked { path: PathBuf },
    #[error("{action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        err: io::Error,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    #[error("unknown sink kind: {0:?}")]
    Kind(String),
    #[error("sink has no id")]
    NoId,
    #[error("configuration of sink {id}: {reason}")]
    Config { id: String, reason: String },
    #[error("record sinks in {}", path.display())]
    Store {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
}

impl SinkError {
    /// Whether the request itself is wrong.
    pub fn is_invalid_request(&self) -> bool {
        !matches!(self, Self::Store { .. })
    }
}
