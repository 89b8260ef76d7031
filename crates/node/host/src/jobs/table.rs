//! What the host knows of its jobs: a pure table of states and the transitions between them.
//!
//! ```text
//!  (none) ─add─► starting ─started─► running ─exited─► done | crashed
//!                   │                   │
//!                   └─exited / failed ──┴─failed─► failed
//! ```
//!
//! Final states never change again. Every change gives the event to publish; nothing here does I/O or reads a clock.

use std::collections::{BTreeMap, VecDeque};

use chrono::{DateTime, Utc};
use flynn_types::host::{ActiveJob, Job, JobEvent, JobEventKind, JobStatus};
use flynn_types::id::JobId;

/// Ended jobs of one app that stay listed (spec flynn-host section 12.1).
pub(crate) const LISTED_ENDED_JOBS: usize = 25;

#[derive(Debug, Default)]
pub(crate) struct JobTable {
    jobs: BTreeMap<JobId, ActiveJob>,
    /// Ended and cleaned-up jobs by app, oldest first.
    ended: BTreeMap<String, VecDeque<JobId>>,
}

/// Why a job is not accepted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AddError {
    #[error("job already exists")]
    Exists,
    /// In the order of the request.
    #[error("volumes in use: {}", .0.join(", "))]
    VolumesInUse(Vec<String>),
}

/// What a stop request met.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum StopTarget {
    /// Whoever starts it sees the mark.
    Starting,
    Running,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StopError {
    #[error("host: unknown job")]
    Unknown,
    #[error("host: job is already stopped")]
    AlreadyStopped,
}

impl JobTable {
    /// Takes a job from the store at start-up. Ended jobs count as cleaned up.
    pub(crate) fn restore(&mut self, id: JobId, job: ActiveJob) {
        let ended = !job.status.is_active();
        let app = app_key(&job.job);
        self.jobs.insert(id.clone(), job);
        if ended {
            self.ended.entry(app).or_default().push_back(id);
        }
    }

    /// Puts the ended jobs of each app into the order of their ends, after all were restored.
    pub(crate) fn restored(&mut self) {
        for ids in self.ended.values_mut() {
            let jobs = &self.jobs;
            ids.make_contiguous().sort_by_key(|id| jobs.get(id).map(|job| job.ended_at));
        }
        let apps: Vec<String> = self.ended.keys().cloned().collect();
        for app in apps {
            self.unlist_old(&app);
        }
    }

    pub(crate) fn add(&mut self, id: JobId, job: Job, host: &str, now: DateTime<Utc>) -> Result<JobEvent, AddError> {
        if self.jobs.contains_key(&id) {
            return Err(AddError::Exists);
        }
        let busy: Vec<String> =
            job.config.volumes.iter().map(|v| v.volume.clone()).filter(|v| self.user_of_volume(v).is_some()).collect();
        if !busy.is_empty() {
            return Err(AddError::VolumesInUse(busy));
        }
        let active = ActiveJob { job, host_id: host.to_owned(), created_at: now.into(), ..ActiveJob::default() };
        let event = event(JobEventKind::Create, &id, &active);
        self.jobs.insert(id, active);
        Ok(event)
    }

    /// Takes back a job that could not be recorded.
    pub(crate) fn remove(&mut self, id: &JobId) {
        self.jobs.remove(id);
    }

    /// The active job that has a volume.
    pub(crate) fn user_of_volume(&self, volume: &str) -> Option<&JobId> {
        let uses = |job: &ActiveJob| job.job.config.volumes.iter().any(|binding| binding.volume == volume);
        self.jobs.iter().find(|(_, job)| job.status.is_active() && uses(job)).map(|(id, _)| id)
    }

    /// Changes fields that are no state, such as the address; ended jobs stay as they are.
    pub(crate) fn update(&mut self, id: &JobId, change: impl FnOnce(&mut ActiveJob)) -> bool {
        match self.jobs.get_mut(id) {
            Some(job) if job.status.is_active() => {
                change(job);
                true
            }
            _ => false,
        }
    }

    pub(crate) fn started(&mut self, id: &JobId, pid: i32, now: DateTime<Utc>) -> Option<JobEvent> {
        let job = self.jobs.get_mut(id).filter(|job| job.status == JobStatus::Starting)?;
        job.status = JobStatus::Running;
        job.started_at = now.into();
        job.pid = Some(pid);
        job.waiting_for = None;
        Some(event(JobEventKind::Start, id, job))
    }

    pub(crate) fn exited(
        &mut self,
        id: &JobId,
        exit_status: i32,
        error: Option<String>,
        now: DateTime<Utc>,
    ) -> Option<JobEvent> {
        let status = if exit_status == 0 { JobStatus::Done } else { JobStatus::Crashed };
        self.end(id, status, now, |job| {
            job.exit_status = Some(exit_status);
            job.error = error;
        })
    }

    pub(crate) fn failed(&mut self, id: &JobId, error: String, now: DateTime<Utc>) -> Option<JobEvent> {
        self.end(id, JobStatus::Failed, now, |job| job.error = Some(error))
    }

    fn end(
        &mut self,
        id: &JobId,
        status: JobStatus,
        now: DateTime<Utc>,
        set: impl FnOnce(&mut ActiveJob),
    ) -> Option<JobEvent> {
        let job = self.jobs.get_mut(id).filter(|job| job.status.is_active())?;
        job.status = status;
        job.ended_at = now.into();
        job.pid = None;
        job.waiting_for = None;
        set(job);
        let kind = if status == JobStatus::Failed { JobEventKind::Error } else { JobEventKind::Stop };
        Some(event(kind, id, job))
    }

    /// Everything of the ended job was released.
    pub(crate) fn cleaned_up(&mut self, id: &JobId) -> Option<JobEvent> {
        let job = self.jobs.get(id).filter(|job| !job.status.is_active())?;
        let event = event(JobEventKind::Cleanup, id, job);
        let app = app_key(&job.job);
        self.ended.entry(app.clone()).or_default().push_back(id.clone());
        self.unlist_old(&app);
        Some(event)
    }

    fn unlist_old(&mut self, app: &str) {
        let Some(ids) = self.ended.get_mut(app) else { return };
        while ids.len() > LISTED_ENDED_JOBS {
            if let Some(id) = ids.pop_front() {
                self.jobs.remove(&id);
            }
        }
    }

    /// Prepares a stop: the job is marked, so that the request outlives the daemon that took it.
    pub(crate) fn request_stop(&mut self, id: &JobId) -> Result<StopTarget, StopError> {
        let job = self.jobs.get_mut(id).ok_or(StopError::Unknown)?;
        let target = match job.status {
            JobStatus::Starting => StopTarget::Starting,
            JobStatus::Running => StopTarget::Running,
            JobStatus::Done | JobStatus::Crashed | JobStatus::Failed => return Err(StopError::AlreadyStopped),
        };
        job.force_stop = true;
        Ok(target)
    }

    pub(crate) fn get(&self, id: &JobId) -> Option<&ActiveJob> {
        self.jobs.get(id)
    }

    /// The listed jobs; with `active` only starting and running ones.
    pub(crate) fn list(&self, active: bool) -> BTreeMap<JobId, ActiveJob> {
        let wanted = |job: &ActiveJob| !active || job.status.is_active();
        self.jobs.iter().filter(|(_, job)| wanted(job)).map(|(id, job)| (id.clone(), job.clone())).collect()
    }

    pub(crate) fn active_count(&self) -> usize {
        self.jobs.values().filter(|job| job.status.is_active()).count()
    }

    /// How many jobs run, and how many are listed.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let running = self.jobs.values().filter(|job| job.status == JobStatus::Running).count();
        (running, self.jobs.len())
    }
}

/// Jobs are listed per app; those of no app together.
fn app_key(job: &Job) -> String {
    job.config.env.get("FLYNN_APP_ID").cloned().unwrap_or_default()
}

fn event(kind: JobEventKind, id: &JobId, job: &ActiveJob) -> JobEvent {
    JobEvent { event: kind, job_id: id.to_string(), job: job.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flynn_types::host::VolumeBinding;

    fn id(n: usize) -> JobId {
        format!("host1-{n}").parse().unwrap()
    }

    fn with_volume(volume: &str) -> Job {
        let mut job = Job::default();
        job.config.volumes.push(VolumeBinding { volume: volume.into(), ..VolumeBinding::default() });
        job
    }

    #[test]
    fn a_job_runs_through_its_life_in_order() {
        let (mut table, now) = (JobTable::default(), Utc::now());
        let kinds: Vec<_> = [
            table.add(id(1), Job::default(), "host1", now).ok(),
            table.started(&id(1), 42, now),
            table.exited(&id(1), 3, None, now),
            table.cleaned_up(&id(1)),
        ]
        .into_iter()
        .map(|event| event.unwrap().event)
        .collect();
        assert_eq!(kinds, [JobEventKind::Create, JobEventKind::Start, JobEventKind::Stop, JobEventKind::Cleanup]);
        let job = table.get(&id(1)).unwrap();
        assert_eq!((job.status, job.exit_status, job.pid), (JobStatus::Crashed, Some(3), None));
    }

    #[test]
    fn final_states_never_change() {
        let (mut table, now) = (JobTable::default(), Utc::now());
        table.add(id(1), Job::default(), "h", now).unwrap();
        table.failed(&id(1), "no such image".into(), now).unwrap();
        assert!(table.exited(&id(1), 0, None, now).is_none());
        assert!(table.started(&id(1), 1, now).is_none());
        assert!(!table.update(&id(1), |job| job.internal_ip = "x".into()));
        assert_eq!(table.request_stop(&id(1)), Err(StopError::AlreadyStopped));
        assert_eq!(table.get(&id(1)).unwrap().status, JobStatus::Failed);
    }

    #[test]
    fn a_volume_has_one_active_job_and_all_conflicts_are_named_in_order() {
        let (mut table, now) = (JobTable::default(), Utc::now());
        table.add(id(1), with_volume("b"), "h", now).unwrap();
        table.add(id(2), with_volume("a"), "h", now).unwrap();
        let mut both = with_volume("b");
        both.config.volumes.extend(with_volume("free").config.volumes);
        both.config.volumes.extend(with_volume("a").config.volumes);
        let error = table.add(id(3), both, "h", now).unwrap_err();
        assert_eq!(error.to_string(), "volumes in use: b, a");
        table.exited(&id(1), 0, None, now);
        assert!(table.add(id(4), with_volume("b"), "h", now).is_ok());
    }

    #[test]
    fn only_the_newest_ended_jobs_of_an_app_stay_listed() {
        let (mut table, now) = (JobTable::default(), Utc::now());
        for n in 0..=LISTED_ENDED_JOBS {
            table.add(id(n), Job::default(), "h", now).unwrap();
            table.exited(&id(n), 0, None, now);
            table.cleaned_up(&id(n));
        }
        assert_eq!(table.list(false).len(), LISTED_ENDED_JOBS);
        assert!(table.get(&id(0)).is_none() && table.get(&id(1)).is_some());
    }

    #[test]
    fn an_ended_job_still_blocks_its_id() {
        let (mut table, now) = (JobTable::default(), Utc::now());
        table.add(id(1), Job::default(), "h", now).unwrap();
        table.exited(&id(1), 0, None, now);
        assert_eq!(table.add(id(1), Job::default(), "h", now), Err(AddError::Exists));
    }
}
