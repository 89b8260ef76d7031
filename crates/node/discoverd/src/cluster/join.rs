//! Calling other nodes: to find a cluster, to be found at a new address, to begin a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::bootstrap::{Answer, Step, step};
use super::membership::addr;
use crate::consensus::{Consensus, Member};
use crate::node::Node;
use crate::peer::{Announce, Hello, Message, Reply};

const CALL_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a node that has all it needs looks whether that is still so.
const CALM: Duration = Duration::from_secs(1);
/// A call is remembered by the leader for so long.
const CALL_MEMORY: Duration = Duration::from_secs(5);
/// More than any cluster has nodes.
const MAX_CALLS: usize = 1024;

/// Who called lately.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    calls: Mutex<BTreeMap<u64, (Member, Instant)>>,
}

impl Roster {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, (Member, Instant)>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, node: u64, member: Member) {
        let mut calls = self.lock();
        // Of several nodes at one address only the last one is real.
        calls.retain(|id, (other, at)| at.elapsed() < CALL_MEMORY && (*id == node || other.addr != member.addr));
        if calls.len() < MAX_CALLS {
            calls.insert(node, (member, Instant::now()));
        }
    }

    pub(crate) fn calls(&self) -> BTreeMap<u64, Member> {
        let calls = self.lock();
        let recent = calls.iter().filter(|(_, (_, at))| at.elapsed() < CALL_MEMORY);
        recent.map(|(id, (member, _))| (*id, member.clone())).collect()
    }
}

/// Answers a call.
pub(crate) fn answer_announce(node: &Node, announce: &Announce) -> Hello {
    let cluster = node.replica.with(|s| s.registry.cluster().map(str::to_owned));
    let stranger = matches!((&cluster, &announce.cluster), (Some(ours), Some(theirs)) if ours != theirs);
    if stranger {
        tracing::warn!(addr = %announce.addr, host = announce.host, "a node of another cluster called and is not admitted");
    } else if announce.node != 0 {
        node.contacts.learn(announce.node, announce.addr);
        node.contacts.know([announce.addr]);
        let member = Member { addr: announce.addr.to_string(), host: announce.host.clone() };
        node.roster.note(announce.node, member);
    }
    let status = node.status.borrow();
    let member = status.view.member;
    let known = if member {
        status.view.members.values().filter_map(addr).collect()
    } else {
        node.config.peers.iter().copied().chain([node.config.advertise]).collect()
    };
    Hello {
        node: status.view.node,
        host: node.config.host_id.clone(),
        addr: node.config.advertise,
        member,
        cluster,
        leader: status.leader,
        known,
    }
}

/// Keeps the node in touch with the others, until it is cancelled.
pub(crate) async fn join(node: Arc<Node>) {
    node.contacts.know(node.config.peers.iter().copied());
    let mut remembered = BTreeSet::new();
    loop {
        let Some(consensus) = node.consensus() else {
            tokio::time::sleep(node.config.timing.announce_interval).await;
            continue;
        };
        if remembered.is_empty() {
            remembered = consensus.remembered_peers();
            node.contacts.know(remembered.iter().copied());
        }
        let settled = {
            let status = node.status.borrow();
            let here = status.view.members.get(&status.view.node);
            status.leader.is_some() && here.is_some_and(|m| addr(m) == Some(node.config.advertise))
        };
        remember(&node, &consensus, &mut remembered).await;
        if settled {
            let mut status = node.status.subscribe();
            let _ = tokio::time::timeout(CALM, status.wait_for(|s| s.leader.is_none())).await;
            continue;
        }
        let answers = call_all(&node).await;
        if !consensus.view().member {
            begin(&node, &consensus, &answers).await;
        }
        let pause = node.config.timing.announce_interval;
        tokio::time::sleep(pause.mul_f64(0.75 + rand::random::<f64>() / 2.0)).await;
    }
}

async fn begin(node: &Node, consensus: &Consensus, answers: &BTreeMap<SocketAddr, Answer>) {
    let listed = node.config.peers.iter().copied().collect();
    match step(node.config.advertise, &listed, answers) {
        Step::Found => {
            tracing::info!(host_id = node.config.host_id, addr = %node.config.advertise, "this node begins a new cluster");
            let addr = node.config.advertise.to_string();
            let member = Member { addr, host: node.config.host_id.clone() };
            if let Err(err) = consensus.initialize(member).await {
                tracing::error!(err, "a cluster could not be begun");
            }
        }
        Step::Join => tracing::debug!("waiting to be added to the cluster"),
        Step::Wait(reason) => tracing::debug!(reason, "waiting for a cluster"),
    }
}

/// Remembers where the others are, for a start after which they are all gone from memory.
async fn remember(node: &Node, consensus: &Consensus, remembered: &mut BTreeSet<SocketAddr>) {
    let mut peers: BTreeSet<SocketAddr> = {
        let status = node.status.borrow();
        let members = status.view.members.iter();
        members.filter_map(|(id, member)| node.contacts.addr(*id).or_else(|| addr(member))).collect()
    };
    peers.remove(&node.config.advertise);
    if peers.is_empty() || peers == *remembered {
        return;
    }
    match consensus.remember_peers(&peers).await {
        Ok(()) => *remembered = peers,
        Err(err) => tracing::warn!(%err, "the other nodes' addresses could not be saved"),
    }
}

/// Calls everybody at once.
async fn call_all(node: &Arc<Node>) -> BTreeMap<SocketAddr, Answer> {
    let mut targets = node.contacts.known();
    targets.extend(node.status.borrow().view.members.values().filter_map(addr));
    targets.remove(&node.config.advertise);
    let mut calls = JoinSet::new();
    for target in targets.clone() {
        let node = node.clone();
        calls.spawn(async move { (target, call(&node, target).await) });
    }
    let mut answers = BTreeMap::new();
    while let Some(done) = calls.join_next().await {
        let Ok((target, Some(hello))) = done else { continue };
        // The leader may be somewhere else than anybody we knew.
        if let Some((_, leader)) = hello.leader.filter(|(_, l)| !targets.contains(l) && *l != node.config.advertise) {
            targets.insert(leader);
            let node = node.clone();
            calls.spawn(async move { (leader, call(&node, leader).await) });
        }
        let is_self = hello.node == node.status.borrow().view.node;
        answers.insert(target, Answer { addr: hello.addr, member: hello.member, listed: hello.known, is_self });
    }
    answers
}

async fn call(node: &Node, target: SocketAddr) -> Option<Hello> {
    let (id, member) = {
        let status = node.status.borrow();
        (status.view.node, status.view.member)
    };
    let cluster = node.replica.with(|s| s.registry.cluster().map(str::to_owned));
    let announce =
        Announce { node: id, host: node.config.host_id.clone(), addr: node.config.advertise, member, cluster };
    let reply = node.transport.call(0, target, Message::Announce(announce.clone()), CALL_TIMEOUT).await;
    let Ok(Reply::Hello(hello)) = reply else { return None };
    if matches!((&announce.cluster, &hello.cluster), (Some(ours), Some(theirs)) if ours != theirs) {
        tracing::warn!(addr = %target, host = hello.host, "a node of another cluster answers at a known address");
        return None;
    }
    if hello.node != id {
        node.contacts.learn(hello.node, hello.addr);
        node.contacts.know(hello.known.iter().copied().filter(|a| *a != node.config.advertise));
        if let Some((leader, at)) = hello.leader {
            node.contacts.heard_of_leader(leader, at, hello.addr);
        }
    }
    Some(hello)
}
