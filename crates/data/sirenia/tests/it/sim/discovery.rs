//! An abstract discoverd: one document with compare-and-set, registrations that expire, and readers that lag.

use std::collections::VecDeque;

use flynn_sirenia::{View, WriteFailure};
use flynn_types::discoverd::Instance;
use flynn_types::sirenia::ClusterState;
use rand::Rng;

use super::Break;

/// Milliseconds after the last heartbeat.
const TTL: u64 = 1000;
/// So many changes the slowest reader lags behind.
const LAG: usize = 12;

pub(crate) struct Discovery {
    index: u64,
    pub(crate) cluster_index: u64,
    pub(crate) cluster: Option<ClusterState>,
    instances: Vec<(Instance, u64)>,
    /// What readers may see, the newest last.
    views: VecDeque<View>,
    pub(crate) broken: Option<Break>,
}

impl Discovery {
    pub(crate) fn new(broken: Option<Break>) -> Self {
        let views = VecDeque::from([View::default()]);
        Self { index: 0, cluster_index: 0, cluster: None, instances: Vec::new(), views, broken }
    }

    pub(crate) fn beat(&mut self, instance: Instance, now: u64) {
        if let Some((known, beat)) = self.instances.iter_mut().find(|(known, _)| known.id == instance.id) {
            *beat = now;
            if known.meta == instance.meta {
                return;
            }
            known.meta = instance.meta; // another peer at the address of one that is gone; it inherits the index
        } else {
            self.index += 1;
            self.instances.push((Instance { index: self.index, ..instance }, now));
        }
        self.changed();
    }

    pub(crate) fn expire(&mut self, now: u64) {
        let before = self.instances.len();
        self.instances.retain(|(_, beat)| beat + TTL > now);
        if self.instances.len() != before {
            self.changed();
        }
    }

    pub(crate) fn write(&mut self, index: u64, mut cluster: ClusterState) -> Result<u64, WriteFailure> {
        if index != self.cluster_index && self.broken != Some(Break::LastWriterWins) {
            return Err(WriteFailure::Refused);
        }
        if let (Some(Break::SameGeneration), Some(known)) = (self.broken, &self.cluster) {
            cluster.generation = known.generation;
        }
        self.index += 1;
        (self.cluster_index, self.cluster) = (self.index, Some(cluster));
        self.changed();
        Ok(self.index)
    }

    fn changed(&mut self) {
        let peers = self.instances.iter().map(|(instance, _)| instance.clone()).collect();
        let (index, cluster) = (self.cluster_index, self.cluster.clone());
        self.views.push_back(View { peers, index, cluster, ..View::default() });
        if self.views.len() > LAG {
            self.views.pop_front();
        }
    }

    /// What a reader sees: usually the newest, at times an older view, even one older than it saw before.
    pub(crate) fn view(&self, rng: &mut impl Rng, lag: bool) -> View {
        let newest = self.views.len() - 1;
        let seen = if lag && rng.random_bool(0.3) { rng.random_range(0..=newest) } else { newest };
        self.views[seen].clone()
    }
}
