//! One client's way through a channel: a batch at a time, so that a slow client holds no more.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::query::{Begin, Query};
use crate::store::{Batch, Place, Store};

/// New messages are gathered for so long (spec operations section 11.2: flushed every 50 ms).
const GATHER: Duration = Duration::from_millis(50);

pub(crate) struct Reader {
    store: Arc<Store>,
    channel: String,
    query: Query,
    place: Place,
    /// Of who follows.
    changed: Option<watch::Receiver<()>>,
}

impl Reader {
    pub(crate) fn new(store: &Arc<Store>, channel: String, query: Query) -> Self {
        // Before the place is taken: what arrives in between is told.
        let changed = query.follow.then(|| store.watch(&channel));
        let count = match query.begin {
            Begin::All => None,
            Begin::Last(count) => Some(count),
        };
        let place = store.begin(&channel, count, |message| query.filter.matches(message));
        Self { store: Arc::clone(store), channel, query, place, changed }
    }

    /// The next messages; `None` at the end, which a follower never reaches. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Batch> {
        loop {
            if let Some(changed) = &mut self.changed {
                changed.borrow_and_update();
            } else if matches!(self.place, Place::Live { .. }) {
                return None;
            }
            let (batch, place) =
                self.store.take(&self.channel, self.place, |message| self.query.filter.matches(message));
            self.place = place;
            if !batch.is_empty() {
                return Some(batch);
            }
            if matches!(self.place, Place::Live { .. })
                && let Some(changed) = &mut self.changed
            {
                changed.changed().await.ok()?;
                tokio::time::sleep(GATHER).await;
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.changed.take().is_some() {
            self.store.leave(&self.channel);
        }
    }
}
