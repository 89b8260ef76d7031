//! The client of the host API on port 1113.
//!
//! [`Client`] has a method per endpoint. [`Client::attach`] gives the two directions of a job's streams.
//!
//! **Invariant:** a request is sent at most once: only connecting is tried again. **Invariant:** nothing is sent to a job
//! before the host said that it is attached.

#![forbid(unsafe_code)]

mod attach;
mod client;

pub use attach::{AttachError, AttachReceiver, AttachSender};
pub use client::Client;
pub use flynn_http::ClientError;
