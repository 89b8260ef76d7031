//! Steps that follow from one object alone.

use flynn_types::controller::Sink;
use flynn_types::host::SinkInfo;

use super::draft::Draft;
use crate::action::Action;
use crate::world::{Check, Fetch, Host, Listing, Phase, Stop};

impl Draft<'_> {
    /// The next step of every stop, and of what hosts have against our will.
    pub(super) fn stops(&mut self) {
        for index in &self.world.todo.stopping {
            let job = &self.world.jobs[*index];
            self.actions.push(match job.phase {
                Phase::Stopping { step: Stop::Due, .. } if self.world.routing.is_backend(job.uuid) => {
                    Action::Withdraw { job: *index }
                }
                _ => Action::End { job: *index },
            });
        }
        for ((host, job), _) in self.world.todo.strays.iter().filter(|(_, ordered)| !**ordered) {
            self.actions.push(Action::EndStray { host: *host, job: *job });
        }
    }

    pub(super) fn orphans(&mut self) {
        self.actions.extend(self.world.todo.orphans.iter().map(|job| Action::SaveOrphan { job: *job }));
    }

    pub(super) fn hosts(&mut self) {
        for index in &self.world.todo.hosts {
            let host = &self.world.hosts[*index];
            if matches!(host.check, Check::Due(at) if at <= self.now) {
                self.actions.push(Action::Check { host: *index });
            }
            if host.is_healthy() && matches!(host.listing, Listing::Due(at) if at <= self.now) {
                self.actions.push(Action::List { host: *index });
            }
            self.sinks(host);
        }
        self.actions.extend(self.world.todo.lookups.iter().map(|job| Action::LookUp { job: *job }));
    }

    /// Sinks that the controller has are on every host, others that hosts do not manage themselves on none.
    fn sinks(&mut self, host: &Host) {
        let (Some(wanted), Some(found)) = (&self.world.sinks, &host.sinks) else { return };
        let same = |sink: &Sink, found: &SinkInfo| {
            let text =
                |config: &Option<Box<serde_json::value::RawValue>>| config.as_ref().map(|it| it.get().to_owned());
            found.id == sink.id && text(&sink.config) == text(&found.config)
        };
        let managed = |id: &str| found.iter().any(|found| found.id == id && found.host_managed);
        let missing = |sink: &&Sink| !sink.host_managed && !managed(&sink.id) && !found.iter().any(|it| same(sink, it));
        let put: Vec<_> = wanted.values().filter(missing).map(|sink| sink.id.clone()).collect();
        let unwanted = |found: &&SinkInfo| !found.host_managed && !wanted.contains_key(&found.id);
        let remove: Vec<_> = found.iter().filter(unwanted).map(|found| found.id.clone()).collect();
        if !put.is_empty() || !remove.is_empty() {
            self.actions.push(Action::SyncSinks { host: host.id.clone(), put, remove });
        }
    }

    pub(super) fn fetches(&mut self) {
        let due = self.world.todo.fetches.iter().filter(|index| self.world.formations[**index].fetch == Fetch::Due);
        self.actions.extend(due.map(|index| Action::Fetch { formation: *index }));
    }

    pub(super) fn saves(&mut self) {
        let todo = &self.world.todo;
        self.actions.extend(todo.unsaved.iter().map(|job| Action::Save { job: *job }));
        self.actions.extend(todo.unsaved_volumes.iter().map(|id| Action::SaveVolume { volume: id.clone() }));
    }
}
