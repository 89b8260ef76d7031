//! The queue (spec scheduler-and-deployer section 13.1).

use flynn_types::controller::{Deployment, DeploymentStatus};
use serde_json::Value;

use crate::cluster::{Cluster, Scheduler, until};

#[tokio::test]
async fn q3_q4_poisoned_rows_are_tried_later_and_keep_nobody_waiting() {
    let cluster = Cluster::start().await;
    let _scheduler = Scheduler::start(&cluster);
    let (app, _) = cluster.running("app", "one-by-one", &[("web", 1)]).await;
    let release = cluster.release(&app, &["web"]).await;
    // Before the deployment's row, and more than can be worked on at a time.
    let poison = r#"INSERT INTO que_jobs (priority, job_class, args, error_count)
        SELECT 1, class, args::json, errors FROM generate_series(1, 10), (VALUES
            ('nothing known', '[]', 0), ('', 'null', 2147483647), ('deployment', '{}', 0),
            ('deployment', '{"ID":"\u0000"}', 3)) poison (class, args, errors)"#;
    cluster.sql(poison).await;
    let deployment = cluster.deploy(&app, &release).await;
    let _worker = cluster.worker().await;
    assert_eq!(cluster.over(&deployment).await.status, Some(DeploymentStatus::Complete));
    until("all were tried", async || {
        let queue = cluster.queue().await;
        queue.iter().all(|(_, errors, err)| *errors > 0 && err.is_some()).then_some(())
    })
    .await;
    let known = cluster.queue().await;
    assert_eq!(known[0].2.as_deref(), Some(r#"unknown job type: "nothing known""#));
    // 4 s after the first failure, 259 s after the fourth, and never more than a day.
    let mut sql = cluster.database.connect().await;
    let pauses = sqlx::query_as::<_, (i32, f64)>(
        "SELECT error_count, max(extract(epoch FROM run_at - locked_until))::float8 FROM que_jobs
         WHERE priority = 1 GROUP BY 1 ORDER BY 1",
    );
    let pauses = pauses.fetch_all(&mut sql).await.unwrap();
    for (errors, pause) in pauses {
        let expected = (f64::from(errors).powi(4) + 3.0).min(86_400.0);
        assert!((pause - expected).abs() < 0.1, "{pause} s after {errors} failures");
    }
}

#[tokio::test]
async fn k7_what_is_over_is_not_run_again_and_what_is_unknown_is_nothing_to_do() {
    let cluster = Cluster::start().await;
    let scheduler = Scheduler::start(&cluster);
    let (app, _) = cluster.running("app", "one-by-one", &[("web", 1)]).await;
    let release = cluster.release(&app, &["web"]).await;
    let _worker = cluster.worker().await;
    let deployment = cluster.deploy(&app, &release).await;
    cluster.over(&deployment).await;
    let done = scheduler.done(&deployment);
    for id in [deployment.id.as_str(), "00000000-0000-4000-8000-000000000000"] {
        let again = format!(r#"INSERT INTO que_jobs (job_class, args) VALUES ('deployment', '{{"ID":"{id}"}}')"#);
        cluster.sql(&again).await;
    }
    until("the queue is empty of deployments", async || {
        let queue = cluster.queue().await;
        queue.iter().all(|(class, ..)| class != "deployment").then_some(())
    })
    .await;
    assert_eq!(scheduler.done(&deployment), done);
    cluster.over(&deployment).await; // there is one end
}

#[tokio::test]
async fn two_workers_run_each_deployment_once() {
    const APPS: usize = 8;
    let cluster = Cluster::start().await;
    let scheduler = Scheduler::start(&cluster);
    let _workers = (cluster.worker().await, cluster.worker().await);
    let mut deployments = Vec::<Deployment>::new();
    for number in 0..APPS {
        let (app, _) = cluster.running(&format!("app{number}"), "one-by-one", &[("web", 2)]).await;
        let release = cluster.release(&app, &["web"]).await;
        deployments.push(cluster.deploy(&app, &release).await);
    }
    for deployment in deployments {
        assert_eq!(cluster.over(&deployment).await.status, Some(DeploymentStatus::Complete));
        assert_eq!(cluster.requests(&deployment).await, ["new web=1", "old web=1", "new web=2", "old web=0"]);
        let done = scheduler.done(&deployment); // first, what ran before
        assert_eq!(done[2..], ["up new web", "down old web", "up new web", "down old web"]);
    }
}

#[tokio::test]
async fn the_status_is_that_of_the_database() {
    let cluster = Cluster::start().await;
    let worker = cluster.worker().await;
    let status: Value = flynn_http::Client::new(&worker.url).get_json("/.well-known/status").await.expect("healthy");
    assert_eq!((&status["data"]["status"], &status["data"]["version"]), (&"healthy".into(), &"test".into()));
    worker.stop().await;
}
