//! What has to be looked at, now or at a time; and the one place where a job changes its phase.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::{FormationIndex, HostIndex, Job, JobIndex, Phase, Role, Stop, World};
use crate::time::Time;

/// Most stopped jobs that wait for the controller. What exceeds it is told by the comparison of all jobs.
const MAX_STOPPED: usize = 10_000;

/// What a plan looks at.
#[derive(Clone, Default)]
pub(crate) struct Todo {
    pub(crate) formations: BTreeSet<FormationIndex>,
    /// Jobs whose stop can go on.
    pub(crate) stopping: BTreeSet<JobIndex>,
    pub(crate) unsaved: BTreeSet<JobIndex>,
    pub(crate) unsaved_volumes: BTreeSet<String>,
    /// Jobs that their host did not list.
    pub(crate) lookups: BTreeSet<JobIndex>,
    /// Jobs to be stopped where nobody wants them, with whether that was ordered.
    pub(crate) strays: BTreeMap<(HostIndex, Uuid), bool>,
    /// Hosts with a check, a listing or sinks due.
    pub(crate) hosts: BTreeSet<HostIndex>,
    pub(crate) fetches: BTreeSet<FormationIndex>,
    pub(crate) orphans: BTreeSet<Uuid>,
    /// Pending jobs that a change of hosts or volumes may help.
    pub(crate) waiting: BTreeSet<JobIndex>,
    /// Hosts that have not said to this leader what they run.
    pub(crate) unheard: BTreeSet<HostIndex>,
}

/// What a time comes for. Whatever it was about may be gone by then, and another may have its index: coming for nothing is
/// harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    Formation(FormationIndex),
    Host(HostIndex),
    Stop(JobIndex),
    Service(JobIndex),
    Save(JobIndex),
    SaveVolumes,
    Fetch(FormationIndex),
    TakeOver,
}

impl World {
    /// When time alone changes something next.
    pub fn next_wake(&self) -> Option<Time> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Time goes by: what is due becomes something to look at.
    pub fn advance(&mut self, now: Time) {
        while let Some((at, timer)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.pop_first();
            self.fire(timer, now);
        }
    }

    fn fire(&mut self, timer: Timer, now: Time) {
        match timer {
            Timer::Formation(index) => {
                if self.formations.find(index).is_some() {
                    self.todo.formations.insert(index);
                }
            }
            Timer::Host(index) => {
                if self.hosts.find(index).is_some() {
                    self.todo.hosts.insert(index);
                }
            }
            Timer::Stop(index) => self.stop_goes_on(index, now),
            Timer::Service(index) => self.service_changed(index, now),
            Timer::Save(index) => self.save_again(index),
            Timer::SaveVolumes => self.save_volumes_again(),
            Timer::Fetch(index) => {
                if self.formations.find(index).is_some() {
                    self.todo.fetches.insert(index);
                }
            }
            Timer::TakeOver => {}
        }
    }

    pub(crate) fn wake(&mut self, at: Time, timer: Timer) {
        self.timers.insert((at, timer));
    }

    /// Everything is looked at again, as if it had just been learned. Changes no decision.
    pub fn mark_all(&mut self) {
        self.todo.formations.extend(self.formations.indices());
        self.todo.hosts.extend(self.hosts.indices());
    }

    /// Whether jobs of this scheduler's world are told to the controller (spec S6).
    pub(crate) fn saves(&self) -> bool {
        !matches!(self.role, Role::Follower)
    }

    pub(crate) fn mark_formation_of(&mut self, job: JobIndex) {
        let Some(index) = self.jobs[job].formation else { return };
        self.todo.formations.insert(index);
        let formation = &self.formations[index];
        if formation.is_critical()
            && let Some(releases) = self.apps.get(&formation.key.app)
        {
            self.todo.formations.extend(releases);
        }
    }

    /// Pending jobs are tried again: a host, its tags or a volume changed.
    pub(crate) fn retry_waiting(&mut self) {
        let waiting = self.todo.waiting.iter().filter_map(|job| self.jobs[*job].formation);
        self.todo.formations.extend(waiting);
    }

    /// The job's record changed.
    pub(crate) fn touch(&mut self, index: JobIndex) {
        let saves = self.saves();
        let save = &mut self.jobs[index].save;
        save.version = save.version.wrapping_add(1);
        if saves && !save.in_flight && save.failures == 0 {
            self.todo.unsaved.insert(index);
        }
    }

    pub(crate) fn insert_job(&mut self, job: Job) -> JobIndex {
        let (uuid, phase) = (job.uuid, job.phase);
        let index = self.jobs.insert(Job { phase: Phase::Stopped, ..job });
        self.stopped += 1;
        self.count_ending(index, true);
        self.uuids.insert(uuid, index);
        self.set_phase(index, phase);
        index
    }

    /// Changes the phase, and everything that is derived from phases.
    pub(crate) fn set_phase(&mut self, index: JobIndex, phase: Phase) {
        let job = &self.jobs[index];
        let (before, needs, state) = (job.phase, job.needs, job.state());
        if before == phase {
            return;
        }
        if before.host() != phase.host() {
            self.move_job(index, before.host(), phase.host(), needs);
        }
        self.jobs[index].phase = phase;
        if !matches!(phase, Phase::Pending { .. }) {
            self.todo.waiting.remove(&index);
            self.jobs[index].waiting = None;
        }
        if before.is_live() != phase.is_live() {
            self.list_in_type(index, phase.is_live());
        }
        match phase {
            Phase::Stopping { step: Stop::Due | Stop::Drained, .. } => {
                self.todo.stopping.insert(index);
            }
            _ => {
                self.todo.stopping.remove(&index);
            }
        }
        self.stopped = self.stopped + usize::from(phase == Phase::Stopped) - usize::from(before == Phase::Stopped);
        if self.jobs[index].state() != state || before.host() != phase.host() {
            self.touch(index);
        }
        self.mark_formation_of(index);
        if phase == Phase::Stopped && (!self.saves() || self.stopped > MAX_STOPPED) {
            self.forget(index);
        }
    }

    fn move_job(&mut self, index: JobIndex, from: Option<HostIndex>, to: Option<HostIndex>, needs: super::Needs) {
        if let Some(host) = from.and_then(|from| self.hosts.find_mut(from)) {
            host.jobs.remove(&index);
            host.requested.memory -= needs.memory;
            host.requested.cpu -= needs.cpu;
        }
        if let Some(host) = to.and_then(|to| self.hosts.find_mut(to)) {
            host.jobs.insert(index);
            host.requested.memory += needs.memory;
            host.requested.cpu += needs.cpu;
        }
    }

    /// Puts a job into the list of its type, or takes it out.
    pub(crate) fn list_in_type(&mut self, index: JobIndex, listed: bool) {
        let job = &self.jobs[index];
        let Some(formation) = job.formation else { return };
        let (kind, age) = (job.kind.clone(), job.age());
        self.count_ending(index, !listed);
        let kind = self.formations[formation].kind_mut(&kind);
        // Mostly the last one.
        let place = match kind.jobs.last() {
            Some(last) if self.jobs[*last].age() < age => kind.jobs.len(),
            _ => kind.jobs.partition_point(|other| self.jobs[*other].age() < age),
        };
        if listed {
            kind.jobs.insert(place, index);
        } else if kind.jobs.get(place) == Some(&index) {
            kind.jobs.remove(place);
        } else {
            kind.jobs.retain(|other| *other != index);
        }
    }

    fn count_ending(&mut self, job: JobIndex, ends: bool) {
        let Some(formation) = self.jobs[job].formation else { return };
        let ending = &mut self.formations[formation].ending;
        *ending = if ends { *ending + 1 } else { ending.saturating_sub(1) };
    }

    /// Nothing remembers the job any more, except that it ended.
    pub(crate) fn forget(&mut self, index: JobIndex) {
        let phase = self.jobs[index].phase;
        if phase.is_live() {
            self.list_in_type(index, false);
        }
        self.count_ending(index, false);
        self.move_job(index, phase.host(), None, self.jobs[index].needs);
        self.stopped -= usize::from(phase == Phase::Stopped);
        let Some(job) = self.jobs.remove(index) else { return };
        self.uuids.remove(&job.uuid);
        self.routing.forget(job.uuid);
        let todo = &mut self.todo;
        for jobs in [&mut todo.stopping, &mut todo.unsaved, &mut todo.lookups, &mut todo.waiting] {
            jobs.remove(&index);
        }
    }

    /// A save that failed is tried again.
    fn save_again(&mut self, index: JobIndex) {
        let saves = self.saves();
        let Some(job) = self.jobs.find_mut(index) else { return };
        if saves && !job.save.in_flight && job.save.saved != job.save.version {
            self.todo.unsaved.insert(index);
        }
    }

    fn save_volumes_again(&mut self) {
        if !self.saves() {
            return;
        }
        let due =
            self.volumes.iter().filter(|volume| !volume.save.in_flight && volume.save.saved != volume.save.version);
        self.todo.unsaved_volumes.extend(due.map(|volume| volume.id.clone()));
    }

    /// The volume's record changed.
    pub(crate) fn touch_volume(&mut self, id: &str) {
        let saves = self.saves();
        let Some(volume) = self.volumes.find_mut(id) else { return };
        volume.save.version = volume.save.version.wrapping_add(1);
        if saves && !volume.save.in_flight && volume.save.failures == 0 {
            self.todo.unsaved_volumes.insert(id.to_owned());
        }
    }
}
