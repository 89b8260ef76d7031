//! Service discovery: a registry of services, their instances, leaders and metadata, replicated with Raft, and its HTTP
//! API on port 1111. DNS on top of it is another crate's.
//!
//! Entry points: [`Discoverd::start`] with a [`Config`]; [`Discoverd::registry`] for readers in the same process.
//! Inside: `registry` decides what commands do (pure), `consensus` orders them (the only place that knows openraft),
//! `replica` holds the result and feeds the event streams, `cluster` decides who belongs and votes, `liveness` who is
//! alive, `peer` is how nodes talk, `http` what clients see.
//!
//! Every node of the cluster holds the whole registry and answers reads and streams from it. A read with
//! `?consistent=true` first makes sure that it shows everything that was acknowledged before. Writes go to the leader: a
//! node passes them on, except for clients that came in at its advertised address, which are redirected as they always
//! were (spec section 4.5).
//!
//! **Invariant:** a write is acknowledged after a majority of the voters has it on disk, never before. **Invariant:** an
//! instance is only dropped by a log entry of a leader that a majority follows, and never because *we* paused, restarted
//! or elected. **Invariant:** no lock is held across I/O, and no slow reader of a stream holds up anybody.

#![forbid(unsafe_code)]

mod cluster;
mod config;
mod consensus;
mod http;
mod liveness;
mod node;
mod peer;
mod registry;
mod replica;
mod runtime;

pub use config::{Config, Timing};
pub use replica::{Ended, Kinds, Published, RegistryHandle, SUBSCRIBER_QUEUE, Subscription};
pub use runtime::{Discoverd, StartError};
