//! What the programs tell about themselves: logs and metrics.
//!
//! Logs: [`init`] once per program with a [`LogConfig`]; the [`Logs`] it gives reopen the file. Metrics: a [`Metrics`]
//! registry per program, written out in the text format of Prometheus.
//!
//! **Invariant:** logging never fails, blocks on a queue or ends the program: a line that cannot be written is counted,
//! and the count is logged when writing works again. **Invariant:** one line is one `write`.

#![forbid(unsafe_code)]

mod config;
mod init;
mod logfmt;
mod metrics;
mod process;
mod rotation;

pub use config::{InvalidLogConfig, LogConfig, LogFile, LogFormat};
pub use init::{InitError, Logs, init};
pub use metrics::{METRICS_CONTENT_TYPE, Metrics};
pub use rotation::RotatingFile;
