use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn host(number: u8) -> HostId {
    format!("host{number}").parse().unwrap()
}

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, number)
}

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn document(value: Value) -> Leases {
    serde_json::from_value(value).unwrap()
}

/// The claim of a host at an address; the first free subnet is taken.
fn claim_at(
    leases: &Leases,
    host_id: u8,
    at: u8,
    preferred: Option<&str>,
) -> Result<(Lease, Option<Leases>), ClaimError> {
    let (host_id, settings) = (host(host_id), Settings::default());
    let claim = Claim {
        host_id: &host_id,
        external_ip: address(at),
        status_port: 5002,
        preferred: preferred.map(net),
        settings: &settings,
    };
    Ok(match decide(leases, &claim, |_| 0)? {
        Decision::Keep(lease) => (lease, None),
        Decision::Write(lease, leases) => (lease, Some(leases)),
    })
}

#[test]
fn the_first_host_writes_the_settings_and_a_lease() {
    let (lease, written) = claim_at(&Leases::default(), 1, 1, None).unwrap();
    assert_eq!(lease.subnet, net("100.100.1.0/24"), "never the network's first");
    assert_eq!(
        serde_json::to_value(written.unwrap()).unwrap(),
        json!({
            "config": {"Network": "100.100.0.0/16", "Backend": {"Type": "vxlan", "Port": 5002}},
            "subnets": {"100.100.1.0-24": {
                "PublicIP": "10.0.0.1", "HTTPPort": "5002", "BackendType": "vxlan",
                "BackendData": {"VtepMAC": "02:42:64:64:01:00"}, "HostID": "host1",
            }},
        })
    );
}

#[test]
fn a_later_host_follows_the_settings_that_are_there() {
    let leases = document(json!({"config": {"network": "10.8.0.0/14", "SUBNETLEN": 26, "subnetMin": "10.8.4.0",
        "Backend": {"type": "VXLAN", "vni": 7}}, "subnets": null}));
    let (lease, written) = claim_at(&leases, 1, 1, None).unwrap();
    assert_eq!((lease.subnet, lease.network), (net("10.8.4.0/26"), net("10.8.0.0/14")));
    assert_eq!((lease.vni, lease.vxlan_port), (7, 8472), "the kernel's port where none is named, as for Go hosts");
    assert_eq!(written.unwrap().config, leases.config);
}

#[test]
fn a_host_gets_its_subnet_back() {
    let (first, leases) = claim_at(&Leases::default(), 1, 1, None).unwrap();
    let leases = leases.unwrap();
    assert_eq!(claim_at(&leases, 1, 1, None).unwrap(), (first.clone(), None), "nothing to write");
    let (moved, changed) = claim_at(&leases, 1, 77, None).unwrap();
    assert_eq!(moved, first, "also at another address");
    let entry = changed.unwrap().iter().next().unwrap().1;
    assert_eq!(entry.public_ip, address(77));
    assert_eq!(entry.vtep_mac(), Some(first.vtep_mac()));
}

#[test]
fn hosts_that_swapped_addresses_keep_their_subnets() {
    let (one, leases) = claim_at(&Leases::default(), 1, 1, None).unwrap();
    let (two, leases) = claim_at(&leases.unwrap(), 2, 2, None).unwrap();
    let (one_moved, leases) = claim_at(&leases.unwrap(), 1, 2, None).unwrap();
    let leases = leases.unwrap();
    assert!(peers(&leases, &one_moved, address(2)).is_empty(), "host 2 is still written at our own address");
    let (two_moved, leases) = claim_at(&leases, 2, 1, None).unwrap();
    assert_eq!((one_moved, two_moved), (one.clone(), two.clone()));
    let seen: Vec<_> =
        peers(&leases.unwrap(), &one, address(2)).iter().map(|peer| (peer.subnet, peer.public_ip)).collect();
    assert_eq!(seen, [(two.subnet, address(1))]);
}

#[test]
fn a_lost_document_is_written_again_with_the_remembered_subnet() {
    let (lease, _) = claim_at(&Leases::default(), 1, 1, Some("100.100.77.1/24")).unwrap();
    assert_eq!(lease.subnet, net("100.100.77.0/24"));
    for (why, preferred) in [
        ("another length", "100.100.77.0/25"),
        ("outside of the network", "10.0.0.0/24"),
        ("the network's first", "100.100.0.0/24"),
    ] {
        let (lease, _) = claim_at(&Leases::default(), 1, 1, Some(preferred)).unwrap();
        assert_eq!(lease.subnet, net("100.100.1.0/24"), "{why}");
    }
    let (_, leases) = claim_at(&Leases::default(), 2, 2, Some("100.100.77.0/24")).unwrap();
    let (lease, _) = claim_at(&leases.unwrap(), 1, 1, Some("100.100.77.0/24")).unwrap();
    assert_eq!(lease.subnet, net("100.100.1.0/24"), "leased to another");
}

#[test]
fn a_lease_of_the_go_implementation_becomes_the_hosts_at_its_address() {
    let leases = document(json!({"config": {"Network": "100.100.0.0/16", "Backend": {"Type": "vxlan"}}, "subnets": {
        "100.100.28.0-24": {"PublicIP": "10.0.0.1", "HTTPPort": "5002", "BackendType": "vxlan",
            "BackendData": {"VtepMAC": "0a:00:00:00:00:01"}, "Extra": [1]},
        "100.100.29.0-24": {"PublicIP": "10.0.0.2", "HTTPPort": "5002", "BackendType": "vxlan",
            "BackendData": {"VtepMAC": "0a:00:00:00:00:02"}},
        "nonsense": 7,
    }, "later": {"x": 1}}));
    let (lease, written) = claim_at(&leases, 1, 1, Some("100.100.99.0/24")).unwrap();
    assert_eq!(lease.subnet, net("100.100.28.0/24"));
    let written = written.unwrap();
    let text = serde_json::to_value(&written).unwrap();
    assert_eq!(text["later"], json!({"x": 1}), "unknown parts survive");
    assert_eq!(text["subnets"]["nonsense"], json!(7));
    assert_eq!(text["subnets"]["100.100.28.0-24"]["Extra"], json!([1]));
    let peers = peers(&written, &lease, address(1));
    assert_eq!(peers.len(), 1);
    assert_eq!(peers[0].vtep_mac.to_string(), "0a:00:00:00:00:02", "the Go host keeps its own");
}

#[test]
fn a_second_lease_of_one_host_is_given_up() {
    let (_, one) = claim_at(&Leases::default(), 1, 1, Some("100.100.5.0/24")).unwrap();
    let mut text = serde_json::to_value(one.unwrap()).unwrap();
    text["subnets"]["100.100.9.0-24"] = text["subnets"]["100.100.5.0-24"].clone();
    let (lease, written) = claim_at(&document(text), 1, 1, None).unwrap();
    assert_eq!(written.unwrap().iter().map(|(subnet, _)| subnet).collect::<Vec<_>>(), [lease.subnet]);
}

#[test]
fn only_forgetting_a_host_frees_its_subnet() {
    let small = json!({"config": {"Network": "10.1.0.0/24", "SubnetLen": 26}});
    let (_, leases) = claim_at(&document(small), 1, 1, None).unwrap();
    let (_, leases) = claim_at(&leases.unwrap(), 2, 2, None).unwrap();
    let (third, leases) = claim_at(&leases.unwrap(), 3, 3, None).unwrap();
    let mut leases = leases.unwrap();
    let full = claim_at(&leases, 4, 4, None).unwrap_err();
    assert!(full.to_string().starts_with("out of subnets: all 3 subnets of 10.1.0.0/24 are leased"), "{full}");
    assert!(leases.forget(&host(3)));
    assert!(!leases.forget(&host(3)));
    assert_eq!(claim_at(&leases, 4, 4, None).unwrap().0.subnet, third.subnet);
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    for (config, message) in [
        (json!({"Network": "10.0.0.0/40"}), "which is not an IPv4 network"),
        (json!({"x": 1}), "which is not an IPv4 network"),
        (json!({"Network": "10.0.0.0/16", "SubnetLen": 12}), "HostSubnet is larger network than Network"),
        (json!({"Network": "10.0.0.0/16", "SubnetLen": 31}), "which is not at most 30"),
        (json!({"Network": "10.0.0.0/16", "SubnetMin": "10.1.0.0"}), "SubnetMin is not in the range of the Network"),
        (json!({"Network": "10.0.0.0/16", "Backend": {"Type": "host-gw"}}), "knows only vxlan"),
    ] {
        let err = claim_at(&document(json!({"config": config})), 1, 1, None).unwrap_err();
        assert!(err.to_string().contains(message), "{config}: {err}");
    }
}

#[test]
fn leases_of_other_overlays_and_networks_are_no_peers() {
    let entry = |kind: &str| {
        json!({"PublicIP": "10.0.0.9", "HTTPPort": "5002", "BackendType": kind,
        "BackendData": {"VtepMAC": "0a:00:00:00:00:02"}})
    };
    let (lease, written) = claim_at(&Leases::default(), 1, 1, None).unwrap();
    let mut text = serde_json::to_value(written.unwrap()).unwrap();
    text["subnets"]["100.100.20.0-24"] = entry("host-gw");
    text["subnets"]["10.77.0.0-24"] = entry("vxlan");
    text["subnets"]["100.100.0.0-20"] = entry("vxlan");
    text["subnets"]["100.100.21.0-24"] = entry("vxlan");
    let found: Vec<String> =
        peers(&document(text), &lease, address(1)).iter().map(|peer| peer.subnet.to_string()).collect();
    assert_eq!(found, ["100.100.21.0/24"]);
}

#[test]
fn a_remembered_lease_is_read_back() {
    let (lease, _) = claim_at(&Leases::default(), 1, 1, None).unwrap();
    let text = serde_json::to_string(&lease).unwrap();
    let golden =
        r#"{"host_id":"host1","subnet":"100.100.1.0/24","network":"100.100.0.0/16","vni":1,"vxlan_port":5002}"#;
    assert_eq!(text, golden);
    assert_eq!(serde_json::from_str::<Lease>(golden).unwrap(), lease);
}

proptest! {
    /// Hosts start, restart and move in any order, each working on a document that may be old: an old one never wins.
    #[test]
    fn subnets_are_distinct_and_stay(
        steps in proptest::collection::vec((1..20_u8, 1..40_u8, any::<usize>(), any::<bool>()), 1..80)
    ) {
        let mut versions = vec![Leases::default()];
        let mut first: BTreeMap<u8, Ipv4Net> = BTreeMap::new();
        for (number, at, chance, stale) in steps {
            let (host_id, settings) = (host(number), Settings::default());
            let claim = Claim { host_id: &host_id, external_ip: address(at), status_port: 1, preferred: None, settings: &settings };
            let index = if stale { chance % versions.len() } else { versions.len() - 1 };
            if let Decision::Write(_, leases) = decide(&versions[index], &claim, |count| chance % count).unwrap()
                && index == versions.len() - 1
            {
                versions.push(leases);
            }
            let newest = versions.last().unwrap();
            let subnets: Vec<(Ipv4Net, HostId)> = newest.iter().map(|(subnet, entry)| (subnet, entry.host_id.unwrap())).collect();
            for (position, (subnet, owner)) in subnets.iter().enumerate() {
                prop_assert!(!subnets[..position].iter().any(|(other, _)| other.overlaps(*subnet)));
                let number: u8 = owner.as_str()[4..].parse().unwrap();
                prop_assert_eq!(*first.entry(number).or_insert(*subnet), *subnet);
            }
            prop_assert_eq!(subnets.len(), first.len());
        }
    }
}
