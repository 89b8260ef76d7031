//! The network between hosts breaks while clients write (goals G4, G5, G28).

use std::time::{Duration, Instant};

use flynn_harness::{ClusterOptions, repeats, wait_until};
use flynn_scenarios::{Audit, Node, SETTLING, cluster, elections, formed, hold, raft_leader, seeded, writing};
use rand::seq::{IteratorRandom as _, SliceRandom as _};

/// An instance that is not heard of for so long has expired, also when the leader has just changed (spec
/// discoverd-and-network C2).
const EXPIRY: Duration = Duration::from_secs(23);
/// Longest that the majority may take to acknowledge the next write.
const PROGRESS: Duration = Duration::from_secs(5);

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

/// Packets are lost in one direction only, between every ordered pair of hosts: writes go on, leadership does not wander,
/// and as long as a host reaches one that reaches the leader, what is registered there stays so.
#[test]
#[expect(clippy::print_stderr, reason = "the outages are a result")]
fn a_one_way_cut_stops_nobody_for_long_and_loses_nothing() {
    let mut random = seeded("one_way");
    let cluster = cluster(ClusterOptions { hosts: 3, ..ClusterOptions::default() }).unwrap();
    let mut pairs: Vec<_> = (0..3).flat_map(|from| [(from, (from + 1) % 3), (from, (from + 2) % 3)]).collect();
    pairs.shuffle(&mut random);
    let audit = Audit::of("flynn-host", cluster.hosts().map(Node::of));
    let history = writing(&cluster, |history| {
        for round in 0..repeats().max(pairs.len() + 1) {
            // The one that was cut off may have stood for election, and then deposes the leader when that hears of it.
            let leader = wait_until(PROGRESS, "a leader is known", || raft_leader(Node::of(cluster.host(0)))).unwrap();
            let elected = elections(&cluster);
            // Longer than silent instances live, in a direction that matters.
            let long = round % 20 == 6;
            let with_leader = |(from, to): &&(usize, usize)| {
                [from, to].iter().any(|host| leader.contains(&format!("{}:", cluster.host(**host).ip())))
            };
            let chosen = if long { pairs.iter().filter(with_leader).choose(&mut random) } else { None };
            let (from, to) = *chosen.unwrap_or(&pairs[round % pairs.len()]);
            cluster.cut_one_way(from, to).unwrap();
            let cut = Instant::now();
            let outage =
                wait_until(PROGRESS, "a write is acknowledged", || history.first_after(cut).ok_or("none")).unwrap();
            // More than an election timeout.
            let lasting = if long { EXPIRY } else { Duration::from_secs(2) };
            hold(lasting, "writes go on, nothing is down", || {
                let (recent, downs) = (history.first_after(Instant::now() - PROGRESS), audit.downs());
                if recent.is_some() && downs.is_empty() { Ok(()) } else { Err(format!("{recent:?}, {downs:?}")) }
            })
            .map_err(|err| format!("round {round}, from {from} to {to}, leader was {leader}: {err}"))
            .unwrap();
            let elections = elections(&cluster).difference(&elected).count();
            eprintln!(
                "round {round}: {from} to {to}, leader was {leader}, {elections} elections, first write after {outage:.1?}"
            );
            assert!(elections <= 1, "round {round}: {elections} elections within {:.1?}", cut.elapsed());
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
