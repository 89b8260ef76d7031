//! The log aggregator: the last log lines of every app, in memory, from all hosts (spec operations section 11).
//!
//! [`serve`] runs it: `ingest` takes messages from the log muxes of hosts, `store` keeps them, `reader` goes through them
//! for one client, `api` answers over HTTP, `peer` fetches at the start what another aggregator has.
//!
//! **Invariant:** memory is bounded: by messages for each app, by bytes for all of them; a slow reader holds one batch.
//! **Invariant:** a cursor never promises a message that did not arrive; a host that goes on behind it loses nothing.
//! **Invariant:** a message that arrives again changes nothing.

#![forbid(unsafe_code)]

mod api;
mod frames;
mod ingest;
mod message;
mod peer;
mod query;
mod reader;
mod serve;
mod store;

pub use serve::{Config, Discovery, serve};
