//! All messages, by channel; one lock, held only to put in or take out a batch.

mod channel;

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flynn_types::host::SinkCursor;
use tokio::sync::watch;

use self::channel::Channel;
pub(crate) use self::channel::Key;
use crate::message::Message;

/// Most messages of one channel (spec operations section 11.1).
pub(crate) const MESSAGES: usize = 10_000;
/// Most hosts whose cursors are known; the one that was silent longest is forgotten first, and replays its files.
const HOSTS: usize = 10_000;
/// Most messages and bytes that are taken out at once.
const BATCH: usize = 500;
const BATCH_LEN: usize = 64 * 1024;
/// When memory is full, so much of it is freed at once, as a fraction: 1/8.
const FREED: usize = 8;

/// Messages with their places.
pub(crate) type Batch = Vec<Arc<Message>>;

/// Where a reader is in a channel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// In the order of time, among those that had arrived before a certain arrival.
    Buffered { after: Bound<Key>, before: u64 },
    /// In the order of arrival, from a certain one on.
    Live { from: u64 },
}

#[derive(Debug)]
pub(crate) struct Store {
    inner: Mutex<Inner>,
    /// Most bytes of all messages together.
    memory_bytes: usize,
}

#[derive(Debug, Default)]
struct Inner {
    channels: HashMap<Arc<str>, Channel>,
    /// The last message of each host.
    cursors: BTreeMap<String, SinkCursor>,
    bytes: usize,
    /// Messages that ever arrived.
    arrivals: u64,
}

impl Store {
    pub(crate) fn new(memory_bytes: usize) -> Self {
        Self { inner: Mutex::default(), memory_bytes }
    }

    /// Takes messages in. Those that are known already, or older than all of a full channel, change nothing.
    pub(crate) fn insert(&self, messages: Vec<Message>) {
        let mut inner = self.lock();
        let mut changed: Vec<Arc<str>> = Vec::new();
        for message in messages {
            inner.note_cursor(&message);
            if let Some(channel) = inner.insert(message)
                && changed.last() != Some(&channel)
            {
                changed.push(channel);
            }
        }
        if inner.bytes > self.memory_bytes {
            inner.shrink(self.memory_bytes - self.memory_bytes / FREED);
        }
        for name in changed {
            if let Some(channel) = inner.channels.get(&name) {
                channel.tell();
            }
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        let mut inner = self.lock();
        inner.shrink(0);
        inner.cursors.clear();
    }

    /// The last message of each host.
    pub(crate) fn cursors(&self) -> BTreeMap<String, SinkCursor> {
        self.lock().cursors.clone()
    }

    /// Names of all channels, and how many messages have arrived in all of them.
    pub(crate) fn channels(&self) -> (Vec<Arc<str>>, u64) {
        let inner = self.lock();
        (inner.channels.keys().cloned().collect(), inner.arrivals)
    }

    /// The place in front of the last `count` messages that match, or of all.
    pub(crate) fn begin(&self, channel: &str, count: Option<usize>, matches: impl Fn(&Message) -> bool) -> Place {
        let inner = self.lock();
        let before = inner.arrivals;
        let after = match (inner.channels.get(channel), count) {
            (None, _) | (_, Some(0)) => return Place::Live { from: before },
            (Some(_), None) => Bound::Unbounded,
            (Some(channel), Some(count)) => channel.start_of_last(count, matches),
        };
        Place::Buffered { after, before }
    }

    /// The next messages that match, and the place behind them. An empty batch with a live place is the end for now.
    pub(crate) fn take(&self, channel: &str, place: Place, matches: impl Fn(&Message) -> bool) -> (Batch, Place) {
        let inner = self.lock();
        let live = Place::Live { from: inner.arrivals };
        match (inner.channels.get(channel), place) {
            (None, Place::Buffered { before, .. }) => (Vec::new(), Place::Live { from: before }),
            (None, Place::Live { .. }) => (Vec::new(), live),
            (Some(channel), Place::Buffered { after, before }) => channel.buffered(after, before, matches),
            (Some(channel), Place::Live { from }) => {
                let (batch, from) = channel.live(from, matches);
                (batch, from.map_or(live, |from| Place::Live { from }))
            }
        }
    }

    /// Tells of arrivals in a channel from now on, also when it is empty still. The caller calls [`Store::leave`].
    pub(crate) fn watch(&self, channel: &str) -> watch::Receiver<()> {
        let mut inner = self.lock();
        inner.channels.entry(channel.into()).or_default().watch()
    }

    /// A follower has dropped what [`Store::watch`] gave it.
    pub(crate) fn leave(&self, channel: &str) {
        let mut inner = self.lock();
        if inner.channels.get(channel).is_some_and(Channel::is_idle) {
            inner.channels.remove(channel);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.lock().bytes
    }
}

impl Inner {
    /// Gives the channel when it has changed.
    fn insert(&mut self, message: Message) -> Option<Arc<str>> {
        let name = match self.channels.get_key_value(message.app()) {
            Some((name, _)) => Arc::clone(name),
            None => Arc::from(message.app()),
        };
        let channel = self.channels.entry(Arc::clone(&name)).or_default();
        let before = channel.bytes();
        let inserted = channel.insert(message, self.arrivals);
        self.bytes = self.bytes + channel.bytes() - before;
        if !inserted {
            return None;
        }
        self.arrivals += 1;
        Some(name)
    }

    fn note_cursor(&mut self, message: &Message) {
        let cursor = SinkCursor { time: message.time(), seq: message.seq };
        match self.cursors.get_mut(message.host()) {
            Some(known) => *known = cursor.max(*known),
            None => {
                if self.cursors.len() >= HOSTS
                    && let Some(oldest) = self.cursors.iter().min_by_key(|(_, cursor)| **cursor)
                {
                    let oldest = oldest.0.clone();
                    self.cursors.remove(&oldest);
                }
                self.cursors.insert(message.host().to_owned(), cursor);
            }
        }
    }

    /// Frees memory: the largest channels lose their oldest messages, until all together have at most `target` bytes.
    fn shrink(&mut self, target: usize) {
        let mut sizes: Vec<usize> = self.channels.values().map(Channel::bytes).collect();
        let level = level(&mut sizes, target);
        for channel in self.channels.values_mut() {
            if self.bytes <= target {
                break;
            }
            let before = channel.bytes();
            channel.shrink(level);
            self.bytes -= before - channel.bytes();
        }
        self.channels.retain(|_, channel| !channel.is_idle());
    }
}

/// To which size all channels above it are cut, so that together they have at most `target`.
fn level(sizes: &mut [usize], target: usize) -> usize {
    sizes.sort_unstable();
    let mut rest = target;
    for (at, size) in sizes.iter().enumerate() {
        let share = rest / (sizes.len() - at);
        if *size > share {
            return share;
        }
        rest -= size;
    }
    usize::MAX
}

#[cfg(test)]
mod tests;
