//! `collect-debug-info`: a tarball of what helps to understand a problem. Nothing leaves the machine.

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use anyhow::{Context as _, bail};
use clap::Args;

use super::cluster::{Cluster, warn};
use super::{Outcome, print};

/// Most bytes of one log that go into the tarball, counted from its end.
const LOG_BYTES: u64 = 10 << 20;

#[derive(Args)]
pub(super) struct Collect {
    /// Write a tarball; always the case
    #[arg(long, hide = true)]
    tarball: bool,
    /// Include the environment of jobs, which may hold secrets
    #[arg(long)]
    include_env: bool,
    /// Directory of the daemon's log
    #[arg(long, value_name = "DIR", default_value = "/var/log/flynn")]
    log_dir: PathBuf,
    /// Tarball to write
    #[arg(long, value_name = "PATH", default_value = "flynn-host-debug.tar.gz")]
    filename: PathBuf,
}

impl Collect {
    pub(super) async fn run(self) -> Outcome {
        let directory = std::env::temp_dir().join(format!("flynn-host-debug-{}", std::process::id()));
        std::fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
        let collected = self.collect(&directory).await;
        let _ = std::fs::remove_dir_all(&directory); // a leftover in the temporary directory harms nobody
        collected?;
        print(&format!("{}\n", std::path::absolute(&self.filename)?.display()));
        Ok(ExitCode::SUCCESS)
    }

    async fn collect(&self, directory: &Path) -> anyhow::Result<()> {
        for (name, command) in [
            ("version.txt", ["flynn-host", "version"].as_slice()),
            ("uname.txt", &["uname", "-a"]),
            ("df.txt", &["df", "-h"]),
            ("free.txt", &["free", "-m"]),
            ("mounts.txt", &["cat", "/proc/mounts"]),
            ("interfaces.txt", &["ip", "address"]),
            ("routes.txt", &["ip", "route"]),
            ("forwarding.txt", &["bridge", "fdb"]),
            ("nftables.txt", &["nft", "list", "ruleset"]),
            ("zpool.txt", &["zpool", "status"]),
        ] {
            std::fs::write(directory.join(name), output(command).await)?;
        }
        copy_tail(&self.log_dir.join("flynn-host.log"), &directory.join("flynn-host.log"));
        if let Err(err) = self.collect_jobs(directory).await {
            warn(&format!("the cluster's jobs are left out: {err:#}"));
        }
        let status = tokio::process::Command::new("tar")
            .arg("-czf")
            .arg(&self.filename)
            .arg("-C")
            .arg(directory)
            .arg(".")
            .status()
            .await;
        match status.context("run tar")? {
            status if status.success() => Ok(()),
            status => bail!("tar ended with {status}"),
        }
    }

    async fn collect_jobs(&self, directory: &Path) -> anyhow::Result<()> {
        let cluster = Cluster::connect()?;
        for host in cluster.hosts().await? {
            let status = host.client.status().await?;
            std::fs::write(directory.join(format!("host-{}.json", host.id)), serde_json::to_string_pretty(&status)?)?;
        }
        let mut jobs = cluster.jobs(false).await?;
        if !self.include_env {
            jobs.iter_mut().for_each(|job| job.job.config.env.clear());
        }
        std::fs::write(directory.join("jobs.json"), serde_json::to_string_pretty(&jobs)?)?;
        Ok(())
    }
}

/// What a command says; also how it failed.
async fn output(command: &[&str]) -> Vec<u8> {
    let Some((program, args)) = command.split_first() else { return Vec::new() };
    match tokio::process::Command::new(program).args(args).stdin(Stdio::null()).output().await {
        Ok(output) => [output.stdout, output.stderr].concat(),
        Err(err) => format!("{program}: {err}\n").into_bytes(),
    }
}

fn copy_tail(from: &Path, to: &Path) {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let copy = || -> std::io::Result<()> {
        let mut file = std::fs::File::open(from)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(LOG_BYTES)))?;
        std::io::copy(&mut file.take(LOG_BYTES), &mut std::fs::File::create(to)?)?;
        Ok(())
    };
    if let Err(err) = copy() {
        warn(&format!("{} is left out: {err}", from.display()));
    }
}
