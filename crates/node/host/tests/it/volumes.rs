//! Volumes over the API, and from one host to another.

use async_trait::async_trait;
use flynn_host::Peers;
use flynn_types::host::{PullCoordinate, SNAPSHOT_STREAM_MIME, VolumeEventKind};
use futures_util::StreamExt as _;
use serde_json::json;
use std::sync::Arc;

use crate::support::{Dir, Options, TestHost};

struct OneHost(String);

#[async_trait]
impl Peers for OneHost {
    async fn host_url(&self, id: &str) -> Result<Option<String>, String> {
        Ok((id == "host1").then(|| self.0.clone()))
    }
}

#[tokio::test]
async fn a_volume_is_made_shown_and_destroyed() {
    let dir = Dir::new();
    let host = TestHost::start(&dir).await;
    let mut events = host.client.volume_events().await.unwrap();
    let made = host.json("POST", "/storage/providers/default/volumes", &json!({"meta": {"a": "b"}})).await;
    assert_eq!((made.status, &made.json()["type"], &made.json()["meta"]), (200, &json!("data"), &json!({"a": "b"})));
    let id = made.json()["id"].as_str().unwrap().to_owned();
    assert!(host.volumes.mount_path(&id).unwrap().is_dir());
    assert_eq!(host.get("/storage/volumes").await.json()[0]["id"], id.as_str());
    let again = host.json("POST", "/storage/providers/default/volumes", &json!({ "id": id })).await;
    assert_eq!(again.error().0, 409);
    assert_eq!(host.raw("POST", "/storage/providers/default/volumes", &[], b"").await.status, 200);
    let snapshot = host.raw("PUT", &format!("/storage/volumes/{id}/snapshot"), &[], b"").await.json();
    let busy = host.raw("DELETE", &format!("/storage/volumes/{id}"), &[], b"").await;
    assert_eq!((busy.error().0, busy.error().1.as_str()), (409, "conflict"));
    for id in [snapshot["id"].as_str().unwrap(), &id] {
        assert_eq!(host.raw("DELETE", &format!("/storage/volumes/{id}"), &[], b"").await.status, 200);
    }
    let mut seen = Vec::new();
    while seen.len() < 5 {
        seen.push(events.next().await.unwrap().unwrap().kind);
    }
    let [create, destroy] = [VolumeEventKind::Create, VolumeEventKind::Destroy];
    assert_eq!(seen, [create, create, create, destroy, destroy]);
    host.leave().await;
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let dir = Dir::new();
    let host = TestHost::start(&dir).await;
    host.json("POST", "/storage/providers/default/volumes", &json!({"id": "v"})).await;
    let accept = [("accept", SNAPSHOT_STREAM_MIME)];
    for (method, path, headers, body, error) in [
        ("GET", "/storage/volumes/x", &[][..], json!({}), (404, "no volume with id \"x\"")),
        ("DELETE", "/storage/volumes/x", &[], json!({}), (404, "no volume with id \"x\"")),
        ("PUT", "/storage/volumes/x/snapshot", &[], json!({}), (404, "no volume with id \"x\"")),
        ("GET", "/storage/volumes/x/send", &accept, json!([]), (404, "no volume with id \"x\"")),
        ("GET", "/storage/volumes/v/send", &accept, json!([]), (400, "can only send a snapshot")),
        (
            "GET",
            "/storage/volumes/v/send",
            &[],
            json!([]),
            (400, "must be prepared to accept a content type of \"application/vnd.zfs.snapshot-stream\""),
        ),
        ("POST", "/storage/providers/x/volumes", &[], json!({}), (404, "no volume provider with id \"x\"")),
    ] {
        let reply = host.raw(method, path, headers, body.to_string().as_bytes()).await;
        let (status, _, message) = reply.error();
        assert_eq!((status, message.as_str()), error, "{method} {path}");
    }
    let from = json!({"host_id": "host1", "snapshot_id": "s"});
    let early = host.json("POST", "/storage/volumes/v/pull_snapshot", &from).await;
    assert_eq!(early.error(), (503, "service_unavailable".into(), "cluster client is not configured".into()));
    for (spec, status, message) in [
        (json!({"id": "p"}), 400, "kind must not be blank"),
        (json!({"id": "p", "kind": "floppy"}), 400, "kind \"floppy\" is not known"),
        (json!({"id": "default", "kind": "zfs"}), 409, "provider \"default\" already exists"),
    ] {
        let (got, _, text) = host.json("POST", "/storage/providers", &spec).await.error();
        assert_eq!((got, text.as_str()), (status, message));
    }
    host.leave().await;
}

#[tokio::test]
async fn a_snapshot_moves_between_hosts_and_later_ones_are_smaller() {
    let (source_dir, target_dir) = (Dir::new(), Dir::new());
    let source = TestHost::start(&source_dir).await;
    let target = TestHost::start_with(&target_dir, Options { id: "host2", ..Options::default() }).await;
    target.host.set_peers(Arc::new(OneHost(format!("http://{}", source.address))));
    for host in [&source, &target] {
        host.json("POST", "/storage/providers/default/volumes", &json!({"id": "v"})).await;
    }
    let file = |host: &TestHost, name: &str| host.volumes.mount_path("v").unwrap().join(name);
    let big: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(file(&source, "big"), &big).unwrap();
    let mut sizes = Vec::new();
    for round in ["one", "two"] {
        std::fs::write(file(&source, "note"), round).unwrap();
        let snapshot = source.client.snapshot_volume("v").await.unwrap().id;
        let haves = target.volumes.haves("v").unwrap();
        let mut stream = source.client.send_snapshot(&snapshot, &haves).await.unwrap().bytes;
        let mut size = 0;
        while let Some(bytes) = stream.next().await {
            size += bytes.unwrap().len();
        }
        sizes.push(size);
        let from = PullCoordinate { host_id: "host1".into(), snapshot_id: snapshot.clone() };
        let pulled = target.client.pull_snapshot("v", &from).await.unwrap();
        assert_ne!(pulled.id, snapshot);
        assert_eq!(std::fs::read_to_string(file(&target, "note")).unwrap(), round);
        assert!(std::fs::read(file(&target, "big")).unwrap() == big);
        assert!(target.volumes.get(&pulled.id).is_some());
    }
    assert!(sizes[0] > big.len() && sizes[1] < big.len() / 10, "{sizes:?}");
    for (host_id, snapshot_id, status) in [("host1", "nothing", 404), ("host9", "s", 404), ("host1", "../x", 404)] {
        let from = json!({ "host_id": host_id, "snapshot_id": snapshot_id });
        let reply = target.json("POST", "/storage/volumes/v/pull_snapshot", &from).await;
        assert_eq!(reply.error().0, status, "{host_id} {snapshot_id} {reply:?}");
    }
    source.leave().await;
    target.leave().await;
}
