//! Everything between a daemon's start and its end. It comes up from its own disk, in this order: state, volumes, logs,
//! discovery, network, DNS, API, jobs. Only a node that never had a network waits for others, and even then its API
//! answers meanwhile.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use flynn_container::{Runtime, RuntimeConfig};
use flynn_discoverd::Discoverd;
use flynn_discoverd_client::Client;
use flynn_host::{Database, Host, HostConfig, Layers, Parts, Replacer};
use flynn_http::ServerOptions;
use flynn_logmux::{LogMux, MuxConfig};
use flynn_volume::{VolumeConfig, VolumeManager};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::departed;
use super::discovery::{self, Registrations};
use super::leases::DiscoverdLeases;
use super::network::{BringUp, Up, follow_resolvers, remembered_lease};
use super::peers::DiscoverdPeers;
use super::setup::{DISCOVERD_PORT, Setup};
use super::sockets::Sockets;
use super::upkeep;
use crate::version::VERSION;

/// How long requests may go on while the node ends. A replacement is itself a request that outlasts its node.
const API_GRACE: Duration = Duration::from_secs(150);
/// Longest that a part of the node may take to end.
const END_PATIENCE: Duration = Duration::from_secs(15);

/// A running node.
pub(super) struct Node {
    pub(super) host: Arc<Host>,
    discoverd: Discoverd,
    volumes: VolumeManager,
    database: Database,
    registrations: Arc<Mutex<Registrations>>,
    network: JoinHandle<Arc<Mutex<Option<Up>>>>,
    /// Ends everything that belongs to the node.
    stop: CancellationToken,
}

impl Node {
    /// Brings the node up. Jobs of the last daemon are taken over before the API answers.
    pub(super) async fn start(
        setup: &Arc<Setup>,
        sockets: Sockets,
        replacer: Arc<dyn Replacer>,
    ) -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        let ends = stop.clone().drop_guard();
        let runtime = runtime(setup)?;
        std::fs::create_dir_all(&setup.state_dir)
            .with_context(|| format!("make the state folder {}", setup.state_dir.display()))?;
        let (state, database) = (setup.options.state.clone(), tokio::task::spawn_blocking);
        let database = database(move || Database::open(&state)).await?.context("open the node's state")?;
        let volumes = VolumeConfig {
            provider: setup.provider,
            zfs_pool: setup.options.zpool_name.clone(),
            ..VolumeConfig::new(&setup.options.volpath, setup.id.clone())
        };
        let volumes = VolumeManager::open(volumes, Arc::new(database.clone())).await.context("open the volumes")?;
        let logs = LogMux::open(log_config(setup)).await.context("open the job logs")?;
        let discoverd = start_discoverd(setup, sockets.discoverd).await?;
        let client = Client::from_list(&format!("http://{}:{DISCOVERD_PORT}", setup.own_ip()))?;
        let slot = watch::Sender::new(None);
        let discoverd_url = watch::Sender::new(None);
        let parts = Parts {
            database: database.clone(),
            runtime,
            volumes: volumes.clone(),
            layers: Arc::new(Layers::new(client.clone())),
            logs: logs.clone(),
            network: slot.subscribe(),
            discoverd: discoverd_url.subscribe(),
        };
        let host = Host::open(host_config(setup), parts).context("read the recorded jobs")?;
        host.set_peers(Arc::new(DiscoverdPeers(client.clone())));
        host.set_replacer(replacer);
        let registrations = Registrations::begin(&client, setup, &host, stop.clone());

        let bring_up = BringUp {
            setup: Arc::clone(setup),
            host: Arc::clone(&host),
            discoverd: discoverd.clone(),
            leases: DiscoverdLeases::follow(&client, stop.clone()),
            registrations: Arc::clone(&registrations),
            slot: slot.clone(),
            discoverd_url,
            stop: stop.clone(),
        };
        let remembered = remembered_lease(setup);
        let remembers = remembered.is_some();
        let network = tokio::spawn(hold_network(bring_up.run(remembered), stop.clone()));
        if remembers {
            // The jobs that are taken over have addresses there.
            let mut up = slot.subscribe();
            let waited = tokio::time::timeout(END_PATIENCE, up.wait_for(Option::is_some)).await;
            if waited.is_err() {
                warn!("the network is not up yet, going on without");
            }
        }
        let withdraw = departed::withdraw(host.subscribe(), Arc::clone(&host), discoverd.registry(), client.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(withdraw));
        host.restore(!setup.options.no_resurrect).await;
        for listener in sockets.http {
            serve(listener, &host, &stop)?;
        }
        upkeep::begin(&client, &logs, &volumes, &stop);
        let monitor = flynn_repair::monitor(
            flynn_repair::Cluster::new(client.clone(), setup.auth_key.clone()),
            discovery::own_instance(setup, setup.options.http_port),
        );
        tokio::spawn(stop.clone().run_until_cancelled_owned(monitor));
        info!(host_id = %setup.id, external_ip = %setup.external_ip, version = VERSION, "the node is up");
        let _ = ends.disarm();
        Ok(Self { host, discoverd, volumes, database, registrations, network, stop })
    }

    /// Resolves when discovery was shut down by a client of its own: a node cannot do without.
    pub(super) async fn lost_discovery(&self) {
        self.discoverd.ended().await;
    }

    /// Ends everything but the jobs, and closes all files, so that another node can be started over them.
    pub(super) async fn leave(self) {
        self.stop.cancel();
        // Dropping the registrations ends the heartbeats only.
        drop(self.registrations);
        self.host.leave().await;
        let network = async {
            if let Ok(up) = self.network.await
                && let Some(up) = up.lock().await.take()
            {
                up.end().await;
            }
        };
        let (discoverd, volumes) = (self.discoverd.shutdown(), self.volumes.close());
        let all = async { tokio::join!(network, discoverd, volumes) };
        if tokio::time::timeout(END_PATIENCE, all).await.is_err() {
            warn!("parts of the node did not end in time");
        }
        self.database.close();
    }

    /// Stops the jobs and withdraws from the cluster: the machine goes down.
    pub(super) async fn retire(self) {
        self.host.begin_shutdown();
        self.host.stop_jobs().await;
        self.registrations.lock().await.withdraw().await;
        self.stop.cancel();
        self.host.leave().await;
        let all = async { tokio::join!(self.discoverd.shutdown(), self.volumes.close()) };
        let _ = tokio::time::timeout(END_PATIENCE, all).await; // the process ends anyway
        self.database.close();
    }
}

/// Has the network as long as the node lives.
async fn hold_network(bring_up: impl Future<Output = Option<Up>>, stop: CancellationToken) -> Arc<Mutex<Option<Up>>> {
    let up = Arc::new(Mutex::new(bring_up.await));
    stop.run_until_cancelled(follow_resolvers(Arc::clone(&up))).await;
    stop.cancelled().await;
    up
}

fn runtime(setup: &Setup) -> anyhow::Result<Runtime> {
    let config = RuntimeConfig {
        cgroup_root: setup.options.cgroup_root.clone(),
        ..RuntimeConfig::new(&setup.options.flynn_init)
    };
    let runtime = Runtime::new(config)?;
    runtime.ensure_partitions(&setup.partitions).context("make the partitions' control groups")?;
    Ok(runtime)
}

fn log_config(setup: &Setup) -> MuxConfig {
    let mut config = MuxConfig::new(setup.options.log_dir.clone(), setup.state_dir.join("logs"), setup.id.clone());
    if let Some(path) = &setup.options.sink_state {
        config.sink_state.clone_from(path);
    }
    config
}

async fn start_discoverd(setup: &Setup, listeners: Vec<std::net::TcpListener>) -> anyhow::Result<Discoverd> {
    let advertise = (setup.external_ip, DISCOVERD_PORT).into();
    let peers = setup.peers.iter().map(|ip| (*ip, DISCOVERD_PORT).into()).collect();
    let mut config =
        flynn_discoverd::Config::new(setup.id.to_string(), advertise, setup.state_dir.join("discoverd.redb"), peers);
    config.version = VERSION.to_owned();
    if let Some(seconds) = setup.options.replace_voters_after {
        config.timing.replace_after = Duration::from_secs(seconds);
    }
    let listeners: Result<_, _> = listeners.into_iter().map(tokio::net::TcpListener::from_std).collect();
    Discoverd::start(config, listeners?).await.context("start discoverd")
}

fn host_config(setup: &Setup) -> HostConfig {
    HostConfig {
        id: setup.id.clone(),
        external_ip: setup.external_ip.into(),
        listen_ip: setup.options.listen_ip.clone(),
        http_port: setup.options.http_port,
        version: VERSION.to_owned(),
        flags: setup.arguments.clone(),
        tags: setup.tags.clone(),
        run_root: setup.run_root.clone(),
        resolv_conf: setup.options.resolv_conf.clone(),
        bin_overrides: setup.options.bin_overrides.clone(),
        partitions: setup.partitions.iter().map(|(name, _)| name.clone()).collect(),
        max_job_concurrency: setup.job_concurrency,
        init_log_level: setup.options.init_log_level.clone(),
        auth_key: setup.auth_key.clone(),
        restrict_privileges: setup.options.restrict_privileges,
        cgroup_version: cgroup_version(),
    }
}

/// 2 when the unified hierarchy is all there is.
fn cgroup_version() -> u8 {
    if PathBuf::from("/sys/fs/cgroup/cgroup.controllers").exists() { 2 } else { 1 }
}

fn serve(listener: std::net::TcpListener, host: &Arc<Host>, stop: &CancellationToken) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let options = ServerOptions { grace: API_GRACE, log_requests: true, ..ServerOptions::default() };
    let serving = flynn_http::serve(listener, host.router(), stop.clone(), options);
    tokio::spawn(async move {
        if let Err(err) = serving.await {
            warn!(%err, "the host API ended");
        }
    });
    Ok(())
}
