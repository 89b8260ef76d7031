//! The messages of one app.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::Bound;
use std::sync::Arc;

use tokio::sync::watch;

use super::{BATCH, BATCH_LEN, Batch, MESSAGES, Place};
use crate::message::Message;

/// What a message takes besides its bytes: its fields, its places in two orders, and what the allocator adds.
const OVERHEAD: usize = 200;
/// What a channel takes besides its messages.
const CHANNEL_OVERHEAD: usize = 300;

/// Names a message within its channel, in the order of time. Messages of several hosts at the same microsecond have an
/// arbitrary order, those of one host that of their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    micros: i64,
    host: u64,
    seq: u64,
}

impl Key {
    fn of(message: &Message) -> Self {
        let mut hasher = DefaultHasher::new();
        message.host().hash(&mut hasher);
        Self { micros: message.micros, host: hasher.finish(), seq: message.seq }
    }
}

#[derive(Debug)]
struct Kept {
    message: Arc<Message>,
    arrival: u64,
}

#[derive(Debug, Default)]
pub(super) struct Channel {
    messages: BTreeMap<Key, Kept>,
    /// Keys by arrival, ascending; some may be gone from `messages`.
    arrivals: VecDeque<(u64, Key)>,
    /// Bytes of messages, with what they take besides.
    bytes: usize,
    changed: Option<watch::Sender<()>>,
}

impl Channel {
    pub(super) fn bytes(&self) -> usize {
        if self.messages.is_empty() { 0 } else { self.bytes + CHANNEL_OVERHEAD }
    }

    /// Neither messages nor followers.
    pub(super) fn is_idle(&self) -> bool {
        self.messages.is_empty() && self.changed.as_ref().is_none_or(|changed| changed.receiver_count() == 0)
    }

    pub(super) fn watch(&mut self) -> watch::Receiver<()> {
        self.changed.get_or_insert_with(|| watch::channel(()).0).subscribe()
    }

    pub(super) fn tell(&self) {
        if let Some(changed) = &self.changed {
            changed.send_replace(());
        }
    }

    /// Whether the message is new and young enough.
    pub(super) fn insert(&mut self, message: Message, arrival: u64) -> bool {
        let key = Key::of(&message);
        let full = self.messages.len() >= MESSAGES;
        let too_old = full && self.messages.first_key_value().is_some_and(|(oldest, _)| key < *oldest);
        if too_old || self.messages.contains_key(&key) {
            return false;
        }
        if full {
            self.remove_oldest();
        }
        self.bytes += size(&message);
        self.messages.insert(key, Kept { message: Arc::new(message), arrival });
        self.arrivals.push_back((arrival, key));
        if self.arrivals.len() > MESSAGES {
            self.arrivals.pop_front();
        }
        true
    }

    /// Removes the oldest messages until at most so many bytes are left.
    pub(super) fn shrink(&mut self, bytes: usize) {
        while self.bytes() > bytes && self.remove_oldest() {}
        while self.arrivals.front().is_some_and(|(_, key)| !self.messages.contains_key(key)) {
            self.arrivals.pop_front();
        }
    }

    fn remove_oldest(&mut self) -> bool {
        let Some((_, kept)) = self.messages.pop_first() else { return false };
        self.bytes -= size(&kept.message);
        true
    }

    /// The place in front of the last `count` messages that match.
    pub(super) fn start_of_last(&self, count: usize, matches: impl Fn(&Message) -> bool) -> Bound<Key> {
        let matching = self.messages.iter().rev().filter(|(_, kept)| matches(&kept.message));
        let first = matching.take(count).last();
        // Without any, behind them all.
        let behind = || self.messages.last_key_value().map_or(Bound::Unbounded, |(key, _)| Bound::Excluded(*key));
        first.map_or_else(behind, |(key, _)| Bound::Included(*key))
    }

    /// The next messages in the order of time that arrived before `before`.
    pub(super) fn buffered(
        &self,
        after: Bound<Key>,
        before: u64,
        matches: impl Fn(&Message) -> bool,
    ) -> (Batch, Place) {
        let mut batch = Taken::default();
        for (key, kept) in self.messages.range((after, Bound::Unbounded)) {
            if kept.arrival >= before || !matches(&kept.message) {
                continue;
            }
            batch.push(&kept.message);
            if batch.is_full() {
                return (batch.messages, Place::Buffered { after: Bound::Excluded(*key), before });
            }
        }
        (batch.messages, Place::Live { from: before })
    }

    /// The next messages in the order of arrival, and where to go on when there may be more.
    pub(super) fn live(&self, from: u64, matches: impl Fn(&Message) -> bool) -> (Batch, Option<u64>) {
        let mut batch = Taken::default();
        let begin = self.arrivals.partition_point(|(arrival, _)| *arrival < from);
        for (arrival, key) in self.arrivals.range(begin..) {
            let Some(kept) = self.messages.get(key).filter(|kept| matches(&kept.message)) else { continue };
            batch.push(&kept.message);
            if batch.is_full() {
                return (batch.messages, Some(arrival + 1));
            }
        }
        (batch.messages, None)
    }
}

fn size(message: &Message) -> usize {
    message.raw().len() + OVERHEAD
}

#[derive(Default)]
struct Taken {
    messages: Batch,
    bytes: usize,
}

impl Taken {
    fn push(&mut self, message: &Arc<Message>) {
        self.bytes += message.raw().len();
        self.messages.push(Arc::clone(message));
    }

    fn is_full(&self) -> bool {
        self.messages.len() >= BATCH || self.bytes >= BATCH_LEN
    }
}
