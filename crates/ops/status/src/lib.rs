//! The status of a cluster (spec operations section 13): all components are asked how they are, over HTTP, at the
//! addresses that discovery has of them.
//!
//! [`serve`] runs it. `components` is the list, `ask` does the asking, `access` decides who may know.
//!
//! **Invariant:** an answer comes in a few seconds, whatever components do. **Invariant:** however many ask, components
//! are asked once a second at most.

#![forbid(unsafe_code)]

mod access;
mod api;
mod ask;
mod components;

pub use api::{Config, serve};
pub use components::{COMPONENTS, Component, Who};
