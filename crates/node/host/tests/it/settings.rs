//! Status, tags, drain, key, webhooks, sinks, checks, replacement.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use axum::extract::State;
use flynn_host::Replacer;
use flynn_types::host::Command;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::support::{Dir, Options, TestHost, job, patience, waiting_job};

#[tokio::test]
async fn tags_are_merged_and_survive_the_daemon() {
    let dir = Dir::new();
    let tags: BTreeMap<_, _> = [("disk", "ssd"), ("zone", "a")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let options = || Options { tags: tags.clone(), ..Options::default() };
    let host = TestHost::start_with(&dir, options()).await;
    assert_eq!(host.json("POST", "/host/tags", &json!({"foo": "bar", "zone": "b"})).await.status, 200);
    assert_eq!(host.json("POST", "/host/tags", &json!({"foo2": "x", "disk": "", "never": ""})).await.status, 200);
    let expected = json!({"foo": "bar", "foo2": "x", "zone": "b"});
    assert_eq!(host.get("/host/status").await.json()["tags"], expected);
    let metadata = host.host.metadata().borrow().clone();
    assert_eq!((metadata["tag:foo"].as_str(), metadata["id"].as_str()), ("bar", "host1"));
    assert!(!metadata.contains_key("tag:disk"));
    assert_eq!(host.json("POST", "/host/tags", &json!({"": "x"})).await.status, 400);
    host.leave().await;

    let host = TestHost::start_with(&dir, options()).await;
    assert_eq!(host.get("/host/status").await.json()["tags"], expected);
    host.leave().await;
}

#[tokio::test]
async fn a_draining_host_refuses_jobs_also_after_a_restart() {
    let dir = Dir::new();
    let host = TestHost::start(&dir).await;
    for _ in 0..2 {
        let drained = host.json("PUT", "/host/drain", &json!({"reason": "new disks"})).await;
        assert_eq!((drained.status, &drained.json()["draining"]), (200, &json!(true)));
    }
    assert_eq!(host.host.metadata().borrow()["drain"], "true");
    host.leave().await;

    let host = TestHost::start(&dir).await;
    let body = serde_json::to_value(waiting_job("")).unwrap();
    let refused = host.json("PUT", "/host/jobs/host1-1", &body).await;
    assert_eq!(refused.error(), (503, "service_unavailable".into(), "host is draining".into()));
    assert_eq!(refused.json()["retry"], true);
    assert_eq!(host.json("PUT", "/host/jobs/host1-1?allow_draining=true", &body).await.status, 200);
    for _ in 0..2 {
        let undrained = host.raw("DELETE", "/host/drain", &[], b"").await;
        assert!(undrained.status == 200 && undrained.json().get("draining").is_none(), "{undrained:?}");
    }
    assert_eq!(host.json("PUT", "/host/jobs/host1-2", &body).await.status, 200);
    assert!(!host.host.metadata().borrow().contains_key("drain"));
    host.leave().await;
}

#[tokio::test]
async fn with_a_key_only_the_status_is_open() {
    let dir = Dir::new();
    let key = Some("secret".to_owned());
    let host = TestHost::start_with(&dir, Options { auth_key: key, ..Options::default() }).await;
    assert_eq!(host.get("/host/status").await.status, 200);
    let refused = host.get("/host/jobs").await;
    assert_eq!(refused.error(), (401, "unauthorized".into(), "authentication required".into()));
    assert!(refused.head.contains("www-authenticate: basic realm=\"flynn-host\""), "{refused:?}");
    for header in
        [("auth-key", "secret"), ("authorization", "Basic OnNlY3JldA=="), ("authorization", "Basic dXNlcjpzZWNyZXQ=")]
    {
        assert_eq!(host.raw("GET", "/host/jobs", &[header], b"").await.status, 200, "{header:?}");
    }
    for header in
        [("auth-key", "wrong"), ("auth-key", ""), ("authorization", "Basic %%%"), ("authorization", "Bearer secret")]
    {
        assert_eq!(host.raw("GET", "/host/jobs", &[header], b"").await.status, 401, "{header:?}");
    }
    for n in 5..100 {
        assert_eq!(host.get("/sinks").await.status, 401, "{n}");
    }
    let limited = host.get("/sinks").await;
    assert_eq!(
        (limited.error().0, limited.error().1.as_str(), &limited.json()["retry"]),
        (429, "ratelimited", &json!(true))
    );
    assert_eq!(host.client.jobs(false).await.unwrap().len(), 0, "who has the key is never limited");
    host.leave().await;
}

/// Collects what is POSTed to it.
async fn receiver() -> (String, mpsc::Receiver<Value>) {
    let (sender, events) = mpsc::channel(64);
    let handler = async |State(sender): State<mpsc::Sender<Value>>, event: axum::Json<Value>| {
        let _ = sender.send(event.0).await;
    };
    let app = axum::Router::new().route("/hook", axum::routing::post(handler)).with_state(sender);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, events)
}

#[tokio::test]
async fn webhooks_tell_of_jobs_and_of_the_daemon_without_secrets() {
    let dir = Dir::new();
    let host = TestHost::start(&dir).await;
    let (url, mut events) = receiver().await;
    assert_eq!(host.json("POST", "/host/webhooks", &json!({})).await.error().2, "url url is required");
    assert_eq!(host.json("POST", "/host/webhooks", &json!({"url": "file:///etc/passwd"})).await.status, 400);
    let added = host.json("POST", "/host/webhooks", &json!({"id": "w", "url": url, "headers": {"x-a": "b"}})).await;
    assert_eq!((added.status, &added.json()["headers"]), (200, &json!({"x-a": "b"})));
    let mut odd = job("host1-1");
    odd.partition = "nonexistent".into();
    odd.config.env.insert("PASSWORD".into(), "hunter2".into());
    host.client.add_job(&odd).await.unwrap();
    let mut next = async |code: &str| {
        let event = tokio::time::timeout(patience(), events.recv()).await.unwrap().unwrap();
        assert_eq!(event["code"], code, "{event}");
        assert!(!event.to_string().contains("hunter2"), "{event}");
    };
    for code in ["H10", "H14", "H15"] {
        next(code).await;
    }
    host.leave().await;
    next("D11").await;

    let host = TestHost::start(&dir).await;
    next("D10").await;
    assert_eq!(host.get("/host/webhooks").await.json().as_array().map(Vec::len), Some(1));
    for id in ["w", "unknown"] {
        assert_eq!(host.raw("DELETE", &format!("/host/webhooks/{id}"), &[], b"").await.status, 200);
    }
    assert_eq!(host.get("/host/webhooks").await.json(), json!([]));
    host.leave().await;
}

#[tokio::test]
async fn taken_ports_are_named() {
    let dir = Dir::new();
    let host = TestHost::start(&dir).await;
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let _tcp = std::net::TcpListener::bind(tcp).unwrap();
    let udp = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let (tcp, port) = (tcp.port(), udp.local_addr().unwrap().port());
    let check = async |ports: Value| host.json("POST", "/host/resource-check", &json!({ "ports": ports })).await;
    let reply = check(json!([{"port": tcp}, {"port": port, "proto": "udp"}, {"port": 0}])).await;
    assert_eq!(reply.error(), (409, "conflict".into(), "Conflicting resources found".into()));
    let taken = json!([{"port": tcp, "proto": "tcp"}, {"port": port, "proto": "udp"}]);
    assert_eq!(reply.json()["detail"]["ports"], taken);
    assert_eq!(check(json!([])).await.text(), "{}");
    assert_eq!(check(json!([{"port": 1, "proto": "sctp"}])).await.status, 400);
    host.leave().await;
}

#[tokio::test]
async fn sinks_keep_their_configuration_byte_for_byte() {
    let dir = Dir::new();
    let host = TestHost::start(&dir).await;
    let config = r#"{"url":"syslog://127.0.0.1:9","use_ids": true,  "format":"newline","unknown":[1, 2]}"#;
    let body = format!(r#"{{"kind":"syslog","config":{config}}}"#);
    let json_type = [("content-type", "application/json")];
    assert_eq!(host.raw("PUT", "/sinks/s", &json_type, body.as_bytes()).await.status, 200);
    let unknown = host.json("PUT", "/sinks/t", &json!({"kind": "carrier pigeon"})).await;
    assert_eq!(unknown.error(), (400, "validation_error".into(), "unknown sink kind: \"carrier pigeon\"".into()));
    assert!(host.get("/sinks").await.text().contains(config));
    host.leave().await;

    let host = TestHost::start(&dir).await;
    assert!(host.get("/sinks").await.text().contains(config));
    assert_eq!(host.raw("DELETE", "/sinks/s", &[], b"").await.text(), "{}");
    let gone = host.raw("DELETE", "/sinks/s", &[], b"").await;
    assert_eq!(gone.error(), (404, "object_not_found".into(), "sink with that id couldn't be found".into()));
    assert_eq!(host.get("/sinks").await.json(), json!([]));
    host.leave().await;
}

/// Answers once, then fails.
#[derive(Default)]
struct Once(Mutex<Option<u32>>);

#[async_trait]
impl Replacer for Once {
    async fn replace(&self, command: Command) -> Result<Command, String> {
        let pid = self.0.lock().unwrap().take();
        pid.map(|pid| Command { pid, ..command }).ok_or_else(|| "the new daemon ended before it served".to_owned())
    }
}

#[tokio::test]
async fn a_replacement_gives_the_new_daemon_or_the_reason() {
    let dir = Dir::new();
    let host = TestHost::start(&dir).await;
    let command = json!({"path": "/bin/true", "args": ["daemon"]});
    assert_eq!(host.json("POST", "/host/update", &command).await.error().0, 503);
    host.host.set_replacer(Arc::new(Once(Mutex::new(Some(42)))));
    let replaced = host.json("POST", "/host/update", &command).await;
    assert_eq!(
        (replaced.status, &replaced.json()["pid"], &replaced.json()["path"]),
        (200, &json!(42), &json!("/bin/true"))
    );
    let failed = host.json("POST", "/host/update", &command).await;
    assert_eq!(failed.error(), (500, "unknown_error".into(), "the new daemon ended before it served".into()));
    assert_eq!(host.json("POST", "/host/update", &json!({})).await.status, 400);
    host.leave().await;
}

#[tokio::test]
async fn status_and_statistics_say_how_the_host_is() {
    let dir = Dir::new();
    let host = TestHost::start(&dir).await;
    host.client.add_job(&waiting_job("host1-1")).await.unwrap();
    let status = host.client.status().await.unwrap();
    assert_eq!((status.id.as_str(), status.jobs_active, status.pid), ("host1", 1, std::process::id()));
    assert_eq!(
        (status.url.as_str(), status.flags.unwrap().as_slice()),
        ("http://127.0.0.1:1113", ["--test".to_owned()].as_slice())
    );
    let stats = host.client.stats().await.unwrap();
    assert_eq!((stats.running_jobs_count, stats.total_jobs_count), (0, 1));
    assert!(stats.memory_total_bytes > 0 && stats.disk_total_bytes > 0);
    assert_eq!(host.get("/host/jobs-stats").await.json()["jobs"], json!([]));
    assert_eq!(host.get("/host/jobs/host1-1/stats").await.error().0, 404);
    host.leave().await;
}
