//! Streams of an HTTP/2 connection whose client takes nothing of a response that is there.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;

use crate::guard::Conversation;
use crate::http::body::Relayed;

/// Streams that are noted before those that have ended are forgotten.
const NOTED: usize = 64;

/// The responses on one connection.
pub(crate) struct Stalls {
    limit: Duration,
    count: Counter,
    open: RefCell<Vec<Weak<RefCell<Relayed>>>>,
}

impl Stalls {
    pub(crate) fn new(limit: Duration, count: Counter) -> Rc<Self> {
        Rc::new(Self { limit, count, open: RefCell::default() })
    }

    pub(crate) fn note(&self, relayed: &Rc<RefCell<Relayed>>) {
        let mut open = self.open.borrow_mut();
        if open.len() >= NOTED && open.len() == open.capacity() {
            open.retain(|relayed| relayed.strong_count() > 0);
        }
        open.push(Rc::downgrade(relayed));
    }

    /// Lets go of backends whose response is not taken. Ends when that is so of all there are.
    pub(crate) async fn mind(&self, conversation: &Conversation) {
        loop {
            tokio::time::sleep(self.limit / 4).await;
            let given_up = self.give_up();
            if given_up > 0 && given_up >= conversation.busy() {
                return;
            }
        }
    }

    fn give_up(&self) -> u32 {
        let now = Instant::now();
        let mut given_up = 0;
        self.open.borrow_mut().retain(|relayed| {
            let Some(relayed) = relayed.upgrade() else { return false };
            let mut relayed = relayed.borrow_mut();
            if relayed.waits_since().is_some_and(|since| since + self.limit <= now) && !relayed.is_given_up() {
                self.count.inc();
                relayed.give_up();
            }
            given_up += u32::from(relayed.is_given_up());
            true
        });
        given_up
    }
}
