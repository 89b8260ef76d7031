//! The blob store: files by name over HTTP (spec build-and-deploy section 11). Names and digests are in PostgreSQL,
//! content is there too, as large objects, or in another backend.
//!
//! [`serve`] runs it. `api` answers requests, `files` is the table, `backend` has the contents, `store` does what a
//! request asks for, so that names and contents agree.
//!
//! **Invariant:** a name leads to one whole content, the old or the new one, however a change ends.
//! **Invariant:** no content is ever in memory, only pieces of it.

#![forbid(unsafe_code)]

mod api;
mod backend;
mod conditions;
mod error;
mod files;
mod incoming;
mod migrate;
mod path;
mod ranges;
mod respond;
mod serve;
mod store;

pub use migrate::{MigrateError, migrate};
pub use serve::{Config, Discovery, ServeError, serve};
