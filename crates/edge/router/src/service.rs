//! Services: their backends, how busy each is and which ones fail.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rand::Rng as _;
use tokio::sync::Notify;
use tracing::info;

use crate::balance::{Rank, choose};
use crate::source::Instance;

/// Failures in a row, with a connection at hand, until a backend is ejected; one failure to connect is enough.
const PATIENCE: u32 = 3;
/// Longest time that a backend is passed over.
const LONGEST_EJECTION: Duration = Duration::from_secs(30);

/// An address that answers requests of a service.
#[derive(Debug)]
pub(crate) struct Backend {
    /// Unique in this process: a backend that comes back is another one.
    pub(crate) id: u64,
    pub(crate) address: SocketAddr,
    pub(crate) instance: Instance,
    /// Requests and tunnels in flight.
    load: AtomicUsize,
    failures: AtomicU32,
    /// In milliseconds of [`elapsed_ms`].
    ejected_until: AtomicU64,
    /// No service has it any more.
    gone: AtomicBool,
    /// When there was the last sign of life, in milliseconds of [`elapsed_ms`].
    heard_at: AtomicU64,
    /// It takes connections and answers nothing.
    stuck: AtomicBool,
    probing: AtomicBool,
    /// Somebody waits for the load to end.
    retired: AtomicBool,
    idle: Notify,
}

impl Backend {
    fn new(instance: Instance) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            address: instance.address,
            instance,
            load: AtomicUsize::new(0),
            failures: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
            gone: AtomicBool::new(false),
            heard_at: AtomicU64::new(0),
            stuck: AtomicBool::new(false),
            probing: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            idle: Notify::new(),
        }
    }

    /// Waits until nothing is in flight. For one waiter, and a backend that gets no new requests.
    pub(crate) async fn drained(&self) {
        self.retired.store(true, Ordering::SeqCst);
        while self.load.load(Ordering::SeqCst) > 0 {
            self.idle.notified().await;
        }
    }

    /// Whether it gets no new requests.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    fn rank(&self, now_ms: u64) -> Rank {
        let ejected = self.is_stuck() || self.ejected_until.load(Ordering::Relaxed) > now_ms;
        Rank { ejected, load: self.load.load(Ordering::Relaxed) }
    }

    /// It gave a sign of life.
    pub(crate) fn heard(&self) {
        self.heard_at.store(elapsed_ms(), Ordering::Relaxed);
        // Loaded first: a store would take the line from other threads at each answer.
        if self.is_stuck() {
            self.stuck.store(false, Ordering::Relaxed);
            info!(addr = %self.address, job.id = &*self.instance.job_id, "backend answers again");
        }
    }

    /// How long ago the last sign of life was.
    pub(crate) fn quiet_for(&self) -> Duration {
        Duration::from_millis(elapsed_ms().saturating_sub(self.heard_at.load(Ordering::Relaxed)))
    }

    /// Whether it was found to hang, and not heard since. It gets requests only when nobody else can.
    pub(crate) fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed)
    }

    pub(crate) fn mark_stuck(&self) {
        self.stuck.store(true, Ordering::Relaxed);
    }

    /// One probe at a time; it is over when this is dropped.
    pub(crate) fn begin_probe(&self) -> Option<Probing<'_>> {
        (!self.probing.swap(true, Ordering::Relaxed)).then_some(Probing(self))
    }

    /// It answered.
    pub(crate) fn succeeded(&self) {
        self.heard();
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.ejected_until.store(0, Ordering::Relaxed);
        }
    }

    /// It did not let us connect (`connected` is false), or did not answer as HTTP demands.
    pub(crate) fn failed(&self, connected: bool) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let rounds = if connected { failures.saturating_sub(PATIENCE - 1) } else { failures };
        if rounds > 0 {
            let until = elapsed_ms() + u64::try_from(ejection(rounds).as_millis()).unwrap_or(u64::MAX);
            self.ejected_until.fetch_max(until, Ordering::Relaxed);
        }
    }
}

/// A probe of a backend that is under way.
pub(crate) struct Probing<'a>(&'a Backend);

impl Drop for Probing<'_> {
    fn drop(&mut self) {
        self.0.probing.store(false, Ordering::Relaxed);
    }
}

/// How long a backend is passed over after so many failures in a row.
fn ejection(failures: u32) -> Duration {
    Duration::from_millis(500).saturating_mul(1 << failures.saturating_sub(1).min(10)).min(LONGEST_EJECTION)
}

/// Milliseconds since the process first asked.
fn elapsed_ms() -> u64 {
    static BEGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    u64::try_from(BEGIN.get_or_init(Instant::now).elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// A request or tunnel that counts as load of its backend until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight(pub(crate) Arc<Backend>);

impl InFlight {
    fn new(backend: &Arc<Backend>) -> Self {
        backend.load.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(backend))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let before = self.0.load.fetch_sub(1, Ordering::SeqCst);
        if before == 1 && self.0.retired.load(Ordering::SeqCst) {
            self.0.idle.notify_one();
        }
    }
}

/// The backends of a service at one moment.
#[derive(Debug, Default)]
pub(crate) struct Members {
    pub(crate) backends: Vec<Arc<Backend>>,
    leader: Option<Arc<Backend>>,
}

/// A service that routes name.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) name: Arc<str>,
    members: ArcSwap<Members>,
}

impl Service {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.into(), members: ArcSwap::default() }
    }

    pub(crate) fn members(&self) -> arc_swap::Guard<Arc<Members>> {
        self.members.load()
    }

    /// Takes over the present instances. Those known before keep their load and their record. Only one thread does this.
    pub(crate) fn update(&self, instances: &[Instance], leader: Option<SocketAddr>) {
        let before = self.members.load();
        let known: BTreeMap<_, _> = before.backends.iter().map(|backend| (&backend.instance, backend)).collect();
        let backend = |instance: &Instance| {
            known.get(instance).map_or_else(|| Arc::new(Backend::new(instance.clone())), |known| Arc::clone(known))
        };
        let backends: Vec<_> = instances.iter().map(backend).collect();
        let leader = leader.and_then(|address| backends.iter().find(|backend| backend.address == address).cloned());
        let stay: BTreeSet<u64> = backends.iter().map(|backend| backend.id).collect();
        for backend in before.backends.iter().filter(|backend| !stay.contains(&backend.id)) {
            backend.gone.store(true, Ordering::Relaxed);
        }
        self.members.store(Arc::new(Members { backends, leader }));
    }

    /// Whether a backend that is neither ejected nor stuck could take a request that has tried some already.
    pub(crate) fn has_other(&self, only_leader: bool, tried: &[u64], than: u64) -> bool {
        let (members, now_ms) = (self.members.load(), elapsed_ms());
        let is_fit = |backend: &Arc<Backend>| {
            backend.id != than && !tried.contains(&backend.id) && !backend.rank(now_ms).ejected
        };
        !only_leader && members.backends.iter().any(is_fit)
    }

    /// Chooses a backend for a request that has tried some already, and counts the request as its load.
    ///
    /// `preferred` is where a sticky client belongs.
    pub(crate) fn choose(&self, only_leader: bool, preferred: Option<SocketAddr>, tried: &[u64]) -> Option<InFlight> {
        let members = self.members.load();
        let candidates: &[Arc<Backend>] = match only_leader {
            true => members.leader.as_slice(),
            false => &members.backends,
        };
        let excluded = |backend: &Backend| tried.contains(&backend.id);
        if let Some(address) = preferred
            && let Some(backend) = candidates.iter().find(|backend| backend.address == address && !excluded(backend))
            && !backend.is_stuck()
        {
            return Some(InFlight::new(backend));
        }
        let now_ms = elapsed_ms();
        let index = choose(
            candidates.len(),
            |index| excluded(&candidates[index]),
            |index| candidates[index].rank(now_ms),
            |below| rand::rng().random_range(0..below),
        )?;
        Some(InFlight::new(&candidates[index]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instances(ports: &[u16]) -> Vec<Instance> {
        ports.iter().map(|port| Instance::new(SocketAddr::from(([10, 0, 0, 1], *port)))).collect()
    }

    fn chosen(service: &Service, only_leader: bool) -> Option<u16> {
        service.choose(only_leader, None, &[]).map(|in_flight| in_flight.0.address.port())
    }

    #[test]
    fn e6_only_the_leader_gets_requests_and_without_one_nobody() {
        let service = Service::new("s");
        service.update(&instances(&[1, 2]), None);
        assert_eq!(chosen(&service, true), None);
        for leader in [2, 1] {
            service.update(&instances(&[1, 2]), Some(SocketAddr::from(([10, 0, 0, 1], leader))));
            assert_eq!(chosen(&service, true), Some(leader));
        }
        service.update(&instances(&[1]), Some(SocketAddr::from(([10, 0, 0, 1], 2))));
        assert_eq!(chosen(&service, true), None, "a leader that is no instance is none");
    }

    #[test]
    fn an_update_keeps_load_and_record_of_those_that_stay() {
        let service = Service::new("s");
        service.update(&instances(&[1, 2]), None);
        let first = service.choose(false, Some(SocketAddr::from(([10, 0, 0, 1], 1))), &[]).unwrap();
        service.update(&instances(&[1, 3]), None);
        assert_eq!(service.members().backends[0].rank(0).load, 1);
        service.update(&instances(&[3]), None);
        service.update(&instances(&[1, 3]), None);
        assert_ne!(service.members().backends[0].id, first.0.id, "who comes back begins anew");
        drop(first);
    }

    #[test]
    fn a_backend_that_refuses_is_passed_over_for_a_while() {
        let service = Service::new("s");
        service.update(&instances(&[1, 2]), None);
        let backend = Arc::clone(&service.members().backends[0]);
        backend.failed(false);
        assert!((0..100).all(|_| chosen(&service, false) == Some(2)));
        backend.succeeded();
        assert!((0..100).any(|_| chosen(&service, false) == Some(1)));
        backend.failed(true);
        backend.failed(true);
        assert!((0..100).any(|_| chosen(&service, false) == Some(1)), "two mistakes are forgiven");
        backend.failed(true);
        assert!((0..100).all(|_| chosen(&service, false) == Some(2)));
        assert_eq!([1, 2, 5, 9, u32::MAX].map(|n| ejection(n).as_millis()), [500, 1000, 8000, 30_000, 30_000]);
    }
}
