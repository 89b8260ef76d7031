//! What a client's connection and the requests on it tell each other.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;

use super::Refusal;

/// What the connection and the requests on it tell each other.
///
/// All on one thread; atomics only because hyper wants a connection that could be sent to another.
#[derive(Debug)]
pub(crate) struct Conversation {
    begin: Instant,
    /// Requests that are not answered completely.
    busy: AtomicU32,
    /// Requests so far.
    requests: AtomicU64,
    /// When the last one was, in milliseconds after the begin.
    idle_since_ms: AtomicU64,
    refusal: OnceLock<Refusal>,
}

impl Conversation {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            begin: Instant::now(),
            busy: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            idle_since_ms: AtomicU64::new(0),
            refusal: OnceLock::new(),
        })
    }

    /// A request begins; it ends when the guard is dropped.
    pub(crate) fn request(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// Requests that are not answered completely.
    pub(crate) fn busy(&self) -> u32 {
        self.busy.load(Ordering::Relaxed)
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Notes why what follows is refused; only the first reason counts.
    pub(super) fn refuse(&self, refusal: Refusal) {
        let _ = self.refusal.set(refusal);
    }

    /// Why the request was refused, for which the stand-in came.
    pub(crate) fn refusal(&self) -> Refusal {
        self.refusal.get().copied().unwrap_or(Refusal::Malformed("the request is not HTTP"))
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.busy() == 0
    }

    /// Waits until the first request does not come within `first`, or after it none for `idle`. For HTTP/2; a guarded
    /// connection of HTTP/1 minds its own time.
    pub(crate) async fn idle_for(&self, first: Duration, idle: Duration) {
        loop {
            let limit = if self.requests() == 0 { first } else { idle };
            let (now, over) = (Instant::now(), self.idle_since() + limit);
            if self.is_idle() && over <= now {
                return;
            }
            // The first request, or the last one's end, may come meanwhile and make another limit count.
            let step = now + first.min(idle);
            tokio::time::sleep_until(if self.is_idle() { over.min(step) } else { step }).await;
        }
    }

    pub(super) fn idle_since(&self) -> Instant {
        self.begin + Duration::from_millis(self.idle_since_ms.load(Ordering::Relaxed))
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Conversation>);

impl Drop for Busy {
    fn drop(&mut self) {
        let now_ms = u64::try_from(self.0.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.idle_since_ms.store(now_ms, Ordering::Relaxed);
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}
