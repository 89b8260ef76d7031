//! Starting jobs, beside runc and podman with the same files.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use flynn_harness::{Cluster, ClusterOptions};
use flynn_host_client::Client;
use flynn_types::host::{Job, JobEventKind};
use flynn_types::image::Artifact;
use futures_util::{StreamExt as _, future};

use crate::fixture::{busybox, client, cluster, idle_job, runtime, unpack};
use crate::table::{Series, Table};

/// Jobs started at once.
const MANY: usize = 50;
const PATIENCE: Duration = Duration::from_secs(60);

/// From `PUT /host/jobs` to *running*, beside `runc run --detach` of the same root file system.
pub(crate) fn one_at_a_time(rounds: usize, table: &mut Table) -> anyhow::Result<()> {
    let artifact = busybox()?;
    let folder = tempfile::tempdir()?;
    let bundle = Bundle::new(&artifact, folder.path())?;
    let cluster = cluster(1)?;
    let client = client(cluster.host(0))?;
    let host = cluster.host(0).id();
    let (mut ours, mut theirs) = (Series::default(), Series::default());
    for round in 0..rounds + 2 {
        let job = idle_job(&host, &artifact)?;
        let time = runtime().block_on(start(&client, std::slice::from_ref(&job)))?;
        let peer = bundle.start()?;
        // The first rounds warm caches on both sides.
        if round >= 2 {
            ours.push_ms(time);
            theirs.push_ms(peer);
        }
        runtime().block_on(client.stop_job(&job.id))?;
    }
    table.compare("job start, ms", &ours, "runc", &theirs, 1.5);
    cluster.down()
}

/// 50 jobs at once, beside 50 of podman.
pub(crate) fn many_at_once(rounds: usize, table: &mut Table) -> anyhow::Result<()> {
    let artifact = busybox()?;
    let cluster = cluster(1)?;
    let client = client(cluster.host(0))?;
    let host = cluster.host(0).id();
    // podman gets a host of its own kind, without a daemon.
    let other = Cluster::up(ClusterOptions { hosts: 1, start_daemons: false, ..ClusterOptions::default() })?;
    let podman = Podman::new(&artifact, &other)?;
    let (mut ours, mut theirs) = (Series::default(), Series::default());
    for _ in 0..(rounds / 3).max(3) {
        let jobs = (0..MANY).map(|_| idle_job(&host, &artifact)).collect::<anyhow::Result<Vec<_>>>()?;
        ours.push_ms(runtime().block_on(start(&client, &jobs))?);
        runtime().block_on(future::join_all(jobs.iter().map(|job| client.stop_job(&job.id))));
        theirs.push_ms(podman.start_many()?);
        podman.remove_all()?;
    }
    table.compare("50 jobs at once, ms", &ours, "podman", &theirs, 1.0);
    other.down()?;
    cluster.down()
}

/// Time until all jobs run.
async fn start(client: &Client, jobs: &[Job]) -> anyhow::Result<Duration> {
    let mut events = client.events(None).await?;
    let begin = Instant::now();
    let puts = future::try_join_all(jobs.iter().map(|job| client.add_job(job)));
    let running = async {
        let mut waiting: Vec<&str> = jobs.iter().map(|job| job.id.as_str()).collect();
        while !waiting.is_empty() {
            let event = events.next().await.context("the event stream ended")??;
            match event.event {
                JobEventKind::Start => waiting.retain(|id| *id != event.job_id),
                JobEventKind::Error if waiting.contains(&event.job_id.as_str()) => {
                    bail!("job failed: {}", event.job.error.unwrap_or_default())
                }
                _ => {}
            }
        }
        anyhow::Ok(begin.elapsed())
    };
    let both = async {
        let (put, running) = tokio::join!(puts, running);
        put?;
        running
    };
    tokio::time::timeout(PATIENCE, both).await.context("the jobs do not run in time")?
}

/// A runc bundle.
struct Bundle<'a> {
    folder: &'a Path,
}

impl<'a> Bundle<'a> {
    fn new(artifact: &Artifact, folder: &'a Path) -> anyhow::Result<Self> {
        unpack(artifact, folder)?;
        run(Command::new("runc").arg("spec").current_dir(folder))?;
        let file = folder.join("config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&file)?)?;
        config["process"]["terminal"] = false.into();
        config["process"]["args"] = serde_json::json!(["/bin/sleep", "100000"]);
        config["linux"]["cgroupsPath"] = format!("/flynn-bench-{}/runc", std::process::id()).into();
        std::fs::write(&file, serde_json::to_vec(&config)?)?;
        Ok(Self { folder })
    }

    fn start(&self) -> anyhow::Result<Duration> {
        let id = format!("flynn-bench-{}", std::process::id());
        let root = self.folder.join("state");
        let begin = Instant::now();
        run(Command::new("runc")
            .arg("--root")
            .arg(&root)
            .args(["run", "--detach", "--bundle"])
            .arg(self.folder)
            .arg(&id))?;
        let time = begin.elapsed();
        run(Command::new("runc").arg("--root").arg(&root).args(["delete", "--force"]).arg(&id))?;
        Ok(time)
    }
}

impl Drop for Bundle<'_> {
    fn drop(&mut self) {
        // runc leaves the parent of the container's cgroup in every hierarchy.
        let name = format!("flynn-bench-{}", std::process::id());
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir(hierarchy.path().join(&name)); // most have none
        }
        let _ = std::fs::remove_dir(Path::new("/sys/fs/cgroup").join(&name));
    }
}

/// podman in a host without a daemon, with folders of its own.
struct Podman<'a> {
    cluster: &'a Cluster,
    rootfs: String,
}

impl<'a> Podman<'a> {
    fn new(artifact: &Artifact, cluster: &'a Cluster) -> anyhow::Result<Self> {
        let folder = cluster.host(0).dir().join("podman");
        std::fs::create_dir_all(&folder)?;
        let rootfs = unpack(artifact, &folder)?.to_string_lossy().into_owned();
        Ok(Self { cluster, rootfs })
    }

    fn command(&self) -> anyhow::Result<Command> {
        let host = self.cluster.host(0);
        let mut command = host.command_in("podman")?;
        for (flag, folder) in [("--root", "podman/root"), ("--runroot", "podman/run"), ("--tmpdir", "podman/tmp")] {
            command.arg(flag).arg(host.dir().join(folder));
        }
        command.args(["--cgroup-manager=cgroupfs", "--runtime=runc", "--events-backend=none"]);
        Ok(command)
    }

    /// Without a network: its bridge would cost podman more.
    fn start_many(&self) -> anyhow::Result<Duration> {
        let cgroup = format!("--cgroup-parent=/{}", self.cluster.host(0).cgroup());
        let begin = Instant::now();
        let mut children = Vec::new();
        for _ in 0..MANY {
            let mut command = self.command()?;
            command.args(["run", "--detach", "--network=none", "--log-driver=none", &cgroup]);
            command.arg("--rootfs").arg(format!("{}:O", self.rootfs)).args(["/bin/sleep", "100000"]);
            children.push(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?);
        }
        for child in children {
            let output = child.wait_with_output()?;
            anyhow::ensure!(output.status.success(), "podman run: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(begin.elapsed())
    }

    fn remove_all(&self) -> anyhow::Result<()> {
        run(self.command()?.args(["rm", "--all", "--force", "--time=0"]))
    }
}

/// Runs a command that must succeed.
fn run(command: &mut Command) -> anyhow::Result<()> {
    // Not a pipe: a container that is left running would hold it open.
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let status = status.with_context(|| format!("run {command:?}"))?;
    anyhow::ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
