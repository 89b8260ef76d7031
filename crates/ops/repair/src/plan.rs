//! What does not run although it must, and what would start it again. Pure: a function of what was seen.

use std::collections::BTreeSet;
use std::fmt;

use flynn_types::discoverd::Instance;
use flynn_types::host::{ActiveJob, Job, metadata};
use flynn_types::id::HostId;

use crate::cluster::View;

/// The app that controller and scheduler are processes of.
const CONTROLLER_APP: &str = "controller";
const CONTROLLER: &str = "web";
const SCHEDULER: &str = "scheduler";
/// What an instance says of its job.
const JOB_ID: &str = "FLYNN_JOB_ID";

/// What must run so that the scheduler can do the rest. In the order of who needs whom.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The peer of this database that writes.
    Primary(String),
    /// The peer of this database without which the primary does not write.
    Sync(String),
    Controller,
    Scheduler,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Primary(service) => write!(f, "the primary of {service}"),
            Self::Sync(service) => write!(f, "the sync of {service}"),
            Self::Controller => f.write_str("the controller"),
            Self::Scheduler => f.write_str("the scheduler"),
        }
    }
}

/// A job to start again as a copy.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    pub host: HostId,
    /// The one that ended.
    pub job: ActiveJob,
}

/// A part that does not run.
#[derive(Clone, Debug, PartialEq)]
pub struct Missing {
    pub part: Part,
    /// What would start it, best first. Empty when no host that answers remembers a job of it.
    pub candidates: Vec<Start>,
}

/// The parts that do not run, in the order of who needs whom.
pub fn missing(view: &View) -> Vec<Missing> {
    let databases = view.databases.iter().flat_map(|(service, state)| {
        let primary = state.primary.as_ref().map(|peer| (Part::Primary(service.clone()), peer));
        let sync = state.sync.as_ref().map(|peer| (Part::Sync(service.clone()), peer));
        // Also of a state that is frozen, as that of a single peer always is: who starts again has the role it had.
        let peers = primary.into_iter().chain(sync);
        peers.filter_map(|(part, peer)| Some(Missing { part, candidates: peer_jobs(view, service, peer)? }))
    });
    let controller = (!view.controller).then(|| stateless(view, CONTROLLER)).flatten();
    let scheduler = (!view.scheduler).then(|| stateless(view, SCHEDULER)).flatten();
    let controller = controller.map(|candidates| Missing { part: Part::Controller, candidates });
    let scheduler = scheduler.map(|candidates| Missing { part: Part::Scheduler, candidates });
    databases.chain(controller).chain(scheduler).collect()
}

fn jobs<'a>(view: &'a View, app: &'a str, kind: &'a str) -> impl Iterator<Item = (&'a HostId, &'a ActiveJob)> {
    let all = view.hosts.iter().flat_map(|(id, jobs)| jobs.iter().map(move |job| (id, job)));
    all.filter(move |(_, job)| job.job.meta(metadata::APP_NAME) == app && job.job.meta(metadata::TYPE) == kind)
}

/// Newest first.
fn starts<'a>(jobs: impl Iterator<Item = (&'a HostId, &'a ActiveJob)>) -> Vec<Start> {
    let mut jobs: Vec<_> = jobs.collect();
    jobs.sort_by_key(|(_, job)| std::cmp::Reverse((job.created_at, &job.job.id)));
    jobs.into_iter().map(|(host, job)| Start { host: host.clone(), job: job.clone() }).collect()
}

/// Candidates for a process without data: the newest job of each release. A release that does not come up any more is
/// followed by the one before it.
fn stateless(view: &View, kind: &str) -> Option<Vec<Start>> {
    if jobs(view, CONTROLLER_APP, kind).any(|(_, job)| job.status.is_active()) {
        return None;
    }
    let mut seen = BTreeSet::new();
    let mut found = starts(jobs(view, CONTROLLER_APP, kind));
    found.retain(|start| seen.insert(start.job.job.meta(metadata::RELEASE).to_owned()));
    Some(found)
}

/// The volume that outlives the job.
fn data(job: &Job) -> Option<&str> {
    let volume = job.config.volumes.iter().find(|volume| !volume.delete_on_stop)?;
    Some(&volume.volume)
}

/// The last job on the data of a peer; `None` when one runs.
fn peer_jobs(view: &View, service: &str, peer: &Instance) -> Option<Vec<Start>> {
    let name = peer.meta.get(JOB_ID).map_or("", String::as_str);
    let named = jobs(view, service, service).find(|(_, job)| job.job.id == name);
    // The peer may have been started again since, under another id, which the state tells only after it was in charge.
    let of_peer: Vec<_> = match named.map(|(host, job)| (host, data(&job.job))) {
        Some((at, Some(volume))) => {
            let same = |host: &HostId, job: &ActiveJob| host == at && data(&job.job) == Some(volume);
            jobs(view, service, service).filter(|(host, job)| same(host, job)).collect()
        }
        Some((_, None)) => named.into_iter().collect(),
        // Forgotten: any job of the database on that host may be the peer.
        None => {
            let at = name.split_once('-').map_or("", |(host, _)| host);
            jobs(view, service, service).filter(|(host, _)| host.as_str() == at).collect()
        }
    };
    if of_peer.iter().any(|(_, job)| job.status.is_active()) {
        return None;
    }
    let mut found = starts(of_peer.into_iter());
    found.truncate(1);
    Some(found)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use chrono::{TimeDelta, Utc};
    use flynn_types::host::{JobStatus, VolumeBinding};
    use flynn_types::sirenia::{ClusterState, Freeze};
    use flynn_types::time::GoTime;

    use super::*;

    /// A job by its id, with how long ago it was made.
    fn job(id: &str, app: &str, kind: &str, release: &str, status: JobStatus, age: i64) -> ActiveJob {
        let meta = [(metadata::APP_NAME, app), (metadata::TYPE, kind), (metadata::RELEASE, release)];
        let metadata = meta.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let job = Job { id: id.to_owned(), metadata, ..Job::default() };
        let created_at = GoTime::from(Utc::now() - TimeDelta::seconds(age));
        ActiveJob { job, status, created_at, ..ActiveJob::default() }
    }

    fn peer(id: &str, volume: &str, status: JobStatus, age: i64) -> ActiveJob {
        let mut made = job(id, "postgres", "postgres", "r1", status, age);
        made.job.config.volumes =
            vec![VolumeBinding { target: "/data".into(), volume: volume.into(), ..VolumeBinding::default() }];
        made
    }

    fn view(jobs: Vec<ActiveJob>) -> View {
        let mut hosts = BTreeMap::<HostId, Vec<ActiveJob>>::new();
        for job in jobs {
            let host = job.job.id.split('-').next().unwrap().parse().unwrap();
            hosts.entry(host).or_default().push(job);
        }
        View { hosts, controller: true, scheduler: true, ..View::default() }
    }

    fn state(primary: &str, sync: Option<&str>) -> ClusterState {
        let instance = |id: &str| Instance::new("tcp", "10.0.0.1:5432", [(JOB_ID.to_owned(), id.to_owned())].into());
        ClusterState {
            generation: 1,
            primary: Some(instance(primary)),
            sync: sync.map(instance),
            ..ClusterState::default()
        }
    }

    /// The parts that are missing, each with the ids of what would start it.
    fn found(view: &View) -> Vec<(String, Vec<String>)> {
        let ids = |candidates: Vec<Start>| candidates.into_iter().map(|start| start.job.job.id).collect();
        missing(view).into_iter().map(|missing| (missing.part.to_string(), ids(missing.candidates))).collect()
    }

    fn is(part: &str, ids: &[&str]) -> (String, Vec<String>) {
        (part.to_owned(), ids.iter().map(|id| (*id).to_owned()).collect())
    }

    use JobStatus::{Crashed, Done, Failed, Running, Starting};

    #[test]
    fn nothing_is_missing_from_a_cluster_that_is_well() {
        assert_eq!(found(&view(Vec::new())), []);
        let mut view = view(vec![peer("a-1", "v1", Running, 9), job("a-2", "controller", "web", "r1", Failed, 9)]);
        view.databases.insert("postgres".into(), state("a-1", None));
        assert_eq!(found(&view), []);
    }

    #[test]
    fn processes_without_data_are_started_from_the_newest_job_of_each_release() {
        let mut view = view(vec![
            job("a-1", "controller", "web", "old", Done, 90),
            job("a-2", "controller", "web", "new", Crashed, 20),
            job("b-3", "controller", "web", "new", Failed, 10),
            job("b-4", "controller", "scheduler", "new", Crashed, 30),
            job("b-5", "shop", "web", "new", Crashed, 1),
        ]);
        (view.controller, view.scheduler) = (false, false);
        assert_eq!(found(&view), [is("the controller", &["b-3", "a-1"]), is("the scheduler", &["b-4"])]);
    }

    #[test]
    fn what_is_about_to_register_is_not_started_again() {
        let mut view = view(vec![
            job("a-1", "controller", "web", "r1", Starting, 9),
            job("a-2", "controller", "scheduler", "r1", Running, 9),
        ]);
        (view.controller, view.scheduler) = (false, false);
        assert_eq!(found(&view), []);
    }

    #[test]
    fn parts_that_no_host_remembers_are_told() {
        let mut view = view(Vec::new());
        (view.controller, view.scheduler) = (false, false);
        view.databases.insert("postgres".into(), state("a-1", None));
        let parts = ["the primary of postgres", "the controller", "the scheduler"];
        assert_eq!(found(&view), parts.map(|part| is(part, &[])));
    }

    #[test]
    fn a_peer_is_started_on_its_volume_whatever_its_last_job_was() {
        let jobs = vec![
            peer("a-1", "v1", Failed, 90),
            peer("a-2", "v1", Failed, 50),
            peer("a-3", "other", Running, 10),
            peer("b-4", "v2", Failed, 10),
        ];
        let mut view = view(jobs);
        view.databases.insert("postgres".into(), state("a-1", Some("b-4")));
        let both = [is("the primary of postgres", &["a-2"]), is("the sync of postgres", &["b-4"])];
        assert_eq!(found(&view), both);
        view.databases.get_mut("postgres").unwrap().freeze = Some(Freeze::default());
        assert_eq!(found(&view), both);
    }

    #[test]
    fn a_peer_that_was_started_again_is_there() {
        let mut view = view(vec![peer("a-1", "v1", Failed, 90), peer("a-2", "v1", Running, 50)]);
        view.databases.insert("postgres".into(), state("a-1", None));
        assert_eq!(found(&view), []);
        // Its record is gone, but something runs there which may be it.
        view.databases.insert("postgres".into(), state("a-0", None));
        assert_eq!(found(&view), []);
        view.databases.insert("postgres".into(), state("b-0", None));
        assert_eq!(found(&view), [is("the primary of postgres", &[])]);
    }
}
