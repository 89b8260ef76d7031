//! The client of service discovery: queries, registration with heartbeats, watches that resume.
//!
//! [`Client`] asks its servers in turn until one answers. [`Registration`] keeps an instance alive until it is dropped.
//! [`Client::watch`] gives events without gaps: what was missed while disconnected is made up from the next replay.
//!
//! **Invariant:** a lost connection is never reported as a lost instance; only a replay that lacks it is.

#![forbid(unsafe_code)]

mod client;
mod registration;
mod view;
mod watch;

pub use client::{Client, DiscoverdError};
pub use registration::Registration;
pub use view::View;
pub use watch::Watch;
