//! The adapter to `openraft`: the only place that knows its types.
//!
//! **Invariants:** entries and votes reach the disk in the order in which the core wrote them (one writer thread), and
//! nobody hears of a write before it is synced; a store that lost its content comes back under a new node id.

mod engine;
mod log_store;
mod machine;
mod network;
mod open;
mod writer;

use std::io::Cursor;

pub(crate) use engine::{Consensus, ConsensusView, WriteError};
pub(crate) use network::{Rpc, RpcReply};
pub(crate) use open::{OpenError, Reopening};
use serde::{Deserialize, Serialize};

use crate::registry::{Command, Reply};

#[cfg(test)]
mod tests;

openraft::declare_raft_types!(
    pub(crate) TypeConfig:
        D = Command,
        R = Response,
        NodeId = u64,
        Node = Member,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = Cursor<Vec<u8>>,
);

pub(crate) type Raft = openraft::Raft<TypeConfig>;
pub(crate) type StorageError = openraft::StorageError<u64>;
pub(crate) type Entry = openraft::Entry<TypeConfig>;

/// What the cluster knows about a node besides its id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    /// Advertised `ip:port`; may change at any restart.
    pub(crate) addr: String,
    /// The host, which outlives its node ids.
    pub(crate) host: String,
}

/// The state machine's answer; empty for entries that are not commands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Response(pub(crate) Option<Reply>);
