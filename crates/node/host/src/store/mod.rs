//! The daemon's state on disk: jobs, volumes and a few documents, in one redb file.
//!
//! Writes are collected by one thread: callers name what changed, the thread takes the newest version of it, commits,
//! and answers everybody who waited. So a later version is never overwritten by an earlier one, and a burst of changes
//! costs one sync.
//!
//! **Invariant:** nothing is answered before it is synced. **Invariant:** a damaged file is moved aside with a time
//! stamp and named in the log, never silently replaced.

mod database;
mod persister;
mod volumes;

pub use database::{Database, StoreError};
pub(crate) use persister::Persister;
