//! What no client should send.

use serde_json::json;

use crate::support::{Dir, TestHost, job};

const BODIES: [(&str, &str); 10] = [
    ("PUT", "/host/jobs/host1-1"),
    ("POST", "/host/discoverd"),
    ("POST", "/host/network"),
    ("POST", "/host/tags"),
    ("POST", "/host/resource-check"),
    ("POST", "/host/update"),
    ("POST", "/host/webhooks"),
    ("POST", "/storage/providers"),
    ("PUT", "/sinks/s"),
    ("POST", "/storage/volumes/v/pull_snapshot"),
];

#[tokio::test]
async fn no_body_ends_the_daemon_and_each_gets_the_answer_that_clients_know() {
    let dir = Dir::new();
    let host = TestHost::start(&dir).await;
    let json_type = [("content-type", "application/json")];
    for (method, path) in BODIES {
        for body in
            ["", "{", "[1", "\"text\"", "12", "null", "{\"config\":{\"ports\":[{\"port\":70000}]},\"ports\":[7]"]
        {
            let reply = host.raw(method, path, &json_type, body.as_bytes()).await;
            // `null` is an empty object to some.
            if body != "null" {
                let expected = (400, "syntax_error".into(), "The provided JSON input is invalid".into());
                assert_eq!(reply.error(), expected, "{method} {path} {body}");
            }
            assert_eq!(reply.status, 400, "{method} {path} {body}");
        }
        let reply = host.raw(method, path, &[("content-type", "text/plain")], b"{}").await;
        let expected = (400, "validation_error".into(), "Content-Type must be application/json".into());
        assert_eq!(reply.error(), expected, "{method} {path}");
        let reply = host.raw(method, path, &json_type, &vec![b' '; (10 << 20) + 1]).await;
        assert_eq!(reply.error().1, "request_body_too_big", "{method} {path}");
    }
    for (method, path) in [("POST", "/storage/providers/default/volumes"), ("PUT", "/host/drain")] {
        assert_eq!(host.raw(method, path, &[], b"{").await.error().1, "syntax_error", "{path}");
    }
    assert_eq!(host.get("/host/status").await.status, 200);
    assert_eq!(host.get("/host/jobs").await.json(), json!({}));
    host.leave().await;
}

#[tokio::test]
async fn ids_do_not_lead_out_of_their_folders() {
    let dir = Dir::new();
    let host = TestHost::start(&dir).await;
    let body = serde_json::to_value(job("")).unwrap();
    for id in ["..", "%2e%2e", "..%2f..%2fetc", "a%2fb", "a%00b", "%2fetc", "-a", &"a".repeat(129), "%20", "%ff"] {
        let reply = host.json("PUT", &format!("/host/jobs/{id}"), &body).await;
        assert!(matches!(reply.status, 400 | 404), "{id}: {reply:?}");
        let reply = host.get(&format!("/host/jobs/{id}")).await;
        assert!(matches!(reply.status, 400 | 404), "{id}: {reply:?}");
    }
    for id in ["..", "../x", "a/b", "/etc", "a\0b"] {
        let reply = host.json("POST", "/storage/providers/default/volumes", &json!({ "id": id })).await;
        assert_eq!(reply.error().1, "validation_error", "{id:?}");
    }
    let mut escaping = job("");
    escaping.mountspecs[0].id = "../../escape".into();
    host.json("PUT", "/host/jobs/host1-1", &serde_json::to_value(escaping).unwrap()).await;
    let failed = host.ended("host1-1").await;
    assert!(failed.error.unwrap().contains("invalid layer id"));
    assert_eq!(host.volumes.list().len(), 0);
    host.leave().await;
}

#[tokio::test]
async fn unknown_paths_and_methods_are_answered_as_text() {
    let dir = Dir::new();
    let host = TestHost::start(&dir).await;
    let unknown = host.get("/nothing").await;
    assert_eq!(unknown.status, 404);
    assert!(unknown.head.contains("content-type: text/plain"), "{unknown:?}");
    assert_eq!(host.raw("PATCH", "/host/jobs", &[], b"").await.status, 405);
    let no_mounts = host.json("PUT", "/host/jobs/host1-1", &json!({})).await;
    assert_eq!(no_mounts.error(), (400, "validation_error".into(), "mountspecs must be set".into()));
    assert_eq!(no_mounts.json()["detail"], json!({ "field": "mountspecs" }));
    host.leave().await;
}
