//! HTTP as all our services and clients speak it: error bodies, event streams, upgrades, graceful shutdown, retries.
//!
//! Servers: [`serve`], the extractor [`Json`], the answer [`Failure`], [`sse`]. Clients: [`Client`], [`Backoff`].
//!
//! **Invariant:** a keep-alive of an event stream is exactly `:` and a line feed; existing clients take an empty line
//! for the end of an item. **Invariant:** nothing waits for a peer without a limit.

#![forbid(unsafe_code)]

mod backoff;
mod client;
mod events;
mod extract;
mod failure;
mod parser;
mod server;

pub use backoff::Backoff;
pub use client::{Client, ClientError, Download, Hijacked};
pub use events::{sse, wants_events};
pub use extract::{Json, MAX_BODY};
pub use failure::Failure;
pub use parser::{EventParser, RawEvent};
pub use server::{ServerOptions, serve};
