//! A job of a process type, as a host is asked to run it (spec scheduler-and-deployer section 4.5).

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{App, ProcessPort, ProcessType, Release};
use crate::host::{ContainerConfig, Job, Port, VolumeBinding, metadata};
use crate::id::{HostId, JobId};
use crate::image::{Artifact, DEFAULT_ENTRYPOINT, ImageEntrypoint};

/// Partition of the platform's own jobs.
const SYSTEM_PARTITION: &str = "system";
/// Older form of artifacts; hosts run only the newer.
const FLYNN: &str = "flynn";

/// What a job of a release is made of.
#[derive(Clone, Copy, Debug)]
pub struct JobOf<'a> {
    pub app: &'a App,
    pub release: &'a Release,
    /// Of the release, in its order.
    pub artifacts: &'a [Artifact],
    /// Name of the process type.
    pub kind: &'a str,
}

impl JobOf<'_> {
    /// The job `uuid` at `host`, with these volumes; `None` if the release has no such process type.
    pub fn at(&self, host: &HostId, uuid: Uuid, volumes: Vec<VolumeBinding>) -> Option<Job> {
        let process = self.release.processes.get(self.kind)?;
        let id = JobId::new(host, uuid).as_str().to_owned();
        let images = self.artifacts.iter().filter(|artifact| artifact.kind == FLYNN);
        let whole = images.filter(|it| it.manifest.as_ref().is_some_and(|manifest| manifest.rootfs.len() == 1));
        Some(Job {
            metadata: self.metadata(),
            mountspecs: whole.flat_map(Artifact::mountspecs).collect(),
            resources: process.resources.clone(),
            partition: if self.app.is_system() { SYSTEM_PARTITION.into() } else { String::new() },
            config: self.config(process, &id, volumes),
            resurrect: process.resurrect,
            profiles: process.profiles.clone(),
            id,
        })
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        let mut all = self.app.meta.clone();
        let own = [
            (metadata::APP, self.app.id.as_str()),
            (metadata::APP_NAME, &self.app.name),
            (metadata::RELEASE, &self.release.id),
            (metadata::TYPE, self.kind),
            (metadata::FORMATION, "true"),
        ];
        all.extend(own.map(|(key, value)| (key.to_owned(), value.to_owned())));
        all
    }

    fn config(&self, process: &ProcessType, id: &str, volumes: Vec<VolumeBinding>) -> ContainerConfig {
        let entrypoint = self.entrypoint().cloned().unwrap_or_default();
        let port =
            |port: &ProcessPort| Port { port: port.port, proto: port.proto.clone(), service: port.service.clone() };
        ContainerConfig {
            args: args(process, &entrypoint),
            env: self.environment(process, &entrypoint, id),
            working_dir: entrypoint.working_dir,
            uid: entrypoint.uid,
            gid: entrypoint.gid,
            mounts: process.mounts.clone(),
            volumes,
            ports: process.ports.iter().map(port).collect(),
            host_network: process.host_network,
            host_pid_namespace: process.host_pid_namespace,
            linux_capabilities: Some(process.linux_capabilities.clone()).filter(|list| !list.is_empty()),
            allowed_devices: Some(process.allowed_devices.clone()).filter(|list| !list.is_empty()),
            writeable_cgroups: process.writeable_cgroups,
            ..ContainerConfig::default()
        }
    }

    /// Later ones win: image, release, process type, the platform.
    fn environment(&self, process: &ProcessType, entrypoint: &ImageEntrypoint, id: &str) -> BTreeMap<String, String> {
        let mut env = entrypoint.env.clone();
        env.extend(self.release.env.clone());
        env.extend(process.env.clone());
        let own = [
            ("FLYNN_APP_ID", self.app.id.as_str()),
            ("FLYNN_APP_NAME", &self.app.name),
            ("FLYNN_RELEASE_ID", &self.release.id),
            ("FLYNN_PROCESS_TYPE", self.kind),
            ("FLYNN_JOB_ID", id),
        ];
        env.extend(own.map(|(key, value)| (key.to_owned(), value.to_owned())));
        env
    }

    /// The last artifact that has an entry point of the type's name, else the last with a default one.
    fn entrypoint(&self) -> Option<&ImageEntrypoint> {
        let named = |name: &str| {
            let images = self.artifacts.iter().rev().filter_map(|artifact| artifact.manifest.as_ref());
            images.map(|manifest| &manifest.entrypoints).find_map(|all| all.get(name))
        };
        named(self.kind).or_else(|| named(DEFAULT_ENTRYPOINT))
    }
}

fn args(process: &ProcessType, entrypoint: &ImageEntrypoint) -> Vec<String> {
    let args = if process.args.is_empty() { &entrypoint.args } else { &process.args };
    if !args.is_empty() {
        return args.clone();
    }
    process.deprecated_entrypoint.iter().chain(&process.deprecated_cmd).cloned().collect()
}
