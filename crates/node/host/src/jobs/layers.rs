//! What a job's container is built from: layers, root file system, volumes, network, and the init's configuration.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use flynn_container::{ContainerSpec, Limits};
use flynn_logmux::JobLogInfo;
use flynn_network::Network;
use flynn_types::error::with_causes;
use flynn_types::host::{ActiveJob, Mountspec, metadata};
use flynn_types::id::JobId;
use flynn_types::init::{self, InitConfig};
use futures_util::future::try_join_all;

use super::prepare;
use super::runner::Runner;
use crate::rootfs;

/// Most output of one job that waits on disk for a daemon that is away.
const SPOOL_LIMIT_BYTES: u64 = 256 << 20;

impl Runner {
    /// Gets everything that the container needs into place. The text of an error is for the job's owner.
    pub(super) async fn prepare(
        &self,
        id: &JobId,
        job: &ActiveJob,
        network: Option<&Network>,
        address: Option<Ipv4Addr>,
    ) -> Result<ContainerSpec, String> {
        let run_dir = self.run_dir(id);
        let mut init = self.init_config(id, job);
        let attached = async {
            let (Some(network), Some(address)) = (network, address) else { return Ok(None) };
            let path = run_dir.join(init::files::NETNS);
            let attachment = network.attach(id, address, &path).await.map_err(|err| with_causes(&err))?;
            Ok::<_, String>(Some((attachment, path)))
        };
        // Both to their ends, also when one fails: what is half made would be made behind the back of the cleaning up.
        let (root, attached) = tokio::join!(self.root_file_system(id, job), attached);
        let (root, attached) = (root?, attached?);
        let netns = attached.map(|(attachment, path)| {
            init.mac = attachment.mac.to_string();
            init.ip = format!("{}/{}", attachment.ip, attachment.prefix_len);
            init.gateway = attachment.gateway.to_string();
            path
        });
        let config = &job.job.config;
        Ok(ContainerSpec {
            job_id: id.clone(),
            run_dir,
            rootfs: root,
            hostname: id.hostname().to_owned(),
            resolv_conf: netns.is_some().then(|| self.resolv_conf.clone()),
            netns,
            host_pid: config.host_pid_namespace,
            partition: job.job.partition().to_owned(),
            limits: Limits { memory_bytes: prepare::memory_bytes(&job.job), cpu_shares: prepare::cpu_shares(&job.job) },
            mounts: config.mounts.clone(),
            volumes: self.volume_mounts(id, job)?,
            capabilities: config.linux_capabilities.clone(),
            allowed_devices: config.allowed_devices.clone(),
            created_devices: config.auto_created_devices.clone(),
            writeable_cgroups: config.writeable_cgroups,
            system: job.job.is_system(),
            builder: job.job.meta(metadata::APP_NAME) == "builder" || job.job.meta(metadata::TYPE) == "slugbuilder",
            profiles: job.job.profiles.clone(),
            init,
            disable_log: config.disable_log,
            spool_limit_bytes: SPOOL_LIMIT_BYTES,
        })
    }

    async fn root_file_system(&self, id: &JobId, job: &ActiveJob) -> Result<PathBuf, String> {
        let layers = try_join_all(job.job.mountspecs.iter().map(|spec| self.layer(spec))).await?;
        let mounted = self
            .volumes
            .rootfs(id, &layers, prepare::scratch_bytes(&job.job), self.mount_dir(id))
            .await
            .map_err(|err| with_causes(&err))?;
        let (root, overrides) = (mounted.path, self.bin_overrides.clone());
        let own_network = !job.job.config.host_network;
        tokio::task::spawn_blocking(move || {
            if own_network {
                rootfs::make_resolv_conf_mountable(&root)?;
            }
            rootfs::override_binaries(&root, &overrides)?;
            Ok(root)
        })
        .await
        .map_err(|err| err.to_string())?
        .map_err(|err: std::io::Error| format!("prepare the job's root file system: {err}"))
    }

    async fn layer(&self, spec: &Mountspec) -> Result<flynn_volume::LayerGuard, String> {
        if spec.kind != Mountspec::SQUASHFS {
            return Err(format!("unknown mountspec type: {:?}", spec.kind));
        }
        self.volumes.layer(spec, Arc::clone(&self.layers)).await.map_err(|err| with_causes(&err))
    }

    fn volume_mounts(&self, id: &JobId, job: &ActiveJob) -> Result<Vec<flynn_container::Mount>, String> {
        let bindings = job.job.config.volumes.iter();
        bindings
            .map(|binding| {
                if self.volumes.get(&binding.volume).is_none() {
                    return Err(format!("job {id} required volume {}, but that volume does not exist", binding.volume));
                }
                let source = self.volumes.mount_path(&binding.volume).map_err(|err| with_causes(&err))?;
                Ok(flynn_container::Mount {
                    source,
                    target: binding.target.clone().into(),
                    writeable: binding.writeable,
                })
            })
            .collect()
    }

    fn init_config(&self, id: &JobId, job: &ActiveJob) -> InitConfig {
        let config = &job.job.config;
        let facts = self.facts();
        let env = prepare::environment(id, config, &facts);
        let discoverd = env.get("DISCOVERD").filter(|urls| *urls != "none").map(String::as_str).unwrap_or_default();
        InitConfig {
            args: config.args.clone(),
            tty: config.tty,
            open_stdin: config.stdin,
            work_dir: config.working_dir.clone(),
            uid: config.uid.unwrap_or_default(),
            gid: config.gid.unwrap_or_default(),
            hostname: id.hostname().to_owned(),
            host_network: config.host_network,
            ports: config.ports.clone(),
            log_level: self.init_log_level.clone(),
            discoverd: discoverd.split(',').map(str::trim).filter(|url| !url.is_empty()).map(str::to_owned).collect(),
            external_ip: env.get("EXTERNAL_IP").cloned().unwrap_or_default(),
            rlimits: prepare::rlimits(&job.job),
            env,
            ..InitConfig::default()
        }
    }

    pub(super) fn log_info(&self, id: &JobId, job: &ActiveJob) -> JobLogInfo {
        JobLogInfo { job_id: id.clone(), job: job.job.clone(), run_dir: self.run_dir(id) }
    }
}
