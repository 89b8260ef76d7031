//! How events change the world. Each is harmless when it comes twice, late or never.

mod controller;
mod hosts;
mod jobs;
mod leadership;
mod routing;
mod volumes;

use crate::event::{Answer, Event};
use crate::time::Time;
use crate::world::World;

impl World {
    /// Takes in what happened.
    pub fn apply(&mut self, event: Event, now: Time) {
        match event {
            Event::HostUp(news) => self.host_up(&news, now),
            Event::HostDown(id) => self.host_down(&id, now),
            Event::Hosts(hosts) => self.all_hosts(&hosts, now),
            Event::Leader { ours, term } => self.leader(ours, term, now),
            Event::InstanceUp { service, instance, job } => self.instance_up(&service, &instance, job, now),
            Event::InstanceDown { service, instance } => drop(self.routing.instance_down(&service, &instance)),
            Event::RouterUp(router) => self.routing.router_up(&router),
            Event::RouterDown(router) => self.router_down(&router, now),
            Event::Router { router, event } => self.router_event(&router, &event, now),
            Event::Formation(news) => self.formation_news(&news, now),
            Event::FormationsCurrent => self.formations_current = true,
            Event::ActiveFormations { asked, formations } => self.active_formations(asked, &formations, now),
            Event::Volume(record) => self.volume_record(&record),
            Event::VolumesCurrent => self.volumes_current = true,
            Event::Sinks(sinks) => self.all_sinks(sinks),
            Event::Sink(sink) => self.sink(sink),
            Event::ActiveJobs { asked, jobs } => self.active_jobs(asked, jobs, now),
            Event::HostStream(id) => self.stream_opened(&id, now),
            Event::HostJob { host, report } => self.host_job(&host, &report, now),
            Event::HostVolume { host, event } => self.host_volume(&host, &event),
            Event::Answer(answer) => self.answer(answer, now),
        }
        if self.records.is_some()
            && self.decides(now)
            && let Some((asked, records)) = self.records.take()
        {
            self.active_jobs(asked, records, now);
        }
    }

    fn answer(&mut self, answer: Answer, now: Time) {
        match answer {
            Answer::Checked { host, alive } => self.checked(&host, alive, now),
            Answer::Listed { host, asked, term, listing } => {
                self.listed(&host, asked, term, listing.as_deref(), now);
                self.compare_elsewhere();
            }
            Answer::Started { job, host, outcome } => self.started(job, &host, outcome, now),
            Answer::LookedUp { job, host, outcome } => self.looked_up(job, &host, outcome, now),
            Answer::Withdrawn { job, done } => self.withdrawn(job, done, now),
            Answer::Ended { job, done } => self.ended(job, done, now),
            Answer::StrayEnded { host, job } => self.stray_ended(&host, job),
            Answer::Saved { job, version, outcome } => self.saved(job, version, outcome, now),
            Answer::VolumeSaved { volume, version, outcome } => self.volume_saved(&volume, version, outcome, now),
            Answer::OrphanSaved { job } => self.orphan_saved(job),
            Answer::ScaleTold { formation, request, outcome } => self.scale_told(&formation, &request, outcome, now),
            Answer::Fetched { formation, outcome } => self.fetched(&formation, outcome, now),
            Answer::SinksSynced { host, sinks } => self.sinks_synced(&host, sinks, now),
            Answer::Deposed { term } => self.deposed(term),
        }
    }
}
