//! Section 17 A: the HTTP API.

use http::Method;
use serde_json::{Value, json};

use crate::rig::*;

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

#[tokio::test]
async fn a1_a5_services_are_created_once_and_deleted_once() {
    let node = single().await;
    node.put("/services/abc", "{}").await.ok();
    node.put("/services/abc", "{}").await.error(409, "object_exists", "discoverd: service \"abc\" already exists");
    node.delete("/services/abc").await.ok();
    node.delete("/services/abc").await.error(404, "object_not_found", "discoverd: service \"abc\" not found");
}

#[tokio::test]
async fn a2_a3_a4_names_content_types_and_bodies_are_checked_in_this_order() {
    let node = single().await;
    let name = "discoverd: service must be lowercase alphanumeric plus dash";
    for path in ["/services/ABC", "/services/o_k"] {
        request(node.addr, Method::PUT, path, &[], "{]").await.error(400, "validation_error", name);
        node.delete(path).await.error(400, "validation_error", name);
    }
    node.put("/services/ok-1-", "{}").await.ok();
    let untyped = request(node.addr, Method::PUT, "/services/abc", &[], "{]").await;
    untyped.error(400, "validation_error", "Content-Type must be application/json");
    for body in ["{]", r#"{"leader_type":5}"#, "", "{"] {
        let syntax = "The provided JSON input is invalid";
        node.put("/services/abc", body).await.error(400, "syntax_error", syntax);
        node.put("/services/ok-1-/meta", if body.contains(':') { "[" } else { body }).await.error(
            400,
            "syntax_error",
            syntax,
        );
    }
}

#[tokio::test]
async fn a6_c11_w5_a_deleted_service_leaves_nothing() {
    let node = single().await;
    node.add_service("abc", "oldest").await;
    node.register("abc", 1).await;
    assert_eq!(node.put("/services/abc/meta", json!({"data": 1})).await.status, 200);
    node.delete("/services/abc").await.ok();
    node.get("/services/abc/instances").await.error(404, "object_not_found", "service not found: \"abc\"");
    node.get("/services/abc/leader").await.error(404, "object_not_found", "no leader found");
    node.get("/services/abc/meta").await.error(404, "object_not_found", "service meta not found");
    // the owner of the instance notices
    node.put_instance("abc", &instance(1)).await.error(404, "object_not_found", "discoverd: service \"abc\" not found");
    node.add_service("abc", "oldest").await;
    node.get("/services/abc/meta").await.error(404, "object_not_found", "service meta not found");
    assert_eq!(node.put("/services/abc/meta", json!({"data": 2, "index": 0})).await.status, 200);
}

#[tokio::test]
async fn a7_a8_a9_instances_are_checked_and_the_id_in_the_body_counts() {
    let node = single().await;
    node.add_service("a", "oldest").await;
    let body = serde_json::to_string(&instance(1)).unwrap();
    request(node.addr, Method::PUT, "/services/a/instances/whatever", &[], &body).await.ok();
    assert_eq!(node.instances("a").await[0].id, instance(1).id);
    for (id, addr, proto, message) in [
        ("x", "10.1.1.3:80", "http", "discoverd: instance id is incorrect, expected 4997de81c126698ed54e71920861b82d"),
        ("x", "10.1.1.3", "http", "address 10.1.1.3: missing port in address"),
        ("x", "10.1.1.3:80", "HTTP", "discoverd: proto must be lowercase alphanumeric"),
        ("x", "10.1.1.3:80", "", "discoverd: proto must be set"),
    ] {
        let body = json!({"id": id, "addr": addr, "proto": proto});
        node.put("/services/a/instances/x", body).await.error(400, "validation_error", message);
    }
    let missing = node.put_instance("x", &instance(1)).await;
    missing.error(404, "object_not_found", "discoverd: service \"x\" not found");
}

#[tokio::test]
async fn a10_a11_a12_instances_are_listed_by_age() {
    let node = single().await;
    node.add_service("a", "oldest").await;
    node.get("/services/a/instances").await.error(404, "object_not_found", "service not found: \"a\"");
    let unknown = node.delete("/services/a/instances/unknown").await;
    unknown.error(404, "object_not_found", "discoverd: service \"a\" not found");
    let sent = json!({"id": instance(9).id, "addr": instance(9).addr, "proto": "tcp", "index": 1, "meta": {"k": "v"}});
    node.put("/services/a/instances/x", sent).await.ok();
    node.register("a", 3).await;
    node.register("a", 5).await;
    let listed: Value = node.get("/services/a/instances").await.json();
    let ids: Vec<&str> = listed.as_array().unwrap().iter().map(|i| i["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [instance(9).id, instance(3).id, instance(5).id]);
    let indexes: Vec<u64> = listed.as_array().unwrap().iter().map(|i| i["index"].as_u64().unwrap()).collect();
    assert!(indexes[0] > 1 && indexes.is_sorted(), "{indexes:?}");
    assert_eq!(listed[0]["meta"], json!({"k": "v"}));
    assert!(listed[1].get("meta").is_none());
    node.delete("/services/a/instances/unknown").await.ok();
    for number in [9, 3, 5] {
        node.delete(&format!("/services/a/instances/{}", instance(number).id)).await.ok();
    }
    node.delete("/services/a/instances/unknown").await.ok();
}

#[tokio::test]
async fn a13_a14_metadata_is_compared_and_set() {
    let node = single().await;
    let path = "/services/a/meta";
    node.put(path, json!({"data": 1})).await.error(404, "object_not_found", "discoverd: service \"a\" not found");
    node.add_service("a", "oldest").await;
    let missing = "Service metadata for \"a\" does not exist, use index=0 to set";
    node.put(path, json!({"data": 1, "index": 5})).await.error(412, "precondition_failed", missing);
    let created: Value = node.put(path, json!({"data": {"a": 1}, "index": 0})).await.json();
    let index = created["index"].as_u64().unwrap();
    assert_eq!(created, json!({"data": {"a": 1}, "index": index}));
    assert!(index > 0);
    let exists = "Service metadata for \"a\" already exists, use index=n to set";
    node.put(path, json!({"data": 2})).await.error(409, "object_exists", exists);
    let wrong = "Service metadata for \"a\" exists, but wrong index provided";
    node.put(path, json!({"data": 2, "index": index + 1})).await.error(412, "precondition_failed", wrong);
    let written: Value = node.put(path, json!({"data": 2, "index": index})).await.json();
    assert!(written["index"].as_u64().unwrap() > index);
    assert_eq!(node.get(path).await.json::<Value>(), written);
}

#[tokio::test]
async fn a15_a16_a17_metadata_reads_back_as_go_stores_it() {
    let node = single().await;
    node.add_service("a", "manual").await;
    let reply = node.put("/services/a/meta", r#"{"data":{"b" : "<x>", "a":[1, 2]}, "leader_id":"l1"}"#).await;
    let index = reply.json::<Value>()["index"].as_u64().unwrap();
    let stored = r#"{"b":"\u003cx\u003e","a":[1,2]}"#;
    assert_eq!(reply.body, format!(r#"{{"data":{stored},"index":{index},"leader_id":"l1"}}"#));
    assert_eq!(node.get("/services/a/meta").await.body, format!(r#"{{"data":{stored},"index":{index}}}"#));
    let reply = node.put("/services/a/meta", json!({"index": index})).await;
    let index = reply.json::<Value>()["index"].as_u64().unwrap();
    assert_eq!(reply.body, format!(r#"{{"data":null,"index":{index}}}"#));
    assert_eq!(node.get("/services/a/meta").await.body, reply.body);
}

#[tokio::test]
async fn a18_leaders_are_appointed_in_manual_services_only() {
    let node = single().await;
    node.add_service("old", "oldest").await;
    node.add_service("man", "manual").await;
    for service in ["old", "missing"] {
        let path = format!("/services/{service}/leader");
        let message = "service leader election type is not manual";
        request(node.addr, Method::PUT, &path, &[], "{]").await.error(400, "validation_error", message);
    }
    let untyped = request(node.addr, Method::PUT, "/services/man/leader", &[], "{]").await;
    untyped.error(400, "validation_error", "Content-Type must be application/json");
    node.put("/services/man/leader", json!({"id": "nobody"})).await.ok();
    node.get("/services/man/leader").await.error(404, "object_not_found", "no leader found");
    let id = node.register("man", 1).await;
    node.get("/services/man/leader").await.error(404, "object_not_found", "no leader found");
    node.put("/services/man/leader", json!({ "id": id })).await.ok();
    assert_eq!(node.get("/services/man/leader").await.json::<Value>()["id"], json!(id));
}

#[tokio::test]
async fn a19_without_a_quorum_there_is_no_leader() {
    let peer = listener().await.local_addr().unwrap(); // closed again: nobody is there
    let node = node_with("h1", listener().await, tempfile::tempdir().unwrap(), &[peer], |_| {}).await;
    let reply = node.get("/raft/leader").await;
    reply.error(503, "service_unavailable", "discoverd: no known leader");
    assert_eq!(reply.json::<Value>()["retry"], json!(true));
    let reply = node.put("/services/a", "{}").await;
    reply.error(503, "service_unavailable", "discoverd: no known leader");
    assert_eq!(reply.json::<Value>()["retry"], json!(true));
}

#[tokio::test]
async fn a19_a20_a22_a23_a24_a_node_tells_about_itself() {
    let node = single().await;
    assert_eq!(node.get("/raft/leader").await.json::<Value>(), json!({"host": node.addr.to_string()}));
    let peers = node.get("/raft/peers").await;
    assert_eq!(peers.json::<Value>(), json!([node.addr.to_string()]));
    assert_eq!(peers.headers["discoverd-peers"], node.addr.to_string().as_str());
    assert!(node.index().await > 0);
    assert_eq!(node.get("/services").await.json::<Value>(), json!([]));
    node.add_service("b", "oldest").await;
    node.add_service("a", "oldest").await;
    assert_eq!(node.get("/services").await.json::<Value>(), json!(["a", "b"]));
    let status = node.get("/.well-known/status").await;
    assert_eq!(status.json::<Value>()["data"]["status"], "healthy");
    assert!(status.body.starts_with("{\n  \"data\"") && status.body.ends_with("}\n"), "{}", status.body);
    let missing = node.get("/services/none/meta").await;
    assert!(missing.headers.contains_key("discoverd-index"));
}

#[tokio::test]
async fn a21_unknown_paths_and_methods_are_not_found_as_text() {
    let node = single().await;
    node.get("/ping").await.ok();
    let cases = [(Method::POST, "/services/abc"), (Method::GET, "/services/abc/"), (Method::GET, "/nothing")];
    for (method, path) in cases {
        let reply = request(node.addr, method, path, JSON, "").await;
        assert_eq!((reply.status, reply.body.as_str()), (404, "404 page not found\n"));
        assert_eq!(reply.headers["content-type"], "text/plain; charset=utf-8");
    }
    assert_eq!(request(node.addr, Method::HEAD, "/ping", &[], "").await.status, 404);
    let moved = send(&format!("http://{}/PING?x=1", node.addr), Method::GET, &[], "").await.unwrap();
    assert_eq!((moved.status, &moved.headers["location"]), (301, &"/ping?x=1".parse().unwrap()));
}

#[tokio::test]
async fn a28_after_shutdown_open_connections_are_refused_and_new_ones_not_accepted() {
    let node = single_with(|c| c.register = true).await;
    eventually("own registration", || async {
        if node.instances("discoverd").await.len() == 1 { Ok(()) } else { Err("none".to_owned()) }
    })
    .await;
    let stream = tokio::net::TcpStream::connect(node.addr).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    let connection = tokio::spawn(connection);
    let get = |path: &str| http::Request::get(path.to_owned()).header("host", "x").body(String::new()).unwrap();
    assert_eq!(sender.send_request(get("/ping")).await.unwrap().status(), 200);
    let ended = node.post("/shutdown").await;
    assert!(ended.json::<Value>()["last_index"].as_u64().unwrap() > 0);
    sender.ready().await.unwrap();
    let refused = sender.send_request(get("/ping")).await.unwrap();
    assert_eq!(refused.status(), 503);
    eventually("the listener is closed", || async {
        match tokio::net::TcpStream::connect(node.addr).await {
            Ok(_) => Err("accepted".to_owned()),
            Err(_) => Ok(()),
        }
    })
    .await;
    tokio::time::timeout(limit(), node.discoverd.ended()).await.unwrap();
    node.discoverd.shutdown().await;
    connection.abort();
}

#[tokio::test]
async fn a29_known_peers_can_be_added_and_unknown_ones_removed() {
    let node = single().await;
    let reply = node.put(&format!("/raft/peers/{}", node.addr), "").await;
    assert!(reply.json::<Value>()["last_index"].as_u64().unwrap() > 0);
    node.delete("/raft/peers/10.9.9.9:1111").await.ok();
    node.post("/raft/promote").await.ok();
    // W12
    let last = "discoverd: the last peer cannot be removed";
    node.delete(&format!("/raft/peers/{}", node.addr)).await.error(409, "conflict", last);
    node.post("/raft/demote").await.error(409, "conflict", last);
}

#[tokio::test]
async fn w19_bodies_are_limited() {
    let node = single().await;
    node.add_service("a", "oldest").await;
    let long = "x".repeat(600 << 10);
    let reply = node.put("/services/a/meta", json!({ "data": long })).await;
    reply.error(400, "request_body_too_big", "service metadata is longer than 524288 bytes");
    let longer = "x".repeat(2 << 20);
    let reply = node.put("/services/a/meta", json!({ "data": longer })).await;
    reply.error(400, "request_body_too_big", "the request body is longer than 1048576 bytes");
}

#[tokio::test]
async fn connections_that_do_not_speak_http_are_closed() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let node = single().await;
    let mut stream = tokio::net::TcpStream::connect(node.addr).await.unwrap();
    stream.write_all(b"\xffraft").await.unwrap();
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(limit(), stream.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty());
}
