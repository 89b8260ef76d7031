//! The job that a host is asked to run (spec section 4.5).

use flynn_types::controller::JobOf;
use flynn_types::host::{Job as HostJob, VolumeBinding};
use flynn_types::id::HostId;
use uuid::Uuid;

use crate::world::World;

impl World {
    /// What `host` is to run; `None` if nothing says how.
    pub fn host_job_spec(&self, uuid: Uuid, host: &HostId) -> Option<HostJob> {
        let job = self.job(uuid)?;
        let known = self.formations.find(job.formation?)?.known.as_ref()?;
        let volume = |volume: &crate::world::Mounted| VolumeBinding {
            target: volume.path.clone(),
            volume: volume.id.clone(),
            writeable: true,
            delete_on_stop: volume.delete_on_stop,
        };
        let volumes = job.volumes.iter().map(volume).collect();
        JobOf { app: &known.app, release: &known.release, artifacts: &known.artifacts, kind: &job.kind }
            .at(host, uuid, volumes)
    }
}
