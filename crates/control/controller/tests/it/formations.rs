use axum::http::Method;
use flynn_types::controller::{App, ExpandedFormation, Formation, Release, ScaleRequest, ScaleRequestState};
use serde_json::{Value, json};

use crate::fixture::{Controller, KEY, authorization, data};

async fn app_with_release(controller: &Controller) -> (App, Release) {
    let app = controller.app("shop").await;
    let release = controller.release(&app, &["web", "worker"]).await;
    (app, release)
}

fn counts(processes: &flynn_types::controller::Processes) -> Vec<(&str, i64)> {
    processes.iter().map(|(kind, count)| (kind.as_str(), *count)).collect()
}

#[tokio::test]
async fn f1_f2_f7_formations_fit_their_release() {
    let controller = Controller::start().await;
    let (app, release) = app_with_release(&controller).await;
    let path = format!("/apps/shop/formations/{}", release.id);
    let formation: Formation =
        controller.put(&path, &json!({ "processes": { "web": 2 }, "app": "ignored" })).await.json();
    assert_eq!((formation.app_id.as_str(), counts(&formation.processes)), (app.id.as_str(), vec![("web", 2)]));
    assert_eq!(controller.get(&path).await.json::<Formation>(), formation);
    assert_eq!(controller.get("/apps/shop/formations").await.json::<Vec<Formation>>(), [formation]);
    let zero: Formation = controller.put(&path, &json!({})).await.json();
    assert_eq!(counts(&zero.processes), [("web", 0), ("worker", 0)]);
    let unknown = "requested scale includes process types that do not exist in the release: a, b";
    controller.put(&path, &json!({ "processes": { "b": 1, "a": 1, "web": 1 } })).await.error(400, unknown);
    let negative = "processes must hold numbers of jobs, not -1 for web";
    controller.put(&path, &json!({ "processes": { "web": -1 } })).await.error(400, negative);
    let empty: Release =
        controller.post("/releases", &json!({ "app_id": app.id, "processes": { "web": {} } })).await.json();
    let not_deployable = controller.put(&format!("/apps/shop/formations/{}", empty.id), &json!({})).await;
    not_deployable.error(400, "release is not deployable");
    controller.put("/apps/shop/formations/00000000-0d4b-4b7c-8d0f-3c1b7e0a1d11", &json!({})).await.not_found();
}

#[tokio::test]
async fn f3_to_f6_every_change_is_a_request() {
    let controller = Controller::start().await;
    let (app, release) = app_with_release(&controller).await;
    let path = format!("/apps/shop/scale/{}", release.id);
    let scale = async |request: Value| controller.put(&path, &request).await;
    let first: ScaleRequest = scale(json!({ "state": "pending", "new_processes": { "web": 1 } })).await.json();
    assert_eq!((first.state, counts(&first.old_processes)), (ScaleRequestState::Pending, vec![]));
    let complete: ScaleRequest = scale(json!({ "id": first.id, "state": "complete" })).await.json();
    assert_eq!((complete.state, &complete.id), (ScaleRequestState::Complete, &first.id));
    let second: ScaleRequest = scale(json!({ "state": "pending", "new_processes": { "worker": 2 } })).await.json();
    assert_eq!(counts(&second.old_processes), [("web", 1)]);
    let tags = json!({ "state": "pending", "new_tags": { "web": { "ssd": "true" } } });
    let third: ScaleRequest = scale(tags).await.json();
    assert_eq!((&third.new_processes, counts(&third.old_processes)), (&None, vec![("web", 1), ("worker", 2)]));
    let expanded: ExpandedFormation =
        controller.get(&format!("/apps/shop/formations/{}?expand=true", release.id)).await.json();
    assert_eq!(counts(&expanded.processes), [("web", 1), ("worker", 2)]);
    assert_eq!((&expanded.tags["web"]["ssd"], expanded.artifacts.len()), (&"true".to_owned(), 1));
    let pending = expanded.pending_scale_request.unwrap();
    assert_eq!((pending.id, pending.updated_at), (third.id.clone(), None));
    // The completed one stays complete, the pending one is told to be cancelled in both ways.
    let told = controller.events("scale_request,scale_request_cancelation").await;
    let told: Vec<_> = told
        .iter()
        .map(|event| {
            (
                event.object_type.unwrap().as_str(),
                event.object_id.as_str(),
                data(event)["state"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    let expected = [
        ("scale_request", &first.id, "pending"),
        ("scale_request", &first.id, "complete"),
        ("scale_request", &second.id, "pending"),
        ("scale_request", &third.id, "pending"),
        ("scale_request_cancelation", &second.id, "cancelled"),
        ("scale_request", &second.id, "cancelled"),
    ];
    assert_eq!(told, expected.map(|(kind, id, state)| (kind, id.as_str(), state.to_owned())));
    let legacy = controller.events("scale").await;
    assert_eq!(legacy[1].object_id, format!("{}:{}", app.id, release.id));
    assert_eq!(data(&legacy[1])["processes"], json!({ "web": 1, "worker": 2 }));
    // What has ended does not change.
    let late: ScaleRequest = scale(json!({ "id": second.id, "state": "complete" })).await.json();
    assert_eq!(late.state, ScaleRequestState::Cancelled);
    let states = "state Enum error. The data must be equal to one of these values [pending cancelled complete].";
    scale(json!({ "new_processes": {} })).await.error(400, states);
    scale(json!({ "state": "done" })).await.error(400, states);
    scale(json!({ "state": "pending" })).await.error(400, "scale request must have either processes or tags set");
    scale(json!({ "id": "00000000-0d4b-4b7c-8d0f-3c1b7e0a1d11", "state": "complete" })).await.not_found();
}

#[tokio::test]
async fn f8_f9_a_deleted_formation_stops_and_comes_back() {
    let controller = Controller::start().await;
    let (_, release) = app_with_release(&controller).await;
    let path = format!("/apps/shop/formations/{}", release.id);
    controller.delete(&path).await.not_found();
    let put = async |count: i64| controller.put(&path, &json!({ "processes": { "web": count } })).await;
    put(2).await;
    let active = async || controller.get("/formations?active=true").await.json::<Vec<ExpandedFormation>>();
    assert_eq!(active().await.len(), 1);
    controller.delete(&path).await.empty();
    controller.get(&path).await.not_found();
    assert!(active().await.is_empty());
    let events = controller.events("scale_request").await;
    assert_eq!(data(events.last().unwrap())["state"], "cancelled");
    assert_eq!(counts(&put(1).await.json::<Formation>().processes), [("web", 1)]);
    put(0).await;
    assert!(active().await.is_empty());
    controller.get("/formations").await.error(400, "must either request a stream or only active formations");
}

#[tokio::test]
async fn f10_s7_s8_the_scheduler_sees_what_is_and_what_changes() {
    let controller = Controller::start().await;
    let (_, release) = app_with_release(&controller).await;
    let path = format!("/apps/shop/formations/{}", release.id);
    controller.put(&path, &json!({ "processes": { "web": 1 } })).await;
    let mut stream = controller.stream::<ExpandedFormation>("/formations?since=1970-01-01T00:00:00.000000001Z").await;
    let first = stream.next().await;
    assert_eq!((first.release.unwrap().id, counts(&first.processes)), (release.id.clone(), vec![("web", 1)]));
    assert_eq!(stream.next().await, ExpandedFormation::default());
    controller.put(&path, &json!({ "processes": { "web": 3 } })).await;
    // One for the request, one for the one that it cancels; both say what is now.
    for _ in 0..2 {
        assert_eq!(counts(&stream.next().await.processes), [("web", 3)]);
    }
    controller.delete(&path).await.empty();
    let deleted = stream.next().await;
    assert!(deleted.deleted && deleted.processes.is_empty() && deleted.app.is_some());
    let mut later = controller.stream::<ExpandedFormation>("/formations?since=2100-01-01T00:00:00Z").await;
    assert_eq!(later.next().await, ExpandedFormation::default());
    let authorization = authorization(KEY);
    let headers = [("authorization", &*authorization), ("accept", "text/event-stream")];
    let refused = controller.raw(Method::GET, "/formations", &headers, "").await;
    assert_eq!(
        (refused.status.as_u16(), &*refused.text()),
        (200, "event: error\ndata: since must be a valid RFC3339 timestamp\n\n")
    );
}
