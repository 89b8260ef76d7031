//! The client of the controller API, so far as scheduler, worker, router and bootstrap use it.
//!
//! [`Client`] has a method per request. [`Feed`] gives the items of a list and then its changes, for ever.
//!
//! **Invariant:** a request is sent at most once. **Invariant:** a feed that breaks goes on after the last item it gave;
//! an item that makes no sense is left out and stops no other.

#![forbid(unsafe_code)]

mod client;
mod feed;
mod manage;
mod routes;

pub use client::Client;
pub use feed::{Fed, Feed, Head, Listed};
pub use flynn_http::ClientError;
pub use routes::{RouteChange, RouteEvent, UnreadableRoute};
