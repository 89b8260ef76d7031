//! Jobs: what runs, or is about to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flynn_types::controller::JobState;
use flynn_types::id::HostId;
use uuid::Uuid;

use super::formation::{FormationIndex, Needs};
use super::host::HostIndex;
use crate::arena::Index;
use crate::event::Write;
use crate::reason::Reason;
use crate::time::Time;

/// The place of a job in the world.
pub type JobIndex = Index<Job>;

/// Most failures that are remembered of a job.
const MAX_AVOIDED: usize = 64;
/// Before a failed write is repeated the first time, and at most.
const SAVE_AGAIN: Duration = Duration::from_millis(50);
const SAVE_AGAIN_MOST: Duration = Duration::from_secs(10);

/// A job.
#[derive(Clone)]
pub struct Job {
    pub uuid: Uuid,
    pub app: Arc<str>,
    pub release: Arc<str>,
    /// Empty for one-off jobs.
    pub kind: Arc<str>,
    pub phase: Phase,
    /// Why it does not run yet.
    pub waiting: Option<Reason>,
    pub restarts: u32,
    pub created: Time,
    pub exit_status: Option<i32>,
    pub host_error: Option<String>,
    pub volumes: Vec<Mounted>,
    /// `None` for one-off jobs.
    pub(crate) formation: Option<FormationIndex>,
    pub(crate) needs: Needs,
    /// Start attempts that failed.
    pub(crate) attempts: u32,
    /// Hosts that failed to start it.
    pub(crate) avoid: Vec<HostId>,
    /// When its host last said something of it.
    pub(crate) heard: Time,
    /// Its host runs it, and its service is waited for.
    pub(crate) runs: bool,
    pub(crate) looked_up: bool,
    /// The host of a job that is over: its record, and its output, are found by it.
    pub(crate) ended_on: Option<HostId>,
    /// What its host said of a job that was not created here.
    pub(crate) found: Option<Box<Found>>,
    pub(crate) save: Save,
}

/// What only the host knows of a job that was found there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub args: Vec<String>,
    pub meta: BTreeMap<String, String>,
}

/// A volume of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    pub id: String,
    pub path: String,
    pub delete_on_stop: bool,
}

/// Where a job is in its life (spec scheduler-and-deployer section 7.1). A blocked job is one that is pending with a
/// [`Reason`] that blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// To be placed, not before then.
    Pending {
        not_before: Time,
    },
    /// A host was asked to start it.
    Placed {
        host: HostIndex,
        accepted: bool,
    },
    /// The host has it, but it does not serve yet.
    Starting {
        host: HostIndex,
    },
    Running {
        host: HostIndex,
        since: Time,
    },
    Stopping {
        host: HostIndex,
        step: Stop,
    },
    Stopped,
}

/// Steps of a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The start request is not answered yet: a stop could overtake it.
    Held,
    /// To be withdrawn from its services, if routers know it.
    Due,
    Withdrawing,
    /// Routers finish what they have begun, at most until then.
    Draining {
        until: Time,
    },
    /// To be ended by its host.
    Drained,
    Ending,
    /// The host was asked; asked again then.
    Asked {
        again: Time,
    },
}

impl Phase {
    pub fn host(self) -> Option<HostIndex> {
        match self {
            Self::Pending { .. } | Self::Stopped => None,
            Self::Placed { host, .. }
            | Self::Starting { host }
            | Self::Running { host, .. }
            | Self::Stopping { host, .. } => Some(host),
        }
    }

    /// Whether it counts as part of its formation.
    pub fn is_live(self) -> bool {
        !matches!(self, Self::Stopping { .. } | Self::Stopped)
    }

    /// Whether a host said that it has it, or may have it.
    pub(crate) fn is_up(self) -> bool {
        matches!(self, Self::Starting { .. } | Self::Running { .. })
    }
}

/// How far the controller knows a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Save {
    /// Grows with each change.
    pub(crate) version: u32,
    pub(crate) saved: u32,
    pub(crate) in_flight: bool,
    pub(crate) failures: u32,
}

impl Job {
    /// The state that the controller stores.
    pub fn state(&self) -> JobState {
        match self.phase {
            Phase::Pending { .. } if self.waiting.as_ref().is_some_and(Reason::blocks) => JobState::Blocked,
            Phase::Pending { .. } | Phase::Placed { .. } => JobState::Pending,
            Phase::Starting { .. } => JobState::Starting,
            Phase::Running { .. } => JobState::Up,
            Phase::Stopping { .. } => JobState::Stopping,
            Phase::Stopped => JobState::Down,
        }
    }

    /// Position in the order of age, oldest first.
    pub(crate) fn age(&self) -> (Time, Uuid) {
        (self.created, self.uuid)
    }

    /// The host failed to start it.
    pub(crate) fn avoid(&mut self, host: &HostId) {
        if self.avoid.len() >= MAX_AVOIDED {
            self.avoid.remove(0);
        }
        self.avoid.push(host.clone());
    }

    /// How it ended, in words.
    pub(crate) fn ending(&self) -> String {
        match (&self.host_error, self.exit_status) {
            (Some(error), _) => error.clone(),
            (None, Some(status)) => format!("exit status {status}"),
            (None, None) => "unknown".into(),
        }
    }
}

impl Save {
    /// Whether the controller knows the job as it is.
    pub(crate) fn is_current(self) -> bool {
        self.saved == self.version
    }

    /// Takes in what became of a write; how long to wait before the next one, if it failed.
    pub(crate) fn answered(&mut self, version: u32, outcome: Write) -> Option<Duration> {
        self.in_flight = false;
        match outcome {
            // What is refused once is refused again; the comparison of all jobs shows it.
            Write::Done | Write::Refused => {
                self.saved = version;
                self.failures = 0;
                None
            }
            Write::Failed => {
                self.failures = self.failures.saturating_add(1);
                Some(SAVE_AGAIN.saturating_mul(1 << self.failures.min(9)).min(SAVE_AGAIN_MOST))
            }
        }
    }
}
