//! The containers' network of one node: a subnet leased in the cluster, a bridge with an address for every container,
//! and a VXLAN overlay to the other nodes.
//!
//! Entry points: [`Network::start`], then [`Network::allocate`] and [`Network::attach`] for each job. What the cluster
//! agrees on is a document behind [`LeaseStore`]; the decisions about it are pure and live in [`lease`].
//!
//! What happens in the kernel, by file: `bridge`, `overlay` (VXLAN device, routes, neighbours, forwarding entries),
//! `firewall` (one nftables table), `attachment` (a container's interface), `namespace` (network namespaces).
//!
//! **Invariant**: a lease belongs to a host id. Neither time nor a silent host ends it; only [`Leases::forget`] does.
//!
//! **Invariant**: an address belongs to at most one job until that job releases it.
//!
//! **Invariant**: starting over what an earlier daemon left changes nothing that is already right, so the traffic of
//! running containers does not notice. Ending leaves everything in place; only [`Network::clean_up`] removes it.
//!
//! **Invariant**: routes to other hosts are removed only after the lease document was read; what is not known is not
//! removed.
//!
//! All kernel state is made in the network namespace of the calling thread; no runtime thread ever changes its own.
#![forbid(unsafe_code)]

mod attachment;
mod bridge;
mod cleanup;
mod config;
mod firewall;
mod kernel;
pub mod lease;
mod maintain;
mod namespace;
mod net;
mod network;
mod overlay;
mod pool;
mod proc_sys;
mod status;
mod store;

pub use attachment::{AttachError, Attachment};
pub use cleanup::CleanUpError;
pub use config::Config;
pub use firewall::FirewallError;
pub use kernel::KernelError;
pub use lease::{InvalidSettings, Lease, LeaseEntry, Leases, OutOfSubnets, Settings};
pub use maintain::ReconcileError;
pub use net::{InvalidNet, Ipv4Net, MacAddr};
pub use network::{Network, StartError};
pub use pool::AllocateError;
pub use status::{PeerStatus, Status};
pub use store::{CasError, LeaseStore, LeaseStoreError};
