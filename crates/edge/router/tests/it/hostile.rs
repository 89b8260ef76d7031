//! Clients that send what is no HTTP, too much, or too slowly.

use std::time::Duration;

use flynn_router::{Limits, Settings};

use crate::backend::Backend;
use crate::rig::{Rig, members, route, settings};

async fn rig() -> (Backend, Rig) {
    let backend = Backend::named("b").await;
    let rig = Rig::start(vec![route("example.com", "s")], vec![members("s", &[backend.address])]).await;
    (backend, rig)
}

#[tokio::test]
async fn requests_that_could_be_smuggled_are_refused() {
    let (backend, rig) = rig().await;
    for lines in [
        "Content-Length: 1\r\nContent-Length: 2",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding : chunked",
        "Content-Length: +5",
        "X: a\rb",
        " folded: x",
        "Host: other.com",
    ] {
        let mut client = rig.client().await;
        let answer = client.ask(format!("POST / HTTP/1.1\r\nHost: example.com\r\n{lines}\r\n\r\n0\r\n\r\n")).await;
        assert_eq!(answer.status, 400, "{lines:?}");
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(client.is_closed().await, "nothing behind it is looked at");
    }
    assert_eq!(backend.connections(), 0);
}

#[tokio::test]
async fn a_refusal_waits_for_its_turn() {
    let (_backend, rig) = rig().await;
    let mut client = rig.client().await;
    client
        .send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\nGET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await;
    assert_eq!(client.answer(false).await.text(), "b");
    let refusal = client.answer(false).await;
    assert_eq!((refusal.status, refusal.text().as_str()), (400, "400 Bad Request: missing required Host header"));
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn heads_that_are_too_large_are_refused() {
    let (_backend, rig) = rig().await;
    let large = "x".repeat(1 << 20);
    let answer = rig.client().await.ask(format!("GET / HTTP/1.1\r\nHost: example.com\r\nX: {large}\r\n\r\n")).await;
    assert_eq!(answer.status, 431);
    for (count, status) in [(99, 404), (100, 431)] {
        let fields: String = (0..count).map(|n| format!("X-{n}: y\r\n")).collect();
        let answer = rig.client().await.ask(format!("GET / HTTP/1.1\r\nHost: nowhere\r\n{fields}\r\n")).await;
        assert_eq!(answer.status, status, "{count} fields and Host");
    }
    let fits = "x".repeat(900 << 10);
    let answer = rig.client().await.ask(format!("GET / HTTP/1.1\r\nHost: nowhere\r\nX: {fits}\r\n\r\n")).await;
    assert_eq!(answer.status, 404);
}

#[tokio::test]
async fn h7_a_proxy_line_is_no_request_where_it_is_not_expected() {
    let (_backend, rig) = rig().await;
    let request = "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\nGET / HTTP/1.1\r\nHost: example.com\r\n\r\n";
    assert_eq!(rig.client().await.ask(request).await.status, 400);
}

#[tokio::test]
async fn slow_clients_are_let_go() {
    let backend = Backend::named("b").await;
    let limit = Duration::from_millis(150);
    let limits = Limits { request_head: limit, idle: limit, ..Limits::default() };
    let services = vec![members("s", &[backend.address])];
    let rig = Rig::with(Settings { limits, ..settings() }, vec![route("example.com", "s")], services).await;
    for begin in ["", "GET / HTTP/1.1\r\nHost: exa"] {
        let mut client = rig.client().await;
        client.send(begin).await;
        assert!(client.is_closed().await, "after {begin:?}");
    }
    let mut client = rig.client().await;
    assert_eq!(client.get("example.com", "/").await.text(), "b");
    assert!(client.is_closed().await, "an idle connection ends");
}

#[tokio::test]
async fn a_slow_answer_is_no_idle_client() {
    let backend = Backend::scripted(async |mut backend| {
        backend.head_of_request().await;
        // Longer than the limit on idle clients; a real time, because it is what is measured.
        tokio::time::sleep(Duration::from_millis(400)).await;
        backend.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb").await;
    })
    .await;
    let limit = Duration::from_millis(100);
    let limits = Limits { request_head: limit, idle: limit, ..Limits::default() };
    let services = vec![members("s", &[backend.address])];
    let rig = Rig::with(Settings { limits, ..settings() }, vec![route("example.com", "s")], services).await;
    assert_eq!(rig.get("example.com").await, "200 b");
}

#[tokio::test]
async fn requests_in_pieces_and_in_a_row_are_understood() {
    let (backend, rig) = rig().await;
    let one = "POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 3\r\n\r\nabc";
    let two = "POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let mut client = rig.client().await;
    for byte in format!("{one}{two}").bytes() {
        client.send([byte]).await;
    }
    client.send(format!("{one}{two}{one}")).await;
    for _ in 0..5 {
        assert_eq!(client.answer(false).await.text(), "b");
    }
    assert!(backend.seen().iter().all(|seen| seen.body.as_ref() == b"abc"));
}
