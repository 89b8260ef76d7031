//! What becomes of headers. The rules themselves have their own tests; these see that they are applied.

use flynn_router::Settings;
use http::Response;
use http_body_util::Full;
use hyper::body::Bytes;

use crate::backend::Backend;
use crate::rig::{Rig, members, route, settings};

async fn rig() -> (Backend, Rig) {
    let backend = Backend::named("b").await;
    let rig = Rig::start(vec![route("example.com", "s")], vec![members("s", &[backend.address])]).await;
    (backend, rig)
}

/// Sends a request with these lines; `Host` is added.
async fn ask(rig: &Rig, lines: &str) -> crate::client::Answer {
    rig.client().await.ask(format!("GET / HTTP/1.1\r\nHost: example.com\r\n{lines}\r\n")).await
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36 && text.split('-').map(str::len).eq([8, 4, 4, 4, 12])
}

#[tokio::test]
async fn b1_backends_learn_where_a_request_comes_from() {
    let (backend, rig) = rig().await;
    ask(&rig, "").await;
    let seen = backend.last();
    assert_eq!(seen.header("x-forwarded-port"), rig.http().port().to_string());
    assert_eq!(seen.header("x-forwarded-proto"), "http");
    assert_eq!(seen.header("x-forwarded-for"), "127.0.0.1");
    assert_eq!(seen.header("x-request-start").len(), 13);
    assert!(is_uuid(seen.header("x-request-id")));
}

#[tokio::test]
async fn b2_b5_what_a_client_claims_is_appended_to_or_replaced() {
    let (backend, rig) = rig().await;
    ask(&rig, "X-Forwarded-For: 192.168.1.1\r\nX-Request-Id: 123456789012\r\nX-Request-Start: 1\r\n").await;
    let seen = backend.last();
    assert_eq!(seen.header("x-forwarded-for"), "192.168.1.1, 127.0.0.1");
    assert!(is_uuid(seen.header("x-request-id")));
    assert_eq!(seen.header("x-request-start").len(), 13);
}

#[tokio::test]
async fn b6_b12_other_headers_pass_also_on_upgrades() {
    let (backend, rig) = rig().await;
    for connection in ["", "Connection: upgrade\r\nUpgrade: x\r\n"] {
        let lines =
            "Proxy-Authenticate: a\r\nProxy-Authorization: b\r\nVia: c\r\nForwarded: d\r\nX-Forwarded-Host: e\r\n";
        ask(&rig, &format!("{connection}{lines}")).await;
        let seen = backend.last();
        let names = ["proxy-authenticate", "proxy-authorization", "via", "forwarded", "x-forwarded-host"];
        assert_eq!(names.map(|name| seen.header(name)), ["a", "b", "c", "d", "e"]);
    }
    ask(&rig, "").await;
    let seen = backend.last();
    for name in ["via", "forwarded", "x-forwarded-host"] {
        assert_eq!(seen.header(name), "");
    }
}

#[tokio::test]
async fn b7_a_clients_close_is_its_own() {
    let backend = Backend::named("b").await;
    // Each worker has connections of its own.
    let settings = Settings { workers: 1, ..settings() };
    let services = vec![members("s", &[backend.address])];
    let rig = Rig::with(settings, vec![route("example.com", "s")], services).await;
    let mut client = rig.client().await;
    let answer = client.ask("GET / HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n").await;
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(client.is_closed().await);
    assert_eq!(backend.last().header("connection"), "");
    ask(&rig, "").await;
    assert_eq!(backend.connections(), 1, "the backend's connection is used again");
}

#[tokio::test]
async fn b8_b10_headers_of_one_hop_end_there() {
    let (backend, rig) = rig().await;
    ask(&rig, "Connection: x-a, x-b\r\nConnection: x-c\r\nX-A: 1\r\nX-B: 1\r\nX-C: 1\r\nX-D: 1\r\nUpgrade: u\r\n")
        .await;
    let seen = backend.last();
    assert_eq!(
        ["x-a", "x-b", "x-c", "x-d", "upgrade", "connection"].map(|name| seen.header(name)),
        ["", "", "", "1", "", ""]
    );
}

#[tokio::test]
async fn b9_headers_of_the_backends_hop_end_there() {
    let backend = Backend::answering(|_| {
        let response = Response::builder().header("connection", "x-a").header("x-a", "1").header("x-b", "1");
        response.header("keep-alive", "5").header("upgrade", "u").body(Full::new(Bytes::from("b"))).expect("a response")
    })
    .await;
    let rig = Rig::start(vec![route("example.com", "s")], vec![members("s", &[backend.address])]).await;
    let answer = ask(&rig, "").await;
    assert_eq!(answer.header("x-a"), None);
    assert_eq!(answer.header("upgrade"), None);
    assert_eq!((answer.header("x-b"), answer.header("keep-alive")), (Some("1"), Some("5")));
}

#[tokio::test]
async fn b11_nothing_is_made_up_and_nothing_unpacked() {
    let backend = Backend::answering(|_| {
        let response = Response::builder().header("content-encoding", "gzip");
        response.body(Full::new(Bytes::from_static(b"\x1f\x8b not really"))).expect("a response")
    })
    .await;
    let rig = Rig::start(vec![route("example.com", "s")], vec![members("s", &[backend.address])]).await;
    let answer = ask(&rig, "").await;
    assert_eq!(answer.body, b"\x1f\x8b not really");
    let seen = backend.last();
    assert_eq!(["user-agent", "accept-encoding", "accept"].map(|name| seen.header(name)), ["", "", ""]);
}

#[tokio::test]
async fn c15_a_response_without_a_type_stays_without() {
    let (_backend, rig) = rig().await;
    let answer = ask(&rig, "").await;
    assert_eq!(answer.header("content-type"), None);
    assert!(answer.header("date").is_some());
}
