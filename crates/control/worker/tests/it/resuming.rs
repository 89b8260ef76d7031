//! Deployments that go on although workers, connections or the database's server do not.

use flynn_types::controller::{App, Deployment, DeploymentStatus, Release};

use crate::cluster::{Cluster, Scheduler, until};

const STEPS: [&str; 4] = ["new web=1", "old web=1", "new web=2", "old web=0"];

/// A deployment of two jobs, of which the scheduler has done nothing yet.
async fn held(cluster: &Cluster, scheduler: &Scheduler) -> (App, Release, Deployment) {
    let (app, _) = cluster.running("app", "one-by-one", &[("web", 2)]).await;
    scheduler.hold();
    let release = cluster.release(&app, &["web"]).await;
    let deployment = cluster.deploy(&app, &release).await;
    (app, release, deployment)
}

async fn steps(cluster: &Cluster, deployment: &Deployment, number: usize) {
    until("the next step is asked for", async || (cluster.requests(deployment).await.len() >= number).then_some(()))
        .await;
}

#[tokio::test]
async fn d13_a_worker_that_is_told_to_end_leaves_its_deployment_to_the_next() {
    let cluster = Cluster::start().await;
    let scheduler = Scheduler::start(&cluster);
    let (_, _, deployment) = held(&cluster, &scheduler).await;
    for number in 1..=STEPS.len() {
        let worker = cluster.worker().await;
        steps(&cluster, &deployment, number).await;
        worker.stop().await;
        assert_eq!(cluster.queue().await, [("deployment".to_owned(), 0, None)], "given back, and not as a failure");
        scheduler.allow(2); // a request, and its end
    }
    let _worker = cluster.worker().await;
    assert_eq!(cluster.over(&deployment).await.status, Some(DeploymentStatus::Complete));
    assert_eq!(cluster.requests(&deployment).await, STEPS);
}

#[tokio::test]
async fn q2_a_worker_that_is_killed_at_any_step_costs_no_step_and_repeats_none() {
    let cluster = Cluster::start().await;
    let scheduler = Scheduler::start(&cluster);
    let (_, _, deployment) = held(&cluster, &scheduler).await;
    for number in 1..=STEPS.len() {
        let worker = cluster.worker().await;
        steps(&cluster, &deployment, number).await;
        worker.kill().await;
        scheduler.allow(2);
    }
    let _worker = cluster.worker().await;
    assert_eq!(cluster.over(&deployment).await.status, Some(DeploymentStatus::Complete));
    assert_eq!(cluster.requests(&deployment).await, STEPS);
}

#[tokio::test]
async fn r12_connections_that_are_cut_at_every_step_cost_no_step_and_repeat_none() {
    let cluster = Cluster::start().await;
    let scheduler = Scheduler::start(&cluster);
    let _worker = cluster.worker().await;
    let (_, _, deployment) = held(&cluster, &scheduler).await;
    for number in 1..=STEPS.len() {
        steps(&cluster, &deployment, number).await;
        cluster.database.cut_connections().await;
        scheduler.allow(2);
        cluster.database.cut_connections().await;
    }
    scheduler.allow(100); // the controller's stream began anew
    assert_eq!(cluster.over(&deployment).await.status, Some(DeploymentStatus::Complete));
    assert_eq!(cluster.requests(&deployment).await, STEPS);
}
