//! What must hold in every history.

use std::collections::{BTreeMap, BTreeSet};

use flynn_types::sirenia::ClusterState;

use super::database::{Database, Mode};
use crate::rig::{KEY, text};

/// What clients were told, and what is checked against it.
#[derive(Default)]
pub(crate) struct Truth {
    /// Acknowledged commits, with their generation.
    acknowledged: BTreeMap<u64, u64>,
    /// Who acknowledged in a generation.
    writers: BTreeMap<u64, usize>,
    pub(crate) violation: Option<String>,
    pub(crate) takeovers: u64,
}

impl Truth {
    fn violated(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }

    /// (b) One writer in a generation. A peer that was replaced may still hear late of what its successor has.
    pub(crate) fn acknowledge(&mut self, peer: usize, generation: u64, commit: u64, databases: &[&Database]) {
        self.acknowledged.insert(commit, generation);
        let writer = *self.writers.entry(generation).or_insert(peer);
        if writer != peer {
            self.violated(format!("b: peers {writer} and {peer} both acknowledge in generation {generation}"));
        }
        let Some((newest, successor)) = self.writers.last_key_value().map(|(newest, peer)| (*newest, *peer)) else {
            return;
        };
        if newest > generation && !databases[successor].has(commit) {
            self.violated(format!("b: {commit} is acknowledged in generation {generation}, {newest} lacks it"));
        }
    }

    /// (a) Who accepts writes has all that was acknowledged up to its generation.
    pub(crate) fn accepts(&mut self, peer: usize, database: &Database) {
        let Mode::Primary { generation, .. } = database.mode else { return };
        let held: BTreeSet<u64> = database.log.iter().map(|entry| entry.commit).collect();
        let lost = self.acknowledged.iter().find(|(commit, of)| **of <= generation && !held.contains(*commit));
        if let Some((commit, of)) = lost.map(|(commit, of)| (*commit, *of)) {
            self.violated(format!("a: {commit} of generation {of} is lost: peer {peer} is writable in {generation}"));
        }
    }

    /// (d) Generations only grow, by one with each change of primary or sync.
    pub(crate) fn declared(&mut self, before: Option<&ClusterState>, after: &ClusterState) {
        let Some(before) = before else { return };
        let who = |cluster: &ClusterState| {
            let name = |entry: &Option<_>| {
                entry.as_ref().map(|entry: &flynn_types::discoverd::Instance| entry.meta[KEY].clone())
            };
            (name(&cluster.primary), name(&cluster.sync))
        };
        let step = u64::from(who(before) != who(after));
        self.takeovers += step;
        if after.generation != before.generation + step {
            self.violated(format!("d: {} becomes {}", text(before), text(after)));
        }
    }
}
