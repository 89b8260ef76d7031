//! Two servers on one address (spec discoverd-and-network D16), and sockets passed from one to the other.

use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flynn_dns::{DnsConfig, DnsServer};
use hickory_proto::rr::RecordType;

use crate::support::{Registry, query, start, tcp, texts, udp};

#[tokio::test]
async fn two_servers_bind_the_same_address() {
    let (first, addr) = start(Registry::default().with("web", &["10.0.0.1:80"]), vec![]);
    let config = DnsConfig { listen: vec![addr], ..DnsConfig::default() };
    let second = DnsServer::start(config, Arc::new(Registry::default().with("web", &["10.0.0.1:80"]))).unwrap();
    first.shutdown().await;
    assert_eq!(texts(&udp(addr, &query("web.discoverd.", RecordType::A)).await.answers), ["web.discoverd. 10.0.0.1"]);
    assert_eq!(second.statistics().answered, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_query_is_lost_when_sockets_are_passed_over() {
    let (first, addr) = start(Registry::default().with("web", &["10.0.0.1:80"]), vec![]);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let client = tokio::spawn(async move {
        let mut count = 0;
        while !stopped.load(Ordering::Relaxed) || count < 100 {
            udp(addr, &query("web.discoverd.", RecordType::A)).await;
            tcp(addr, &query("web.discoverd.", RecordType::A)).await;
            count += 1;
        }
        count
    });
    let mut server = first;
    for _ in 0..20 {
        let sockets = server.sockets().unwrap();
        let config = DnsConfig {
            udp: sockets.udp.into_iter().map(UdpSocket::from).collect(),
            tcp: sockets.tcp.into_iter().map(TcpListener::from).collect(),
            ..DnsConfig::default()
        };
        let next = DnsServer::start(config, Arc::new(Registry::default().with("web", &["10.0.0.1:80"]))).unwrap();
        udp(addr, &query("web.discoverd.", RecordType::A)).await;
        server.shutdown().await;
        server = next;
    }
    stop.store(true, Ordering::Relaxed);
    assert!(client.await.unwrap() >= 100);
}
