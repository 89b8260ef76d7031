//! The client of the controller API, so far as the scheduler and the worker use it (spec scheduler-and-deployer section 4.2).
//!
//! [`Client`] has a method per request. [`Feed`] gives the items of a list and then its changes, for ever.
//!
//! **Invariant:** a request is sent at most once. **Invariant:** a feed that breaks goes on after the last item it gave.

#![forbid(unsafe_code)]

mod client;
mod feed;

pub use client::Client;
pub use feed::{Fed, Feed, Listed};
pub use flynn_http::ClientError;
