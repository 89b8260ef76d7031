//! What clients may not do too much, too slowly or at all.

use std::time::Duration;

use flynn_router::{Limits, Settings};
use flynn_types::router::Route;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::backend::Backend;
use crate::client::from;
use crate::rig::{Rig, eventually, members, route, settings, within};
use crate::tls::{Authority, http2_of, with_certificate};

fn ended(rig: &Rig, reason: &str) -> Option<f64> {
    rig.metric(&format!("flynn_router_clients_ended_total{{reason=\"{reason}\"}} "))
}

async fn rig_with(limits: Limits, routes: Vec<Route>, backend: &Backend) -> Rig {
    Rig::with(Settings { limits, ..settings() }, routes, vec![members("s", &[backend.address])]).await
}

#[tokio::test]
async fn a_route_in_maintenance_says_so_and_leaves_its_backends_alone() {
    let backend = Backend::named("b").await;
    let rig = Rig::start(vec![route("example.com", "s")], vec![members("s", &[backend.address])]).await;
    let mut client = rig.client().await;
    assert_eq!(client.get("example.com", "/").await.text(), "b");
    rig.set(Route { maintenance: true, ..route("example.com", "s") }).await;
    let id = "12345678901234567890";
    let mut ask = async |accept: &str| {
        let lines = format!("Host: example.com\r\nAccept: {accept}\r\nX-Request-Id: {id}");
        let answer = client.ask(format!("GET / HTTP/1.1\r\n{lines}\r\n\r\n")).await;
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("120")), "{accept}");
        assert_eq!(answer.header("x-request-id"), Some(id));
        answer
    };
    assert_eq!(ask("*/*").await.text(), "Down for maintenance\n");
    let page = ask("text/html,*/*;q=0.8").await;
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.text().contains("maintenance") && page.text().contains(id), "{}", page.text());
    let json: serde_json::Value = serde_json::from_slice(&ask("application/json").await.body).expect("JSON");
    assert_eq!((&json["code"], &json["retry"], &json["request_id"]), (&"maintenance".into(), &true.into(), &id.into()));
    assert_eq!(backend.seen().len(), 1);
    rig.set(route("example.com", "s")).await;
    assert_eq!(rig.get("example.com").await, "200 b");
}

#[tokio::test]
async fn bodies_over_a_routes_limit_are_refused_however_they_come() {
    let backend = Backend::named("b").await;
    let limited = Route { max_body_bytes: 1000, ..route("example.com", "s") };
    let rig = rig_with(Limits::default(), vec![limited, route("other.com", "s")], &backend).await;
    let post = |host: &str, lines: &str| format!("POST / HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n\r\n");
    let chunk = format!("1f4\r\n{}\r\n", "x".repeat(500));
    for (name, request, status) in [
        ("a length that fits", post("example.com", "Content-Length: 1000") + &"x".repeat(1000), 200),
        ("a length that does not", post("example.com", "Content-Length: 1001"), 413),
        ("a length, asked first", post("example.com", "Content-Length: 1001\r\nExpect: 100-continue"), 413),
        ("a body behind it", post("example.com", "Content-Length: 2000000") + &"x".repeat(2_000_000), 413),
        ("chunks that fit", post("example.com", "Transfer-Encoding: chunked") + &chunk + &chunk + "0\r\n\r\n", 200),
        ("chunks that do not", post("example.com", "Transfer-Encoding: chunked") + &chunk.repeat(3), 413),
        ("more chunks", post("example.com", "Transfer-Encoding: chunked") + &chunk.repeat(4000), 413),
        ("another route", post("other.com", "Content-Length: 1001") + &"x".repeat(1001), 200),
    ] {
        let mut client = rig.client().await;
        let answer = client.ask(request).await;
        assert_eq!(answer.status, status, "{name}");
        if status == 413 {
            assert_eq!((answer.text().as_str(), answer.header("connection")), ("Content Too Large\n", Some("close")));
            assert!(client.is_closed().await, "{name}");
        }
    }
    assert_eq!(ended(&rig, "large_body"), Some(5.0));
    assert!(backend.seen().iter().all(|seen| seen.body.len() <= 1001));
    // The broken request is the client's: the backend is not passed over.
    assert_eq!(rig.get("example.com").await, "200 b");
}

#[tokio::test]
async fn bodies_over_a_routes_limit_are_refused_over_http2() {
    let (authority, backend) = (Authority::new(), Backend::named("b").await);
    let limited = Route { max_body_bytes: 1000, ..route("a.org", "s") };
    let routes = vec![with_certificate(limited, &authority.issue(&["a.org"]))];
    let rig = rig_with(Limits::default(), routes, &backend).await;
    let mut sender = http2_of(&authority, &rig, "a.org").await;
    for (size, status) in [(1000, 200), (1001, 413), (1_000_000, 413), (10, 200)] {
        for known in [true, false] {
            let body = Full::new(Bytes::from(vec![b'x'; size]));
            let body = if known { body.boxed() } else { body.map_frame(|frame| frame).boxed() };
            let request = Request::post("https://a.org/").body(body).expect("a request");
            let response = within(sender.send_request(request)).await.expect("a response");
            assert_eq!(response.status(), status, "{size} {known}");
        }
    }
}

#[tokio::test]
async fn a_body_that_comes_too_slowly_is_given_up() {
    let backend = Backend::named("b").await;
    let limits = Limits { body_pause: Duration::from_millis(200), body_least: 100, ..Limits::default() };
    let rig = rig_with(limits, vec![route("example.com", "s")], &backend).await;
    let mut client = rig.client().await;
    client.send("POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 1000\r\n\r\nx").await;
    let answer = client.answer(false).await;
    assert_eq!((answer.status, answer.text().as_str()), (408, "Request Timeout\n"));
    assert!(client.is_closed().await);
    assert_eq!(ended(&rig, "slow_body"), Some(1.0));
    assert_eq!(rig.get("example.com").await, "200 b", "the backend did nothing wrong");
}

#[tokio::test]
async fn who_has_its_answer_may_go_on_asking_slowly() {
    let backend = Backend::scripted(async |mut backend| {
        backend.head_of_request().await;
        backend.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n").await;
        // The request's body comes in two halves, each answered.
        for _ in 0..2 {
            let half = backend.bytes(4).await;
            backend.send(half).await;
        }
    })
    .await;
    let limits = Limits { body_pause: Duration::from_millis(50), ..Limits::default() };
    let rig = rig_with(limits, vec![route("example.com", "s")], &backend).await;
    let mut client = rig.client().await;
    client.send("POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 8\r\n\r\nping").await;
    assert_eq!(client.head().await.status, 200);
    assert_eq!(client.bytes(4).await, b"ping");
    // Longer than the limit; a real time, because it is what is measured.
    tokio::time::sleep(Duration::from_millis(200)).await;
    client.send("pong").await;
    assert_eq!(client.bytes(4).await, b"pong");
}

#[tokio::test]
async fn who_takes_nothing_of_its_response_is_let_go() {
    let backend = Backend::scripted(async |mut backend| {
        backend.head_of_request().await;
        backend.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await;
        while backend.stream.write_all(&[b'x'; 1 << 16]).await.is_ok() {}
    })
    .await;
    let limits = Limits { response_pause: Duration::from_millis(300), ..Limits::default() };
    let rig = rig_with(limits, vec![route("example.com", "s")], &backend).await;
    let mut client = rig.client().await;
    client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
    let in_flight = "flynn_router_requests_in_flight{route=\"example.com/\",service=\"s\"} ";
    eventually(Some(1.0), async || ended(&rig, "slow_response")).await;
    eventually(Some(0.0), async || rig.metric(in_flight)).await;
    // One that reads, if slowly, gets more than fits into any buffer.
    let mut client = rig.client().await;
    client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
    let mut space = vec![0; 1 << 20];
    let mut left: usize = 64 << 20;
    while left > 0 {
        let read = within(client.stream.read(&mut space)).await.expect("more comes");
        left = left.saturating_sub(read.max(1));
    }
}

#[tokio::test]
async fn a_client_has_only_so_many_connections() {
    let backend = Backend::named("b").await;
    let limits = Limits { connections_per_client: Some(3), ..Limits::default() };
    let trusted_proxies = vec!["127.0.0.9/32".parse().expect("a network")];
    let settings = Settings { limits, trusted_proxies, proxy_protocol: true, ..settings() };
    let rig = Rig::with(settings, vec![route("example.com", "s")], vec![members("s", &[backend.address])]).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut client = rig.client().await;
        assert_eq!(client.get("example.com", "/").await.text(), "b");
        open.push(client);
    }
    let mut refused = rig.client().await;
    assert!(refused.is_closed().await);
    assert_eq!(ended(&rig, "crowd"), Some(1.0));
    assert_eq!(from("127.0.0.2", rig.http()).await.get("example.com", "/").await.text(), "b", "others may");
    // A trusted proxy has as many as it likes; who is behind it counts for itself.
    let mut proxied = Vec::new();
    for _ in 0..5 {
        let mut client = from("127.0.0.9", rig.http()).await;
        assert_eq!(client.get("example.com", "/").await.text(), "b");
        proxied.push(client);
    }
    for client in 0..4 {
        let mut connection = from("127.0.0.9", rig.http()).await;
        connection.send("PROXY TCP4 1.1.1.123 20.2.2.2 1000 2000\r\n").await;
        if client == 3 {
            assert!(connection.is_closed().await);
        } else {
            assert_eq!(connection.get("example.com", "/").await.text(), "b");
        }
        proxied.push(connection);
    }
    open.pop();
    let again = async || {
        let mut client = rig.client().await;
        client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
        !client.is_closed().await
    };
    eventually(true, again).await;
}
