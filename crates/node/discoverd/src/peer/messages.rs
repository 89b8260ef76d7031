//! The messages. JSON; unknown fields are ignored, so that versions can differ during an update.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::consensus::{Rpc, RpcReply};
use crate::registry::{Command, Reply as Outcome};

/// A message with its sender and the node that it is meant for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Envelope {
    /// Node id of the receiver; 0 for whoever listens at the address.
    pub(crate) to: u64,
    /// Node id of the sender; 0 while it has none.
    pub(crate) from: u64,
    pub(crate) from_addr: SocketAddr,
    pub(crate) message: Message,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    Raft(Box<Rpc>),
    Announce(Announce),
    Lead(Request),
    /// Asks a node that follows `leader` to pass this on, for one that does not reach the leader itself.
    Relay {
        leader: u64,
        request: Request,
    },
}

/// What only the leader can answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    Beats(Vec<Beat>),
    Write(Command),
    /// Asks for the index that a linearizable read must see.
    ReadIndex,
}

impl Request {
    /// Whether asking twice is as good as once.
    pub(crate) fn is_idempotent(&self) -> bool {
        match self {
            Self::Beats(_) | Self::ReadIndex => true,
            Self::Write(command) => command.is_idempotent(),
        }
    }

    /// The answer of one who does not know what became of it.
    pub(crate) fn lost(&self, reason: String) -> Reply {
        match self {
            Self::Beats(beats) => Reply::Beats(vec![BeatOutcome::NotLeader; beats.len()]),
            Self::Write(_) => Reply::Write(WriteReply::Lost(reason)),
            Self::ReadIndex => Reply::ReadIndex(None),
        }
    }
}

/// Who the sender is, to a node that may not know it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Announce {
    pub(crate) node: u64,
    pub(crate) host: String,
    pub(crate) addr: SocketAddr,
    /// Whether the sender's store belongs to a cluster.
    pub(crate) member: bool,
    /// The cluster's id, once the sender has learnt it.
    pub(crate) cluster: Option<String>,
}

/// Answer to [`Announce`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) node: u64,
    pub(crate) host: String,
    pub(crate) addr: SocketAddr,
    pub(crate) member: bool,
    pub(crate) cluster: Option<String>,
    /// The leader that the answering node follows.
    pub(crate) leader: Option<(u64, SocketAddr)>,
    /// Addresses that belong to the cluster; of a node without one: those that it was started with.
    pub(crate) known: BTreeSet<SocketAddr>,
}

/// A heartbeat: the registration that the sender saw is still wanted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Beat {
    pub(crate) service: String,
    pub(crate) id: String,
    pub(crate) epoch: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum BeatOutcome {
    Renewed,
    /// The registration is no longer what it was: write it.
    Stale,
    /// The node that was asked does not lead.
    NotLeader,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Raft(Box<RpcReply>),
    Hello(Hello),
    Beats(Vec<BeatOutcome>),
    Write(WriteReply),
    ReadIndex(Option<u64>),
    /// Somebody else lives at this address.
    WrongNode(u64),
    /// The node cannot take part right now.
    Unavailable(String),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum WriteReply {
    /// Decided, at this index at the latest.
    Decided { index: u64, outcome: Outcome },
    /// Certainly not written.
    NotLeader,
    /// Nobody knows.
    Lost(String),
}
