//! Idle connections to backends, for one worker.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use hyper::client::conn::http1::SendRequest;
use tokio::time::Instant;

use super::UploadBody;

/// The sending half of a connection to a backend.
pub(crate) type Sender = SendRequest<UploadBody>;

/// Idle connections by backend, the newest last.
#[derive(Default)]
pub(crate) struct Pool {
    backends: RefCell<HashMap<u64, VecDeque<Idle>>>,
    per_backend: usize,
}

struct Idle {
    sender: Sender,
    since: Instant,
}

impl Pool {
    pub(crate) fn new(per_backend: usize) -> Self {
        Self { backends: RefCell::default(), per_backend }
    }

    /// The connection that was used last and takes a request now. Closed ones met on the way are dropped.
    pub(crate) fn take(&self, backend: u64) -> Option<Sender> {
        let mut backends = self.backends.borrow_mut();
        let idle = backends.get_mut(&backend)?;
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
    pub(crate) fn put(&self, backend: u64, sender: Sender) {
        if sender.is_closed() {
            return;
        }
        let mut backends = self.backends.borrow_mut();
        let idle = backends.entry(backend).or_default();
        if idle.len() >= self.per_backend {
            idle.pop_front();
        }
        idle.push_back(Idle { sender, since: Instant::now() });
    }

    /// Closes what was idle for longer than `limit`.
    pub(crate) fn expire(&self, limit: Duration) {
        let now = Instant::now();
        self.backends.borrow_mut().retain(|_, idle| {
            idle.retain(|idle| !idle.sender.is_closed() && now.duration_since(idle.since) < limit);
            !idle.is_empty()
        });
    }

    /// Closes connections to all backends but these.
    pub(crate) fn keep_only(&self, backends: &HashSet<u64>) {
        self.backends.borrow_mut().retain(|backend, _| backends.contains(backend));
    }
}
