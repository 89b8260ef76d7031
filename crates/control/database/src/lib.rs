//! Connections of the system components to the cluster's PostgreSQL.
//!
//! [`options_from_vars`] reads where the database is, [`pool`] keeps connections to it, and [`wait_writable`] waits at the
//! start until it takes writes. [`migrate_alone`] and [`apply_migration`] bring it to a component's schema.
//!
//! **Invariant:** a pool gives out no connection to a server that takes no writes, as a primary does that was deposed:
//! such connections are closed, and whoever asks for one waits until the name leads to the new primary.

#![forbid(unsafe_code)]

mod migrate;
mod options;
mod pool;

pub use migrate::{alone as migrate_alone, apply as apply_migration};
pub use options::{OptionsError, options_from_vars};
pub use pool::{pool, pool_with, wait_writable};
