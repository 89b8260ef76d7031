//! Addresses and interfaces of containers.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::world::{Echo, World, exists, interfaces, job, reaches, run};

#[test]
fn a_container_gets_its_interface_and_nothing_of_it_stays() {
    let world = World::new();
    let one = world.started(1);
    let before = interfaces(&one);
    let a = one.container("a");
    let [first, second, third, _] = one.network().subnet().address().octets();
    assert_eq!(a.ip(), Ipv4Addr::new(first, second, third, 2));
    assert_eq!((a.attachment.prefix_len, a.attachment.gateway), (24, one.network().gateway()));
    let eth0 = run(&a.namespace, "ip addr show eth0");
    assert!(eth0.contains(&format!("inet {}/24", a.ip())) && !eth0.contains("inet6"), "{eth0}");
    assert!(eth0.contains(&format!("link/ether {}", a.attachment.mac)) && eth0.contains("ether fe:"), "{eth0}");
    assert!(run(&a.namespace, "ip addr show lo").contains("127.0.0.1/8"));
    assert!(run(&a.namespace, "ip route").contains(&format!("default via {} dev eth0", one.network().gateway())));
    let gateway = Echo::start(&one.namespace, one.network().gateway());
    assert_eq!(reaches(&a.client(), gateway.address), a.ip());
    for round in ["first", "again"] {
        let (network, id, pin) = (one.network(), a.job.clone(), one.pin(&a.job));
        one.run(async move {
            network.detach(&id, &pin).await;
            network.release(&id);
        });
        assert_eq!(interfaces(&one), before, "{round}");
        assert!(!exists(&one.pin(&a.job)));
    }
}

#[test]
fn a_failed_attachment_leaves_nothing() {
    let world = World::new();
    let one = world.started(1);
    let before = interfaces(&one);
    let (network, id) = (one.network(), job("a"));
    std::fs::write(one.config.pins_dir.join("file"), "").unwrap();
    let pin = one.config.pins_dir.join("file").join("netns");
    let failed = one.run(async move {
        let ip = network.allocate(&id, None).unwrap();
        network.attach(&id, ip, &pin).await.unwrap_err().to_string()
    });
    assert_eq!(failed, "connect job host-a to the network");
    assert_eq!(interfaces(&one), before);
}

#[test]
fn an_interface_that_a_killed_daemon_left_is_replaced_and_a_strangers_is_not() {
    let world = World::new();
    let one = world.started(1);
    let a = one.container("a");
    let (network, old, pin) = (one.network(), a.job.clone(), one.pin(&job("b")));
    let ip = a.ip();
    one.run(async move {
        network.release(&old); // without `detach`
        network.allocate(&job("b"), Some(ip)).unwrap();
        network.attach(&job("b"), ip, &pin).await.unwrap();
    });
    run(&one.namespace, &format!("ip link add veth{:02x}09 type bridge", ip.octets()[2]));
    let (network, pin) = (one.network(), one.pin(&job("c")));
    let failed = one.run(async move {
        let [a, b, c, _] = ip.octets();
        let ip = network.allocate(&job("c"), Some(Ipv4Addr::new(a, b, c, 9))).unwrap();
        network.attach(&job("c"), ip, &pin).await.unwrap_err().to_string()
    });
    assert!(failed.ends_with("exists and is not ours; remove it"), "{failed}");
    assert!(!exists(&one.pin(&job("c"))));
}

#[test]
fn two_hundred_containers_at_once_have_two_hundred_addresses() {
    let world = World::new();
    let one = world.started(1);
    let (network, pins) = (one.network(), one.config.pins_dir.clone());
    let (addresses, names) = one.run(async move {
        let mut jobs = JoinSet::new();
        for number in 0..200 {
            let (network, pins) = (Arc::clone(&network), pins.clone());
            jobs.spawn(async move {
                let id = job(&format!("job{number}"));
                let ip = network.allocate(&id, None).unwrap();
                let attachment = network.attach(&id, ip, &pins.join(id.as_str()).join("netns")).await.unwrap();
                (ip, attachment.veth_host)
            });
        }
        let done = jobs.join_all().await;
        let addresses: BTreeSet<Ipv4Addr> = done.iter().map(|(ip, _)| *ip).collect();
        let names: BTreeSet<String> = done.into_iter().map(|(_, name)| name).collect();
        (addresses, names)
    });
    assert_eq!((addresses.len(), names.len()), (200, 200));
    let ports = run(&one.namespace, "ip -br link show master flynnbr0 up");
    assert_eq!(ports.lines().count(), 200);
}
