//! Automatic certificates and pending challenges, from an engine that follows a store.

use std::sync::Arc;

use flynn_acme::View;
use tokio::sync::watch;

use super::{Change, Changes};

/// Tells what there is, at first and whenever it changes, until nobody listens or the engine ends.
pub async fn follow(mut view: watch::Receiver<Arc<View>>, changes: Changes) {
    loop {
        let now = Arc::clone(&view.borrow_and_update());
        if changes.send(Change::Automatic(now)).await.is_err() || view.changed().await.is_err() {
            return;
        }
    }
}
