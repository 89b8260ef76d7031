//! TCP routes.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use flynn_router::Settings;
use flynn_router::proxy_protocol::{Parsed, parse};
use flynn_router::source::Change;
use flynn_types::router::Route;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use crate::backend::Backend;
use crate::client::Client;
use crate::rig::{LOOPBACK, Rig, eventually, led, members, settings, tcp_route, within};

/// Greets, and when its client has ended says what it heard.
async fn greeter(greeting: &'static str) -> Backend {
    Backend::scripted(move |mut backend| async move {
        backend.send(greeting).await;
        let heard = backend.rest().await;
        backend.send(heard).await;
    })
    .await
}

/// A port that is free at the moment.
async fn free_port() -> u16 {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.expect("a free port");
    listener.local_addr().expect("it is bound").port()
}

/// What a client that says `asdf` and ends gets to read; nothing when it is refused.
async fn talk(port: u16) -> Option<String> {
    let stream = within(TcpStream::connect(SocketAddr::new(LOOPBACK, port))).await.ok()?;
    let mut client = Client::new(stream);
    within(client.stream.write_all(b"asdf")).await.ok()?;
    within(client.stream.shutdown()).await.ok()?;
    Some(String::from_utf8_lossy(&client.rest().await).into_owned())
}

#[tokio::test]
async fn i1_i5_i6_i9_a_port_is_open_while_it_has_a_route() {
    let (one, two) = (greeter("one ").await, greeter("two ").await);
    let port = free_port().await;
    let rig = Rig::start(vec![], vec![members("1", &[one.address]), members("2", &[two.address])]).await;
    assert_eq!(talk(port).await, None, "a port without a route refuses");
    rig.set(tcp_route(port, "1")).await;
    eventually(Some("one asdf".to_owned()), async || talk(port).await).await;
    rig.set(Route { service: "2".into(), ..tcp_route(port, "1") }).await;
    for _ in 0..50 {
        assert_eq!(talk(port).await.as_deref(), Some("two asdf"), "from the change on");
    }
    rig.members(members("2", &[one.address])).await;
    assert_eq!(talk(port).await.as_deref(), Some("one asdf"));
    rig.remove(&format!("tcp-{port}")).await;
    eventually(None, async || talk(port).await).await;
}

#[tokio::test]
async fn i2_the_leader_gets_the_connections() {
    let (one, two) = (greeter("one ").await, greeter("two ").await);
    let (port, addresses) = (free_port().await, [one.address, two.address]);
    let leads = Route { leader: true, ..tcp_route(port, "s") };
    let rig = Rig::start(vec![leads], vec![led("s", &addresses, two.address)]).await;
    eventually(Some("two asdf".to_owned()), async || talk(port).await).await;
    rig.members(led("s", &addresses, one.address)).await;
    for _ in 0..20 {
        assert_eq!(talk(port).await.as_deref(), Some("one asdf"));
    }
}

#[tokio::test]
async fn i3_i7_routes_at_the_start_are_served_and_lists_again_change_nothing() {
    let backend = greeter("hi ").await;
    let port = free_port().await;
    let rig = Rig::start(vec![tcp_route(port, "s")], vec![members("s", &[backend.address])]).await;
    eventually(Some("hi asdf".to_owned()), async || talk(port).await).await;
    let files = || std::fs::read_dir("/proc/self/fd").expect("Linux").count();
    for _ in 0..10 {
        rig.tell(Change::Routes(vec![tcp_route(port, "s")])).await;
    }
    let before = files();
    for _ in 0..10 {
        rig.tell(Change::Routes(vec![tcp_route(port, "s")])).await;
        assert_eq!(talk(port).await.as_deref(), Some("hi asdf"));
    }
    eventually(true, async || files() <= before).await;
}

#[tokio::test]
async fn i4_without_backends_connections_end_and_the_router_goes_on() {
    let port = free_port().await;
    let rig = Rig::start(vec![tcp_route(port, "s")], vec![]).await;
    eventually(true, async || TcpStream::connect((LOOPBACK, port)).await.is_ok()).await;
    for _ in 0..1000 {
        let mut client = Client::connect((LOOPBACK, port).into()).await;
        assert!(client.is_closed().await);
    }
    let backend = greeter("hi ").await;
    rig.members(members("s", &[backend.address])).await;
    assert_eq!(talk(port).await.as_deref(), Some("hi asdf"));
}

#[tokio::test]
async fn i8_a_port_that_is_taken_is_waited_for() {
    let backend = greeter("hi ").await;
    let taken = TcpListener::bind((LOOPBACK, 0)).await.expect("a free port");
    let (port, other) = (taken.local_addr().expect("it is bound").port(), free_port().await);
    let routes = vec![tcp_route(port, "s"), tcp_route(other, "s")];
    let _rig = Rig::start(routes, vec![members("s", &[backend.address])]).await;
    eventually(Some("hi asdf".to_owned()), async || talk(other).await).await;
    drop(taken);
    eventually(Some("hi asdf".to_owned()), async || talk(port).await).await;
}

#[tokio::test]
async fn backends_learn_of_their_clients_where_a_route_says_so() {
    let backend = greeter("").await;
    for (version, start) in
        [("v1", &b"PROXY TCP4 127.0.0.1 127.0.0.1 "[..]), ("v2", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c")]
    {
        let port = free_port().await;
        let told = Route { proxy_protocol: version.into(), ..tcp_route(port, "s") };
        let rig = Rig::start(vec![told], vec![members("s", &[backend.address])]).await;
        eventually(true, async || TcpStream::connect((LOOPBACK, port)).await.is_ok()).await;
        let mut client = Client::connect((LOOPBACK, port).into()).await;
        let source = client.stream.local_addr().expect("connected");
        client.send("asdf").await;
        within(client.stream.shutdown()).await.expect("half of it closes");
        let heard = client.rest().await;
        assert!(heard.starts_with(start) && heard.ends_with(b"asdf"), "{version}: {heard:?}");
        let Ok(Parsed::Header { length, source: Some(told) }) = parse(&heard) else { panic!("{heard:?}") };
        assert_eq!((length, told), (heard.len() - 4, source));
        drop(rig);
    }
}

#[tokio::test]
async fn backends_learn_of_clients_of_ipv6_too() {
    let backend = greeter("").await;
    let loopback = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let port = TcpListener::bind((loopback, 0)).await.expect("a free port").local_addr().expect("bound").port();
    for version in ["v1", "v2"] {
        let settings = Settings { listen_tcp: Some(loopback), ..settings() };
        let told = Route { proxy_protocol: version.into(), ..tcp_route(port, "s") };
        let rig = Rig::with(settings, vec![told], vec![members("s", &[backend.address])]).await;
        eventually(true, async || TcpStream::connect((loopback, port)).await.is_ok()).await;
        let mut client = Client::connect((loopback, port).into()).await;
        let source = client.stream.local_addr().expect("connected");
        within(client.stream.shutdown()).await.expect("half of it closes");
        let heard = client.rest().await;
        assert_eq!(parse(&heard), Ok(Parsed::Header { length: heard.len(), source: Some(source) }), "{version}");
        within(rig.serving.drain()).await;
    }
}
