//! Hosts that come, fall silent, go and are drained; and who leads (spec sections 6, 7, 9 and 15).

use std::time::Duration;

use super::cluster::{Cluster, data, formation, omni};
use crate::world::{FormationKey, Phase};

fn power_cut(cluster: &mut Cluster, id: &str) {
    let now = cluster.now;
    let host = cluster.host(id);
    host.power_off();
    (host.reachable, host.registered, host.silent_since) = (false, false, Some(now));
    cluster.discovery(id);
}

fn back(cluster: &mut Cluster, id: &str) {
    let host = cluster.host(id);
    (host.reachable, host.registered, host.silent_since) = (true, true, None);
    cluster.discovery(id);
}

#[test]
fn h3_h5_t7_jobs_of_a_lost_host_are_replaced_after_ten_checks_but_not_omni_ones() {
    let mut cluster = Cluster::new(2);
    cluster.put(omni(formation("shop", "r1", &[("web", 2), ("agent", 1)]), "agent"));
    cluster.settle();
    power_cut(&mut cluster, "host1");
    cluster.run(Duration::from_secs(8));
    assert_eq!(cluster.spread("shop", "r1", "web"), [("host2".into(), 1)], "not before");
    cluster.run(Duration::from_secs(5));
    assert_eq!(cluster.spread("shop", "r1", "web"), [("host2".into(), 2)]);
    assert_eq!(cluster.spread("shop", "r1", "agent"), [("host2".into(), 1)]);
    let lost = cluster.controller.jobs.values().filter(|job| job.host_error.is_some());
    let told: Vec<_> = lost.map(|job| job.host_error.clone().unwrap()).collect();
    assert_eq!(told, vec!["host host1 does not answer any more"; 2]);
    cluster.check();
}

#[test]
fn h4_s9_g14_a_host_that_discovery_forgets_and_that_answers_keeps_its_jobs() {
    let mut cluster = Cluster::new(2);
    cluster.put(formation("shop", "r1", &[("web", 2)]));
    cluster.settle();
    let before = cluster.only_ids("shop", "r1", "web");
    for id in ["host1", "host2"] {
        cluster.host(id).registered = false;
        cluster.discovery(id);
    }
    cluster.run(Duration::from_secs(90));
    assert_eq!(cluster.only_ids("shop", "r1", "web"), before, "nothing is moved");
    cluster.scale("shop", "r1", &[("web", 4)]);
    cluster.settle();
    assert_eq!(cluster.count("shop", "r1", "web"), 4, "hosts that answer take jobs");
    cluster.check();
}

#[test]
fn w24_the_last_host_is_never_given_up() {
    for hosts in [1, 3] {
        let mut cluster = Cluster::new(hosts);
        cluster.put(formation("shop", "r1", &[("web", 3)]));
        cluster.settle();
        let before = cluster.only_ids("shop", "r1", "web");
        for number in 1..=hosts {
            let now = cluster.now;
            let host = cluster.host(&format!("host{number}"));
            (host.reachable, host.registered, host.silent_since) = (false, false, Some(now));
            cluster.discovery(&format!("host{number}"));
        }
        cluster.run(Duration::from_secs(60));
        assert_eq!(cluster.world().hosts().count(), hosts, "the scheduler itself may be cut off");
        for number in 1..=hosts {
            back(&mut cluster, &format!("host{number}"));
        }
        cluster.run(Duration::from_secs(60));
        assert_eq!(cluster.only_ids("shop", "r1", "web"), before);
        cluster.check();
    }
}

#[test]
fn h6_g34_a_lost_host_that_returns_with_its_jobs_leads_to_the_wanted_number_again() {
    let mut cluster = Cluster::new(2);
    cluster.put(formation("shop", "r1", &[("web", 2)]));
    cluster.settle();
    let old = cluster.only_ids("shop", "r1", "web");
    let now = cluster.now;
    let host = cluster.host("host1");
    (host.reachable, host.registered, host.silent_since) = (false, false, Some(now)); // its jobs go on
    cluster.discovery("host1");
    cluster.run(Duration::from_secs(15));
    assert_eq!(cluster.count("shop", "r1", "web"), 3, "two wanted, one out of sight");
    back(&mut cluster, "host1");
    cluster.run(Duration::from_secs(2));
    assert_eq!(cluster.only_ids("shop", "r1", "web"), old, "the newest one went");
}

#[test]
fn h2_h3_a_host_that_shuts_down_gets_nothing_new_and_is_gone_with_its_instance() {
    let mut cluster = Cluster::new(2);
    cluster.put(omni(formation("shop", "r1", &[("web", 2), ("agent", 1)]), "agent"));
    cluster.settle();
    cluster.host("host1").shutting_down = true;
    cluster.discovery("host1");
    cluster.settle();
    cluster.scale("shop", "r1", &[("web", 4)]);
    cluster.settle();
    assert_eq!(cluster.spread("shop", "r1", "web"), [("host1".into(), 1), ("host2".into(), 3)]);
    let host = cluster.host("host1");
    host.power_off();
    (host.registered, host.reachable) = (false, false);
    cluster.discovery("host1");
    cluster.settle();
    assert_eq!(cluster.spread("shop", "r1", "web"), [("host2".into(), 4)], "at once");
    assert_eq!(cluster.spread("shop", "r1", "agent"), [("host2".into(), 1)]);
    cluster.check();
}

#[test]
fn a_draining_host_is_emptied_one_by_one_without_fewer_jobs_running() {
    let mut cluster = Cluster::new(3);
    cluster.put(omni(formation("shop", "r1", &[("web", 6), ("agent", 1)]), "agent"));
    cluster.put(data(formation("pg", "r1", &[("db", 3)]), "db"));
    cluster.settle();
    cluster.host("host1").draining = true;
    cluster.discovery("host1");
    for _ in 0..300 {
        cluster.run(Duration::from_millis(100));
        let running =
            cluster.world().jobs().filter(|job| &*job.kind == "web" && matches!(job.phase, Phase::Running { .. }));
        assert!(running.count() >= 6, "never fewer than wanted");
        assert!(cluster.count("shop", "r1", "web") <= 8);
    }
    assert_eq!(cluster.spread("shop", "r1", "web"), [("host2".into(), 3), ("host3".into(), 3)]);
    assert_eq!(cluster.spread("shop", "r1", "agent").len(), 3, "omni jobs stay");
    assert_eq!(cluster.spread("pg", "r1", "db").len(), 3, "data stays where it is");
    // Data that is there can be used there, if its job ends.
    let job = cluster.host("host1").active(&FormationKey::new("pg", "r1"), "db").next().unwrap();
    cluster.crash(&"host1".parse().unwrap(), job);
    cluster.settle();
    assert_eq!(cluster.spread("pg", "r1", "db").len(), 3);
    cluster.check();
}

#[test]
fn a_drain_without_another_host_leaves_jobs_where_they_are() {
    let mut cluster = Cluster::new(1);
    cluster.put(formation("shop", "r1", &[("web", 2)]));
    cluster.settle();
    let before = cluster.only_ids("shop", "r1", "web");
    cluster.host("host1").draining = true;
    cluster.discovery("host1");
    cluster.run(Duration::from_secs(30));
    assert_eq!(cluster.only_ids("shop", "r1", "web"), before);
    cluster.scale("shop", "r1", &[("web", 3)]);
    cluster.settle();
    assert_eq!(cluster.reasons(), ["no host with its tags takes jobs: host1 is draining"]);
    cluster.scale("shop", "r1", &[("web", 0)]);
    cluster.settle();
    assert_eq!(cluster.count("shop", "r1", "web"), 0);
}

#[test]
fn s3_s5_s6_t8_followers_watch_and_do_nothing_until_they_lead() {
    let mut cluster = Cluster::with(1, 2, 3);
    cluster.leader = 9;
    cluster.term += 1;
    for follower in 0..2 {
        cluster.event_to(follower, crate::Event::Leader { ours: false, term: 2 });
    }
    cluster.settle();
    cluster.put(formation("shop", "r1", &[("web", 1)]));
    cluster.run(Duration::from_secs(60));
    assert_eq!(cluster.count("shop", "r1", "web"), 0);
    assert!(cluster.controller.told.is_empty());
    cluster.lead(0);
    cluster.settle();
    assert_eq!(cluster.count("shop", "r1", "web"), 1);
    for scheduler in &cluster.schedulers {
        assert_eq!(scheduler.world.jobs().count(), 1, "both see the job");
    }
    cluster.leader = 9;
    cluster.event_to(0, crate::Event::Leader { ours: false, term: 4 });
    cluster.settle();
    cluster.scale("shop", "r1", &[("web", 2)]);
    cluster.run(Duration::from_secs(5));
    assert_eq!(cluster.count("shop", "r1", "web"), 1);
    cluster.term = 4;
    cluster.lead(1);
    cluster.settle();
    assert_eq!(cluster.count("shop", "r1", "web"), 2);
    cluster.check();
}

#[test]
fn s4_w17_w18_two_leaders_at_once_start_nothing_twice() {
    let mut cluster = Cluster::with(3, 2, 7);
    cluster.latency = 100;
    cluster.put(formation("shop", "r1", &[("web", 3)]));
    cluster.run(Duration::from_millis(40)); // starts are under way
    // The other one leads, and the first does not hear of it.
    cluster.term += 1;
    cluster.leader = 1;
    let term = cluster.term;
    cluster.event_to(1, crate::Event::Leader { ours: true, term });
    cluster.run(Duration::from_secs(5));
    cluster.scale("shop", "r1", &[("web", 5)]);
    cluster.run(Duration::from_secs(40));
    assert_eq!(cluster.count("shop", "r1", "web"), 5);
    assert_eq!(cluster.hosts.values().map(|host| host.jobs.len()).sum::<usize>(), 5, "none was started and stopped");
    assert_eq!(cluster.schedulers[0].world.leading(), None, "a host refused the first one, so it knows");
    cluster.check();
}

#[test]
fn a_new_leader_waits_for_hosts_but_not_for_ever() {
    let mut cluster = Cluster::with(3, 2, 7);
    cluster.put(formation("shop", "r1", &[("web", 3)]));
    cluster.settle();
    cluster.host("host3").reachable = false;
    let job = cluster.host("host1").active(&FormationKey::new("shop", "r1"), "web").next().unwrap();
    cluster.schedulers[0].alive = false;
    cluster.crash(&"host1".parse().unwrap(), job);
    cluster.lead(1);
    cluster.run(Duration::from_secs(9));
    assert_eq!(cluster.count("shop", "r1", "web"), 2, "host3 may run something");
    cluster.run(Duration::from_secs(3));
    assert_eq!(cluster.count("shop", "r1", "web"), 3);
}
