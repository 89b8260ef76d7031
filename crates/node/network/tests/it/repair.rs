//! What others break is put right; what is told to go, goes.

use std::collections::BTreeSet;

use flynn_network::Network;

use crate::world::{Echo, Host, World, ask, exists, interfaces, reaches, run, until};

#[test]
fn what_others_break_is_put_right() {
    let world = World::new();
    let (one, two) = (world.started(1), world.started(2));
    let (a, b) = (one.container("a"), two.container("b"));
    let (echo, socket) = (b.echo(), a.client());
    reaches(&socket, echo.address);
    let other = two.network().subnet();
    let other_mac = format!(
        "02:42:{:02x}:{:02x}:{:02x}:00",
        other.address().octets()[0],
        other.address().octets()[1],
        other.address().octets()[2]
    );
    let gateway = one.network().gateway();
    for command in [
        format!("ip route del {other}"),
        format!("ip neigh del {} dev flannel.1", other.address()),
        format!("bridge fdb del {other_mac} dev flannel.1"),
        format!("bridge fdb replace {other_mac} dev flannel.1 dst 10.99.0.77 self permanent"),
        "ip link set flannel.1 down".to_owned(),
        "ip link set flannel.1 mtu 600".to_owned(),
        "ip link set flannel.1 address 0a:00:00:00:00:01".to_owned(),
        "ip link del flannel.1".to_owned(),
        format!("ip link set {} nomaster", a.attachment.veth_host),
        format!("ip link set {} down", a.attachment.veth_host),
        "ip link set flynnbr0 down".to_owned(),
        format!("ip addr del {gateway}/24 dev flynnbr0"),
        "ip link del flynnbr0".to_owned(),
        "sysctl -w net.ipv4.ip_forward=0".to_owned(),
    ] {
        run(&one.namespace, &command);
        // The kernel's signs may come first; asking makes the test quick for what gives none.
        let network = one.network();
        one.run(async move { network.reconcile().await }).unwrap();
        until(&format!("repaired after: {command}"), || ask(&socket, echo.address, b"again").is_some());
    }
    assert!(one.network().status().repairs > 0);
    let mtu = run(&one.namespace, "ip link show flannel.1");
    assert!(mtu.contains("mtu 1450"), "{mtu}");
}

#[test]
fn changes_of_devices_are_put_right_without_being_asked() {
    let world = World::new();
    let one = world.started(1);
    let a = one.container("a");
    run(&one.namespace, &format!("ip link set {} nomaster", a.attachment.veth_host));
    let echo = Echo::start(&one.namespace, one.network().gateway());
    reaches(&a.client(), echo.address);
}

#[test]
fn a_flushed_firewall_is_put_right_without_being_asked() {
    let world = World::new();
    let one = world.started(1);
    let table = || run(&one.namespace, "nft -s list ruleset");
    let before = table();
    assert!(before.contains("masquerade"), "{before}");
    for command in ["nft flush ruleset", "nft flush table ip flynn", "nft add rule ip flynn forward drop"] {
        run(&one.namespace, command);
        until(&format!("repaired after: {command}"), || table() == before);
    }
}

#[test]
fn another_firewall_that_drops_is_reported() {
    let world = World::new();
    let one = world.started(1);
    run(&one.namespace, "nft add table ip filter");
    run(&one.namespace, "nft add chain ip filter FORWARD { type filter hook forward priority 0 ; policy drop ; }");
    let network = one.network();
    one.run(async move { network.reconcile().await }).unwrap();
    assert_eq!(one.network().status().foreign_drops, ["ip filter FORWARD"]);
}

/// All that a network could leave in a host.
fn everything(host: &Host) -> String {
    let links = interfaces(host);
    let routes = run(&host.namespace, "ip route");
    let rules = run(&host.namespace, "nft list ruleset");
    let neighbours = run(&host.namespace, "ip neigh show nud permanent");
    let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let pins = mounts.lines().filter(|line| line.contains(" - nsfs ")).count();
    format!("{links:?}\n{routes}\n{rules}\n{neighbours}\n{pins} pins")
}

#[test]
fn after_clean_up_nothing_is_left() {
    let world = World::new();
    let mut one = world.host(1);
    let before = everything(&one);
    one.start(None);
    let _two = world.started(2);
    let (a, _b) = (one.container("a"), one.container("b"));
    let network = one.network();
    until("the other host is known", || network.status().peers.is_some_and(|peers| !peers.is_empty()));
    assert_ne!(everything(&one), before);
    drop(network);
    one.stop();
    for round in ["first", "again"] {
        let config = one.config.clone();
        one.run(async move { Network::clean_up(&config).await }).unwrap();
        assert_eq!(everything(&one), before, "{round}");
        assert!(!exists(&one.pin(&a.job)));
    }
}

#[test]
fn leftovers_of_jobs_that_are_gone_are_removed() {
    let world = World::new();
    let one = world.started(1);
    let (a, b) = (one.container("a"), one.container("b"));
    let (network, live) = (one.network(), BTreeSet::from([a.job.clone()]));
    let removed = one.run(async move { (network.leftovers(&live).await, network.leftovers(&live).await) });
    assert_eq!(removed, (2, 0), "interface and pin, once");
    assert!(exists(&one.pin(&a.job)) && !exists(&one.pin(&b.job)));
    let echo = Echo::start(&one.namespace, one.network().gateway());
    reaches(&a.client(), echo.address);
    assert!(!run(&one.namespace, "ip -br link").contains(&b.attachment.veth_host));
}

#[test]
fn a_removed_lease_takes_its_route_along() {
    let world = World::new();
    let (one, mut two) = (world.started(1), world.started(2));
    let other = two.network().subnet();
    let has_route = || run(&one.namespace, "ip route").contains(&other.to_string());
    until("the route is there", has_route);
    two.stop();
    let (network, gone) = (one.network(), two.config.host_id.clone());
    assert!(one.run(async move { network.forget_host(&gone).await }).unwrap());
    until("the route is gone", || !has_route());
    let entries =
        run(&one.namespace, "bridge fdb show dev flannel.1") + &run(&one.namespace, "ip neigh show dev flannel.1");
    assert!(!entries.contains("02:42"), "{entries}");
}
