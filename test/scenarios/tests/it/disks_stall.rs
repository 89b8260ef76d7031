//! A disk neither works nor fails: it does not answer (goal G29).

use std::time::{Duration, Instant};

use flynn_harness::{ClusterOptions, Effect, Host, Tampering, repeats, wait_until};
use flynn_scenarios::{Node, SETTLING, cluster, formed, hold, raft_leader, writing};

/// What every sync takes while the disk stalls.
const STALL: Duration = Duration::from_secs(30);
/// Longest until a leader whose disk stalls is replaced.
const REPLACED: Duration = Duration::from_secs(10);
/// Longest that the majority may take to acknowledge the next write.
const PROGRESS: Duration = Duration::from_secs(5);

fn leads(leader: &str, host: Host<'_>) -> bool {
    leader.trim_start_matches("http://") == format!("{}:1111", host.ip())
}

/// The leader's disk stalls, or a follower's: the leader is replaced, the others go on, and nobody loses anything.
#[test]
#[expect(clippy::print_stderr, reason = "the outages are a result")]
fn a_node_whose_disk_stalls_does_not_lead_and_stops_nobody() {
    let cluster = cluster(ClusterOptions { hosts: 3, ..ClusterOptions::default() }).unwrap();
    let stall = Tampering {
        calls: ["fsync", "fdatasync", "syncfs"].map(str::to_owned).into(),
        file: None,
        effect: Effect::Delay(STALL),
        nth: None,
    };
    let history = writing(&cluster, |history| {
        for round in 0..repeats().div_ceil(2) {
            let follower = round % 3 == 2;
            let leader = raft_leader(Node::of(cluster.host(0))).unwrap();
            let stalled = cluster.hosts().find(|host| leads(&leader, *host) != follower).unwrap();
            let others: Vec<_> = cluster.hosts().filter(|host| host.id() != stalled.id()).map(Node::of).collect();
            let tampered = stalled.tamper(&stall).unwrap();
            let begin = Instant::now();
            let agreed = wait_until(REPLACED, "the others agree on a leader whose disk works", || {
                let views: Vec<_> = others.iter().map(|node| raft_leader(*node)).collect();
                match &views[..] {
                    [Ok(one), Ok(other)] if one == other && !leads(one, stalled) => Ok(one.clone()),
                    _ => Err(format!("{views:?}")),
                }
            })
            .unwrap();
            let replaced = begin.elapsed();
            let since = Instant::now();
            let outage = wait_until(PROGRESS, "a write is acknowledged", || history.first_after(since).ok_or("none"));
            let outage = outage.unwrap();
            wait_until(REPLACED, "the stalled node does not think that it leads", || {
                match raft_leader(Node::of(stalled)) {
                    Ok(leader) if leads(&leader, stalled) => Err(leader),
                    _ => Ok(()),
                }
            })
            .unwrap();
            hold(Duration::from_secs(3), "the leader stays", || match raft_leader(others[0]) {
                Ok(leader) if leader == agreed => Ok(()),
                other => Err(format!("{other:?} after {agreed}")),
            })
            .unwrap();
            drop(tampered);
            let end = Instant::now();
            formed(&cluster, 3, SETTLING).unwrap();
            eprintln!(
                "round {round}: {} ({}) stalls, leader {agreed} after {replaced:.1?}, next write after {outage:.1?}, \
                 whole again {:.1?} after the stall",
                stalled.id(),
                if follower { "follower" } else { "leader" },
                end.elapsed()
            );
        }
    });
    eprintln!("{} writes, longest gap {:.1?}", history.acknowledged(), history.longest_gap());
    cluster.down().unwrap();
}
