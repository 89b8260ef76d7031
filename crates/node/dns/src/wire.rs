//! The DNS message format (RFC 1035 section 4, RFC 6891): reading queries and writing answers to them.

mod answer;
mod query;
mod scan;

pub(crate) use answer::{Answer, Owner, push_label};
pub(crate) use query::{Invalid, Query, error_reply};
pub(crate) use scan::{Kind, Response, scan};

/// Length of the header.
pub(crate) const HEADER_LEN: usize = 12;
/// Longest UDP message without EDNS.
pub(crate) const UDP_LEN: usize = 512;
/// Longest UDP message that we send with EDNS: passes an overlay of 1450 bytes without fragments
/// (the value of DNS flag day 2020).
pub(crate) const EDNS_LEN: u16 = 1232;

pub(crate) mod rcode {
    pub(crate) const NOERROR: u8 = 0;
    pub(crate) const FORMERR: u8 = 1;
    pub(crate) const SERVFAIL: u8 = 2;
    pub(crate) const NXDOMAIN: u8 = 3;
    pub(crate) const NOTIMP: u8 = 4;
    pub(crate) const REFUSED: u8 = 5;
    /// In the extended bits, which only an OPT record holds.
    pub(crate) const BADVERS_HIGH: u8 = 1;
}

pub(crate) mod rtype {
    pub(crate) const A: u16 = 1;
    pub(crate) const SOA: u16 = 6;
    pub(crate) const AAAA: u16 = 28;
    pub(crate) const SRV: u16 = 33;
    pub(crate) const OPT: u16 = 41;
    pub(crate) const ANY: u16 = 255;
}

pub(crate) const CLASS_IN: u16 = 1;
pub(crate) const CLASS_ANY: u16 = 255;

pub(crate) mod flags {
    pub(crate) const RESPONSE: u8 = 0x80;
    pub(crate) const OPCODE: u8 = 0x78;
    pub(crate) const AUTHORITATIVE: u8 = 0x04;
    pub(crate) const TRUNCATED: u8 = 0x02;
    pub(crate) const RECURSION_DESIRED: u8 = 0x01;
    pub(crate) const RECURSION_AVAILABLE: u8 = 0x80;
    pub(crate) const CHECKING_DISABLED: u8 = 0x10;
}

/// Reads a big-endian number at `at`.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}
