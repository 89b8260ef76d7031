//! One task per job: from acceptance through start and exit to the last cleaned-up resource.
//!
//! The task may be gone at any moment, together with the daemon. What it does is therefore either repeatable or can be
//! told from what is on disk: the job's record, its run directory, its monitor.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use flynn_container::{Container, Runtime};
use flynn_logmux::{JobLog, LogMux};
use flynn_network::Network;
use flynn_types::error::with_causes;
use flynn_types::host::{ActiveJob, JobStatus};
use flynn_types::id::JobId;
use flynn_types::init::{ExitRecord, InitState};
use flynn_volume::{LayerSource, VolumeManager};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, info, info_span, warn};

use super::prepare::{self, HostFacts};
use super::{Gate, JobBook};

/// signal(7); killed for lack of memory, among other reasons.
const SIGKILL: i32 = 9;

/// What a running job consists of, for those who attach to it or stop it.
#[derive(Clone)]
pub(crate) struct Live {
    pub(crate) container: Container,
    /// `None` for jobs whose output is not stored.
    pub(crate) log: Option<Arc<JobLog>>,
}

/// The containers of this daemon.
#[derive(Default)]
pub(crate) struct LiveJobs {
    live: Mutex<BTreeMap<JobId, Live>>,
    /// Jobs between acceptance and start; cancelled by a stop request.
    starting: Mutex<HashMap<JobId, CancellationToken>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LiveJobs {
    pub(crate) fn get(&self, id: &JobId) -> Option<Live> {
        lock(&self.live).get(id).cloned()
    }

    fn insert(&self, id: &JobId, live: Live) {
        lock(&self.live).insert(id.clone(), live);
    }

    pub(super) fn remove(&self, id: &JobId) {
        lock(&self.live).remove(id);
    }

    fn begin(&self, id: &JobId) -> CancellationToken {
        let token = CancellationToken::new();
        lock(&self.starting).insert(id.clone(), token.clone());
        token
    }

    fn begun(&self, id: &JobId) {
        lock(&self.starting).remove(id);
    }

    /// Wakes a job that waits for something before its start.
    pub(super) fn interrupt(&self, id: &JobId) {
        if let Some(token) = lock(&self.starting).get(id) {
            token.cancel();
        }
    }

    pub(crate) fn ids(&self) -> Vec<JobId> {
        lock(&self.live).keys().cloned().collect()
    }
}

/// The daemon's part of the cluster network, once it is up.
pub type NetworkSlot = watch::Receiver<Option<Arc<Network>>>;

/// Everything that jobs are made with.
pub(crate) struct Runner {
    pub(crate) book: JobBook,
    pub(crate) gate: Gate,
    pub(crate) live: LiveJobs,
    pub(crate) runtime: Runtime,
    pub(crate) volumes: VolumeManager,
    pub(crate) layers: Arc<dyn LayerSource>,
    pub(crate) logs: LogMux,
    pub(crate) network: NetworkSlot,
    /// URL of discoverd for containers, once it is up.
    pub(crate) discoverd: watch::Receiver<Option<String>>,
    pub(crate) facts: HostFacts,
    pub(crate) partitions: Vec<String>,
    /// Holds `container/<job>` and `image/mnt/<job>`.
    pub(crate) run_root: PathBuf,
    /// Bound to `/etc/resolv.conf` in containers with a network of their own.
    pub(crate) resolv_conf: PathBuf,
    /// Files that replace those of the same name in a container's `/bin`.
    pub(crate) bin_overrides: PathBuf,
    pub(crate) init_log_level: String,
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) tasks: TaskTracker,
    /// Cancelled when this daemon ends while its containers go on.
    pub(crate) leaving: CancellationToken,
    /// Jobs that are about to use up their memory.
    pub(crate) memory_warnings: broadcast::Sender<JobId>,
}

/// A prepared container on its way to running.
struct Starting {
    live: Live,
}

/// Why a start ended without a running job.
enum NotStarted {
    /// A stop was requested before there was anything to stop.
    Stopped,
    Failed(String),
}

impl<E: std::error::Error> From<E> for NotStarted {
    fn from(err: E) -> Self {
        Self::Failed(with_causes(&err))
    }
}

impl Runner {
    pub(crate) fn run_dir(&self, id: &JobId) -> PathBuf {
        self.run_root.join("container").join(id.as_str())
    }

    pub(super) fn mount_dir(&self, id: &JobId) -> PathBuf {
        self.run_root.join("image").join("mnt").join(id.as_str())
    }

    /// Begins the life of an accepted job.
    pub(crate) fn spawn(self: &Arc<Self>, id: JobId, slot: Option<OwnedSemaphorePermit>) {
        let runner = Arc::clone(self);
        let span = info_span!("job", job_id = %id);
        let interrupt = self.live.begin(&id);
        let leaving = self.leaving.clone();
        self.tasks.spawn(
            async move { leaving.run_until_cancelled_owned(runner.live(id, slot, interrupt)).await }.instrument(span),
        );
    }

    async fn live(self: Arc<Self>, id: JobId, slot: Option<OwnedSemaphorePermit>, interrupt: CancellationToken) {
        let started = self.start(&id, slot, &interrupt).await;
        self.live.begun(&id);
        match started {
            Ok(starting) => self.see_through(&id, starting.live).await,
            Err(NotStarted::Stopped) => {
                self.book.exited(&id, 0, None, Utc::now());
            }
            Err(NotStarted::Failed(reason)) => {
                info!(reason, "job could not be started");
                self.book.failed(&id, reason);
            }
        }
        self.gate.close(&id);
        self.clean_up(&id).await;
    }

    /// Continues the life of a job whose container was found alive.
    pub(super) fn adopt(self: &Arc<Self>, id: JobId, container: Container) {
        let runner = Arc::clone(self);
        let span = info_span!("job", job_id = %id);
        let leaving = self.leaving.clone();
        let life = async move {
            let Some(job) = runner.book.get(&id) else { return };
            let live = Live { log: runner.follow(&id, &job, &container), container };
            runner.live.insert(&id, live.clone());
            let waits = *live.container.state().borrow() == InitState::Initial;
            if waits {
                if let Err(reason) = runner.let_run(&id, &live).await {
                    runner.book.failed(&id, reason);
                    runner.runtime.destroy(&runner.run_dir(&id)).await;
                }
            } else {
                runner.gate.open(&id).await;
            }
            runner.see_through(&id, live).await;
            runner.clean_up(&id).await;
        };
        self.tasks.spawn(async move { leaving.run_until_cancelled_owned(life).await }.instrument(span));
    }

    /// Waits for what the job needs, then builds its container and lets it run.
    async fn start(
        &self,
        id: &JobId,
        slot: Option<OwnedSemaphorePermit>,
        interrupt: &CancellationToken,
    ) -> Result<Starting, NotStarted> {
        let job = self.book.get(id).ok_or(NotStarted::Stopped)?;
        if job.force_stop {
            return Err(NotStarted::Stopped);
        }
        prepare::check(&job.job, &self.partitions)?;
        let slot = slot.filter(|_| !self.must_wait(id, &job)); // who waits keeps nobody else from starting
        let ready = self.network_and_discovery(id, &job);
        let network = interrupt.run_until_cancelled(ready).await.ok_or(NotStarted::Stopped)?;
        let slot = match slot {
            Some(slot) => slot,
            None => {
                let acquire = Arc::clone(&self.slots).acquire_owned();
                interrupt.run_until_cancelled(acquire).await.ok_or(NotStarted::Stopped)??
            }
        };
        let started = self.build(id, network.as_deref(), interrupt).await;
        drop(slot);
        started
    }

    async fn build(
        &self,
        id: &JobId,
        network: Option<&Network>,
        interrupt: &CancellationToken,
    ) -> Result<Starting, NotStarted> {
        let address = match network {
            Some(network) => Some(network.allocate(id, None)?),
            None => None,
        };
        let job = self.assign(id, address);
        // What is wrong with the job itself is told rather than what is wrong with this host.
        let supervisor = self.runtime.supervisor(id, &self.run_dir(id), job.job.partition()).await;
        let prepared =
            interrupt.run_until_cancelled(self.prepare(id, &job, network, address)).await.ok_or(NotStarted::Stopped)?;
        let spec = prepared.map_err(NotStarted::Failed)?;
        // From here on a stop request finds a container to stop.
        let container = supervisor?.start(spec).await?;
        let pid = container.pid();
        self.book.update(id, |job| job.pid = Some(pid));
        let live = Live { log: self.follow(id, &job, &container), container };
        self.live.insert(id, live.clone());
        if let Err(reason) = self.let_run(id, &live).await {
            // Its streams end with it, which is what the log waits for.
            self.runtime.destroy(&self.run_dir(id)).await;
            return Err(NotStarted::Failed(reason));
        }
        Ok(Starting { live })
    }

    /// Records address, ports and the environment that they give.
    fn assign(&self, id: &JobId, address: Option<Ipv4Addr>) -> ActiveJob {
        let text = address.map(|ip| ip.to_string());
        self.book.update(id, |job| {
            prepare::assign_ports(&mut job.job.config, text.as_deref());
            job.internal_ip = text.unwrap_or_default();
            job.waiting_for = None;
        });
        self.book.get(id).unwrap_or_default()
    }

    /// Lets attachers in, then starts the job's process.
    async fn let_run(&self, id: &JobId, live: &Live) -> Result<(), String> {
        self.gate.open(id).await;
        if self.is_to_stop(id) {
            if let Err(err) = live.container.kill().await {
                info!(err = with_causes(&err), "the job's init does not end when told to");
                self.runtime.destroy(&self.run_dir(id)).await;
            }
            return Ok(());
        }
        live.container.resume().await.map_err(|err| with_causes(&err))
    }

    /// Follows the container's states to its end, and records it.
    async fn see_through(self: &Arc<Self>, id: &JobId, live: Live) {
        let mut states = live.container.state();
        let mut exit = live.container.exit();
        let running = async {
            let runs = states.wait_for(|state| *state == InitState::Running).await.is_ok();
            if runs {
                self.note_running(id, &live).await;
            }
            std::future::pending::<()>().await;
        };
        let record = tokio::select! {
            record = exit_record(&mut exit) => record,
            () = running => None,
        };
        match record {
            Some(record) => self.note_exit(id, &record, live.container.pid()),
            // An init that vanished while it was being stopped is as stopped as can be.
            None if self.is_to_stop(id) => drop(self.book.exited(id, 0, None, Utc::now())),
            None => drop(self.book.failed(id, "unknown failure: the job's monitor ended without a word".into())),
        }
    }

    /// Whether a stop was asked for.
    fn is_to_stop(&self, id: &JobId) -> bool {
        self.book.get(id).is_none_or(|job| job.force_stop)
    }

    async fn note_running(self: &Arc<Self>, id: &JobId, live: &Live) {
        if self.book.started(id, live.container.pid(), Utc::now()) {
            info!("job is running");
        }
        if self.is_to_stop(id) {
            self.stop_container(id, live).await;
        }
    }

    /// Records how a container ended, now or while no daemon was there.
    pub(super) fn note_exit(&self, id: &JobId, record: &ExitRecord, pid: i32) {
        let at = DateTime::from_timestamp_micros(record.at_micros).unwrap_or_else(Utc::now);
        let stopped_before_start =
            self.book.get(id).is_some_and(|job| job.force_stop && job.status == JobStatus::Starting);
        match &record.state {
            _ if stopped_before_start => {
                info!("job was stopped before it ran");
                self.book.exited(id, 0, None, at);
            }
            InitState::Exited { status } => {
                self.book.started(id, pid, at); // a short job may be over before it was seen running
                let oom = record.oom_kills > 0 && *status == 128 + SIGKILL;
                info!(exit_status = status, oom_kills = record.oom_kills, "job exited");
                self.book.exited(id, *status, oom.then(|| "killed: out of memory".to_owned()), at);
            }
            InitState::Failed { error } => {
                info!(error, "job failed");
                self.book.failed(id, error.clone());
            }
            state @ (InitState::Initial | InitState::Running) => {
                warn!(?state, "the exit record names a state that is no end");
                self.book.failed(id, "unknown failure: the container ended without a status".into());
            }
        }
    }

    /// Starts or continues to move the job's output into its log.
    pub(super) fn follow(&self, id: &JobId, job: &ActiveJob, container: &Container) -> Option<Arc<JobLog>> {
        let config = &job.job.config;
        if config.disable_log || config.tty {
            return None;
        }
        let log = Arc::new(self.logs.follow_job(self.log_info(id, job), container.spool()));
        let (mut acked, container, id) = (log.acked(), container.clone(), id.clone());
        // Ends with the log.
        self.tasks.spawn(self.leaving.clone().run_until_cancelled_owned(async move {
            while acked.changed().await.is_ok() {
                let offset = *acked.borrow_and_update();
                if let Err(err) = container.ack(offset).await {
                    tracing::debug!(job_id = %id, err = &err as &dyn std::error::Error, "output cannot be acknowledged");
                }
            }
        }));
        Some(log)
    }

    /// Whether something that the job needs is not there yet; noted in the job.
    fn must_wait(&self, id: &JobId, job: &ActiveJob) -> bool {
        let what = if needs_network(job) && self.network.borrow().is_none() {
            "network"
        } else if needs_discovery(job) && self.discoverd.borrow().is_none() {
            "discoverd"
        } else {
            return false;
        };
        self.book.update(id, |job| job.waiting_for = Some(what.to_owned()));
        true
    }

    /// The network, if the job needs one, once that and discovery are up.
    async fn network_and_discovery(&self, id: &JobId, job: &ActiveJob) -> Option<Arc<Network>> {
        let mut found = None;
        if needs_network(job) {
            let mut network = self.network.clone();
            found = network.wait_for(Option::is_some).await.ok().and_then(|network| network.clone());
            if found.is_none() {
                std::future::pending::<()>().await; // the daemon is ending
            }
        }
        if self.must_wait(id, job) && self.discoverd.clone().wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
        found
    }

    /// The job's environment facts as they are now.
    pub(super) fn facts(&self) -> HostFacts {
        HostFacts { discoverd_url: self.discoverd.borrow().clone().unwrap_or_default(), ..self.facts.clone() }
    }
}

fn needs_network(job: &ActiveJob) -> bool {
    !job.job.config.host_network
}

/// Jobs that name a discovery of their own, also `none`, do not wait for ours.
fn needs_discovery(job: &ActiveJob) -> bool {
    !job.job.config.env.contains_key("DISCOVERD")
}

/// Waits for the end of a container; `None` when its monitor is gone without a record.
pub(super) async fn exit_record(exit: &mut watch::Receiver<Option<ExitRecord>>) -> Option<ExitRecord> {
    exit.wait_for(Option::is_some).await.ok()?.clone()
}

/// Removes a directory tree; absence is success.
pub(super) fn remove_tree(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => Err(err),
        _ => Ok(()),
    }
}
