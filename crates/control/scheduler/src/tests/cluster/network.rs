//! What travels between schedulers, hosts and the controller.

use std::time::Duration;

use flynn_types::controller::{Job, Volume};
use flynn_types::host::{JobStatus, VolumeInfo};
use flynn_types::id::HostId;
use uuid::Uuid;

use super::{Cluster, HostJob};
use crate::Action;
use crate::event::{Answer, Event, Fetched, HostListing, LookUp, Report, Start, Write};
use crate::world::{FormationKey, Found, Mounted, World};
use flynn_types::controller::volume_meta;

/// How long an unanswered request is waited for.
const TIMEOUT: Duration = Duration::from_secs(10);
/// What becomes of a check of a host that is off.
const REFUSED: Duration = Duration::from_millis(5);

#[expect(clippy::large_enum_variant, reason = "only a test's queue holds it")]
pub(in crate::tests) enum Delivery {
    Request {
        scheduler: usize,
        term: Option<u64>,
        request: Request,
    },
    Event {
        scheduler: usize,
        event: Event,
    },
    /// A started job comes to run.
    Runs {
        host: HostId,
        job: Uuid,
    },
    Sync {
        scheduler: usize,
    },
}

/// An action with what its target needs to know.
#[derive(Clone, Debug)]
pub(in crate::tests) enum Request {
    Start { host: HostId, job: Uuid, report: Option<Box<Report>>, service: Option<String>, volumes: Vec<Mounted> },
    Withdraw { job: Uuid },
    End { host: HostId, job: Uuid, stray: bool },
    LookUp { host: HostId, job: Uuid },
    List { host: HostId },
    Check { host: HostId },
    Save { job: Box<Job>, version: u32 },
    SaveVolume { volume: Box<Volume>, version: u32 },
    SaveOrphan { job: Box<Job> },
    Scale { formation: FormationKey, request: String },
    Fetch { formation: FormationKey },
}

impl Request {
    pub(super) fn new(world: &World, action: &Action) -> Option<Self> {
        let host_of = |index| world.host_at(index).map(|host| host.id.clone());
        let placed = |index| {
            let job = world.job_at(index)?;
            Some((host_of(job.phase.host()?)?, job.uuid))
        };
        Some(match action {
            Action::Start { job, host, volumes } => {
                let mounted = |claim: &crate::Claim| Mounted {
                    id: claim.id.clone(),
                    path: claim.path.clone(),
                    delete_on_stop: claim.delete_on_stop,
                };
                let volumes = volumes.iter().map(mounted).collect();
                Self::Start { host: host_of(*host)?, job: *job, report: None, service: None, volumes }
            }
            Action::Withdraw { job } => Self::Withdraw { job: placed(*job)?.1 },
            Action::End { job } => {
                let (host, job) = placed(*job)?;
                Self::End { host, job, stray: false }
            }
            Action::EndStray { host, job } => Self::End { host: host_of(*host)?, job: *job, stray: true },
            Action::LookUp { job } => {
                let (host, job) = placed(*job)?;
                Self::LookUp { host, job }
            }
            Action::List { host } => Self::List { host: host_of(*host)? },
            Action::Check { host } => Self::Check { host: host_of(*host)? },
            Action::Save { job } => {
                let (job, version) = world.job_record(*job)?;
                Self::Save { job: Box::new(job), version }
            }
            Action::SaveVolume { volume } => {
                let (volume, version) = world.volume_record_of(volume)?;
                Self::SaveVolume { volume: Box::new(volume), version }
            }
            Action::SaveOrphan { job } => Self::SaveOrphan { job: Box::new(world.orphan_record(*job)?) },
            Action::TellScale { formation, request } => {
                Self::Scale { formation: world.formation_at(*formation)?.key.clone(), request: request.clone() }
            }
            Action::Fetch { formation } => Self::Fetch { formation: world.formation_at(*formation)?.key.clone() },
            Action::Create { .. } | Action::Wait { .. } | Action::Cancel { .. } | Action::Stop { .. } => return None,
            Action::SyncSinks { .. } => return None,
        })
    }

    /// Fills in what is known only after the plan was taken.
    pub(super) fn complete(mut self, world: &World) -> Self {
        if let Self::Start { job, report, service, volumes, .. } = &mut self {
            let known = world.job(*job).expect("it was just created");
            let key = FormationKey { app: known.app.clone(), release: known.release.clone() };
            let release = &world.formation(&key).and_then(|it| it.known.as_ref()).expect("it is known").release;
            let process = release.processes.get(&*known.kind);
            *service = process.map(|process| process.service.clone()).filter(|name| !name.is_empty());
            *report = Some(Box::new(Report {
                uuid: *job,
                app: known.app.to_string(),
                release: known.release.to_string(),
                kind: known.kind.to_string(),
                scheduled: true,
                status: JobStatus::Starting,
                created: known.created,
                started: crate::Time::default(),
                exit_status: None,
                error: None,
                needs: known.needs,
                volumes: volumes.clone(),
                found: Found::default(),
            }));
        }
        self
    }
}

impl Cluster {
    pub(super) fn after(&mut self, delay: Duration, delivery: Delivery) {
        self.sent += 1;
        self.queue.insert((self.now + delay, self.sent), delivery);
    }

    pub(super) fn send(&mut self, delivery: Delivery) {
        let delay = Duration::from_millis(1 + self.dice.below(self.latency));
        self.after(delay, delivery);
    }

    pub(in crate::tests) fn event_to(&mut self, scheduler: usize, event: Event) {
        if self.twice > 0 && self.dice.below(self.twice) == 0 {
            let delay = Duration::from_millis(1 + self.dice.below(20_000));
            // What a server says of itself comes in order; only what hosts say is repeated late.
            if matches!(event, Event::HostJob { .. } | Event::HostVolume { .. } | Event::Formation(_)) {
                self.after(delay, Delivery::Event { scheduler, event: event.clone() });
            }
        }
        let ordered = matches!(event, Event::HostUp(_) | Event::HostDown(_));
        if ordered {
            self.after(Duration::from_millis(1), Delivery::Event { scheduler, event });
        } else {
            self.send(Delivery::Event { scheduler, event });
        }
    }

    pub(in crate::tests) fn event_later(&mut self, scheduler: usize, delay: Duration, event: Event) {
        self.after(delay, Delivery::Event { scheduler, event });
    }

    pub(in crate::tests) fn event(&mut self, event: &Event) {
        for scheduler in 0..self.schedulers.len() {
            self.event_to(scheduler, event.clone());
        }
    }

    fn host_event(&mut self, id: &HostId, job: Uuid) {
        let host = &self.hosts[id];
        if !host.reachable {
            return;
        }
        let report = Box::new(host.jobs[&job].report.clone());
        let hears = (0..self.schedulers.len()).filter(|number| !host.deaf.contains(number)).collect::<Vec<_>>();
        for scheduler in hears {
            self.event_to(scheduler, Event::HostJob { host: id.clone(), report: report.clone() });
        }
    }

    pub(super) fn deliver(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Event { scheduler, event } => {
                let known: Vec<HostId> = self.schedulers[scheduler].world.hosts().map(|host| host.id.clone()).collect();
                if self.schedulers[scheduler].alive {
                    self.schedulers[scheduler].world.apply(event, self.now);
                }
                self.hosts_are_given_up_by_the_rule(scheduler, &known);
            }
            Delivery::Request { scheduler, term, request } => self.request(scheduler, term, request),
            Delivery::Runs { host, job } => self.runs(&host, job),
            Delivery::Sync { scheduler } => self.sync(scheduler),
        }
    }

    /// Invariant: a host that did not say it would go is given up only after ten seconds of silence.
    fn hosts_are_given_up_by_the_rule(&mut self, scheduler: usize, before: &[HostId]) {
        let world = &self.schedulers[scheduler].world;
        for id in before.iter().filter(|id| world.host(id).is_none()) {
            let host = &self.hosts[id];
            let silent = host.silent_since.map(|since| self.now.since(since));
            if !host.shutting_down && silent.is_none_or(|silent| silent < Duration::from_secs(9)) {
                self.broken.push(format!("{id} was given up after {silent:?} of silence at {:?}", self.now));
            }
        }
    }

    fn answer(&mut self, scheduler: usize, answer: Answer) {
        self.send(Delivery::Event { scheduler, event: Event::Answer(answer) });
    }

    fn later(&mut self, scheduler: usize, delay: Duration, answer: Answer) {
        self.after(delay, Delivery::Event { scheduler, event: Event::Answer(answer) });
    }

    fn request(&mut self, scheduler: usize, term: Option<u64>, request: Request) {
        match request {
            Request::Start { host, job, report, service, volumes } => {
                let report = *report.expect("it was completed");
                self.start(scheduler, term, &host, HostJob { report, service }, &volumes);
                let _ = job;
            }
            Request::Withdraw { job } => self.answer(scheduler, Answer::Withdrawn { job, done: true }),
            Request::End { host, job, stray } => self.end(scheduler, term, &host, job, stray),
            Request::LookUp { host, job } => {
                let state = &self.hosts[&host];
                let outcome = match state.jobs.get(&job) {
                    _ if !state.reachable => LookUp::Failed,
                    Some(job) => LookUp::Found(Box::new(job.report.clone())),
                    None => LookUp::Unknown,
                };
                self.answer(scheduler, Answer::LookedUp { job, host, outcome });
            }
            Request::List { host } => self.list(scheduler, term, host),
            Request::Check { host } => {
                let alive = self.hosts[&host].reachable;
                self.later(scheduler, REFUSED, Answer::Checked { host, alive });
            }
            Request::Save { job, version } => {
                let uuid = job.uuid.parse().unwrap();
                let outcome = self.write(scheduler, term, |controller| controller.save(*job));
                self.answer(scheduler, Answer::Saved { job: uuid, version, outcome });
            }
            Request::SaveVolume { volume, version } => {
                let id = volume.id.clone();
                let outcome = self
                    .write(scheduler, term, |controller| drop(controller.volumes.insert(volume.id.clone(), *volume)));
                self.answer(scheduler, Answer::VolumeSaved { volume: id, version, outcome });
            }
            Request::SaveOrphan { job } => {
                let uuid = job.uuid.parse().unwrap();
                self.write(scheduler, term, |controller| controller.save(*job));
                self.answer(scheduler, Answer::OrphanSaved { job: uuid });
            }
            Request::Scale { formation, request } => {
                let (key, id) = (formation.clone(), request.clone());
                let outcome = self.write(scheduler, term, |controller| {
                    controller.told.push("scale complete".into());
                    let formation = controller.formations.get_mut(&key);
                    if let Some(formation) =
                        formation.filter(|it| it.pending_scale_request.as_ref().is_some_and(|it| it.id == id))
                    {
                        formation.pending_scale_request = None;
                    }
                });
                self.answer(scheduler, Answer::ScaleTold { formation, request, outcome });
            }
            Request::Fetch { formation } => {
                let outcome = match self.controller.formations.get(&formation) {
                    _ if self.controller.down => Fetched::Failed,
                    Some(found) => Fetched::Found(Box::new(found.clone())),
                    None => Fetched::Gone,
                };
                self.answer(scheduler, Answer::Fetched { formation, outcome });
            }
        }
    }

    fn write(&mut self, scheduler: usize, term: Option<u64>, change: impl FnOnce(&mut super::Controller)) -> Write {
        match self.controller.write(term, change) {
            Ok(outcome) => outcome,
            Err(term) => {
                self.answer(scheduler, Answer::Deposed { term });
                Write::Refused
            }
        }
    }

    fn start(&mut self, scheduler: usize, term: Option<u64>, id: &HostId, job: HostJob, volumes: &[Mounted]) {
        let uuid = job.report.uuid;
        let said = |outcome| Answer::Started { job: uuid, host: id.clone(), outcome };
        let host = self.hosts.get_mut(id).unwrap();
        if !host.reachable {
            return self.later(scheduler, TIMEOUT, said(Start::Unknown("it does not answer".into())));
        }
        if term.unwrap_or(0) < host.term {
            let term = host.term;
            self.answer(scheduler, Answer::Deposed { term });
            return self.answer(scheduler, said(Start::Refused("a later leader was here".into())));
        }
        host.term = term.unwrap_or(0);
        if let Some(why) = host.refuses.clone() {
            return self.answer(scheduler, said(Start::Refused(why)));
        }
        if host.jobs.contains_key(&uuid) {
            return self.answer(scheduler, said(Start::Accepted));
        }
        if let Some(volume) = volumes.iter().find(|volume| host.holder(&volume.id).is_some()) {
            let broken = format!("volume {} was given to {uuid} while in use at {:?}", volume.id, self.now);
            if !host.uncertain {
                self.broken.push(broken);
            }
            return self.answer(scheduler, said(Start::Refused("volumes in use".into())));
        }
        for mounted in volumes.iter().filter(|mounted| !host.volumes.contains_key(&mounted.id)).collect::<Vec<_>>() {
            host.volumes.insert(mounted.id.clone(), volume_info(&job.report, mounted));
        }
        host.jobs.insert(uuid, job);
        let (lost, slow) = (host.uncertain, host.slow);
        self.host_event(id, uuid);
        if !slow {
            self.send(Delivery::Runs { host: id.clone(), job: uuid });
        }
        if lost && self.dice.below(3) == 0 {
            self.later(scheduler, TIMEOUT, said(Start::Unknown("the answer was lost".into())));
        } else {
            self.answer(scheduler, said(Start::Accepted));
        }
    }

    pub(in crate::tests) fn runs(&mut self, id: &HostId, job: Uuid) {
        let now = self.now;
        let Some(found) = self.hosts.get_mut(id).and_then(|host| host.jobs.get_mut(&job)) else { return };
        if found.report.status != JobStatus::Starting {
            return;
        }
        found.report.status = JobStatus::Running;
        found.report.started = now;
        let service = found.service.clone();
        self.host_event(id, job);
        if let Some(service) = service {
            self.event(&Event::InstanceUp { service, instance: job.to_string(), job });
        }
    }

    pub(in crate::tests) fn end_job(&mut self, id: &HostId, job: Uuid, status: i32) {
        let Some(found) = self.hosts.get_mut(id).and_then(|host| host.jobs.get_mut(&job)) else { return };
        if !found.report.status.is_active() {
            return;
        }
        found.report.status = if status == 0 { JobStatus::Done } else { JobStatus::Crashed };
        found.report.exit_status = Some(status);
        self.host_event(id, job);
    }

    fn end(&mut self, scheduler: usize, term: Option<u64>, id: &HostId, job: Uuid, stray: bool) {
        let host = self.hosts.get_mut(id).unwrap();
        let reachable = host.reachable;
        if reachable && term.unwrap_or(0) < host.term {
            let term = host.term;
            self.answer(scheduler, Answer::Deposed { term });
        } else if reachable {
            host.term = term.unwrap_or(0);
            self.end_job(id, job, 0);
        }
        let answer =
            if stray { Answer::StrayEnded { host: id.clone(), job } } else { Answer::Ended { job, done: reachable } };
        self.later(scheduler, if reachable { REFUSED } else { TIMEOUT }, answer);
    }

    fn list(&mut self, scheduler: usize, term: Option<u64>, id: HostId) {
        let asked = self.now;
        let host = self.hosts.get_mut(&id).unwrap();
        if !host.reachable {
            return self.later(scheduler, TIMEOUT, Answer::Listed { host: id, asked, term, listing: None });
        }
        host.term = host.term.max(term.unwrap_or(0));
        host.deaf.remove(&scheduler);
        let listing = HostListing {
            jobs: host.listed(),
            volumes: host.volumes.values().cloned().collect(),
            sinks: None,
            capacity: Some(host.capacity),
        };
        self.answer(scheduler, Answer::Listed { host: id, asked, term, listing: Some(Box::new(listing)) });
    }

    /// What a scheduler asks for when it starts, and every 30 s.
    fn sync(&mut self, scheduler: usize) {
        self.after(Duration::from_secs(30), Delivery::Sync { scheduler });
        if self.controller.down {
            return;
        }
        let asked = self.now;
        let jobs = self.controller.active();
        self.event_to(scheduler, Event::ActiveJobs { asked, jobs });
        let active = self.controller.formations.values().filter(|it| it.processes.values().any(|count| *count > 0));
        let formations = active.cloned().collect();
        self.event_to(scheduler, Event::ActiveFormations { asked, formations });
        let hosts = self.hosts.values().filter(|host| host.registered).map(super::SimHost::news).collect();
        self.after(Duration::from_millis(1), Delivery::Event { scheduler, event: Event::Hosts(hosts) });
    }
}

fn volume_info(report: &Report, mounted: &Mounted) -> VolumeInfo {
    let meta = [
        (volume_meta::APP, report.app.clone()),
        (volume_meta::RELEASE, report.release.clone()),
        (volume_meta::TYPE, report.kind.clone()),
        (volume_meta::PATH, mounted.path.clone()),
        (volume_meta::DELETE_ON_STOP, mounted.delete_on_stop.to_string()),
    ];
    let meta = meta.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    VolumeInfo { id: mounted.id.clone(), meta, ..VolumeInfo::default() }
}
