//! The Raft messages' way to other nodes, and what openraft wants to know about it.

use std::net::SocketAddr;
use std::time::Duration;

use openraft::error::{InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use serde::{Deserialize, Serialize};

use super::{Member, TypeConfig};
use crate::peer::{CallError, Message, Reply, Transport};

/// A Raft message; what is inside is between the adapters of two nodes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Rpc {
    Append(AppendEntriesRequest<TypeConfig>),
    Vote(VoteRequest<u64>),
    Snapshot(InstallSnapshotRequest<TypeConfig>),
}

/// The answer to a Raft message.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum RpcReply {
    Append(Result<AppendEntriesResponse<u64>, RaftError<u64>>),
    Vote(Result<VoteResponse<u64>, RaftError<u64>>),
    Snapshot(Result<InstallSnapshotResponse<u64>, RaftError<u64, InstallSnapshotError>>),
}

impl Rpc {
    /// Whether the sender claims to lead.
    pub(crate) fn comes_from_a_leader(&self) -> bool {
        match self {
            Self::Append(_) | Self::Snapshot(_) => true,
            Self::Vote(_) => false,
        }
    }
}

impl RpcReply {
    /// Whether the receiver follows the sender.
    pub(crate) fn is_accepted(&self) -> bool {
        match self {
            Self::Append(reply) => reply.as_ref().is_ok_and(|r| !matches!(r, AppendEntriesResponse::HigherVote(_))),
            Self::Snapshot(reply) => reply.is_ok(),
            Self::Vote(_) => false,
        }
    }
}

/// How long a stream to a node that cannot be reached rests.
const RETRY: Duration = Duration::from_millis(200);

/// Makes streams to other nodes.
#[derive(Clone)]
pub(super) struct Network {
    pub(super) transport: Transport,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Line;

    async fn new_client(&mut self, target: u64, node: &Member) -> Line {
        Line { target, addr: node.addr.parse().ok(), transport: self.transport.clone() }
    }
}

/// The way to one node.
pub(super) struct Line {
    target: u64,
    /// Its address in the membership.
    addr: Option<SocketAddr>,
    transport: Transport,
}

type Failed<E> = RPCError<u64, Member, RaftError<u64, E>>;

impl Line {
    async fn send<E: std::error::Error + 'static>(&self, rpc: Rpc, option: &RPCOption) -> Result<RpcReply, Failed<E>> {
        let Some(addr) = self.transport.contacts().addr(self.target).or(self.addr) else {
            let err = std::io::Error::new(std::io::ErrorKind::AddrNotAvailable, "the node has no address");
            return Err(RPCError::Unreachable(Unreachable::new(&err)));
        };
        match self.transport.call(self.target, addr, Message::Raft(Box::new(rpc)), option.hard_ttl()).await {
            Ok(Reply::Raft(reply)) => Ok(*reply),
            Ok(_) => Err(RPCError::Network(unexpected())),
            Err(err @ (CallError::Timeout { .. } | CallError::Answer { .. })) => {
                Err(RPCError::Network(NetworkError::new(&err)))
            }
            Err(err) => Err(RPCError::Unreachable(Unreachable::new(&err))),
        }
    }
}

fn unexpected() -> NetworkError {
    NetworkError::new(&std::io::Error::new(std::io::ErrorKind::InvalidData, "not the answer to this message"))
}

impl RaftNetwork<TypeConfig> for Line {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RPCError<u64, Member, RaftError<u64>>> {
        match self.send(Rpc::Append(rpc), &option).await? {
            RpcReply::Append(reply) => reply.map_err(|e| RPCError::RemoteError(RemoteError::new(self.target, e))),
            _ => Err(RPCError::Network(unexpected())),
        }
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, Failed<InstallSnapshotError>> {
        match self.send(Rpc::Snapshot(rpc), &option).await? {
            RpcReply::Snapshot(reply) => reply.map_err(|e| RPCError::RemoteError(RemoteError::new(self.target, e))),
            _ => Err(RPCError::Network(unexpected())),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, RPCError<u64, Member, RaftError<u64>>> {
        match self.send(Rpc::Vote(rpc), &option).await? {
            RpcReply::Vote(reply) => reply.map_err(|e| RPCError::RemoteError(RemoteError::new(self.target, e))),
            _ => Err(RPCError::Network(unexpected())),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(RETRY))
    }
}
