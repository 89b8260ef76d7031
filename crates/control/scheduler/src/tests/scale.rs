//! As many jobs as wanted (spec sections 8, 10 and 15; a test's name begins with the statements it is about).

use super::cluster::{Cluster, critical, formation, omni};
use crate::world::FormationKey;

#[test]
fn t1_one_host_gets_one_job_of_the_app_and_release() {
    let mut cluster = Cluster::new(1);
    cluster.put(formation("shop", "r1", &[("web", 1)]));
    cluster.settle();
    let (host, job) = cluster.only("shop", "r1", "web");
    assert_eq!(host.as_str(), "host1");
    let job = cluster.world().job(job).unwrap();
    assert_eq!((&*job.app, &*job.release, &*job.kind, job.state().as_str()), ("shop", "r1", "web", "up"));
    cluster.check();
}

#[test]
fn t2_counts_go_up_and_down_and_releases_are_apart() {
    let mut cluster = Cluster::new(2);
    cluster.put(formation("shop", "r1", &[("web", 1)]));
    cluster.settle();
    for count in [4, 1, 0, 2] {
        cluster.scale("shop", "r1", &[("web", count)]);
        cluster.settle();
        assert_eq!(cluster.count("shop", "r1", "web"), usize::try_from(count).unwrap());
    }
    cluster.put(formation("shop", "r2", &[("web", 1)]));
    cluster.settle();
    assert_eq!((cluster.count("shop", "r1", "web"), cluster.count("shop", "r2", "web")), (2, 1));
    cluster.check();
}

#[test]
fn t14_t18_differences_of_several_types_are_met_at_once() {
    let mut cluster = Cluster::new(1);
    cluster.put(formation("shop", "r1", &[("printer", 2), ("crasher", 0)]));
    cluster.settle();
    for (printer, crasher) in [(2, 0), (3, 1), (1, 0), (4, 4), (0, 0)] {
        cluster.scale("shop", "r1", &[("printer", printer), ("crasher", crasher)]);
        cluster.settle();
        let found = (cluster.count("shop", "r1", "printer"), cluster.count("shop", "r1", "crasher"));
        assert_eq!(found, (usize::try_from(printer).unwrap(), usize::try_from(crasher).unwrap()));
    }
    cluster.check();
}

#[test]
fn t5_t15_o1_an_omni_type_has_its_count_on_every_host_and_on_later_ones() {
    let mut cluster = Cluster::new(1);
    cluster.put(omni(formation("shop", "r1", &[("web", 2), ("agent", 1)]), "agent"));
    cluster.settle();
    assert_eq!(cluster.spread("shop", "r1", "agent"), [("host1".into(), 1)]);
    cluster.add_host("host2", &[]);
    cluster.settle();
    assert_eq!(cluster.spread("shop", "r1", "agent"), [("host1".into(), 1), ("host2".into(), 1)]);
    assert_eq!(cluster.count("shop", "r1", "web"), 2);
    cluster.scale("shop", "r1", &[("web", 4), ("agent", 2)]);
    cluster.settle();
    assert_eq!(cluster.spread("shop", "r1", "agent"), [("host1".into(), 2), ("host2".into(), 2)]);
    assert_eq!(cluster.count("shop", "r1", "web"), 4);
    cluster.check();
}

#[test]
fn t6_o2_omni_jobs_are_replaced_on_their_host_and_balanced_again() {
    let mut cluster = Cluster::new(2);
    cluster.put(omni(formation("shop", "r1", &[("agent", 1)]), "agent"));
    cluster.settle();
    let even = [("host1".into(), 1), ("host2".into(), 1)];
    let key = FormationKey::new("shop", "r1");
    let victim = cluster.host("host1").active(&key, "agent").next().unwrap();
    cluster.crash(&"host1".parse().unwrap(), victim);
    cluster.settle();
    assert_eq!(cluster.spread("shop", "r1", "agent"), even);
    // One more on host1, made by somebody else, and none on host2.
    let mut extra = cluster.host("host1").jobs.values().find(|job| job.report.status.is_active()).unwrap().clone();
    extra.report.uuid = uuid::Uuid::from_u128(7);
    extra.report.created = cluster.now;
    let report = Box::new(extra.report.clone());
    cluster.host("host1").jobs.insert(extra.report.uuid, extra);
    cluster.event(&crate::Event::HostJob { host: "host1".parse().unwrap(), report });
    let victim = cluster.host("host2").active(&key, "agent").next().unwrap();
    cluster.crash(&"host2".parse().unwrap(), victim);
    cluster.settle();
    assert_eq!(cluster.spread("shop", "r1", "agent"), even);
    assert!(cluster.host("host1").active(&key, "agent").all(|job| job != uuid::Uuid::from_u128(7)), "the newest went");
    cluster.check();
}

#[test]
fn t11_t16_k1_k2_a_critical_app_keeps_its_jobs_until_another_release_runs() {
    let mut cluster = Cluster::new(2);
    cluster.put(critical(formation("pg", "r1", &[("db", 3), ("web", 2)])));
    cluster.settle();
    cluster.scale("pg", "r1", &[("db", 0), ("web", 1)]);
    cluster.settle();
    assert_eq!(cluster.count("pg", "r1", "db"), 3, "refused");
    assert_eq!(cluster.count("pg", "r1", "web"), 1, "2 to 1 does not take the type to zero");
    assert!(cluster.controller.formations[&FormationKey::new("pg", "r1")].pending_scale_request.is_some());
    // One that crashes meanwhile is replaced.
    let key = FormationKey::new("pg", "r1");
    let (host, job) =
        cluster.hosts.values().find_map(|host| Some((host.id.clone(), host.active(&key, "db").next()?))).unwrap();
    cluster.crash(&host, job);
    cluster.settle();
    assert_eq!(cluster.count("pg", "r1", "db"), 3);
    cluster.put(critical(formation("pg", "r2", &[("db", 1)])));
    cluster.settle();
    assert_eq!((cluster.count("pg", "r1", "db"), cluster.count("pg", "r2", "db")), (0, 1));
    assert!(cluster.controller.formations[&key].pending_scale_request.is_none());
    cluster.check();
}

#[test]
fn k3_databases_are_replaced_alone() {
    let mut cluster = Cluster::new(1);
    let mut db = critical(formation("pg", "r1", &[("postgres", 1)]));
    db.release.as_mut().unwrap().env.insert("SIRENIA_PROCESS".into(), "postgres".into());
    cluster.put(db);
    cluster.settle();
    cluster.scale("pg", "r1", &[("postgres", 0)]);
    cluster.settle();
    assert_eq!(cluster.count("pg", "r1", "postgres"), 0);
}

#[test]
fn f3_k4_x4_a_formation_that_is_gone_is_stopped_when_the_controller_says_so() {
    let mut cluster = Cluster::new(1);
    cluster.put(formation("shop", "r1", &[("web", 2)]));
    cluster.put(critical(formation("pg", "r1", &[("db", 1)])));
    cluster.settle();
    let gone = cluster.controller.formations.remove(&FormationKey::new("shop", "r1"));
    let critical = cluster.controller.formations.remove(&FormationKey::new("pg", "r1"));
    assert!(gone.is_some() && critical.is_some());
    cluster.controller.down = true;
    cluster.run(std::time::Duration::from_secs(70));
    assert_eq!(cluster.count("shop", "r1", "web"), 2, "nobody said that it is gone");
    cluster.controller.down = false;
    cluster.run(std::time::Duration::from_secs(70));
    assert_eq!(cluster.count("shop", "r1", "web"), 0);
    assert_eq!(cluster.count("pg", "r1", "db"), 1, "the guard holds here as well");
}

#[test]
fn f1_f2_older_news_of_a_formation_change_nothing() {
    let mut cluster = Cluster::new(1);
    cluster.put(formation("shop", "r1", &[("web", 1)]));
    let old = cluster.controller.formations.values().next().unwrap().clone();
    cluster.scale("shop", "r1", &[("web", 3)]);
    cluster.settle();
    cluster.event(&crate::Event::Formation(Box::new(old)));
    cluster.settle();
    assert_eq!(cluster.count("shop", "r1", "web"), 3);
}

#[test]
fn f6_j3_a_job_is_known_to_the_controller_in_every_state_once() {
    let mut cluster = Cluster::new(1);
    cluster.put(formation("shop", "r1", &[("web", 1)]));
    cluster.settle();
    assert_eq!(cluster.controller.told, ["web pending", "web starting", "web up", "scale complete"]);
    cluster.scale("shop", "r1", &[("web", 0)]);
    cluster.settle();
    assert_eq!(cluster.controller.told[4..], ["web stopping", "web down", "scale complete"]);
}

#[test]
fn p6_p7_j14_a_scale_is_complete_after_all_jobs_are_told() {
    let mut cluster = Cluster::new(2);
    cluster.latency = 50;
    cluster.put(formation("shop", "r1", &[("web", 5)]));
    cluster.run(std::time::Duration::from_secs(3));
    let told = &cluster.controller.told;
    assert_eq!(told.last().unwrap(), "scale complete");
    assert_eq!(told.iter().filter(|line| *line == "web up").count(), 5);
    cluster.scale("shop", "r1", &[("web", 1)]);
    cluster.run(std::time::Duration::from_secs(3));
    let told = &cluster.controller.told;
    assert_eq!(told.last().unwrap(), "scale complete");
    assert_eq!(told.iter().filter(|line| *line == "web down").count(), 4, "stopping ones count as running");
    assert_eq!(told.iter().filter(|line| *line == "scale complete").count(), 2);
}

#[test]
fn p8_w32_a_write_that_fails_is_repeated() {
    let mut cluster = Cluster::new(1);
    cluster.controller.down = true;
    cluster.put(formation("shop", "r1", &[("web", 1)]));
    cluster.run(std::time::Duration::from_secs(20));
    assert_eq!(cluster.count("shop", "r1", "web"), 1, "a job starts without the controller");
    assert!(cluster.controller.told.is_empty());
    cluster.controller.down = false;
    cluster.run(std::time::Duration::from_secs(20));
    assert_eq!(cluster.controller.told, ["web up", "scale complete"]);
}
