//! Taking over and stepping down.

use crate::time::Time;
use crate::world::{Listing, Orphan, Phase, Role, Save, TAKE_OVER_PATIENCE, Timer, World};

impl World {
    /// Discovery names the leader. Older news than known ones change nothing.
    pub(super) fn leader(&mut self, ours: bool, term: u64, now: Time) {
        if term < self.term {
            return;
        }
        self.term = term;
        match (ours, self.role) {
            (true, Role::Leader { term: held, .. }) if held == term => {}
            (true, _) => self.lead(term, now),
            (false, _) => self.follow(),
        }
    }

    /// A host or the controller refused a write: it has seen a later leader.
    pub(super) fn deposed(&mut self, term: u64) {
        if self.leading().is_some_and(|held| term > held) {
            self.term = term;
            self.follow();
        }
    }

    fn lead(&mut self, term: u64, now: Time) {
        // Every host is asked anew what it runs: with that it refuses what earlier leaders still ask for.
        for index in self.hosts.indices() {
            let host = &mut self.hosts[index];
            host.fenced = None;
            host.listing = Listing::Due(now);
            if host.listed.is_some() {
                self.todo.unheard.insert(index);
            }
        }
        if self.role == Role::Follower {
            // The leader before wrote them. What it could not write shows when all jobs are compared.
            for index in self.jobs.indices() {
                let save = &mut self.jobs[index].save;
                *save = Save { version: save.version, saved: save.version, ..Save::default() };
            }
        }
        self.role = Role::Leader { term, since: now };
        self.wake(now + TAKE_OVER_PATIENCE, Timer::TakeOver);
        self.mark_all();
    }

    /// What this scheduler had in mind is the next leader's business.
    fn follow(&mut self) {
        if self.role == Role::Follower {
            return;
        }
        self.role = Role::Follower;
        for index in self.jobs.indices() {
            self.jobs[index].save = Save::default();
            self.jobs[index].looked_up = false;
            match self.jobs[index].phase {
                // No host has them. One that still gets them will tell.
                Phase::Pending { .. } | Phase::Placed { .. } => {
                    let (uuid, volumes) = (self.jobs[index].uuid, self.jobs[index].volumes.clone());
                    self.drop_new_volumes(uuid, &volumes);
                    self.forget(index);
                }
                Phase::Stopped => self.forget(index),
                Phase::Stopping { host, .. } => {
                    let since = self.jobs[index].heard;
                    self.set_phase(index, Phase::Running { host, since });
                }
                Phase::Starting { .. } | Phase::Running { .. } => {}
            }
        }
        for index in self.formations.indices() {
            self.formations[index].types.iter_mut().for_each(|kind| kind.exits.clear());
        }
        let todo = &mut self.todo;
        todo.unsaved.clear();
        todo.unsaved_volumes.clear();
        todo.lookups.clear();
        todo.strays.clear();
        todo.orphans.clear();
        todo.unheard.clear();
        self.orphans.clear();
    }

    pub(super) fn orphan_found(&mut self, record: &flynn_types::controller::Job, uuid: uuid::Uuid) {
        self.orphans.entry(uuid).or_insert_with(|| Orphan { record: record.clone(), in_flight: false });
        self.todo.orphans.insert(uuid);
    }
}
