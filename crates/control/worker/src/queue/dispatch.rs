//! Takes jobs and has them worked on, several at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flynn_http::Backoff;
use sqlx::PgPool;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::session::{Session, Taken};
use super::wake::{Heard, Wake};
use super::{Job, Lease, LeaseError};

/// How often the queue is looked at when nothing is heard of: jobs to be tried again are not told of.
const POLL: Duration = Duration::from_millis(500);
/// Longest pause after the database failed.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long the end of a job may take to be recorded; then its lease ends it.
const RECORDING: Duration = Duration::from_secs(60);

/// How work on a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It is done, and its row is still there.
    Done,
    /// Its row is gone, with what it did.
    Recorded,
    /// It shall go on elsewhere.
    Released,
    /// It shall be tried again later.
    Failed(String),
    /// Another worker has it.
    Lost,
}

/// What a dispatcher needs.
pub(crate) struct Dispatch {
    pub(crate) pool: PgPool,
    /// Jobs at a time (Q5).
    pub(crate) slots: usize,
    /// Jobs of a class at a time, where they wait for others (W7).
    pub(crate) limits: &'static [(&'static str, usize)],
    pub(crate) shutdown: CancellationToken,
}

impl Dispatch {
    /// Takes jobs until the shutdown, and then waits for those that are worked on (Q6).
    pub(crate) async fn run<F>(self, wake: &Wake, work: impl Fn(Job, Arc<Lease>) -> F)
    where
        F: Future<Output = Ended> + Send + 'static,
    {
        let mut session = Session::new(self.pool.clone());
        let mut running = Running::default();
        let mut ear = wake.subscribe();
        let mut backoff = Backoff::new(Duration::from_millis(100), LONGEST_PAUSE);
        let mut failed = false;
        loop {
            let mut pause = POLL;
            while !self.shutdown.is_cancelled() && running.tasks.len() < self.slots {
                let asked = Instant::now();
                match session.take(&running.full(self.limits)).await {
                    Ok(Some(Taken { job, locked_until })) => {
                        let lease = Arc::new(Lease::new(self.pool.clone(), job.id, locked_until, asked));
                        running.start(job.clone(), Arc::clone(&lease), work(job, lease));
                    }
                    Ok(None) => break,
                    Err(err) => {
                        if !std::mem::replace(&mut failed, true) {
                            warn!(%err, "jobs cannot be taken");
                        }
                        pause = backoff.pause();
                        break;
                    }
                }
                backoff.reset();
                if std::mem::take(&mut failed) {
                    info!("jobs can be taken again");
                }
            }
            tokio::select! {
                () = self.shutdown.cancelled() => break,
                Some(id) = running.next() => session.release(id).await,
                () = ear.wait(|heard| heard == Heard::Jobs) => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        while let Some(id) = running.next().await {
            session.release(id).await;
        }
    }
}

#[derive(Default)]
struct Running {
    tasks: JoinSet<()>,
    /// Ids and classes of jobs by task.
    jobs: BTreeMap<tokio::task::Id, (i64, String)>,
}

impl Running {
    /// Classes of which no more may be started.
    fn full(&self, limits: &[(&'static str, usize)]) -> Vec<&'static str> {
        let number = |class: &str| self.jobs.values().filter(|(_, running)| running == class).count();
        limits.iter().filter(|(class, limit)| number(class) >= *limit).map(|(class, _)| *class).collect()
    }

    fn start(&mut self, job: Job, lease: Arc<Lease>, work: impl Future<Output = Ended> + Send + 'static) {
        let (id, class) = (job.id, job.class.clone());
        let task = self.tasks.spawn(supervised(job, lease, work));
        self.jobs.insert(task.id(), (id, class));
    }

    /// The id of the next job that ends; `None` when none is worked on.
    async fn next(&mut self) -> Option<i64> {
        let task = match self.tasks.join_next_with_id().await? {
            Ok((task, ())) => task,
            Err(err) => err.id(),
        };
        self.jobs.remove(&task).map(|(id, _)| id)
    }
}

/// Keeps the lease while a job is worked on, and records how it ended.
async fn supervised(job: Job, lease: Arc<Lease>, work: impl Future<Output = Ended> + Send + 'static) {
    let keeping = AbortOnDropHandle::new(tokio::spawn({
        let lease = Arc::clone(&lease);
        async move { lease.keep().await }
    }));
    info!(job = job.id, class = job.class, errors = job.error_count, "job");
    // A task of its own: one that panics is a job that failed.
    let mut working = AbortOnDropHandle::new(tokio::spawn(work));
    let ended = tokio::select! {
        biased;
        ended = &mut working => ended.unwrap_or_else(|err| Ended::Failed(format!("the worker crashed: {err}"))),
        () = lease.lost.cancelled() => Ended::Lost,
    };
    drop(working);
    drop(keeping);
    match &ended {
        Ended::Failed(err) => warn!(job = job.id, class = job.class, err, "job failed, and is tried again later"),
        ended => info!(job = job.id, class = job.class, ?ended, "job ended"),
    }
    if tokio::time::timeout(RECORDING, record(&lease, &ended)).await.is_err() {
        warn!(job = job.id, "the end of a job is not recorded: its lease ends it");
    }
}

async fn record(lease: &Lease, ended: &Ended) {
    let cancel = CancellationToken::new(); // the caller drops this future instead
    let backoff = Backoff::new(Duration::from_millis(100), LONGEST_PAUSE);
    let attempt = || async {
        match ended {
            Ended::Recorded | Ended::Lost => Ok(()),
            Ended::Done => match lease.finish().await {
                Err(LeaseError::Database(err)) => Err(err),
                Ok(()) | Err(LeaseError::Lost) => Ok(()),
            },
            Ended::Released => lease.give_up(None).await,
            Ended::Failed(err) => lease.give_up(Some(err)).await,
        }
    };
    let _ = flynn_http::retry(backoff, RECORDING, &cancel, |_| true, attempt).await; // its lease ends it, then
}
