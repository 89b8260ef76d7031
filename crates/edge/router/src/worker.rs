//! A thread that serves connections: one runtime, its own listeners, its own connections to backends.
//!
//! Nothing of a request ever moves to another thread. The kernel spreads connections over the workers' listeners.

use std::io;
use std::net::TcpListener as StdListener;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::server::ProducesTickets;
use tokio::sync::{Semaphore, watch};
use tokio::task::LocalSet;
use tokio_util::task::TaskTracker;
use tracing::error;

use crate::backend::Pool;
use crate::listen::{Port, serve_port};
use crate::shared::Shared;
use crate::sockets::Sockets;
use crate::tcp;
use crate::watchdog::Pulse;

/// Pause between looks for idle connections that are too old.
const SWEEP: Duration = Duration::from_secs(5);

/// What the tasks of one thread share.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) sockets: Arc<Sockets>,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) pool: Pool,
    /// Clients' connections; a tunnel is a task of its own.
    pub(crate) tasks: TaskTracker,
    pub(crate) slots: Arc<Semaphore>,
}

/// What a worker is started with.
pub(crate) struct Start {
    pub(crate) shared: Arc<Shared>,
    pub(crate) sockets: Arc<Sockets>,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) listeners: Vec<(StdListener, Port)>,
    pub(crate) tickets: Arc<dyn ProducesTickets>,
    /// Tells that routes or backends have changed.
    pub(crate) changed: watch::Receiver<()>,
    /// This worker's number and how many there are: each TCP route belongs to one.
    pub(crate) share: (usize, usize),
}

/// Starts a worker's thread. It ends when the router drains and its connections are over, or cut off.
pub(crate) fn start(start: Start) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let name = format!("router-{}", start.share.0);
    std::thread::Builder::new().name(name).spawn(move || LocalSet::new().block_on(&runtime, run(start)))
}

async fn run(start: Start) {
    let Start { shared, sockets, pulse, listeners, tickets, changed, share } = start;
    let worker = Rc::new(Worker {
        pool: Pool::new(shared.settings.limits.pooled_per_backend),
        tasks: TaskTracker::new(),
        slots: Arc::new(Semaphore::new(shared.settings.limits.connections)),
        shared,
        sockets,
        pulse,
    });
    let mut running = tokio::task::JoinSet::new();
    for (listener, port) in listeners {
        running.spawn_local(serve_port(Rc::clone(&worker), listener, port, Arc::clone(&tickets)));
    }
    running.spawn_local(tcp::serve_routes(Rc::clone(&worker), changed.clone(), share));
    let sweeper = tokio::task::spawn_local(sweep(Rc::clone(&worker), changed));
    let pulse = Arc::clone(&worker.pulse);
    let beating = tokio::task::spawn_local(async move { pulse.beat().await });
    while let Some(ended) = running.join_next().await {
        if let Err(err) = ended {
            error!(%err, "a listener failed");
        }
    }
    // All listeners are closed: the router is draining.
    worker.tasks.close();
    let cut_off = worker.shared.cut_off.clone();
    tokio::select! {
        () = worker.tasks.wait() => {}
        () = cut_off.cancelled() => {
            // Connections see the same token; a moment for them to say good-bye.
            let _ = tokio::time::timeout(Duration::from_secs(1), worker.tasks.wait()).await;
        }
    }
    sweeper.abort();
    beating.abort();
}

/// Closes connections to backends that are too old, or whose backend is gone.
async fn sweep(worker: Rc<Worker>, mut changed: watch::Receiver<()>) {
    let mut pause = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            _ = pause.tick() => {}
            change = changed.changed() => if change.is_err() { return },
        }
        worker.pool.expire(worker.shared.settings.limits.pooled_idle);
    }
}
