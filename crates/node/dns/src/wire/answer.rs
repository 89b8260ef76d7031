//! Writing the answer to a query.

use std::net::IpAddr;

use super::{CLASS_IN, EDNS_LEN, HEADER_LEN, Query, flags, rcode, rtype};

/// Where a record's owner name is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Owner {
    /// The name asked for.
    Question,
    /// At this offset of the message.
    At(usize),
}

/// An answer being written: header and question are there from the start. A record that does not fit any more is left
/// out whole and marks the answer as truncated.
pub(crate) struct Answer<'a> {
    out: &'a mut Vec<u8>,
    limit: usize,
    counts: [u16; 3],
    truncated: bool,
    edns: bool,
    extended: u8,
}

const OPT_LEN: usize = 11;

impl<'a> Answer<'a> {
    /// Begins the answer to `query` in at most `limit` bytes. Recursion is `available` when there is somebody to ask.
    pub(crate) fn begin(query: &Query<'_>, limit: usize, available: bool, out: &'a mut Vec<u8>) -> Self {
        out.clear();
        out.extend_from_slice(&query.packet[..query.question_end]);
        out[2] = flags::RESPONSE | query.packet[2] & (flags::OPCODE | flags::RECURSION_DESIRED);
        out[3] = query.packet[3] & flags::CHECKING_DISABLED;
        if available {
            out[3] |= flags::RECURSION_AVAILABLE;
        }
        out[6..HEADER_LEN].fill(0);
        let edns = query.edns.is_some();
        let limit = if edns { limit - OPT_LEN } else { limit };
        Self { out, limit, counts: [0; 3], truncated: false, edns, extended: 0 }
    }

    pub(crate) fn authoritative(&mut self) {
        self.out[2] |= flags::AUTHORITATIVE;
    }

    pub(crate) fn code(&mut self, code: u8) {
        self.out[3] = self.out[3] & 0xf0 | code;
    }

    /// The requester speaks an EDNS version that we do not.
    pub(crate) fn bad_version(&mut self) {
        self.extended = rcode::BADVERS_HIGH;
    }

    /// Whether no record is in the answer section.
    pub(crate) fn is_empty(&self) -> bool {
        self.counts[0] == 0 && !self.truncated
    }

    /// Whether the code says that something is wrong with the name.
    pub(crate) fn is_negative(&self) -> bool {
        self.out[3] & 0x0f != rcode::NOERROR
    }

    pub(crate) fn address(&mut self, additional: bool, owner: Owner, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => self.record(additional, owner, rtype::A, |out| out.extend_from_slice(&ip.octets())),
            IpAddr::V6(ip) => self.record(additional, owner, rtype::AAAA, |out| out.extend_from_slice(&ip.octets())),
        };
    }

    /// A service record for the name asked for; `target` writes an uncompressed name (RFC 2782). Gives the offset of the
    /// target if the record fitted.
    pub(crate) fn service(&mut self, port: u16, target: impl FnOnce(&mut Vec<u8>)) -> Option<usize> {
        let start = self.record(false, Owner::Question, rtype::SRV, |out| {
            for number in [1, 1, port] {
                out.extend_from_slice(&u16::to_be_bytes(number)); // priority, weight, port
            }
            target(out);
        })?;
        Some(start + 6)
    }

    /// The zone's SOA; `zone_at` is the offset of the zone's name in the question.
    pub(crate) fn soa(&mut self, authority: bool, zone_at: usize, serial: u32) {
        let section = usize::from(authority);
        self.write(section, Owner::At(zone_at), rtype::SOA, |out| {
            for label in ["ns", "postmaster"] {
                push_label(out, label.as_bytes());
                push_pointer(out, zone_at);
            }
            // serial, refresh, retry, expire, minimum (spec discoverd-and-network 8.3)
            for number in [serial, 3600, 600, 86400, 0] {
                out.extend_from_slice(&number.to_be_bytes());
            }
        });
    }

    /// Completes the message.
    pub(crate) fn finish(self) {
        let Self { out, mut counts, truncated, edns, extended, .. } = self;
        if edns {
            out.push(0);
            out.extend_from_slice(&rtype::OPT.to_be_bytes());
            out.extend_from_slice(&EDNS_LEN.to_be_bytes());
            out.extend_from_slice(&[extended, 0, 0, 0, 0, 0]);
            counts[2] += 1;
        }
        if truncated {
            out[2] |= flags::TRUNCATED;
        }
        for (at, count) in [6, 8, 10].into_iter().zip(counts) {
            out[at..at + 2].copy_from_slice(&count.to_be_bytes());
        }
    }

    fn record(&mut self, additional: bool, owner: Owner, rtype: u16, data: impl FnOnce(&mut Vec<u8>)) -> Option<usize> {
        self.write(if additional { 2 } else { 0 }, owner, rtype, data)
    }

    /// Gives the offset of the record's data.
    fn write(&mut self, section: usize, owner: Owner, rtype: u16, data: impl FnOnce(&mut Vec<u8>)) -> Option<usize> {
        if self.truncated {
            return None;
        }
        let start = self.out.len();
        push_pointer(
            self.out,
            match owner {
                Owner::Question => HEADER_LEN,
                Owner::At(offset) => offset,
            },
        );
        self.out.extend_from_slice(&rtype.to_be_bytes());
        self.out.extend_from_slice(&CLASS_IN.to_be_bytes());
        self.out.extend_from_slice(&[0; 4]); // time to live: never to be remembered
        self.out.extend_from_slice(&[0; 2]);
        let data_at = self.out.len();
        data(self.out);
        let fits = self.out.len() <= self.limit && self.counts[section] < u16::MAX - 1;
        match u16::try_from(self.out.len() - data_at) {
            Ok(len) if fits => self.out[data_at - 2..data_at].copy_from_slice(&len.to_be_bytes()),
            _ => {
                self.out.truncate(start);
                // Additional records are a courtesy; leaving them out truncates nothing (RFC 2181 section 9).
                self.truncated = section != 2;
                return None;
            }
        }
        self.counts[section] += 1;
        Some(data_at)
    }
}

/// Compression pointers reach 14 bits; callers point into the question or at targets they checked.
fn push_pointer(out: &mut Vec<u8>, offset: usize) {
    let offset = u16::try_from(offset).unwrap_or(0) & 0x3fff;
    out.extend_from_slice(&(0xc000 | offset).to_be_bytes());
}

/// Labels longer than 63 bytes do not exist in the registry; they are cut rather than misread as pointers.
pub(crate) fn push_label(out: &mut Vec<u8>, label: &[u8]) {
    let label = &label[..label.len().min(63)];
    out.push(label.len() as u8);
    out.extend_from_slice(label);
}
