//! Other names (spec discoverd-and-network D13 to D15).

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use crate::support::{Registry, Upstream, query, silent, start, tcp, texts, udp, with_edns};

const FIRST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SECOND: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

#[tokio::test]
async fn queries_go_to_the_first_upstream_over_the_clients_transport() {
    let first = Upstream::start(FIRST, 0, ResponseCode::NoError).await;
    let second = Upstream::start(SECOND, 0, ResponseCode::NoError).await;
    let (server, addr) = start(Registry::default(), vec![first.addr, second.addr]);
    let answer = udp(addr, &query("Example.com.", RecordType::A)).await;
    assert_eq!(texts(&answer.answers), ["Example.com. 192.0.2.1"]);
    assert!(!answer.metadata.authoritative && answer.metadata.recursion_available);
    tcp(addr, &query("example.com.", RecordType::A)).await;
    assert_eq!(first.asked(), ["udp", "tcp"]);
    assert!(second.asked().is_empty());
    assert_eq!(server.statistics().forwarded, 2);
    server.shutdown().await;
}

#[tokio::test]
async fn a_dead_a_silent_and_a_failing_upstream_are_passed_over() {
    let dead = Upstream::start(FIRST, 0, ResponseCode::NoError).await.stop().await;
    let (_socket, silent) = silent().await;
    let failing = Upstream::start(FIRST, 0, ResponseCode::ServFail).await;
    let good = Upstream::start(SECOND, 0, ResponseCode::NoError).await;
    for before in [vec![dead], vec![silent], vec![failing.addr], vec![dead, silent, failing.addr]] {
        let (_server, addr) = start(Registry::default(), [before.clone(), vec![good.addr]].concat());
        let begin = Instant::now();
        let answer = udp(addr, &query("example.com.", RecordType::A)).await;
        assert_eq!(texts(&answer.answers), ["example.com. 192.0.2.2"], "{before:?}");
        assert!(begin.elapsed() < Duration::from_millis(1900), "{before:?}: {:?}", begin.elapsed());
        // The one that answered is asked first from now on.
        let begin = Instant::now();
        udp(addr, &query("example.org.", RecordType::A)).await;
        assert!(begin.elapsed() < Duration::from_millis(400), "{before:?}: {:?}", begin.elapsed());
    }
}

#[tokio::test]
async fn without_a_living_upstream_the_answer_is_servfail() {
    let dead = Upstream::start(FIRST, 0, ResponseCode::NoError).await.stop().await;
    let (server, addr) = start(Registry::default(), vec![dead]);
    let answer = udp(addr, &query("example.com.", RecordType::A)).await;
    assert_eq!((answer.metadata.response_code, answer.metadata.recursion_available), (ResponseCode::ServFail, true));
    let over_tcp = tcp(addr, &query("example.com.", RecordType::A)).await;
    assert_eq!(over_tcp.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(server.statistics().failed, 2);

    server.set_upstreams(vec![]);
    let answer = udp(addr, &query("example.com.", RecordType::A)).await;
    assert_eq!((answer.metadata.response_code, answer.metadata.recursion_available), (ResponseCode::ServFail, false));
}

#[tokio::test]
async fn a_refusal_is_passed_on_when_nobody_knows_better() {
    let refusing = Upstream::start(FIRST, 0, ResponseCode::Refused).await;
    let missing = Upstream::start(FIRST, 0, ResponseCode::NXDomain).await;
    let (server, addr) = start(Registry::default(), vec![refusing.addr]);
    assert_eq!(udp(addr, &query("a.b.", RecordType::A)).await.metadata.response_code, ResponseCode::Refused);
    server.set_upstreams(vec![missing.addr, refusing.addr]);
    assert_eq!(udp(addr, &query("a.b.", RecordType::A)).await.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(refusing.asked().len(), 1, "NXDOMAIN is an answer");
}

#[tokio::test]
async fn answers_are_remembered_as_long_as_they_hold_and_when_all_upstreams_are_away() {
    let upstream = Upstream::start(FIRST, 1, ResponseCode::NoError).await;
    let (server, addr) = start(Registry::default(), vec![upstream.addr]);
    let question = with_edns(query("example.com.", RecordType::A), 1232);
    assert_eq!(udp(addr, &question).await.answers[0].ttl, 1);
    let mut again = with_edns(query("EXAMPLE.com.", RecordType::A), 1232);
    again.metadata.id = question.metadata.id.wrapping_add(1);
    let remembered = udp(addr, &again).await;
    assert_eq!(remembered.queries[0].name().to_ascii(), "EXAMPLE.com.");
    assert_eq!((upstream.asked().len(), server.statistics().cached), (1, 1));
    // Another EDNS state is another answer.
    udp(addr, &query("example.com.", RecordType::A)).await;
    assert_eq!(upstream.asked().len(), 2);

    upstream.stop().await;
    // The time to live is what passes here, not a task.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let outdated = udp(addr, &question).await;
    assert_eq!(texts(&outdated.answers), ["example.com. 192.0.2.1"], "better outdated than none");
    let unknown = udp(addr, &query("example.net.", RecordType::A)).await;
    assert_eq!(unknown.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn the_server_is_never_its_own_upstream() {
    let (server, addr) = start(Registry::default(), vec![]);
    server.set_upstreams(vec![addr]);
    assert!(server.upstreams().is_empty());
    assert_eq!(udp(addr, &query("example.com.", RecordType::A)).await.metadata.response_code, ResponseCode::ServFail);
}
