//! A cluster in memory. Requests and events travel for some time, may be lost or come twice; hosts refuse what deposed
//! leaders ask for, as the real ones do.

mod controller;
mod host;
mod network;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use flynn_types::controller::{App, ExpandedFormation, ProcessType, Release, ScaleRequest, VolumeReq};
use flynn_types::id::HostId;
use uuid::Uuid;

pub(super) use controller::Controller;
pub(super) use host::{HostJob, SimHost};
pub(super) use network::{Delivery, Request};

use crate::event::Event;
use crate::world::{FormationKey, Job, Phase, World};
use crate::{Action, Time, plan};

/// Chance that depends on a seed (SplitMix64).
#[derive(Clone)]
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit.max(1)
    }
}

/// Changes a plan for the worse.
pub(super) type Break = fn(&World, &mut Vec<Action>);

pub(super) struct Scheduler {
    pub(super) world: World,
    pub(super) alive: bool,
}

pub(super) struct Cluster {
    pub(super) now: Time,
    pub(super) hosts: BTreeMap<HostId, SimHost>,
    pub(super) controller: Controller,
    pub(super) schedulers: Vec<Scheduler>,
    pub(super) leader: usize,
    pub(super) term: u64,
    queue: BTreeMap<(Time, u64), Delivery>,
    sent: u64,
    dice: Dice,
    /// Longest way of a message in milliseconds.
    pub(super) latency: u64,
    /// Of so many events, one comes twice.
    pub(super) twice: u64,
    pub(super) broken: Vec<String>,
    pub(super) log: Vec<String>,
    /// Compare every plan with a plan of everything.
    pub(super) compare: bool,
    /// What is made of every plan: a rule that is broken on purpose.
    pub(super) breaks: Option<Break>,
    /// What was ordered, in words.
    pub(super) ordered: Vec<Action>,
}

impl Cluster {
    /// Hosts `host1`… and one scheduler that leads.
    pub(super) fn new(hosts: usize) -> Self {
        Self::with(hosts, 1, 1)
    }

    pub(super) fn with(hosts: usize, schedulers: usize, seed: u64) -> Self {
        let mut cluster = Self {
            now: Time(1_700_000_000_000),
            hosts: BTreeMap::new(),
            controller: Controller::default(),
            schedulers: Vec::new(),
            leader: 0,
            term: 1,
            queue: BTreeMap::new(),
            sent: 0,
            dice: Dice(seed),
            latency: 1,
            twice: 0,
            broken: Vec::new(),
            log: Vec::new(),
            compare: true,
            breaks: None,
            ordered: Vec::new(),
        };
        for number in 1..=hosts {
            cluster.add_host(&format!("host{number}"), &[]);
        }
        for number in 0..schedulers {
            cluster.start_scheduler(u128::from(seed) << 8 | number as u128);
        }
        cluster.settle();
        cluster
    }

    pub(super) fn start_scheduler(&mut self, seed: u128) {
        let number = self.schedulers.len();
        self.schedulers.push(Scheduler { world: World::new(seed), alive: true });
        for id in self.hosts.keys().cloned().collect::<Vec<_>>() {
            if self.hosts[&id].registered {
                let event = Event::HostUp(self.hosts[&id].news());
                self.event_to(number, event);
            }
        }
        for formation in self.controller.formations.values().cloned().collect::<Vec<_>>() {
            self.event_to(number, Event::Formation(Box::new(formation)));
        }
        self.event_to(number, Event::FormationsCurrent);
        for volume in self.controller.volumes.values().cloned().collect::<Vec<_>>() {
            self.event_to(number, Event::Volume(Box::new(volume)));
        }
        self.event_to(number, Event::VolumesCurrent);
        let event = Event::Leader { ours: number == self.leader, term: self.term };
        self.event_to(number, event);
        self.after(Duration::ZERO, Delivery::Sync { scheduler: number });
    }

    pub(super) fn world(&self) -> &World {
        &self.schedulers[self.leader].world
    }

    /// Runs until nothing is under way and no time within a minute changes anything.
    pub(super) fn settle(&mut self) {
        self.run(Duration::from_millis(200));
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.plan();
            let queued = self.queue.first_key_value().map(|((at, _), _)| *at);
            let wakes = self.schedulers.iter().filter(|it| it.alive).filter_map(|it| it.world.next_wake()).min();
            let Some(next) = queued.into_iter().chain(wakes).min().filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            if queued.is_some_and(|at| at <= self.now)
                && let Some((_, delivery)) = self.queue.pop_first()
            {
                self.deliver(delivery);
            }
            for scheduler in self.schedulers.iter_mut().filter(|it| it.alive) {
                scheduler.world.advance(self.now);
            }
        }
        self.now = end;
    }

    fn plan(&mut self) {
        for number in 0..self.schedulers.len() {
            if !self.schedulers[number].alive {
                continue;
            }
            loop {
                let world = &self.schedulers[number].world;
                let mut actions = plan(world, self.now);
                if self.compare {
                    let mut all = world.clone();
                    all.mark_all();
                    let full = plan(&all, self.now);
                    if full != actions {
                        self.broken.push(format!("a full plan differs: {full:?} and not {actions:?}"));
                    }
                }
                if let Some(breaks) = self.breaks {
                    breaks(world, &mut actions);
                }
                let requests: Vec<_> = actions.iter().filter_map(|action| Request::new(world, action)).collect();
                self.watch_starts(number, &actions);
                self.schedulers[number].world.order(&actions, self.now);
                let requests: Vec<_> =
                    requests.into_iter().map(|request| request.complete(&self.schedulers[number].world)).collect();
                for request in requests {
                    let term = self.schedulers[number].world.leading();
                    self.send(Delivery::Request { scheduler: number, term, request });
                }
                self.every_pending_job_has_a_reason(number);
                self.ordered.extend(actions.iter().cloned());
                if actions.is_empty() {
                    break;
                }
            }
        }
    }

    /// Invariant: a start is ordered only for a slot that no job fills, by what is true and not only by what is known.
    fn watch_starts(&mut self, number: usize, actions: &[Action]) {
        let world = &self.schedulers[number].world;
        let mut fresh: BTreeMap<(FormationKey, String), Vec<Uuid>> = BTreeMap::new();
        for action in actions {
            let Action::Start { job, .. } = action else { continue };
            let created = actions.iter().find_map(|action| match action {
                Action::Create { job: made, formation, kind, .. } if made == job => {
                    Some((world.formation_at(*formation)?.key.clone(), kind.to_string()))
                }
                _ => None,
            });
            let of =
                |job: &Job| (FormationKey { app: job.app.clone(), release: job.release.clone() }, job.kind.to_string());
            let Some(kind) = created.or_else(|| world.job(*job).map(of)) else { continue };
            fresh.entry(kind).or_default().push(*job);
        }
        if number != self.leader || world.leading() != Some(self.term) {
            return; // a deposed leader may order what it likes: hosts refuse it
        }
        for ((key, kind), jobs) in fresh {
            let stopping = |job: &Uuid| {
                let ordered = actions.iter().any(|action| {
                    matches!(action, Action::Stop { job: stopped } if world.job_at(*stopped).is_some_and(|it| it.uuid == *job))
                });
                ordered || world.job(*job).is_some_and(|job| !job.phase.is_live())
            };
            let known = self.hosts.values().filter(|host| world.host(&host.id).is_some());
            let active =
                known.flat_map(|host| host.active(&key, &kind)).filter(|job| !stopping(job) && !jobs.contains(job));
            let active: BTreeSet<Uuid> = active.collect();
            let Some(formation) = world.formation(&key) else { continue };
            let moves = usize::from(self.hosts.values().any(|host| host.draining));
            let wanted = world.wanted(formation, &kind) + moves;
            if active.len() + jobs.len() > wanted && !self.is_uncertain() {
                self.broken.push(format!(
                    "{kind} of {key:?}: starts {jobs:?} while {active:?} run, and wants {wanted} at {:?}",
                    self.now
                ));
            }
        }
    }

    /// Whether starts may have happened whose answers were lost: then two may run until that is noticed.
    fn is_uncertain(&self) -> bool {
        self.hosts.values().any(|host| host.uncertain)
    }

    fn every_pending_job_has_a_reason(&mut self, number: usize) {
        let world = &self.schedulers[number].world;
        let silent = world.jobs().find(|job| matches!(job.phase, Phase::Pending { .. }) && job.waiting.is_none());
        if let Some(job) = silent {
            self.broken.push(format!("{} of {} is pending without a reason at {:?}", job.uuid, job.kind, self.now));
        }
    }

    pub(super) fn check(&self) {
        assert!(self.broken.is_empty(), "{}\n{}", self.broken.join("\n"), self.log.join("\n"));
    }

    // What tests do and look at.

    pub(super) fn add_host(&mut self, id: &str, tags: &[(&str, &str)]) {
        let id: HostId = id.parse().unwrap();
        let host = SimHost::new(&id, tags);
        self.hosts.insert(id.clone(), host);
        self.discovery(id.as_str());
    }

    pub(super) fn host(&mut self, id: &str) -> &mut SimHost {
        self.hosts.get_mut(id).unwrap()
    }

    /// Tells the schedulers what discovery has of the host.
    pub(super) fn discovery(&mut self, id: &str) {
        let host = &self.hosts[id];
        let event = if host.registered { Event::HostUp(host.news()) } else { Event::HostDown(host.id.clone()) };
        self.event(&event);
    }

    /// Puts a formation, with a scale request as the API makes one.
    pub(super) fn put(&mut self, mut formation: ExpandedFormation) {
        let key = key_of(&formation);
        let id = format!("scale{}", self.sent);
        self.sent += 1;
        formation.updated_at = self.controller.tick(self.now);
        formation.pending_scale_request = Some(ScaleRequest {
            id,
            app_id: key.app.to_string(),
            release_id: key.release.to_string(),
            ..ScaleRequest::default()
        });
        self.controller.formations.insert(key, formation.clone());
        self.event(&Event::Formation(Box::new(formation)));
    }

    pub(super) fn scale(&mut self, app: &str, release: &str, counts: &[(&str, i64)]) {
        let mut formation = self.controller.formations[&FormationKey::new(app, release)].clone();
        for (kind, count) in counts {
            formation.processes.insert((*kind).to_owned(), *count);
        }
        self.put(formation);
    }

    /// Active jobs of a type by host, as the hosts know.
    pub(super) fn spread(&self, app: &str, release: &str, kind: &str) -> Vec<(String, usize)> {
        let key = FormationKey::new(app, release);
        let count = |host: &SimHost| (host.id.to_string(), host.active(&key, kind).count());
        self.hosts.values().map(count).filter(|(_, count)| *count > 0).collect()
    }

    pub(super) fn count(&self, app: &str, release: &str, kind: &str) -> usize {
        self.spread(app, release, kind).iter().map(|(_, count)| count).sum()
    }

    pub(super) fn reasons(&self) -> Vec<String> {
        let mut reasons: Vec<_> =
            self.world().jobs().filter_map(|job| job.waiting.as_ref()).map(ToString::to_string).collect();
        reasons.sort();
        reasons.dedup();
        reasons
    }

    /// The only active job of a type: its host and id.
    pub(super) fn only(&self, app: &str, release: &str, kind: &str) -> (HostId, Uuid) {
        let key = FormationKey::new(app, release);
        let mut all = self.hosts.values().flat_map(|host| host.active(&key, kind).map(|job| (host.id.clone(), job)));
        let only = all.next().expect("a job runs");
        assert_eq!(all.next(), None, "only one job runs");
        only
    }

    /// Ids of the active jobs of a type.
    pub(super) fn only_ids(&self, app: &str, release: &str, kind: &str) -> BTreeSet<Uuid> {
        let key = FormationKey::new(app, release);
        self.hosts.values().flat_map(|host| host.active(&key, kind).collect::<Vec<_>>()).collect()
    }

    pub(super) fn crash(&mut self, host: &HostId, job: Uuid) {
        self.end_job(host, job, 1);
    }

    pub(super) fn lead(&mut self, number: usize) {
        self.term += 1;
        self.leader = number;
        for other in 0..self.schedulers.len() {
            let event = Event::Leader { ours: other == number, term: self.term };
            self.event_to(other, event);
        }
    }
}

pub(super) fn key_of(formation: &ExpandedFormation) -> FormationKey {
    FormationKey::new(&formation.app.as_ref().unwrap().id, &formation.release.as_ref().unwrap().id)
}

/// A formation with these types and counts.
pub(super) fn formation(app: &str, release: &str, counts: &[(&str, i64)]) -> ExpandedFormation {
    let processes = counts.iter().map(|(kind, _)| ((*kind).to_owned(), ProcessType::default())).collect();
    ExpandedFormation {
        app: Some(App { id: app.into(), name: app.into(), ..App::default() }),
        release: Some(Release { id: release.into(), app_id: app.into(), processes, ..Release::default() }),
        processes: counts.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect(),
        ..ExpandedFormation::default()
    }
}

/// Changes a type of a formation.
pub(super) fn with(
    mut formation: ExpandedFormation,
    kind: &str,
    change: impl FnOnce(&mut ProcessType),
) -> ExpandedFormation {
    change(formation.release.as_mut().unwrap().processes.get_mut(kind).unwrap());
    formation
}

pub(super) fn omni(formation: ExpandedFormation, kind: &str) -> ExpandedFormation {
    with(formation, kind, |process| process.omni = true)
}

pub(super) fn data(formation: ExpandedFormation, kind: &str) -> ExpandedFormation {
    with(formation, kind, |process| process.volumes.push(VolumeReq { path: "/data".into(), delete_on_stop: false }))
}

pub(super) fn tagged(mut formation: ExpandedFormation, kind: &str, tags: &[(&str, &str)]) -> ExpandedFormation {
    let tags = tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    formation.tags.insert(kind.into(), tags);
    formation
}

pub(super) fn critical(mut formation: ExpandedFormation) -> ExpandedFormation {
    formation.app.as_mut().unwrap().meta.insert("flynn-system-critical".into(), "true".into());
    formation
}
