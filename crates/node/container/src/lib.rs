//! Runs one job in a container that outlives the daemon.
//!
//! The daemon holds a [`Runtime`]. [`Runtime::start`] writes the container's configuration into the job's run
//! directory and spawns its own executable again as *supervisor* ([`supervise`]). That process has one thread, which
//! libcontainer needs (called from a threaded process it hangs or breaks one start in thirty); it builds the container,
//! then turns itself into the job's *monitor* by `exec`. So the monitor is the parent of the container's process 1 and
//! learns its exit status, whatever becomes of the daemon. A [`Container`] is a connection to a monitor;
//! [`Runtime::reconnect`] makes one after the daemon was restarted, [`Runtime::destroy`] removes what is left.
//!
//! **Invariant**: libcontainer is called only by [`supervise`], never in the daemon's process.
//! **Invariant**: `oci` and `cgroup::limits` are pure: what a container may do is decided there and tested by tables.
//! **Invariant**: everything that [`Runtime::start`] makes is found and removed by [`Runtime::destroy`] from the run
//! directory alone, also when the starting process was killed halfway.
//! **Invariant**: unsafe code is in `sys` only.

mod bundle;
mod cgroup;
mod client;
mod destroy;
mod filter;
mod oci;
mod profile;
mod reconnect;
mod runtime;
mod spec;
mod start;
mod stats;
mod supervisor;
mod sys;
mod wire;

pub use client::{CallError, Container};
pub use oci::{DEFAULT_CAPABILITIES, InvalidSpec};
pub use reconnect::Reconnect;
pub use runtime::{Runtime, RuntimeConfig, RuntimeError};
pub use spec::{ContainerSpec, Limits, Mount};
pub use start::{StartError, Supervisor};
pub use stats::StatsError;
pub use supervisor::supervise;
