//! Answers DNS for discoverd names and forwards the rest (spec discoverd-and-network section 8).
//!
//! ```text
//!  UDP, TCP 53 ──► wire (parse) ──┬─ name in the zone ──► zone ◄── Directory (the registry's view)
//!                                 └─ any other ──► forward ──► upstream resolvers, small cache
//! ```
//!
//! [`DnsServer`] is the entry point; a [`Directory`] tells it the services. [`resolv_conf`] finds the host's resolvers.
//!
//! The codec is our own: a discovery answer is the query's bytes plus records that point into them, so the spelling of
//! the query comes back exactly, and a local answer allocates nothing.
//!
//! **Invariant:** an answer about a discoverd name never leaves the process to be made, and never waits.
//! **Invariant:** parsing never panics and never indexes beyond what it checked; `wire` and `zone` are pure but for the
//! shuffle.
//! **Invariant:** the server never forwards to an address that it listens on.

#![forbid(unsafe_code)]

mod directory;
mod forward;
#[cfg(fuzzing)]
mod fuzz;
pub mod resolv_conf;
mod server;
mod tcp;
mod udp;
mod wire;
mod zone;

pub use directory::{Directory, Instance, ServiceView};
#[cfg(fuzzing)]
pub use fuzz::fuzz_query;
pub use server::{DnsConfig, DnsError, DnsServer, Sockets, Statistics};
