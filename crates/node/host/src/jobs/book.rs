//! The job table together with its record on disk and its event stream.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use flynn_types::error::with_causes;
use flynn_types::host::{ActiveJob, Job, JobEvent};
use flynn_types::id::JobId;
use tokio::sync::broadcast;

use super::table::{AddError, JobTable, StopError, StopTarget};
use crate::store::{Database, Persister, StoreError};

/// Events that a slow subscriber may fall behind before its stream ends with an error.
const EVENT_BUFFER: usize = 4096;
/// Ended jobs are forgotten after this time, or when there are more than [`KEPT_JOBS`].
const KEEP_ENDED: TimeDelta = TimeDelta::days(30);
const KEPT_JOBS: usize = 10_000;

/// Every change goes through here: table, event and record stay in step.
///
/// **Invariant:** events are sent in the order of the changes, under the table's lock. **Invariant:** a job is announced
/// (`create`) only after it is on disk.
#[derive(Clone)]
pub(crate) struct JobBook {
    table: Arc<Mutex<JobTable>>,
    events: broadcast::Sender<Arc<JobEvent>>,
    persister: Arc<Persister>,
    database: Database,
    host: String,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error(transparent)]
    Refused(#[from] AddError),
    #[error("the job cannot be recorded: {}", with_causes(.0.as_ref()))]
    Store(Arc<StoreError>),
}

impl JobBook {
    /// Reads the recorded jobs and starts the writer.
    pub(crate) fn open(database: Database, host: &str, now: DateTime<Utc>) -> Result<Self, StoreError> {
        let mut table = JobTable::default();
        let recorded = database.jobs()?;
        let expired = expired(&recorded, now);
        for (id, job) in recorded {
            if !expired.contains(&id) {
                table.restore(id, job);
            }
        }
        table.restored();
        database.forget_jobs(&expired)?;
        let table = Arc::new(Mutex::new(table));
        let snapshot = Arc::clone(&table);
        let persister = Persister::start(
            database.clone(),
            Box::new(move |id| {
                let table = snapshot.lock().unwrap_or_else(PoisonError::into_inner);
                table.get(id).map(|job| serde_json::to_vec(job).expect("a job has string keys only"))
            }),
        );
        Ok(Self {
            table,
            events: broadcast::channel(EVENT_BUFFER).0,
            persister: Arc::new(persister),
            database,
            host: host.to_owned(),
        })
    }

    fn table(&self) -> MutexGuard<'_, JobTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn persister(&self) -> &Persister {
        &self.persister
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Arc<JobEvent>> {
        self.events.subscribe()
    }

    /// Accepts a job: on return it is on disk and announced.
    pub(crate) async fn add(&self, id: &JobId, job: Job) -> Result<(), RecordError> {
        let (database, old) = (self.database.clone(), id.clone());
        let recorded = tokio::task::spawn_blocking(move || database.has_job(&old)).await;
        match recorded.unwrap_or(Err(StoreError::Closed)) {
            Ok(false) => {}
            Ok(true) => return Err(AddError::Exists.into()),
            Err(err) => return Err(RecordError::Store(Arc::new(err))),
        }
        let event = self.table().add(id.clone(), job, &self.host, Utc::now())?;
        self.persister.job_changed(id);
        if let Err(err) = self.persister.synced().await {
            self.table().remove(id);
            return Err(RecordError::Store(err));
        }
        self.send(Some(event));
        Ok(())
    }

    fn send(&self, event: Option<JobEvent>) -> bool {
        match event {
            Some(event) => {
                let _ = self.events.send(Arc::new(event)); // nobody may listen
                true
            }
            None => false,
        }
    }

    /// Applies a change that may give an event; tells whether it did.
    fn change(&self, id: &JobId, change: impl FnOnce(&mut JobTable) -> Option<JobEvent>) -> bool {
        let mut table = self.table();
        let changed = self.send(change(&mut table));
        drop(table);
        self.persister.job_changed(id);
        changed
    }

    pub(crate) fn started(&self, id: &JobId, pid: i32, at: DateTime<Utc>) -> bool {
        self.change(id, |table| table.started(id, pid, at))
    }

    pub(crate) fn exited(&self, id: &JobId, status: i32, error: Option<String>, at: DateTime<Utc>) -> bool {
        self.change(id, |table| table.exited(id, status, error, at))
    }

    pub(crate) fn failed(&self, id: &JobId, error: String) -> bool {
        self.change(id, |table| table.failed(id, error, Utc::now()))
    }

    pub(crate) fn cleaned_up(&self, id: &JobId) {
        self.change(id, |table| table.cleaned_up(id));
    }

    pub(crate) fn update(&self, id: &JobId, change: impl FnOnce(&mut ActiveJob)) {
        if self.table().update(id, change) {
            self.persister.job_changed(id);
        }
    }

    pub(crate) fn request_stop(&self, id: &JobId) -> Result<StopTarget, StopError> {
        let target = self.table().request_stop(id)?;
        self.persister.job_changed(id);
        Ok(target)
    }

    /// Whether the job is known, and neither starts nor runs.
    pub(crate) fn has_ended(&self, id: &JobId) -> bool {
        self.table().get(id).is_some_and(|job| !job.status.is_active())
    }

    /// A listed job.
    pub(crate) fn get(&self, id: &JobId) -> Option<ActiveJob> {
        self.table().get(id).cloned()
    }

    /// A job by id, also one that is no longer listed.
    pub(crate) async fn find(&self, id: &JobId) -> Option<ActiveJob> {
        if let Some(job) = self.get(id) {
            return Some(job);
        }
        let (database, unlisted) = (self.database.clone(), id.clone());
        let recorded = tokio::task::spawn_blocking(move || database.job(&unlisted)).await;
        match recorded.unwrap_or(Err(StoreError::Closed)) {
            Ok(job) => job,
            Err(err) => {
                tracing::warn!(job_id = %id, err = &err as &dyn std::error::Error, "recorded job cannot be read");
                None
            }
        }
    }

    /// Forgets ended jobs that nobody will ask for any more. Blocks.
    pub(crate) fn forget_expired(&self, now: DateTime<Utc>) -> Result<usize, StoreError> {
        let mut expired = expired(&self.database.jobs()?, now);
        // Those still listed go with the next start.
        expired.retain(|id| self.get(id).is_none());
        self.database.forget_jobs(&expired)?;
        Ok(expired.len())
    }

    pub(crate) fn list(&self, active: bool) -> BTreeMap<JobId, ActiveJob> {
        self.table().list(active)
    }

    /// The active job that has a volume.
    pub(crate) fn user_of_volume(&self, volume: &str) -> Option<JobId> {
        self.table().user_of_volume(volume).cloned()
    }

    pub(crate) fn active_count(&self) -> usize {
        self.table().active_count()
    }

    /// How many jobs run, and how many are listed.
    pub(crate) fn counts(&self) -> (usize, usize) {
        self.table().counts()
    }
}

/// Ended jobs that nobody will ask for any more.
fn expired(jobs: &[(JobId, ActiveJob)], now: DateTime<Utc>) -> Vec<JobId> {
    let mut ended: Vec<_> = jobs.iter().filter(|(_, job)| !job.status.is_active()).collect();
    ended.sort_by_key(|(_, job)| std::cmp::Reverse(job.ended_at));
    let is_old = |job: &ActiveJob| job.ended_at.0.is_some_and(|at| now - at > KEEP_ENDED);
    let beyond = |index: usize| index >= KEPT_JOBS;
    ended.iter().enumerate().filter(|(n, (_, job))| beyond(*n) || is_old(job)).map(|(_, (id, _))| id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_accepted_job_is_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.redb");
        let id: JobId = "h-1".parse().unwrap();
        {
            let book = JobBook::open(Database::open(&path).unwrap(), "h", Utc::now()).unwrap();
            let mut events = book.subscribe();
            book.add(&id, Job { id: id.to_string(), ..Job::default() }).await.unwrap();
            assert_eq!(events.recv().await.unwrap().job_id, "h-1");
            book.persister().stop();
        }
        let book = JobBook::open(Database::open(&path).unwrap(), "h", Utc::now()).unwrap();
        assert_eq!(book.list(true).len(), 1);
    }

    #[test]
    fn old_ended_jobs_expire_and_active_ones_never() {
        let now = Utc::now();
        let old = now - TimeDelta::days(31);
        let job = |ended: bool| {
            let mut job = ActiveJob { created_at: old.into(), ..ActiveJob::default() };
            if ended {
                job.status = flynn_types::host::JobStatus::Done;
                job.ended_at = old.into();
            }
            job
        };
        let jobs = [("h-1".parse().unwrap(), job(true)), ("h-2".parse().unwrap(), job(false))];
        assert_eq!(expired(&jobs, now), ["h-1".parse::<JobId>().unwrap()]);
    }
}
