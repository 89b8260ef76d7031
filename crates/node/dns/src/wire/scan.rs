//! Walking over the records of a message without decoding them.

use super::{HEADER_LEN, flags, rcode, rtype, u16_at, u32_at};

/// One record's fixed fields.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    pub(crate) rtype: u16,
    pub(crate) class: u16,
    pub(crate) ttl: u32,
    pub(crate) ttl_at: usize,
    pub(crate) data_at: usize,
    pub(crate) data_len: usize,
}

/// The record at `at`, and where the next begins.
pub(crate) fn record(packet: &[u8], at: usize) -> Option<(Record, usize)> {
    let at = skip_name(packet, at)?;
    let data_len = usize::from(u16_at(packet, at + 8)?);
    let data_at = at + 10;
    let end = data_at.checked_add(data_len).filter(|end| *end <= packet.len())?;
    let record = Record {
        rtype: u16_at(packet, at)?,
        class: u16_at(packet, at + 2)?,
        ttl: u32_at(packet, at + 4)?,
        ttl_at: at + 4,
        data_at,
        data_len,
    };
    Some((record, end))
}

fn skip_name(packet: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *packet.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            192..=255 => return packet.get(at + 1).map(|_| at + 2),
            _ => return None,
        }
    }
}

/// What a forwarded answer says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) code: u8,
    pub(crate) kind: Kind,
    /// Offsets of the times to live, OPT excepted.
    pub(crate) ttls: Vec<(usize, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Holds for so many seconds.
    Lasting(u32),
    /// Not to be remembered.
    Momentary,
}

/// Reads an upstream's answer to a question that ended at `question_end`; `None` when it is none.
pub(crate) fn scan(packet: &[u8], question_end: usize) -> Option<Response> {
    let header = packet.get(..HEADER_LEN)?;
    if header[2] & flags::RESPONSE == 0 || u16_at(packet, 4)? != 1 {
        return None;
    }
    let code = header[3] & 0x0f;
    let counts = [u16_at(packet, 6)?, u16_at(packet, 8)?, u16_at(packet, 10)?];
    let (mut at, mut ttls) = (question_end, Vec::new());
    let (mut answers, mut negative) = (u32::MAX, None);
    for (section, count) in counts.iter().enumerate() {
        for _ in 0..*count {
            let (record, next) = record(packet, at)?;
            if record.rtype != rtype::OPT {
                ttls.push((record.ttl_at, record.ttl));
            }
            match section {
                0 => answers = answers.min(record.ttl),
                // RFC 2308 section 5: the last field of the SOA bounds how long a negative answer holds.
                1 if record.rtype == rtype::SOA => {
                    let minimum = record.data_len.checked_sub(4).and_then(|skip| u32_at(packet, record.data_at + skip));
                    negative = minimum.map(|minimum| minimum.min(record.ttl));
                }
                _ => {}
            }
            at = next;
        }
    }
    let truncated = header[2] & flags::TRUNCATED != 0;
    let seconds = match (code, counts[0]) {
        _ if truncated => None,
        (rcode::NOERROR, 1..) => Some(answers),
        (rcode::NOERROR | rcode::NXDOMAIN, _) => negative,
        _ => None,
    };
    let kind = seconds.filter(|seconds| *seconds > 0).map_or(Kind::Momentary, Kind::Lasting);
    Some(Response { code, kind, ttls })
}
