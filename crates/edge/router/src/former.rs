//! The process that this one has replaced, as long as requests of its own are in flight.
//!
//! Who drains a backend asks the router that serves now; this is how that one knows of the other's requests.

use std::collections::BTreeSet;

use tokio::sync::watch;

/// Releases that nobody here waits for yet. Of more some are forgotten, and their backends wait for the process's end.
const MOST: usize = 4096;

/// What a former process still uses.
#[derive(Debug, Default)]
pub struct Former(watch::Sender<State>);

#[derive(Debug, Default)]
struct State {
    is_done: bool,
    released: BTreeSet<String>,
}

impl Former {
    /// The former process has no requests in flight to a backend that is down, by the name that
    /// [`Serving::drained`](crate::Serving::drained) gives it there.
    pub fn released(&self, backend: String) {
        self.0.send_modify(|state| {
            if state.released.len() >= MOST {
                state.released.pop_first();
            }
            state.released.insert(backend);
        });
    }

    /// The former process has no requests in flight at all.
    pub fn done(&self) {
        self.0.send_modify(|state| state.is_done = true);
    }

    /// Waits until the former process has released a backend.
    pub(crate) async fn has_released(&self, backend: &str) {
        let mut state = self.0.subscribe();
        // The sender is ours.
        let _ = state.wait_for(|state| state.is_done || state.released.contains(backend)).await;
        self.0.send_if_modified(|state| {
            state.released.remove(backend);
            false
        });
    }
}
