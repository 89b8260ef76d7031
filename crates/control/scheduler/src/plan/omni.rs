//! Types of which every host has the same number of jobs.

use std::collections::BTreeMap;

use super::draft::Draft;
use crate::reason::Reason;
use crate::world::{Formation, FormationIndex, HostIndex, JobIndex, TypeState};

impl Draft<'_> {
    pub(super) fn omni_type(&mut self, index: FormationIndex, formation: &Formation, kind: &TypeState) {
        let world = self.world;
        let each = world.guarded_count(formation, kind);
        let mut by_host: BTreeMap<HostIndex, Vec<JobIndex>> = BTreeMap::new();
        let mut unplaced = Vec::new();
        for job in self.where_they_may_be(kind) {
            match world.jobs[job].phase.host() {
                Some(host) => by_host.entry(host).or_default().push(job),
                None => unplaced.push(job),
            }
        }
        // Hosts that lack jobs, those that take some first.
        let (mut open, mut closed) = (Vec::new(), Vec::new());
        for (host, state) in world.hosts.iter().filter(|(_, host)| host.counts_for_omni() && host.has_tags(&kind.tags))
        {
            let mut here = by_host.remove(&host).unwrap_or_default();
            let surplus = here.len().saturating_sub(each);
            self.stop_surplus(&mut here, surplus);
            let lacks = std::iter::repeat_n(host, each.saturating_sub(here.len()));
            if state.closed_to_omni().is_none() { open.extend(lacks) } else { closed.extend(lacks) }
        }
        // What is left is on hosts that are going, and goes with them unless nothing of the type is wanted.
        for mut jobs in by_host.into_values().filter(|_| each == 0) {
            let all = jobs.len();
            self.stop_surplus(&mut jobs, all);
        }
        let lacking = open.len() + closed.len();
        let surplus = unplaced.len().saturating_sub(lacking);
        self.stop_surplus(&mut unplaced, surplus);
        let new = self.create(index, kind, lacking - unplaced.len());
        let mut places = open.into_iter().chain(closed);
        for candidate in self.candidates(&unplaced, &new) {
            let Some(host) = places.next() else { break };
            let state = &world.hosts[host];
            let why = match state.closed_to_omni() {
                Some(why) => Some(why),
                None => (state.size().memory < kind.needs.memory).then_some("has too little memory"),
            };
            match why {
                Some(why) => self.wait(&candidate, Reason::OmniHost { host: state.id.to_string(), why: why.into() }),
                None => {
                    let claims = self.claims_on(formation, kind, host);
                    self.start(&candidate, kind, host, claims);
                }
            }
        }
    }
}
