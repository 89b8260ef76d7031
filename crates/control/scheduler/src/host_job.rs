//! The job that a host is asked to run (spec section 4.5).

use std::collections::BTreeMap;

use flynn_types::controller::ProcessType;
use flynn_types::host::{ContainerConfig, Job as HostJob, Port, VolumeBinding, metadata};
use flynn_types::id::{HostId, JobId};
use flynn_types::image::{Artifact, DEFAULT_ENTRYPOINT, ImageEntrypoint};
use uuid::Uuid;

use crate::world::{Job, Known, World};

/// Older form of artifacts; hosts run only the newer.
const FLYNN: &str = "flynn";

impl World {
    /// What `host` is to run; `None` if nothing says how.
    pub fn host_job_spec(&self, uuid: Uuid, host: &HostId) -> Option<HostJob> {
        let job = self.job(uuid)?;
        let known = self.formations.find(job.formation?)?.known.as_ref()?;
        let process = known.release.processes.get(&*job.kind)?;
        Some(built(job, known, process, host))
    }
}

fn built(job: &Job, known: &Known, process: &ProcessType, host: &HostId) -> HostJob {
    let id = JobId::new(host, job.uuid).as_str().to_owned();
    let flynn = known.artifacts.iter().filter(|artifact| artifact.kind == FLYNN);
    let whole = flynn.filter(|artifact| artifact.manifest.as_ref().is_some_and(|manifest| manifest.rootfs.len() == 1));
    HostJob {
        metadata: job_metadata(job, known),
        mountspecs: whole.flat_map(Artifact::mountspecs).collect(),
        resources: process.resources.clone(),
        partition: if known.app.is_system() { "system".into() } else { String::new() },
        config: config(job, known, process, &id),
        resurrect: process.resurrect,
        profiles: process.profiles.clone(),
        id,
    }
}

fn job_metadata(job: &Job, known: &Known) -> BTreeMap<String, String> {
    let mut all = known.app.meta.clone();
    let own = [
        (metadata::APP, &*job.app),
        (metadata::APP_NAME, &known.app.name),
        (metadata::RELEASE, &job.release),
        (metadata::TYPE, &job.kind),
        (metadata::FORMATION, "true"),
    ];
    all.extend(own.map(|(key, value)| (key.to_owned(), value.to_owned())));
    all
}

fn config(job: &Job, known: &Known, process: &ProcessType, id: &str) -> ContainerConfig {
    let entrypoint = entrypoint(&known.artifacts, &job.kind).cloned().unwrap_or_default();
    let mut args = if process.args.is_empty() { entrypoint.args } else { process.args.clone() };
    if args.is_empty() {
        args.extend(process.deprecated_entrypoint.iter().chain(&process.deprecated_cmd).cloned());
    }
    let mut env = entrypoint.env;
    env.extend(known.release.env.clone());
    env.extend(process.env.clone());
    let own = [
        ("FLYNN_APP_ID", &*job.app),
        ("FLYNN_APP_NAME", &known.app.name),
        ("FLYNN_RELEASE_ID", &job.release),
        ("FLYNN_PROCESS_TYPE", &job.kind),
        ("FLYNN_JOB_ID", id),
    ];
    env.extend(own.map(|(key, value)| (key.to_owned(), value.to_owned())));
    let port = |port: &flynn_types::controller::ProcessPort| Port {
        port: port.port,
        proto: port.proto.clone(),
        service: port.service.clone(),
    };
    let volume = |volume: &crate::world::Mounted| VolumeBinding {
        target: volume.path.clone(),
        volume: volume.id.clone(),
        writeable: true,
        delete_on_stop: volume.delete_on_stop,
    };
    ContainerConfig {
        args,
        env,
        working_dir: entrypoint.working_dir,
        uid: entrypoint.uid,
        gid: entrypoint.gid,
        mounts: process.mounts.clone(),
        volumes: job.volumes.iter().map(volume).collect(),
        ports: process.ports.iter().map(port).collect(),
        host_network: process.host_network,
        host_pid_namespace: process.host_pid_namespace,
        linux_capabilities: (!process.linux_capabilities.is_empty()).then(|| process.linux_capabilities.clone()),
        allowed_devices: (!process.allowed_devices.is_empty()).then(|| process.allowed_devices.clone()),
        writeable_cgroups: process.writeable_cgroups,
        ..ContainerConfig::default()
    }
}

/// The last artifact that has an entry point of that name, else the last with a default one.
fn entrypoint<'a>(artifacts: &'a [Artifact], kind: &str) -> Option<&'a ImageEntrypoint> {
    let named = |name: &str| {
        let entrypoints = |artifact: &'a Artifact| artifact.manifest.as_ref().map(|manifest| &manifest.entrypoints);
        artifacts.iter().rev().filter_map(entrypoints).find_map(|all| all.get(name))
    };
    named(kind).or_else(|| named(DEFAULT_ENTRYPOINT))
}
