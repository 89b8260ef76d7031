//! The high availability of database appliances: who is primary, sync and async, and what follows for each database
//! (spec appliances sections 2 to 4).
//!
//! [`next`] is the state machine of one peer: a pure function of its [`State`] and an [`Event`], giving [`Effect`]s.
//! [`Peer`] drives it, over a [`Discovery`] and a [`Database`]; [`api`] serves what is known about it. The peers have no
//! quorum of their own: discoverd's compare-and-set on the cluster state decides, and replication is synchronous to one
//! standby, the *sync*.
//!
//! # Why no acknowledged commit is lost
//!
//! 1. A primary acknowledges a commit when its sync has it on disk. So all acknowledged commits are in two logs, the
//!    primary's and the sync's, of which the state names both.
//! 2. Who declares a generation fences its own database first: nothing is acknowledged or received after the position that
//!    it reads. Then it writes the state at the index that it knew. So what earlier generations acknowledged ends at that
//!    position, `init_wal`.
//! 3. Only the recorded sync takes over, and only with a log that has all up to `init_wal`, in the order of
//!    [`Position`]. What was acknowledged since then, it has itself.
//! 4. A write whose outcome is unknown may still be applied. Until another write of the same peer succeeded, or a newer
//!    state was seen, neither primary nor sync goes on.  A peer that just started does not know what its predecessor had
//!    under way: before it acts as primary or sync it writes the state that it sees once more.
//! 5. A volume remembers the newest generation that it was part of, and follows no older one.
//!
//! **Invariant:** [`next`] reads no clock and no socket, and `State` is all that it knows.
//! **Invariant:** the state is only ever written with the index at which it was read.
//! **Invariant:** a peer that was deposed stays so until an operator takes it out of the list.
//! **Invariant:** nothing starts a cluster over data: an empty state with a full volume waits for an operator.

#![forbid(unsafe_code)]

pub mod api;
mod config;
mod declare;
pub mod driver;
mod event;
mod health;
mod machine;
mod position;
mod service;
mod state;
mod volume;

use std::time::Duration;

pub use driver::{Database, Discovery, Handle, Memory, Peer, Views, World};
pub use event::{Effect, Event, FenceFailure, Ticket, View, WriteFailure};
pub use health::{Unhealthy, health};
pub use machine::next;
pub use position::{InHistory, Position};
pub use service::{Service, ServiceViews};
pub use state::{Me, State, Volume};
pub use volume::{VolumeError, VolumeFiles};

/// Pause before what failed is tried again (spec section 3.2).
pub const RETRY: Duration = Duration::from_secs(1);
