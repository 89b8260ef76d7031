//! The host: its jobs, its settings, and what it tells others about itself.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::response::Response;
use chrono::{DateTime, Utc};
use flynn_container::Runtime;
use flynn_logmux::LogMux;
use flynn_types::host::{Command, DiscoverdConfig, HostStatus, JobEvent, NetworkConfig};
use flynn_types::id::{HostId, JobId};
use flynn_volume::{LayerSource, VolumeManager};
use tokio::sync::{Semaphore, broadcast, watch};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::BroadcastStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{self, FailureLimit};
use crate::hoststats::HostMeter;
use crate::jobs::prepare::HostFacts;
use crate::jobs::{self, Gate, JobBook, LiveJobs, NetworkSlot, Runner};
use crate::settings::{Settings, SettingsStore};
use crate::store::{Database, StoreError};
use crate::webhooks;

/// How a host behaves; the daemon's flags.
#[derive(Clone, Debug)]
pub struct HostConfig {
    pub id: HostId,
    /// Address under which others reach this host.
    pub external_ip: IpAddr,
    /// Address that the API listens on, empty for all.
    pub listen_ip: String,
    pub http_port: u16,
    pub version: String,
    /// The daemon's command line after `daemon`.
    pub flags: Vec<String>,
    /// Tags of the command line; those set later win.
    pub tags: BTreeMap<String, String>,
    /// Holds `container/` and `image/mnt/`.
    pub run_root: PathBuf,
    /// File that containers see as `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    pub bin_overrides: PathBuf,
    /// Names of the resource partitions.
    pub partitions: Vec<String>,
    /// Containers that are started at once.
    pub max_job_concurrency: usize,
    pub init_log_level: String,
    /// Key that requests must carry; `None` leaves the API open.
    pub auth_key: Option<String>,
    /// Whether host networking and the host's process namespace are for system jobs only.
    pub restrict_privileges: bool,
    /// 1 or 2.
    pub cgroup_version: u8,
}

/// What a host is made of.
pub struct Parts {
    pub database: Database,
    pub runtime: Runtime,
    pub volumes: VolumeManager,
    pub layers: Arc<dyn LayerSource>,
    pub logs: LogMux,
    /// The cluster network, once it is up.
    pub network: NetworkSlot,
    /// URL of discoverd for containers, once it is up.
    pub discoverd: watch::Receiver<Option<String>>,
}

/// Replaces this daemon by another process.
#[async_trait]
pub trait Replacer: Send + Sync {
    /// Returns the command with the new daemon's process id once that one serves. The reason of a failure is for the
    /// operator; this daemon then goes on as before.
    async fn replace(&self, command: Command) -> Result<Command, String>;
}

/// Fetches snapshots from other hosts.
#[async_trait]
pub trait Peers: Send + Sync {
    /// Base URL of a host's API, by host id; `None` when no such host is registered.
    async fn host_url(&self, id: &str) -> Result<Option<String>, String>;
}

pub struct Host {
    config: HostConfig,
    runner: Arc<Runner>,
    settings: SettingsStore,
    meter: HostMeter,
    failures: FailureLimit,
    stopping: AtomicBool,
    started_at: DateTime<Utc>,
    network: Mutex<Option<NetworkConfig>>,
    discoverd: Mutex<Option<DiscoverdConfig>>,
    /// What discovery shows of this host.
    metadata: watch::Sender<BTreeMap<String, String>>,
    replacer: OnceLock<Arc<dyn Replacer>>,
    peers: OnceLock<Arc<dyn Peers>>,
}

impl Host {
    /// Reads the recorded jobs and settings; starts nothing yet.
    pub fn open(config: HostConfig, parts: Parts) -> Result<Arc<Self>, StoreError> {
        let settings = SettingsStore::open(parts.database.clone())?;
        let book = JobBook::open(parts.database, config.id.as_str(), Utc::now())?;
        let facts = HostFacts {
            external_ip: config.external_ip.to_string(),
            listen_ip: config.listen_ip.clone(),
            discoverd_url: String::new(),
        };
        let runner = Runner {
            book,
            gate: Gate::default(),
            live: LiveJobs::default(),
            runtime: parts.runtime,
            volumes: parts.volumes,
            layers: parts.layers,
            logs: parts.logs,
            network: parts.network,
            discoverd: parts.discoverd,
            facts,
            partitions: config.partitions.clone(),
            run_root: config.run_root.clone(),
            resolv_conf: config.resolv_conf.clone(),
            bin_overrides: config.bin_overrides.clone(),
            init_log_level: config.init_log_level.clone(),
            slots: Arc::new(Semaphore::new(config.max_job_concurrency.max(1))),
            tasks: TaskTracker::new(),
            leaving: CancellationToken::new(),
            memory_warnings: broadcast::channel(64).0,
        };
        let host = Self {
            runner: Arc::new(runner),
            settings,
            meter: HostMeter::default(),
            failures: FailureLimit::default(),
            stopping: AtomicBool::new(false),
            started_at: Utc::now(),
            network: Mutex::default(),
            discoverd: Mutex::default(),
            metadata: watch::Sender::new(BTreeMap::new()),
            replacer: OnceLock::new(),
            peers: OnceLock::new(),
            config,
        };
        host.publish_metadata();
        Ok(Arc::new(host))
    }

    /// Addresses of active jobs in the containers' network.
    pub fn job_addresses(&self) -> Vec<(JobId, std::net::Ipv4Addr)> {
        let jobs = self.runner.book.list(true).into_iter();
        jobs.filter_map(|(id, job)| Some((id, job.internal_ip.parse().ok()?))).collect()
    }

    /// What happens to jobs from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<JobEvent>> {
        self.runner.book.subscribe()
    }

    /// Whether this host has run the job, and does not any more. Not of jobs that it does not remember.
    pub fn has_ended(&self, job: &JobId) -> bool {
        self.runner.book.has_ended(job)
    }

    /// All endpoints of the API.
    pub fn router(self: &Arc<Self>) -> Router {
        api::router(Arc::clone(self))
    }

    /// Continues the jobs of the last daemon. Call once, after volumes and the remembered network are up, and before the
    /// API is served.
    pub async fn restore(self: &Arc<Self>, resurrect: bool) {
        let leaving = self.runner.leaving.clone();
        let hooks = webhooks::Hooks::begin(self);
        self.runner.tasks.spawn(hooks.run(leaving.clone()));
        self.runner
            .tasks
            .spawn(leaving.clone().run_until_cancelled_owned(jobs::watch_memory(Arc::clone(&self.runner))));
        self.runner.tasks.spawn(leaving.run_until_cancelled_owned(jobs::forget_expired(Arc::clone(&self.runner))));
        self.runner.restore(&self.config.id, resurrect).await;
    }

    /// What `GET /host/status` answers.
    pub fn status(&self) -> HostStatus {
        let settings = self.settings.get();
        HostStatus {
            id: self.config.id.to_string(),
            tags: self.tags(&settings),
            pid: std::process::id(),
            url: format!("http://{}:{}", self.config.external_ip, self.config.http_port),
            discoverd: self.discoverd.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            network: self.network.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            version: self.config.version.clone(),
            flags: (!self.config.flags.is_empty()).then(|| self.config.flags.clone()),
            draining: settings.draining,
            jobs_active: u32::try_from(self.runner.book.active_count()).unwrap_or(u32::MAX),
            cgroup_version: self.config.cgroup_version,
            started_at: Some(self.started_at.into()),
        }
    }

    pub(crate) fn configured_tags(&self) -> &BTreeMap<String, String> {
        &self.config.tags
    }

    fn tags(&self, settings: &Settings) -> BTreeMap<String, String> {
        let mut tags = self.config.tags.clone();
        for (key, value) in &settings.tags {
            tags.insert(key.clone(), value.clone());
        }
        tags.retain(|key, _| !settings.removed_tags.contains(key));
        tags
    }

    /// Lets only requests with this host's key through to `router`: for endpoints that are served beside ours.
    pub fn guard(self: &Arc<Self>, router: Router) -> Router {
        api::guard(router, self)
    }

    /// Records the network for status and new jobs.
    pub fn set_network(&self, config: NetworkConfig) {
        *self.network.lock().unwrap_or_else(PoisonError::into_inner) = Some(config);
    }

    /// Records the discovery configuration for status.
    pub fn set_discoverd(&self, config: DiscoverdConfig) {
        *self.discoverd.lock().unwrap_or_else(PoisonError::into_inner) = Some(config);
    }

    pub fn set_replacer(&self, replacer: Arc<dyn Replacer>) {
        let _ = self.replacer.set(replacer); // set once, at start
    }

    pub fn set_peers(&self, peers: Arc<dyn Peers>) {
        let _ = self.peers.set(peers); // set once, at start
    }

    /// Metadata of this host's instance in the service `flynn-host`.
    pub fn metadata(&self) -> watch::Receiver<BTreeMap<String, String>> {
        self.metadata.subscribe()
    }

    fn publish_metadata(&self) {
        let settings = self.settings.get();
        let mut metadata: BTreeMap<String, String> =
            self.tags(&settings).into_iter().map(|(key, value)| (format!("tag:{key}"), value)).collect();
        metadata.insert("id".into(), self.config.id.to_string());
        if settings.draining {
            metadata.insert("drain".into(), "true".into());
        }
        if self.is_stopping() {
            metadata.insert("shutdown".into(), "true".into());
        }
        self.metadata.send_if_modified(|current| {
            let changed = *current != metadata;
            *current = metadata;
            changed
        });
    }

    /// Changes settings; on disk when it returns.
    pub(crate) async fn change_settings(&self, change: impl FnOnce(&mut Settings)) -> Result<(), StoreError> {
        self.settings.change(change).await?;
        self.publish_metadata();
        Ok(())
    }

    /// Refuses new jobs from now on, and says so in discovery.
    pub fn begin_shutdown(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.publish_metadata();
    }

    /// Stops every job, as when the machine goes down.
    pub async fn stop_jobs(&self) {
        let ids = self.runner.book.list(true).into_keys();
        let stops = ids.map(|id| {
            let runner = Arc::clone(&self.runner);
            async move {
                let _ = runner.stop(&id).await; // ended meanwhile
            }
        });
        futures_util::future::join_all(stops).await;
        let mut events = self.runner.book.subscribe();
        let ended = async {
            while self.runner.book.active_count() > 0 {
                let _ = tokio::time::timeout(Duration::from_secs(1), events.recv()).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(60), ended).await.is_err() {
            tracing::warn!("some jobs did not end in time");
        }
    }

    /// Lets go of all containers, which go on running, and writes what is left to write.
    pub async fn leave(&self) {
        self.runner.leaving.cancel();
        self.runner.tasks.close();
        if tokio::time::timeout(Duration::from_secs(10), self.runner.tasks.wait()).await.is_err() {
            tracing::warn!("some tasks of jobs did not end in time");
        }
        self.runner.logs.shutdown().await;
        let runner = Arc::clone(&self.runner);
        let _ = tokio::task::spawn_blocking(move || runner.book.persister().stop()).await;
    }

    /// Job events as a response that never ends by itself.
    pub(crate) fn job_events(&self, only: Option<JobId>) -> Response {
        let events = BroadcastStream::new(self.runner.book.subscribe()).filter_map(move |event| match event {
            Ok(event) if only.as_ref().is_none_or(|id| event.job_id == id.as_str()) => Some(Ok(event)),
            Ok(_) => None,
            Err(lagged) => Some(Err(format!("{lagged}: reconnect and list the jobs again"))),
        });
        flynn_http::sse(events)
    }

    pub(crate) fn id(&self) -> &HostId {
        &self.config.id
    }

    pub(crate) fn runner(&self) -> &Arc<Runner> {
        &self.runner
    }

    pub(crate) fn settings(&self) -> &SettingsStore {
        &self.settings
    }

    pub(crate) fn meter(&self) -> &HostMeter {
        &self.meter
    }

    pub(crate) fn auth_key(&self) -> Option<&str> {
        self.config.auth_key.as_deref()
    }

    pub(crate) fn failures(&self) -> &FailureLimit {
        &self.failures
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    pub(crate) fn restricts_privileges(&self) -> bool {
        self.config.restrict_privileges
    }

    pub(crate) fn replacer(&self) -> Option<&Arc<dyn Replacer>> {
        self.replacer.get()
    }

    pub(crate) fn peers(&self) -> Option<&Arc<dyn Peers>> {
        self.peers.get()
    }
}
