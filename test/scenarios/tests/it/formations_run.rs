//! What is asked of the controller runs on hosts: a real controller, real schedulers, a real daemon.

use std::collections::BTreeSet;

use flynn_harness::ClusterOptions;
use flynn_scenarios::control::{ControlPlane, is_active};
use flynn_scenarios::{Node, block_on, cluster};
use flynn_types::controller::{Job, JobState};
use serde_json::json;

/// Runs until it is stopped.
const SERVES: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

fn ids(jobs: &[Job]) -> BTreeSet<String> {
    jobs.iter().map(|job| job.uuid.clone()).collect()
}

/// Jobs of the host that are active.
fn on_host(node: Node<'_>) -> BTreeSet<String> {
    let jobs = block_on(node.api().jobs(true)).expect("the host answers");
    jobs.keys().filter_map(|id| Some(id.split_once('-')?.1.to_owned())).collect()
}

#[test]
fn a_formation_is_started_scaled_replaced_and_stopped() {
    let cluster = cluster(ClusterOptions::default()).unwrap();
    let node = Node::of(cluster.host(0));
    let plane = ControlPlane::start(node.host).unwrap();
    let scheduler = plane.scheduler(0).unwrap();
    let shop = plane.deploy("shop", &[("web", SERVES, json!({}))]).unwrap();
    plane.put_formation(&shop, &[("web", 2)]).unwrap();
    let first = plane.wait_up(&shop, "web", 2).unwrap();
    assert_eq!(on_host(node), ids(&first));
    assert!(first.iter().all(|job| job.host_id == "host1" && job.id == format!("host1-{}", job.uuid)));

    // Up, and down again: those that ran before stay.
    let request = plane.scale(&shop, &[("web", 4)]).unwrap();
    plane.wait_scaled(&shop, &request).unwrap();
    let more = plane.wait_up(&shop, "web", 4).unwrap();
    assert!(ids(&more).is_superset(&ids(&first)));
    let request = plane.scale(&shop, &[("web", 2)]).unwrap();
    plane.wait_scaled(&shop, &request).unwrap();
    assert_eq!(ids(&plane.wait_up(&shop, "web", 2).unwrap()), ids(&first));

    // A job that ends is replaced, and told to be down.
    block_on(node.api().stop_job(&first[0].id)).unwrap();
    let second = plane
        .wait_jobs(&shop, "the job that ended is replaced", |jobs| {
            let up: Vec<Job> = jobs.iter().filter(|job| job.state == Some(JobState::Up)).cloned().collect();
            (up.len() == 2 && !ids(&up).contains(&first[0].uuid)).then_some(up)
        })
        .unwrap();
    assert!(ids(&second).contains(&first[1].uuid), "the other one goes on");

    let request = plane.scale(&shop, &[("web", 0)]).unwrap();
    plane.wait_scaled(&shop, &request).unwrap();
    assert!(plane.jobs(&shop).unwrap().iter().all(|job| job.state == Some(JobState::Down)));
    assert_eq!(on_host(node), BTreeSet::new());
    assert!(scheduler.stop().unwrap().success());
    drop(plane);
    cluster.down().unwrap();
}

#[test]
fn jobs_that_crash_are_started_again_at_once_and_then_later() {
    let cluster = cluster(ClusterOptions::default()).unwrap();
    let plane = ControlPlane::start(cluster.host(0)).unwrap();
    let _scheduler = plane.scheduler(0).unwrap();
    let shop = plane.deploy("shop", &[("web", "exit 7", json!({}))]).unwrap();
    plane.put_formation(&shop, &[("web", 1)]).unwrap();
    // One start and five quick restarts; the next one waits, and says why.
    let waiting = plane
        .wait_jobs(&shop, "a restart is delayed", |jobs| {
            let down = jobs.iter().filter(|job| job.state == Some(JobState::Down)).count();
            jobs.iter().find(|job| down == 6 && job.state == Some(JobState::Pending) && job.run_at.is_some()).cloned()
        })
        .unwrap();
    assert_eq!(waiting.restarts, Some(6));
    let why = waiting.host_error.unwrap_or_default();
    assert!(why.contains("10 s later") && why.contains("exit status 7"), "{why}");
    let crashed = plane.jobs(&shop).unwrap().into_iter().filter(|job| job.state == Some(JobState::Down));
    assert!(crashed.map(|job| job.exit_status).all(|status| status == Some(7)));
    plane.put_formation(&shop, &[("web", 0)]).unwrap();
    plane.wait_jobs(&shop, "all are down", |jobs| (!jobs.iter().any(is_active)).then_some(())).unwrap();
    drop(plane);
    cluster.down().unwrap();
}

#[test]
fn a_job_that_cannot_start_says_why() {
    let cluster = cluster(ClusterOptions::default()).unwrap();
    let plane = ControlPlane::start(cluster.host(0)).unwrap();
    let _scheduler = plane.scheduler(0).unwrap();
    let shop = plane.deploy("shop", &[("web", SERVES, json!({}))]).unwrap();
    let wanted = json!({ "new_processes": { "web": 1 }, "new_tags": { "web": { "disk": "ssd" } }, "state": "pending" });
    plane.request(&shop, &wanted).unwrap();
    let waits = |jobs: &[Job]| jobs.first().and_then(|job| job.host_error.clone());
    let why = plane.wait_jobs(&shop, "the job says why it waits", waits).unwrap();
    assert_eq!(why, "no host has tag disk=ssd");
    block_on(Node::of(cluster.host(0)).api().set_tags(&[("disk".to_owned(), "ssd".to_owned())].into())).unwrap();
    plane.wait_up(&shop, "web", 1).unwrap();
    drop(plane);
    cluster.down().unwrap();
}
