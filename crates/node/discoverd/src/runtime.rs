//! Starting and stopping: the tasks of a node and who ends them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use flynn_types::discoverd::{Instance, LeaderType};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cluster::{join, steward};
use crate::config::Config;
use crate::consensus::{Consensus, OpenError, Reopening};
use crate::http::serve;
use crate::liveness::{Batcher, expire};
use crate::node::Node;
use crate::registry::Command;
use crate::replica::RegistryHandle;

/// The service under which nodes register.
const SELF: &str = "discoverd";
/// Pause between two attempts to open a store that failed.
const REOPEN: Duration = Duration::from_secs(1);
const GLANCE: Duration = Duration::from_millis(50);
/// How long connections may take to end at shutdown.
const GRACE: Duration = Duration::from_secs(1);

/// A running node. Clones are the same node; it runs until [`Discoverd::shutdown`].
#[derive(Clone)]
pub struct Discoverd {
    node: Arc<Node>,
    leader: watch::Receiver<Option<std::net::SocketAddr>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Cancelled once the store is closed after `POST /shutdown`, too.
    ended: CancellationToken,
}

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("a discoverd node needs a host id")]
    NoHostId,
    #[error("{0} cannot be advertised to other nodes")]
    Advertise(std::net::SocketAddr),
    /// A newer version of the program has written the store.
    #[error("{0}")]
    Store(String),
}

impl Discoverd {
    /// Starts a node and serves on `listeners` at once. It does not wait for a leader, nor for the store: one that
    /// cannot be opened now (full disk, still held by the program's previous life) is tried again for ever.
    pub async fn start(config: Config, listeners: Vec<TcpListener>) -> Result<Self, StartError> {
        if config.host_id.is_empty() {
            return Err(StartError::NoHostId);
        }
        if config.advertise.ip().is_unspecified() || config.advertise.port() == 0 {
            return Err(StartError::Advertise(config.advertise));
        }
        let register = config.register;
        let (batcher, beats) = Batcher::new();
        let node = Arc::new(Node::new(config, batcher));
        let first = match open(&node, Reopening::AsItIs).await {
            Ok(consensus) => Some(consensus),
            Err(err @ OpenError::Newer { .. }) => return Err(StartError::Store(err.to_string())),
            Err(_) => None, // logged; the keeper goes on
        };
        let (leader_sender, leader) = watch::channel(None);
        let discoverd = Self {
            node: node.clone(),
            leader,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            ended: CancellationToken::new(),
        };
        discoverd.tasks.spawn(keep(node.clone(), first, discoverd.stop.clone(), discoverd.ended.clone()));
        discoverd.spawn(announce_leader(node.clone(), leader_sender));
        discoverd.spawn(catch_up(node.clone()));
        discoverd.spawn(join(node.clone()));
        discoverd.spawn(steward(node.clone()));
        discoverd.spawn(expire(node.clone()));
        discoverd.spawn(Batcher::run(node.clone(), beats));
        if register {
            discoverd.spawn(register_self(node));
        }
        for listener in listeners {
            discoverd.listen(listener);
        }
        Ok(discoverd)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let (stop, ended) = (self.stop.clone(), self.ended.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = task => {}
                () = stop.cancelled() => {}
                () = ended.cancelled() => {}
            }
        });
    }

    /// Serves on one more listener, for example on the bridge address once there is one.
    ///
    /// On the advertised address and on loopback everything is served. Other addresses are where containers come in:
    /// there, the consensus among nodes cannot be touched.
    pub fn listen(&self, listener: TcpListener) {
        self.tasks.spawn(serve(self.node.clone(), listener, self.stop.clone(), self.tasks.clone()));
    }

    /// The local copy of the registry.
    pub fn registry(&self) -> RegistryHandle {
        RegistryHandle::new(self.node.replica.clone())
    }

    /// The Raft leader's address while one is known: the cluster is usable.
    pub fn leader_addr(&self) -> watch::Receiver<Option<std::net::SocketAddr>> {
        self.leader.clone()
    }

    /// Why the store does not work at the moment (for the daemon's own health).
    pub fn trouble(&self) -> Option<String> {
        self.node.status.borrow().trouble.clone()
    }

    /// Resolves when the node has ended, by [`Self::shutdown`] or because a client sent `POST /shutdown`.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Ends streams and listeners, writes what is queued, and closes the store: when this returns, another process can
    /// open it. The registration in the service `discoverd` stays, since a restart follows in most cases.
    pub async fn shutdown(&self) {
        self.node.closing.store(true, Ordering::Release);
        self.node.accepting.cancel();
        self.node.replica.close();
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(GRACE + Duration::from_secs(20), self.tasks.wait()).await.is_err() {
            tracing::error!(tasks = self.tasks.len(), "some tasks of discoverd do not end");
        }
    }
}

/// Opens the store and starts the Raft node on it.
async fn open(node: &Arc<Node>, reopening: Reopening) -> Result<Arc<Consensus>, OpenError> {
    let config = &node.config;
    let (replica, transport) = (node.replica.clone(), node.transport.clone());
    let opened = Consensus::open(&config.store, reopening, &config.timing, replica, transport).await;
    match &opened {
        Ok(consensus) => {
            node.set_consensus(Some(consensus.clone()));
            node.refresh(Some(None));
        }
        Err(err) => {
            let source = std::error::Error::source(err).map(|s| format!(": {s}")).unwrap_or_default();
            let text = format!("{err}{source}");
            tracing::error!(err = text, "the store cannot be opened, trying again");
            node.refresh(Some(Some(text)));
        }
    }
    opened
}

/// Keeps a Raft node running on the store, and the status up to date. After an error of the disk the store is closed and
/// opened anew until it works.
async fn keep(node: Arc<Node>, mut first: Option<Arc<Consensus>>, stop: CancellationToken, ended: CancellationToken) {
    let stopping = || stop.is_cancelled() || node.is_closing();
    let mut reopening = Reopening::AsItIs;
    while !stopping() {
        let opened = match first.take() {
            Some(consensus) => Ok(consensus),
            None => open(&node, reopening).await,
        };
        if let Ok(consensus) = opened {
            let failure = watch_over(&node, &consensus, &stop).await;
            node.set_consensus(None);
            reopening = consensus.close().await;
            if let Some(failure) = failure {
                tracing::error!(err = failure, "the raft node stopped, its store is opened again");
                node.refresh(Some(Some(failure)));
            }
        }
        if !stopping() {
            let _ = tokio::time::timeout(REOPEN, stop.cancelled()).await;
        }
    }
    node.replica.close();
    ended.cancel();
}

/// Until the Raft node fails (then why) or is to end.
async fn watch_over(node: &Node, consensus: &Consensus, stop: &CancellationToken) -> Option<String> {
    let mut changes = consensus.changes();
    loop {
        node.refresh(None);
        let failure = node.status.borrow().view.failure.clone();
        if failure.is_some() || node.is_closing() || stop.is_cancelled() {
            return failure.filter(|_| !node.is_closing() && !stop.is_cancelled());
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() {
                node.refresh(None);
                return Some(node.status.borrow().view.failure.clone().unwrap_or_else(|| "the raft core ended".to_owned()));
            },
            () = tokio::time::sleep(GLANCE) => {}
            () = stop.cancelled() => {}
            () = node.accepting.cancelled() => {}
        }
    }
}

async fn announce_leader(node: Arc<Node>, sender: watch::Sender<Option<std::net::SocketAddr>>) {
    let mut status = node.status.subscribe();
    loop {
        let leader = status.borrow_and_update().leader.map(|(_, addr)| addr);
        sender.send_if_modified(|known| {
            let changed = *known != leader;
            *known = leader;
            changed
        });
        if status.changed().await.is_err() {
            return;
        }
    }
}

/// Declares the replica ready once it shows everything that was written before the start.
async fn catch_up(node: Arc<Node>) {
    while node.linearize().await.is_err() {}
    node.ready.send_replace(true);
}

/// Keeps this node's instance in the service `discoverd`.
async fn register_self(node: Arc<Node>) {
    let instance = own_instance(&node);
    let interval = node.config.timing.ttl / 2;
    loop {
        if node.write(register(&instance)).await.is_ok_and(|outcome| outcome.is_err()) {
            let service = SELF.to_owned();
            let _ = node.write(Command::AddService { service, leader_type: LeaderType::Oldest }).await;
            let _ = node.write(register(&instance)).await;
        }
        tokio::time::sleep(interval.mul_f64(0.6 + rand::random::<f64>() * 0.4)).await;
    }
}

fn register(instance: &Instance) -> Command {
    Command::AddInstance { service: SELF.to_owned(), instance: instance.clone() }
}

fn own_instance(node: &Node) -> Instance {
    let meta = [("id".to_owned(), node.config.host_id.clone())].into();
    Instance::new("tcp", &node.config.advertise.to_string(), meta)
}

/// Ends the node on a client's request (spec section 7.3) and gives the last index of its log.
pub(crate) async fn end(node: &Node) -> u64 {
    if node.config.register {
        let removal = Command::RemoveInstance { service: SELF.to_owned(), id: own_instance(node).id };
        let _ = node.write(removal).await;
    }
    let last = node.consensus().map_or(0, |c| c.last_log_index());
    node.closing.store(true, Ordering::Release);
    node.accepting.cancel();
    node.replica.close();
    last
}
