//! Objects of the controller's API (spec controller-api section 4).
//!
//! Ids of apps, releases and so on are UUIDs as text: the API answers a malformed one in its own way (mostly 404), so
//! decoding does not refuse it.

mod app;
mod deployment;
mod event;
mod formation;
mod host_job;
mod job;
mod operations;
mod release;
mod resource;
mod volume;

pub use app::*;
pub use deployment::*;
pub use event::*;
pub use formation::*;
pub use host_job::*;
pub use job::*;
pub use operations::*;
pub use release::*;
pub use resource::*;
pub use volume::*;

use std::collections::BTreeMap;

/// Number of jobs by process type.
pub type Processes = BTreeMap<String, i64>;

/// Host tags that jobs need, by process type.
pub type Tags = BTreeMap<String, BTreeMap<String, String>>;

#[cfg(test)]
mod tests;
