//! Job logs: from the spools that monitors write to files per app, and from there to readers and sinks.
//!
//! ```text
//! monitor ──► spool segments ──► follower ──► <app>.log (+ one older file) ──┬──► LogMux::stream, LogMux::attach
//!                                    │                                       └──► sinks: log aggregator, syslog drains
//!                                    └──► <app>.journal: how far each job's spool is in the log
//! ```
//!
//! [`LogMux`] is the entry point. [`LogMux::follow_job`] starts or resumes to follow a job's spool; the [`JobLog`] tells
//! what the monitor may delete. Readers and sinks read the files; nobody who reads slowly holds up who writes.
//!
//! **Invariant:** a line is announced to readers and sinks only when log and journal agree on it; what is in the log but
//! not in the journal at a start is cut off and derived from the spool again.
//! **Invariant:** output is acknowledged to the monitor only after it is in the log.
//! **Invariant:** no reader and no sink is waited for.

#![forbid(unsafe_code)]

mod applog;
mod config;
mod follow;
mod journal;
mod line;
mod lines;
mod message;
mod mux;
mod published;
mod sink;
mod spool;
mod stream;
mod tail;
mod writer;

pub use config::{JobLogInfo, Limits, MuxConfig, OpenError, SinkError};
pub use line::{History, LogLine, ReadError, StreamOptions};
pub use mux::{JobLog, LogMux};
pub use sink::{Connection, SinkState, SinkStatus};
