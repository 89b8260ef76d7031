//! Section 17 B: event streams.

use std::time::Duration;

use flynn_types::discoverd::{EventKind, Instance};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::rig::*;

fn kinds(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(kind, id)| ((*kind).to_owned(), (*id).to_owned())).collect()
}

#[tokio::test]
async fn b1_a_stream_of_an_unknown_service_is_just_current() {
    let node = single().await;
    let mut events = node.events("/services/new").await;
    assert_eq!(events.headers["content-type"], "text/event-stream; charset=utf-8");
    assert_eq!(events.next_text().await.unwrap(), r#"{"service":"new","kind":"current"}"#);
    // and it goes on
    node.add_service("new", "oldest").await;
    let id = node.register("new", 1).await;
    assert_eq!(events.kinds(2).await, kinds(&[("up", &id), ("leader", &id)]));
}

#[tokio::test]
async fn b2_b3_b4_the_replay_has_its_order() {
    let node = single().await;
    node.add_service("a", "oldest").await;
    let (first, second) = (node.register("a", 2).await, node.register("a", 1).await);
    node.put("/services/a/meta", json!({"data": 1})).await;
    let mut all = node.events("/services/a").await;
    let expected = [("up", &*first), ("up", &second), ("leader", &first), ("service_meta", ""), ("current", "")];
    assert_eq!(all.kinds(5).await, kinds(&expected));
    let mut instances = node.events("/services/a/instances").await;
    let mut leaders = node.events("/services/a/leader").await;
    assert_eq!(instances.kinds(2).await, kinds(&[("up", &first), ("up", &second)]));
    assert_eq!(leaders.kinds(1).await, kinds(&[("leader", &first)]));
    node.put("/services/a/meta", json!({"data": 1, "index": 1})).await;
    node.delete(&format!("/services/a/instances/{first}")).await.ok();
    assert_eq!(instances.kinds(1).await, kinds(&[("down", &first)]));
    assert_eq!(leaders.kinds(1).await, kinds(&[("leader", &second)]));
}

#[tokio::test]
async fn b5_silence_is_filled_with_one_line() {
    let node = single_with(|c| c.timing.keep_alive = Duration::from_millis(50)).await;
    let mut events = node.events("/services/a").await;
    events.next().await;
    assert_eq!(events.line().await.as_deref(), Some(":"));
    assert_eq!(events.line().await.as_deref(), Some(":"));
    node.add_service("a", "oldest").await;
    let id = node.register("a", 1).await;
    let mut line = events.line().await.unwrap();
    while line == ":" {
        line = events.line().await.unwrap();
    }
    assert!(line.starts_with("data: ") && line.contains(&id), "{line}");
}

#[tokio::test]
async fn b6_b7_b8_b9_one_command_gives_its_events_in_order() {
    let node = single().await;
    node.add_service("a", "oldest").await;
    let mut events = node.events("/services/a").await;
    events.next().await;
    let id = node.register("a", 1).await;
    let (up, leader) = (events.next().await, events.next().await);
    assert_eq!((up.kind, leader.kind), (EventKind::Up, EventKind::Leader));
    assert_eq!(up.instance, leader.instance);
    let index = up.instance.unwrap().index;
    // the same again: no event; changed: an update with the old index
    node.register("a", 1).await;
    let changed = Instance { meta: [("k".to_owned(), "v".to_owned())].into(), ..instance(1) };
    node.put_instance("a", &changed).await.ok();
    let update = events.next().await;
    assert_eq!((update.kind, update.instance.unwrap()), (EventKind::Update, Instance { index, ..changed }));
    node.put("/services/a/meta", json!({"data": 1, "leader_id": id})).await;
    assert_eq!(events.kinds(2).await, kinds(&[("service_meta", ""), ("leader", &id)]));
    node.delete(&format!("/services/a/instances/{id}")).await.ok();
    assert_eq!(events.kinds(1).await, kinds(&[("down", &id)]));
    assert_eq!(events.next_text().await.unwrap(), r#"{"service":"a","kind":"leader"}"#);
}

#[tokio::test]
async fn b10_deleting_a_service_takes_its_instances_down_without_a_leader_event() {
    let node = single().await;
    node.add_service("a", "oldest").await;
    let (first, second) = (node.register("a", 2).await, node.register("a", 1).await);
    let mut events = node.events("/services/a").await;
    events.kinds(4).await;
    node.delete("/services/a").await.ok();
    node.add_service("a", "oldest").await;
    let third = node.register("a", 3).await;
    assert_eq!(events.kinds(3).await, kinds(&[("down", &first), ("down", &second), ("up", &third)]));
}

#[tokio::test]
async fn b11_a_thousand_instances_are_replayed_while_other_requests_stay_fast() {
    let node = single().await;
    node.add_service("a", "oldest").await;
    let mut tasks = tokio::task::JoinSet::new();
    for part in 0..10 {
        let addr = node.addr;
        tasks.spawn(async move {
            for number in part * 100..part * 100 + 100 {
                let body = serde_json::to_string(&instance(number)).unwrap();
                request(addr, http::Method::PUT, "/services/a/instances/x", &[], &body).await.ok();
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(node.events("/services/a").await); // nobody reads yet
    }
    let begin = std::time::Instant::now();
    node.get("/ping").await.ok();
    node.register("a", 5).await;
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    for mut events in streams {
        let mut ups = 0;
        let last = loop {
            match events.next().await.kind {
                EventKind::Up => ups += 1,
                other => break other,
            }
        };
        assert_eq!((ups, last), (1000, EventKind::Leader));
        assert_eq!(events.next().await.kind, EventKind::Current);
    }
}

#[tokio::test]
async fn b12_a_reader_that_stops_reading_is_cut_and_delays_nobody() {
    let node = single_with(|c| c.timing.cut_after = Duration::from_millis(100)).await;
    node.add_service("a", "oldest").await;
    let mut lazy = tokio::net::TcpStream::connect(node.addr).await.unwrap();
    lazy.write_all(b"GET /services/a HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut first = [0; 64];
    lazy.read_exact(&mut first).await.unwrap(); // the stream has begun
    let mut eager = node.events("/services/a").await;
    eager.next().await;
    // Documents fill the socket's buffers first and the bytes that may wait then.
    let data = "x".repeat(400 << 10);
    let mut index = 0;
    for _ in 0..100 {
        let written = node.put("/services/a/meta", json!({"data": data, "index": index})).await;
        index = written.json::<serde_json::Value>()["index"].as_u64().unwrap();
        assert_eq!(eager.next().await.kind, EventKind::ServiceMeta);
    }
    // The connection ends, after whatever had been written to it.
    let mut rest = vec![0; 1 << 20];
    let drained = async { while lazy.read(&mut rest).await.is_ok_and(|n| n > 0) {} };
    tokio::time::timeout(limit(), drained).await.expect("the slow reader's connection is cut");
}

#[tokio::test]
async fn b13_streams_end_when_the_node_does() {
    let node = single().await;
    let mut events = node.events("/services/a").await;
    events.next().await;
    let stopping = tokio::spawn(async move { node.stop().await });
    assert_eq!(events.line().await, None);
    stopping.await.unwrap();
}
