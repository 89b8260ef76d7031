//! The stream of events that schedulers follow.

use std::time::Duration;

use flynn_router::{Limits, Settings};
use flynn_types::router::{Certificate, Route, StreamEvent, StreamEventKind};

use crate::backend::Backend;
use crate::client::Client;
use crate::rig::{Rig, members, route, settings};

const ALL: &str = "set,remove,backend-up,backend-down,backend-drained";

/// A subscriber to the events of these kinds.
struct Subscriber(Client);

impl Subscriber {
    async fn new(rig: &Rig, kinds: &str) -> Self {
        let mut client = Client::connect(rig.serving.api_address().expect("there is an API")).await;
        client.send(format!("GET /events?types={kinds} HTTP/1.1\r\nHost: router\r\n\r\n")).await;
        let head = client.head().await;
        assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream; charset=utf-8")));
        Self(client)
    }

    async fn next(&mut self) -> StreamEvent {
        loop {
            let line = self.0.line().await.expect("the stream goes on");
            if let Some(data) = line.strip_prefix("data: ") {
                return serde_json::from_str(data).expect("an event");
            }
        }
    }

    /// The next events in short: `set example.com/`, `backend-up <address>`.
    async fn said(&mut self, count: usize) -> Vec<String> {
        let mut said = Vec::new();
        for _ in 0..count {
            let event = self.next().await;
            let what = event.route.map(|route| route.id).or(event.backend.map(|backend| backend.addr));
            said.push(format!("{} {}", event.event.as_str(), what.expect("it is about something")));
        }
        said
    }
}

fn draining(domain: &str, service: &str) -> Route {
    Route { drain_backends: true, ..route(domain, service) }
}

#[tokio::test]
async fn k3_routes_are_told_without_keys() {
    let rig = Rig::start(vec![], vec![]).await;
    let mut subscriber = Subscriber::new(&rig, "set,remove").await;
    let certificate = Certificate { cert: "CERT".into(), key: "SECRET".into(), ..Certificate::default() };
    let secret = Route { certificate: Some(certificate), tls_key: "SECRET".into(), ..route("example.com", "s") };
    rig.set(secret.clone()).await;
    rig.remove(&secret.id).await;
    let (set, remove) = (subscriber.next().await, subscriber.next().await);
    assert_eq!((set.event, remove.event), (StreamEventKind::Set, StreamEventKind::Remove));
    assert_eq!(set.route, Some(route("example.com", "s")), "all but the certificate");
    assert_eq!(remove.route, Some(route("example.com", "s")));
}

#[tokio::test]
async fn k4_k7_who_comes_late_gets_what_is_and_only_of_routes_that_drain() {
    let addresses: [std::net::SocketAddr; 3] = [1, 2, 3].map(|port| ([10, 0, 0, 1], port).into());
    let routes = vec![draining("example.com", "s"), route("other.com", "t")];
    let services = vec![members("s", &addresses[..2]), members("t", &addresses[2..])];
    let rig = Rig::start(routes, services).await;
    let mut subscriber = Subscriber::new(&rig, ALL).await;
    let replay = ["set example.com/", "backend-up 10.0.0.1:1", "backend-up 10.0.0.1:2"];
    assert_eq!(subscriber.said(3).await, replay);
    rig.members(members("t", &[])).await;
    rig.set(draining("third.com", "t")).await;
    assert_eq!(subscriber.said(1).await, ["set third.com/"], "nothing was told of the other service");
    rig.members(members("t", &addresses[2..])).await;
    assert_eq!(subscriber.said(1).await, ["backend-up 10.0.0.1:3"]);
    rig.remove("third.com/").await;
    let mut said = subscriber.said(3).await;
    said.sort();
    assert_eq!(said, ["backend-down 10.0.0.1:3", "backend-drained 10.0.0.1:3", "remove third.com/"]);
}

#[tokio::test]
async fn k6_k9_a_backend_is_drained_when_its_last_request_and_tunnel_are_over() {
    let backend = Backend::scripted(async |mut backend| {
        let head = backend.head_of_request().await;
        if head.contains("Upgrade") || head.contains("upgrade") {
            backend.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n").await;
            backend.rest().await;
        } else {
            backend.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n").await;
            // The rest comes when the client asks for it on the next line.
            backend.head_of_request().await;
        }
    })
    .await;
    let rig = Rig::start(vec![draining("example.com", "s")], vec![members("s", &[backend.address])]).await;
    let address = backend.address;
    let mut subscriber = Subscriber::new(&rig, "backend-up,backend-down,backend-drained").await;
    assert_eq!(subscriber.said(1).await, [format!("backend-up {address}")]);
    let (mut request, mut tunnel) = (rig.client().await, rig.client().await);
    request.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
    request.head().await;
    tunnel.send("GET / HTTP/1.1\r\nHost: example.com\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n").await;
    assert_eq!(tunnel.head().await.status, 101);

    rig.members(members("s", &[])).await;
    assert_eq!(subscriber.said(1).await, [format!("backend-down {address}")]);
    assert_eq!(rig.get("example.com").await, "503 Service Unavailable\n", "new requests find nobody");
    assert_eq!(request.bytes(4).await, b"1\r\nx", "the open request goes on");
    // Another backend is told meanwhile: the drained one is not due before both have ended.
    let other = crate::rig::Refusing::new();
    drop(request);
    rig.members(members("s", &[other.address()])).await;
    assert_eq!(subscriber.said(1).await, [format!("backend-up {}", other.address())]);
    drop(tunnel);
    assert_eq!(subscriber.said(1).await, [format!("backend-drained {address}")]);
}

#[tokio::test]
async fn k5_k8_a_subscriber_that_reads_nothing_delays_nobody() {
    let rig = Rig::start(vec![draining("example.com", "s")], vec![]).await;
    let _asleep = Subscriber::new(&rig, ALL).await;
    let mut nothing = Subscriber::new(&rig, "").await;
    let mut awake = Subscriber::new(&rig, "backend-up").await;
    let address: std::net::SocketAddr = ([10, 0, 0, 1], 1).into();
    for _ in 0..10_000 {
        rig.members(members("s", &[address])).await;
        rig.members(members("s", &[])).await;
        awake.next().await;
    }
    // Without types there is nothing to hear; the stream is open all the same.
    let silence = tokio::time::timeout(Duration::from_millis(100), nothing.next()).await;
    assert!(silence.is_err());
}

#[tokio::test]
async fn k5_a_silent_stream_has_comments_and_nothing_else() {
    let limits = Limits { event_keep_alive: Duration::from_millis(50), ..Limits::default() };
    assert_eq!(Limits::default().event_keep_alive, Duration::from_secs(30));
    let rig = Rig::with(Settings { limits, ..settings() }, vec![draining("example.com", "s")], vec![]).await;
    let mut subscriber = Subscriber::new(&rig, "").await;
    rig.set(draining("other.com", "s")).await;
    // Each comment comes in a chunk of its own: its size, the comment, and the end of the chunk.
    for _ in 0..3 {
        assert_eq!(subscriber.0.bytes(7).await, b"2\r\n:\n\r\n");
    }
}

#[tokio::test]
async fn k6_a_backend_is_drained_when_the_former_process_has_released_it_too() {
    let addresses: [std::net::SocketAddr; 2] = [1, 2].map(|port| ([10, 0, 0, 1], port).into());
    let former = std::sync::Arc::new(flynn_router::Former::default());
    let routes = vec![draining("example.com", "s")];
    let rig = Rig::replacing(&former, routes, vec![members("s", &addresses)]).await;
    let mut subscriber = Subscriber::new(&rig, "backend-down,backend-drained").await;
    rig.members(members("s", &addresses[1..])).await;
    assert_eq!(subscriber.said(1).await, ["backend-down 10.0.0.1:1"]);
    // What another one has released, or has under another job, says nothing of this one.
    former.released("10.0.0.1:2 ".into());
    former.released("10.0.0.1:1 other-job".into());
    let early = tokio::time::timeout(Duration::from_millis(200), subscriber.next()).await;
    assert!(early.is_err(), "{early:?}");
    former.released("10.0.0.1:1 ".into());
    assert_eq!(subscriber.said(1).await, ["backend-drained 10.0.0.1:1"]);
    former.done();
    rig.members(members("s", &addresses[..1])).await;
    assert_eq!(subscriber.said(2).await, ["backend-down 10.0.0.1:2", "backend-drained 10.0.0.1:2"]);
}
