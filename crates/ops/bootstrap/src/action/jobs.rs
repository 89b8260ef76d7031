//! Jobs that are started directly on hosts, before there is a scheduler.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use flynn_types::controller::{App, JobOf, Processes, Provider, Release, volume_meta};
use flynn_types::host::{ActiveJob, JobStatus, VolumeBinding, VolumeInfo, VolumeType, metadata};
use flynn_types::id::{HostId, JobId};
use flynn_types::image::Artifact;
use rand::seq::SliceRandom as _;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use uuid::Uuid;

use super::Outcome;
use super::resource::{self, Provisioned};
use crate::cluster::{Host, PAUSE};
use crate::error::{Doing as _, Result, wrong};
use crate::manifest::Step;
use crate::run::Run;

/// Provider of volumes on every host.
const VOLUMES: &str = "default";
/// Registered by the scheduler that leads.
const SCHEDULER: &str = "controller-scheduler";

/// Starts jobs of an app, and keeps them running until a scheduler does.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct RunApp {
    #[serde(flatten)]
    parts: Parts,
    /// The step whose app and release it is, when not given here.
    app_step: String,
}

/// What apps are described by.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Parts {
    pub(crate) app: App,
    pub(crate) release: Release,
    pub(crate) artifacts: Vec<Artifact>,
    pub(crate) processes: Processes,
    /// Made for the app by these providers.
    pub(crate) resources: Vec<Provider>,
}

/// An app with ids, and what was made for it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Known {
    pub(crate) app: App,
    pub(crate) release: Release,
    pub(crate) artifacts: Vec<Artifact>,
    pub(crate) processes: Processes,
    pub(crate) resources: Vec<Provisioned>,
    pub(crate) jobs: Vec<Planned>,
}

/// A job with its place, written down before it is started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Planned {
    kind: String,
    host: HostId,
    uuid: Uuid,
    volumes: Vec<VolumeBinding>,
}

impl Known {
    /// Chooses ids for what has none.
    pub(crate) fn new(parts: Parts, run: &Run) -> Self {
        let Parts { mut app, mut release, mut artifacts, processes, resources } = parts;
        let id = |id: &mut String| {
            if id.is_empty() {
                *id = Uuid::new_v4().to_string();
            }
        };
        id(&mut app.id);
        id(&mut release.id);
        release.app_id.clone_from(&app.id);
        artifacts.iter_mut().for_each(|artifact| id(&mut artifact.id));
        release.artifact_ids = artifacts.iter().map(|artifact| artifact.id.clone()).collect();
        let processes = processes.into_iter().map(|(kind, count)| (kind, run.count(count))).collect();
        release.processes.values_mut().for_each(flynn_types::controller::ProcessType::normalize);
        let resources = resources.into_iter().map(Provisioned::planned).collect();
        Self { app, release, artifacts, processes, resources, jobs: Vec::new() }
    }
}

impl RunApp {
    pub(super) async fn run(self, step: &Step, run: &mut Run) -> Result<Outcome> {
        let mut known = match run.state.planned(&step.id)? {
            Some(known) => known,
            None => self.plan(run)?,
        };
        run.state.plan(&step.id, &known)?;
        resource::provision(&mut known, step, run).await?;
        if run.state.is_done(&step.id) && run.cluster.discoverd.leader(SCHEDULER).await.ok().flatten().is_some() {
            return Outcome::secret(&known); // the scheduler knows better what runs where
        }
        for index in 0..known.jobs.len() {
            ensure(&mut known, index, step, run).await?;
        }
        Outcome::secret(&known)
    }

    fn plan(self, run: &Run) -> Result<Known> {
        let mut known = if self.app_step.is_empty() {
            Known::new(self.parts, run)
        } else {
            let processes = self.parts.processes.into_iter().map(|(kind, count)| (kind, run.count(count))).collect();
            Known { processes, resources: Vec::new(), ..run.state.data(&self.app_step)? }
        };
        known.jobs = place(&known, &run.cluster.hosts)?;
        Ok(known)
    }
}

/// Omnipresent types on all hosts, others in turn on hosts in random order.
fn place(known: &Known, hosts: &[Host]) -> Result<Vec<Planned>> {
    let mut order: Vec<_> = hosts.iter().collect();
    order.shuffle(&mut rand::rng());
    let mut turn = order.iter().cycle();
    let mut planned = Vec::new();
    for (kind, count) in &known.processes {
        let process = known.release.processes.get(kind);
        let process = process.ok_or_else(|| wrong(format!("app {} has no process type {kind:?}", known.app.name)))?;
        let count = usize::try_from(*count).unwrap_or_default();
        let places: Vec<&Host> = if process.omni && count > 0 {
            hosts.iter().collect()
        } else {
            turn.by_ref().take(count).copied().collect()
        };
        let volume = |requested: &flynn_types::controller::VolumeReq| VolumeBinding {
            target: requested.path.clone(),
            volume: Uuid::new_v4().to_string(),
            writeable: true,
            delete_on_stop: requested.delete_on_stop,
        };
        planned.extend(places.into_iter().map(|host| Planned {
            kind: kind.clone(),
            host: host.id.clone(),
            uuid: Uuid::new_v4(),
            volumes: process.volumes.iter().map(volume).collect(),
        }));
    }
    Ok(planned)
}

/// Sees to it that the planned job runs: it, or what its host made of it after a reboot.
async fn ensure(known: &mut Known, index: usize, step: &Step, run: &mut Run) -> Result<()> {
    let deadline = Instant::now() + run.options.job_timeout;
    let host = run.cluster.host(&known.jobs[index].host)?.clone();
    let active = host.client.jobs(true).await.doing(|| format!("ask host {} for its jobs", host.id))?;
    match found(known, index, &active) {
        Some(uuid) if uuid == known.jobs[index].uuid => {}
        Some(uuid) => {
            known.jobs[index].uuid = uuid;
            run.state.plan(&step.id, &known)?;
        }
        None => start(known, index, step, run, &host).await?,
    }
    let planned = &known.jobs[index];
    let id = JobId::new(&host.id, planned.uuid).as_str().to_owned();
    running(&host, &id, &format!("{} of app {}", planned.kind, known.app.name), deadline).await?;
    run.info(step, &format!("{} {id} is running", planned.kind));
    Ok(())
}

/// A job that is active in place of the planned one, and of no other.
fn found(known: &Known, index: usize, active: &BTreeMap<String, ActiveJob>) -> Option<Uuid> {
    let planned = &known.jobs[index];
    let others: BTreeSet<Uuid> = known.jobs.iter().map(|job| job.uuid).filter(|uuid| *uuid != planned.uuid).collect();
    let is_one = |job: &&ActiveJob| {
        let job = &job.job;
        let is = |key: &str, value: &str| job.meta(key) == value;
        is(metadata::APP, &known.app.id)
            && is(metadata::RELEASE, &known.release.id)
            && is(metadata::TYPE, &planned.kind)
    };
    let uuids = active.values().filter(is_one).filter_map(|job| job.id()?.uuid());
    let mut uuids: Vec<_> = uuids.filter(|uuid| !others.contains(uuid)).collect();
    // The planned one first.
    uuids.sort_by_key(|uuid| *uuid != planned.uuid);
    uuids.first().copied()
}

async fn start(known: &mut Known, index: usize, step: &Step, run: &mut Run, host: &Host) -> Result<()> {
    let planned = &known.jobs[index];
    let id = JobId::new(&host.id, planned.uuid);
    let ended = match host.client.job(id.as_str()).await {
        Ok(job) => !job.status.is_active(),
        Err(err) if err.is_not_found() => false,
        Err(err) => return Err(err).doing(|| format!("ask host {} for job {}", host.id, id.as_str())),
    };
    if ended {
        known.jobs[index].uuid = Uuid::new_v4();
        run.state.plan(&step.id, &known)?;
    }
    let planned = &known.jobs[index];
    for volume in &planned.volumes {
        create_volume(known, planned, volume, host).await?;
    }
    let of = JobOf { app: &known.app, release: &known.release, artifacts: &known.artifacts, kind: &planned.kind };
    let job = of.at(&host.id, planned.uuid, planned.volumes.clone());
    let job = job.ok_or_else(|| wrong(format!("app {} has no process type {:?}", known.app.name, planned.kind)))?;
    match host.client.add_job(&job).await {
        // It was accepted before, and the answer was lost.
        Err(err) if err.status() == Some(409) && host.client.job(&job.id).await.is_ok() => Ok(()),
        started => started.doing(|| format!("start {} of app {} on host {}", planned.kind, known.app.name, host.id)),
    }
}

async fn create_volume(known: &Known, planned: &Planned, volume: &VolumeBinding, host: &Host) -> Result<()> {
    match host.client.volume(&volume.volume).await {
        Ok(_) => return Ok(()),
        Err(err) if err.is_not_found() => {}
        Err(err) => return Err(err).doing(|| format!("ask host {} for volume {}", host.id, volume.volume)),
    }
    let meta = [
        (volume_meta::APP, known.app.id.clone()),
        (volume_meta::RELEASE, known.release.id.clone()),
        (volume_meta::TYPE, planned.kind.clone()),
        (volume_meta::PATH, volume.target.clone()),
        (volume_meta::DELETE_ON_STOP, volume.delete_on_stop.to_string()),
    ];
    let info = VolumeInfo {
        id: volume.volume.clone(),
        kind: VolumeType::Data,
        meta: meta.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        ..VolumeInfo::default()
    };
    let created = host.client.create_volume(VOLUMES, Some(&info)).await;
    created.map(drop).doing(|| format!("create a volume on host {}", host.id))
}

/// Waits until the job runs.
async fn running(host: &Host, id: &str, what: &str, deadline: Instant) -> Result<()> {
    loop {
        let job = host.client.job(id).await.doing(|| format!("ask host {} for job {id}", host.id))?;
        match job.status {
            JobStatus::Running => return Ok(()),
            JobStatus::Starting if Instant::now() + PAUSE < deadline => {}
            status => {
                let reason = job.error.or(job.waiting_for).unwrap_or_default();
                let exit = job.exit_status.map(|code| format!(", exit status {code}")).unwrap_or_default();
                let status = status.as_str();
                return Err(wrong(format!("{what} is {status}{exit}: {reason} (its output: flynn-host log {id})")));
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
