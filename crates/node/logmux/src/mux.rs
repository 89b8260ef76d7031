//! The entry point.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use flynn_types::host::SinkInfo;
use flynn_types::id::JobId;
use flynn_types::init::SpoolProgress;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tokio::sync::watch;

use crate::config::{JobLogInfo, MuxConfig, OpenError, SinkError};
use crate::line::{LogLine, ReadError, StreamOptions};

/// All job logs of a host. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LogMux {
    _config: Arc<MuxConfig>,
}

impl LogMux {
    pub async fn open(config: MuxConfig) -> Result<Self, OpenError> {
        Ok(Self { _config: Arc::new(config) })
    }

    /// Starts, or resumes after a restart, to move a job's output from its spool into its app's log.
    pub fn follow_job(&self, _job: JobLogInfo, _progress: watch::Receiver<SpoolProgress>) -> JobLog {
        JobLog { acked: watch::channel(0).1 }
    }

    /// Lines of an app (empty: of jobs without one). Ends at a read error, which is its last item.
    pub fn stream(&self, _app_id: &str, _options: StreamOptions) -> BoxStream<'static, Result<LogLine, ReadError>> {
        futures_util::stream::empty().boxed()
    }

    /// A job's output as `(stream, line with its newline)`: `history` gives what was logged so far, `live` goes on until
    /// the job's streams have ended.
    pub fn attach(
        &self,
        _job: &JobId,
        _app_id: &str,
        _history: bool,
        _live: bool,
    ) -> BoxStream<'static, Result<(u8, Bytes), ReadError>> {
        futures_util::stream::empty().boxed()
    }

    /// Adds a sink, or gives an existing one a changed configuration. It is recorded when this returns.
    pub async fn add_sink(&self, _sink: SinkInfo) -> Result<(), SinkError> {
        Ok(())
    }

    /// Whether there was one.
    pub async fn remove_sink(&self, _id: &str) -> bool {
        false
    }

    /// Sinks as shown by `GET /sinks`, ordered by id.
    pub fn sinks(&self) -> Vec<SinkStatus> {
        Vec::new()
    }

    /// Where an app's current log file is.
    pub fn log_path(&self, _app_id: &str) -> PathBuf {
        PathBuf::new()
    }

    /// Stops following jobs and feeding sinks, records cursors and releases the lock.
    pub async fn shutdown(&self) {}
}

/// A sink and its condition, as JSON: the sink's fields, then `state`.
#[derive(Clone, Debug, serde::Serialize)]
pub struct SinkStatus {
    #[serde(flatten)]
    pub info: SinkInfo,
}

/// A job being followed; ends when dropped.
#[derive(Debug)]
pub struct JobLog {
    acked: watch::Receiver<u64>,
}

impl JobLog {
    /// Up to which offset the spool is no longer needed. Closed when the follower has ended.
    pub fn acked(&self) -> watch::Receiver<u64> {
        self.acked.clone()
    }

    /// Returns when all output up to the end of the job's streams is in the log.
    pub async fn finished(&self) {}
}
