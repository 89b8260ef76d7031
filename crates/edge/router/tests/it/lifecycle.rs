//! Health, figures, and the end.

use std::sync::Arc;
use std::time::Duration;

use flynn_router::{Limits, Router, Settings};
use flynn_telemetry::Metrics;
use tokio::sync::Semaphore;

use crate::backend::Backend;
use crate::client::Client;
use crate::rig::{Rig, eventually, members, route, settings, within};

const HEALTH: &str = "/.well-known/flynn-router/health";

#[tokio::test]
async fn k1_k2_the_api_tells_status_and_figures_and_nothing_else() {
    let backend = Backend::named("b").await;
    let rig = Rig::start(vec![route("example.com", "s")], vec![members("s", &[backend.address])]).await;
    rig.get("example.com").await;
    let mut api = Client::connect(rig.serving.api_address().expect("there is an API")).await;
    let status = api.get("router", "/.well-known/status").await;
    assert_eq!(status.status, 200);
    let body: serde_json::Value = serde_json::from_slice(&status.body).expect("JSON");
    assert_eq!((&body["data"]["status"], &body["data"]["version"]), (&"healthy".into(), &"v1".into()));
    assert!(status.text().starts_with("{\n  \"data\"") && status.text().ends_with("}\n"));
    let root = api.get("router", "/").await;
    assert_eq!((root.status, root.text().as_str()), (404, "404 page not found\n"));
    let metrics = api.get("router", "/metrics").await.text();
    let line = "flynn_router_requests_total{route=\"example.com/\",service=\"s\",class=\"2xx\"} 1";
    assert!(metrics.lines().any(|found| found == line), "{metrics}");
    assert!(metrics.contains("flynn_router_request_duration_seconds_bucket{"), "{metrics}");
}

#[tokio::test]
async fn a_router_without_routes_is_unhealthy_until_it_knows_them() {
    let router = Router::new(settings(), &Metrics::new("flynn_router"));
    let changes = router.changes();
    let serving = router.listen("v1", flynn_router::Sockets::default()).expect("loopback has free ports");
    let health = async || Client::connect(serving.addresses()[0]).await.get("any", HEALTH).await.status;
    let status = async || {
        let api = serving.api_address().expect("there is an API");
        Client::connect(api).await.get("any", "/.well-known/status").await.status
    };
    assert_eq!((health().await, status().await), (503, 500));
    changes.send(flynn_router::source::Change::Routes(vec![])).await.expect("the router takes changes");
    eventually((200, 200), async || (health().await, status().await)).await;
}

#[tokio::test]
async fn the_health_check_shadows_no_app() {
    let backend = Backend::named("app").await;
    let rig = Rig::start(vec![route("example.com", "s")], vec![members("s", &[backend.address])]).await;
    assert_eq!(rig.get_path("example.com", HEALTH).await, "200 app");
    assert_eq!(rig.get_path("10.0.0.1", HEALTH).await, "200 ok\n");
}

#[tokio::test]
async fn k11_requests_that_run_at_the_end_are_finished() {
    let finish = Arc::new(Semaphore::new(0));
    let told = Arc::clone(&finish);
    let backend = Backend::scripted(move |mut backend| {
        let told = Arc::clone(&told);
        async move {
            backend.head_of_request().await;
            backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n").await;
            let _ = within(told.acquire()).await;
            backend.send("1\r\nb\r\n0\r\n\r\n").await;
        }
    })
    .await;
    let rig = Rig::start(vec![route("example.com", "s")], vec![members("s", &[backend.address])]).await;
    let (address, mut running, mut idle) = (rig.http(), rig.client().await, rig.client().await);
    running.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
    eventually(1, async || backend.connections()).await;
    assert_eq!(idle.get("nowhere", "/").await.status, 404);
    let drain = tokio::spawn(rig.serving.drain());
    eventually(true, async || tokio::net::TcpStream::connect(address).await.is_err()).await;
    finish.add_permits(1);
    let answer = running.answer(false).await;
    assert_eq!((answer.text().as_str(), answer.is_complete), ("ab", true));
    // A request that was on its way is answered, and told that it was the last.
    assert!(idle.is_closed().await);
    within(drain).await.expect("the drain ends");
    eventually(true, async || tokio::net::TcpStream::connect(address).await.is_err()).await;
}

#[tokio::test]
async fn a_request_on_an_open_connection_during_the_drain_is_the_last() {
    let backend = Backend::named("b").await;
    let rig = Rig::start(vec![route("example.com", "s")], vec![members("s", &[backend.address])]).await;
    let mut client = rig.client().await;
    assert_eq!(client.get("example.com", "/").await.header("connection"), None);
    let drain = tokio::spawn(rig.serving.drain());
    tokio::task::yield_now().await;
    let address = client.stream.peer_addr().expect("connected");
    eventually(true, async || tokio::net::TcpStream::connect(address).await.is_err()).await;
    let answer = client.get("example.com", "/").await;
    assert_eq!((answer.text().as_str(), answer.header("connection")), ("b", Some("close")));
    within(drain).await.expect("the drain ends");
}

#[tokio::test]
async fn tunnels_end_with_the_drain() {
    let backend = Backend::scripted(async |mut backend| {
        backend.head_of_request().await;
        backend.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n").await;
        backend.rest().await;
    })
    .await;
    let limits = Limits { drain: Duration::from_millis(300), ..Limits::default() };
    let services = vec![members("s", &[backend.address])];
    let rig = Rig::with(Settings { limits, ..settings() }, vec![route("example.com", "s")], services).await;
    let mut client = rig.client().await;
    client.send("GET / HTTP/1.1\r\nHost: example.com\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n").await;
    assert_eq!(client.head().await.status, 101);
    within(rig.serving.drain()).await;
    assert!(client.is_closed().await);
}
