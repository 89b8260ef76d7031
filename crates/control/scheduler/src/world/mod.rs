//! What is known of the cluster, with the indexes that make a decision cheap, and what has to be looked at.

mod formation;
mod host;
mod ids;
mod job;
mod marks;
mod routing;
mod volume;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use flynn_types::controller::Sink;
use flynn_types::id::HostId;
use uuid::Uuid;

pub use formation::{Formation, FormationIndex, FormationKey, Known, Needs};
pub use host::{CHECK_INTERVAL, CHECKS, COOLING, Host, HostIndex};
pub use job::{Found, Job, JobIndex, Mounted, Phase, Stop};
pub use routing::ROUTER_PATIENCE;
pub use volume::Volume;

pub(crate) use formation::{Exit, Fetch, PendingScale, Telling, TypeState};
pub(crate) use host::{Check, Listing};
pub(crate) use ids::{Ids, Tombstones};
pub(crate) use job::Save;
pub(crate) use marks::Timer;

use crate::arena::Arena;
use crate::time::Time;
use marks::Todo;
use routing::Routing;
use volume::Volumes;

/// Longest that a new leader waits for hosts to say what they run.
pub const TAKE_OVER_PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// Whether this scheduler decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Nobody said yet who leads.
    Unknown,
    Follower,
    /// `term` is higher than that of any leader before.
    Leader {
        term: u64,
        since: Time,
    },
}

/// What is known of the cluster.
#[derive(Clone)]
pub struct World {
    pub(crate) role: Role,
    /// Highest term seen.
    pub(crate) term: u64,
    pub(crate) hosts: Arena<Host>,
    pub(crate) host_ids: BTreeMap<HostId, HostIndex>,
    pub(crate) formations: Arena<Formation>,
    pub(crate) formation_keys: HashMap<FormationKey, FormationIndex>,
    pub(crate) apps: HashMap<Arc<str>, BTreeSet<FormationIndex>>,
    /// Whether all formations that exist were told.
    pub(crate) formations_current: bool,
    pub(crate) volumes_current: bool,
    pub(crate) jobs: Arena<Job>,
    pub(crate) uuids: HashMap<Uuid, JobIndex>,
    /// Jobs that ended, by their host's word.
    pub(crate) ended: Tombstones,
    /// Stopped jobs that the controller does not know of yet.
    pub(crate) stopped: usize,
    pub(crate) volumes: Volumes,
    pub(crate) routing: Routing,
    pub(crate) services: BTreeMap<String, BTreeSet<FormationIndex>>,
    pub(crate) sinks: Option<BTreeMap<String, Sink>>,
    /// Records of jobs that nobody has, to be set to down.
    pub(crate) orphans: BTreeMap<Uuid, Orphan>,
    /// The jobs that the controller took for active when asked then, until the world is known well enough to compare.
    pub(crate) records: Option<(Time, Vec<flynn_types::controller::Job>)>,
    /// Those of jobs that may run on hosts that have not told yet what they have.
    pub(crate) elsewhere: Vec<flynn_types::controller::Job>,
    pub(crate) ids: Ids,
    pub(crate) todo: Todo,
    pub(crate) timers: BTreeSet<(Time, Timer)>,
}

/// The controller's record of an active job that is on no host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Orphan {
    pub(crate) record: flynn_types::controller::Job,
    pub(crate) in_flight: bool,
}

impl World {
    /// An empty world. Equal seeds give equal ids of new jobs.
    pub fn new(seed: u128) -> Self {
        Self {
            role: Role::Unknown,
            term: 0,
            hosts: Arena::default(),
            host_ids: BTreeMap::new(),
            formations: Arena::default(),
            formation_keys: HashMap::new(),
            apps: HashMap::new(),
            formations_current: false,
            volumes_current: false,
            jobs: Arena::default(),
            uuids: HashMap::new(),
            ended: Tombstones::default(),
            stopped: 0,
            volumes: Volumes::default(),
            routing: Routing::default(),
            services: BTreeMap::new(),
            sinks: None,
            orphans: BTreeMap::new(),
            records: None,
            elsewhere: Vec::new(),
            ids: Ids::new(seed),
            todo: Todo::default(),
            timers: BTreeSet::new(),
        }
    }

    pub fn role(&self) -> Role {
        self.role
    }

    /// The term to send with every write, when this scheduler leads.
    pub fn leading(&self) -> Option<u64> {
        match self.role {
            Role::Leader { term, .. } => Some(term),
            Role::Unknown | Role::Follower => None,
        }
    }

    /// Whether jobs may be started and stopped: everything that runs is known.
    pub fn decides(&self, now: Time) -> bool {
        let Role::Leader { since, .. } = self.role else { return false };
        let heard = self.todo.unheard.is_empty() || now >= since + TAKE_OVER_PATIENCE;
        heard && self.formations_current && self.volumes_current
    }

    pub fn job(&self, uuid: Uuid) -> Option<&Job> {
        self.jobs.find(*self.uuids.get(&uuid)?)
    }

    pub fn job_at(&self, index: JobIndex) -> Option<&Job> {
        self.jobs.find(index)
    }

    /// All jobs, those of the past only until the controller knows.
    pub fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.jobs.iter().map(|(_, job)| job)
    }

    pub fn host(&self, id: &HostId) -> Option<&Host> {
        self.hosts.find(*self.host_ids.get(id)?)
    }

    pub fn host_at(&self, index: HostIndex) -> Option<&Host> {
        self.hosts.find(index)
    }

    /// In the order of their ids.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.host_ids.values().map(|index| &self.hosts[*index])
    }

    pub fn formation(&self, key: &FormationKey) -> Option<&Formation> {
        self.formations.find(*self.formation_keys.get(key)?)
    }

    pub fn formation_at(&self, index: FormationIndex) -> Option<&Formation> {
        self.formations.find(index)
    }

    pub fn formations(&self) -> impl Iterator<Item = &Formation> {
        self.formations.iter().map(|(_, formation)| formation)
    }

    pub fn volume(&self, id: &str) -> Option<&Volume> {
        self.volumes.find(id)
    }

    pub fn volumes(&self) -> impl Iterator<Item = &Volume> {
        self.volumes.iter()
    }

    /// Whether everything that is wanted was told.
    pub fn is_current(&self) -> bool {
        self.formations_current && self.volumes_current
    }

    /// Whether every host gets one of the job's type.
    pub fn is_omni(&self, job: &Job) -> bool {
        let formation = job.formation.and_then(|index| self.formations.find(index));
        formation.and_then(|formation| formation.kind(&job.kind)).is_some_and(|kind| kind.omni)
    }

    /// The controller's record of a sink.
    pub fn sink_record(&self, id: &str) -> Option<&Sink> {
        self.sinks.as_ref()?.get(id)
    }

    /// Services to watch in discovery (spec J10).
    pub fn services(&self) -> impl Iterator<Item = &str> {
        self.services.keys().map(String::as_str)
    }

    /// How many jobs a type shall have now, on all hosts together.
    pub fn wanted(&self, formation: &Formation, kind: &str) -> usize {
        formation.kind(kind).map_or(0, |kind| self.effective(formation, kind))
    }

    pub(crate) fn effective(&self, formation: &Formation, kind: &TypeState) -> usize {
        if !kind.omni {
            return self.guarded_count(formation, kind);
        }
        let hosts = self.hosts.iter().filter(|(_, host)| host.counts_for_omni() && host.has_tags(&kind.tags));
        self.guarded_count(formation, kind) * hosts.count()
    }

    /// The count asked for; of a critical app the count before, while nothing else of it runs (spec K1, K2).
    pub(crate) fn guarded_count(&self, formation: &Formation, kind: &TypeState) -> usize {
        if kind.count > 0 || !formation.is_critical() || (kind.kept == 0 && kind.jobs.is_empty()) {
            return kind.count;
        }
        let runs = |index: &FormationIndex| {
            let kinds = &self.formations[*index].types;
            kinds.iter().flat_map(|kind| &kind.jobs).any(|job| self.jobs[*job].phase.is_up())
        };
        let releases = self.apps.get(&formation.key.app);
        if releases.map_or(0, |releases| releases.iter().filter(|index| runs(index)).count()) >= 2 {
            return 0;
        }
        // After a restart of the scheduler nobody knows the count before.
        if kind.kept > 0 || kind.omni { kind.kept.max(1) } else { kind.jobs.len() }
    }
}
