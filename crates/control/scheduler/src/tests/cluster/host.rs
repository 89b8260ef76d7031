//! A host of the cluster in memory.

use std::collections::{BTreeMap, BTreeSet};

use flynn_types::host::{JobStatus, VolumeInfo};
use flynn_types::id::HostId;
use uuid::Uuid;

use crate::Time;
use crate::event::{HostNews, Report};
use crate::world::{FormationKey, Needs};

pub(in crate::tests) struct SimHost {
    pub(in crate::tests) id: HostId,
    pub(in crate::tests) tags: BTreeMap<String, String>,
    pub(in crate::tests) draining: bool,
    pub(in crate::tests) shutting_down: bool,
    pub(in crate::tests) registered: bool,
    /// It answers requests.
    pub(in crate::tests) reachable: bool,
    /// Since when it does not.
    pub(in crate::tests) silent_since: Option<Time>,
    /// A start was carried out, or may be, without an answer.
    pub(in crate::tests) uncertain: bool,
    /// What it says to starts.
    pub(in crate::tests) refuses: Option<String>,
    pub(in crate::tests) jobs: BTreeMap<Uuid, HostJob>,
    pub(in crate::tests) volumes: BTreeMap<String, VolumeInfo>,
    pub(in crate::tests) capacity: Needs,
    pub(in crate::tests) term: u64,
    /// Schedulers whose event streams are broken.
    pub(in crate::tests) deaf: BTreeSet<usize>,
    /// Jobs stay starting.
    pub(in crate::tests) slow: bool,
}

#[derive(Clone, Debug)]
pub(in crate::tests) struct HostJob {
    pub(in crate::tests) report: Report,
    /// Whoever asked for it.
    pub(in crate::tests) service: Option<String>,
}

impl SimHost {
    pub(super) fn new(id: &HostId, tags: &[(&str, &str)]) -> Self {
        Self {
            id: id.clone(),
            tags: tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            draining: false,
            shutting_down: false,
            registered: true,
            reachable: true,
            silent_since: None,
            uncertain: false,
            refuses: None,
            jobs: BTreeMap::new(),
            volumes: BTreeMap::new(),
            capacity: Needs { memory: 64 << 30, cpu: 16_000 },
            term: 0,
            deaf: BTreeSet::new(),
            slow: false,
        }
    }

    pub(in crate::tests) fn news(&self) -> HostNews {
        HostNews {
            id: self.id.clone(),
            addr: format!("{}:1113", self.id),
            tags: self.tags.clone(),
            draining: self.draining,
            shutting_down: self.shutting_down,
        }
    }

    /// Starting and running jobs of a type.
    pub(in crate::tests) fn active<'a>(
        &'a self,
        key: &'a FormationKey,
        kind: &'a str,
    ) -> impl Iterator<Item = Uuid> + 'a {
        let of = move |job: &&HostJob| {
            let report = &job.report;
            report.status.is_active()
                && *report.app == *key.app
                && *report.release == *key.release
                && report.kind == kind
        };
        self.jobs.values().filter(of).map(|job| job.report.uuid)
    }

    pub(super) fn listed(&self) -> Vec<Report> {
        self.jobs.values().filter(|job| job.report.status.is_active()).map(|job| job.report.clone()).collect()
    }

    /// A job that is active and has the volume.
    pub(super) fn holder(&self, volume: &str) -> Option<Uuid> {
        let has = |job: &&HostJob| {
            job.report.status.is_active() && job.report.volumes.iter().any(|mounted| mounted.id == volume)
        };
        self.jobs.values().find(has).map(|job| job.report.uuid)
    }

    /// All its jobs end: the machine lost its power.
    pub(in crate::tests) fn power_off(&mut self) {
        for job in self.jobs.values_mut().filter(|job| job.report.status.is_active()) {
            job.report.status = JobStatus::Failed;
            job.report.error = Some("the host was restarted".into());
        }
    }
}
