//! The network of this host: what the daemon holds.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flynn_http::Backoff;
use flynn_types::error::with_causes;
use flynn_types::id::{HostId, JobId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{Instrument as _, error, info, info_span, warn};

use crate::attachment::{self, AttachError, Attachment, Plan};
use crate::kernel::Netlink;
use crate::lease::{self, Claim, Decision, InvalidSettings, Lease, Leases, Peer};
use crate::maintain::{Maintainer, ReconcileError};
use crate::pool::{AllocateError, Pool};
use crate::store::{CasError, LeaseStore, LeaseStoreError};
use crate::{Config, Ipv4Net, KernelError};

/// This host's part of the containers' network. Dropping it ends its upkeep and leaves all in place.
#[derive(Debug)]
pub struct Network {
    pub(crate) shared: Arc<Shared>,
    lease: watch::Receiver<Option<Lease>>,
    requests: mpsc::Sender<oneshot::Sender<Result<(), ReconcileError>>>,
    stop: Mutex<Option<DropGuard>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// What the network's users and its upkeep share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) netlink: Netlink,
    pub(crate) store: Arc<dyn LeaseStore>,
    state: Mutex<State>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("config", &self.config).finish_non_exhaustive()
    }
}

/// What is known now.
pub(crate) struct State {
    pub(crate) lease: Lease,
    pub(crate) pool: Pool,
    pub(crate) mtu: u32,
    /// Index of the bridge.
    pub(crate) bridge: u32,
    /// The other hosts; `None` until the document was read.
    pub(crate) peers: Option<Vec<Peer>>,
    /// The document as last read, for status.
    pub(crate) leases: Leases,
    /// Another daemon claims our host id: its address.
    pub(crate) conflict: Option<Ipv4Addr>,
    /// What the last attempts failed at.
    pub(crate) store_error: Option<String>,
    pub(crate) kernel_error: Option<String>,
    /// Chains of others that may drop containers' packets.
    pub(crate) foreign_drops: Vec<String>,
    /// Times that something had to be put right after the start.
    pub(crate) repairs: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Settings(#[from] InvalidSettings),
    #[error("set up the network")]
    Kernel(#[from] KernelError),
    #[error("set up the network")]
    Reconcile(#[from] ReconcileError),
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Network {
    /// Brings the network up. With a remembered lease at once, without the store; otherwise as soon as the store gives
    /// one, trying for as long as it takes (no subnet left included; that is logged).
    ///
    /// Call from the network namespace where the bridge belongs; then [`Self::reserve`] the addresses of containers
    /// that run, before the first [`Self::allocate`].
    pub async fn start(
        config: Config,
        store: Arc<dyn LeaseStore>,
        remembered: Option<Lease>,
    ) -> Result<Self, StartError> {
        let remembered = remembered.filter(|lease| {
            let ours = lease.host_id == config.host_id;
            if !ours {
                warn!(remembered = %lease.host_id, host_id = %config.host_id, "the remembered lease is another host's");
            }
            ours
        });
        let netlink = Netlink::open()?;
        let (lease, leases) = match remembered {
            Some(lease) => (lease, None),
            None => {
                let (lease, leases) = acquire(&config, store.as_ref()).await?;
                (lease, Some(leases))
            }
        };
        info!(subnet = %lease.subnet, network = %lease.network, "network has its subnet");
        let state = State {
            pool: Pool::new(lease.subnet),
            mtu: 0,
            bridge: 0,
            peers: leases.as_ref().map(|leases| lease::peers(leases, &lease, config.external_ip)),
            leases: leases.unwrap_or_default(),
            conflict: None,
            store_error: None,
            kernel_error: None,
            foreign_drops: Vec::new(),
            repairs: 0,
            lease: lease.clone(),
        };
        let shared = Arc::new(Shared { config, netlink, store, state: Mutex::new(state) });
        let (lease_sender, lease) = watch::channel(Some(lease));
        let (requests, inbox) = mpsc::channel(16); // full: callers wait, each is answered by the next pass
        let mut maintainer = Maintainer::new(Arc::clone(&shared), lease_sender)?;
        maintainer.reconcile(true).await?;
        let stop = CancellationToken::new();
        let span = info_span!("network", host_id = %shared.config.host_id);
        let task = tokio::spawn(maintainer.run(inbox, stop.clone()).instrument(span));
        Ok(Self { shared, lease, requests, stop: Mutex::new(Some(stop.drop_guard())), task: Mutex::new(Some(task)) })
    }

    /// The lease, to be remembered on disk. It is there from the beginning and changes only if the cluster's document
    /// was lost or restored.
    pub fn lease(&self) -> watch::Receiver<Option<Lease>> {
        self.lease.clone()
    }

    /// The bridge's address.
    pub fn gateway(&self) -> Ipv4Addr {
        self.shared.state().lease.gateway()
    }

    /// This host's addresses.
    pub fn subnet(&self) -> Ipv4Net {
        self.shared.state().lease.subnet
    }

    /// The network of all hosts.
    pub fn network(&self) -> Ipv4Net {
        self.shared.state().lease.network
    }

    /// Largest packet of a container, in bytes.
    pub fn mtu(&self) -> u32 {
        self.shared.state().mtu
    }

    /// An address for a job, which stays the job's until [`Self::release`]. A job that has one gets the same again.
    pub fn allocate(&self, job: &JobId, requested: Option<Ipv4Addr>) -> Result<Ipv4Addr, AllocateError> {
        self.shared.state().pool.allocate(job, requested)
    }

    /// Notes the address of a container that runs since an earlier daemon.
    pub fn reserve(&self, job: &JobId, ip: Ipv4Addr) {
        let reserved = self.shared.state().pool.reserve(job, ip);
        if let Err(err) = reserved {
            warn!(%job, %ip, %err, "running container has an address that is not this host's to give");
        }
    }

    /// Gives a job's address back. Call after [`Self::detach`].
    pub fn release(&self, job: &JobId) {
        self.shared.state().pool.release(job);
    }

    /// Connects a job with the address it was given: a network namespace, pinned at `netns_path`, with `lo` and `eth0`
    /// up and a default route. After an error nothing is left of it.
    pub async fn attach(&self, job: &JobId, ip: Ipv4Addr, netns_path: &Path) -> Result<Attachment, AttachError> {
        let plan = |shared: &Shared| {
            let state = shared.state();
            Plan {
                job,
                ip,
                prefix_len: state.lease.subnet.prefix_len(),
                gateway: state.lease.gateway(),
                mtu: state.mtu,
                bridge: state.bridge,
                netns: netns_path,
            }
        };
        let netlink = &self.shared.netlink;
        let first = attachment::attach(netlink, &plan(&self.shared)).await;
        match first {
            // Somebody may have removed the bridge just now: put it right and try once more.
            Err(err @ AttachError::Kernel { .. }) => match self.reconcile().await {
                Ok(()) => attachment::attach(netlink, &plan(&self.shared)).await,
                Err(_) => Err(err),
            },
            done => done,
        }
    }

    /// Removes a job's interface and namespace. Works also for what an earlier daemon made; what is absent is fine.
    pub async fn detach(&self, job: &JobId, netns_path: &Path) {
        let ip = self.shared.state().pool.jobs().find(|(id, _)| *id == job).map(|(_, ip)| ip);
        if let Err(err) = attachment::detach(&self.shared.netlink, job, ip, netns_path).await {
            error!(%job, err = %with_causes(&err), "cannot disconnect job from the network");
        }
    }

    /// Puts everything right that is not, now instead of at the next occasion.
    pub async fn reconcile(&self) -> Result<(), ReconcileError> {
        let (answer, result) = oneshot::channel();
        self.requests.send(answer).await.map_err(|_| ReconcileError::Stopped)?;
        result.await.unwrap_or(Err(ReconcileError::Stopped))
    }

    /// Ends the lease of a host that is gone for good; whether it had one. Its subnet may be another's from then on.
    pub async fn forget_host(&self, host_id: &HostId) -> Result<bool, LeaseStoreError> {
        let store = self.shared.store.as_ref();
        let mut pause = conflict_pause();
        loop {
            let (mut leases, index) = store.read().await?;
            if !leases.forget(host_id) {
                return Ok(false);
            }
            match store.compare_and_set(&leases, index).await {
                Ok(()) => return Ok(true),
                Err(CasError::Conflict) => tokio::time::sleep(pause.pause()).await,
                Err(CasError::Store(err)) => return Err(err),
            }
        }
    }

    /// Ends the upkeep. All in the kernel stays as it is, for the next daemon.
    pub async fn shutdown(&self) {
        drop(self.stop.lock().unwrap_or_else(PoisonError::into_inner).take());
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task
            && let Err(err) = task.await
        {
            error!(%err, "the network's upkeep ended early");
        }
    }
}

/// Pauses between attempts that lost against another host's.
fn conflict_pause() -> Backoff {
    Backoff::new(Duration::from_millis(5), Duration::from_millis(250))
}

/// Gets a lease for a host that remembers none.
async fn acquire(config: &Config, store: &dyn LeaseStore) -> Result<(Lease, Leases), InvalidSettings> {
    let mut pause = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    let mut last_message = String::new();
    loop {
        let message = match claim(config, store, None).await {
            Ok(done) => return Ok(done),
            Err(ClaimFailure::Settings(err)) => return Err(err),
            Err(err) => with_causes(&err),
        };
        if message != last_message {
            warn!(err = %message, "no subnet for this host yet");
            last_message = message;
        }
        tokio::time::sleep(pause.pause()).await;
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ClaimFailure {
    #[error(transparent)]
    Settings(InvalidSettings),
    #[error(transparent)]
    OutOfSubnets(lease::OutOfSubnets),
    #[error(transparent)]
    Store(#[from] LeaseStoreError),
}

/// Sees to it that the document says which subnet is this host's. Gives the lease and the document. Conflicts with
/// other hosts are tried again: each means that another host got on.
pub(crate) async fn claim(
    config: &Config,
    store: &dyn LeaseStore,
    preferred: Option<Ipv4Net>,
) -> Result<(Lease, Leases), ClaimFailure> {
    let settings = config.settings();
    let claim = Claim {
        host_id: &config.host_id,
        external_ip: config.external_ip,
        status_port: config.status_port,
        preferred,
        settings: &settings,
    };
    let mut pause = conflict_pause();
    loop {
        let (leases, index) = store.read().await?;
        let decision = lease::decide(&leases, &claim, |count| rand::random_range(0..count));
        let (lease, leases) = match decision {
            Ok(Decision::Keep(lease)) => return Ok((lease, leases)),
            Ok(Decision::Write(lease, leases)) => (lease, leases),
            Err(lease::ClaimError::Settings(err)) => return Err(ClaimFailure::Settings(err)),
            Err(lease::ClaimError::OutOfSubnets(err)) => return Err(ClaimFailure::OutOfSubnets(err)),
        };
        match store.compare_and_set(&leases, index).await {
            Ok(()) => return Ok((lease, leases)),
            Err(CasError::Conflict) => tokio::time::sleep(pause.pause()).await,
            Err(CasError::Store(err)) => return Err(err.into()),
        }
    }
}
