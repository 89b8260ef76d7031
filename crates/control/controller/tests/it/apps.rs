use axum::http::Method;
use flynn_types::controller::App;
use serde_json::json;

use crate::fixture::{Controller, data};

#[tokio::test]
async fn p1_a_new_app_has_everything() {
    let controller = Controller::start().await;
    let app: App = controller.post("/apps", &json!({})).await.json();
    assert_eq!((app.strategy.as_str(), app.deploy_timeout), ("one-by-one", 120));
    assert_eq!(app.meta["gc.max_inactive_slug_releases"], "10");
    assert!(app.created_at.is_some() && app.updated_at == app.created_at && app.id.len() == 36);
    let given = json!({ "id": "6d1f1c1e-0d4b-4b7c-8d0f-3c1b7e0a1d11", "name": "shop", "strategy": "sirenia",
        "deploy_timeout": 7, "meta": { "gc.max_inactive_slug_releases": "false", "a": "b" }, "release": "ignored" });
    let shop: App = controller.post("/apps", &given).await.json();
    assert_eq!((shop.id.as_str(), shop.name.as_str()), ("6d1f1c1e-0d4b-4b7c-8d0f-3c1b7e0a1d11", "shop"));
    assert_eq!((shop.strategy.as_str(), shop.deploy_timeout, shop.meta.len()), ("sirenia", 7, 2));
    for reference in ["shop", &shop.id] {
        assert_eq!(controller.get(&format!("/apps/{reference}")).await.json::<App>(), shop);
    }
    assert_eq!(controller.get("/apps").await.json::<Vec<App>>(), [shop.clone(), app]);
    let events = controller.events("app").await;
    assert_eq!(serde_json::from_value::<App>(data(&events[1])).unwrap(), shop);
    assert_eq!((&events[1].app_id, &events[1].object_id), (&shop.id, &shop.id));
    for nobody in ["nobody", "6D1F1C1E-0d4b-4b7c-8d0f-3c1b7e0a1d11", "00000000-0d4b-4b7c-8d0f-3c1b7e0a1d11"] {
        controller.get(&format!("/apps/{nobody}")).await.not_found();
    }
}

#[tokio::test]
async fn p2_p3_bad_apps_are_refused() {
    let controller = Controller::start().await;
    controller.app("taken").await;
    let post = async |app| controller.post("/apps", &app).await;
    let pattern = r#"name String must match the pattern: "^[a-z\d]+(-[a-z\d]+)*$"."#;
    let error = post(json!({ "name": "Bad" })).await.error(400, pattern);
    assert_eq!(error.detail, Some(json!({ "field": "name" })));
    let length = "name String length must be shorter than 100 characters.";
    post(json!({ "name": "a".repeat(101) })).await.error(400, length);
    let taken = post(json!({ "name": "taken" })).await.error(409, r#"application "taken" already exists"#);
    assert_eq!(taken.code.as_str(), "object_exists");
    let strategies = "strategy Enum error. The data must be equal to one of these values [all-at-once one-by-one \
        one-down-one-up in-batches sirenia discoverd-meta].";
    post(json!({ "name": "a", "strategy": "quick" })).await.error(400, strategies);
    controller.post("/apps/taken", &json!({ "strategy": "quick" })).await.error(400, strategies);
    post(json!({ "name": "a", "id": "no uuid" })).await.error(400, "id must be a UUID");
}

#[tokio::test]
async fn p5_to_p7_updates_change_what_may_change() {
    let controller = Controller::start().await;
    let mut app = controller.app("shop").await;
    let update = async |fields| controller.post("/apps/shop", &fields).await;
    app.name = "other".into();
    app.strategy = "one-by-one".into();
    app.deploy_timeout = 30;
    app.meta = [("a".to_owned(), "b".to_owned())].into();
    let changed: App = update(serde_json::to_value(&app).unwrap()).await.json();
    assert_eq!((changed.name.as_str(), changed.strategy.as_str(), changed.deploy_timeout), ("shop", "one-by-one", 30));
    assert_eq!(changed.meta, app.meta);
    assert!(changed.updated_at > app.updated_at && changed.created_at == app.created_at);
    assert_eq!(update(json!({ "meta": null })).await.json::<App>().meta, app.meta);
    let meta = controller.post("/apps/shop/meta", &json!({ "meta": {} })).await;
    assert!(meta.json::<App>().meta.is_empty());
    let unknown = r#"Additional properties aren't allowed, found "colour" as one of its keys"#;
    update(json!({ "colour": "red" })).await.error(400, unknown);
    controller.post("/apps/nobody", &json!({})).await.not_found();
    assert_eq!(controller.events("app").await.len(), 4);
}

#[tokio::test]
async fn p8_made_up_names_avoid_those_that_are_taken() {
    let controller = Controller::start().await;
    let first: App = controller.post("/apps", &json!({})).await.json();
    let mut sql = controller.database.connect().await;
    sqlx::query("SELECT setval('name_ids', 1, false)").execute(&mut sql).await.unwrap();
    let second: App = controller.post("/apps", &json!({})).await.json();
    assert_ne!(first.name, second.name);
}

#[tokio::test]
async fn p9_deletion_is_ordered_and_the_cluster_s_own_apps_are_kept() {
    let controller = Controller::start().await;
    let app = controller.app("shop").await;
    controller.delete("/apps/shop").await.empty();
    controller.delete("/apps/nobody").await.not_found();
    let mut sql = controller.database.connect().await;
    let jobs: Vec<(String, sqlx::types::Json<App>)> =
        sqlx::query_as("SELECT job_class, args FROM que_jobs WHERE queue = ''").fetch_all(&mut sql).await.unwrap();
    assert_eq!((jobs.len(), jobs[0].0.as_str(), &jobs[0].1.0), (1, "app_deletion", &app));
    controller.post("/apps", &json!({ "name": "postgres", "meta": { "flynn-system-critical": "true" } })).await;
    let refused = "postgres is part of the cluster: delete it with ?force=true";
    controller.delete("/apps/postgres").await.error(400, refused);
    controller.send(Method::DELETE, "/apps/postgres?force=true", &serde_json::Value::Null).await.empty();
    controller.post("/apps/shop/gc", &serde_json::Value::Null).await.empty();
}
