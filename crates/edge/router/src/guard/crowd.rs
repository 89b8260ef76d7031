//! How many connections each client has, over all workers.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Parts with a lock each, so that workers rarely meet.
const PARTS: usize = 64;

/// Connections by client.
#[derive(Debug)]
pub(crate) struct Crowd {
    parts: [Mutex<HashMap<IpAddr, u32>>; PARTS],
    hasher: RandomState,
}

/// A connection that counts until this is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    crowd: Arc<Crowd>,
    client: IpAddr,
}

impl Crowd {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { parts: std::array::from_fn(|_| Mutex::default()), hasher: RandomState::new() })
    }

    /// Counts a connection; `None` when its client has `most` already.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr, most: u32) -> Option<Seat> {
        let client = client(address);
        let mut part = self.part(client).lock().unwrap_or_else(PoisonError::into_inner);
        let count = part.entry(client).or_insert(0);
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Seat { crowd: Arc::clone(self), client })
    }

    fn part(&self, client: IpAddr) -> &Mutex<HashMap<IpAddr, u32>> {
        let hash = usize::try_from(self.hasher.hash_one(client) % PARTS as u64).unwrap_or_default();
        &self.parts[hash]
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut part = self.crowd.part(self.client).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = part.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                part.remove(&self.client);
            }
        }
    }
}

/// Who is behind an address: one client of IPv6 has a network of 64 bits.
fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_so_many_seats() {
        let crowd = Crowd::new();
        let enter = |address: &str| crowd.enter(address.parse().unwrap(), 2);
        let seats = [enter("10.0.0.1"), enter("::ffff:10.0.0.1"), enter("fe80::1"), enter("fe80::2")];
        assert!(seats.iter().all(Option::is_some));
        assert!(enter("10.0.0.1").is_none() && enter("fe80::3").is_none());
        assert!(enter("10.0.0.2").is_some() && enter("fe80:0:0:1::1").is_some());
        drop(seats);
        assert!(enter("10.0.0.1").is_some());
        assert!(crowd.parts.iter().all(|part| part.lock().unwrap().is_empty()), "nothing is left of who has gone");
    }
}
