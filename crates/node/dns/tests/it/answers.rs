//! Discoverd names (spec discoverd-and-network D1 to D12, D17, D18).

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;

use flynn_dns::ServiceView;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{RData, RecordType};

use crate::support::{Registry, instance, ip, query, start, tcp, texts, udp, with_edns};

const FIVE: [&str; 5] = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80", "10.0.0.5:80"];

fn addresses(message: &hickory_proto::op::Message) -> BTreeSet<std::net::IpAddr> {
    message.answers.iter().filter_map(|record| record.data.ip_addr()).collect()
}

#[tokio::test]
async fn udp_gives_three_of_many_instances_in_changing_order_and_tcp_all() {
    let (_server, addr) = start(Registry::default().with("web", &FIVE), vec![]);
    let mut seen = BTreeSet::new();
    let mut orders = BTreeSet::new();
    for _ in 0..200 {
        let answer = udp(addr, &query("web.discoverd.", RecordType::A)).await;
        assert!(!answer.metadata.truncation && answer.metadata.authoritative && answer.metadata.recursion_desired);
        assert!(!answer.metadata.recursion_available, "there are no upstreams");
        assert_eq!((answer.answers.len(), addresses(&answer).len()), (3, 3));
        assert!(answer.answers.iter().all(|record| record.ttl == 0));
        seen.extend(addresses(&answer));
        orders.insert(format!("{:?}", answer.answers));
    }
    assert_eq!(seen.len(), 5, "every instance appears over time");
    assert!(orders.len() > 20, "{} orders", orders.len());
    assert_eq!(addresses(&tcp(addr, &query("web.discoverd.", RecordType::A)).await).len(), 5);
}

#[tokio::test]
async fn instances_on_one_address_are_one_a_record_and_two_services() {
    let (_server, addr) = start(Registry::default().with("web", &["10.0.0.1:80", "10.0.0.1:81"]), vec![]);
    for (rtype, expected) in [(RecordType::A, (1, 0)), (RecordType::SRV, (0, 2)), (RecordType::ANY, (1, 1))] {
        let answer = udp(addr, &query("web.discoverd.", rtype)).await;
        let services = answer.answers.iter().filter(|record| record.record_type() == RecordType::SRV).count();
        assert_eq!((answer.answers.len() - services, services), expected, "{rtype}");
        if rtype == RecordType::ANY {
            assert_eq!(answer.answers[0].record_type(), RecordType::A, "addresses come first");
        }
    }
}

#[tokio::test]
async fn service_records_lead_to_their_instances() {
    let (_server, addr) = start(Registry::default().with("web", &["10.0.0.1:8080", "[fd00::1]:9090"]), vec![]);
    let (v4, v6) = (instance("tcp", "10.0.0.1:8080").id, instance("tcp", "[fd00::1]:9090").id);
    let mut expected = vec![
        format!("web.discoverd. 1 1 8080 {v4}.web._i.discoverd."),
        format!("web.discoverd. 1 1 9090 {v6}.web._i.discoverd."),
    ];
    expected.sort();
    let over_udp = udp(addr, &query("web.discoverd.", RecordType::SRV)).await;
    assert_eq!(texts(&over_udp.answers), expected);
    assert!(over_udp.additionals.is_empty());
    let over_tcp = tcp(addr, &query("web.discoverd.", RecordType::SRV)).await;
    assert_eq!(texts(&over_tcp.answers), expected);
    let mut targets = vec![format!("{v4}.web._i.discoverd. 10.0.0.1"), format!("{v6}.web._i.discoverd. fd00::1")];
    targets.sort();
    assert_eq!(texts(&over_tcp.additionals), targets);

    let name = format!("{v4}.web._i.discoverd.");
    let answer = tcp(addr, &query(&name, RecordType::SRV)).await;
    assert_eq!(texts(&answer.answers), [format!("{name} 1 1 8080 {name}")]);
    assert_eq!(texts(&answer.additionals), [format!("{name} 10.0.0.1")]);
    assert_eq!(addresses(&udp(addr, &query(&name, RecordType::A)).await), BTreeSet::from([ip("10.0.0.1")]));
}

#[tokio::test]
async fn names_answer_as_the_table_says() {
    let registry = Registry::default().with("web", &["10.0.0.1:80", "10.0.0.2:80"]).with("six", &["[fd00::1]:80"]);
    let registry = registry.with("empty", &[]).with("named", &["db.example.com:80"]);
    let mixed: Vec<_> = [instance("tcp", "10.0.0.3:53"), instance("udp", "10.0.0.4:53")].into();
    registry.services.lock().unwrap().insert("ns".into(), ServiceView { instances: mixed.into(), leader: None });
    let (_server, addr) = start(registry, vec![]);
    use ResponseCode::{NXDomain, NoError};
    for (name, rtype, code, answers) in [
        ("leader.web.discoverd.", RecordType::A, NoError, vec!["leader.web.discoverd. 10.0.0.1"]),
        ("leader.web.discoverd.", RecordType::SRV, NoError, vec!["leader.web.discoverd. 1 1 80 leader.web.discoverd."]),
        ("leader.ns.discoverd.", RecordType::A, NXDomain, vec![]),
        ("_ns._udp.discoverd.", RecordType::A, NoError, vec!["_ns._udp.discoverd. 10.0.0.4"]),
        ("_ns._foo.discoverd.", RecordType::A, NoError, vec![]),
        ("_none._tcp.discoverd.", RecordType::A, NXDomain, vec![]),
        ("web.discoverd.", RecordType::AAAA, NoError, vec![]),
        ("six.discoverd.", RecordType::AAAA, NoError, vec!["six.discoverd. fd00::1"]),
        ("six.discoverd.", RecordType::A, NoError, vec![]),
        ("web.discoverd.", RecordType::TXT, NoError, vec![]),
        ("named.discoverd.", RecordType::A, NoError, vec![]),
        ("none.discoverd.", RecordType::A, NXDomain, vec![]),
        ("empty.discoverd.", RecordType::A, NXDomain, vec![]),
        ("leader.empty.discoverd.", RecordType::A, NXDomain, vec![]),
        ("leader.none.discoverd.", RecordType::SOA, NXDomain, vec![]),
        ("0123.web._i.discoverd.", RecordType::A, NXDomain, vec![]),
        ("a.b.c.discoverd.", RecordType::A, NXDomain, vec![]),
        ("a.b.discoverd.", RecordType::A, NXDomain, vec![]),
        ("discoverd.", RecordType::A, NoError, vec![]),
        ("WEB.DiscoverD.", RecordType::AAAA, NoError, vec![]),
        ("Leader.Web.DiscoverD.", RecordType::A, NoError, vec!["Leader.Web.DiscoverD. 10.0.0.1"]),
    ] {
        for transport in ["udp", "tcp"] {
            let question = query(name, rtype);
            let answer = if transport == "udp" { udp(addr, &question).await } else { tcp(addr, &question).await };
            assert_eq!(answer.metadata.response_code, code, "{name} {rtype} {transport}");
            assert_eq!(texts(&answer.answers), answers, "{name} {rtype} {transport}");
            assert_eq!(answer.queries[0].name().to_ascii(), name, "the spelling comes back");
            let authority = answer.authorities.iter().filter(|record| matches!(record.data, RData::SOA(_))).count();
            assert_eq!(authority, usize::from(answers.is_empty()), "SOA of {name} {rtype} {transport}");
        }
    }
}

#[tokio::test]
async fn the_zone_has_its_soa() {
    let (_server, addr) = start(Registry::default().with("web", &["10.0.0.1:80"]), vec![]);
    for name in ["web.discoverd.", "leader.web.discoverd.", "discoverd."] {
        let answer = udp(addr, &query(name, RecordType::SOA)).await;
        let [record] = answer.answers.as_slice() else { panic!("{name}: {answer:?}") };
        let RData::SOA(soa) = &record.data else { panic!("{record}") };
        assert_eq!((record.name.to_ascii().as_str(), record.ttl), ("discoverd.", 0));
        assert_eq!(
            (soa.mname.to_ascii(), soa.rname.to_ascii()),
            ("ns.discoverd.".into(), "postmaster.discoverd.".into())
        );
        assert_eq!((soa.refresh, soa.retry, soa.expire, soa.minimum), (3600, 600, 86400, 0));
        assert!(soa.serial > 1_700_000_000 && answer.authorities.is_empty());
    }
}

#[tokio::test]
async fn what_does_not_fit_a_datagram_is_cut_at_a_record_and_marked() {
    let service = "s".repeat(63);
    let registry = Registry::default().with(&service, &["10.0.0.1:1", "10.0.0.2:2", "10.0.0.3:3"]);
    let (_server, addr) = start(registry, vec![]);
    let question = query(&format!("{service}.discoverd."), RecordType::ANY);
    let short = udp(addr, &question).await;
    assert!(short.metadata.truncation && short.answers.len() < 6 && short.answers.len() > 3);
    assert!(short.edns.is_none());
    let long = udp(addr, &with_edns(question.clone(), 4096)).await;
    assert!(!long.metadata.truncation);
    assert_eq!((long.answers.len(), long.max_payload()), (6, 1232));
    let over_tcp = tcp(addr, &question).await;
    assert_eq!((over_tcp.answers.len(), over_tcp.metadata.truncation), (6, false));
}

#[tokio::test]
async fn thousands_of_instances_are_answered() {
    let many: Vec<_> = (0..10_000u32)
        .map(|i| instance("tcp", &format!("10.{}.{}.{}:80", i / 65536, i / 256 % 256, i % 256)))
        .collect();
    let registry = Registry::default();
    let view = ServiceView { leader: many.first().cloned().map(Arc::new), instances: many.into() };
    registry.services.lock().unwrap().insert("big".into(), view);
    let (_server, addr) = start(registry, vec![]);
    assert_eq!(addresses(&udp(addr, &query("big.discoverd.", RecordType::A)).await).len(), 3);
    let all = tcp(addr, &query("big.discoverd.", RecordType::A)).await;
    assert!(all.metadata.truncation, "a message holds 65535 bytes");
    assert!(all.answers.len() > 4000, "{}", all.answers.len());
}

#[tokio::test]
async fn nothing_is_denied_while_the_registry_is_unknown() {
    let (_server, addr) =
        start(Registry { incomplete: true, ..Registry::default() }.with("web", &["10.0.0.1:80"]), vec![]);
    let unknown = udp(addr, &query("other.discoverd.", RecordType::A)).await;
    assert_eq!(unknown.metadata.response_code, ResponseCode::ServFail);
    let known = udp(addr, &query("web.discoverd.", RecordType::A)).await;
    assert_eq!(texts(&known.answers), ["web.discoverd. 10.0.0.1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn dig_understands_the_answers() {
    let (_server, addr) = start(Registry::default().with("web", &["10.0.0.1:80"]), vec![]);
    let dig = |args: &[&str]| {
        let output =
            Command::new("dig").args(["@127.0.0.1", "-p", &addr.port().to_string()]).args(args).output().unwrap();
        String::from_utf8(output.stdout).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let plain = dig(&["Web.DiscoverD", "A"]);
    assert!(plain.contains("Web.DiscoverD. 0 IN A 10.0.0.1"), "{plain}");
    assert!(plain.contains("flags: qr aa rd; QUERY: 1, ANSWER: 1") && plain.contains("udp: 1232"), "{plain}");
    assert!(!plain.contains("WARNING: Message parser") && !plain.contains("malformed"), "{plain}");
    let id = instance("tcp", "10.0.0.1:80").id;
    let service = dig(&["+tcp", "+noedns", "web.discoverd", "SRV"]);
    assert!(service.contains(&format!("SRV 1 1 80 {id}.web._i.discoverd.")), "{service}");
    assert!(service.contains(&format!("{id}.web._i.discoverd. 0 IN A 10.0.0.1")), "{service}");
    let missing = dig(&["missing.discoverd"]);
    assert!(
        missing.contains("status: NXDOMAIN") && missing.contains("SOA ns.discoverd. postmaster.discoverd."),
        "{missing}"
    );
    let version = dig(&["+edns=1", "+noednsneg", "web.discoverd"]);
    assert!(version.contains("status: BADVERS"), "{version}");
}
