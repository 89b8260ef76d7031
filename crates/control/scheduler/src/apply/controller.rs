//! What the controller says.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use flynn_types::controller::{ExpandedFormation, Job as Record, JobState, Sink};
use flynn_types::id::HostId;
use uuid::Uuid;

use crate::event::{Fetched, Write};
use crate::time::Time;
use crate::world::{Fetch, Formation, FormationIndex, FormationKey, Phase, Telling, Timer, World};

/// After a question or a word to the controller that failed.
const AGAIN: Duration = Duration::from_secs(1);

impl World {
    pub(crate) fn insert_formation(&mut self, formation: Formation) -> FormationIndex {
        let key = formation.key.clone();
        let index = self.formations.insert(formation);
        self.apps.entry(key.app.clone()).or_default().insert(index);
        self.formation_keys.insert(key, index);
        index
    }

    /// News of a formation (spec F1, F2).
    pub(super) fn formation_news(&mut self, news: &ExpandedFormation, now: Time) {
        let (Some(app), Some(release)) = (&news.app, &news.release) else { return };
        let key = FormationKey::new(&app.id, &release.id);
        let index = match self.formation_keys.get(&key) {
            Some(index) => *index,
            None => self.insert_formation(Formation::new(key)),
        };
        let formation = &mut self.formations[index];
        formation.heard = now;
        if !formation.change(news) {
            return;
        }
        self.todo.fetches.remove(&index);
        self.formations[index].fetch = Fetch::No;
        self.count_services(index);
        // Its counts and tags, and the guard of a critical app's other releases.
        self.todo.formations.insert(index);
        if self.formations[index].is_critical() {
            let releases: Option<&BTreeSet<_>> = self.apps.get(&self.formations[index].key.app);
            self.todo.formations.extend(releases.into_iter().flatten());
        }
    }

    /// Which services are waited for.
    fn count_services(&mut self, index: FormationIndex) {
        let wanted = self.formations[index].types.iter().filter(|kind| kind.count > 0);
        let names: BTreeSet<Arc<str>> = wanted.filter_map(|kind| kind.service.clone()).collect();
        self.services.retain(|name, formations| {
            if names.contains(name.as_str()) {
                formations.insert(index);
            } else {
                formations.remove(&index);
            }
            if formations.is_empty() {
                self.routing.forget_service(name);
            }
            !formations.is_empty()
        });
        for name in names {
            self.services.entry(name.to_string()).or_default().insert(index);
        }
    }

    /// Formations that are not in the list may be gone: the controller is asked for each.
    pub(super) fn active_formations(&mut self, asked: Time, formations: &[ExpandedFormation], now: Time) {
        let mut present = HashSet::new();
        for news in formations {
            self.formation_news(news, now);
            if let (Some(app), Some(release)) = (&news.app, &news.release) {
                present.insert(FormationKey::new(&app.id, &release.id));
            }
        }
        let absent = |formation: &Formation| {
            (formation.is_wanted() || formation.known.is_none())
                && formation.heard < asked
                && !present.contains(&formation.key)
        };
        let absent: Vec<_> = self.formations.iter().filter(|(_, it)| absent(it)).map(|(index, _)| index).collect();
        for index in absent {
            if self.formations[index].fetch == Fetch::No {
                self.formations[index].fetch = Fetch::Due;
                self.todo.fetches.insert(index);
            }
        }
    }

    pub(super) fn fetched(&mut self, key: &FormationKey, outcome: Fetched, now: Time) {
        let Some(index) = self.formation_keys.get(key).copied() else { return };
        if self.formations[index].fetch != Fetch::InFlight {
            return; // news came by themselves
        }
        match outcome {
            Fetched::Found(news) => self.formation_news(&news, now),
            Fetched::Gone => {
                let formation = &mut self.formations[index];
                (formation.fetch, formation.heard) = (Fetch::No, now);
                formation.gone = true;
                formation.empty();
                self.count_services(index);
                self.todo.formations.insert(index);
            }
            Fetched::Failed => {
                self.formations[index].fetch = Fetch::Due;
                self.wake(now + AGAIN, Timer::Fetch(index));
            }
        }
    }

    pub(super) fn scale_told(&mut self, key: &FormationKey, request: &str, outcome: Write, now: Time) {
        let Some(index) = self.formation_keys.get(key).copied() else { return };
        let Some(known) = &mut self.formations[index].known else { return };
        let Some(scale) = known.scale.as_mut().filter(|scale| scale.id == request) else { return };
        match outcome {
            Write::Done | Write::Refused => known.scale = None,
            Write::Failed => {
                scale.told = Telling::Again(now + AGAIN);
                self.wake(now + AGAIN, Timer::Formation(index));
            }
        }
    }

    /// Compares the controller's active jobs with ours (spec J19, J20).
    pub(super) fn active_jobs(&mut self, asked: Time, records: Vec<Record>, now: Time) {
        if !self.decides(now) {
            self.records = Some((asked, records));
            return;
        }
        self.elsewhere.clear();
        let mut present = HashSet::new();
        for record in records {
            present.extend(record.uuid.parse::<Uuid>());
            self.compare(record);
        }
        let absent = self.jobs.iter().filter(|(_, job)| {
            job.phase.is_live()
                && job.save.saved == job.save.version
                && job.created < asked
                && !present.contains(&job.uuid)
        });
        for index in absent.map(|(index, _)| index).collect::<Vec<_>>() {
            self.touch(index);
        }
    }

    fn compare(&mut self, record: Record) {
        let Ok(uuid) = record.uuid.parse::<Uuid>() else { return };
        match self.uuids.get(&uuid).copied() {
            Some(index) => {
                let job = &self.jobs[index];
                // A blocked job is reported as pending.
                let same = record.state == Some(job.state())
                    || (job.state() == JobState::Blocked && record.state == Some(JobState::Pending));
                let settled = job.save.saved == job.save.version && !job.save.in_flight;
                if !same && settled && !matches!(job.phase, Phase::Stopping { .. }) {
                    self.touch(index);
                }
            }
            None if self.may_be_elsewhere(&record) => self.elsewhere.push(record),
            None => self.orphan_found(&record, uuid),
        }
    }

    /// A host has told what it has: what was not known before may be known now to be nowhere.
    pub(super) fn compare_elsewhere(&mut self) {
        for record in std::mem::take(&mut self.elsewhere) {
            self.compare(record);
        }
    }

    /// Whether the job may run on a host that has not been heard yet.
    fn may_be_elsewhere(&self, record: &Record) -> bool {
        let id = record.host_id.parse::<HostId>().ok();
        let host = id.and_then(|id| self.host_ids.get(&id)).map(|index| &self.hosts[*index]);
        host.is_some_and(|host| host.listed.is_none() || self.leading() != host.fenced)
    }

    /// The record was written. What failed is found again by the next comparison.
    pub(super) fn orphan_saved(&mut self, uuid: Uuid) {
        self.orphans.remove(&uuid);
        self.todo.orphans.remove(&uuid);
    }

    pub(super) fn saved(&mut self, uuid: Uuid, version: u32, outcome: Write, now: Time) {
        let saves = self.saves();
        let Some(index) = self.uuids.get(&uuid).copied() else { return };
        let job = &mut self.jobs[index];
        if !job.save.in_flight {
            return;
        }
        let again = job.save.answered(version, outcome);
        let (current, over) = (job.save.saved == job.save.version, job.phase == Phase::Stopped);
        match again {
            Some(pause) => self.wake(now + pause, Timer::Save(index)),
            None if !current && saves => {
                self.todo.unsaved.insert(index);
            }
            None => {}
        }
        self.mark_formation_of(index); // whose scale request may be complete
        if current && over {
            self.forget(index);
        }
    }

    pub(super) fn all_sinks(&mut self, sinks: Vec<Sink>) {
        self.sinks = Some(sinks.into_iter().map(|sink| (sink.id.clone(), sink)).collect());
        self.todo.hosts.extend(self.hosts.indices());
    }

    pub(super) fn sink(&mut self, sink: Sink) {
        let Some(sinks) = &mut self.sinks else { return }; // the full list comes first
        if sink.config.is_some() {
            sinks.insert(sink.id.clone(), sink);
        } else {
            sinks.remove(&sink.id);
        }
        self.todo.hosts.extend(self.hosts.indices());
    }
}
