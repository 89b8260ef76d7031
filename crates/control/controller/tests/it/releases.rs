use axum::http::StatusCode;
use flynn_types::controller::{App, AppRelease, Release, ReleaseDeletionEvent};
use flynn_types::image::Artifact;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha512_256};

use crate::fixture::{Controller, data, manifest};

/// A server of one file.
async fn file_server(content: String) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = axum::Router::new().route("/manifest", axum::routing::get(|| async { content }));
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

#[tokio::test]
async fn r1_r2_manifests_are_fetched_and_verified() {
    let controller = Controller::start().await;
    let text = manifest().to_string();
    let server = file_server(text.clone()).await;
    let uri = format!("{server}/manifest");
    let hash = hex::encode(Sha512_256::digest(&text));
    let post = async |artifact: Value| controller.post("/artifacts", &artifact).await;
    let artifact = |size: usize, hash: &str| json!({ "type": "flynn", "uri": uri, "size": size, "hashes": { "sha512_256": hash } });
    let failed = |reason: String| format!("manifest failed to download from {uri}: {reason}");
    post(artifact(0, &hash)).await.error(400, "size must be greater than zero");
    post(artifact(text.len() + 1, &hash)).await.error(400, &failed("verify: data too short".into()));
    let wrong = format!("verify: expected sha512_256 hash \"ab\" but got \"{hash}\"");
    post(artifact(text.len(), "ab")).await.error(400, &failed(wrong));
    let none = json!({ "type": "flynn", "uri": uri, "size": 5 });
    post(none).await.error(400, &failed("verify: no hashes provided".into()));
    let gone = json!({ "type": "flynn", "uri": format!("{server}/gone"), "size": 5, "hashes": { "sha256": "a" } });
    let gone_text = format!("manifest failed to download from {server}/gone: unexpected HTTP status: 404");
    post(gone).await.error(400, &gone_text);
    let created: Artifact = post(artifact(text.len(), &hash)).await.json();
    assert_eq!(created.manifest.as_ref().unwrap().id(), hash, "reads give the same manifest");
    assert_eq!(controller.get(&format!("/artifacts/{}", created.id)).await.json::<Artifact>(), created);
    let types = "type Enum error. The data must be equal to one of these values [docker file flynn].";
    post(json!({ "type": "zip", "uri": "http://a/b" })).await.error(400, types);
    let missing = r#"Required error. The data must be an object with "uri" as one of its keys"#;
    post(json!({ "type": "file" })).await.error(400, missing);
    post(json!({ "type": "file", "uri": "no uri" }))
        .await
        .error(400, "uri Value must be a valid URI, according to RFC3986.");
    controller.get("/artifacts/x").await.not_found();
}

#[tokio::test]
async fn r3_r4_the_same_address_is_the_same_artifact() {
    let controller = Controller::start().await;
    let large = json!({ "type": "file", "uri": "http://a/b", "size": 5_000_000_000_i64, "meta": { "a": "b" } });
    let first: Artifact = controller.post("/artifacts", &large).await.json();
    let second: Artifact = controller.post("/artifacts", &json!({ "type": "file", "uri": "http://a/b" })).await.json();
    assert_eq!((first.size, &second), (5_000_000_000, &first));
    assert_eq!(controller.get("/artifacts").await.json::<Vec<Artifact>>().len(), 1);
    assert_eq!(controller.events("artifact").await.len(), 2);
}

#[tokio::test]
async fn r5_to_r7_releases_are_checked_and_completed() {
    let controller = Controller::start().await;
    let app = controller.app("shop").await;
    let release = controller.release(&app, &["web"]).await;
    assert_eq!((release.artifact_ids.len(), &release.artifact_ids[0]), (1, &release.artifact_id));
    let web = &release.processes["web"];
    assert_eq!((web.args.as_slice(), web.resources.0.len()), (&["run".to_owned(), "web".to_owned()][..], 4));
    assert_eq!(controller.get(&format!("/releases/{}", release.id)).await.json::<Release>(), release);
    assert_eq!(controller.get("/apps/shop/releases").await.json::<Vec<Release>>(), std::slice::from_ref(&release));
    let post = async |release: Value| controller.post("/releases", &release).await;
    let empty: Release = post(json!({ "app_id": app.id })).await.json();
    assert!(empty.artifact_ids.is_empty());
    let unknown = "00000000-0d4b-4b7c-8d0f-3c1b7e0a1d11";
    post(json!({ "app_id": unknown })).await.error(400, &format!("app_id names no app: {unknown}"));
    let artifacts = json!({ "app_id": app.id, "artifacts": [unknown] });
    post(artifacts).await.error(400, &format!("artifacts name no artifact: {unknown}"));
    post(json!({ "app_id": "shop" })).await.error(400, "app_id must hold UUIDs, not \"shop\"");
    let key = r#"env you can't create an env var with an empty key (tried to set ""="x")"#;
    let error = post(json!({ "app_id": app.id, "env": { "": "x" } })).await.error(400, key);
    assert_eq!(error.detail, Some(json!({ "field": "env" })));
    let required = r#"Required error. The data must be an object with "app_id" as one of its keys"#;
    post(json!({})).await.error(400, required);
}

#[tokio::test]
async fn r8_the_current_release_is_one_of_the_app() {
    let controller = Controller::start().await;
    let (app, other) = (controller.app("shop").await, controller.app("other").await);
    let (first, foreign) = (controller.release(&app, &["web"]).await, controller.release(&other, &["web"]).await);
    controller.get("/apps/shop/release").await.not_found();
    let set = async |id: &str| controller.put("/apps/shop/release", &json!({ "id": id, "env": {} })).await;
    assert_eq!(set(&first.id).await.json::<Release>(), first);
    assert_eq!(controller.get("/apps/shop/release").await.json::<Release>(), first);
    assert_eq!(controller.get("/apps/shop").await.json::<App>().release_id, first.id);
    for wrong in ["", "x", &foreign.id, "00000000-0d4b-4b7c-8d0f-3c1b7e0a1d11"] {
        set(wrong).await.error(400, &format!("could not find release with ID {wrong}"));
    }
    let events = controller.events("app_release").await;
    let data: AppRelease = serde_json::from_value(data(&events[0])).unwrap();
    assert_eq!((&events[0].object_id, data.prev_release, data.release), (&first.id, None, Some(first.clone())));
}

#[tokio::test]
async fn r9_to_r13_a_deleted_release_takes_what_only_it_used() {
    let controller = Controller::start().await;
    let (app, other) = (controller.app("shop").await, controller.app("other").await);
    let artifact = json!({ "type": "flynn", "uri": "http://blobstore.discoverd/one.json", "manifest": manifest(),
        "meta": { "blobstore": "true" }, "layer_url_template": "http://blobstore.discoverd/{id}.squashfs" });
    let stored: Artifact = controller.post("/artifacts", &artifact).await.json();
    let create = async |artifacts: Value| -> Release {
        let release = json!({ "app_id": app.id, "artifacts": artifacts, "processes": { "web": {} } });
        controller.post("/releases", &release).await.json()
    };
    let (current, old, shared) =
        (create(json!([])).await, create(json!([stored.id])).await, create(json!([stored.id])).await);
    controller.put("/apps/shop/release", &json!({ "id": current.id })).await;
    let delete = async |id: &str| controller.delete(&format!("/apps/shop/releases/{id}")).await;
    delete(&current.id).await.error(400, "cannot delete current app release");
    delete("00000000-0d4b-4b7c-8d0f-3c1b7e0a1d11").await.not_found();
    // Used by another app: it stays.
    controller.put(&format!("/apps/shop/formations/{}", shared.id), &json!({ "processes": { "web": 1 } })).await;
    controller
        .put(&format!("/apps/{}/formations/{}", other.id, shared.id), &json!({ "processes": { "web": 1 } }))
        .await;
    delete(&shared.id).await.empty();
    assert_eq!(controller.get(&format!("/releases/{}", shared.id)).await.status, StatusCode::OK);
    // Its artifact is used by that one.
    delete(&old.id).await.empty();
    controller.get(&format!("/releases/{}", old.id)).await.not_found();
    let events = controller.events("release_deletion").await;
    let deletion = |number: usize| {
        let event: ReleaseDeletionEvent = serde_json::from_value(data(&events[number])).unwrap();
        event.release_deletion.unwrap()
    };
    assert_eq!((events.len(), &events[0].app_id), (2, &app.id));
    assert_eq!((deletion(0).release_id, deletion(0).remaining_apps), (shared.id.clone(), Some(vec![other.id.clone()])));
    assert_eq!((deletion(1).release_id, deletion(1).remaining_apps), (old.id, None));
    // Now nothing uses it any more, and the worker removes the files.
    controller.delete(&format!("/apps/other/formations/{}", shared.id)).await.empty();
    delete(&shared.id).await.empty();
    controller.get(&format!("/artifacts/{}", stored.id)).await.not_found();
    let mut sql = controller.database.connect().await;
    let job: (String, sqlx::types::Json<Value>) =
        sqlx::query_as("SELECT job_class, args FROM que_jobs").fetch_one(&mut sql).await.unwrap();
    let files = json!(["http://blobstore.discoverd/layer1.squashfs", "http://blobstore.discoverd/one.json"]);
    assert_eq!(
        (job.0.as_str(), job.1.0),
        ("release_cleanup", json!({ "AppID": app.id, "ReleaseID": shared.id, "FileURIs": files }))
    );
    assert_eq!(controller.events("release_deletion").await.len(), 2);
}
