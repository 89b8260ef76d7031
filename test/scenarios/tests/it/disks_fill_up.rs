//! The disk of the daemon's state and volumes is full (goal G17).

use flynn_harness::{ClusterOptions, repeats, wait_until};
use flynn_scenarios::{Node, SETTLING, block_on, cluster, counting, numbered, shell};
use flynn_types::host::JobStatus;

const DISK: u64 = 256 << 20;

/// New jobs are refused, or fail, with words about the disk; running ones go on, and so does the daemon. When there is
/// space again, so is everything else, without a command; nothing of the state is lost.
#[test]
fn a_full_disk_stops_new_work_only_and_is_over_when_there_is_space() {
    let cluster = cluster(ClusterOptions { disk_bytes: Some(DISK), ..ClusterOptions::default() }).unwrap();
    let node = Node::of(cluster.host(0));
    let before = node.baseline().unwrap();
    let running = node.run(&counting(node.host, 1_000_000, "0.05", 0)).unwrap();
    let id = &running.job.id;
    // Its layers are here, so the disk is all that can be missing.
    let past = node.run_to_end(&shell(node.host, "echo before")).unwrap().0;
    let daemon = node.status().unwrap().pid;
    let state = node.host.dir().join("state").display().to_string();
    for round in 0..repeats().div_ceil(3) {
        let fill = format!("dd if=/dev/zero of={state}/fill bs=1M; dd if=/dev/zero of={state}/fill2 bs=512; sync");
        let filled = node.host.exec(["sh", "-c", &fill]).unwrap();
        assert!(String::from_utf8_lossy(&filled.stderr).contains("No space left"), "{filled:?}");

        let mut refusals = Vec::new();
        for _ in 0..3 {
            let job = shell(node.host, "dd if=/dev/zero of=/file bs=1M count=1");
            match block_on(node.api().add_job(&job)) {
                Ok(()) => {
                    let ended = node.wait_end(&job.id, SETTLING).unwrap();
                    if ended.status != JobStatus::Done {
                        refusals.push(ended.error.unwrap_or_else(|| format!("exit status {:?}", ended.exit_status)));
                    }
                }
                Err(err) => refusals.push(err.to_string()),
            }
        }
        assert!(!refusals.is_empty(), "round {round}: new work needs space, and there is none");
        let clear = |text: &String| {
            ["no space left", "not enough space", "exit status"].iter().any(|said| text.to_lowercase().contains(said))
        };
        assert!(refusals.iter().all(clear), "round {round}: {refusals:?}");
        assert_eq!(node.status().unwrap().pid, daemon, "the daemon lives");
        let seen = numbered(&node.output(id).unwrap().stdout).unwrap();
        let now = node.job(id).unwrap();
        assert_eq!((now.status, now.pid), (JobStatus::Running, running.pid), "round {round}");
        node.host.output(["rm", &format!("{state}/fill"), &format!("{state}/fill2")]).unwrap();
        // Its output waited for space in the spool.
        wait_until(SETTLING, "the running job goes on", || {
            let now = numbered(&node.output(id).map_err(|err| err.to_string())?.stdout)?;
            if now > seen + 20 { Ok(()) } else { Err(format!("{now} after {seen}")) }
        })
        .unwrap();

        wait_until(SETTLING, "new work is done again", || {
            let (ended, output) = node.run_to_end(&shell(node.host, "echo after")).map_err(|err| format!("{err:#}"))?;
            if output.stdout == ["after"] { Ok(()) } else { Err(format!("{:?}", ended.error)) }
        })
        .unwrap();
    }
    node.host.restart_daemon().unwrap();
    let now = node.job(id).unwrap();
    assert_eq!((now.status, now.pid), (JobStatus::Running, running.pid));
    assert_eq!(node.job(&past.job.id).unwrap(), past);
    node.stop(id).unwrap();
    numbered(&node.output(id).unwrap().stdout).unwrap();
    node.wait_no_leaks(&before).unwrap();
    cluster.down().unwrap();
}

/// A daemon that is restarted while its disk is full serves what it knows, and keeps its jobs.
#[test]
fn a_daemon_starts_on_a_full_disk() {
    let cluster = cluster(ClusterOptions { disk_bytes: Some(DISK), ..ClusterOptions::default() }).unwrap();
    let node = Node::of(cluster.host(0));
    let running = node.run(&counting(node.host, 1_000_000, "0.05", 0)).unwrap();
    let state = node.host.dir().join("state").display().to_string();
    let fill = format!("dd if=/dev/zero of={state}/fill bs=1M; dd if=/dev/zero of={state}/fill2 bs=512; sync");
    node.host.exec(["sh", "-c", &fill]).unwrap();
    node.host.restart_daemon().unwrap();
    let now = node.job(&running.job.id).unwrap();
    assert_eq!((now.status, now.pid), (JobStatus::Running, running.pid));
    node.host.output(["rm", &format!("{state}/fill"), &format!("{state}/fill2")]).unwrap();
    wait_until(SETTLING, "new work is done again", || {
        let (ended, output) = node.run_to_end(&shell(node.host, "echo after")).map_err(|err| format!("{err:#}"))?;
        if output.stdout == ["after"] { Ok(()) } else { Err(format!("{:?}", ended.error)) }
    })
    .unwrap();
    node.stop(&running.job.id).unwrap();
    numbered(&node.output(&running.job.id).unwrap().stdout).unwrap();
    cluster.down().unwrap();
}
