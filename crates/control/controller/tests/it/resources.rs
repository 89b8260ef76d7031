use std::sync::{Arc, Mutex};

use axum::extract::{Query, State};
use axum::http::StatusCode;
use flynn_types::controller::{EventType, Provider, Resource};
use serde_json::{Value, json};

use crate::fixture::Controller;

/// What a provider was asked, oldest first.
type Asked = Arc<Mutex<Vec<String>>>;

/// A provider: makes numbered resources, unless it is told to refuse.
async fn provider() -> (String, Asked) {
    let asked = Asked::default();
    let make = async |State(asked): State<Asked>, axum::Json(config): axum::Json<Value>| {
        let mut asked = asked.lock().unwrap();
        asked.push(format!("make {config}"));
        if config["refuse"] == true {
            return (StatusCode::CONFLICT, "no room").into_response();
        }
        axum::Json(json!({ "id": config["id"].as_str().unwrap_or("/r/1 ü"), "env": { "URL": "x" } })).into_response()
    };
    let unmake = async |State(asked): State<Asked>, Query(query): Query<Value>| {
        asked.lock().unwrap().push(format!("unmake {}", query["id"].as_str().unwrap()));
    };
    use axum::response::IntoResponse as _;
    let router = axum::Router::new()
        .route("/resources", axum::routing::post(make).delete(unmake))
        .with_state(Arc::clone(&asked));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/resources", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, asked)
}

#[tokio::test]
async fn c1_providers_are_unique() {
    let controller = Controller::start().await;
    let post = async |provider: Value| controller.post("/providers", &provider).await;
    let created: Provider = post(json!({ "name": "pg", "url": "http://pg.discoverd/databases" })).await.json();
    for reference in ["pg", &created.id] {
        assert_eq!(controller.get(&format!("/providers/{reference}")).await.json::<Provider>(), created);
    }
    post(json!({ "name": "pg", "url": "http://other" })).await.error(409, "provider \"pg\" already exists");
    let same_url = "a provider at http://pg.discoverd/databases already exists";
    post(json!({ "name": "other", "url": "http://pg.discoverd/databases" })).await.error(409, same_url);
    post(json!({ "name": "x", "url": "x" })).await.error(400, "url Value must be a valid URI, according to RFC3986.");
    let missing = r#"Required error. The data must be an object with "name" as one of its keys"#;
    post(json!({ "name": "", "url": "http://x" })).await.error(400, missing);
    assert_eq!(controller.get("/providers").await.json::<Vec<Provider>>().len(), 1);
    controller.get("/providers/nobody").await.not_found();
}

#[tokio::test]
async fn c2_to_c6_resources_are_made_shared_and_unmade() {
    let controller = Controller::start().await;
    let (url, asked) = provider().await;
    let asked = || std::mem::take(&mut *asked.lock().unwrap());
    controller.post("/providers", &json!({ "name": "pg", "url": url })).await;
    let (one, two) = (controller.app("one").await, controller.app("two").await);
    let make = async |request: Value| controller.post("/providers/pg/resources", &request).await;
    make(json!({ "apps": ["nobody"] })).await.error(400, "apps name no app: nobody");
    assert!(asked().is_empty(), "nothing is made in vain");
    let refused = make(json!({ "config": { "refuse": true } })).await.error(500, "provider pg failed: no room");
    assert_eq!(refused.detail, Some(json!({ "status": 409, "message": "no room" })));
    assert_eq!(asked(), [r#"make {"refuse":true}"#]);
    let made: Resource = make(json!({ "apps": ["one"], "config": null })).await.json();
    assert_eq!(
        (made.external_id.as_str(), made.env["URL"].as_str(), &made.apps),
        ("/r/1 ü", "x", &vec![one.id.clone()])
    );
    assert_eq!(asked(), ["make {}"]);
    // W24: what cannot be recorded is unmade.
    make(json!({})).await.error(409, "the provider's resource \"/r/1 ü\" is recorded already");
    assert_eq!(asked(), ["make {}", "unmake /r/1 ü"]);
    let other: Resource = make(json!({ "apps": ["one"], "config": { "id": "/r/2" } })).await.json();
    let link = format!("/providers/pg/resources/{}/apps/two", made.id);
    let attached: Resource = controller.put(&link, &Value::Null).await.json();
    assert_eq!(attached.apps.len(), 2);
    let of_app =
        async |app: &str| controller.get(&format!("/apps/{app}/resources")).await.json::<Vec<Resource>>().len();
    assert_eq!((of_app("one").await, of_app("two").await), (2, 1));
    // W4: only this link goes.
    let detached: Resource = controller.delete(&format!("/providers/pg/resources/{}/apps/one", made.id)).await.json();
    assert_eq!((detached.apps, of_app("one").await), (vec![two.id.clone()], 1));
    controller.delete(&format!("/providers/pg/resources/{}/apps/one", made.id)).await.not_found();
    asked();
    let gone: Resource = controller.delete(&format!("/providers/pg/resources/{}", made.id)).await.json();
    assert_eq!((gone.id.as_str(), asked()), (made.id.as_str(), vec!["unmake /r/1 ü".to_owned()]));
    controller.get(&format!("/providers/pg/resources/{}", made.id)).await.not_found();
    assert_eq!(controller.get("/resources").await.json::<Vec<Resource>>(), [other]);
    let events = controller.events("resource,resource_deletion,resource_app_deletion").await;
    let told: Vec<_> = events.iter().map(|event| (event.object_type.unwrap(), event.app_id.as_str())).collect();
    let (one, two) = (one.id.as_str(), two.id.as_str());
    let expected = [
        (EventType::Resource, one),
        (EventType::Resource, one),
        (EventType::Resource, two),
        (EventType::ResourceAppDeletion, one),
        (EventType::ResourceDeletion, two),
    ];
    assert_eq!(told, expected);
    // C5: recorded once and again.
    let path = "/providers/pg/resources/11111111-0d4b-4b7c-8d0f-3c1b7e0a1d11";
    for _ in 0..2 {
        let recorded: Resource =
            controller.put(path, &json!({ "external_id": "/r/9", "env": { "A": "b" }, "apps": ["one"] })).await.json();
        assert_eq!((recorded.external_id.as_str(), recorded.apps.len()), ("/r/9", 1));
    }
}
