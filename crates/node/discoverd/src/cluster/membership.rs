//! Who belongs to the cluster and who votes. Pure: equal worlds give equal changes.
//!
//! **Invariants:** voters are only added in steps that end at an odd number; a change is only proposed while a majority of
//! the voters before and after it is alive; absence alone never makes the number of voters smaller.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use crate::consensus::Member;
use crate::registry::Pin;

/// A node that answered within this time is alive; heartbeats go every tenth of a second.
pub(crate) const ALIVE: Duration = Duration::from_secs(2);
/// An old node of a host that joins anew must have been silent for so long, or have lost its address to the new one.
const SUPERSEDED_AFTER: Duration = Duration::from_secs(5);
/// More voters only slow writes down (spec section 6.5).
const MOST_VOTERS: usize = 5;

/// The leader's view.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    pub(crate) me: u64,
    /// Those of the change under way, if there is one.
    pub(crate) voters: BTreeSet<u64>,
    /// A change of voters was begun, perhaps by a leader that is gone.
    pub(crate) changing: bool,
    pub(crate) members: BTreeMap<u64, Node>,
    /// Who called lately: members that moved, and nodes that want to join.
    pub(crate) calls: BTreeMap<u64, Member>,
    pub(crate) pins: BTreeMap<String, Pin>,
    pub(crate) replace_after: Duration,
    pub(crate) forget_after: Duration,
}

/// A member of the cluster.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) member: Member,
    /// Since its last answer, or since the leader leads.
    pub(crate) silence: Duration,
    pub(crate) caught_up: bool,
}

/// One change; the next one is decided when it is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Add(u64, Member),
    Move(u64, Member),
    Voters(BTreeSet<u64>),
    Remove(u64),
}

pub(crate) fn reconcile(world: &World) -> Option<Change> {
    if world.changing {
        return Some(Change::Voters(world.voters.clone()));
    }
    world.moved().or_else(|| world.joining()).or_else(|| world.voting()).or_else(|| world.leaving())
}

impl World {
    fn moved(&self) -> Option<Change> {
        let moved = self.calls.iter().find(|(id, call)| self.members.get(id).is_some_and(|n| n.member != **call));
        moved.map(|(id, call)| Change::Move(*id, call.clone()))
    }

    fn joining(&self) -> Option<Change> {
        let welcome = |call: &Member| {
            self.same_host(&call.host)
                .all(|(id, old)| id != self.me && (old.silence >= SUPERSEDED_AFTER || (old.member.addr == call.addr)))
        };
        let (id, call) = self.calls.iter().find(|(id, call)| !self.members.contains_key(id) && welcome(call))?;
        Some(Change::Add(*id, call.clone()))
    }

    fn voting(&self) -> Option<Change> {
        let mut wanted: BTreeSet<u64> =
            self.voters.iter().copied().filter(|id| self.pin(*id) != Some(Pin::Learner)).collect();
        let mut candidates: Vec<u64> = self.members.keys().copied().filter(|id| self.is_candidate(*id)).collect();
        candidates.retain(|id| !wanted.contains(id));
        candidates.sort_by(|a, b| self.host(*a).cmp(self.host(*b)));
        candidates.reverse(); // taken from the end

        candidates.retain(|id| {
            let chosen = self.pin(*id) == Some(Pin::Voter);
            if chosen {
                wanted.insert(*id);
            }
            !chosen
        });
        let lost: Vec<u64> = wanted.iter().copied().filter(|id| self.is_lost(*id)).collect();
        for old in lost {
            // first the same host's new node
            let heir = candidates.iter().position(|new| self.host(*new) == self.host(old));
            let heir = heir.or_else(|| candidates.len().checked_sub(1));
            let Some(heir) = heir else { break };
            wanted.remove(&old);
            wanted.insert(candidates.remove(heir));
        }
        let possible = self.members.keys().filter(|id| wanted.contains(id) || self.is_candidate(**id)).count();
        let target = if possible < 3 { 1 } else { (possible - (1 - possible % 2)).min(MOST_VOTERS) };
        let mut more = target.saturating_sub(wanted.len()).min(candidates.len());
        if (wanted.len() + more).is_multiple_of(2) {
            more = more.saturating_sub(1);
        }
        wanted.extend(candidates.into_iter().rev().take(more));
        if wanted.is_empty() || wanted == self.voters || !self.has_quorum(&wanted) || !self.has_quorum(&self.voters) {
            return None;
        }
        Some(Change::Voters(wanted))
    }

    fn leaving(&self) -> Option<Change> {
        let gone = |(id, node): &(&u64, &Node)| {
            !self.voters.contains(id) && (self.is_superseded(**id) || node.silence >= self.forget_after)
        };
        let (id, _) = self.members.iter().filter(|(id, _)| **id != self.me).find(gone)?;
        Some(Change::Remove(*id))
    }

    fn same_host<'a>(&'a self, host: &'a str) -> impl Iterator<Item = (u64, &'a Node)> {
        self.members.iter().filter(move |(_, node)| node.member.host == host).map(|(id, node)| (*id, node))
    }

    fn host(&self, id: u64) -> &str {
        self.members.get(&id).map_or("", |n| &n.member.host)
    }

    fn pin(&self, id: u64) -> Option<Pin> {
        self.pins.get(self.host(id)).copied()
    }

    fn is_alive(&self, id: u64) -> bool {
        id == self.me || self.members.get(&id).is_some_and(|n| n.silence < ALIVE && !self.is_replaced(id, n))
    }

    /// Its host calls from its address as another node: its disk was wiped, however lately it answered.
    fn is_replaced(&self, id: u64, node: &Node) -> bool {
        !self.calls.contains_key(&id) && self.calls.values().any(|call| *call == node.member)
    }

    fn is_candidate(&self, id: u64) -> bool {
        let known = self.members.get(&id);
        known.is_some_and(|n| n.caught_up) && self.is_alive(id) && self.pin(id) != Some(Pin::Learner)
    }

    /// Its host has come back as another node.
    fn is_superseded(&self, id: u64) -> bool {
        !self.is_alive(id) && self.same_host(self.host(id)).any(|(other, _)| other != id && self.is_alive(other))
    }

    fn is_lost(&self, id: u64) -> bool {
        let silence = self.members.get(&id).map_or(Duration::MAX, |n| n.silence);
        !self.is_alive(id) && (silence >= self.replace_after || self.is_superseded(id))
    }

    fn has_quorum(&self, voters: &BTreeSet<u64>) -> bool {
        voters.iter().filter(|id| self.is_alive(**id)).count() * 2 > voters.len()
    }
}

/// The member's address, if it is one.
pub(crate) fn addr(member: &Member) -> Option<SocketAddr> {
    member.addr.parse().ok()
}

#[cfg(test)]
#[path = "membership_tests.rs"]
mod tests;
