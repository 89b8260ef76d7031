use flynn_types::controller::{App, Deployment, DeploymentStatus, Release};
use serde_json::{Value, json};

use crate::fixture::{Controller, data};

async fn release(controller: &Controller, app: &App, artifacts: &[String]) -> Release {
    let release = json!({ "app_id": app.id, "artifacts": artifacts, "processes": { "web": {} } });
    controller.post("/releases", &release).await.json()
}

async fn kind(controller: &Controller, deployment: &Deployment) -> String {
    let kind = sqlx::query_scalar("SELECT type FROM deployments WHERE deployment_id = $1::uuid").bind(&deployment.id);
    kind.fetch_one(&mut controller.database.connect().await).await.unwrap()
}

#[tokio::test]
async fn d1_to_d6_a_deployment_is_recorded_and_ordered() {
    let controller = Controller::start().await;
    let app = controller.app("shop").await;
    let deploy = async |id: &str| controller.post("/apps/shop/deploy", &json!({ "id": id })).await;
    let first = controller.release(&app, &["web"]).await;
    // D4: nothing runs, so that it is done at once.
    let done: Deployment = deploy(&first.id).await.json();
    assert_eq!((done.status, done.old_release_id.as_str()), (Some(DeploymentStatus::Complete), ""));
    assert!(done.finished_at.is_some() && done.deploy_timeout == 120 && done.strategy == "one-by-one");
    assert_eq!(controller.get("/apps/shop").await.json::<App>().release_id, first.id);
    assert_eq!(kind(&controller, &done).await, "code");
    let formation = json!({ "processes": { "web": 2 }, "tags": { "web": { "ssd": "true" } } });
    controller.put(&format!("/apps/shop/formations/{}", first.id), &formation).await;
    controller
        .post("/apps/shop", &json!({ "strategy": "in-batches", "meta": { "flynn-deploy-batch-size": "3" } }))
        .await;
    // D5: the worker has something to do.
    let second = release(&controller, &app, &first.artifact_ids).await;
    let pending: Deployment = deploy(&second.id).await.json();
    assert_eq!((pending.status, pending.old_release_id.as_str()), (Some(DeploymentStatus::Pending), &*first.id));
    assert_eq!(
        (pending.processes["web"], &*pending.tags["web"]["ssd"], pending.deploy_batch_size),
        (2, "true", Some(3))
    );
    assert_eq!((pending.strategy.as_str(), pending.finished_at), ("in-batches", None));
    assert_eq!(kind(&controller, &pending).await, "config");
    assert_eq!(controller.get("/apps/shop").await.json::<App>().release_id, first.id);
    let mut sql = controller.database.connect().await;
    let jobs: Vec<(String, sqlx::types::Json<Value>)> =
        sqlx::query_as("SELECT job_class, args FROM que_jobs").fetch_all(&mut sql).await.unwrap();
    assert_eq!((jobs.len(), jobs[0].0.as_str(), &jobs[0].1.0), (1, "deployment", &json!({ "ID": pending.id })));
    deploy(&second.id).await.error(400, "Cannot create deploy, there is already one in progress for this app.");
    let events = controller.events("deployment,app_release").await;
    let told: Vec<_> =
        events.iter().map(|event| (event.object_type.unwrap().as_str(), event.object_id.clone())).collect();
    assert_eq!(told, [("app_release", first.id), ("deployment", done.id.clone()), ("deployment", pending.id.clone())]);
    assert_eq!(
        (data(&events[2])["status"].as_str(), data(&events[2])["release"].as_str()),
        (Some("pending"), Some(&*second.id))
    );
    // D6
    assert_eq!(controller.get("/apps/shop/deployments").await.json::<Vec<Deployment>>(), [pending.clone(), done]);
    let insert =
        "INSERT INTO events (object_type, object_id, data) VALUES ('deployment', $1, '{\"status\":\"failed\"}')";
    sqlx::query(insert).bind(&pending.id).execute(&mut sql).await.unwrap();
    let read: Deployment = controller.get(&format!("/deployments/{}", pending.id)).await.json();
    assert_eq!(read.status, Some(DeploymentStatus::Failed));
}

#[tokio::test]
async fn d1_w20_what_cannot_be_deployed_is_refused() {
    let controller = Controller::start().await;
    let (app, other) = (controller.app("shop").await, controller.app("other").await);
    let foreign = release(&controller, &other, &[]).await;
    let own = release(&controller, &app, &[]).await;
    let deploy = async |id: &str| controller.post("/apps/shop/deploy", &json!({ "id": id })).await;
    for wrong in ["x", &foreign.id] {
        deploy(wrong).await.error(400, &format!("could not find release with ID {wrong}"));
    }
    controller.post("/apps/nobody/deploy", &json!({ "id": own.id })).await.not_found();
    controller.get("/deployments/x").await.not_found();
    for size in ["0", "-1", "many"] {
        let app = json!({ "strategy": "in-batches", "meta": { "flynn-deploy-batch-size": size } });
        controller.post("/apps/shop", &app).await;
        let refused = format!("the app's meta flynn-deploy-batch-size is {size:?}, it must be a number of jobs");
        deploy(&own.id).await.error(400, &refused);
    }
}

#[tokio::test]
async fn w6_a_deployment_is_cancelled_while_it_can_be_taken_back() {
    let controller = Controller::start().await;
    let app = controller.app("shop").await;
    let deploy = async |id: &str| controller.post("/apps/shop/deploy", &json!({ "id": id })).await;
    let first = controller.release(&app, &["web"]).await;
    let done: Deployment = deploy(&first.id).await.json();
    let cancel = async |id: &str| controller.delete(&format!("/deployments/{id}")).await;
    cancel(&done.id).await.error(409, &format!("deployment {} is over already: it is complete", done.id));
    for nobody in ["x", "00000000-0000-4000-8000-000000000000"] {
        cancel(nobody).await.not_found();
    }
    controller.put(&format!("/apps/shop/formations/{}", first.id), &json!({ "processes": { "web": 2 } })).await;
    let second = release(&controller, &app, &first.artifact_ids).await;
    let pending: Deployment = deploy(&second.id).await.json();
    // The worker tries it again in a while, but now there is more to do.
    let mut sql = controller.database.connect().await;
    sqlx::query("UPDATE que_jobs SET run_at = now() + interval '1 day'").execute(&mut sql).await.unwrap();
    let pool = sqlx::postgres::PgPoolOptions::new().connect_lazy_with(controller.database.options());
    let mut listener = sqlx::postgres::PgListener::connect_with(&pool).await.unwrap();
    listener.listen("que_jobs").await.unwrap();
    for _ in 0..2 {
        assert_eq!(cancel(&pending.id).await.json::<Deployment>(), pending, "asking again changes nothing");
        let told = tokio::time::timeout(flynn_patience::seconds(30), listener.recv()).await;
        assert_eq!(told.expect("told at once").unwrap().payload(), "deployment");
    }
    let due = "SELECT count(*), bool_and(run_at <= now()) FROM que_jobs";
    let due: (i64, bool) = sqlx::query_as(due).fetch_one(&mut sql).await.unwrap();
    assert_eq!(due, (1, true));
    // A job that is lost is ordered anew.
    sqlx::query("DELETE FROM que_jobs").execute(&mut sql).await.unwrap();
    cancel(&pending.id).await.json::<Deployment>();
    let args: sqlx::types::Json<Value> =
        sqlx::query_scalar("SELECT args FROM que_jobs").fetch_one(&mut sql).await.unwrap();
    assert_eq!(args.0, json!({ "ID": pending.id }));
    // On its behalf, the app gets no release any more.
    let switch = json!({ "id": second.id, "deployment": pending.id });
    let refused = format!("deployment {} is over or to end", pending.id);
    controller.put("/apps/shop/release", &switch).await.error(409, &refused);
    // Who has got its release is not taken back.
    controller.put("/apps/shop/release", &json!({ "id": second.id })).await.json::<Release>();
    let late =
        format!("the app has the release of deployment {} already: deploy the one before to go back", pending.id);
    cancel(&pending.id).await.error(409, &late);
}
