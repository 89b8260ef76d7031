//! A plan in the making: what it has decided so far counts for the rest.

use std::collections::{BTreeSet, HashSet};

use uuid::Uuid;

use super::place::Placer;
use crate::action::Action;
use crate::reason::Reason;
use crate::time::Time;
use crate::world::{FormationIndex, Ids, Phase, World};

pub(super) struct Draft<'a> {
    pub(super) world: &'a World,
    pub(super) now: Time,
    pub(super) actions: Vec<Action>,
    pub(super) ids: Ids,
    /// Made when the first job is placed.
    placer: Option<Placer>,
    /// Volumes that this plan has given away.
    pub(super) taken: HashSet<String>,
    /// Formations with a job on its way from a draining host to another.
    moving: Option<BTreeSet<FormationIndex>>,
}

/// A job to be placed: one that is pending, or one that this plan creates.
pub(super) struct Candidate<'a> {
    pub(super) job: Uuid,
    pub(super) avoid: &'a [flynn_types::id::HostId],
    /// Why it was not placed before.
    pub(super) waiting: Option<&'a Reason>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(world: &'a World, now: Time) -> Self {
        let ids = world.ids;
        Self { world, now, actions: Vec::new(), ids, placer: None, taken: HashSet::new(), moving: None }
    }

    pub(super) fn placer(&mut self) -> &mut Placer {
        self.placer.get_or_insert_with(|| Placer::new(self.world, self.now))
    }

    /// The job stays pending; said only when it is news.
    pub(super) fn wait(&mut self, candidate: &Candidate<'_>, reason: Reason) {
        if candidate.waiting != Some(&reason) {
            self.actions.push(Action::Wait { job: candidate.job, reason });
        }
    }

    /// A pending job as one to be placed, if its time has come.
    pub(super) fn candidate(&self, job: crate::world::JobIndex) -> Option<Candidate<'a>> {
        let job = &self.world.jobs[job];
        let due = matches!(job.phase, Phase::Pending { not_before } if not_before <= self.now);
        due.then(|| Candidate { job: job.uuid, avoid: &job.avoid, waiting: job.waiting.as_ref() })
    }

    /// Formations that have one job more than they want, because it replaces one on a draining host.
    pub(super) fn moving(&mut self) -> &mut BTreeSet<FormationIndex> {
        self.moving.get_or_insert_with(|| {
            let world = self.world;
            let draining = world.hosts.iter().filter(|(_, host)| host.draining);
            let there = draining.flat_map(|(_, host)| &host.jobs).filter_map(|job| world.jobs[*job].formation);
            let more = |index: &FormationIndex| {
                let formation = &world.formations[*index];
                formation.types.iter().any(|kind| !kind.omni && kind.jobs.len() > world.effective(formation, kind))
            };
            there.collect::<BTreeSet<_>>().into_iter().filter(more).collect()
        })
    }
}
