//! Memory of the daemon and of what stands beside each job.

use std::path::Path;

use anyhow::Context as _;
use flynn_harness::HostState;

use crate::fixture::{busybox, client, cluster, idle_job, runtime};
use crate::table::{Series, Table};

/// Idle jobs over which the cost of one is averaged.
const JOBS: u32 = 20;

/// Idle daemons of a cluster of three, then what 20 idle jobs on one cost.
pub(crate) fn idle(_rounds: usize, table: &mut Table) -> anyhow::Result<()> {
    let artifact = busybox()?;
    let cluster = cluster(3)?;
    let mut resident = Series::default();
    for host in cluster.hosts() {
        let HostState::Running(pids) = host.state() else { anyhow::bail!("{} has no daemon", host.id()) };
        for pid in pids {
            resident.push(rollup(pid, "Rss:")? / 1024.0);
        }
    }
    table.bound("idle daemon of 3, most resident MB", resident.quantile(1.0), 40.0);
    let client = client(cluster.host(0))?;
    let id = cluster.host(0).id();
    for _ in 0..JOBS {
        let job = idle_job(&id, &artifact)?;
        runtime().block_on(client.add_job(&job))?;
        flynn_harness::wait_until(std::time::Duration::from_secs(30), "the job runs", || {
            let found = runtime().block_on(client.job(&job.id)).map_err(|err| err.to_string())?;
            if found.pid.is_some() { Ok(()) } else { Err(format!("{:?}", found.status)) }
        })?;
    }
    let mut cost = 0.0;
    for pid in helpers()? {
        cost += rollup(pid, "Pss:")? / 1024.0;
    }
    table.bound("monitor and init of an idle job, MB PSS", cost / f64::from(JOBS), 3.0);
    cluster.down()
}

/// Processes of our init program.
fn helpers() -> anyhow::Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let Ok(program) = std::fs::read_link(entry.path().join("exe")) else { continue };
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("flynn-init") || name.starts_with(".containerinit") {
            found.push(pid);
        }
    }
    Ok(found)
}

/// A line of a process's memory summary, in KiB.
pub(crate) fn rollup(pid: i32, field: &str) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(Path::new(&path)).with_context(|| format!("read {path}"))?;
    let line =
        text.lines().find_map(|line| line.strip_prefix(field)).with_context(|| format!("{path} has no {field}"))?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
