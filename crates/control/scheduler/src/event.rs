//! What happens around the scheduler. Events may be repeated, late or out of order.

use std::collections::BTreeMap;

use flynn_types::controller::{ExpandedFormation, Job as Record, Sink, Volume};
use flynn_types::host::{ActiveJob, JobStatus, SinkInfo, VolumeEvent, VolumeInfo, metadata};
use flynn_types::id::HostId;
use flynn_types::router::StreamEvent;
use uuid::Uuid;

use crate::time::Time;
use crate::world::{FormationKey, Found, Mounted, Needs};

/// What the scheduler learns.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "the driver's queue holds boxes")]
pub enum Event {
    /// Discovery has the host, perhaps with news of it.
    HostUp(HostNews),
    HostDown(HostId),
    /// All hosts that discovery has.
    Hosts(Vec<HostNews>),
    /// Who leads: this scheduler or another one.
    Leader {
        ours: bool,
        term: u64,
    },
    InstanceUp {
        service: String,
        instance: String,
        job: Uuid,
    },
    InstanceDown {
        service: String,
        instance: String,
    },
    /// The events of a router begin, at first or again.
    RouterUp(String),
    RouterDown(String),
    Router {
        router: String,
        event: StreamEvent,
    },
    Formation(Box<ExpandedFormation>),
    /// All formations that exist were told.
    FormationsCurrent,
    /// All formations with a count, as asked for then.
    ActiveFormations {
        asked: Time,
        formations: Vec<ExpandedFormation>,
    },
    Volume(Box<Volume>),
    VolumesCurrent,
    /// All sinks.
    Sinks(Vec<Sink>),
    /// A sink was made or changed; without `config` deleted.
    Sink(Sink),
    /// All jobs that the controller takes for active, as asked for then.
    ActiveJobs {
        asked: Time,
        jobs: Vec<Record>,
    },
    /// The event stream of a host opened: what was before is to be listed.
    HostStream(HostId),
    HostJob {
        host: HostId,
        report: Box<Report>,
    },
    HostVolume {
        host: HostId,
        event: Box<VolumeEvent>,
    },
    Answer(Answer),
}

/// A host as discovery has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostNews {
    pub id: HostId,
    /// `host:port` of its API.
    pub addr: String,
    pub tags: BTreeMap<String, String>,
    pub draining: bool,
    pub shutting_down: bool,
}

/// What became of an action.
#[derive(Clone, Debug)]
pub enum Answer {
    Checked {
        host: HostId,
        alive: bool,
    },
    Listed {
        host: HostId,
        asked: Time,
        term: Option<u64>,
        listing: Option<Box<HostListing>>,
    },
    Started {
        job: Uuid,
        host: HostId,
        outcome: Start,
    },
    LookedUp {
        job: Uuid,
        host: HostId,
        outcome: LookUp,
    },
    Withdrawn {
        job: Uuid,
        done: bool,
    },
    /// The host was asked to end the job; whether it agreed.
    Ended {
        job: Uuid,
        done: bool,
    },
    StrayEnded {
        host: HostId,
        job: Uuid,
    },
    Saved {
        job: Uuid,
        version: u32,
        outcome: Write,
    },
    VolumeSaved {
        volume: String,
        version: u32,
        outcome: Write,
    },
    OrphanSaved {
        job: Uuid,
    },
    ScaleTold {
        formation: FormationKey,
        request: String,
        outcome: Write,
    },
    Fetched {
        formation: FormationKey,
        outcome: Fetched,
    },
    SinksSynced {
        host: HostId,
        sinks: Option<Vec<SinkInfo>>,
    },
    /// A host or the controller knows a later leader than this one.
    Deposed {
        term: u64,
    },
}

/// What a host has.
#[derive(Clone, Debug, Default)]
pub struct HostListing {
    /// Those that are starting or running.
    pub jobs: Vec<Report>,
    pub volumes: Vec<VolumeInfo>,
    pub sinks: Option<Vec<SinkInfo>>,
    /// What the machine has, if it told.
    pub capacity: Option<Needs>,
}

/// Outcome of a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// It is on the host's disk.
    Accepted,
    /// The host starts too many at once.
    Busy,
    /// The host will not run it: why.
    Refused(String),
    /// No answer, so it may start yet: why.
    Unknown(String),
}

/// Outcome of a question after one job.
#[derive(Clone, Debug)]
pub enum LookUp {
    Found(Box<Report>),
    /// The host has never heard of it.
    Unknown,
    Failed,
}

/// Outcome of a write to the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    Done,
    /// May succeed later.
    Failed,
    /// Will never succeed.
    Refused,
}

/// Outcome of a question after a formation.
#[derive(Clone, Debug)]
pub enum Fetched {
    Found(Box<ExpandedFormation>),
    Gone,
    Failed,
}

/// What a host says of a job of the controller.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    pub uuid: Uuid,
    pub app: String,
    pub release: String,
    pub kind: String,
    /// Part of a formation; a one-off job otherwise.
    pub scheduled: bool,
    pub status: JobStatus,
    pub created: Time,
    pub started: Time,
    pub exit_status: Option<i32>,
    pub error: Option<String>,
    pub needs: Needs,
    pub volumes: Vec<Mounted>,
    pub found: Found,
}

impl Report {
    /// `None` if it is no job of the controller (spec J4).
    pub fn new(active: &ActiveJob) -> Option<Self> {
        let job = &active.job;
        let (host, uuid) = job.id.split_once('-')?;
        let (app, release) = (job.meta(metadata::APP), job.meta(metadata::RELEASE));
        if host.is_empty() || app.is_empty() || release.is_empty() {
            return None;
        }
        let own = |(key, _): &(&String, &String)| !key.starts_with("flynn-controller.");
        let meta = job.metadata.iter().filter(own).map(|(key, value)| (key.clone(), value.clone())).collect();
        Some(Self {
            uuid: uuid.parse().ok()?,
            app: app.into(),
            release: release.into(),
            kind: job.meta(metadata::TYPE).into(),
            scheduled: job.meta(metadata::FORMATION) == "true",
            status: active.status,
            created: Time::from_wire(active.created_at),
            started: Time::from_wire(active.started_at),
            exit_status: active.exit_status,
            error: active.error.clone(),
            needs: Needs::of(&job.resources),
            volumes: job.config.volumes.iter().map(mounted).collect(),
            found: Found { args: job.config.args.clone(), meta },
        })
    }
}

fn mounted(binding: &flynn_types::host::VolumeBinding) -> Mounted {
    Mounted { id: binding.volume.clone(), path: binding.target.clone(), delete_on_stop: binding.delete_on_stop }
}
