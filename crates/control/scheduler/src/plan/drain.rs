//! Emptying hosts that an operator drains (spec flynn-host section 16.2): a replacement runs before a job is stopped, for a
//! few jobs at once.

use uuid::Uuid;

use super::draft::Draft;
use crate::world::{Formation, FormationIndex, JobIndex, Phase, TypeState};

/// Most formations with a job on its way.
const MOVES: usize = 5;

impl Draft<'_> {
    /// Jobs on draining hosts that can be replaced elsewhere: not those with data there, nor members of database clusters.
    pub(super) fn leaving(&self, formation: &Formation, kind: &TypeState, jobs: &[JobIndex]) -> Vec<JobIndex> {
        let world = self.world;
        let drains = |job: &&JobIndex| {
            let host = world.jobs[**job].phase.host().map(|host| &world.hosts[host]);
            host.is_some_and(|host| host.draining && !host.shutting_down && host.is_healthy())
        };
        if kind.keeps_data() || formation.is_database(&kind.name) {
            return Vec::new();
        }
        jobs.iter().filter(drains).copied().collect()
    }

    /// The next step of a move; gives the replacement, if that is it.
    pub(super) fn move_one(
        &mut self,
        index: FormationIndex,
        kind: &TypeState,
        wanted: usize,
        jobs: &mut Vec<JobIndex>,
        leaving: &[JobIndex],
    ) -> Vec<Uuid> {
        let surplus = jobs.len().saturating_sub(wanted + 1);
        self.stop_surplus(jobs, surplus);
        if jobs.len() > wanted {
            self.stop_leaving(wanted, jobs, leaving);
            return Vec::new();
        }
        if jobs.len() < wanted || self.moving().contains(&index) || self.moving().len() >= MOVES {
            return Vec::new();
        }
        if self.any_host(kind, &[]).is_none() {
            return Vec::new(); // no place to go: it stays until there is one
        }
        self.moving().insert(index);
        self.create(index, kind, 1)
    }

    /// There is one more than wanted. A leaving one can go when enough others run.
    fn stop_leaving(&mut self, wanted: usize, jobs: &mut Vec<JobIndex>, leaving: &[JobIndex]) {
        let runs = |job: &JobIndex| matches!(self.world.jobs[*job].phase, Phase::Running { .. });
        let present = leaving.iter().filter(|job| jobs.contains(job));
        let Some(victim) = present.min_by_key(|job| runs(job)).copied() else { return };
        let others = jobs.iter().filter(|job| **job != victim && runs(job)).count();
        if others >= wanted {
            self.stop(victim);
            jobs.retain(|job| *job != victim);
        }
    }
}
