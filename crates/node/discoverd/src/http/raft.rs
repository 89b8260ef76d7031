//! The cluster itself: its leader, its voters, and messages between nodes.

use std::net::SocketAddr;
use std::time::Duration;

use flynn_types::discoverd::{LastIndex, RaftLeader};
use flynn_types::error::ApiError;
use http::Request;
use hyper::body::Incoming;

use super::answer::{self, Answer};
use super::body;
use super::server::Exchange;
use super::services::write;
use crate::node::{Node, Status};
use crate::peer::{Announce, Envelope, Message};
use crate::registry::{Command, Pin};
use crate::runtime;

/// A change of the voters that another node has to be part of is waited for so long, below the clients' 5 s.
const CHANGE: Duration = Duration::from_secs(4);
/// How long a node may take to become a voter.
const PROMOTION: Duration = Duration::from_secs(60);

pub(super) async fn message(exchange: &Exchange, request: Request<Incoming>) -> Answer {
    let bytes = body::read(request.into_body(), body::MAX_MESSAGE).await?;
    let envelope: Envelope = serde_json::from_slice(&bytes).map_err(|err| {
        tracing::warn!(%err, "a message of another node cannot be read");
        ApiError::syntax()
    })?;
    answer::json(&exchange.node.answer(envelope).await)
}

pub(super) fn leader(exchange: &Exchange) -> Answer {
    let leader = exchange.node.leader();
    let (_, addr) = leader.ok_or_else(|| ApiError::unavailable("discoverd: no known leader"))?;
    answer::json(&RaftLeader { host: addr.to_string() })
}

/// Addresses of the voters as the membership has them, sorted. A change shows when it is done.
pub(super) fn peers(node: &Node) -> Vec<String> {
    let status = node.status.borrow();
    let members = &status.view.members;
    let addr_of = |id: &u64| members.get(id)?.addr.parse().ok();
    let mut addrs: Vec<SocketAddr> = status.view.acting.iter().filter_map(addr_of).collect();
    addrs.sort();
    addrs.iter().map(ToString::to_string).collect()
}

fn addr_of(node: &Node, status: &Status, id: u64) -> Option<SocketAddr> {
    if id == status.view.node {
        return Some(node.config.advertise);
    }
    let member = || status.view.members.get(&id)?.addr.parse().ok();
    node.contacts.addr(id).or_else(member)
}

/// Id and host of the member at this address.
fn member_at(node: &Node, peer: &str) -> Option<(u64, String)> {
    let status = node.status.borrow();
    let mut members = status.view.members.iter();
    let here = |id: u64| addr_of(node, &status, id).is_some_and(|addr| addr.to_string() == peer);
    members.find(|(id, member)| member.addr == peer || here(**id)).map(|(id, member)| (*id, member.host.clone()))
}

pub(super) async fn add_peer(exchange: &Exchange, peer: &str) -> Answer {
    let node = &exchange.node;
    if member_at(node, peer).is_none() {
        invite(node, peer).await?;
    }
    let Some((id, host)) = member_at(node, peer) else {
        return Err(ApiError::unavailable(format!("discoverd: the node at {peer} has not joined the cluster yet")));
    };
    if !node.status.borrow().view.voters.contains(&id) {
        write(exchange, Command::Pin { host, pin: Some(Pin::Voter) }).await?;
        await_voter(node, id, true, CHANGE).await?;
    }
    answer::json(&LastIndex { last_index: node.replica.applied_index() })
}

/// Introduces this node to one that does not know the cluster, and waits until it has joined.
async fn invite(node: &Node, peer: &str) -> Result<(), ApiError> {
    let addr: SocketAddr = peer
        .parse()
        .map_err(|_| ApiError::validation("", &format!("discoverd: {peer:?} is not an address of the form ip:port")))?;
    let announce = Announce {
        node: node.status.borrow().view.node,
        host: node.config.host_id.clone(),
        addr: node.config.advertise,
        member: true,
        cluster: node.replica.with(|s| s.registry.cluster().map(str::to_owned)),
    };
    let call = node.transport.call(0, addr, Message::Announce(announce), Duration::from_secs(1)).await;
    call.map_err(|err| ApiError::unavailable(format!("discoverd: {err}")))?;
    let mut status = node.status.subscribe();
    let joined = status.wait_for(|s| s.view.members.values().any(|m| m.addr == peer));
    let _ = tokio::time::timeout(CHANGE, joined).await;
    Ok(())
}

pub(super) async fn remove_peer(exchange: &Exchange, peer: &str) -> Answer {
    let node = &exchange.node;
    if node.leader().is_none() {
        return Err(ApiError::unavailable("discoverd: no known leader"));
    }
    if let Some((id, host)) = member_at(node, peer) {
        stop_voting(exchange, id, host).await?;
    }
    Ok(answer::done())
}

/// Takes the vote from a host; on failure it keeps it.
async fn stop_voting(exchange: &Exchange, id: u64, host: String) -> Result<(), ApiError> {
    let node = &exchange.node;
    let (votes, others) = {
        let status = node.status.borrow();
        (status.view.voters.contains(&id), status.view.voters.iter().any(|v| *v != id))
    };
    if votes && !others {
        return Err(ApiError::conflict("discoverd: the last peer cannot be removed"));
    }
    write(exchange, Command::Pin { host: host.clone(), pin: Some(Pin::Learner) }).await?;
    if let Err(err) = await_voter(node, id, false, CHANGE).await {
        write(exchange, Command::Pin { host, pin: None }).await?;
        return Err(err);
    }
    Ok(())
}

async fn await_voter(node: &Node, id: u64, votes: bool, limit: Duration) -> Result<(), ApiError> {
    let mut status = node.status.subscribe();
    let changed = status.wait_for(|s| s.view.voters.contains(&id) == votes && !s.view.changing);
    let in_time = tokio::time::timeout(limit, changed).await.is_ok();
    let text = if votes {
        "discoverd: the node has not caught up with the cluster's log yet"
    } else {
        "discoverd: the other peers could not agree to the change, too few of them answer"
    };
    if in_time { Ok(()) } else { Err(ApiError::unavailable(text)) }
}

pub(super) async fn promote(exchange: &Exchange) -> Answer {
    let node = &exchange.node;
    let id = node.status.borrow().view.node;
    let votes = node.status.borrow().view.voters.contains(&id);
    if !votes {
        write(exchange, Command::Pin { host: node.config.host_id.clone(), pin: Some(Pin::Voter) }).await?;
        await_voter(node, id, true, PROMOTION).await?;
    }
    Ok(answer::done())
}

pub(super) async fn demote(exchange: &Exchange) -> Answer {
    let node = &exchange.node;
    let id = node.status.borrow().view.node;
    let voted = node.status.borrow().view.voters.contains(&id);
    stop_voting(exchange, id, node.config.host_id.clone()).await?;
    if voted {
        node.replica.end_subscriptions();
    }
    Ok(answer::done())
}

pub(super) async fn shutdown(exchange: &Exchange) -> Answer {
    let last_index = runtime::end(&exchange.node).await;
    answer::json(&LastIndex { last_index })
}
