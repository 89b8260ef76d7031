//! Starts the platform's own jobs again when nobody is left who would: the cluster monitor of every daemon, and
//! `flynn-host fix` (spec flynn-host sections 13.3 and 14).
//!
//! The scheduler keeps jobs running, on what the controller says, which is in a database: three parts of the platform
//! that are jobs themselves. [`missing`] tells which of them do not run although they must, and what would start each
//! again: a copy of a job that a host remembers. Everything else is the scheduler's work.
//!
//! **Invariant:** nothing is ever stopped, a part that runs is not started, and the copy of a job with data is started
//! where the data is, on the same volumes.

#![forbid(unsafe_code)]

mod cluster;
mod error;
mod fix;
mod monitor;
mod patience;
mod plan;

pub use cluster::{Cluster, View};
pub use error::Error;
pub use fix::{Fix, fix};
pub use monitor::{SERVICE, monitor};
pub use patience::{Circumstances, Patience};
pub use plan::{Missing, Part, Start, missing};
