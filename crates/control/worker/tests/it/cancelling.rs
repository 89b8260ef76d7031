//! Deployments that somebody wants to end (W5), at any of their steps.

use std::collections::BTreeMap;

use flynn_types::controller::{App, Deployment, DeploymentStatus, Release};
use serde_json::Value;

use crate::cluster::{Cluster, Scheduler, until};

/// What a deployment of two jobs by `one-by-one` asks of the scheduler.
const STEPS: [&str; 4] = ["new web=1", "old web=1", "new web=2", "old web=0"];
const RESTORES: &str = "old web=2";

struct Held {
    app: App,
    old: Release,
    new: Release,
    deployment: Deployment,
}

/// A deployment that is to be at a step, of which the scheduler has done nothing yet.
async fn held(cluster: &Cluster, scheduler: &Scheduler, name: &str, step: usize) -> Held {
    let (app, old) = cluster.running(name, "one-by-one", &[("web", 2)]).await;
    scheduler.hold();
    let new = cluster.release(&app, &["web"]).await;
    let deployment = cluster.deploy(&app, &new).await;
    for done in 1..step {
        asked(cluster, &deployment, done).await;
        scheduler.allow(2); // a request, and its end
    }
    asked(cluster, &deployment, step).await;
    Held { app, old, new, deployment }
}

async fn asked(cluster: &Cluster, deployment: &Deployment, number: usize) {
    until("the next step is asked for", async || (cluster.requests(deployment).await.len() >= number).then_some(()))
        .await;
}

async fn cancel(cluster: &Cluster, deployment: &Deployment) {
    let asked = cluster.controller().cancel_deployment(&deployment.id).await;
    assert!(asked.expect("cancelled"), "there is such a deployment");
}

/// All is as it was before, and told so.
async fn is_back(cluster: &Cluster, held: &Held) {
    let end = cluster.over(&held.deployment).await;
    assert_eq!((end.status, end.error.as_str()), (Some(DeploymentStatus::Failed), "deployment cancelled"));
    assert_eq!(cluster.get::<App>(&format!("/apps/{}", held.app.id)).await.release_id, held.old.id);
    assert_eq!(cluster.counts(&held.app, &held.old).await, Some(BTreeMap::from([("web".to_owned(), 2)])));
    assert_eq!(cluster.counts(&held.app, &held.new).await, None);
    let read: Deployment = cluster.get(&format!("/deployments/{}", held.deployment.id)).await;
    assert!(read.finished_at.is_some() && read.status == Some(DeploymentStatus::Failed));
    let queue = cluster.queue().await;
    assert!(queue.iter().all(|(class, ..)| class != "deployment"), "{queue:?}");
}

#[tokio::test]
async fn w5_a_deployment_is_cancelled_at_any_step() {
    let cluster = Cluster::start().await;
    let scheduler = Scheduler::start(&cluster);
    let _worker = cluster.worker().await;
    for step in 1..=STEPS.len() {
        let held = held(&cluster, &scheduler, &format!("app{step}"), step).await;
        cancel(&cluster, &held.deployment).await;
        // The worker hears of it at once, and not when the scheduler has done its step.
        asked(&cluster, &held.deployment, step + 1).await;
        scheduler.allow(1000);
        is_back(&cluster, &held).await;
        let requests = cluster.requests(&held.deployment).await;
        assert_eq!(requests[..step], STEPS[..step]);
        assert_eq!(requests[step], RESTORES);
        let again = cluster.deploy(&held.app, &held.new).await;
        assert_eq!(cluster.over(&again).await.status, Some(DeploymentStatus::Complete), "a new one can be made");
    }
}

#[tokio::test]
async fn w5_a_worker_that_is_killed_while_it_takes_a_deployment_back_leaves_that_to_the_next() {
    let cluster = Cluster::start().await;
    let scheduler = Scheduler::start(&cluster);
    let worker = cluster.worker().await;
    let held = held(&cluster, &scheduler, "app", 3).await;
    cancel(&cluster, &held.deployment).await;
    asked(&cluster, &held.deployment, 4).await; // it wants the old jobs back
    worker.kill().await;
    let worker = cluster.worker().await;
    asked(&cluster, &held.deployment, 5).await; // so does the next: at worst it asks again for what there is
    worker.kill().await;
    scheduler.allow(1000);
    let _worker = cluster.worker().await;
    is_back(&cluster, &held).await;
    let requests = cluster.requests(&held.deployment).await;
    assert_eq!(requests[..3], STEPS[..3]);
    assert!(
        requests[3..].iter().all(|request| request == RESTORES || request.starts_with("new web=0")),
        "{requests:?}"
    );
}

#[tokio::test]
async fn w5_what_no_worker_has_taken_yet_or_waits_to_be_tried_again_is_cancelled_too() {
    let cluster = Cluster::start().await;
    let scheduler = Scheduler::start(&cluster);
    let (app, old) = cluster.running("app", "one-by-one", &[("web", 2)]).await;
    let new = cluster.release(&app, &["web"]).await;
    let deployment = cluster.deploy(&app, &new).await;
    cluster.sql("UPDATE que_jobs SET run_at = now() + interval '1 hour', error_count = 3").await;
    let held = Held { app, old, new, deployment };
    cancel(&cluster, &held.deployment).await;
    let _worker = cluster.worker().await;
    is_back(&cluster, &held).await;
    assert!(scheduler.done(&held.deployment).iter().all(|done| !done.contains("down old")), "nothing was touched");
    let late = cluster.http.send(http::Method::DELETE, &format!("/deployments/{}", held.deployment.id)).await;
    let refused = late.expect_err("it is over").to_string();
    assert!(refused.contains("is over already: it is failed"), "{refused}");
    cluster.get::<Vec<Value>>("/apps").await;
}
