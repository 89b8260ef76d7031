//! The controller of the cluster in memory.

use std::collections::BTreeMap;

use flynn_types::controller::{ExpandedFormation, Job, JobState, Volume};
use flynn_types::time::GoTime;
use uuid::Uuid;

use crate::Time;
use crate::event::Write;
use crate::world::FormationKey;

#[derive(Default)]
pub(in crate::tests) struct Controller {
    pub(in crate::tests) formations: BTreeMap<FormationKey, ExpandedFormation>,
    pub(in crate::tests) jobs: BTreeMap<Uuid, Job>,
    pub(in crate::tests) volumes: BTreeMap<String, Volume>,
    /// States of jobs in the order in which they were told, and scale requests that were completed.
    pub(in crate::tests) told: Vec<String>,
    /// Writes fail.
    pub(in crate::tests) down: bool,
    term: u64,
    ticks: i64,
}

impl Controller {
    /// A time later than all before.
    pub(in crate::tests) fn tick(&mut self, now: Time) -> GoTime {
        self.ticks += 1;
        Time(now.0 + self.ticks).to_wire()
    }

    pub(super) fn write(&mut self, term: Option<u64>, change: impl FnOnce(&mut Self)) -> Result<Write, u64> {
        if term.is_some_and(|term| term < self.term) {
            return Err(self.term);
        }
        if self.down {
            return Ok(Write::Failed);
        }
        self.term = self.term.max(term.unwrap_or(0));
        change(self);
        Ok(Write::Done)
    }

    pub(super) fn save(&mut self, job: Job) {
        let state = job.state.map_or("none", JobState::as_str);
        self.told.push(format!("{} {state}", job.kind));
        self.jobs.insert(job.uuid.parse().unwrap(), job);
    }

    pub(in crate::tests) fn active(&self) -> Vec<Job> {
        let active = |job: &&Job| {
            matches!(
                job.state,
                Some(JobState::Pending | JobState::Blocked | JobState::Starting | JobState::Up | JobState::Stopping)
            )
        };
        self.jobs.values().filter(active).cloned().collect()
    }
}
