use flynn_types::controller::{Job, JobState};
use serde_json::{Value, json};

use crate::fixture::{Controller, data};

const JOB: &str = "11111111-0d4b-4b7c-8d0f-3c1b7e0a1d11";
const VOLUME: &str = "22222222-0d4b-4b7c-8d0f-3c1b7e0a1d11";

#[tokio::test]
async fn j1_to_j6_the_scheduler_records_jobs() {
    let controller = Controller::start().await;
    let app = controller.app("shop").await;
    let release = controller.release(&app, &["web"]).await;
    controller.app("other").await;
    let mut sql = controller.database.connect().await;
    let insert = "INSERT INTO volumes (volume_id, host_id, type, state) VALUES ($1::uuid, 'host1', 'data', 'created')";
    sqlx::query(insert).bind(VOLUME).execute(&mut sql).await.unwrap();
    let put = async |fields: Value| {
        let mut job = json!({ "uuid": JOB, "app": app.id, "release": release.id, "type": "web", "args": ["a"], "meta": { "k": "v" } });
        job.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        controller.put("/apps/shop/jobs/ignored", &job).await
    };
    for state in ["pending", "blocked"] {
        let job: Job = put(json!({ "state": state })).await.json();
        assert_eq!((job.id.as_str(), job.state.unwrap().as_str(), job.volume_ids.len()), ("", state, 0));
    }
    let id = format!("host1-{JOB}");
    let up = json!({ "id": id, "host_id": "host1", "state": "up", "volumes": [VOLUME], "restarts": 2, "meta": { "k": "other" } });
    let job: Job = put(up.clone()).await.json();
    assert_eq!((&job.id, job.host_id.as_str(), job.restarts, &*job.meta["k"]), (&id, "host1", Some(2), "v"));
    assert_eq!(job.volume_ids, [VOLUME]);
    put(up).await;
    for reference in [JOB, &id] {
        assert_eq!(controller.get(&format!("/apps/shop/jobs/{reference}")).await.json::<Job>().uuid, JOB);
    }
    controller.get(&format!("/apps/other/jobs/{JOB}")).await.not_found();
    controller.get("/apps/shop/jobs/x").await.not_found();
    assert_eq!(controller.get("/active-jobs").await.json::<Vec<Job>>().len(), 1);
    let down: Job = put(json!({ "id": id, "state": "down", "exit_status": 7, "host_error": "why" })).await.json();
    assert_eq!(
        (down.state, down.exit_status, down.host_error.as_deref()),
        (Some(JobState::Down), Some(7), Some("why"))
    );
    // J4: a late word of an earlier state.
    put(json!({ "state": "up" })).await.error(409, &format!("job {JOB} is down and cannot be up again"));
    assert!(controller.get("/active-jobs").await.json::<Vec<Job>>().is_empty());
    assert_eq!(controller.get("/apps/shop/jobs").await.json::<Vec<Job>>(), [down]);
    // J3
    let states: Vec<_> = controller.events("job").await.iter().map(|event| data(event)["state"].clone()).collect();
    assert_eq!(states, ["pending", "blocked", "up", "down"]);
}

#[tokio::test]
async fn j2_t21_jobs_of_nothing_are_refused() {
    let controller = Controller::start().await;
    let app = controller.app("shop").await;
    let release = controller.release(&app, &["web"]).await;
    let put = async |field: &str, value: &str| {
        let mut job = json!({ "uuid": JOB, "app": app.id, "release": release.id, "state": "up" });
        job[field] = json!(value);
        controller.put("/apps/shop/jobs/x", &job).await
    };
    for field in ["app", "release"] {
        put(field, VOLUME).await.error(400, &format!("{field} names what does not exist"));
    }
    put("uuid", "x").await.error(400, "uuid must be a UUID, not \"x\"");
    let states = "state Enum error. The data must be equal to one of these values [pending blocked starting up stopping down crashed failed].";
    put("state", "gone").await.error(400, states);
    let job = json!({ "uuid": JOB, "app": app.id, "release": release.id, "state": "up", "volumes": [VOLUME] });
    controller.put("/apps/shop/jobs/x", &job).await.error(400, "volumes names what does not exist");
}

#[tokio::test]
async fn j7_j8_what_cannot_be_killed_or_run_is_refused() {
    let controller = Controller::start().await;
    let app = controller.app("shop").await;
    let release = controller.release(&app, &["web"]).await;
    let job = json!({ "uuid": JOB, "app": app.id, "release": release.id, "state": "pending" });
    controller.put("/apps/shop/jobs/x", &job).await;
    controller.delete("/apps/shop/jobs/x").await.not_found();
    let unplaced = "cannot kill a job which has not been placed on a host";
    controller.delete(&format!("/apps/shop/jobs/{JOB}")).await.error(400, unplaced);
    let run = async |job: Value| controller.post("/apps/shop/jobs", &job).await;
    run(json!({ "release": JOB })).await.not_found();
    run(json!({ "release": "x" })).await.not_found();
    let required = r#"Required error. The data must be an object with "release" as one of its keys"#;
    run(json!({})).await.error(400, required);
    let empty: flynn_types::controller::Release =
        controller.post("/releases", &json!({ "app_id": app.id })).await.json();
    run(json!({ "release": empty.id })).await.error(400, "release.ArtifactIDs cannot be empty");
    let partition = "partition Enum error. The data must be equal to one of these values [background system user].";
    run(json!({ "release": release.id, "partition": "x" })).await.error(400, partition);
}
