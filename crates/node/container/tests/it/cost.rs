//! What a container costs beside its job: memory. Its time to start is measured by `script/bench`.

use flynn_types::init::files;

use crate::support::Sandbox;

/// Proportional set size of a process in KiB.
fn pss(pid: i32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

#[tokio::test]
async fn an_idle_job_costs_little_memory_beside_its_own() {
    let sandbox = Sandbox::new();
    let job = sandbox.run(sandbox.shell("echo ready; exec sleep 1000")).await;
    job.wrote("ready").await;
    let monitor = std::fs::read_to_string(job.run_dir().join(files::MONITOR_PID)).unwrap();
    let monitor = pss(monitor.lines().next().unwrap().parse().unwrap());
    let init = pss(job.container.pid());
    println!("monitor {monitor} KiB, init {init} KiB");
    assert!(monitor + init < 3 * 1024, "monitor {monitor} KiB, init {init} KiB");
    job.container.kill().await.unwrap();
    job.ended().await;
}
