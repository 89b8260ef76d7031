//! New cluster states. Pure: from who is registered and what was, to what shall be.

use flynn_types::discoverd::Instance;
use flynn_types::sirenia::{ClusterState, Freeze, IdKey, PeerId};
use flynn_types::time::GoTime;

const SINGLETON_FREEZE: &str = "cluster started in singleton mode";

/// The registered peers: one instance for each, oldest first.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Peers<'a> {
    key: &'a IdKey,
    list: Vec<&'a Instance>,
}

impl<'a> Peers<'a> {
    /// Of two instances of one peer the newer counts: the other is what is left of a job that is gone.
    pub(crate) fn new(key: &'a IdKey, instances: &'a [Instance]) -> Self {
        let mut list: Vec<&Instance> = Vec::new();
        for instance in instances {
            match list.iter_mut().find(|known| key.same(known, instance)) {
                Some(known) if known.index < instance.index => *known = instance,
                Some(_) => {}
                None => list.push(instance),
            }
        }
        list.sort_by_key(|instance| instance.index);
        Self { key, list }
    }

    pub(crate) fn find(&self, id: &PeerId) -> Option<&'a Instance> {
        self.list.iter().find(|instance| self.key.peer(instance) == *id).copied()
    }

    pub(crate) fn has(&self, instance: &Instance) -> bool {
        self.live(instance).is_some()
    }

    /// Where a listed peer is registered now.
    pub(crate) fn live(&self, instance: &Instance) -> Option<&'a Instance> {
        self.find(&self.key.peer(instance))
    }

    /// The entry of a listed peer, with its present address if it has one.
    pub(crate) fn refreshed(&self, entry: &Instance) -> Instance {
        self.live(entry).unwrap_or(entry).clone()
    }

    pub(crate) fn first(&self) -> Option<&'a Instance> {
        self.list.first().copied()
    }

    fn present(&self, entries: &[Instance]) -> Vec<Instance> {
        entries.iter().filter_map(|entry| self.live(entry)).cloned().collect()
    }

    fn others(&self, listed: &ClusterState) -> Vec<Instance> {
        let known: Vec<PeerId> = listed.members().map(|member| self.key.peer(member)).collect();
        self.list.iter().filter(|peer| !known.contains(&self.key.peer(peer))).map(|peer| (*peer).clone()).collect()
    }
}

/// The first state of a cluster whose database is empty (N2, N3). The first peer makes it; without `singleton` it needs
/// a second one.
pub(crate) fn first(peers: &Peers<'_>, singleton: bool, zero: String, at: GoTime) -> Option<ClusterState> {
    let mut list = peers.list.iter().map(|peer| (*peer).clone());
    let primary = list.next()?;
    let start = ClusterState { generation: 1, init_wal: zero, primary: Some(primary), ..ClusterState::default() };
    if singleton {
        let freeze = Some(Freeze { frozen_at: at, reason: SINGLETON_FREEZE.to_owned() });
        return Some(ClusterState { singleton, freeze, ..start });
    }
    Some(ClusterState { sync: Some(list.next()?), asyncs: list.collect(), ..start })
}

/// `me` declares itself primary of the next generation, with the first async that is present as its sync (spec section
/// 3.5). Without one there is nobody to keep what would be acknowledged.
pub(crate) fn takeover(before: &ClusterState, me: &Instance, peers: &Peers<'_>) -> Option<ClusterState> {
    let mut asyncs = peers.present(&before.asyncs).into_iter();
    let sync = asyncs.next()?;
    let mut deposed = before.deposed.clone();
    let replaced = before.primary.as_ref().filter(|primary| !peers.key.same(primary, me));
    deposed.extend(replaced.cloned());
    let asyncs = asyncs.collect();
    Some(ClusterState { deposed, ..next_generation(before, me, sync, asyncs) })
}

/// A primary that wrote alone gets the first other peer as its sync (spec section 3.7).
pub(crate) fn normal_mode(before: &ClusterState, me: &Instance, peers: &Peers<'_>) -> Option<ClusterState> {
    let mut others = peers.others(before).into_iter();
    let sync = others.next()?;
    Some(ClusterState { singleton: false, ..next_generation(before, me, sync, others.collect()) })
}

fn next_generation(before: &ClusterState, me: &Instance, sync: Instance, asyncs: Vec<Instance>) -> ClusterState {
    ClusterState {
        generation: before.generation + 1,
        freeze: None,
        primary: Some(me.clone()),
        sync: Some(sync),
        asyncs,
        ..before.clone()
    }
}

/// The same with the addresses at which primary, sync and asyncs are now. Asyncs that are gone stay: removing them is
/// another decision.
pub(crate) fn refreshed(before: &ClusterState, peers: &Peers<'_>) -> ClusterState {
    let entry = |entry: &Option<Instance>| entry.as_ref().map(|entry| peers.refreshed(entry));
    ClusterState {
        primary: entry(&before.primary),
        sync: entry(&before.sync),
        asyncs: before.asyncs.iter().map(|entry| peers.refreshed(entry)).collect(),
        ..before.clone()
    }
}

/// Without asyncs that are gone, with the peers that are in no list at the end (spec section 3.8). Deposed ones stay
/// where they are: only an operator knows that nobody misses what they alone hold.
pub(crate) fn asyncs_as_present(before: &ClusterState, peers: &Peers<'_>) -> ClusterState {
    let mut asyncs = peers.present(&before.asyncs);
    asyncs.extend(peers.others(before));
    ClusterState { asyncs, ..before.clone() }
}
