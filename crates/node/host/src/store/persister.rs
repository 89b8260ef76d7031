//! The thread that writes.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use flynn_types::id::JobId;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::database::{Changes, Database, StoreError};

/// Pause before a failed write is tried again, for example because the disk was full.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Gives the newest version of a job; `None` when there is nothing (more) to write of it.
type Snapshot = Box<dyn Fn(&JobId) -> Option<Vec<u8>> + Send>;
type Answer = oneshot::Sender<Result<(), Arc<StoreError>>>;

#[derive(Default)]
struct Pending {
    jobs: BTreeSet<JobId>,
    waiters: Vec<Answer>,
    stopping: bool,
    failing: bool,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.waiters.is_empty()
    }
}

/// Writes changes in the background and tells those who wait when they are safe.
pub(crate) struct Persister {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    pending: Mutex<Pending>,
    wake: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Persister {
    pub(crate) fn start(database: Database, snapshot: Snapshot) -> Self {
        let shared = Arc::new(Shared::default());
        let worker = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("state-writer".into())
            .spawn(move || run(&worker, &database, &snapshot))
            .expect("the kernel gives a daemon that starts its second thread");
        Self { shared, thread: Mutex::new(Some(thread)) }
    }

    /// The job changed; it is written soon.
    pub(crate) fn job_changed(&self, id: &JobId) {
        self.shared.lock().jobs.insert(id.clone());
        self.shared.wake.notify_one();
    }

    /// Waits until every change named before this call is on disk, or until writing them failed once.
    pub(crate) async fn synced(&self) -> Result<(), Arc<StoreError>> {
        let (answer, result) = oneshot::channel();
        {
            let mut pending = self.shared.lock();
            if pending.stopping {
                return Err(Arc::new(StoreError::Closed));
            }
            pending.waiters.push(answer);
        }
        self.shared.wake.notify_one();
        result.await.unwrap_or_else(|_| Err(Arc::new(StoreError::Closed)))
    }

    /// Writes what is left and ends the thread.
    pub(crate) fn stop(&self) {
        self.shared.lock().stopping = true;
        self.shared.wake.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            warn!("the state writer ended by a panic");
        }
    }
}

impl Drop for Persister {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(shared: &Shared, database: &Database, snapshot: &Snapshot) {
    loop {
        let (taken, stopping) = next(shared);
        if taken.is_empty() && stopping {
            return;
        }
        let changes = Changes {
            jobs: taken.jobs.iter().filter_map(|id| Some((id.clone(), Some(snapshot(id)?)))).collect(),
            documents: Vec::new(),
        };
        match database.commit(&changes) {
            Ok(()) => {
                let mut pending = shared.lock();
                if std::mem::take(&mut pending.failing) {
                    info!("state is written again");
                }
                drop(pending);
                taken.waiters.into_iter().for_each(|waiter| drop(waiter.send(Ok(()))));
            }
            Err(err) => {
                give_back(shared, taken, err);
                if stopping {
                    return;
                }
            }
        }
    }
}

fn next(shared: &Shared) -> (Pending, bool) {
    let mut pending = shared.lock();
    while pending.is_empty() && !pending.stopping {
        pending = shared.wake.wait(pending).unwrap_or_else(PoisonError::into_inner);
    }
    let taken = Pending {
        jobs: std::mem::take(&mut pending.jobs),
        waiters: std::mem::take(&mut pending.waiters),
        ..Pending::default()
    };
    (taken, pending.stopping)
}

/// Keeps the changes for the next try.
fn give_back(shared: &Shared, taken: Pending, err: StoreError) {
    warn!(err = &err as &dyn std::error::Error, "state cannot be written, trying again");
    let err = Arc::new(err);
    taken.waiters.into_iter().for_each(|waiter| drop(waiter.send(Err(Arc::clone(&err)))));
    let mut pending = shared.lock();
    pending.failing = true;
    pending.jobs.extend(taken.jobs);
    // Waiters that come during the pause are answered by the next try.
    drop(shared.wake.wait_timeout(pending, RETRY_PAUSE).unwrap_or_else(PoisonError::into_inner));
}
