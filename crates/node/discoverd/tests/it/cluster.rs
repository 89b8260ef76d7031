//! Clusters of three: how they come about, and what they survive.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use flynn_types::discoverd::EventKind;
use http::Method;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::rig::*;

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

async fn addr(listener: &TcpListener) -> SocketAddr {
    listener.local_addr().unwrap()
}

/// Waits until a node shows a service.
async fn shows(node: &TestNode, service: &str) {
    eventually(&format!("{service} at {}", node.addr), || async {
        let reply = node.get("/services").await;
        let services: Vec<String> = if reply.status == 200 { reply.json() } else { Vec::new() };
        if services.iter().any(|s| s == service) { Ok(()) } else { Err(format!("{services:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_find_each_other_and_show_each_others_writes() {
    let nodes = three().await;
    for (number, node) in nodes.iter().enumerate() {
        let service = format!("s{number}");
        node.add_service(&service, "oldest").await;
        for other in &nodes {
            shows(other, &service).await;
        }
        let consistent: Vec<String> = nodes[(number + 1) % 3].get("/services?consistent=true").await.json();
        assert!(consistent.contains(&service));
    }
    for node in &nodes {
        assert_eq!(node.get("/raft/leader").await.json::<Value>()["host"], json!(nodes[0].leader().await.to_string()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a25_c12_followers_redirect_at_their_advertised_address_and_forward_elsewhere() {
    let nodes = three().await;
    let leader = leader_of(&nodes).await;
    let follower = &nodes[(leader + 1) % 3];
    let url = format!("http://{}/services/a?x=1", follower.addr);
    let redirected = send(&url, Method::PUT, JSON, "{}").await.unwrap();
    assert_eq!((redirected.status, redirected.body.as_str()), (307, ""));
    assert_eq!(redirected.headers["location"], format!("http://{}/services/a?x=1", nodes[leader].addr).as_str());
    // the port is the one that the client used
    let mapped = [("content-type", "application/json"), ("host", "10.0.0.1:7777")];
    let redirected = send(&url, Method::PUT, &mapped, "{}").await.unwrap();
    assert_eq!(redirected.headers["location"], "http://127.0.0.1:7777/services/a?x=1");
    // a second listener, as on the bridge
    let second = listener().await;
    let bridge = addr(&second).await;
    follower.discoverd.listen(second);
    let at = |path: &str| format!("http://{bridge}{path}");
    send(&at("/services/a"), Method::PUT, JSON, "{}").await.unwrap().ok();
    // its own node shows it at once
    assert_eq!(follower.get("/services").await.json::<Value>(), json!(["a"]));
    let body = serde_json::to_string(&instance(1)).unwrap();
    send(&at("/services/a/instances/x"), Method::PUT, &[], &body).await.unwrap().ok();
    let index = follower.index().await;
    for _ in 0..3 {
        send(&at("/services/a/instances/x"), Method::PUT, &[], &body).await.unwrap().ok();
    }
    assert_eq!(follower.index().await, index, "heartbeats are no entries");
    let exists = send(&at("/services/a"), Method::PUT, JSON, "{}").await.unwrap();
    exists.error(409, "object_exists", "discoverd: service \"a\" already exists");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_leader_is_replaced_and_returns_with_its_store() {
    let mut nodes = three().await;
    nodes[0].add_service("a", "oldest").await;
    for round in 0..3 {
        let leader = nodes.remove(leader_of(&nodes).await);
        let others: Vec<SocketAddr> = nodes.iter().map(|n| n.addr).collect();
        let at = leader.addr;
        let (host, folder) = leader.stop().await;
        let begin = Instant::now();
        let client = flynn_discoverd_client::Client::from_list(&format!("{},{}", others[0], others[1])).unwrap();
        client.add_service(&format!("r{round}"), &Default::default()).await.unwrap();
        let outage = begin.elapsed();
        assert!(outage < Duration::from_secs(5), "{outage:?}");
        // A27: reads go on meanwhile
        let back = TcpListener::bind(at).await.unwrap();
        let node = node_with(&host, back, folder, &others, |_| {}).await;
        shows(&node, &format!("r{round}")).await;
        node.voters(3).await;
        nodes.push(node);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a19_a27_without_quorum_reads_go_on_and_writes_do_not() {
    let mut nodes = three().await;
    nodes[0].add_service("a", "oldest").await;
    nodes[0].register("a", 1).await;
    for node in &nodes {
        eventually("the instance", || async {
            if node.instances("a").await.len() == 1 { Ok(()) } else { Err(String::new()) }
        })
        .await;
    }
    let last = nodes.pop().unwrap();
    for node in nodes {
        node.stop().await;
    }
    eventually("no leader", || async {
        let reply = last.get("/raft/leader").await;
        if reply.status == 503 { Ok(()) } else { Err(format!("{reply:?}")) }
    })
    .await;
    assert_eq!(last.instances("a").await.len(), 1);
    last.put("/services/b", "{}").await.error(503, "service_unavailable", "discoverd: no known leader");
    let beat = last.put_instance("a", &instance(1)).await;
    beat.error(503, "service_unavailable", "discoverd: no known leader");
    assert_eq!(last.get("/services?consistent=true").await.status, 503);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_come_back_at_new_addresses() {
    let nodes = three().await;
    nodes[1].add_service("a", "oldest").await;
    let mut stores = Vec::new();
    for node in nodes {
        stores.push(node.stop().await);
    }
    let mut listeners = Vec::new();
    for _ in 0..3 {
        listeners.push(listener().await);
    }
    let mut peers = Vec::new();
    for listener in &listeners {
        peers.push(addr(listener).await);
    }
    let mut back = Vec::new();
    for (listener, (host, folder)) in listeners.into_iter().zip(stores) {
        back.push(node_with(&host, listener, folder, &peers, |_| {}).await);
    }
    let mut expected: Vec<String> = peers.iter().map(ToString::to_string).collect();
    expected.sort();
    for node in &back {
        node.leader().await;
        shows(node, "a").await;
        eventually("the new addresses", || async {
            let mut peers: Vec<String> = node.get("/raft/peers").await.json();
            peers.sort();
            if peers == expected { Ok(()) } else { Err(format!("{peers:?}")) }
        })
        .await;
    }
    back[0].add_service("b", "oldest").await;
    shows(&back[2], "b").await;
    // the new addresses are in the membership: all restart without any list
    let mut stores = Vec::new();
    for node in back {
        let at = node.addr;
        stores.push((at, node.stop().await));
    }
    let mut again = Vec::new();
    for (at, (host, folder)) in stores {
        again.push(node_with(&host, TcpListener::bind(at).await.unwrap(), folder, &[], |_| {}).await);
    }
    for node in &again {
        node.leader().await;
        shows(node, "b").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_returns_as_a_new_member_in_its_old_ones_place() {
    for victim in [0, 2] {
        let mut nodes = three().await;
        nodes[0].add_service("a", "oldest").await;
        let node = nodes.remove(victim);
        let at = node.addr;
        let (host, _) = node.stop().await; // the folder goes
        let peers: Vec<SocketAddr> = nodes.iter().map(|n| n.addr).chain([at]).collect();
        let node =
            node_with(&host, TcpListener::bind(at).await.unwrap(), tempfile::tempdir().unwrap(), &peers, |_| {}).await;
        shows(&node, "a").await;
        let votes = eventually("the new member votes", || async {
            let headers = node.get("/ping").await.headers;
            if headers.contains_key("discoverd-index") {
                Ok(node.voters(3).await)
            } else {
                Err("it does not".to_owned())
            }
        })
        .await;
        assert!(votes.contains(&at.to_string()));
        // the others can now lose one
        nodes.remove(0).stop().await;
        node.client().add_service("b", &Default::default()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_moved_is_found_again() {
    let mut nodes = three().await;
    let node = nodes.pop().unwrap();
    let (host, folder) = node.stop().await;
    let peers: Vec<SocketAddr> = nodes.iter().map(|n| n.addr).collect();
    let node = node_with(&host, listener().await, folder, &peers, |_| {}).await;
    nodes[0].add_service("a", "oldest").await;
    shows(&node, "a").await;
    for other in &nodes {
        eventually("its new address", || async {
            let peers: Vec<String> = other.get("/raft/peers").await.json();
            if peers.len() == 3 && peers.contains(&node.addr.to_string()) { Ok(()) } else { Err(format!("{peers:?}")) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fourth_node_learns_and_takes_over_from_a_voter_that_stays_away() {
    let mut nodes = three_with(|c| c.timing.replace_after = Duration::from_secs(2)).await;
    let peers: Vec<SocketAddr> = nodes.iter().map(|n| n.addr).collect();
    let fourth = node_with("h4", listener().await, tempfile::tempdir().unwrap(), &peers, |_| {}).await;
    nodes[0].add_service("a", "oldest").await;
    shows(&fourth, "a").await;
    let learner = fourth.get("/ping").await;
    assert!(!learner.headers.contains_key("discoverd-peers"), "a learner does not claim to be a peer (A24)");
    let gone = nodes.pop().unwrap();
    gone.stop().await;
    eventually("the fourth votes", || async {
        let peers: Vec<String> = fourth.get("/raft/peers").await.json();
        if peers.contains(&fourth.addr.to_string()) { Ok(()) } else { Err(format!("{peers:?}")) }
    })
    .await;
    assert_eq!(fourth.voters(3).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j2_j3_j4_operators_promote_and_demote() {
    let nodes = three().await;
    let leader = leader_of(&nodes).await;
    let mut events = nodes[leader].events("/services/a").await;
    events.next().await;
    nodes[leader].post("/raft/demote").await.ok();
    assert_eq!(events.line().await, None, "B13: streams end when the node is demoted");
    nodes[leader].post("/raft/demote").await.ok(); // idempotent
    let other = &nodes[(leader + 1) % 3];
    other.leader().await;
    assert!(!other.voters(2).await.contains(&nodes[leader].addr.to_string()));
    nodes[leader].post("/raft/promote").await.ok();
    other.voters(3).await;
    // by address, as the Go client's forced demotion spells it
    let victim = nodes[leader].addr;
    let path = format!("/raft/peers/http://{victim}");
    other.delete(&path).await.ok();
    assert!(!other.voters(2).await.contains(&victim.to_string()));
    let reply = other.put(&format!("/raft/peers/{victim}"), "").await;
    assert!(reply.json::<Value>()["last_index"].as_u64().unwrap() > 0);
    other.voters(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g13_no_election_takes_an_instance_down() {
    let ttl = Duration::from_secs(2);
    let tune = move |c: &mut flynn_discoverd::Config| {
        c.timing.ttl = ttl;
        c.timing.expiry_interval = Duration::from_millis(100);
    };
    let mut nodes = three_with(tune).await;
    nodes[0].add_service("a", "oldest").await;
    let addrs: Vec<String> = nodes.iter().map(|n| n.addr.to_string()).collect();
    let client = flynn_discoverd_client::Client::from_list(&addrs.join(",")).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let mut beats = tokio::task::JoinSet::new();
    for number in 0..20 {
        let (client, done) = (client.clone(), done.clone());
        beats.spawn(async move {
            while !done.load(Ordering::Relaxed) {
                client.put_instance("a", &instance(number)).await.unwrap();
                tokio::time::sleep(ttl / 4).await;
            }
        });
    }
    eventually("all are registered", || async {
        let count = nodes[0].instances("a").await.len();
        if count == 20 { Ok(()) } else { Err(count.to_string()) }
    })
    .await;
    for _ in 0..4 {
        let position = leader_of(&nodes).await;
        let leader = nodes.remove(position);
        let mut events = nodes[0].events("/services/a/instances").await;
        events.kinds(20).await;
        let at = leader.addr;
        let (host, folder) = leader.stop().await;
        let others: Vec<SocketAddr> = nodes.iter().map(|n| n.addr).collect();
        nodes[0].leader().await;
        let node = node_with(&host, TcpListener::bind(at).await.unwrap(), folder, &others, tune).await;
        shows(&node, "a").await;
        // longer than a heartbeat may be away
        let silent = tokio::time::timeout(ttl * 5 / 2, events.next()).await;
        assert!(silent.is_err(), "{silent:?}");
        nodes.push(node);
    }
    done.store(true, Ordering::Relaxed);
    while let Some(beat) = beats.join_next().await {
        beat.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c10_g4_no_index_is_used_twice_while_leaders_come_and_go() {
    let mut nodes = three().await;
    nodes[0].add_service("a", "oldest").await;
    let first: Value = nodes[0].put("/services/a/meta", json!({"data": "start", "index": 0})).await.json();
    let addrs: Vec<SocketAddr> = nodes.iter().map(|n| n.addr).collect();
    let done = Arc::new(AtomicBool::new(false));
    let wins = Arc::new(AtomicUsize::new(0));
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..6 {
        let wins = wins.clone();
        let (addr, done, mut index) = (addrs[writer % 3], done.clone(), first["index"].as_u64().unwrap());
        writers.spawn(async move {
            let mut won = Vec::new();
            let mut number = 0;
            while !done.load(Ordering::Relaxed) {
                number += 1;
                let body = json!({"data": [writer, number], "index": index}).to_string();
                let url = format!("http://{addr}/services/a/meta");
                let mut reply = send(&url, Method::PUT, JSON, &body).await;
                if let Ok(redirected) = reply.as_ref()
                    && redirected.status == 307
                {
                    let location = redirected.headers["location"].to_str().unwrap().to_owned();
                    reply = send(&location, Method::PUT, JSON, &body).await;
                }
                match reply {
                    Ok(reply) if reply.status == 200 => {
                        let new = reply.json::<Value>()["index"].as_u64().unwrap();
                        won.push((index, new));
                        wins.fetch_add(1, Ordering::Relaxed);
                        index = new;
                    }
                    _ => {
                        // refused, or nobody knows: read and go on
                        if let Ok(found) = send(&format!("{url}?consistent=true"), Method::GET, &[], "").await
                            && found.status == 200
                        {
                            index = found.json::<Value>()["index"].as_u64().unwrap();
                        }
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            }
            won
        });
    }
    for round in 0..4 {
        let before = wins.load(Ordering::Relaxed);
        eventually("some writes succeed", || async {
            let more = wins.load(Ordering::Relaxed) - before;
            if more >= 10 { Ok(()) } else { Err(more.to_string()) }
        })
        .await;
        let leader = nodes.remove(leader_of(&nodes).await);
        let at = leader.addr;
        let (host, folder) = leader.stop().await;
        let service = format!("r{round}");
        nodes[0].client().add_service(&service, &Default::default()).await.unwrap();
        nodes.push(node_with(&host, TcpListener::bind(at).await.unwrap(), folder, &addrs, |_| {}).await);
        shows(nodes.last().unwrap(), &service).await;
    }
    done.store(true, Ordering::Relaxed);
    let mut won = Vec::new();
    while let Some(writer) = writers.join_next().await {
        won.extend(writer.unwrap());
    }
    won.sort_unstable();
    assert!(won.len() >= 40, "{}", won.len());
    assert!(won.windows(2).all(|pair| pair[0].0 != pair[1].0), "two writes succeeded with one index: {won:?}");
    let last: Value = nodes[0].get("/services/a/meta?consistent=true").await.json();
    assert!(last["index"].as_u64().unwrap() >= won.last().unwrap().1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_list_never_makes_two_clusters() {
    let mut listeners = Vec::new();
    for _ in 0..3 {
        listeners.push(listener().await);
    }
    listeners.sort_by_key(|l| l.local_addr().unwrap());
    let peers: Vec<SocketAddr> = listeners.iter().map(|l| l.local_addr().unwrap()).collect();
    let lowest = listeners.remove(0);
    let mut nodes = Vec::new();
    for (number, listener) in listeners.into_iter().enumerate() {
        nodes
            .push(node_with(&format!("h{}", number + 2), listener, tempfile::tempdir().unwrap(), &peers, |_| {}).await);
    }
    // Two of three are up, but not the one that begins.
    let early = tokio::time::timeout(Duration::from_secs(2), nodes[0].leader()).await;
    assert!(early.is_err());
    nodes.push(node_with("h1", lowest, tempfile::tempdir().unwrap(), &peers, |_| {}).await);
    for node in &nodes {
        node.voters(3).await;
    }
    // The one that begins loses its disk while nobody else is there: it waits.
    let first = nodes.pop().unwrap();
    let at = first.addr;
    nodes[0].add_service("a", "oldest").await;
    let mut stores = Vec::new();
    for node in nodes {
        let at = node.addr;
        stores.push((at, node.stop().await));
    }
    first.stop().await;
    let wiped =
        node_with("h1", TcpListener::bind(at).await.unwrap(), tempfile::tempdir().unwrap(), &peers, |_| {}).await;
    let early = tokio::time::timeout(Duration::from_secs(2), wiped.leader()).await;
    assert!(early.is_err());
    let mut back = Vec::new();
    for (at, (host, folder)) in stores {
        back.push(node_with(&host, TcpListener::bind(at).await.unwrap(), folder, &peers, |_| {}).await);
    }
    shows(&wiped, "a").await;
    wiped.voters(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g4_streams_of_all_nodes_show_the_same_without_gap_or_repetition() {
    let nodes = three().await;
    nodes[0].add_service("a", "oldest").await;
    let mut streams = Vec::new();
    for node in &nodes {
        shows(node, "a").await;
        let mut events = node.events("/services/a").await;
        assert_eq!(events.next().await.kind, EventKind::Current);
        streams.push(events);
    }
    let mut writers = tokio::task::JoinSet::new();
    for (part, node) in nodes.iter().enumerate() {
        let client = flynn_discoverd_client::Client::from_list(&node.addr.to_string()).unwrap();
        writers.spawn(async move {
            for round in 0..30 {
                let id = instance(u16::try_from(part * 100 + round).unwrap());
                client.put_instance("a", &id).await.unwrap();
                if round % 2 == 0 {
                    client.remove_instance("a", &id.id).await.unwrap();
                }
            }
        });
    }
    while let Some(writer) = writers.join_next().await {
        writer.unwrap();
    }
    nodes[0].put("/services/a/meta", json!({"data": "end"})).await;
    let mut histories = Vec::new();
    for mut events in streams {
        let mut history = Vec::new();
        loop {
            let event = events.next().await;
            let end = event.kind == EventKind::ServiceMeta;
            history.push(event);
            if end {
                break;
            }
        }
        histories.push(history);
    }
    assert_eq!(histories[0], histories[1]);
    assert_eq!(histories[0], histories[2]);
    assert_eq!(histories[0].iter().filter(|e| e.kind == EventKind::Up).count(), 90);
}
