//! What must hold of a node that has a whole machine of its own: systemd keeps the daemon, volumes are in ZFS, control
//! groups are of version 2. `test/vm/guest` runs `before`, takes the machine's power, and runs `after` when it has booted
//! again with the same disk.
//!
//! The daemon makes its pool itself, by default settings; nobody types a command between `before` and `after`.

#![forbid(unsafe_code)]

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use flynn_harness::wait_until;
use flynn_host_client::Client;
use flynn_scenarios::{block_on, busybox};
use flynn_types::host::{ActiveJob, ContainerConfig, Job, JobStatus, VolumeBinding, metadata};
use flynn_types::id::{HostId, JobId};
use flynn_types::resource::ResourceType;

const SETTLING: Duration = Duration::from_secs(30);
const MEMORY_LIMIT: i64 = 64 << 20;
const DATA: &str = "flynn-default/data";
/// Marks the job that is to come back.
const LASTING: &str = "lasting";

fn main() -> anyhow::Result<()> {
    let machine = Machine { api: Client::new("http://127.0.0.1:1113", None)? };
    match std::env::args().nth(1).as_deref() {
        Some("before") => machine.before(),
        Some("after") => machine.after(),
        other => bail!("{other:?} is neither `before` nor `after`"),
    }
}

struct Machine {
    api: Client,
}

impl Machine {
    fn before(&self) -> anyhow::Result<()> {
        self.wait_for_network()?;
        let status = block_on(self.api.status())?;
        ensure!(status.cgroup_version == 2, "control groups are of version {}", status.cgroup_version);
        self.a_job_stays_within_its_memory(&status.id)?;

        let volume = block_on(self.api.create_volume("default", None))?;
        let dataset = zfs(&["list", "-H", "-o", "name,mounted", &format!("{DATA}/{}", volume.id)])?;
        ensure!(dataset.trim_end().ends_with("yes"), "the volume is a mounted dataset: {dataset:?}");
        // The starts are on disk before the power goes.
        let mut job = shell(&status.id, LASTING, "echo start >> /data/starts; sync /data/starts; exec sleep 100000")?;
        job.resurrect = true;
        job.config.volumes.push(VolumeBinding {
            target: "/data".to_owned(),
            volume: volume.id.clone(),
            writeable: true,
            delete_on_stop: false,
        });
        block_on(self.api.add_job(&job))?;
        let running = self.lasting(1)?;
        self.a_dead_daemon_is_started_again(status.pid, &running)
    }

    fn after(&self) -> anyhow::Result<()> {
        self.wait_for_network()?;
        let running = self.lasting(2)?;
        let health = run("zpool", &["status", "-x", "flynn-default"])?;
        ensure!(health.contains("is healthy"), "{health}");
        let volume = &running.job.config.volumes[0].volume;
        block_on(self.api.stop_job(&running.job.id))?;
        self.ended(&running.job.id)?;
        block_on(self.api.destroy_volume(volume))?;
        let datasets = zfs(&["list", "-H", "-r", "-o", "name", DATA])?;
        ensure!(!datasets.contains(volume.as_str()), "the volume's dataset is gone: {datasets:?}");
        let scratch = zfs(&["list", "-H", "-o", "mounted", "flynn-default/scratch"])?;
        ensure!(scratch.trim() == "yes", "root file systems are in the pool, too");
        Ok(())
    }

    /// The limit is the control group's, and the reason of the end is told.
    fn a_job_stays_within_its_memory(&self, host: &str) -> anyhow::Result<()> {
        let limited = |kind: &str, script: &str| {
            let mut job = shell(host, kind, script)?;
            job.resources.set_limit(ResourceType::Memory, MEMORY_LIMIT);
            block_on(self.api.add_job(&job))?;
            anyhow::Ok(job)
        };
        let modest = limited("modest", "exec sleep 100000")?;
        self.running(&modest.id)?;
        let stats = block_on(self.api.job_stats(&modest.id))?;
        ensure!(i64::try_from(stats.memory_limit_bytes) == Ok(MEMORY_LIMIT), "{stats:?}");
        block_on(self.api.stop_job(&modest.id))?;
        self.ended(&modest.id)?;
        let greedy = limited("greedy", "exec tail /dev/zero")?;
        let ended = self.ended(&greedy.id)?;
        ensure!(
            (ended.status, ended.exit_status, ended.error.as_deref())
                == (JobStatus::Crashed, Some(137), Some("killed: out of memory")),
            "{ended:?}"
        );
        Ok(())
    }

    /// By systemd, and the job goes on in the same process.
    fn a_dead_daemon_is_started_again(&self, daemon: u32, job: &ActiveJob) -> anyhow::Result<()> {
        run("systemctl", &["kill", "--kill-whom=main", "--signal=KILL", "flynn-host"])?;
        wait_until(SETTLING, "another daemon answers", || match block_on(self.api.status()) {
            Ok(status) if status.pid != daemon => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        self.wait_for_network()?;
        let now = self.lasting(1)?;
        ensure!((&now.job.id, now.pid) == (&job.job.id, job.pid), "{now:?} is not {job:?}");
        Ok(())
    }

    fn wait_for_network(&self) -> anyhow::Result<()> {
        wait_until(SETTLING, "the daemon has its network", || match block_on(self.api.status()) {
            Ok(status) if status.network.is_some() => Ok(()),
            other => Err(format!("{other:?}")),
        })
    }

    fn running(&self, id: &str) -> anyhow::Result<ActiveJob> {
        wait_until(SETTLING, &format!("job {id} runs"), || match block_on(self.api.job(id)) {
            Ok(job) if job.status == JobStatus::Running => Ok(job),
            other => Err(format!("{other:?}")),
        })
    }

    fn ended(&self, id: &str) -> anyhow::Result<ActiveJob> {
        wait_until(SETTLING, &format!("job {id} has ended"), || match block_on(self.api.job(id)) {
            Ok(job) if !job.status.is_active() => Ok(job),
            other => Err(format!("{other:?}")),
        })
    }

    /// The one running job of that name, once it has noted so many starts on its volume.
    fn lasting(&self, starts: usize) -> anyhow::Result<ActiveJob> {
        wait_until(SETTLING, &format!("the job runs after start {starts}"), || {
            let jobs = block_on(self.api.jobs(true)).map_err(|err| err.to_string())?;
            let is_lasting = |job: &ActiveJob| job.job.metadata.get(metadata::TYPE).is_some_and(|kind| kind == LASTING);
            let mut jobs: Vec<_> = jobs.into_values().filter(is_lasting).collect();
            let (Some(job), true) = (jobs.pop(), jobs.is_empty()) else {
                return Err(format!("not one job runs, others: {jobs:?}"));
            };
            let volume = &job.job.config.volumes[0].volume;
            let mounted = zfs(&["get", "-H", "-o", "value", "mountpoint", &format!("{DATA}/{volume}")]);
            let folder = mounted.map_err(|err| format!("{err:#}"))?;
            let noted = fs::read_to_string(format!("{}/starts", folder.trim())).unwrap_or_default();
            if job.status == JobStatus::Running && noted == "start\n".repeat(starts) {
                Ok(job)
            } else {
                Err(format!("{:?}, {noted:?}", job.status))
            }
        })
    }
}

fn shell(host: &str, kind: &str, script: &str) -> anyhow::Result<Job> {
    let host: HostId = host.parse()?;
    Ok(Job {
        id: JobId::new(&host, uuid::Uuid::new_v4()).to_string(),
        mountspecs: busybox().mountspecs(),
        metadata: [(metadata::TYPE.to_owned(), kind.to_owned())].into(),
        config: ContainerConfig {
            args: ["/bin/sh", "-c", script].map(str::to_owned).into(),
            stop_timeout: Some(Duration::from_secs(2)),
            ..ContainerConfig::default()
        },
        ..Job::default()
    })
}

fn zfs(arguments: &[&str]) -> anyhow::Result<String> {
    run("zfs", arguments)
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("run {program}"))?;
    ensure!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}
