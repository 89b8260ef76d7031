//! The network between hosts breaks while clients write (goals G4, G5, G28).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use flynn_discoverd_client::Revision;
use flynn_harness::{Cluster, ClusterOptions, repeats, wait_until};
use flynn_scenarios::registers::{History, names};
use flynn_scenarios::{Node, SETTLING, block_on, cluster, formed, hold, raft_leader, seeded};
use rand::Rng as _;

const REGISTERS: usize = 4;
/// Longest that the majority may take to acknowledge the next write.
const PROGRESS: Duration = Duration::from_secs(5);

/// Lets a client on every host write while `faults` breaks things, heals, and checks the history.
fn writing(cluster: &Cluster, faults: impl FnOnce(&History)) -> History {
    let (history, stop, registers) = (History::default(), AtomicBool::new(false), names(REGISTERS));
    let all: Vec<_> = cluster.hosts().collect();
    thread::scope(|scope| {
        let writers: Vec<_> =
            all.iter().map(|host| scope.spawn(|| history.write_from(*host, &all, &registers, &stop))).collect();
        let begun = wait_until(SETTLING, "writes are acknowledged", || match history.acknowledged() {
            0 => Err(0),
            _ => Ok(()),
        });
        // Writers end also when the faults' assertions fail.
        let broken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            begun.unwrap();
            faults(&history);
        }));
        cluster.heal().unwrap();
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.join().unwrap().unwrap();
        }
        if let Err(panic) = broken {
            std::panic::resume_unwind(panic);
        }
    });
    formed(cluster, 3, SETTLING).unwrap();
    let read = |node: Node<'_>| -> Result<BTreeMap<String, Revision<u64>>, String> {
        let read = |name: &String| Ok(Some((name.clone(), block_on(node.discoverd().document(name).read())?)));
        let found: Result<Vec<_>, flynn_discoverd_client::DiscoverdError> =
            registers.iter().filter_map(|name| read(name).transpose()).collect();
        let found = found.map_err(|err| err.to_string())?;
        Ok(found.into_iter().filter_map(|(name, revision)| Some((name, revision?))).collect())
    };
    let at_last = wait_until(SETTLING, "all hosts show the same registers", || {
        let views = all.iter().map(|host| read(Node::of(*host))).collect::<Result<Vec<_>, _>>()?;
        if views.windows(2).all(|pair| pair[0] == pair[1]) { Ok(views[0].clone()) } else { Err(format!("{views:?}")) }
    })
    .unwrap();
    let wrong = history.violations(&at_last);
    assert!(wrong.is_empty(), "{} violations, first: {:#?}", wrong.len(), &wrong[..wrong.len().min(3)]);
    history
}

/// Each host in turn is cut off in both directions: no acknowledged write is lost, no index is replaced twice, the other
/// two go on within seconds under a leader of theirs, and the lone one does not think it leads.
#[test]
#[expect(clippy::print_stderr, reason = "the outages are a result")]
fn the_majority_goes_on_without_a_host_and_nothing_is_lost() {
    let cluster = cluster(ClusterOptions { hosts: 3, ..ClusterOptions::default() }).unwrap();
    let history = writing(&cluster, |history| {
        for round in 0..repeats() {
            let (alone, rest) =
                (round % 3, [(round + 1) % 3, (round + 2) % 3].map(|host| Node::of(cluster.host(host))));
            let (own, led) = (format!("{}:1111", cluster.host(alone).ip()), raft_leader(rest[0]));
            cluster.host(alone).cut().unwrap();
            let cut = Instant::now();
            let outage =
                wait_until(PROGRESS, "the majority acknowledges a write", || history.first_after(cut).ok_or("none"))
                    .unwrap();
            let leads =
                |node: Node<'_>| raft_leader(node).map(|leader| leader.trim_start_matches("http://").to_owned());
            let agreed = wait_until(PROGRESS, "the majority agrees on a leader among itself", || {
                let views = rest.map(leads);
                match &views {
                    [Ok(one), Ok(other)] if one == other && *one != own => Ok(one.clone()),
                    _ => Err(format!("{views:?}")),
                }
            })
            .unwrap();
            wait_until(PROGRESS, "the lone host does not think that it leads", || {
                match leads(Node::of(cluster.host(alone))) {
                    Ok(leader) if leader == own => Err(leader),
                    _ => Ok(()),
                }
            })
            .unwrap();
            cluster.heal().unwrap();
            formed(&cluster, 3, Duration::from_secs(10)).unwrap();
            // The one that returns must not depose a leader that all can hear.
            hold(Duration::from_millis(500), "the leader stays", || match leads(rest[0]) {
                Ok(leader) if leader == agreed => Ok(()),
                other => Err(format!("{other:?} after {agreed}")),
            })
            .unwrap();
            eprintln!("round {round}: {own} alone, leader {led:?} → {agreed}, first write after {outage:.1?}");
        }
    });
    eprintln!("{} writes, longest gap {:.1?}", history.acknowledged(), history.longest_gap());
    cluster.down().unwrap();
}

/// Packets are lost in one direction only, between every ordered pair of hosts.
#[test]
#[expect(clippy::print_stderr, reason = "the outages are a result")]
fn a_one_way_cut_stops_nobody_for_long_and_loses_nothing() {
    let mut random = seeded("one_way");
    let cluster = cluster(ClusterOptions { hosts: 3, ..ClusterOptions::default() }).unwrap();
    let history = writing(&cluster, |history| {
        for round in 0..repeats() {
            let (from, step) = (round % 3, random.random_range(1..3));
            cluster.cut_one_way(from, (from + step) % 3).unwrap();
            let cut = Instant::now();
            wait_until(PROGRESS, "a write is acknowledged", || history.first_after(cut).ok_or("none")).unwrap();
            // More than an election timeout.
            let until = Instant::now() + Duration::from_secs(3);
            wait_until(PROGRESS * 2, "writes go on", || history.first_after(until).ok_or("none")).unwrap();
            cluster.heal().unwrap();
            formed(&cluster, 3, Duration::from_secs(10)).unwrap();
        }
    });
    eprintln!("{} writes, longest gap {:.1?}", history.acknowledged(), history.longest_gap());
    cluster.down().unwrap();
}

/// The consensus leader's daemon is killed: the next write is acknowledged soon.
#[test]
#[expect(clippy::print_stderr, reason = "the outages are a result")]
fn a_dead_leader_is_replaced_within_seconds() {
    let cluster = cluster(ClusterOptions { hosts: 3, ..ClusterOptions::default() }).unwrap();
    let mut outages = Vec::new();
    let history = writing(&cluster, |history| {
        for _ in 0..repeats() {
            let leader = raft_leader(Node::of(cluster.host(0))).unwrap();
            let leader = cluster.hosts().find(|host| leader.contains(&format!("{}:", host.ip()))).unwrap();
            leader.kill_daemon().unwrap();
            let killed = Instant::now();
            outages.push(
                wait_until(PROGRESS, "a write is acknowledged", || history.first_after(killed).ok_or("none")).unwrap(),
            );
            leader.start_daemon().unwrap();
            formed(&cluster, 3, SETTLING).unwrap();
        }
    });
    outages.sort();
    eprintln!("outages {outages:.1?}; {} writes", history.acknowledged());
    cluster.down().unwrap();
}
