//! The node: jobs and their state, and the host API.
//!
//! [`Host`] is the entry point: the daemon gives it its [`Parts`], serves [`Host::router`], and calls
//! [`Host::restore`]. Containers, volumes, logs and network have crates of their own.
//!
//! **Invariant:** a job that was accepted is on disk, and its task is started by this daemon or by a later one.
//! **Invariant:** a final state never changes. **Invariant:** whatever a job held is released before its `cleanup` event.
//! **Invariant:** every task ends when the daemon leaves; containers do not.

#![forbid(unsafe_code)]

mod api;
mod attach;
mod host;
mod hoststats;
mod jobs;
mod layers;
mod rootfs;
mod settings;
mod store;
mod webhooks;

pub use host::{Host, HostConfig, Parts, Peers, Replacer};
pub use jobs::NetworkSlot;
pub use layers::Layers;
pub use settings::Settings;
pub use store::{Database, StoreError};
