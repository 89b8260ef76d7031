//! Where jobs go (spec section 8 and 15).

use std::time::Duration;

use flynn_types::resource::{ResourceType, Resources};

use super::cluster::{Cluster, data, formation, omni, tagged, with};
use crate::world::{FormationKey, Needs};

#[test]
fn l6_jobs_of_a_type_are_spread_over_the_hosts() {
    let mut cluster = Cluster::new(3);
    cluster.put(formation("shop", "r1", &[("web", 6), ("worker", 3)]));
    cluster.settle();
    let even = |count| [1, 2, 3].map(|host| (format!("host{host}"), count));
    assert_eq!(cluster.spread("shop", "r1", "web"), even(2));
    assert_eq!(cluster.spread("shop", "r1", "worker"), even(1));
}

#[test]
fn l6_single_jobs_of_many_apps_are_spread_by_what_they_request_and_hosts_have() {
    let mut cluster = Cluster::new(2);
    cluster.add_host("host3", &[]);
    cluster.host("host3").capacity = Needs { memory: 128 << 30, cpu: 32_000 };
    cluster.settle();
    for number in 0..40 {
        cluster.put(formation(&format!("app{number}"), "r1", &[("web", 1)]));
        cluster.settle();
    }
    let jobs = |id: &str| cluster.world().host(&id.parse().unwrap()).unwrap().jobs.len();
    assert_eq!((jobs("host1"), jobs("host2"), jobs("host3")), (10, 10, 20), "host3 is twice as large");
}

#[test]
fn g1_t10_t19_jobs_with_tags_are_even_among_matching_hosts() {
    let mut cluster = Cluster::new(1);
    cluster.add_host("host2", &[("disk", "ssd")]);
    cluster.add_host("host3", &[("disk", "ssd"), ("cpu", "fast")]);
    cluster.settle();
    let ssd: &[(&str, &str)] = &[("disk", "ssd")];
    cluster.put(tagged(formation("a", "r1", &[("web", 4)]), "web", ssd));
    cluster.put(tagged(formation("b", "r1", &[("web", 4)]), "web", &[("disk", "ssd"), ("cpu", "fast")]));
    cluster.put(tagged(formation("c", "r1", &[("web", 1)]), "web", &[("disk", "hdd")]));
    cluster.settle();
    assert_eq!(cluster.spread("a", "r1", "web"), [("host2".into(), 2), ("host3".into(), 2)]);
    assert_eq!(cluster.spread("b", "r1", "web"), [("host3".into(), 4)]);
    assert_eq!(cluster.reasons(), ["no host has tag disk=hdd"], "a value must be equal");
    cluster.check();
}

#[test]
fn g2_g3_t19_jobs_follow_tags_of_hosts_and_wait_when_none_matches() {
    let mut cluster = Cluster::new(1);
    cluster.add_host("host2", &[("disk", "ssd")]);
    cluster.put(tagged(formation("a", "r1", &[("web", 4)]), "web", &[("disk", "ssd")]));
    cluster.settle();
    let tag = |cluster: &mut Cluster, host: &str, on: bool| {
        let tags = &mut cluster.host(host).tags;
        if on {
            drop(tags.insert("disk".into(), "ssd".into()))
        } else {
            drop(tags.remove("disk"))
        }
        cluster.discovery(host);
        cluster.settle();
    };
    assert_eq!(cluster.spread("a", "r1", "web"), [("host2".into(), 4)]);
    tag(&mut cluster, "host1", true);
    tag(&mut cluster, "host2", false);
    assert_eq!(cluster.spread("a", "r1", "web"), [("host1".into(), 4)]);
    tag(&mut cluster, "host1", false);
    assert_eq!(cluster.count("a", "r1", "web"), 0);
    assert_eq!(cluster.reasons(), ["no host has tag disk=ssd"]);
    assert!(cluster.world().jobs().all(|job| job.state().as_str() == "blocked"));
    assert_eq!(cluster.world().jobs().count(), 4);
    tag(&mut cluster, "host2", true);
    assert_eq!(cluster.spread("a", "r1", "web"), [("host2".into(), 4)]);
    cluster.check();
}

#[test]
fn g4_w21_a_tag_that_is_taken_away_from_a_formation_counts() {
    let mut cluster = Cluster::new(1);
    cluster.put(tagged(formation("a", "r1", &[("web", 1)]), "web", &[("disk", "ssd")]));
    cluster.settle();
    assert_eq!(cluster.count("a", "r1", "web"), 0);
    cluster.put(formation("a", "r1", &[("web", 1)]));
    cluster.settle();
    assert_eq!(cluster.count("a", "r1", "web"), 1);
}

#[test]
fn what_no_host_can_hold_says_so() {
    let mut cluster = Cluster::new(2);
    cluster.host("host2").capacity.memory = 32 << 30;
    cluster.run(Duration::from_secs(31));
    let big = with(formation("a", "r1", &[("web", 1)]), "web", |process| {
        process.resources = Resources::parse("memory=100GB").unwrap();
        process.resources.0.get_mut(&ResourceType::Memory).unwrap().request = Some(100 << 30);
    });
    cluster.put(big);
    cluster.settle();
    assert_eq!(cluster.reasons(), ["it requests 100GB of memory, and the largest host, host1, has 64GB"]);
    cluster.add_host("host3", &[]);
    cluster.host("host3").capacity.memory = 200 << 30;
    cluster.settle();
    assert_eq!(cluster.spread("a", "r1", "web"), [("host3".into(), 1)]);
}

#[test]
fn l7_l8_a_host_that_could_not_start_a_job_is_avoided_by_it() {
    let mut cluster = Cluster::new(2);
    cluster.host("host1").refuses = Some("image layer is gone".into());
    cluster.put(formation("a", "r1", &[("web", 4)]));
    cluster.run(Duration::from_secs(3));
    assert_eq!(cluster.spread("a", "r1", "web"), [("host2".into(), 4)]);
    cluster.host("host2").refuses = Some("image layer is gone".into());
    cluster.scale("a", "r1", &[("web", 5)]);
    cluster.run(Duration::from_secs(3));
    let reasons = cluster.reasons();
    assert!(reasons[0].ends_with("could not start it, trying again: image layer is gone"), "{reasons:?}");
    cluster.host("host1").refuses = None;
    cluster.run(Duration::from_secs(35));
    assert_eq!(cluster.count("a", "r1", "web"), 5, "it goes on trying, also on hosts it avoids");
    cluster.check();
}

#[test]
fn w15_a_host_that_did_not_answer_is_the_last_choice_for_other_jobs_too() {
    let mut cluster = Cluster::new(2);
    cluster.host("host1").reachable = false;
    cluster.put(formation("a", "r1", &[("web", 1)]));
    cluster.run(Duration::from_secs(12));
    assert_eq!(cluster.spread("a", "r1", "web"), [("host2".into(), 1)]);
    cluster.put(formation("b", "r1", &[("web", 3)]));
    cluster.settle();
    assert_eq!(cluster.spread("b", "r1", "web"), [("host2".into(), 3)]);
}

#[test]
fn omni_with_tags_is_on_matching_hosts_only() {
    let mut cluster = Cluster::new(1);
    cluster.add_host("host2", &[("disk", "ssd")]);
    cluster.put(tagged(omni(formation("a", "r1", &[("agent", 1)]), "agent"), "agent", &[("disk", "ssd")]));
    cluster.settle();
    assert_eq!(cluster.spread("a", "r1", "agent"), [("host2".into(), 1)]);
    assert!(cluster.reasons().is_empty());
}

/// The volumes of the active jobs of `db`.
fn volumes(cluster: &Cluster, app: &str, release: &str) -> Vec<String> {
    let key = FormationKey::new(app, release);
    let jobs = cluster.hosts.values().flat_map(|host| host.active(&key, "db").map(|job| &host.jobs[&job]));
    let mut ids: Vec<_> = jobs.flat_map(|job| &job.report.volumes).map(|volume| volume.id.clone()).collect();
    ids.sort();
    ids
}

#[test]
fn l3_l9_l10_t29_a_job_that_is_replaced_keeps_its_volume_and_no_two_share_one() {
    let mut cluster = Cluster::new(3);
    cluster.put(data(formation("pg", "r1", &[("db", 3)]), "db"));
    cluster.settle();
    let before = volumes(&cluster, "pg", "r1");
    assert_eq!(before.iter().collect::<std::collections::BTreeSet<_>>().len(), 3);
    let key = FormationKey::new("pg", "r1");
    for host in ["host1", "host2", "host3"] {
        let job = cluster.host(host).active(&key, "db").next().unwrap();
        cluster.crash(&host.parse().unwrap(), job);
        cluster.settle();
        assert_eq!(volumes(&cluster, "pg", "r1"), before);
    }
    let saved = cluster.controller.volumes.values().filter(|volume| volume.job_id.is_some()).count();
    assert_eq!(saved, 3);
    cluster.check();
}

#[test]
fn l4_t17_w9_a_volume_goes_to_other_releases_of_the_app_when_nobody_writes() {
    let mut cluster = Cluster::new(1);
    cluster.put(data(formation("pg", "r1", &[("db", 1)]), "db"));
    cluster.settle();
    let first = volumes(&cluster, "pg", "r1");
    cluster.put(data(formation("pg", "r2", &[("db", 1)]), "db"));
    cluster.put(data(formation("other", "r1", &[("db", 1)]), "db"));
    cluster.settle();
    assert_ne!(volumes(&cluster, "pg", "r2"), first, "the holder runs");
    assert_ne!(volumes(&cluster, "other", "r1"), first, "another app");
    cluster.scale("pg", "r2", &[("db", 0)]);
    cluster.scale("pg", "r1", &[("db", 0)]);
    cluster.settle();
    cluster.put(data(formation("pg", "r3", &[("db", 2)]), "db"));
    cluster.settle();
    let third = volumes(&cluster, "pg", "r3");
    assert!(third.contains(&first[0]), "the holder stopped");
    cluster.check();
}

#[test]
fn l5_data_on_a_host_that_is_gone_is_waited_for() {
    let mut cluster = Cluster::new(2);
    cluster.put(data(formation("pg", "r1", &[("db", 1)]), "db"));
    cluster.settle();
    let (host, job) = cluster.only("pg", "r1", "db");
    let volume = volumes(&cluster, "pg", "r1");
    let now = cluster.now;
    let lost = cluster.host(host.as_str());
    (lost.registered, lost.reachable, lost.silent_since) = (false, false, Some(now));
    lost.power_off();
    cluster.discovery(host.as_str());
    cluster.run(Duration::from_secs(15));
    assert_eq!(cluster.count("pg", "r1", "db"), 0);
    let reasons = cluster.reasons();
    let expected = format!(
        "its volume {} is on {host}, which is not in the cluster; decommission the volume to start without its data",
        volume[0]
    );
    assert_eq!(reasons, [expected]);
    let back = cluster.host(host.as_str());
    (back.registered, back.reachable) = (true, true);
    cluster.discovery(host.as_str());
    cluster.settle();
    assert_eq!(volumes(&cluster, "pg", "r1"), volume);
    assert_ne!(cluster.only("pg", "r1", "db").1, job);
    cluster.check();
}

#[test]
fn l11_t29_a_decommissioned_volume_is_replaced_by_an_empty_one() {
    let mut cluster = Cluster::new(1);
    cluster.put(data(formation("pg", "r1", &[("db", 1)]), "db"));
    cluster.settle();
    let volume = volumes(&cluster, "pg", "r1");
    let mut record = cluster.controller.volumes[&volume[0]].clone();
    record.decommissioned_at = Some(cluster.now.to_wire());
    cluster.event(&crate::Event::Volume(Box::new(record)));
    cluster.settle();
    assert_eq!(volumes(&cluster, "pg", "r1"), volume, "the job that uses it is not disturbed");
    let (host, job) = cluster.only("pg", "r1", "db");
    cluster.crash(&host, job);
    cluster.settle();
    assert_ne!(volumes(&cluster, "pg", "r1"), volume);
}

#[test]
fn l4_volumes_that_go_with_their_job_are_not_reused() {
    let mut cluster = Cluster::new(1);
    let scratch = with(data(formation("pg", "r1", &[("db", 1)]), "db"), "db", |process| {
        process.volumes[0].delete_on_stop = true;
    });
    cluster.put(scratch);
    cluster.settle();
    let volume = volumes(&cluster, "pg", "r1");
    let (host, job) = cluster.only("pg", "r1", "db");
    cluster.crash(&host, job);
    cluster.settle();
    assert_ne!(volumes(&cluster, "pg", "r1"), volume);
}

#[test]
fn w10_a_failed_start_pins_no_volume_to_its_host() {
    let mut cluster = Cluster::new(2);
    cluster.host("host1").refuses = Some("no space left".into());
    cluster.host("host2").refuses = Some("no space left".into());
    cluster.put(data(formation("pg", "r1", &[("db", 1)]), "db"));
    cluster.run(Duration::from_secs(3));
    assert_eq!(cluster.world().volumes().count(), 0);
    cluster.host("host2").refuses = None;
    cluster.run(Duration::from_secs(30));
    assert_eq!(cluster.spread("pg", "r1", "db"), [("host2".into(), 1)]);
}

#[test]
fn w11_a_job_with_several_volumes_goes_where_most_of_its_data_is() {
    let mut cluster = Cluster::new(2);
    let two = |release: &str, count| {
        with(data(formation("pg", release, &[("db", count)]), "db"), "db", |process| {
            process.volumes.push(flynn_types::controller::VolumeReq { path: "/log".into(), delete_on_stop: false });
        })
    };
    cluster.put(two("r1", 2));
    cluster.settle();
    let before = volumes(&cluster, "pg", "r1");
    assert_eq!(before.len(), 4);
    cluster.scale("pg", "r1", &[("db", 0)]);
    cluster.settle();
    cluster.scale("pg", "r1", &[("db", 2)]);
    cluster.settle();
    assert_eq!(volumes(&cluster, "pg", "r1"), before);
    cluster.check();
}
