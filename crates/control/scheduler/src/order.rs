//! A plan that was taken is remembered as begun.

use flynn_types::controller::VolumeState;
use uuid::Uuid;

use crate::action::{Action, Claim};
use crate::reason::Reason;
use crate::time::Time;
use crate::world::{
    Check, Fetch, FormationIndex, HostIndex, Job, JobIndex, Listing, Mounted, Phase, Save, Stop, Telling, Timer,
    Volume, World,
};

impl World {
    /// The plan is being carried out. `now` is that of the plan.
    pub fn order(&mut self, actions: &[Action], now: Time) {
        if self.decides(now) {
            self.todo.formations.clear();
            self.todo.stopping.clear();
            self.todo.orphans.clear();
        }
        let hosts = std::mem::take(&mut self.todo.hosts);
        self.todo.fetches.clear();
        self.todo.lookups.clear();
        self.todo.unsaved.clear();
        self.todo.unsaved_volumes.clear();
        for action in actions {
            // The plan drew as many.
            let drawn = match action {
                Action::Create { .. } => 1,
                Action::Start { volumes, .. } => volumes.iter().filter(|claim| claim.new).count(),
                _ => 0,
            };
            self.ids.skip(drawn);
            self.begin(action, now);
        }
        for index in hosts {
            self.next_look(index, now);
        }
    }

    fn begin(&mut self, action: &Action, now: Time) {
        match action {
            Action::Create { job, formation, kind, restarts, not_before, waiting } => {
                self.created(*job, *formation, kind, *restarts, *not_before, waiting.clone(), now);
            }
            Action::Wait { job, reason } => self.waits(*job, reason),
            Action::Start { job, host, volumes } => self.starts(*job, *host, volumes),
            Action::Cancel { job } => self.set_phase(*job, Phase::Stopped),
            Action::Stop { job } => self.stops(*job),
            Action::Withdraw { job } => self.steps(*job, Stop::Withdrawing),
            Action::End { job } => self.steps(*job, Stop::Ending),
            Action::EndStray { host, job } => {
                self.todo.strays.insert((*host, *job), true);
            }
            Action::LookUp { job } => self.jobs[*job].looked_up = true,
            Action::Save { job } => self.jobs[*job].save.in_flight = true,
            Action::SaveVolume { volume } => {
                if let Some(volume) = self.volumes.find_mut(volume) {
                    volume.save.in_flight = true;
                }
            }
            Action::SaveOrphan { job } => {
                if let Some(orphan) = self.orphans.get_mut(job) {
                    orphan.in_flight = true;
                }
            }
            Action::TellScale { formation, .. } => {
                let known = self.formations[*formation].known.as_mut();
                if let Some(scale) = known.and_then(|known| known.scale.as_mut()) {
                    scale.told = Telling::InFlight;
                }
            }
            Action::Fetch { formation } => self.formations[*formation].fetch = Fetch::InFlight,
            Action::Check { host } => self.hosts[*host].check = Check::InFlight,
            Action::List { host } => self.hosts[*host].listing = Listing::InFlight,
            Action::SyncSinks { host, .. } => {
                if let Some(index) = self.host_ids.get(host) {
                    self.hosts[*index].sinks = None; // until it tells
                }
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one action")]
    fn created(
        &mut self,
        uuid: Uuid,
        formation: FormationIndex,
        kind: &std::sync::Arc<str>,
        restarts: u32,
        not_before: Time,
        waiting: Option<Reason>,
        now: Time,
    ) {
        let state = &mut self.formations[formation];
        let key = state.key.clone();
        let of = state.kind_mut(kind);
        of.exits.pop_front();
        let needs = of.needs;
        let index = self.insert_job(Job {
            uuid,
            app: key.app,
            release: key.release,
            kind: kind.clone(),
            phase: Phase::Pending { not_before },
            waiting: None,
            restarts,
            created: now,
            exit_status: None,
            host_error: None,
            volumes: Vec::new(),
            formation: Some(formation),
            needs,
            attempts: 0,
            avoid: Vec::new(),
            heard: now,
            runs: false,
            looked_up: false,
            ended_on: None,
            found: None,
            save: Save::default(),
        });
        self.jobs[index].waiting = waiting;
        if not_before > now {
            self.wake(not_before, Timer::Formation(formation));
        }
    }

    fn waits(&mut self, uuid: Uuid, reason: &Reason) {
        let Some(index) = self.uuids.get(&uuid).copied() else { return };
        self.jobs[index].waiting = Some(reason.clone());
        self.todo.waiting.insert(index);
        self.touch(index);
    }

    fn starts(&mut self, uuid: Uuid, host: HostIndex, claims: &[Claim]) {
        let Some(index) = self.uuids.get(&uuid).copied() else { return };
        for claim in claims {
            self.claim(index, host, claim);
        }
        let mounted = |claim: &Claim| Mounted {
            id: claim.id.clone(),
            path: claim.path.clone(),
            delete_on_stop: claim.delete_on_stop,
        };
        self.jobs[index].volumes = claims.iter().map(mounted).collect();
        self.set_phase(index, Phase::Placed { host, accepted: false });
    }

    fn claim(&mut self, index: JobIndex, host: HostIndex, claim: &Claim) {
        let job = &self.jobs[index];
        let uuid = job.uuid;
        if claim.new {
            let volume = Volume {
                id: claim.id.clone(),
                host: self.hosts[host].id.clone(),
                app: job.app.clone(),
                release: job.release.clone(),
                kind: job.kind.clone(),
                path: claim.path.clone(),
                delete_on_stop: claim.delete_on_stop,
                state: VolumeState::Pending,
                holder: Some(uuid),
                decommissioned_at: None,
                created_at: None,
                save: Save::default(),
            };
            self.volumes.insert(volume);
        } else if self.volumes.hold(&claim.id, uuid) {
            self.touch_volume(&claim.id);
        }
    }

    fn stops(&mut self, index: JobIndex) {
        let Some(host) = self.jobs[index].phase.host() else { return };
        let held = matches!(self.jobs[index].phase, Phase::Placed { accepted: false, .. });
        let step = if held { Stop::Held } else { Stop::Due };
        // What shall be gone needs no guard any more.
        if let Some(formation) = self.jobs[index].formation {
            let kind = self.jobs[index].kind.clone();
            let kind = self.formations[formation].kind_mut(&kind);
            if kind.count == 0 {
                kind.kept = 0;
            }
        }
        self.set_phase(index, Phase::Stopping { host, step });
    }

    fn steps(&mut self, index: JobIndex, step: Stop) {
        if let Phase::Stopping { host, .. } = self.jobs[index].phase {
            self.set_phase(index, Phase::Stopping { host, step });
        }
    }

    /// When the host is looked at next.
    fn next_look(&mut self, index: HostIndex, now: Time) {
        let Some(host) = self.hosts.find(index) else { return };
        let mut due = Vec::new();
        if let Check::Due(at) = host.check {
            due.push(at);
        }
        if let Listing::Due(at) = host.listing
            && host.is_healthy()
        {
            due.push(at);
        }
        for at in due.into_iter().filter(|at| *at > now) {
            self.wake(at, Timer::Host(index));
        }
        self.look_at_drain(index, now);
    }
}
