//! What the controller stores of jobs and volumes.

use std::collections::BTreeMap;

use flynn_types::controller::{Job as JobRecord, Volume as VolumeRecord};
use flynn_types::host::VolumeType;
use flynn_types::id::JobId;
use uuid::Uuid;

use crate::world::{Job, JobIndex, Volume, World};

impl World {
    /// The record of a job, and its version. What a pending job waits for is its `host_error`: of the fields that existing
    /// clients know, the one that says why a job does not run.
    pub fn job_record(&self, index: JobIndex) -> Option<(JobRecord, u32)> {
        let job = self.jobs.find(index)?;
        let host = job.phase.host().and_then(|host| self.hosts.find(host)).map(|host| &host.id);
        let host = host.or(job.ended_on.as_ref());
        let (args, meta) = self.args_and_meta(job);
        let waits = matches!(
            job.state(),
            flynn_types::controller::JobState::Pending | flynn_types::controller::JobState::Blocked
        );
        let reason = job.waiting.as_ref().filter(|_| waits).map(ToString::to_string);
        let record = JobRecord {
            id: host.map(|host| JobId::new(host, job.uuid).as_str().to_owned()).unwrap_or_default(),
            uuid: job.uuid.to_string(),
            host_id: host.map(ToString::to_string).unwrap_or_default(),
            app_id: job.app.to_string(),
            release_id: job.release.to_string(),
            kind: job.kind.to_string(),
            state: Some(job.state()),
            args,
            volume_ids: job.volumes.iter().map(|volume| volume.id.clone()).collect(),
            meta,
            exit_status: job.exit_status,
            host_error: job.host_error.clone().or(reason),
            run_at: match job.phase {
                crate::world::Phase::Pending { not_before } if not_before > job.created => Some(not_before.to_wire()),
                _ => None,
            },
            restarts: (job.restarts > 0).then(|| i32::try_from(job.restarts).unwrap_or(i32::MAX)),
            created_at: None,
            updated_at: None,
        };
        Some((record, job.save.version))
    }

    /// Arguments and metadata as the job has them on its host.
    fn args_and_meta(&self, job: &Job) -> (Vec<String>, BTreeMap<String, String>) {
        if let Some(found) = &job.found {
            return (found.args.clone(), found.meta.clone());
        }
        let known = job.formation.and_then(|index| self.formations.find(index)?.known.as_ref());
        let Some(known) = known else { return Default::default() };
        let args = known.release.processes.get(&*job.kind).map(|process| process.args.clone()).unwrap_or_default();
        (args, known.app.meta.clone())
    }

    /// The record of a job that the controller takes for active and no host has.
    pub fn orphan_record(&self, uuid: Uuid) -> Option<JobRecord> {
        let orphan = self.orphans.get(&uuid)?;
        let state = Some(flynn_types::controller::JobState::Down);
        Some(JobRecord { state, ..orphan.record.clone() })
    }

    /// The record of a volume, and its version.
    pub fn volume_record_of(&self, id: &str) -> Option<(VolumeRecord, u32)> {
        let volume = self.volumes.find(id)?;
        Some((volume.record(), volume.save.version))
    }
}

impl Volume {
    fn record(&self) -> VolumeRecord {
        VolumeRecord {
            path: self.path.clone(),
            delete_on_stop: self.delete_on_stop,
            id: self.id.clone(),
            host_id: self.host.to_string(),
            kind: VolumeType::Data,
            state: self.state,
            app_id: self.app.to_string(),
            release_id: self.release.to_string(),
            job_id: self.holder.map(|holder| holder.to_string()),
            job_type: self.kind.to_string(),
            meta: BTreeMap::new(),
            created_at: self.created_at,
            updated_at: None,
            decommissioned_at: self.decommissioned_at,
        }
    }
}
