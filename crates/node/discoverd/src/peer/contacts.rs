//! Where nodes are and when they were last heard of. Only memory: it is rebuilt by the next messages.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Shared by everything that talks to other nodes.
///
/// A node that changed its address says so to everybody it knows; what it said outranks the address in the membership,
/// which can only be corrected once there is a leader.
#[derive(Debug, Default)]
pub(crate) struct Contacts {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    addrs: BTreeMap<u64, SocketAddr>,
    /// When the last message that a node answered was *sent*: a pause of ours makes it older, never younger.
    answered: BTreeMap<u64, Instant>,
    /// When the leader last appended here.
    led: Option<(u64, Instant)>,
    hearsay: Option<Hearsay>,
    /// Addresses worth a call.
    known: BTreeSet<SocketAddr>,
}

/// The leader by hearsay, for a node that does not follow one itself.
#[derive(Clone, Copy, Debug)]
struct Hearsay {
    leader: u64,
    addr: SocketAddr,
    /// Who said so.
    from: SocketAddr,
    at: Instant,
}

/// More addresses than any cluster has are not remembered.
const MAX_KNOWN: usize = 1024;

impl Contacts {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node itself said, or was found, to be there.
    pub(crate) fn learn(&self, node: u64, addr: SocketAddr) {
        if node == 0 {
            return;
        }
        let mut inner = self.lock();
        inner.addrs.retain(|other, at| *other == node || *at != addr);
        inner.addrs.insert(node, addr);
    }

    /// Somebody else, or nobody, is there.
    pub(crate) fn unlearn(&self, node: u64, addr: SocketAddr) {
        let mut inner = self.lock();
        if inner.addrs.get(&node) == Some(&addr) {
            inner.addrs.remove(&node);
        }
    }

    pub(crate) fn addr(&self, node: u64) -> Option<SocketAddr> {
        self.lock().addrs.get(&node).copied()
    }

    pub(crate) fn answered(&self, node: u64, sent: Instant) {
        let mut inner = self.lock();
        let last = inner.answered.entry(node).or_insert(sent);
        *last = sent.max(*last);
    }

    pub(crate) fn last_answered(&self, node: u64) -> Option<Instant> {
        self.lock().answered.get(&node).copied()
    }

    pub(crate) fn led_by(&self, leader: u64) {
        self.lock().led = Some((leader, Instant::now()));
    }

    /// How long ago the leader last appended here.
    pub(crate) fn led_ago(&self, leader: u64) -> Option<Duration> {
        self.lock().led.filter(|(node, _)| *node == leader).map(|(_, at)| at.elapsed())
    }

    pub(crate) fn heard_of_leader(&self, leader: u64, addr: SocketAddr, from: SocketAddr) {
        self.lock().hearsay = Some(Hearsay { leader, addr, from, at: Instant::now() });
    }

    /// The leader that another node named not longer than `within` ago.
    pub(crate) fn hearsay(&self, within: Duration) -> Option<(u64, SocketAddr)> {
        let hearsay = self.lock().hearsay.filter(|said| said.at.elapsed() < within)?;
        Some((hearsay.leader, hearsay.addr))
    }

    /// Another node, which named that leader not longer than `within` ago: it hears the leader, even if we do not.
    pub(crate) fn go_between(&self, leader: u64, within: Duration) -> Option<SocketAddr> {
        let hearsay = self.lock().hearsay.filter(|said| said.leader == leader && said.at.elapsed() < within)?;
        (hearsay.from != hearsay.addr).then_some(hearsay.from)
    }

    pub(crate) fn know(&self, addrs: impl IntoIterator<Item = SocketAddr>) {
        let mut inner = self.lock();
        for addr in addrs {
            if inner.known.len() < MAX_KNOWN {
                inner.known.insert(addr);
            }
        }
    }

    /// All addresses worth a call.
    pub(crate) fn known(&self) -> BTreeSet<SocketAddr> {
        let inner = self.lock();
        inner.known.iter().chain(inner.addrs.values()).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_hears_the_leader_can_go_between() {
        let addr = |port| SocketAddr::from(([10, 0, 0, 1], port));
        let (contacts, within) = (Contacts::default(), Duration::from_secs(3));
        assert_eq!(contacts.go_between(1, within), None);
        contacts.heard_of_leader(1, addr(1), addr(2));
        assert_eq!(contacts.go_between(1, within), Some(addr(2)));
        assert_eq!(contacts.go_between(3, within), None, "it was another leader");
        assert_eq!(contacts.go_between(1, Duration::ZERO), None, "that was long ago");
        contacts.heard_of_leader(1, addr(1), addr(1));
        assert_eq!(contacts.go_between(1, within), None, "the leader itself said so");
    }
}
