//! Who has which subnet.

use std::collections::BTreeSet;
use std::sync::Arc;

use flynn_network::Leases;

use crate::world::{World, until};

#[test]
fn twenty_hosts_that_start_at_once_have_twenty_subnets() {
    let world = World::new();
    let mut hosts: Vec<_> = (1..=20).map(|number| world.host(number)).collect();
    std::thread::scope(|scope| {
        for host in &mut hosts {
            scope.spawn(|| host.start(None));
        }
    });
    let subnets: BTreeSet<_> = hosts.iter().map(|host| host.network().subnet()).collect();
    assert_eq!(subnets.len(), 20);
    for host in &hosts {
        assert_eq!(world.store.leases().of_host(&host.config.host_id), Some(host.network().subnet()));
        until("all hosts know each other", || host.network().status().peers.is_some_and(|peers| peers.len() == 19));
    }
}

#[test]
fn a_lost_document_is_written_again_without_a_change() {
    let world = World::new();
    let (one, two) = (world.started(1), world.started(2));
    let before = world.store.leases();
    world.store.overwrite(Leases::default());
    until("both leases are back", || world.store.leases() == before);
    assert_eq!(one.network().status().subnet, one.network().subnet());
    assert_eq!(before.of_host(&two.config.host_id), Some(two.network().subnet()));
}

#[test]
fn a_second_daemon_with_the_same_id_is_reported_and_does_not_flap() {
    let world = World::new();
    let (one, mut twin) = (world.started(1), world.host(7));
    twin.config.host_id = one.config.host_id.clone();
    twin.start(None);
    let network = one.network();
    until("the twin is noticed", || network.status().host_id_used_by == Some(twin.config.external_ip));
    let taken = world.store.leases();
    assert_eq!(taken.of_host(&one.config.host_id), Some(network.subnet()));
    let again = Arc::clone(&network);
    one.run(async move { again.reconcile().await }).unwrap();
    assert_eq!(world.store.leases(), taken);
}
