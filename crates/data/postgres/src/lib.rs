//! PostgreSQL as an appliance (spec appliances section 5).
//!
//! [`Postgres`] is the database that [`flynn_sirenia::Peer`] drives: one server on one volume, which leads, follows or is
//! stopped. [`run`] is a whole peer with its HTTP API; [`provider`] makes databases for apps.
//!
//! **Invariant:** from its first moment a primary that has a sync acknowledges a commit only when the sync has it on disk.
//! **Invariant:** a database is made once, for a new cluster; a volume that lost its database says so.
//! **Invariant:** a server has its volume for itself, whatever became of its peer: both hold the volume's lock.

#![forbid(unsafe_code)]

mod account;
mod configuration;
mod database;
mod error;
mod folder;
mod following;
mod judgement;
mod leading;
mod lsn;
mod peer;
mod programs;
pub mod provider;
mod server;
mod setup;
mod sql;
mod tunables;

pub use account::Account;
pub use database::{Postgres, Settings};
pub use error::PostgresError;
pub use folder::FolderError;
pub use lsn::{At, InvalidLsn, Lsn};
pub use peer::{PeerConfig, RunError, run};
pub use programs::ProgramError;
pub use server::ServerError;
pub use sql::SqlError;
