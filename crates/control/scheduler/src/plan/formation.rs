//! One formation: as many jobs as wanted, where they may be.

use std::cmp::Reverse;

use super::draft::{Candidate, Draft};
use crate::action::Action;
use crate::reason::Reason;
use crate::time::Time;
use crate::world::{Formation, FormationIndex, JobIndex, PendingScale, Phase, Telling, TypeState};

/// Delay before a restart, by the restarts before (spec section 5).
fn back_off_seconds(restarts: u32) -> u64 {
    match restarts {
        0..5 => 0,
        5..15 => 10,
        15.. => 30,
    }
}

impl<'a> Draft<'a> {
    pub(super) fn formation(&mut self, index: FormationIndex) {
        let formation = &self.world.formations[index];
        if !formation.is_settled() {
            return; // nobody knows what is wanted: the controller is being asked
        }
        for kind in &formation.types {
            if kind.omni {
                self.omni_type(index, formation, kind);
            } else {
                self.ordinary_type(index, formation, kind);
            }
        }
        self.scale_request(index, formation);
    }

    fn ordinary_type(&mut self, index: FormationIndex, formation: &Formation, kind: &TypeState) {
        let wanted = self.world.guarded_count(formation, kind);
        let mut jobs = self.where_they_may_be(kind);
        let mut new = self.create(index, kind, wanted.saturating_sub(jobs.len()));
        let leaving = self.leaving(formation, kind, &jobs);
        if leaving.is_empty() {
            let surplus = jobs.len().saturating_sub(wanted);
            self.stop_surplus(&mut jobs, surplus);
        } else {
            new.extend(self.move_one(index, kind, wanted, &mut jobs, &leaving));
        }
        self.place_due(formation, kind, &jobs, &new);
    }

    /// The type's jobs, without those that are stopped for being on a host without its tags (spec G2).
    pub(super) fn where_they_may_be(&mut self, kind: &TypeState) -> Vec<JobIndex> {
        let world = self.world;
        if kind.tags.is_empty() {
            return kind.jobs.clone();
        }
        let fits =
            |job: &&JobIndex| world.jobs[**job].phase.host().is_none_or(|host| world.hosts[host].has_tags(&kind.tags));
        let (stay, go): (Vec<&JobIndex>, Vec<&JobIndex>) = kind.jobs.iter().partition(fits);
        self.actions.extend(go.into_iter().map(|job| Action::Stop { job: *job }));
        stay.into_iter().copied().collect()
    }

    /// Stops so many, in the order in which they are missed least.
    pub(super) fn stop_surplus(&mut self, jobs: &mut Vec<JobIndex>, surplus: usize) {
        if surplus == 0 {
            return;
        }
        let mut order: Vec<_> = jobs.iter().map(|job| (self.missed(*job), *job)).collect();
        if surplus < order.len() {
            order.select_nth_unstable(surplus - 1);
        }
        order.truncate(surplus);
        order.sort_unstable();
        for (_, job) in &order {
            self.stop(*job);
        }
        let stopped: std::collections::HashSet<JobIndex> = order.into_iter().map(|(_, job)| job).collect();
        jobs.retain(|job| !stopped.contains(job));
    }

    pub(super) fn stop(&mut self, job: JobIndex) {
        self.actions.push(match self.world.jobs[job].phase.host() {
            Some(_) => Action::Stop { job },
            None => Action::Cancel { job },
        });
    }

    /// How much a job would be missed, least first: blocked, pending or about to go anyway, starting, running; of equals the
    /// newest first (spec J26; blocked ones by W16).
    fn missed(&self, index: JobIndex) -> (u8, Reverse<(Time, uuid::Uuid)>) {
        let job = &self.world.jobs[index];
        let going = job.phase.host().is_some_and(|host| {
            let host = &self.world.hosts[host];
            host.shutting_down || host.draining
        });
        let class = match job.phase {
            Phase::Pending { .. } if job.waiting.as_ref().is_some_and(Reason::blocks) => 0,
            Phase::Pending { .. } => 1,
            _ if going => 1,
            Phase::Placed { .. } | Phase::Starting { .. } => 2,
            Phase::Running { .. } | Phase::Stopping { .. } | Phase::Stopped => 3,
        };
        (class, Reverse(job.age()))
    }

    /// So many new jobs, the first as successors of those that ended by themselves; gives those to be placed now.
    pub(super) fn create(&mut self, formation: FormationIndex, kind: &TypeState, missing: usize) -> Vec<uuid::Uuid> {
        let mut exits = kind.exits.iter();
        let mut due = Vec::new();
        for _ in 0..missing {
            let job = self.ids.next();
            let (restarts, not_before, waiting) = match exits.next() {
                None => (0, self.now, None),
                Some(exit) => {
                    let seconds = back_off_seconds(exit.restarts);
                    let not_before = exit.at + std::time::Duration::from_secs(seconds);
                    let waiting = Reason::BackOff { seconds, ended: exit.how.clone() };
                    (exit.restarts + 1, not_before, (not_before > self.now).then_some(waiting))
                }
            };
            if not_before <= self.now {
                due.push(job);
            }
            let kind = kind.name.clone();
            self.actions.push(Action::Create { job, formation, kind, restarts, not_before, waiting });
        }
        due
    }

    /// Tells that a scale request is complete, once every type has as many running jobs as wanted and nothing is stopping
    /// or untold (spec P6, J14).
    fn scale_request(&mut self, index: FormationIndex, formation: &Formation) {
        let Some(known) = &formation.known else { return };
        let due = |scale: &&PendingScale| match scale.told {
            Telling::Due => true,
            Telling::Again(at) => at <= self.now,
            Telling::InFlight => false,
        };
        let Some(scale) = known.scale.as_ref().filter(due) else { return };
        let complete = formation.types.iter().all(|kind| self.is_complete(formation, kind));
        if complete && formation.ending == 0 {
            self.actions.push(Action::TellScale { formation: index, request: scale.id.clone() });
        }
    }

    fn is_complete(&self, formation: &Formation, kind: &TypeState) -> bool {
        let told = |index: &JobIndex| {
            let job = &self.world.jobs[*index];
            matches!(job.phase, Phase::Running { .. }) && job.save.is_current()
        };
        let wanted = self.world.effective(formation, kind);
        // A refused change of a critical app is never complete.
        let allowed = kind.count > 0 || wanted == 0;
        allowed && kind.jobs.len() == wanted && kind.jobs.iter().all(told)
    }

    /// Pending jobs whose time has come, and new ones.
    pub(super) fn candidates(&self, jobs: &[JobIndex], new: &[uuid::Uuid]) -> Vec<Candidate<'a>> {
        let new = new.iter().map(|job| Candidate { job: *job, avoid: &[], waiting: None });
        jobs.iter().filter_map(|job| self.candidate(*job)).chain(new).collect()
    }
}
