//! Ids of new jobs and volumes, and those of the past.

use std::collections::{HashSet, VecDeque};

use uuid::Uuid;

/// How many jobs of the past are remembered, so that late news of them are known as such.
const REMEMBERED: usize = 20_000;

/// A sequence of ids that depends on a seed only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ids {
    seed: u128,
    next: u64,
}

impl Ids {
    pub(crate) fn new(seed: u128) -> Self {
        Self { seed, next: 0 }
    }

    pub(crate) fn next(&mut self) -> Uuid {
        let count = u128::from(self.next);
        self.next += 1;
        let (high, low) = ((self.seed >> 64) as u64, self.seed as u64);
        let mixed = (u128::from(mix(high ^ count as u64)) << 64) | u128::from(mix(low.wrapping_add(count as u64)));
        uuid::Builder::from_random_bytes(mixed.to_be_bytes()).into_uuid()
    }

    /// So many were drawn from a copy.
    pub(crate) fn skip(&mut self, drawn: usize) {
        self.next += drawn as u64;
    }
}

/// One step of SplitMix64 (Steele, Lea, Flood 2014): a bijection, so different counts give different ids.
fn mix(value: u64) -> u64 {
    let mut mixed = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The last so many ids.
#[derive(Clone, Default)]
pub(crate) struct Tombstones {
    order: VecDeque<Uuid>,
    known: HashSet<Uuid>,
}

impl Tombstones {
    pub(crate) fn insert(&mut self, id: Uuid) {
        if !self.known.insert(id) {
            return;
        }
        self.order.push_back(id);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    pub(crate) fn contains(&self, id: Uuid) -> bool {
        self.known.contains(&id)
    }
}
