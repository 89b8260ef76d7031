//! Clusters on one machine, for tests and by hand: every host is a set of namespaces with its own address, mounts,
//! processes, control groups and daemon, and everything that can happen to a host happens with one call.
//!
//! Entry points: [`Cluster::up`], [`Cluster::load`], the program `flynn-cluster` (`script/cluster`), and [`leaks`], which
//! names what a test left behind. Calls block; they are for tests and tools, never for the product.
//!
//! ```no_run
//! use flynn_harness::{Cluster, ClusterOptions};
//!
//! let cluster = Cluster::up(ClusterOptions { hosts: 3, ..ClusterOptions::default() }).unwrap();
//! cluster.host(0).kill().unwrap(); // power cut
//! cluster.host(0).start().unwrap();
//! assert!(cluster.host(1).exec(["flynn-host", "list"]).unwrap().status.success());
//! ```
//!
//! A host is three things: the process `flynn-cluster host-init`, which is process 1 of the host's namespaces and parent
//! of its daemon; a folder with its disk; and a port of the bridge that stands in a further network namespace, the hub.
//! The record of all this is `cluster.json`, with processes named by id and start time.
//!
//! **Invariant:** the machine's own network, mounts and `/etc` are never changed.
//! **Invariant:** nothing of a test's cluster outlives the test's process, not even when that is killed.

#![forbid(unsafe_code)]

mod cluster;
mod control;
mod host;
pub mod host_init;
pub mod hub;
pub mod job;
pub mod leaks;
mod network;
mod options;
mod pool;
mod process;
mod program;
mod programs;
mod proxy;
mod record;
mod tamper;
mod wait;

pub use cluster::Cluster;
pub use host::{Host, HostState};
pub use options::{ClusterOptions, Daemon, Ready};
pub use process::ProcessId;
pub use program::Program;
pub use programs::system as system_program;
pub use tamper::{Call, Effect, Tampered, Tampering};
pub use wait::{repeats, wait_until};
