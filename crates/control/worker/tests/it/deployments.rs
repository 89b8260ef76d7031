//! Deployments by strategy (spec scheduler-and-deployer section 15, T30 to T36), and what their clients see.

use std::collections::BTreeMap;
use std::sync::Arc;

use flynn_types::controller::{App, DeploymentStatus};
use serde_json::json;

use crate::cluster::{Cluster, Scheduler, What};

/// Deploys a second release and gives what the scheduler did.
async fn deployed(strategy: &str, count: i64, settings: serde_json::Value) -> Vec<String> {
    let cluster = Cluster::start().await;
    let scheduler = Scheduler::start(&cluster);
    let _worker = cluster.worker().await;
    let (app, first) = cluster.running("printer", strategy, &[("printer", count)]).await;
    let _: App = cluster.send(http::Method::POST, "/apps/printer", &settings).await;
    scheduler.forget();
    let second = cluster.release(&app, &["printer"]).await;
    let deployment = cluster.deploy(&app, &second).await;
    let end = cluster.over(&deployment).await;
    assert_eq!((end.status, end.error.as_str()), (Some(DeploymentStatus::Complete), ""));
    assert_eq!(
        (end.release_id, end.app_id, end.deployment_id),
        (second.id.clone(), app.id.clone(), deployment.id.clone())
    );
    assert_eq!(cluster.get::<App>("/apps/printer").await.release_id, second.id);
    assert_eq!(cluster.counts(&app, &second).await, Some(BTreeMap::from([("printer".to_owned(), count)])));
    assert_eq!(cluster.counts(&app, &first).await, Some(BTreeMap::from([("printer".to_owned(), 0)])));
    let expected = usize::try_from(count).expect("small") * 2;
    crate::cluster::until("old jobs are down", async || (scheduler.done(&deployment).len() == expected).then_some(()))
        .await;
    scheduler.done(&deployment)
}

const UP: &str = "up new printer";
const DOWN: &str = "down old printer";

#[tokio::test]
async fn t30_one_by_one() {
    assert_eq!(deployed("one-by-one", 2, json!({})).await, [UP, DOWN, UP, DOWN]);
}

#[tokio::test]
async fn t32_in_batches() {
    let settings = json!({ "meta": { "flynn-deploy-batch-size": "2" } });
    assert_eq!(deployed("in-batches", 4, settings).await, [UP, UP, DOWN, DOWN, UP, UP, DOWN, DOWN]);
}

#[tokio::test]
async fn t33_one_down_one_up() {
    assert_eq!(deployed("one-down-one-up", 2, json!({})).await, [DOWN, UP, DOWN, UP]);
}

#[tokio::test]
async fn t34_all_at_once() {
    assert_eq!(deployed("all-at-once", 2, json!({})).await, [UP, UP, DOWN, DOWN]);
}

/// Deploys a release whose jobs have this fate, and gives the error; nothing is left of it.
async fn failed(what: What, timeout: i32) -> String {
    let cluster = Cluster::start().await;
    let first = Arc::new(std::sync::OnceLock::<String>::new());
    let fate = {
        let first = Arc::clone(&first);
        Arc::new(
            move |release: &str, _: &_| {
                if first.get_or_init(|| release.to_owned()) == release { What::Up } else { what.clone() }
            },
        )
    };
    let scheduler = Scheduler::with_fate(&cluster, fate);
    let _worker = cluster.worker().await;
    let (app, old) = cluster.running("printer", "one-by-one", &[("printer", 2)]).await;
    let _: App = cluster.send(http::Method::POST, "/apps/printer", &json!({ "deploy_timeout": timeout })).await;
    let bad = cluster.release(&app, &["printer"]).await;
    let deployment = cluster.deploy(&app, &bad).await;
    let end = cluster.over(&deployment).await;
    assert_eq!((end.status, &end.release_id), (Some(DeploymentStatus::Failed), &bad.id));
    // B3
    assert_eq!(cluster.get::<App>("/apps/printer").await.release_id, old.id);
    assert_eq!(cluster.counts(&app, &old).await, Some(BTreeMap::from([("printer".to_owned(), 2)])));
    assert_eq!(cluster.counts(&app, &bad).await, None);
    assert!(!scheduler.done(&deployment).iter().any(|done| done == DOWN), "an old job was stopped");
    let again = cluster.deploy(&app, &bad).await;
    assert_eq!(again.status, Some(DeploymentStatus::Pending));
    cluster.over(&again).await;
    end.error
}

#[tokio::test]
async fn t35_a_command_that_does_not_exist_is_rolled_back_and_named() {
    let host = r#"exec: "this-is-gonna-fail": executable file not found in $PATH"#;
    let error = failed(What::Down(Some(host.to_owned())), 120).await;
    assert_eq!(error, format!("printer job failed to start: {host}"));
}

#[tokio::test]
async fn t36_jobs_that_do_not_stay_up_are_rolled_back_and_a_new_deployment_can_be_made() {
    let error = failed(What::Down(None), 120).await;
    let (first, rest) = error.split_once('\n').expect("the reason, and what is known of the job");
    assert_eq!(first, "printer job failed to start: got down job event");
    assert!(rest.starts_with("job host-") && rest.ends_with("exited with status 1"), "{rest}");
}

#[tokio::test]
async fn d14_what_does_not_come_up_in_time_is_rolled_back_with_what_it_waits_for() {
    let error = failed(What::Pending("no host has the tag disk=ssd".to_owned()), 5).await;
    let expected = "timed out waiting for scale to complete (waited 5 seconds)\n\
                    a printer job is pending: no host has the tag disk=ssd";
    assert_eq!(error, expected);
}
