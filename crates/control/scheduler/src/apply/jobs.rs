//! What hosts say of jobs.

use std::time::Duration;

use flynn_types::host::JobStatus;
use flynn_types::id::HostId;
use uuid::Uuid;

use crate::event::{LookUp, Report, Start};
use crate::reason::Reason;
use crate::time::Time;
use crate::world::{
    COOLING, Exit, Fetch, Formation, FormationKey, HostIndex, Job, JobIndex, Phase, ROUTER_PATIENCE, Save, Stop, Timer,
    World,
};

/// After it ran so long, a job that ends is restarted as if it were the first time (spec J23).
const RAN_LONG: Duration = Duration::from_secs(300);
/// Between two tries to start a job, times the tries so far; at most 30 s (spec section 5).
const START_AGAIN: Duration = Duration::from_millis(500);
const START_AGAIN_MOST: Duration = Duration::from_secs(30);
/// After a stop that was asked for or failed, until it is asked for again (spec J20).
const STOP_AGAIN: Duration = Duration::from_secs(30);
const STOP_FAILED_AGAIN: Duration = Duration::from_secs(1);

impl World {
    pub(super) fn host_job(&mut self, id: &HostId, report: &Report, now: Time) {
        if let Some(index) = self.host_ids.get(id).copied() {
            self.report(index, report, now, now);
        }
    }

    /// A host says something of a job, as of `heard`.
    pub(super) fn report(&mut self, host: HostIndex, report: &Report, heard: Time, now: Time) {
        let Some(index) = self.uuids.get(&report.uuid).copied() else {
            return self.found(host, report, heard, now);
        };
        let job = &mut self.jobs[index];
        if job.phase == Phase::Stopped {
            return;
        }
        if job.phase.host().is_some_and(|placed| placed != host) {
            // A start that was given up succeeded after all (spec J7).
            if report.status.is_active() {
                self.todo.strays.entry((host, report.uuid)).or_insert(false);
            }
            return;
        }
        job.heard = job.heard.max(heard);
        let volumes = report.status.is_active() && job.volumes != report.volumes;
        self.todo.lookups.remove(&index);
        if volumes {
            // An earlier start, whose answer was lost, succeeded: with the volumes of then.
            let before = std::mem::replace(&mut self.jobs[index].volumes, report.volumes.clone());
            self.drop_new_volumes(report.uuid, &before);
            self.hold_volumes(index);
        }
        match report.status {
            JobStatus::Starting => self.host_starts(index, host),
            JobStatus::Running => self.host_runs(index, host, now),
            JobStatus::Done | JobStatus::Crashed | JobStatus::Failed => {
                // The end of an attempt elsewhere says nothing of a job that waits for the next one.
                if self.jobs[index].phase.host().is_some() {
                    self.stopped(index, report.exit_status, report.error.clone(), true, now);
                }
            }
        }
    }

    fn host_starts(&mut self, index: JobIndex, host: HostIndex) {
        if matches!(self.jobs[index].phase, Phase::Pending { .. } | Phase::Placed { .. }) {
            self.set_phase(index, Phase::Starting { host });
            self.hold_volumes(index);
        }
    }

    fn host_runs(&mut self, index: JobIndex, host: HostIndex, now: Time) {
        if matches!(self.jobs[index].phase, Phase::Pending { .. } | Phase::Placed { .. }) {
            self.set_phase(index, Phase::Starting { host });
            self.hold_volumes(index);
        }
        if matches!(self.jobs[index].phase, Phase::Starting { .. }) {
            self.jobs[index].runs = true;
            self.service_changed(index, now);
        }
    }

    /// A job that its host runs counts as running when its service is up, if it has one (spec J8, J9).
    pub(crate) fn service_changed(&mut self, index: JobIndex, now: Time) {
        let Some(job) = self.jobs.find(index) else { return };
        let Phase::Starting { host } = job.phase else { return };
        if !job.runs {
            return;
        }
        let formation = job.formation.map(|formation| &self.formations[formation]);
        let service = formation.and_then(|formation| formation.kind(&job.kind)?.service.as_deref());
        match service.map_or(Ok(()), |service| self.routing.serves(service, job.uuid, now)) {
            Ok(()) => self.set_phase(index, Phase::Running { host, since: now }),
            Err(Some(limit)) => self.wake(limit, Timer::Service(index)),
            Err(None) => {}
        }
    }

    /// A job that was not known: of an earlier scheduler, of a host that was given up, or made by somebody else.
    fn found(&mut self, host: HostIndex, report: &Report, heard: Time, now: Time) {
        if self.ended.contains(report.uuid) {
            return; // late news
        }
        if !report.status.is_active() {
            self.ended.insert(report.uuid);
            return;
        }
        let key = FormationKey::new(&report.app, &report.release);
        let formation = report.scheduled.then(|| self.formation_of(&key));
        let phase = match report.status {
            JobStatus::Running => Phase::Running { host, since: report.started.max(Time(1)).min(now) },
            _ => Phase::Starting { host },
        };
        let index = self.insert_job(Job {
            uuid: report.uuid,
            app: key.app,
            release: key.release,
            kind: report.kind.as_str().into(),
            phase,
            waiting: None,
            restarts: 0,
            created: report.created,
            exit_status: None,
            host_error: None,
            volumes: report.volumes.clone(),
            formation,
            needs: report.needs,
            attempts: 0,
            avoid: Vec::new(),
            heard,
            runs: report.status == JobStatus::Running,
            looked_up: false,
            ended_on: None,
            found: Some(Box::new(report.found.clone())),
            save: Save::default(),
        });
        self.touch(index);
        self.hold_volumes(index);
    }

    /// The formation, a placeholder until the controller tells if it is not known.
    fn formation_of(&mut self, key: &FormationKey) -> crate::world::FormationIndex {
        if let Some(index) = self.formation_keys.get(key) {
            return *index;
        }
        let index = self.insert_formation(Formation::new(key.clone()));
        self.formations[index].fetch = Fetch::Due;
        self.todo.fetches.insert(index);
        index
    }

    /// A job is over. `told` by its host, or only taken for so: then the host may still say otherwise.
    pub(super) fn stopped(
        &mut self,
        index: JobIndex,
        status: Option<i32>,
        error: Option<String>,
        told: bool,
        now: Time,
    ) {
        let job = &mut self.jobs[index];
        if job.phase == Phase::Stopped {
            return;
        }
        job.ended_on = job.phase.host().and_then(|host| self.hosts.find(host)).map(|host| host.id.clone());
        let wanted = job.phase.is_live();
        (job.exit_status, job.host_error) = (status, error);
        let long = matches!(job.phase, Phase::Running { since, .. } if now.since(since) > RAN_LONG);
        let restarts = if long { 0 } else { job.restarts };
        let (uuid, formation, kind, ending) = (job.uuid, job.formation, job.kind.clone(), job.ending());
        if told {
            self.ended.insert(uuid);
        }
        if let Some(formation) = formation.filter(|_| wanted) {
            let kind = self.formations[formation].kind_mut(&kind);
            kind.exits.push_back(Exit { restarts, at: now, how: ending });
            if kind.exits.len() > kind.jobs.len() {
                kind.exits.pop_front();
            }
        }
        self.release_volumes(index);
        self.set_phase(index, Phase::Stopped);
    }

    /// The answer to a start.
    pub(super) fn started(&mut self, uuid: Uuid, id: &HostId, outcome: Start, now: Time) {
        let (Some(index), Some(host)) = (self.uuids.get(&uuid).copied(), self.host_ids.get(id).copied()) else {
            return;
        };
        let job = &mut self.jobs[index];
        if let Phase::Stopping { host: placed, step: Stop::Held } = job.phase
            && placed == host
        {
            return match outcome {
                Start::Accepted | Start::Unknown(_) => {
                    job.heard = now;
                    self.set_phase(index, Phase::Stopping { host, step: Stop::Due });
                }
                Start::Busy | Start::Refused(_) => self.stopped(index, None, None, false, now),
            };
        }
        if job.phase != (Phase::Placed { host, accepted: false }) {
            return; // its host has said more since
        }
        let reason = match outcome {
            Start::Accepted => {
                job.heard = now;
                self.set_phase(index, Phase::Placed { host, accepted: true });
                return self.hold_volumes(index);
            }
            Start::Busy => Reason::Busy { host: id.to_string() },
            Start::Refused(error) => {
                job.avoid(id);
                Reason::StartFailed { host: id.to_string(), error }
            }
            Start::Unknown(error) => {
                job.avoid(id);
                self.hosts[host].cooling_until = now + COOLING;
                Reason::StartFailed { host: id.to_string(), error }
            }
        };
        self.start_failed(index, reason, now);
    }

    fn start_failed(&mut self, index: JobIndex, reason: Reason, now: Time) {
        let job = &mut self.jobs[index];
        job.attempts = job.attempts.saturating_add(1);
        let not_before = now + START_AGAIN.saturating_mul(job.attempts).min(START_AGAIN_MOST);
        let (uuid, volumes) = (job.uuid, std::mem::take(&mut job.volumes));
        self.set_phase(index, Phase::Pending { not_before });
        self.jobs[index].waiting = Some(reason);
        self.touch(index);
        self.drop_new_volumes(uuid, &volumes);
        if let Some(formation) = self.jobs[index].formation {
            self.wake(not_before, Timer::Formation(formation));
        }
    }

    /// The answer to the question after a job that was not listed.
    pub(super) fn looked_up(&mut self, uuid: Uuid, id: &HostId, outcome: LookUp, now: Time) {
        let (Some(index), Some(host)) = (self.uuids.get(&uuid).copied(), self.host_ids.get(id).copied()) else {
            return;
        };
        self.jobs[index].looked_up = false;
        match outcome {
            LookUp::Found(report) => self.report(host, &report, now, now),
            LookUp::Unknown if self.jobs[index].phase.host() == Some(host) => {
                self.stopped(index, None, Some(format!("host {id} does not know it any more")), false, now);
            }
            // The next listing lacks it again.
            LookUp::Unknown | LookUp::Failed => {}
        }
    }

    pub(super) fn withdrawn(&mut self, uuid: Uuid, done: bool, now: Time) {
        let Some(index) = self.uuids.get(&uuid).copied() else { return };
        let Phase::Stopping { host, step: Stop::Withdrawing } = self.jobs[index].phase else { return };
        if done && self.routing.is_backend(uuid) {
            let until = now + ROUTER_PATIENCE;
            self.set_phase(index, Phase::Stopping { host, step: Stop::Draining { until } });
            self.wake(until, Timer::Stop(index));
        } else {
            self.set_phase(index, Phase::Stopping { host, step: Stop::Drained });
        }
    }

    pub(super) fn ended(&mut self, uuid: Uuid, done: bool, now: Time) {
        let Some(index) = self.uuids.get(&uuid).copied() else { return };
        let Phase::Stopping { host, step: Stop::Ending } = self.jobs[index].phase else { return };
        let again = now + if done { STOP_AGAIN } else { STOP_FAILED_AGAIN };
        self.set_phase(index, Phase::Stopping { host, step: Stop::Asked { again } });
        self.wake(again, Timer::Stop(index));
    }

    /// Whether a stop that waits for something can go on.
    pub(crate) fn stop_goes_on(&mut self, index: JobIndex, now: Time) {
        let Some(job) = self.jobs.find(index) else { return };
        let Phase::Stopping { host, step } = job.phase else { return };
        let on = match step {
            Stop::Draining { until } => now >= until || !self.routing.is_backend(job.uuid),
            Stop::Asked { again } => now >= again,
            Stop::Held | Stop::Due | Stop::Withdrawing | Stop::Drained | Stop::Ending => false,
        };
        if on {
            self.set_phase(index, Phase::Stopping { host, step: Stop::Drained });
        }
    }

    pub(super) fn stray_ended(&mut self, id: &HostId, uuid: Uuid) {
        if let Some(host) = self.host_ids.get(id) {
            self.todo.strays.remove(&(*host, uuid));
        }
    }
}
