//! Hosts lose their disks, die for good, and are replaced (goal G8): the consensus keeps three voters by itself.

use std::time::{Duration, Instant};

use flynn_harness::{ClusterOptions, Daemon, wait_until};
use flynn_scenarios::{Node, block_on, cluster, counting, formed, hold, networked, numbered, raft_leader, subnets};
use flynn_types::host::JobStatus;

/// Longest until a voter whose host has come back as another node is no voter any more.
const FORMER_SELF: Duration = Duration::from_secs(4);
const REJOIN: Duration = Duration::from_secs(60);
/// Silence in seconds after which a voter is replaced; in earnest it is a minute.
const PATIENCE: &str = "8";
/// Longest until a voter that does not return is replaced.
const REPLACEMENT: Duration = Duration::from_secs(30);

/// A host that comes back with an empty disk is a full member again, and works.
#[test]
#[expect(clippy::print_stderr, reason = "the times are a result")]
fn a_host_with_an_empty_disk_joins_again() {
    let cluster = cluster(ClusterOptions { hosts: 3, ..ClusterOptions::default() }).unwrap();
    let leases = subnets(Node::of(cluster.host(0))).unwrap();
    for wiped in 0..3 {
        let host = cluster.host(wiped);
        host.kill().unwrap();
        let state = host.dir().join("state");
        std::fs::remove_dir_all(&state).unwrap();
        std::fs::create_dir(&state).unwrap();
        let begin = Instant::now();
        host.start().unwrap();
        formed(&cluster, 3, REJOIN).unwrap();
        networked(&cluster, REJOIN).unwrap();
        eprintln!("{} is a member again after {:.1?}", host.id(), begin.elapsed());
        // Its former self, of the same address, is known to have gone 2 s after its last word.
        hold(FORMER_SELF, "the consensus is whole", || {
            formed(&cluster, 3, Duration::ZERO).map_err(|err| format!("{err:#}"))
        })
        .unwrap();
        let node = Node::of(host);
        let (ended, output) = node.run_to_end(&counting(host, 10, "", 0)).unwrap();
        assert_eq!((ended.status, numbered(&output.stdout)), (JobStatus::Done, Ok(10)));
        wait_until(REJOIN, "its subnet is the one that it had", || {
            let now = subnets(node).map_err(|err| err.to_string())?;
            if now == leases { Ok(()) } else { Err(format!("{now:?} instead of {leases:?}")) }
        })
        .unwrap();
    }
    cluster.down().unwrap();
}

/// Of four hosts three vote. When one of them dies, the fourth takes its place; when that comes back, it is welcome.
#[test]
#[expect(clippy::print_stderr, reason = "the times are a result")]
fn a_dead_voter_is_replaced_by_a_spare_host() {
    let daemon = Daemon { args: vec!["--replace-voters-after".to_owned(), PATIENCE.to_owned()], ..Daemon::default() };
    let cluster = cluster(ClusterOptions { hosts: 4, daemon, ..ClusterOptions::default() }).unwrap();
    let leader = raft_leader(Node::of(cluster.host(0))).unwrap();
    let voters = block_on(Node::of(cluster.host(0)).discoverd().raft_peers()).unwrap();
    assert_eq!(voters.len(), 3, "{voters:?}");
    let is = |address: &str, host: flynn_harness::Host<'_>| {
        address.trim_start_matches("http://") == format!("{}:1111", host.ip())
    };
    for follower in [true, false] {
        let leader = if follower {
            leader.clone()
        } else {
            raft_leader(Node::of(cluster.hosts().find(|host| host.is_up()).unwrap())).unwrap()
        };
        let voters =
            block_on(Node::of(cluster.hosts().find(|host| host.is_up()).unwrap()).discoverd().raft_peers()).unwrap();
        let victim = cluster
            .hosts()
            .find(|host| voters.iter().any(|voter| is(voter, *host)) && is(&leader, *host) != follower)
            .unwrap();
        victim.kill().unwrap();
        let begin = Instant::now();
        formed(&cluster, 3, REPLACEMENT).unwrap();
        eprintln!(
            "{} ({}) was replaced after {:.1?}",
            victim.id(),
            if follower { "follower" } else { "leader" },
            begin.elapsed()
        );
        victim.start().unwrap();
        formed(&cluster, 3, REJOIN).unwrap();
        networked(&cluster, REJOIN).unwrap();
        let (ended, output) = Node::of(victim).run_to_end(&counting(victim, 10, "", 0)).unwrap();
        assert_eq!((ended.status, numbered(&output.stdout)), (JobStatus::Done, Ok(10)));
    }
    cluster.down().unwrap();
}
