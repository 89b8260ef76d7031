//! The client of service discovery: queries, registration with heartbeats, watches that resume, documents.
//!
//! [`Client`] asks its servers in turn until one answers. [`Registration`] keeps an instance alive until it is dropped.
//! [`Client::http`] reaches servers by the names of their services. [`Client::watch`] gives events without gaps: what was missed while disconnected is made up from the next replay.
//! [`Client::document`] is a service's metadata, typed and written with compare-and-set.
//!
//! **Invariant:** a lost connection is never reported as a lost instance; only a replay that lacks it is.
//! **Invariant:** a write whose answer was lost is never reported as refused.

#![forbid(unsafe_code)]

mod client;
mod document;
mod instance;
mod names;
mod registration;
mod view;
mod watch;

pub use client::{Client, DiscoverdError};
pub use document::{Document, DocumentWatch, Revision};
pub use instance::own_instance;
pub use registration::Registration;
pub use view::View;
pub use watch::{LeaderWatch, Watch};
