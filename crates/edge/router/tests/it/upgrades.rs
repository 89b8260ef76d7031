//! WebSocket and other protocols behind an upgrade, and what is no upgrade.

use tokio::io::AsyncWriteExt as _;

use crate::backend::Backend;
use crate::client::Client;
use crate::rig::{Rig, eventually, members, route, within};

const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\nUpgrade: pinger\r\n\r\n";
const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: pinger\r\n\r\n";

/// A backend that answers requests with its protocol: a line back for a line, in capitals, until the client ends.
async fn shouting() -> Backend {
    Backend::scripted(async |mut backend| {
        loop {
            let head = backend.head_of_request().await;
            if head.is_empty() {
                return;
            }
            if head.to_lowercase().contains("upgrade: pinger") {
                break;
            }
            backend.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb").await;
        }
        backend.send(SWITCHING).await;
        let said = backend.rest().await;
        backend.send(said.to_ascii_uppercase()).await;
    })
    .await
}

async fn rig_of(backend: &Backend) -> Rig {
    Rig::start(vec![route("example.com", "s")], vec![members("s", &[backend.address])]).await
}

#[tokio::test]
async fn d1_d2_d5_another_protocol_passes_both_ways_and_so_does_each_end() {
    let backend = shouting().await;
    let rig = rig_of(&backend).await;
    let mut client = rig.client().await;
    assert_eq!(client.get("example.com", "/").await.text(), "b", "an ordinary request first");
    // The first words come right behind the request.
    client.send(format!("{UPGRADE}ping!")).await;
    let answer = client.head().await;
    assert_eq!((answer.status, answer.header("upgrade")), (101, Some("pinger")));
    client.send("more").await;
    within(client.stream.shutdown()).await.expect("half of the connection closes");
    assert_eq!(client.rest().await, b"PING!MORE");
}

#[tokio::test]
async fn d5_a_backends_end_leaves_the_clients_way_open() {
    let (heard, mut hears) = tokio::sync::mpsc::channel(1);
    let backend = Backend::scripted(move |mut backend| {
        let heard = heard.clone();
        async move {
            backend.head_of_request().await;
            backend.send(format!("{SWITCHING}bye")).await;
            backend.stream.shutdown().await.expect("half of the connection closes");
            heard.send(backend.rest().await).await.expect("the test waits");
        }
    })
    .await;
    let rig = rig_of(&backend).await;
    let mut client = rig.client().await;
    client.send(UPGRADE).await;
    assert_eq!(client.head().await.status, 101);
    assert_eq!(client.rest().await, b"bye");
    client.send("still here").await;
    drop(client);
    assert_eq!(within(hears.recv()).await.expect("the backend hears"), b"still here");
}

#[tokio::test]
async fn d3_d4_any_spelling_takes_the_upgrade_path_and_a_refusal_ends_the_connection() {
    let backend = Backend::named("no").await;
    let rig = rig_of(&backend).await;
    for spelling in ["upgrade", "Upgrade", "upGradE", "keep-alive, Upgrade"] {
        let mut client = rig.client().await;
        let lines = format!("Connection: {spelling}\r\nUpgrade: Some-proto-2");
        let answer = client.ask(format!("GET / HTTP/1.1\r\nHost: example.com\r\n{lines}\r\n\r\n")).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "no"));
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(client.is_closed().await);
        let seen = backend.last();
        assert_eq!(seen.header("upgrade"), "Some-proto-2");
        assert!(seen.header("connection").to_lowercase().contains("upgrade"));
    }
}

#[tokio::test]
async fn d6_no_tunnel_is_opened_for_a_connect() {
    let backend = Backend::named("b").await;
    let rig = rig_of(&backend).await;
    let mut client = rig.client().await;
    let answer = client.ask("CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n").await;
    assert_eq!(answer.status, 405);
    assert_eq!(backend.connections(), 0);
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn options_of_the_server_are_the_routers() {
    let backend = Backend::named("b").await;
    let rig = rig_of(&backend).await;
    let answer = rig.client().await.ask("OPTIONS * HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, ""));
    assert_eq!(backend.connections(), 0);
}

#[tokio::test]
async fn tunnels_count_as_load_until_they_end() {
    let (busy, idle) = (shouting().await, shouting().await);
    let rig = rig_of(&busy).await;
    let mut tunnel = rig.client().await;
    tunnel.send(UPGRADE).await;
    assert_eq!(tunnel.head().await.status, 101);
    rig.members(members("s", &[busy.address, idle.address])).await;
    let before = busy.connections();
    for _ in 0..20 {
        assert_eq!(rig.get("example.com").await, "200 b");
    }
    assert_eq!(busy.connections(), before, "all requests go where no tunnel is open");
    drop(tunnel);
    eventually(Some(0.0), async || rig.metric("flynn_router_tunnels ")).await;
}

#[tokio::test]
async fn an_upgrade_tries_all_backends() {
    let refusing: Vec<_> = (0..6).map(|_| crate::rig::Refusing::new()).collect();
    let good = shouting().await;
    let mut addresses: Vec<_> = refusing.iter().map(crate::rig::Refusing::address).collect();
    addresses.push(good.address);
    let rig = Rig::start(vec![route("example.com", "s")], vec![members("s", &addresses)]).await;
    let mut client: Client = rig.client().await;
    client.send(UPGRADE).await;
    assert_eq!(client.head().await.status, 101);
}
