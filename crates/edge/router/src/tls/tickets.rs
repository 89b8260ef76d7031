//! Keys of session tickets that all routers of a cluster share: a client that was at one resumes its session at another,
//! and at one that was restarted.
//!
//! The keys are derived from the cookie key by HKDF (RFC 5869), another one for each period of time, so that nothing has to
//! be agreed on. A ticket says of which period it is; those of a few periods are taken.
//!
//! Who gets hold of the cookie key can make the ticket keys of all times. That opens recorded sessions of TLS 1.2 that were
//! resumable, and none of TLS 1.3, which agrees on fresh keys also when it resumes. Changing the cookie key ends it for the
//! future; so the cookie key is to be kept like the key of a certificate.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};
use crypto_secretbox::aead::{Aead as _, KeyInit as _};
use crypto_secretbox::{Key, Nonce, XSalsa20Poly1305};
use rustls::server::ProducesTickets;

/// Seconds after which tickets get another key.
const PERIOD: u64 = 4 * 3600;
/// Tickets of so many periods before are taken.
const PREVIOUS: u64 = 2;
/// And of one to come: clocks of routers differ.
const AHEAD: u64 = 1;

const PERIOD_BYTES: usize = 8;
const NONCE_BYTES: usize = 24;
/// Longest ticket in bytes that is looked at; ours have some hundred.
const MAX_TICKET: usize = 16 * 1024;

/// Seals and opens session tickets.
pub(crate) struct Tickets {
    root: Prk,
    /// Unix time in seconds.
    clock: fn() -> u64,
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tickets(…)")
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

impl Tickets {
    /// Tickets of the cluster that has this secret.
    pub(crate) fn new(secret: &[u8; 32]) -> Self {
        Self::with_clock(secret, unix_seconds)
    }

    fn with_clock(secret: &[u8; 32], clock: fn() -> u64) -> Self {
        Self { root: Salt::new(HKDF_SHA256, b"flynn router session tickets 1").extract(secret), clock }
    }

    fn period(&self) -> u64 {
        (self.clock)() / PERIOD
    }

    fn cipher(&self, period: u64) -> Option<XSalsa20Poly1305> {
        let mut key = [0; 32];
        let period = period.to_be_bytes();
        self.root.expand(&[&period], HKDF_SHA256).and_then(|okm| okm.fill(&mut key)).ok()?;
        Some(XSalsa20Poly1305::new(Key::from_slice(&key)))
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    /// Shorter than the time that a ticket is taken.
    fn lifetime(&self) -> u32 {
        u32::try_from(PERIOD * PREVIOUS).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let period = self.period();
        // Random nonces of this length do not meet, however many routers make them.
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let sealed = self.cipher(period)?.encrypt(Nonce::from_slice(&nonce), plain).ok()?;
        Some([&period.to_be_bytes()[..], &nonce, &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > MAX_TICKET {
            return None;
        }
        let (period, rest) = ticket.split_first_chunk::<PERIOD_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>()?;
        let (period, now) = (u64::from_be_bytes(*period), self.period());
        if period > now + AHEAD || period + PREVIOUS < now {
            return None;
        }
        self.cipher(period)?.decrypt(Nonce::from_slice(nonce), sealed).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_800_000_000 / PERIOD * PERIOD;

    fn at(secret: u8, clock: fn() -> u64) -> Tickets {
        Tickets::with_clock(&[secret; 32], clock)
    }

    #[test]
    fn tickets_are_taken_by_all_routers_for_some_periods() {
        let ticket = at(7, || START).encrypt(b"session").unwrap();
        for (clock, taken) in [
            ((|| START) as fn() -> u64, true),
            (|| START + PERIOD * PREVIOUS + PERIOD - 1, true),
            (|| START + PERIOD * (PREVIOUS + 1), false),
            (|| START - 1, true),
            (|| START - PERIOD - 1, false),
        ] {
            assert_eq!(at(7, clock).decrypt(&ticket).as_deref(), taken.then_some(&b"session"[..]), "{}", clock());
        }
        assert_eq!(at(8, || START).decrypt(&ticket), None, "of another cluster");
        assert!(at(7, || START).lifetime() > 0);
    }

    #[test]
    fn each_period_has_a_key_of_its_own() {
        let ticket = at(7, || START).encrypt(b"session").unwrap();
        let mut moved = ticket.clone();
        moved[..PERIOD_BYTES].copy_from_slice(&(START / PERIOD + 1).to_be_bytes());
        assert_eq!(at(7, || START).decrypt(&moved), None);
        assert_ne!(at(7, || START).encrypt(b"session").unwrap(), ticket, "no two tickets are equal");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_upset_a_router(bytes: Vec<u8>, keep in 0_usize..200) {
            let tickets = at(7, || START);
            let ticket = tickets.encrypt(b"session").unwrap();
            let cut = [&ticket[..keep.min(ticket.len() - 1)], &bytes].concat();
            proptest::prop_assume!(cut != ticket);
            proptest::prop_assert_eq!(tickets.decrypt(&cut), None);
            proptest::prop_assert_eq!(tickets.decrypt(&bytes), None);
        }
    }
}
