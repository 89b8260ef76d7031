//! The controller: everything that a cluster is told to be, over HTTP, in PostgreSQL.
//!
//! [`Config::from_vars`] reads the settings, [`serve`] runs the API. Inside: `api` has a file per resource with the
//! handlers and their rules, `store` a file per table with the queries, `database` the schema and [`migrate`], `events`
//! the streams, `auth` who may do what.
//!
//! **Invariant:** whatever changes is committed together with the event that tells of it. **Invariant:** ids of events
//! become visible in their order. **Invariant:** a process keeps nothing that another one of the same cluster lacks: any
//! of them may answer any request.

#![forbid(unsafe_code)]

mod api;
mod auth;
mod config;
mod database;
mod error;
mod events;
mod hosts;
mod input;
mod names;
mod serve;
mod shared;
mod store;

pub use auth::{Keys, TokenError, TokenKey};
pub use config::{Config, ConfigError, Ports, vars};
pub use database::{MigrateError, migrate};
pub use serve::{Discovery, ServeError, serve};
