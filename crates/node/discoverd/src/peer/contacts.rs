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
    /// The leader by hearsay, for a node that does not follow one itself.
    hearsay: Option<(u64, SocketAddr, Instant)>,
    /// Addresses worth a call.
    known: BTreeSet<SocketAddr>,
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

    pub(crate) fn heard_of_leader(&self, node: u64, addr: SocketAddr) {
        self.lock().hearsay = Some((node, addr, Instant::now()));
    }

    /// The leader that another node named not longer than `within` ago.
    pub(crate) fn hearsay(&self, within: Duration) -> Option<(u64, SocketAddr)> {
        self.lock().hearsay.filter(|(_, _, at)| at.elapsed() < within).map(|(node, addr, _)| (node, addr))
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
