//! HTTP as all our services and clients speak it: error bodies, event streams, upgrades, graceful shutdown, retries.
//!
//! Servers: [`serve`], the extractor [`Json`], the answer [`Failure`], [`sse`]. Clients: [`Client`] with [`Client::follow`]
//! for streams that resume, [`retry`] with its [`Backoff`].
//!
//! **Invariant:** a keep-alive of an event stream is exactly `:` and a line feed; existing clients take an empty line
//! for the end of an item. **Invariant:** nothing waits for a peer without a limit.

#![forbid(unsafe_code)]

mod backoff;
mod client;
mod events;
mod extract;
mod failure;
mod fallback;
mod kept;
mod parser;
mod retry;
mod server;
mod stall;
mod status;

pub use backoff::Backoff;
pub use client::{Addresses, Client, ClientError, Download, Follow, Followed, Hijacked, path_segment};
pub use events::{Item, sse, sse_every, sse_items, wants_events};
pub use extract::{Json, MAX_BODY};
pub use failure::Failure;
pub use fallback::{not_found, with_text_fallbacks};
pub use parser::{EventParser, RawEvent};
pub use retry::retry;
pub use server::{ServerOptions, serve};
pub use status::status;
