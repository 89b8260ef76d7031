//! Connections to backends that are used again, for one worker.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http1::SendRequest;
use tokio::time::Instant;

use super::UploadBody;
use super::h2c::Multiplexed;
use crate::service::Backend;

/// Idle connections by backend, the newest last, and those that take many requests at once.
#[derive(Default)]
pub(crate) struct Pool {
    backends: RefCell<HashMap<u64, IdleOf>>,
    per_backend: usize,
    pub(super) multiplexed: Multiplexed,
}

struct IdleOf {
    backend: Arc<Backend>,
    idle: VecDeque<Idle>,
}

struct Idle {
    sender: SendRequest<UploadBody>,
    since: Instant,
}

impl Pool {
    pub(crate) fn new(per_backend: usize) -> Self {
        Self { per_backend, ..Self::default() }
    }

    /// The connection that was used last and takes a request now. Closed ones met on the way are dropped.
    pub(super) fn take(&self, backend: u64) -> Option<SendRequest<UploadBody>> {
        let mut backends = self.backends.borrow_mut();
        let idle = &mut backends.get_mut(&backend)?.idle;
        let mut index = idle.len();
        while index > 0 {
            index -= 1;
            if idle[index].sender.is_closed() {
                idle.remove(index);
            } else if idle[index].sender.is_ready() {
                return idle.remove(index).map(|idle| idle.sender);
            }
        }
        None
    }

    /// Keeps a connection whose response was read to its end. It may take a moment until it is ready.
    pub(super) fn put(&self, backend: Arc<Backend>, sender: SendRequest<UploadBody>) {
        if sender.is_closed() || backend.is_gone() {
            return;
        }
        let mut backends = self.backends.borrow_mut();
        let id = backend.id;
        let idle = &mut backends.entry(id).or_insert_with(|| IdleOf { backend, idle: VecDeque::new() }).idle;
        if idle.len() >= self.per_backend {
            idle.pop_front();
        }
        idle.push_back(Idle { sender, since: Instant::now() });
    }

    /// Closes what was idle for longer than `limit`, and what leads to backends that are gone.
    pub(crate) fn expire(&self, limit: Duration) {
        let now = Instant::now();
        self.backends.borrow_mut().retain(|_, of| {
            of.idle.retain(|idle| !idle.sender.is_closed() && now.duration_since(idle.since) < limit);
            !of.idle.is_empty() && !of.backend.is_gone()
        });
        self.multiplexed.expire(limit);
    }
}
