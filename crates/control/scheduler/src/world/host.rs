//! Hosts: where jobs run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use flynn_types::host::SinkInfo;
use flynn_types::id::HostId;

use super::formation::Needs;
use super::job::JobIndex;
use crate::arena::Index;
use crate::time::Time;

/// The place of a host in the world.
pub type HostIndex = Index<Host>;

/// Checks that fail, one after the other, until a host counts as lost (spec section 5).
pub const CHECKS: u32 = 10;
/// From the end of one check to the next.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a host that did not answer a start is the last choice for all jobs.
pub const COOLING: Duration = Duration::from_secs(30);

/// What a host of unknown size counts as.
const USUAL: Needs = Needs { memory: 16 << 30, cpu: 4000 };

/// A host.
#[derive(Clone)]
pub struct Host {
    pub id: HostId,
    /// `host:port` of its API.
    pub addr: String,
    pub tags: BTreeMap<String, String>,
    pub draining: bool,
    pub shutting_down: bool,
    /// Whether discovery has it.
    pub registered: bool,
    /// Discovery lost it, or it did not answer, and it has not answered since.
    pub suspect: bool,
    /// Checks that failed since the last success.
    pub failed_checks: u32,
    pub capacity: Option<Needs>,
    pub(crate) check: Check,
    pub(crate) listing: Listing,
    /// When the last listing was asked for; `None` before the first: it is not followed yet.
    pub(crate) listed: Option<Time>,
    /// Term in which it refuses what earlier leaders ask for.
    pub(crate) fenced: Option<u64>,
    pub(crate) requested: Needs,
    pub(crate) jobs: BTreeSet<JobIndex>,
    pub(crate) cooling_until: Time,
    pub(crate) sinks: Option<Vec<SinkInfo>>,
}

/// Whether the host is asked if it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    No,
    Due(Time),
    InFlight,
}

/// Whether the host is asked for its jobs and volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listing {
    Due(Time),
    InFlight,
}

impl Host {
    pub(crate) fn new(id: HostId, now: Time) -> Self {
        Self {
            id,
            addr: String::new(),
            tags: BTreeMap::new(),
            draining: false,
            shutting_down: false,
            registered: true,
            suspect: false,
            failed_checks: 0,
            capacity: None,
            check: Check::No,
            listing: Listing::Due(now),
            listed: None,
            fenced: None,
            requested: Needs::default(),
            jobs: BTreeSet::new(),
            cooling_until: Time::default(),
            sinks: None,
        }
    }

    pub(crate) fn has_tags(&self, tags: &[(String, String)]) -> bool {
        tags.iter().all(|(key, value)| self.tags.get(key) == Some(value))
    }

    /// Whether the host is known to live.
    pub fn is_healthy(&self) -> bool {
        !self.suspect
    }

    /// Whether it has said what it runs.
    pub fn is_followed(&self) -> bool {
        self.listed.is_some()
    }

    /// Why it takes no new jobs, if it does not.
    pub fn closed(&self) -> Option<&'static str> {
        if self.shutting_down {
            Some("is shutting down")
        } else if !self.is_healthy() {
            Some("does not answer")
        } else if self.listed.is_none() {
            Some("has not said yet what it runs")
        } else if self.draining {
            Some("is draining")
        } else {
            None
        }
    }

    /// Why it takes no omni jobs: draining hosts do.
    pub(crate) fn closed_to_omni(&self) -> Option<&'static str> {
        self.closed().filter(|_| !self.draining || self.shutting_down || !self.is_healthy() || self.listed.is_none())
    }

    /// Whether each omni type has jobs there.
    pub(crate) fn counts_for_omni(&self) -> bool {
        self.listed.is_some() && !self.shutting_down
    }

    pub(crate) fn size(&self) -> Needs {
        self.capacity.filter(|size| size.memory > 0 && size.cpu > 0).unwrap_or(USUAL)
    }

    /// How full it is with `requested`, in thousandths of what it has.
    pub(crate) fn load(&self, requested: Needs) -> i64 {
        let size = self.size();
        let of = |used: i64, all: i64| used.saturating_mul(1000) / all;
        of(requested.memory, size.memory).max(of(requested.cpu, size.cpu))
    }
}
