//! Actions, carried out. Each ends in an answer, whatever happens.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flynn_controller_client::{Client as Controller, ClientError};
use flynn_host_client::Client as Host;
use flynn_types::controller::{ScaleRequest, ScaleRequestState, volume_meta};
use flynn_types::host::{SinkInfo, SinkKind, TERM_HEADER, VolumeInfo};
use flynn_types::id::{HostId, JobId};
use tokio::sync::Semaphore;
use tracing::{info, warn};
use uuid::Uuid;

use super::clock::Clock;
use super::{Config, Inbox, host_client};
use crate::event::{Answer, Fetched, HostListing, LookUp, Report, Start, Write};
use crate::world::{Needs, World};
use crate::{Action, Claim, Event};

/// Longest that a host may take to answer (spec section 5).
const HOST_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest for an order to stop: the host answers when the job has ended.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest for making the volumes of a job.
const VOLUME_TIMEOUT: Duration = Duration::from_secs(60);
/// Requests at once: to the controller, and to all hosts.
const WRITES: usize = 16;
const REQUESTS: usize = 128;

pub(super) struct Effects {
    inbox: Inbox,
    clock: Clock,
    key: Option<String>,
    controller: Controller,
    /// The same with the term, while leading.
    leading: Option<(u64, Controller)>,
    writes: Arc<Semaphore>,
    requests: Arc<Semaphore>,
}

impl Effects {
    pub(super) fn new(inbox: &Inbox, config: &Config, clock: Clock) -> Self {
        Self {
            inbox: inbox.clone(),
            clock,
            key: config.host_auth_key.clone(),
            controller: config.controller.clone(),
            leading: None,
            writes: Arc::new(Semaphore::new(WRITES)),
            requests: Arc::new(Semaphore::new(REQUESTS)),
        }
    }

    /// From now on writes carry this term.
    pub(super) fn lead(&mut self, term: Option<u64>) {
        self.leading = term.map(|term| (term, self.controller.clone().with_term(term)));
    }

    fn controller(&self) -> Controller {
        self.leading.as_ref().map_or(&self.controller, |(_, controller)| controller).clone()
    }

    fn host(&self, addr: &str) -> Option<Host> {
        let client = host_client(addr, self.key.as_deref())?;
        Some(match &self.leading {
            Some((term, _)) => client.with_header(TERM_HEADER, &term.to_string()),
            None => client,
        })
    }

    /// Begins the action. `world` is as it is after the order.
    pub(super) fn perform(&self, world: &World, action: &Action) {
        match action {
            Action::Create { .. } | Action::Wait { .. } | Action::Cancel { .. } | Action::Stop { .. } => {} // only remembered
            Action::Start { job, host, volumes } => self.start(world, *job, *host, volumes),
            Action::Withdraw { job } => self.on_host(
                world,
                *job,
                HOST_TIMEOUT,
                |host, id, uuid| async move {
                    let done = host.deregister_job(&id).await;
                    Answer::Withdrawn {
                        job: uuid,
                        done: done.inspect_err(|err| info!(job_id = id, %err, "withdraw")).is_ok(),
                    }
                },
                |uuid, _| Answer::Withdrawn { job: uuid, done: false },
            ),
            Action::End { job } => self.on_host(
                world,
                *job,
                STOP_TIMEOUT,
                |host, id, uuid| async move {
                    let done = ended(host.stop_job(&id).await, &id);
                    Answer::Ended { job: uuid, done }
                },
                |uuid, _| Answer::Ended { job: uuid, done: false },
            ),
            Action::EndStray { host, job } => self.end_stray(world, *host, *job),
            Action::LookUp { job } => self.look_up(world, *job),
            Action::Save { job } => self.save(world, *job),
            Action::SaveVolume { volume } => self.save_volume(world, volume),
            Action::SaveOrphan { job } => self.save_orphan(world, *job),
            Action::TellScale { formation, request } => self.tell_scale(world, *formation, request),
            Action::Fetch { formation } => self.fetch(world, *formation),
            Action::Check { host } => self.check(world, *host),
            Action::List { host } => self.list(world, *host),
            Action::SyncSinks { host, put, remove } => self.sync_sinks(world, host, put, remove),
        }
    }

    /// Runs a request, at most `REQUESTS` at once, and gives the answer, or `late` after `limit`.
    fn request(
        &self,
        limit: Duration,
        work: impl Future<Output = Answer> + Send + 'static,
        late: impl FnOnce() -> Answer + Send + 'static,
    ) {
        let (inbox, permits) = (self.inbox.clone(), self.requests.clone());
        self.inbox.spawn(async move {
            let permit = permits.acquire_owned().await;
            let answer = tokio::time::timeout(limit, work).await.unwrap_or_else(|_| late());
            drop(permit);
            inbox.put(Event::Answer(answer)).await;
        });
    }

    /// Like [`Effects::request`], for a write to the controller.
    fn write<F>(&self, work: F, answer: impl FnOnce(Write) -> Answer + Send + 'static)
    where
        F: Future<Output = Result<(), ClientError>> + Send + 'static,
    {
        let (inbox, permits) = (self.inbox.clone(), self.writes.clone());
        self.inbox.spawn(async move {
            let permit = permits.acquire_owned().await;
            let outcome = match work.await {
                Ok(()) => Write::Done,
                // Also when nobody answers, which is not marked as passing (spec W32).
                Err(err) if err.is_retryable() || err.status().is_none() => Write::Failed,
                Err(err) => {
                    warn!(%err, "the controller refused a write");
                    inbox.tell_deposed(&err).await;
                    Write::Refused
                }
            };
            drop(permit);
            inbox.put(Event::Answer(answer(outcome))).await;
        });
    }

    /// Something with a job on its host.
    fn on_host<F>(
        &self,
        world: &World,
        job: crate::world::JobIndex,
        limit: Duration,
        work: impl FnOnce(Host, String, Uuid) -> F,
        late: impl FnOnce(Uuid, HostId) -> Answer + Send + 'static,
    ) where
        F: Future<Output = Answer> + Send + 'static,
    {
        let Some(job) = world.job_at(job) else { return };
        let Some(host) = job.phase.host().and_then(|host| world.host_at(host)) else { return };
        let (uuid, id, host_id) = (job.uuid, JobId::new(&host.id, job.uuid).to_string(), host.id.clone());
        match self.host(&host.addr) {
            Some(client) => self.request(limit, work(client, id, uuid), move || late(uuid, host_id)),
            None => self.request(limit, std::future::ready(late(uuid, host_id)), || unreachable!("it is ready")),
        }
    }

    fn start(&self, world: &World, uuid: Uuid, host: crate::world::HostIndex, claims: &[Claim]) {
        let (Some(job), Some(host)) = (world.job(uuid), world.host_at(host)) else { return };
        let id = host.id.clone();
        let said = move |outcome| Answer::Started { job: uuid, host: id.clone(), outcome };
        let (Some(spec), Some(client)) = (world.host_job_spec(uuid, &host.id), self.host(&host.addr)) else {
            let answer = said(Start::Refused(format!("its release has no process type {:?} any more", job.kind)));
            return self.request(HOST_TIMEOUT, std::future::ready(answer), || unreachable!("it is ready"));
        };
        // Its data is there, or every host has one: it is no obstacle that the host is drained.
        let stays = !claims.is_empty() || world.is_omni(job);
        let new: Vec<_> = claims.iter().filter(|claim| claim.new).map(|claim| volume_info(job, claim)).collect();
        let limit = HOST_TIMEOUT + if new.is_empty() { Duration::ZERO } else { VOLUME_TIMEOUT };
        let (late, inbox) = (said.clone(), self.inbox.clone());
        let work = async move {
            for volume in new {
                if let Err(err) = client.create_volume("default", Some(&volume)).await {
                    return said(Start::Refused(format!("volume {}: {err}", volume.id)));
                }
            }
            let added = if stays { client.add_job_even_draining(&spec).await } else { client.add_job(&spec).await };
            said(match added {
                Ok(()) => Start::Accepted,
                Err(err) => {
                    inbox.tell_deposed(&err).await;
                    start_error(&err, &client, &spec.id).await
                }
            })
        };
        self.request(limit, work, move || late(Start::Unknown("no answer in time".into())));
    }

    fn end_stray(&self, world: &World, host: crate::world::HostIndex, uuid: Uuid) {
        let Some(host) = world.host_at(host) else { return };
        let (id, job_id) = (host.id.clone(), JobId::new(&host.id, uuid).to_string());
        let answer = Answer::StrayEnded { host: id, job: uuid };
        let late = answer.clone();
        let Some(client) = self.host(&host.addr) else {
            return self.request(HOST_TIMEOUT, std::future::ready(answer), move || late);
        };
        let work = async move {
            ended(client.stop_job(&job_id).await, &job_id);
            answer
        };
        self.request(STOP_TIMEOUT, work, move || late);
    }

    fn look_up(&self, world: &World, job: crate::world::JobIndex) {
        let Some(host) = world.job_at(job).and_then(|job| world.host_at(job.phase.host()?)) else { return };
        let host_id = host.id.clone();
        let work = |client: Host, id: String, uuid| async move {
            let outcome = match client.job(&id).await {
                Ok(found) => Report::new(&found).map_or(LookUp::Unknown, |report| LookUp::Found(Box::new(report))),
                // Not any 404: something else may stand at that address.
                Err(ClientError::Status { status: 404, error }) if error.message.contains("unknown job") => {
                    LookUp::Unknown
                }
                Err(_) => LookUp::Failed,
            };
            Answer::LookedUp { job: uuid, host: host_id, outcome }
        };
        self.on_host(world, job, HOST_TIMEOUT, work, |job, host| Answer::LookedUp {
            job,
            host,
            outcome: LookUp::Failed,
        });
    }

    fn save(&self, world: &World, job: crate::world::JobIndex) {
        let Some((record, version)) = world.job_record(job) else { return };
        let Some(uuid) = world.job_at(job).map(|job| job.uuid) else { return };
        let client = self.controller();
        let work = async move { client.put_job(&record).await };
        self.write(work, move |outcome| Answer::Saved { job: uuid, version, outcome });
    }

    fn save_volume(&self, world: &World, id: &str) {
        let Some((record, version)) = world.volume_record_of(id) else { return };
        let (client, volume) = (self.controller(), id.to_owned());
        let work = async move { client.put_volume(&record).await };
        self.write(work, move |outcome| Answer::VolumeSaved { volume, version, outcome });
    }

    fn save_orphan(&self, world: &World, uuid: Uuid) {
        let Some(record) = world.orphan_record(uuid) else { return };
        let client = self.controller();
        let work = async move { client.put_job(&record).await };
        self.write(work, move |_| Answer::OrphanSaved { job: uuid });
    }

    fn tell_scale(&self, world: &World, formation: crate::world::FormationIndex, request: &str) {
        let Some(key) = world.formation_at(formation).map(|formation| formation.key.clone()) else { return };
        let record = ScaleRequest {
            id: request.to_owned(),
            app_id: key.app.to_string(),
            release_id: key.release.to_string(),
            state: ScaleRequestState::Complete,
            ..ScaleRequest::default()
        };
        let (client, request) = (self.controller(), request.to_owned());
        let work = async move { client.put_scale(&record).await };
        self.write(work, move |outcome| Answer::ScaleTold { formation: key, request, outcome });
    }

    fn fetch(&self, world: &World, formation: crate::world::FormationIndex) {
        let Some(key) = world.formation_at(formation).map(|formation| formation.key.clone()) else { return };
        let (client, late) = (self.controller(), key.clone());
        let work = async move {
            let outcome = match client.formation(&key.app, &key.release).await {
                Ok(Some(found)) => Fetched::Found(Box::new(found)),
                Ok(None) => Fetched::Gone,
                Err(_) => Fetched::Failed,
            };
            Answer::Fetched { formation: key, outcome }
        };
        self.request(HOST_TIMEOUT, work, || Answer::Fetched { formation: late, outcome: Fetched::Failed });
    }

    fn check(&self, world: &World, host: crate::world::HostIndex) {
        let Some(host) = world.host_at(host) else { return };
        let (client, id, late) = (self.host(&host.addr), host.id.clone(), host.id.clone());
        let work = async move {
            // Another host may have got the address.
            let alive = match client {
                Some(client) => client.status().await.is_ok_and(|status| status.id == id.as_str()),
                None => false,
            };
            Answer::Checked { host: id, alive }
        };
        self.request(HOST_TIMEOUT, work, || Answer::Checked { host: late, alive: false });
    }

    fn list(&self, world: &World, host: crate::world::HostIndex) {
        let Some(host) = world.host_at(host) else { return };
        let (client, id, late) = (self.host(&host.addr), host.id.clone(), host.id.clone());
        let (asked, term, inbox) = (self.clock.now(), world.leading(), self.inbox.clone());
        let work = async move {
            let listing = match client {
                Some(client) => match listing(&client).await {
                    Ok(listing) => Some(listing),
                    Err(err) => {
                        info!(host_id = %id, %err, "list");
                        inbox.tell_deposed(&err).await;
                        None
                    }
                },
                None => None,
            };
            Answer::Listed { host: id, asked, term, listing: listing.map(Box::new) }
        };
        self.request(HOST_TIMEOUT, work, move || Answer::Listed { host: late, asked, term, listing: None });
    }

    fn sync_sinks(&self, world: &World, id: &HostId, put: &[String], remove: &[String]) {
        let Some(host) = world.host(id) else { return };
        let Some(client) = self.host(&host.addr) else { return };
        let put: Vec<_> = put.iter().filter_map(|id| world.sink_record(id)).map(sink_info).collect();
        let (remove, id, late) = (remove.to_vec(), id.clone(), id.clone());
        let work = async move {
            for sink in &put {
                if let Err(err) = client.add_sink(sink).await {
                    warn!(host_id = %id, sink = sink.id, %err, "sink cannot be set");
                }
            }
            for sink in &remove {
                if let Err(err) = client.remove_sink(sink).await {
                    warn!(host_id = %id, sink, %err, "sink cannot be removed");
                }
            }
            // What a host refuses is tried again with the next listing, not at once.
            Answer::SinksSynced { host: id, sinks: None }
        };
        self.request(HOST_TIMEOUT, work, || Answer::SinksSynced { host: late, sinks: None });
    }
}

async fn listing(client: &Host) -> Result<HostListing, ClientError> {
    let (jobs, volumes) = (client.jobs(true).await?, client.volumes().await?);
    // Of no harm when a host cannot tell.
    let (sinks, stats) = (client.sinks().await.ok(), client.stats().await.ok());
    let capacity = stats.map(|stats| Needs {
        memory: i64::try_from(stats.memory_total_bytes).unwrap_or(i64::MAX),
        cpu: i64::from(stats.cpu_count).saturating_mul(1000),
    });
    Ok(HostListing { jobs: jobs.values().filter_map(Report::new).collect(), volumes, sinks, capacity })
}

impl Inbox {
    /// Says so if the error means that another scheduler leads by now.
    async fn tell_deposed(&self, err: &ClientError) {
        let ClientError::Status { status: 409, error } = err else { return };
        let term = error.detail.as_ref().and_then(|detail| detail.get("term")?.as_u64());
        if let Some(term) = term {
            self.put(Event::Answer(Answer::Deposed { term })).await;
        }
    }
}

/// Whether the job is over, or will be.
fn ended(stopped: Result<(), ClientError>, id: &str) -> bool {
    match stopped {
        Ok(()) => true,
        Err(err) if matches!(err.status(), Some(404 | 409)) => true, // the next listing shows it
        Err(err) => {
            info!(job_id = id, %err, "the host did not stop it");
            false
        }
    }
}

async fn start_error(err: &ClientError, client: &Host, id: &str) -> Start {
    match err.status() {
        Some(429) => Start::Busy,
        // The same start a second time, or its volumes are in use.
        Some(409) if client.job(id).await.is_ok() => Start::Accepted,
        Some(_) => Start::Refused(err.to_string()),
        None if matches!(err, ClientError::Connect { .. }) => Start::Refused(err.to_string()),
        None => Start::Unknown(err.to_string()),
    }
}

fn volume_info(job: &crate::world::Job, claim: &Claim) -> VolumeInfo {
    let meta = [
        (volume_meta::APP, job.app.to_string()),
        (volume_meta::RELEASE, job.release.to_string()),
        (volume_meta::TYPE, job.kind.to_string()),
        (volume_meta::PATH, claim.path.clone()),
        (volume_meta::DELETE_ON_STOP, claim.delete_on_stop.to_string()),
    ];
    let meta: BTreeMap<String, String> = meta.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    VolumeInfo { id: claim.id.clone(), meta, ..VolumeInfo::default() }
}

fn sink_info(sink: &flynn_types::controller::Sink) -> SinkInfo {
    SinkInfo {
        id: sink.id.clone(),
        kind: SinkKind::from(sink.kind.clone()),
        cursor: None,
        config: sink.config.clone(),
        host_managed: sink.host_managed,
    }
}
