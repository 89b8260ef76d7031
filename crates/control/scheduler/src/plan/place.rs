//! On which host a job starts.

use std::collections::BTreeSet;

use flynn_types::id::HostId;

use super::draft::{Candidate, Draft};
use crate::action::{Action, Claim};
use crate::reason::Reason;
use crate::time::Time;
use crate::world::{Formation, HostIndex, JobIndex, Needs, TypeState, World};

/// Most hosts that a reason names.
const NAMED: usize = 3;

/// Hosts that take jobs, as full as they are after what this plan has placed.
pub(super) struct Placer {
    slots: Vec<Slot>,
    /// By load in thousandths, the emptiest first.
    order: BTreeSet<(i64, HostIndex)>,
    /// No host has fewer jobs of the type that is being placed.
    level: u32,
    /// Slots with jobs of that type.
    used: Vec<HostIndex>,
}

#[derive(Clone, Default)]
struct Slot {
    requested: Needs,
    load: i64,
    /// Jobs of the type that is being placed.
    here: u32,
    cooling: bool,
}

impl Placer {
    pub(super) fn new(world: &World, now: Time) -> Self {
        let mut slots = vec![Slot::default(); world.hosts.places()];
        let mut order = BTreeSet::new();
        for (index, host) in world.hosts.iter() {
            let load = host.load(host.requested);
            let cooling = host.cooling_until > now;
            slots[index.position()] = Slot { requested: host.requested, load, here: 0, cooling };
            if host.closed().is_none() {
                order.insert((load, index));
            }
        }
        Self { slots, order, level: 0, used: Vec::new() }
    }

    /// Begins with another type, of which these jobs exist.
    fn begin(&mut self, world: &World, jobs: &[JobIndex]) {
        for host in self.used.drain(..) {
            self.slots[host.position()].here = 0;
        }
        self.level = 0;
        for host in jobs.iter().filter_map(|job| world.jobs[*job].phase.host()) {
            self.slots[host.position()].here += 1;
            self.used.push(host);
        }
    }

    /// The best host: the one that failed to start it least often, with the fewest jobs of the type, the emptiest.
    fn choose(&mut self, world: &World, kind: &TypeState, avoid: &[HostId]) -> Option<HostIndex> {
        let mut best: Option<((usize, u32), HostIndex)> = None;
        for (_, index) in &self.order {
            let (slot, host) = (&self.slots[index.position()], &world.hosts[*index]);
            if !host.has_tags(&kind.tags) || host.size().memory < kind.needs.memory {
                continue;
            }
            let failures = avoid.iter().filter(|id| **id == host.id).count() + usize::from(slot.cooling);
            let fit = (failures, slot.here);
            if best.is_none_or(|(best, _)| fit < best) {
                best = Some((fit, *index));
            }
            if fit <= (0, self.level) {
                break;
            }
        }
        let ((failures, here), host) = best?;
        if failures == 0 {
            self.level = here;
        }
        Some(host)
    }

    /// The host gets a job.
    pub(super) fn take(&mut self, world: &World, host: HostIndex, needs: Needs) {
        let slot = &mut self.slots[host.position()];
        slot.requested.memory += needs.memory;
        slot.requested.cpu += needs.cpu;
        slot.here += 1;
        self.used.push(host);
        let load = world.hosts[host].load(slot.requested);
        let before = std::mem::replace(&mut slot.load, load);
        if self.order.remove(&(before, host)) {
            self.order.insert((load, host));
        }
    }
}

impl Draft<'_> {
    /// Places what is due; what cannot be placed gets a reason.
    pub(super) fn place_due(&mut self, formation: &Formation, kind: &TypeState, jobs: &[JobIndex], new: &[uuid::Uuid]) {
        let candidates = self.candidates(jobs, new);
        if candidates.is_empty() {
            return;
        }
        let world = self.world;
        self.placer().begin(world, jobs);
        let mut nowhere = None;
        for candidate in &candidates {
            if !kind.volumes.is_empty() {
                self.place_with_volumes(formation, kind, candidate);
            } else if let Some(host) = self.placer().choose(world, kind, candidate.avoid) {
                self.start(candidate, kind, host, Vec::new());
            } else {
                let reason = nowhere.get_or_insert_with(|| self.why_nowhere(kind)).clone();
                self.wait(candidate, reason);
            }
        }
    }

    /// The best host for a job that brings no volume.
    pub(super) fn any_host(&mut self, kind: &TypeState, avoid: &[HostId]) -> Option<HostIndex> {
        let world = self.world;
        self.placer().choose(world, kind, avoid)
    }

    pub(super) fn start(&mut self, candidate: &Candidate<'_>, kind: &TypeState, host: HostIndex, volumes: Vec<Claim>) {
        let world = self.world;
        self.placer().take(world, host, kind.needs);
        self.taken.extend(volumes.iter().map(|claim| claim.id.clone()));
        self.actions.push(Action::Start { job: candidate.job, host, volumes });
    }

    /// Why no host takes a job of the type.
    pub(super) fn why_nowhere(&self, kind: &TypeState) -> Reason {
        let mut hosts: Vec<_> = self.world.hosts().collect();
        if hosts.is_empty() {
            return Reason::NoHosts;
        }
        hosts.retain(|host| host.has_tags(&kind.tags));
        if hosts.is_empty() {
            let tags: Vec<_> = kind.tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
            return Reason::NoTag(tags.join(" and "));
        }
        let largest = hosts.iter().rev().max_by_key(|host| host.size().memory).expect("there are hosts");
        if largest.size().memory < kind.needs.memory {
            let (needed, largest, host) = (kind.needs.memory, largest.size().memory, largest.id.to_string());
            return Reason::Memory { needed, largest, host };
        }
        let why = |host: &&crate::world::Host| format!("{} {}", host.id, host.closed().unwrap_or("is too small"));
        let mut named: Vec<_> = hosts.iter().take(NAMED).map(why).collect();
        if hosts.len() > NAMED {
            named.push(format!("and {} more", hosts.len() - NAMED));
        }
        Reason::Closed(named.join(", "))
    }
}
