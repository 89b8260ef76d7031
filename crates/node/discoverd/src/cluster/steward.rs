//! The leader's care for the membership: carries out what [`reconcile`] decides.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::membership::{self, Change, World, reconcile};
use crate::consensus::{Consensus, ConsensusView};
use crate::node::Node;
use crate::registry::Command;

/// Runs on every node, acts on the leader, until it is cancelled.
pub(crate) async fn steward(node: Arc<Node>) {
    let mut since: Option<(u64, Instant)> = None;
    loop {
        tokio::time::sleep(node.config.timing.review_interval).await;
        let (leads, term) = {
            let status = node.status.borrow();
            (status.leads, status.view.term)
        };
        if !leads {
            since = None;
            continue;
        }
        let leading_since = match since {
            Some((before, at)) if before == term => at,
            _ => Instant::now(),
        };
        since = Some((term, leading_since));
        let Some(consensus) = node.consensus() else { continue };
        name_cluster(&node, &consensus).await;
        let world = observe(&node, &consensus.view(), leading_since);
        let Some(change) = reconcile(&world) else { continue };
        tracing::info!(?change, "the membership changes");
        if let Err(err) = carry_out(&consensus, change).await {
            tracing::warn!(err, "the membership could not be changed");
        }
    }
}

async fn name_cluster(node: &Node, consensus: &Consensus) {
    if node.replica.with(|s| s.registry.cluster().is_some()) {
        return;
    }
    let cluster = uuid::Uuid::new_v4().to_string();
    if let Err(err) = consensus.write(Command::Found { cluster }).await {
        tracing::warn!(%err, "the cluster could not be named");
    }
}

fn observe(node: &Node, view: &ConsensusView, leading_since: Instant) -> World {
    let silence = |id: u64| -> Duration {
        if id == view.node {
            return Duration::ZERO;
        }
        node.contacts.last_answered(id).map_or(leading_since, |at| at.max(leading_since)).elapsed()
    };
    let members: BTreeMap<_, _> = view.members.iter().collect();
    World {
        me: view.node,
        voters: view.voters.clone(),
        changing: view.changing,
        members: members
            .into_iter()
            .map(|(id, member)| {
                let caught_up = *id == view.node || view.caught_up.contains(id);
                (*id, membership::Node { member: member.clone(), silence: silence(*id), caught_up })
            })
            .collect(),
        calls: {
            let mut calls = node.roster.calls();
            calls.insert(view.node, node.member());
            calls
        },
        pins: node.replica.with(|s| s.registry.pins().clone()),
        replace_after: node.config.timing.replace_after,
        forget_after: node.config.timing.forget_after,
    }
}

async fn carry_out(consensus: &Consensus, change: Change) -> Result<(), String> {
    match change {
        Change::Add(id, member) => consensus.add_learner(id, member).await,
        Change::Move(id, member) => consensus.set_member(id, member).await,
        Change::Voters(voters) => consensus.set_voters(voters).await,
        Change::Remove(id) => consensus.remove(id).await,
    }
}
