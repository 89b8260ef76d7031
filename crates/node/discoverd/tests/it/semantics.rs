//! Section 17 C: what the registry does, on one node.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::rig::*;

#[tokio::test]
async fn c1_c5_the_oldest_leads_and_who_returns_is_young() {
    let node = single().await;
    node.add_service("a", "oldest").await;
    let (first, second) = (node.register("a", 1).await, node.register("a", 2).await);
    let leader = || async { node.get("/services/a/leader").await.json::<Value>()["id"].as_str().unwrap().to_owned() };
    assert_eq!(leader().await, first);
    node.delete(&format!("/services/a/instances/{first}")).await.ok();
    assert_eq!(leader().await, second);
    node.register("a", 1).await;
    assert_eq!(leader().await, second);
    let ids: Vec<String> = node.instances("a").await.into_iter().map(|i| i.id).collect();
    assert_eq!(ids, [second, first]);
}

#[tokio::test]
async fn c2_c3_c4_silence_ends_an_instance_and_heartbeats_keep_it_without_log_entries() {
    let ttl = Duration::from_millis(1500);
    let node = single_with(|c| {
        c.timing.ttl = ttl;
        c.timing.expiry_interval = Duration::from_millis(50);
    })
    .await;
    node.add_service("a", "oldest").await;
    let started = Instant::now();
    node.register("a", 1).await;
    node.register("a", 2).await;
    let index = eventually("the cluster has its name, an entry of its own", || async {
        let before = node.index().await;
        tokio::time::sleep(Duration::from_millis(400)).await; // longer than between two reviews
        if before == node.index().await { Ok(before) } else { Err(before.to_string()) }
    })
    .await;
    // after the change of leader nothing expires for twice the time, then what was silent does
    let mut last_beat = Instant::now();
    let quiet = eventually("the silent one is gone", || async {
        node.register("a", 1).await;
        let left = node.instances("a").await.len();
        if left == 1 { Ok(started.elapsed()) } else { Err(format!("{left} left")) }
    })
    .await;
    assert!(quiet >= 2 * ttl - Duration::from_millis(500), "{quiet:?}");
    assert_eq!(node.index().await, index + 1, "one entry for the end, none for heartbeats");
    // now the other one
    node.register("a", 1).await;
    let silent_since = Instant::now();
    last_beat = last_beat.max(silent_since);
    let mut events = node.events("/services/a").await;
    assert_eq!(events.kinds(3).await.len(), 3);
    let (down, leader) = (events.next().await, events.next().await);
    assert_eq!(
        (down.kind.to_string(), leader.kind.to_string(), leader.instance),
        ("down".into(), "leader".into(), None)
    );
    let silence = last_beat.elapsed();
    assert!(silence >= ttl && silence < ttl + Duration::from_millis(1500), "{silence:?}");
}

#[tokio::test]
async fn c6_c7_manual_leaders_stay_appointed() {
    let node = single().await;
    node.add_service("m", "manual").await;
    let id = node.register("m", 1).await;
    node.put("/services/m/leader", json!({ "id": id })).await.ok();
    let mut events = node.events("/services/m").await;
    events.kinds(3).await;
    node.register("m", 2).await;
    node.delete(&format!("/services/m/instances/{id}")).await.ok();
    node.get("/services/m/leader").await.error(404, "object_not_found", "no leader found");
    node.register("m", 1).await;
    assert_eq!(node.get("/services/m/leader").await.json::<Value>()["id"], json!(id));
    let kinds: Vec<String> = events.kinds(3).await.into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["up", "down", "up"]);
}

#[tokio::test]
async fn c8_an_override_of_the_oldest_lasts_until_the_next_change() {
    let node = single().await;
    node.add_service("a", "oldest").await;
    let (first, second) = (node.register("a", 1).await, node.register("a", 2).await);
    let leader = || async { node.get("/services/a/leader").await.json::<Value>()["id"].as_str().unwrap().to_owned() };
    node.put("/services/a/meta", json!({"data": 1, "leader_id": second})).await;
    assert_eq!(leader().await, second);
    node.register("a", 2).await; // a heartbeat is no change
    assert_eq!(leader().await, second);
    node.delete("/services/a/instances/unknown").await.ok();
    assert_eq!(leader().await, first);
}

#[tokio::test]
async fn c9_everything_survives_a_restart() {
    let node = single().await;
    node.add_service("a", "manual").await;
    let id = node.register("a", 1).await;
    node.put("/services/a/meta", json!({"data": {"x": 1}, "leader_id": id})).await;
    let before = (node.get("/services/a/meta").await.body, node.get("/services/a/instances").await.body);
    let (host, folder) = node.stop().await;
    let node = node_with(&host, listener().await, folder, &[], |_| {}).await;
    node.leader().await;
    let after = (node.get("/services/a/meta").await.body, node.get("/services/a/instances").await.body);
    assert_eq!(before, after);
    assert_eq!(node.get("/services/a/leader").await.json::<Value>()["id"], json!(id));
    node.add_service("b", "oldest").await;
}

#[tokio::test]
async fn c10_of_many_writers_with_one_index_one_succeeds() {
    let node = single().await;
    node.add_service("a", "oldest").await;
    let mut index = 0;
    for round in 0..5 {
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..16 {
            let addr = node.addr;
            let body = json!({"data": [round, writer], "index": index}).to_string();
            writers.spawn(async move {
                let headers = [("content-type", "application/json")];
                request(addr, http::Method::PUT, "/services/a/meta", &headers, &body).await
            });
        }
        let mut written = Vec::new();
        while let Some(reply) = writers.join_next().await {
            let reply = reply.unwrap();
            match reply.status {
                200 => written.push(reply.json::<Value>()["index"].as_u64().unwrap()),
                409 | 412 => {}
                other => panic!("{other}: {reply:?}"),
            }
        }
        assert_eq!(written.len(), 1);
        index = written[0];
    }
}

#[tokio::test]
async fn the_store_can_be_opened_by_another_life_as_soon_as_the_first_has_ended() {
    let mut node = single().await;
    node.add_service("a", "oldest").await;
    for _ in 0..5 {
        let (host, folder) = node.stop().await;
        redb::Database::open(folder.path().join("sub/raft.redb")).expect("the store is closed");
        node = node_with(&host, listener().await, folder, &[], |_| {}).await;
        assert_eq!(node.get("/services?consistent=true").await.json::<Value>(), json!(["a"]));
    }
}

#[tokio::test]
async fn a_damaged_store_is_moved_aside() {
    let (host, folder) = single().await.stop().await;
    let path = folder.path().join("sub/raft.redb");
    std::fs::write(&path, vec![7; 100_000]).unwrap();
    let node = node_with(&host, listener().await, folder, &[], |_| {}).await;
    node.leader().await;
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 2);
}
