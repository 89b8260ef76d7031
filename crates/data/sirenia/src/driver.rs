//! Drives the state machine of one peer: carries out its effects and tells it what became of them.

mod work;

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::Utc;
use flynn_types::discoverd::Instance;
use flynn_types::sirenia::{ClusterState, Config, DatabaseInfo, PeerInfo, Tunables};
use flynn_types::time::GoTime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{Instrument as _, error, info};

use crate::{Event, FenceFailure, Position, State, View, WriteFailure, next};
use work::Work;

/// The service as it changes.
#[async_trait]
pub trait Views: Send + 'static {
    /// The next view, the first one as soon as there is one. Cancel safe. Views may be passed over.
    async fn next(&mut self) -> View;
}

/// Where the cluster's state and the peer's registration are.
#[async_trait]
pub trait Discovery: Send + Sync + 'static {
    /// See [`crate::Effect::Write`]. Gives the new index.
    async fn write(&self, index: u64, cluster: &ClusterState, leader: &str) -> Result<u64, WriteFailure>;
    /// Takes the peer's registration back. Tries for a bounded time; it expires otherwise.
    async fn withdraw(&self);
}

/// The database of a peer.
///
/// At most one of `configure`, `fence`, `caught_up` and `open` is called at a time. Any of them may be dropped before
/// it is ready: what was begun may then be done, half done or go on, and the next call has to cope with that.
#[async_trait]
pub trait Database<P>: Send + Sync + 'static {
    /// Makes the database what `config` says, and lifts a fence; ready when it runs so (or is stopped).
    ///
    /// * A primary takes no writes of clients before [`Database::open`]. It refuses to lead with a log that ends before
    ///   the `init_wal` of `config.state`. Before anything else of the generation it writes the generation into its log
    ///   (see [`crate::InHistory`]). From the first moment on it acknowledges commits only when the downstream has them
    ///   on disk, and only the downstream's identity counts, not its address.
    /// * A standby starts also while its upstream is away, if it has data. It replicates from nobody but the peer named
    ///   as upstream: whoever answers at the address must say that it is this peer. It replaces its data only by that of
    ///   an upstream whose position is further, and only when the copy is complete.
    /// * What stays as it is goes on undisturbed: a change that concerns other peers interrupts nothing.
    ///
    /// # Errors
    /// In words; tried again every second until it succeeds or something else is wanted.
    async fn configure(&self, config: &Config) -> Result<(), String>;

    /// See [`crate::Effect::Fence`]. When this is ready, no commit is acknowledged and nothing is received any more,
    /// and the position covers all that was.
    async fn fence(&self, at_least: &P) -> Result<P, FenceFailure<P>>;

    /// Waits until the downstream of `config` has everything that the database has, however long that takes.
    ///
    /// # Errors
    /// In words; asked again.
    async fn caught_up(&self, config: &Config) -> Result<(), String>;

    /// Takes writes from now on, as the primary that it is configured as.
    async fn open(&self) -> Result<(), String>;

    /// What the database says of itself. The driver knows better what it was told to be and whether its downstream has
    /// everything, and fills in `config` and `synced_downstream`.
    async fn info(&self) -> DatabaseInfo;
}

/// What is kept on the peer's volume.
#[async_trait]
pub trait Memory: Send + Sync + 'static {
    /// See [`crate::Effect::Remember`]: on disk when this is ready.
    async fn remember(&self, generation: u64) -> io::Result<()>;
}

/// The world of a peer.
pub struct World<P> {
    pub discovery: Arc<dyn Discovery>,
    pub database: Arc<dyn Database<P>>,
    pub memory: Arc<dyn Memory>,
}

// By hand: `P` itself need not be cloned.
impl<P> Clone for World<P> {
    fn clone(&self) -> Self {
        Self { discovery: self.discovery.clone(), database: self.database.clone(), memory: self.memory.clone() }
    }
}

/// What is known about a running peer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    pub peer: PeerInfo,
    /// What the database was told to be last.
    pub config: Option<Config>,
    /// The downstream, once it has everything.
    pub synced_downstream: Option<Instance>,
    /// Whether the peer has left its cluster.
    pub left: bool,
}

/// Why a peer ended that nobody stopped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerFailed {
    #[error("{0}")]
    Setup(&'static str),
    #[error("the peer's task ended early")]
    Task,
}

/// A running peer. Dropping it ends the driver at once and leaves the database as it is.
#[derive(Debug)]
pub struct Peer {
    commands: mpsc::Sender<Command>,
    known: watch::Receiver<Known>,
    task: JoinHandle<Result<(), PeerFailed>>,
    _stop: DropGuard,
}

#[derive(Debug)]
enum Command {
    Stop,
    Tune(Tunables),
}

/// Asks things of a running peer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    known: watch::Receiver<Known>,
}

impl Peer {
    /// Starts a peer whose database is stopped.
    pub fn start<P: Position>(state: State, views: impl Views, world: World<P>) -> Self {
        let (commands, inbox) = mpsc::channel(4); // one operator at a time; more wait
        let (tell, known) = watch::channel(Known::default());
        let stop = CancellationToken::new();
        let span = tracing::info_span!("peer", id = %state.me().id);
        let driver = Driver { state, work: Work::new(world), tell, retry_pending: None, failed: None };
        let task = tokio::spawn(driver.run(views, inbox, stop.clone()).instrument(span));
        Self { commands, known, task, _stop: stop.drop_guard() }
    }

    pub fn handle(&self) -> Handle {
        Handle { commands: self.commands.clone(), known: self.known.clone() }
    }

    /// Waits for the peer's end: after [`Handle::stop`], or when it must not run. Cancel safe.
    pub async fn ended(&mut self) -> Result<(), PeerFailed> {
        (&mut self.task).await.unwrap_or(Err(PeerFailed::Task))
    }
}

impl Handle {
    pub fn known(&self) -> Known {
        self.known.borrow().clone()
    }

    /// Follows what is known.
    pub fn watch(&self) -> watch::Receiver<Known> {
        self.known.clone()
    }

    /// Stops the database, withdraws the registration, and waits for both. The same again is fine.
    pub async fn stop(&self) {
        let _ = self.commands.send(Command::Stop).await; // an error: it has ended before
        let mut known = self.known.clone();
        let _ = known.wait_for(|known| known.left).await;
    }

    /// Hands new tunables to the primary's machine; gives whether it will hear of them.
    pub fn tune(&self, tunables: Tunables) -> bool {
        self.commands.try_send(Command::Tune(tunables)).is_ok()
    }
}

struct Driver<P> {
    state: State,
    work: Work<P>,
    tell: watch::Sender<Known>,
    retry_pending: Option<GoTime>,
    failed: Option<&'static str>,
}

impl<P: Position> Driver<P> {
    async fn run(
        mut self,
        mut views: impl Views,
        mut inbox: mpsc::Receiver<Command>,
        stop: CancellationToken,
    ) -> Result<(), PeerFailed> {
        loop {
            self.tell();
            if self.state.ended() {
                return self.failed.map_or(Ok(()), |reason| Err(PeerFailed::Setup(reason)));
            }
            let event = tokio::select! {
                biased; // what discovery tells is taken in before anything is decided
                () = stop.cancelled() => return Ok(()),
                view = views.next() => Some(Event::Discovered(Box::new(view))),
                command = inbox.recv() => match command {
                    Some(Command::Stop) => Some(Event::Stop),
                    Some(Command::Tune(tunables)) => Some(Event::Tune(tunables)),
                    None => return Ok(()),
                },
                event = self.work.next() => event,
            };
            if let Some(event) = event {
                // Not to be given up half way: a fenced database or an unremembered generation would be forgotten.
                self.hear(event).await;
            }
        }
    }

    async fn hear(&mut self, event: Event<P>) {
        if let Event::Configured(_, result) = &event {
            self.retry_pending = result.is_err().then(|| Utc::now().into());
        }
        let (role, generation) = (self.state.role(), self.generation());
        let (state, effects) = next(&self.state, event);
        self.state = state;
        if (role, generation) != (self.state.role(), self.generation()) {
            info!(role = %self.state.role(), generation = self.generation(), "role in the cluster");
        }
        for effect in effects {
            if let Some(reason) = self.work.begin(effect).await {
                error!(reason, "this peer must not run");
                self.failed = Some(reason);
            }
        }
    }

    fn generation(&self) -> u64 {
        self.state.cluster().map_or(0, |(_, cluster)| cluster.generation)
    }

    fn tell(&self) {
        let known = Known {
            peer: PeerInfo {
                id: self.state.me().id.clone(),
                role: self.state.role(),
                retry_pending: self.retry_pending,
                state: self.state.cluster().map(|(_, cluster)| cluster.clone()),
                peers: self.state.peers().unwrap_or_default().to_vec(),
                waiting_for: self.state.retry_reason().map(str::to_owned).or_else(|| self.state.waiting_for()),
            },
            config: self.work.config().cloned(),
            synced_downstream: self.work.synced_downstream().cloned(),
            left: self.state.ended(),
        };
        self.tell.send_if_modified(|told| {
            let changed = *told != known;
            *told = known;
            changed
        });
    }
}
