//! Daemons are frozen, and their wall clocks move (goals G13, G18, G19): no job is touched, no healthy instance is said
//! to be down, no lease changes.

use std::time::Duration;

use flynn_harness::{Cluster, ClusterOptions, repeats, wait_until};
use flynn_scenarios::{
    Audit, Node, SETTLING, cluster, counting, formed, hold, numbered, seeded, subnets, with_service,
};
use flynn_types::host::{ActiveJob, JobStatus};
use rand::Rng as _;

const SERVICE: &str = "scenario-steady";
/// An instance that is not heard of for so long has expired (spec discoverd-and-network C2).
const EXPIRY: Duration = Duration::from_secs(13);
/// Longest of most freezes, in seconds.
const SHORT_FREEZE: u64 = 5;
/// Longest that a daemon may take to be well again after it was frozen.
const THAW: Duration = Duration::from_secs(10);

/// A cluster with a registered, counting job on each host.
struct Steady<'a> {
    nodes: Vec<Node<'a>>,
    jobs: Vec<ActiveJob>,
    leases: std::collections::BTreeMap<flynn_types::id::HostId, String>,
    audit: Audit,
}

impl<'a> Steady<'a> {
    fn begin(cluster: &'a Cluster) -> Self {
        let nodes: Vec<_> = cluster.hosts().map(Node::of).collect();
        let start = |node: &Node<'_>| {
            let mut job = with_service(counting(node.host, 1_000_000, "0.2", 0), SERVICE, 8080);
            job.config.args[2].insert_str(0, "mkdir /www; httpd -p 8080 -h /www; ");
            node.run(&job).unwrap()
        };
        let jobs = nodes.iter().map(start).collect();
        for node in &nodes {
            wait_until(SETTLING, "all instances are there", || {
                let found =
                    flynn_scenarios::block_on(node.discoverd().instances(SERVICE)).map_err(|err| err.to_string())?;
                if found.len() == nodes.len() { Ok(()) } else { Err(format!("{found:?}")) }
            })
            .unwrap();
        }
        let leases = subnets(nodes[0]).unwrap();
        let audit = Audit::of(SERVICE, nodes.iter().copied());
        Self { nodes, jobs, leases, audit }
    }

    /// Nobody was told that an instance is down.
    fn undisturbed(&self) -> Result<(), String> {
        let downs = self.audit.downs();
        if downs.is_empty() { Ok(()) } else { Err(format!("{downs:?}")) }
    }

    fn end(self) {
        self.undisturbed().unwrap();
        for (node, job) in self.nodes.iter().zip(&self.jobs) {
            let now = node.job(&job.job.id).unwrap();
            assert_eq!((now.status, now.pid), (JobStatus::Running, job.pid), "{:?}", now.error);
            assert_eq!(subnets(*node).unwrap(), self.leases);
            node.stop(&job.job.id).unwrap();
            assert!(numbered(&node.output(&job.job.id).unwrap().stdout).unwrap() > 0);
        }
    }
}

#[test]
fn a_frozen_daemon_costs_no_instance_and_no_job() {
    let mut random = seeded("frozen");
    let cluster = cluster(ClusterOptions { hosts: 3, ..ClusterOptions::default() }).unwrap();
    let steady = Steady::begin(&cluster);
    // Most are short, so that there can be many.
    let longest = if repeats() >= 100 { 60 } else { 15 };
    for round in 0..repeats() {
        let seconds = random.random_range(1..=if round % 20 == 9 { longest } else { SHORT_FREEZE });
        let frozen = cluster.host(random.random_range(0..3));
        frozen.freeze().unwrap();
        let held = hold(Duration::from_secs(seconds), "no instance is down", || steady.undisturbed());
        frozen.thaw().unwrap();
        held.map_err(|err| format!("round {round}, {} frozen for {seconds} s: {err}", frozen.id())).unwrap();
        formed(&cluster, 3, THAW).unwrap();
    }
    // All at once: nobody is there to say who is down.
    cluster.hosts().try_for_each(|host| host.freeze()).unwrap();
    let held = hold(EXPIRY, "no instance is down", || steady.undisturbed());
    cluster.hosts().try_for_each(|host| host.thaw()).unwrap();
    held.unwrap();
    formed(&cluster, 3, THAW).unwrap();
    hold(EXPIRY, "no instance is down", || steady.undisturbed()).unwrap();
    steady.end();
    cluster.down().unwrap();
}

#[test]
fn a_wall_clock_that_jumps_is_not_noticed() {
    let cluster = cluster(ClusterOptions { hosts: 3, movable_clock: true, ..ClusterOptions::default() }).unwrap();
    let steady = Steady::begin(&cluster);
    for seconds in [3600, -3600, 86_400, 0] {
        cluster.host(1).shift_clock(seconds).unwrap();
        hold(Duration::from_secs(3), "no instance is down", || steady.undisturbed()).unwrap();
    }
    for seconds in [-3600, 3600, 86_400] {
        cluster.hosts().try_for_each(|host| host.shift_clock(seconds)).unwrap();
        hold(Duration::from_secs(3), "no instance is down", || steady.undisturbed()).unwrap();
    }
    hold(EXPIRY, "no instance is down", || steady.undisturbed()).unwrap();
    formed(&cluster, 3, THAW).unwrap();
    // New work in the new time, and a daemon that starts in it.
    cluster.host(2).restart_daemon().unwrap();
    let node = Node::of(cluster.host(2));
    let (ended, output) = node.run_to_end(&counting(node.host, 20, "", 0)).unwrap();
    assert_eq!((ended.status, numbered(&output.stdout)), (JobStatus::Done, Ok(20)));
    cluster.hosts().try_for_each(|host| host.shift_clock(0)).unwrap();
    hold(Duration::from_secs(3), "no instance is down", || steady.undisturbed()).unwrap();
    steady.end();
    cluster.down().unwrap();
}
