//! All apps' logs as one sequence, in the order in which the host logged the messages.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::message::{Message, frames};
use crate::published::AppEnd;
use crate::tail::{Position, Read, Tail};

/// How much of each log is read at once, in bytes: logs of many apps are open at the same time.
const CHUNK: usize = 32 * 1024;
/// Looks at a log whose announced file is not there; the next call sees a newer announcement.
const ATTEMPTS: u32 = 3;

/// Time in unix microseconds and sequence number: what orders messages.
pub(super) type Key = (i64, u32);

/// What a batch of messages did to the sink's place.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) positions: BTreeMap<String, Position>,
    pub(super) messages: u64,
    /// Messages that were gone before they could be read.
    pub(super) dropped: u64,
    pub(super) last: Option<Key>,
}

#[derive(Debug)]
pub(super) struct Merger {
    log_dir: PathBuf,
    positions: BTreeMap<String, Position>,
    /// Messages up to this one are known to the sink.
    after: Option<Key>,
    heads: BTreeMap<String, Head>,
    order: BinaryHeap<Reverse<(Key, String)>>,
}

/// An app's log with unread messages in its buffer.
#[derive(Debug)]
struct Head {
    tail: Tail,
    /// Messages in the buffer, and the place before the first of them.
    messages: VecDeque<Range<usize>>,
    place: Position,
    /// Offset in the file of the buffer's first byte.
    base: u64,
}

impl Merger {
    /// Goes on at these places; apps without one begin with their first message.
    pub(super) fn resume(log_dir: &Path, positions: BTreeMap<String, Position>) -> Self {
        let (heads, order) = (BTreeMap::new(), BinaryHeap::new());
        Self { log_dir: log_dir.to_owned(), positions, after: None, heads, order }
    }

    /// Begins behind the message with this key. Logs that were last written before it are not looked into.
    pub(super) fn after(log_dir: &Path, after: Option<Key>, ends: &BTreeMap<String, AppEnd>) -> Self {
        let mut merger = Self::resume(log_dir, BTreeMap::new());
        merger.after = after;
        for (app, end) in ends {
            let written = std::fs::metadata(Tail::new(log_dir, app, Position::default()).path())
                .and_then(|metadata| metadata.modified())
                .ok()
                .and_then(|modified| modified.duration_since(UNIX_EPOCH).ok())
                .and_then(|since| i64::try_from(since.as_micros()).ok());
            let known = matches!((after, written), (Some((micros, _)), Some(written)) if written < micros);
            let place = if known { Position::newest(end) } else { Position::oldest(end) };
            merger.positions.insert(app.clone(), place);
        }
        merger
    }

    pub(super) fn positions(&self) -> &BTreeMap<String, Position> {
        &self.positions
    }

    /// Gives messages, oldest first, to `each` until it says that it has enough (`false`) or all announced ones were
    /// given. May block on the disk.
    pub(super) fn take(
        &mut self,
        ends: &BTreeMap<String, AppEnd>,
        mut each: impl FnMut(&str, &[u8], Option<&Message<'_>>) -> bool,
    ) -> io::Result<Taken> {
        let mut taken = Taken::default();
        self.positions.retain(|app, _| ends.contains_key(app)); // logs that were deleted
        for (app, end) in ends {
            if !self.heads.contains_key(app) {
                let place = self.positions.entry(app.clone()).or_default();
                if place.generation > end.generation {
                    // The log was begun anew without its journal.
                    *place = Position::oldest(end);
                }
                let place = *place;
                if !place.is_at(end) {
                    let head = Head::new(&self.log_dir, app, place);
                    self.advance(app, head, end, &mut taken)?;
                }
            }
        }
        while let Some(Reverse((key, app))) = self.order.pop() {
            let Some(mut head) = self.heads.remove(&app) else { continue };
            let mut enough = false;
            if let Some(range) = head.messages.pop_front() {
                head.place.offset = head.base + range.end as u64 + 1;
                head.place.messages += 1;
                if self.after.is_none_or(|after| key > after) {
                    let bytes = head.tail.buffer.get(range).unwrap_or(&[]);
                    let message = Message::parse(bytes);
                    taken.last = message.as_ref().map(|message| (message.micros, message.seq)).or(taken.last);
                    taken.messages += 1;
                    enough = !each(&app, bytes, message.as_ref());
                }
            }
            taken.positions.insert(app.clone(), head.place);
            self.positions.insert(app.clone(), head.place);
            match ends.get(&app) {
                Some(end) => self.advance(&app, head, end, &mut taken)?,
                None => continue,
            }
            if enough {
                break;
            }
        }
        Ok(taken)
    }

    /// Puts the app's next message in line, if there is one.
    fn advance(&mut self, app: &str, mut head: Head, end: &AppEnd, taken: &mut Taken) -> io::Result<()> {
        let mut attempts = 0;
        while head.messages.is_empty() {
            let read = head.tail.read(end, CHUNK)?;
            head.base = head.tail.position.offset.saturating_sub(head.tail.buffer.len() as u64);
            match read {
                Read::Frames => {
                    let start = head.tail.buffer.as_ptr() as usize;
                    let messages = &mut head.messages;
                    frames(&head.tail.buffer, |message| {
                        let at = message.as_ptr() as usize - start;
                        messages.push_back(at..at + message.len());
                    });
                    head.place = Position {
                        messages: head.tail.position.messages - messages.len() as u64,
                        offset: head.base,
                        ..head.tail.position
                    };
                }
                Read::Gap(messages) => {
                    taken.dropped += messages;
                    head.place = head.tail.position;
                    taken.positions.insert(app.to_owned(), head.place);
                    self.positions.insert(app.to_owned(), head.place);
                }
                Read::Again if attempts < ATTEMPTS => attempts += 1,
                Read::Again => return Ok(()),
                Read::End => {
                    self.positions.insert(app.to_owned(), head.tail.position);
                    taken.positions.insert(app.to_owned(), head.tail.position);
                    return Ok(());
                }
            }
        }
        if let Some(range) = head.messages.front() {
            let message = Message::parse(head.tail.buffer.get(range.clone()).unwrap_or(&[]));
            // What is no message of ours has no place in the order and goes first.
            let key = message.map_or((i64::MIN, 0), |message| (message.micros, message.seq));
            self.order.push(Reverse((key, app.to_owned())));
            self.heads.insert(app.to_owned(), head);
        }
        Ok(())
    }
}

impl Head {
    fn new(log_dir: &Path, app: &str, place: Position) -> Self {
        Self { tail: Tail::new(log_dir, app, place), messages: VecDeque::new(), place, base: 0 }
    }
}
