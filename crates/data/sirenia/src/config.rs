//! What follows for the database from the cluster's state and the peer's role in it. Pure.

use flynn_types::discoverd::Instance;
use flynn_types::sirenia::{ClusterState, Config, IdKey, PeerId, Role};

use crate::declare::Peers;

/// What `id` is in a cluster (spec section 3.4).
pub(crate) fn role_in(cluster: &ClusterState, key: &IdKey, id: &PeerId) -> Role {
    let is_me = |entry: &Instance| key.peer(entry) == *id;
    if cluster.primary.as_ref().is_some_and(is_me) {
        Role::Primary
    } else if cluster.singleton {
        Role::Unassigned
    } else if cluster.sync.as_ref().is_some_and(is_me) {
        Role::Sync
    } else if cluster.deposed.iter().any(is_me) {
        Role::Deposed
    } else if cluster.asyncs.iter().any(is_me) {
        Role::Async
    } else {
        Role::Unassigned
    }
}

/// What the database of the peer with this role is told to be (spec sections 3.1, 3.9). Neighbours are named with the
/// addresses at which they are now.
pub(crate) fn config_of(role: Role, id: &PeerId, cluster: &ClusterState, key: &IdKey, peers: &Peers<'_>) -> Config {
    let place = cluster.asyncs.iter().position(|entry| key.peer(entry) == *id);
    let (upstream, downstream) = match (role, place) {
        (Role::Primary, _) => (None, cluster.sync.as_ref()),
        (Role::Sync, _) => (cluster.primary.as_ref(), cluster.asyncs.first()),
        (Role::Async, Some(place)) => {
            let before = place.checked_sub(1).and_then(|before| cluster.asyncs.get(before));
            (before.or(cluster.sync.as_ref()), cluster.asyncs.get(place + 1))
        }
        _ => return stopped(),
    };
    let live = |entry: Option<&Instance>| entry.map(|entry| peers.refreshed(entry));
    let (upstream, downstream) = (live(upstream), live(downstream));
    Config { role, upstream, downstream, tunables: cluster.tunables.clone(), state: Some(cluster.clone()) }
}

/// A database that does not run.
pub(crate) fn stopped() -> Config {
    Config { role: Role::None, ..Config::default() }
}

/// Whether a database that is configured as the one needs nothing to be as the other.
pub(crate) fn same(one: &Config, other: &Config, key: &IdKey) -> bool {
    let place = |instance: &Instance| (key.peer(instance), instance.addr.clone(), instance.proto.clone());
    let essence = |config: &Config| {
        let cluster = config.state.as_ref();
        (
            config.role,
            config.upstream.as_ref().map(place),
            config.downstream.as_ref().map(place),
            config.tunables.as_ref().map_or(0, |tunables| tunables.version),
            cluster.map(|cluster| {
                let members: Vec<_> = cluster.members().map(place).collect();
                // The number of asyncs tells which of the members are deposed.
                (cluster.generation, cluster.singleton, cluster.asyncs.len(), members)
            }),
        )
    };
    essence(one) == essence(other)
}
