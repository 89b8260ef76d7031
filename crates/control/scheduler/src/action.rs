//! What a plan asks for.

use std::sync::Arc;

use flynn_types::id::HostId;
use uuid::Uuid;

use crate::reason::Reason;
use crate::time::Time;
use crate::world::{FormationIndex, HostIndex, JobIndex};

/// One step. Every step that has an outcome is answered by one [`Answer`](crate::event::Answer), also when it fails.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// A new job, to be started from then on.
    Create {
        job: Uuid,
        formation: FormationIndex,
        kind: Arc<str>,
        restarts: u32,
        not_before: Time,
        waiting: Option<Reason>,
    },
    /// A job cannot be started now.
    Wait {
        job: Uuid,
        reason: Reason,
    },
    /// A host is to start a job, after it made the volumes that are new.
    Start {
        job: Uuid,
        host: HostIndex,
        volumes: Vec<Claim>,
    },
    /// A job that no host has is not wanted any more.
    Cancel {
        job: JobIndex,
    },
    /// A job is to be stopped.
    Stop {
        job: JobIndex,
    },
    /// Its services are to be withdrawn first.
    Withdraw {
        job: JobIndex,
    },
    /// Its host is to end it.
    End {
        job: JobIndex,
    },
    /// A host is to end what nobody wants there.
    EndStray {
        host: HostIndex,
        job: Uuid,
    },
    /// A host is asked for one job.
    LookUp {
        job: JobIndex,
    },
    /// The controller is to know a job as it is now.
    Save {
        job: JobIndex,
    },
    SaveVolume {
        volume: String,
    },
    /// The controller takes a job for active that no host has.
    SaveOrphan {
        job: Uuid,
    },
    /// A scale request is complete.
    TellScale {
        formation: FormationIndex,
        request: String,
    },
    /// The controller is asked what is wanted of a formation.
    Fetch {
        formation: FormationIndex,
    },
    /// A host is asked whether it lives.
    Check {
        host: HostIndex,
    },
    /// A host is asked for its jobs, volumes and sinks.
    List {
        host: HostIndex,
    },
    /// A host is to have these sinks, and no longer those.
    SyncSinks {
        host: HostId,
        put: Vec<String>,
        remove: Vec<String>,
    },
}

/// A volume for a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub id: String,
    pub path: String,
    pub delete_on_stop: bool,
    /// To be made on the host first.
    pub new: bool,
}
