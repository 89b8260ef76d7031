//! The life of one job (spec section 7 and 15).

use std::time::Duration;

use flynn_types::host::JobStatus;
use flynn_types::id::HostId;
use uuid::Uuid;

use super::cluster::{Cluster, formation};
use crate::Event;
use crate::world::{FormationKey, Phase};

/// A cluster with one job of `web` on `host1`.
fn with_one_job() -> (Cluster, HostId, Uuid) {
    let mut cluster = Cluster::new(1);
    cluster.put(formation("shop", "r1", &[("web", 1)]));
    cluster.settle();
    let (host, job) = cluster.only("shop", "r1", "web");
    (cluster, host, job)
}

/// The host says again what it said of the job, with another status.
fn say(cluster: &mut Cluster, host: &HostId, job: Uuid, status: JobStatus) {
    let mut report = cluster.hosts[host].jobs[&job].report.clone();
    report.status = status;
    cluster.event(&Event::HostJob { host: host.clone(), report: Box::new(report) });
    cluster.settle();
}

#[test]
fn j1_late_news_never_move_a_job_backwards() {
    let (mut cluster, host, job) = with_one_job();
    say(&mut cluster, &host, job, JobStatus::Starting);
    assert!(matches!(cluster.world().job(job).unwrap().phase, Phase::Running { .. }));
    cluster.crash(&host, job);
    cluster.settle();
    let record = &cluster.controller.jobs[&job];
    assert_eq!(
        (record.host_id.as_str(), record.id.clone()),
        ("host1", format!("host1-{job}")),
        "where it was stays known"
    );
    for status in [JobStatus::Starting, JobStatus::Running, JobStatus::Crashed] {
        say(&mut cluster, &host, job, status);
        assert!(cluster.world().job(job).is_none(), "what ended stays ended");
        assert_eq!(cluster.count("shop", "r1", "web"), 1);
    }
    cluster.check();
}

#[test]
fn j2_running_moves_any_job_but_a_stopping_one() {
    let (mut cluster, host, job) = with_one_job();
    cluster.host("host1").reachable = false; // the stop does not arrive
    cluster.scale("shop", "r1", &[("web", 0)]);
    cluster.settle();
    let report = Box::new(cluster.hosts[&host].jobs[&job].report.clone());
    cluster.event(&Event::HostJob { host, report });
    cluster.settle();
    assert!(matches!(cluster.world().job(job).unwrap().phase, Phase::Stopping { .. }));
}

#[test]
fn j4_jobs_of_others_are_no_business_of_the_scheduler() {
    let mut active = flynn_types::host::ActiveJob::default();
    active.job.id = format!("host1-{}", Uuid::from_u128(1));
    assert!(crate::event::Report::new(&active).is_none(), "no app");
    active.job.metadata.insert("flynn-controller.app".into(), "shop".into());
    active.job.metadata.insert("flynn-controller.release".into(), "r1".into());
    active.job.metadata.insert("colour".into(), "red".into());
    let report = crate::event::Report::new(&active).unwrap();
    assert!(!report.scheduled);
    assert_eq!(report.found.meta.len(), 1, "T21: without internal keys");
    for id in ["host1", "-x", "host1-", "host1-x"] {
        active.job.id = id.into();
        assert!(crate::event::Report::new(&active).is_none(), "{id}");
    }
}

#[test]
fn j5_t4_a_job_of_an_unknown_formation_waits_for_it_to_be_known() {
    let (mut cluster, host, job) = with_one_job();
    // A scheduler that starts while the controller is away knows only what the host says.
    let known = std::mem::take(&mut cluster.controller.formations);
    cluster.controller.down = true;
    cluster.start_scheduler(99);
    cluster.lead(1);
    cluster.run(Duration::from_secs(15));
    assert_eq!(cluster.count("shop", "r1", "web"), 1, "kept");
    cluster.controller.down = false;
    cluster.controller.formations = known;
    cluster.run(Duration::from_secs(5));
    assert_eq!(cluster.only("shop", "r1", "web"), (host, job), "attached, and nothing else started");
    assert!(cluster.world().formation(&FormationKey::new("shop", "r1")).unwrap().known.is_some());
    cluster.check();
}

#[test]
fn j6_t22_one_off_jobs_are_followed_and_never_replaced_or_counted() {
    let (mut cluster, host, job) = with_one_job();
    let mut one_off = cluster.hosts[&host].jobs[&job].clone();
    (one_off.report.uuid, one_off.report.scheduled) = (Uuid::from_u128(5), false);
    one_off.report.kind = String::new();
    let report = Box::new(one_off.report.clone());
    cluster.host("host1").jobs.insert(one_off.report.uuid, one_off);
    cluster.event(&Event::HostJob { host: host.clone(), report });
    cluster.settle();
    assert_eq!(cluster.controller.told.last().unwrap(), " up");
    cluster.crash(&host, Uuid::from_u128(5));
    cluster.run(Duration::from_secs(40));
    assert_eq!(cluster.controller.told.last().unwrap(), " down");
    assert_eq!(cluster.hosts[&host].jobs.len(), 2, "nothing was started for it");
    assert_eq!(cluster.only("shop", "r1", "web"), (host, job));
}

#[test]
fn t3_a_job_too_many_is_stopped_and_it_is_the_one_that_was_added() {
    let (mut cluster, host, job) = with_one_job();
    let mut extra = cluster.hosts[&host].jobs[&job].clone();
    extra.report.uuid = Uuid::from_u128(5);
    extra.report.created = cluster.now;
    let report = Box::new(extra.report.clone());
    cluster.host("host1").jobs.insert(extra.report.uuid, extra);
    cluster.event(&Event::HostJob { host: host.clone(), report });
    cluster.settle();
    assert_eq!(cluster.only("shop", "r1", "web"), (host, job));
}

#[test]
fn j7_t12_a_start_that_succeeds_late_elsewhere_is_undone() {
    let mut cluster = Cluster::new(2);
    cluster.host("host1").reachable = false;
    cluster.put(formation("shop", "r1", &[("web", 1)]));
    cluster.run(Duration::from_secs(12));
    let (host, job) = cluster.only("shop", "r1", "web");
    assert_eq!(host.as_str(), "host2", "the first host did not answer");
    // It got the request after all.
    let mut late = cluster.hosts[&host].jobs[&job].clone();
    late.report.created = cluster.now;
    cluster.host("host1").jobs.insert(job, late);
    cluster.host("host1").reachable = true;
    cluster.run(Duration::from_secs(40));
    assert_eq!(cluster.only("shop", "r1", "web"), (host, job));
}

#[test]
fn j13_t13_the_controller_hears_of_states_in_their_order() {
    let mut cluster = Cluster::new(1);
    cluster.latency = 200;
    cluster.put(formation("shop", "r1", &[("web", 1)]));
    cluster.run(Duration::from_secs(5));
    let (host, job) = cluster.only("shop", "r1", "web");
    cluster.crash(&host, job);
    cluster.run(Duration::from_secs(5));
    let records = &cluster.controller.jobs;
    assert_eq!(records[&job].state.unwrap().as_str(), "down");
    assert_eq!((records[&job].exit_status, records.len()), (Some(1), 2));
}

#[test]
fn j17_j18_what_was_missed_shows_at_the_next_listing() {
    let (mut cluster, host, job) = with_one_job();
    cluster.host("host1").deaf.insert(0);
    cluster.crash(&host, job);
    cluster.settle();
    assert_eq!(cluster.count("shop", "r1", "web"), 0, "the event is lost");
    cluster.run(Duration::from_secs(31));
    let (_, next) = cluster.only("shop", "r1", "web");
    assert_eq!(cluster.controller.jobs[&job].exit_status, Some(1), "the host was asked for the job itself");
    assert_ne!(next, job);
    // A host that has never heard of a job ends it, too.
    cluster.host("host1").jobs.clear();
    cluster.run(Duration::from_secs(31));
    let (_, last) = cluster.only("shop", "r1", "web");
    assert_ne!(last, next);
    assert_eq!(cluster.controller.jobs[&next].host_error.as_deref(), Some("host host1 does not know it any more"));
    cluster.check();
}

/// The controller has a record like that of `job`, of one that nobody has.
fn add_orphan(cluster: &mut Cluster, job: Uuid) -> Uuid {
    let mut orphan = cluster.controller.jobs[&job].clone();
    let uuid = Uuid::from_u128(5);
    orphan.uuid = uuid.to_string();
    cluster.controller.jobs.insert(uuid, orphan);
    uuid
}

#[test]
fn j19_records_of_jobs_that_nobody_has_are_set_to_down_and_wrong_ones_are_written_again() {
    let (mut cluster, _, job) = with_one_job();
    let orphan = add_orphan(&mut cluster, job);
    cluster.controller.jobs.get_mut(&job).unwrap().state = Some(flynn_types::controller::JobState::Pending);
    cluster.run(Duration::from_secs(31));
    let state = |uuid| cluster.controller.jobs[&uuid].state.unwrap().as_str();
    assert_eq!((state(orphan), state(job)), ("down", "up"));
}

#[test]
fn j19_a_scheduler_that_takes_over_compares_at_once() {
    let (mut cluster, _, job) = with_one_job();
    let orphan = add_orphan(&mut cluster, job);
    cluster.start_scheduler(7);
    cluster.lead(1);
    cluster.run(Duration::from_secs(5));
    assert_eq!(cluster.controller.jobs[&orphan].state.unwrap().as_str(), "down");
}

#[test]
fn j20_a_job_that_the_controller_lost_is_written_again_and_a_stop_is_asked_for_again() {
    let (mut cluster, _, job) = with_one_job();
    cluster.controller.jobs.clear();
    cluster.run(Duration::from_secs(31));
    assert!(cluster.controller.jobs.contains_key(&job));
    cluster.host("host1").reachable = false;
    cluster.scale("shop", "r1", &[("web", 0)]);
    cluster.run(Duration::from_secs(12));
    cluster.host("host1").reachable = true;
    cluster.run(Duration::from_secs(35));
    assert_eq!(cluster.count("shop", "r1", "web"), 0);
}

#[test]
fn j22_j24_t24_quick_exits_are_restarted_at_once_five_times_then_later() {
    let (mut cluster, _, _) = with_one_job();
    for restarts in 1..=5 {
        let (host, job) = cluster.only("shop", "r1", "web");
        cluster.end_job(&host, job, 0); // exit 0 included
        cluster.settle();
        let (_, next) = cluster.only("shop", "r1", "web");
        assert_eq!(cluster.world().job(next).unwrap().restarts, restarts);
    }
    for (pause, times) in [(10, 10), (30, 3)] {
        for _ in 0..times {
            let (host, job) = cluster.only("shop", "r1", "web");
            cluster.crash(&host, job);
            cluster.run(Duration::from_millis(pause * 1000 - 300));
            assert_eq!(cluster.count("shop", "r1", "web"), 0);
            let expected = format!(
                "it ended too often in short time, the next start is {pause} s later; last time: exit status 1"
            );
            assert_eq!(cluster.reasons(), [expected]);
            cluster.run(Duration::from_millis(600));
            assert_eq!(cluster.count("shop", "r1", "web"), 1);
        }
    }
    cluster.check();
}

#[test]
fn j23_a_job_that_ran_for_five_minutes_counts_as_a_first_one() {
    let (mut cluster, _, _) = with_one_job();
    for _ in 0..4 {
        let (host, job) = cluster.only("shop", "r1", "web");
        cluster.crash(&host, job);
        cluster.settle();
    }
    cluster.run(Duration::from_secs(301));
    let (host, job) = cluster.only("shop", "r1", "web");
    cluster.crash(&host, job);
    cluster.settle();
    let (_, next) = cluster.only("shop", "r1", "web");
    assert_eq!(cluster.world().job(next).unwrap().restarts, 1);
}

#[test]
fn j26_t9_w16_the_least_missed_jobs_are_stopped_first() {
    let mut cluster = Cluster::new(1);
    cluster.put(formation("shop", "r1", &[("web", 2)]));
    cluster.settle();
    cluster.host("host1").slow = true;
    cluster.scale("shop", "r1", &[("web", 3)]);
    cluster.settle();
    cluster.host("host1").refuses = Some("no".into());
    cluster.scale("shop", "r1", &[("web", 5)]);
    cluster.settle();
    let states = |cluster: &Cluster| {
        let mut states: Vec<_> = cluster.world().jobs().map(|job| job.state().as_str()).collect();
        states.sort_unstable();
        states.join(" ")
    };
    assert_eq!(states(&cluster), "pending pending starting up up");
    let oldest = cluster.world().jobs().min_by_key(|job| job.age()).unwrap().uuid;
    for (count, left) in [(4, "pending starting up up"), (3, "starting up up"), (2, "up up"), (1, "up")] {
        cluster.scale("shop", "r1", &[("web", count)]);
        cluster.settle();
        assert_eq!(states(&cluster), left);
    }
    assert_eq!(cluster.only("shop", "r1", "web").1, oldest, "of equals the newest go");
    cluster.scale("shop", "r1", &[("web", 0)]);
    cluster.settle();
    assert_eq!(states(&cluster), "");
}

#[test]
fn j27_a_pending_job_without_a_host_is_cancelled_without_a_call() {
    let mut cluster = Cluster::new(0);
    cluster.put(formation("shop", "r1", &[("web", 1)]));
    cluster.settle();
    assert_eq!(cluster.reasons(), ["the cluster has no host that runs jobs"]);
    cluster.scale("shop", "r1", &[("web", 0)]);
    cluster.settle();
    assert_eq!(cluster.controller.told, ["web blocked", "web down", "scale complete"]);
}

#[test]
fn j29_a_replacement_may_start_while_the_old_job_stops() {
    let (mut cluster, _, job) = with_one_job();
    cluster.add_host("host2", &[("disk", "ssd")]);
    cluster.host("host1").reachable = false;
    cluster.put(super::cluster::tagged(formation("shop", "r1", &[("web", 1)]), "web", &[("disk", "ssd")]));
    cluster.settle();
    assert!(matches!(cluster.world().job(job).unwrap().phase, Phase::Stopping { .. }));
    assert_eq!(cluster.spread("shop", "r1", "web"), [("host1".into(), 1), ("host2".into(), 1)]);
}
