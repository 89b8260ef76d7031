//! The daemon is killed at random moments, while jobs start, write and stop (goals G15, G16, G26).

use std::thread;
use std::time::Duration;

use flynn_harness::{ClusterOptions, repeats};
use flynn_scenarios::{Node, SETTLING, block_on, cluster, counting, numbered, seeded};
use flynn_types::host::JobStatus;
use rand::Rng as _;

/// Lines of a job that ends by itself.
const LINES: u64 = 60;

/// Afterwards every accepted job exists once and is what it should be: those that were to end by themselves did, with
/// their status; those that were told to stop have; the others still run, in the same process. No line of output is lost
/// or doubled, and nothing else is left.
#[test]
fn jobs_and_their_output_outlive_a_daemon_that_dies_at_any_moment() {
    let mut random = seeded("daemons_die");
    let cluster = cluster(ClusterOptions::default()).unwrap();
    let node = Node::of(cluster.host(0));
    let before = node.baseline().unwrap();
    let mut accepted = Vec::new();
    for round in 0..repeats() {
        let lasting = counting(node.host, 1_000_000, "0.03", 0);
        let pid = node.run(&lasting).unwrap().pid;
        let ending = counting(node.host, LINES, "0.01", 5);
        let stopped = counting(node.host, 1_000_000, "0.03", 0);
        node.run(&stopped).unwrap();
        let late: Vec<_> = (0..3).map(|_| counting(node.host, LINES, "0.01", 5)).collect();
        let death = Duration::from_millis(random.random_range(0..700));
        let (api, ids) = (node.api(), stopped.id.clone());
        let (ending_in, late_in) = (&ending, &late);
        // What was answered with success must be true later; what was not may be either way.
        let (answers, stop) = thread::scope(|scope| {
            let adding = scope.spawn(|| {
                let all = std::iter::once(ending_in).chain(late_in);
                all.map(|job| block_on(node.api().add_job(job)).is_ok()).collect::<Vec<_>>()
            });
            let stopping = scope.spawn(move || block_on(api.stop_job(&ids)).is_ok());
            thread::sleep(death);
            node.host.kill_daemon().unwrap();
            (adding.join().unwrap(), stopping.join().unwrap())
        });
        node.host.start_daemon().unwrap();

        let listed = block_on(node.api().jobs(false)).unwrap();
        for (job, accepted) in std::iter::once(&ending).chain(&late).zip(&answers) {
            assert!(!accepted || listed.contains_key(&job.id), "round {round}: accepted job {} is lost", job.id);
            if listed.contains_key(&job.id) {
                let ended = node.wait_end(&job.id, SETTLING).unwrap();
                assert_eq!(
                    (ended.status, ended.exit_status),
                    (JobStatus::Crashed, Some(5)),
                    "round {round}: {:?}",
                    ended.error
                );
                let lines = numbered(&node.output(&job.id).unwrap().stdout);
                assert_eq!(lines, Ok(LINES), "round {round}: death after {death:?}");
            }
        }
        let survivor = node.job(&lasting.id).unwrap();
        assert_eq!((survivor.status, survivor.pid), (JobStatus::Running, pid), "round {round}: {:?}", survivor.error);
        if stop {
            let ended = node.job(&stopped.id).unwrap();
            assert!(!ended.status.is_active(), "round {round}: the stopped job is {}", ended.status.as_str());
        }
        for job in [&lasting, &stopped] {
            node.stop(&job.id).unwrap();
            numbered(&node.output(&job.id).unwrap().stdout).unwrap();
        }
        accepted.extend([lasting.id, stopped.id]);
        let active = block_on(node.api().jobs(true)).unwrap();
        assert!(active.is_empty(), "round {round}: {:?}", active.keys());
        node.wait_no_leaks(&before).unwrap();
    }
    for id in accepted {
        assert!(!node.job(&id).unwrap().status.is_active());
    }
    cluster.down().unwrap();
}
