use super::*;

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

#[test]
fn a_network_knows_its_addresses() {
    let subnet = net("100.100.28.77/24");
    assert_eq!(subnet.to_string(), "100.100.28.0/24");
    assert_eq!(subnet.first_host(), Ipv4Addr::new(100, 100, 28, 1));
    assert_eq!(subnet.broadcast(), Ipv4Addr::new(100, 100, 28, 255));
    assert!(net("100.100.0.0/16").contains_net(subnet));
    assert!(!subnet.contains_net(net("100.100.0.0/16")));
    assert!(subnet.overlaps(net("100.100.0.0/16")) && !subnet.overlaps(net("100.100.29.0/24")));
    assert!(net("0.0.0.0/0").contains(Ipv4Addr::BROADCAST));
}

#[test]
fn a_network_is_divided_in_order() {
    let parts: Vec<String> = net("10.0.0.0/22").subnets(24).map(|part| part.to_string()).collect();
    assert_eq!(parts, ["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24"]);
    assert_eq!(net("10.0.0.0/24").subnets(16).count(), 0);
    assert_eq!(net("255.255.255.0/24").subnets(32).last().unwrap().to_string(), "255.255.255.255/32");
}

#[test]
fn what_is_no_network_or_hardware_address_is_refused() {
    for text in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/", "10.0.0.0/-1", "::/0"] {
        assert!(text.parse::<Ipv4Net>().is_err(), "{text}");
    }
    for text in ["", "02:42:00:00:00", "02:42:00:00:00:00:00", "02:42:00:00:00:0g", "0242:00:00:00:0:0"] {
        assert!(text.parse::<MacAddr>().is_err(), "{text}");
    }
    assert_eq!("02:42:0A:00:00:01".parse::<MacAddr>().unwrap().to_string(), "02:42:0a:00:00:01");
}
