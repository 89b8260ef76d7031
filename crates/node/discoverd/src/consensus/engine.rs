//! One life of the Raft node, from opening its store to closing it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use openraft::error::{ClientWriteError, Fatal, RaftError};
use openraft::{ChangeMembers, ServerState, SnapshotPolicy};
use tokio::sync::watch;

use super::log_store::{LogStore, encode};
use super::machine::Machine;
use super::network::{Network, Rpc, RpcReply};
use super::open::{OpenError, Reopening, open};
use super::writer::{Write, fact};
use super::{Member, Raft};
use crate::config::Timing;
use crate::peer::Transport;
use crate::registry::{Command, Reply};
use crate::replica::Replica;

/// A write that is not decided by then is reported as lost.
const WRITE_TIMEOUT: Duration = Duration::from_secs(4);
const READ_TIMEOUT: Duration = Duration::from_secs(2);
const MEMBERSHIP_TIMEOUT: Duration = Duration::from_secs(10);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(15);
/// Entries between two snapshots, and those kept after one for followers that are behind (spec section 6.4).
const SNAPSHOT_EVERY: u64 = 8192;
const KEEP_LOGS: u64 = 10240;
/// A learner so close behind may vote.
const CAUGHT_UP: u64 = 64;

/// The Raft node.
pub(crate) struct Consensus {
    raft: Raft,
    node: u64,
    /// Whether the store belonged to a cluster when it was opened: openraft's metrics say so only a moment later.
    was_member: bool,
    /// Gone once closed.
    store: Mutex<Option<(LogStore, JoinHandle<()>)>>,
}

/// What the node knows of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConsensusView {
    pub(crate) node: u64,
    pub(crate) term: u64,
    /// Whether the node takes itself for the leader; it may have been cut off.
    pub(crate) leads: bool,
    pub(crate) leader: Option<u64>,
    pub(crate) members: BTreeMap<u64, Member>,
    pub(crate) voters: BTreeSet<u64>,
    /// Those that voted before the change under way; the same as `voters` if there is none. Until it is done both sets
    /// must agree to everything.
    pub(crate) acting: BTreeSet<u64>,
    /// A change to `voters` is under way.
    pub(crate) changing: bool,
    /// Whether the node's store belongs to a cluster.
    pub(crate) member: bool,
    /// On the leader: nodes that have (nearly) all of its log.
    pub(crate) caught_up: BTreeSet<u64>,
    /// Why the node stopped for good.
    pub(crate) failure: Option<String>,
}

/// Why a write was not decided.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// Certainly not written.
    #[error("this node does not lead")]
    NotLeader,
    /// It may have been written, or be written later.
    #[error("{0}")]
    Lost(String),
}

/// Why there is no linearizable read.
#[derive(Debug, thiserror::Error)]
#[error("leadership could not be confirmed")]
pub(crate) struct LinearizeError;

impl Consensus {
    pub(crate) async fn open(
        path: &Path,
        reopening: Reopening,
        timing: &Timing,
        replica: Arc<Replica>,
        transport: Transport,
    ) -> Result<Arc<Self>, OpenError> {
        let owned = path.to_owned();
        let failed = |err| OpenError::Io { path: path.to_owned(), err };
        let opened = tokio::task::spawn_blocking(move || open(&owned, reopening)).await;
        let store = opened.map_err(|err| failed(std::io::Error::other(err.to_string())))??;
        transport.set_node(store.node);
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let config = openraft::Config {
            cluster_name: "discoverd".to_owned(),
            heartbeat_interval: millis(timing.heartbeat),
            election_timeout_min: millis(timing.election.0),
            election_timeout_max: millis(timing.election.1),
            install_snapshot_timeout: 10_000,
            snapshot_max_chunk_size: 256 << 10,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
            max_in_snapshot_log_to_keep: KEEP_LOGS,
            replication_lag_threshold: KEEP_LOGS,
            ..openraft::Config::default()
        };
        let other = |text: String| failed(std::io::Error::other(text));
        let config = Arc::new(config.validate().map_err(|err| other(err.to_string()))?);
        let was_member = store.log.is_used().map_err(failed)?;
        let machine = Machine::new(replica, store.log.clone()).map_err(failed)?;
        let raft = Raft::new(store.node, config, Network { transport }, store.log.clone(), machine).await;
        let raft = raft.map_err(|err| other(err.to_string()))?;
        Ok(Arc::new(Self { raft, node: store.node, was_member, store: Mutex::new(Some((store.log, store.thread))) }))
    }

    pub(crate) fn node(&self) -> u64 {
        self.node
    }

    /// Something about the view changes whenever this does.
    pub(crate) fn changes(&self) -> watch::Receiver<impl Sized + use<>> {
        self.raft.metrics()
    }

    pub(crate) fn view(&self) -> ConsensusView {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let last_log = metrics.last_log_index.unwrap_or(0);
        let matched = |at: Option<u64>| at.is_some_and(|at| at + CAUGHT_UP >= last_log);
        let caught_up = metrics.replication.iter().flatten();
        ConsensusView {
            node: self.node,
            term: metrics.current_term,
            leads: metrics.state == ServerState::Leader,
            leader: metrics.current_leader,
            members: membership.nodes().map(|(id, member)| (*id, member.clone())).collect(),
            voters: membership.get_joint_config().last().cloned().unwrap_or_default(),
            acting: membership.get_joint_config().first().cloned().unwrap_or_default(),
            changing: membership.get_joint_config().len() > 1,
            member: self.was_member || metrics.last_log_index.is_some() || metrics.snapshot.is_some(),
            caught_up: caught_up.filter(|(_, at)| matched(at.map(|l| l.index))).map(|(id, _)| *id).collect(),
            failure: metrics.running_state.as_ref().err().map(failure_text),
        }
    }

    /// Index of the last entry in this node's log.
    pub(crate) fn last_log_index(&self) -> u64 {
        self.raft.metrics().borrow().last_log_index.unwrap_or(0)
    }

    /// Makes this node a cluster of its own. Harmless on a member of one.
    pub(crate) async fn initialize(&self, member: Member) -> Result<(), String> {
        match self.raft.initialize(BTreeMap::from([(self.node, member)])).await {
            Ok(()) | Err(RaftError::APIError(openraft::error::InitializeError::NotAllowed(_))) => Ok(()),
            Err(err) => Err(err.to_string()),
        }
    }

    /// Writes, and gives the index and the state machine's answer. Only on the leader.
    pub(crate) async fn write(&self, command: Command) -> Result<(u64, Reply), WriteError> {
        if self.raft.metrics().borrow().state != ServerState::Leader {
            return Err(WriteError::NotLeader);
        }
        match tokio::time::timeout(WRITE_TIMEOUT, self.raft.client_write(command)).await {
            Ok(Ok(written)) => match written.data.0 {
                Some(reply) => Ok((written.log_id.index, reply)),
                None => Err(WriteError::Lost("the log entry was replaced".to_owned())),
            },
            // The entry may have been appended before the leadership was lost.
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => {
                Err(WriteError::Lost("the leader was deposed".to_owned()))
            }
            Ok(Err(err)) => Err(WriteError::Lost(err.to_string())),
            Err(_) => Err(WriteError::Lost("no quorum confirmed the write in time".to_owned())),
        }
    }

    /// The index that a linearizable read must see. Only on the leader.
    pub(crate) async fn read_index(&self) -> Result<u64, LinearizeError> {
        match tokio::time::timeout(READ_TIMEOUT, self.raft.get_read_log_id()).await {
            Ok(Ok((read, _))) => Ok(read.map_or(0, |l| l.index)),
            Ok(Err(_)) | Err(_) => Err(LinearizeError),
        }
    }

    /// Answers another node's Raft message.
    pub(crate) async fn serve(&self, rpc: Rpc) -> RpcReply {
        match rpc {
            Rpc::Append(request) => RpcReply::Append(self.raft.append_entries(request).await),
            Rpc::Vote(request) => RpcReply::Vote(self.raft.vote(request).await),
            Rpc::Snapshot(request) => RpcReply::Snapshot(self.raft.install_snapshot(request).await),
        }
    }

    pub(crate) async fn add_learner(&self, node: u64, member: Member) -> Result<(), String> {
        self.change(ChangeMembers::AddNodes(BTreeMap::from([(node, member)])), true).await
    }

    pub(crate) async fn set_member(&self, node: u64, member: Member) -> Result<(), String> {
        self.change(ChangeMembers::SetNodes(BTreeMap::from([(node, member)])), true).await
    }

    /// Replaces the voters; those that no longer vote stay as learners.
    pub(crate) async fn set_voters(&self, voters: BTreeSet<u64>) -> Result<(), String> {
        self.change(ChangeMembers::ReplaceAllVoters(voters), true).await
    }

    /// Removes a node that does not vote.
    pub(crate) async fn remove(&self, node: u64) -> Result<(), String> {
        self.change(ChangeMembers::RemoveNodes(BTreeSet::from([node])), false).await
    }

    async fn change(&self, changes: ChangeMembers<u64, Member>, retain: bool) -> Result<(), String> {
        match tokio::time::timeout(MEMBERSHIP_TIMEOUT, self.raft.change_membership(changes, retain)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(err)) => Err(err.to_string()),
            Err(_) => Err("no quorum confirmed the change in time".to_owned()),
        }
    }

    /// Addresses of nodes, remembered over restarts.
    pub(crate) fn remembered_peers(&self) -> BTreeSet<SocketAddr> {
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let found = store.as_ref().and_then(|(log, _)| log.fact(fact::PEERS).ok().flatten());
        found.unwrap_or_default()
    }

    pub(crate) async fn remember_peers(&self, peers: &BTreeSet<SocketAddr>) -> std::io::Result<()> {
        let bytes = encode(peers)?;
        let writer = {
            let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
            store.as_ref().map(|(log, _)| log.writer.clone())
        };
        match writer {
            Some(writer) => writer.write(vec![Write::Fact(fact::PEERS, bytes)]).await,
            None => Ok(()),
        }
    }

    /// Ends the node, writes what is queued, and closes the file. Says what is to be done before it is opened again.
    pub(crate) async fn close(&self) -> Reopening {
        if let Err(err) = self.raft.shutdown().await {
            tracing::warn!(%err, "the raft core ended badly");
        }
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((log, thread)) = store else { return Reopening::AsItIs };
        let (database, reopening) = (log.database.clone(), Reopening::after(log.writer.failure()));
        drop(log);
        let closed = async {
            // the writer ends when the last task of openraft has let go of it
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
            while Arc::strong_count(&database) > 1 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            drop(database);
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, closed).await.is_err() {
            tracing::error!("the store is still in use and stays open");
        }
        reopening
    }
}

fn failure_text(fatal: &Fatal<u64>) -> String {
    match fatal {
        Fatal::StorageError(err) => err.to_string(),
        other => other.to_string(),
    }
}
