//! Answers of upstreams, as long as they hold, and a while longer for when no upstream answers.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::wire::{Kind, Query, Response};
use crate::zone::Transport;

const ENTRIES: usize = 4096;
/// Longest answer that is kept.
const ANSWER_LEN: usize = 4096;
/// An answer is never kept longer, whatever it says.
const LIFE_MAX: u32 = 3600;
/// How long an outdated answer may still be given when no upstream answers (RFC 8767).
const STALE: Duration = Duration::from_secs(24 * 3600);
/// Time to live of an outdated answer, in seconds (RFC 8767 section 4).
const STALE_TTL: u32 = 30;

#[derive(Default)]
pub(super) struct Cache {
    entries: HashMap<Key, Entry>,
}

/// All that an answer depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    name: Box<[u8]>,
    qtype: u16,
    qclass: u16,
    transport: Transport,
    /// Recursion desired, checking disabled, EDNS present, DNSSEC wanted.
    flags: [bool; 4],
}

struct Entry {
    packet: Box<[u8]>,
    ttls: Vec<(usize, u32)>,
    stored: Instant,
    life: Duration,
}

impl Key {
    /// `None` when the query carries EDNS options, whose answer is for this client alone.
    pub(super) fn of(query: &Query<'_>, transport: Transport) -> Option<Self> {
        if query.edns.is_some_and(|edns| edns.has_options || edns.version != 0) {
            return None;
        }
        Some(Self {
            name: query.name.wire().into(),
            qtype: query.qtype,
            qclass: query.qclass,
            transport,
            flags: [
                query.recursion_desired(),
                query.checking_disabled(),
                query.edns.is_some(),
                query.edns.is_some_and(|edns| edns.dnssec_ok),
            ],
        })
    }
}

impl Cache {
    pub(super) fn insert(&mut self, key: Key, packet: &[u8], response: Response, now: Instant) {
        let Kind::Lasting(seconds) = response.kind else { return };
        if packet.len() > ANSWER_LEN {
            return;
        }
        if self.entries.len() >= ENTRIES && !self.entries.contains_key(&key) {
            self.make_room(now);
        }
        let life = Duration::from_secs(seconds.min(LIFE_MAX).into());
        self.entries.insert(key, Entry { packet: packet.into(), ttls: response.ttls, stored: now, life });
    }

    /// Drops what is outdated, or else any eighth.
    fn make_room(&mut self, now: Instant) {
        self.entries.retain(|_, entry| now.duration_since(entry.stored) < entry.life);
        if self.entries.len() >= ENTRIES {
            let mut count = 0;
            self.entries.retain(|_, _| {
                count += 1;
                count % 8 != 0
            });
        }
    }

    pub(super) fn find(&self, key: &Key, query: &Query<'_>, limit: usize, now: Instant, out: &mut Vec<u8>) -> bool {
        let Some(entry) = self.entries.get(key) else { return false };
        let age = now.duration_since(entry.stored);
        if age >= entry.life {
            return false;
        }
        let age = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        entry.write(query, limit, out, |ttl| ttl.saturating_sub(age))
    }

    pub(super) fn find_stale(
        &self,
        key: &Key,
        query: &Query<'_>,
        limit: usize,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> bool {
        let Some(entry) = self.entries.get(key) else { return false };
        now.duration_since(entry.stored) < entry.life + STALE
            && entry.write(query, limit, out, |ttl| ttl.min(STALE_TTL))
    }
}

impl Entry {
    /// Writes the answer with the query's id and spelling; `false` when it is longer than the client takes.
    fn write(&self, query: &Query<'_>, limit: usize, out: &mut Vec<u8>, age: impl Fn(u32) -> u32) -> bool {
        if self.packet.len() > limit {
            return false;
        }
        out.clear();
        out.extend_from_slice(&self.packet);
        for (at, ttl) in &self.ttls {
            if let Some(bytes) = out.get_mut(*at..*at + 4) {
                bytes.copy_from_slice(&age(*ttl).to_be_bytes());
            }
        }
        // The key is the question in lower case, so both are equally long.
        for range in [0..2, crate::wire::HEADER_LEN..query.question_end] {
            if let (Some(to), Some(from)) = (out.get_mut(range.clone()), query.packet.get(range)) {
                to.copy_from_slice(from);
            }
        }
        true
    }
}
