//! Reading a query.

use super::{HEADER_LEN, flags, rcode, rtype, scan, u16_at};

/// Why a packet is no query that can be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Invalid {
    /// Not a query, or too short to answer.
    Ignore,
    /// Answered with this code.
    Code(u8),
}

/// A query with one question.
#[derive(Debug)]
pub(crate) struct Query<'a> {
    pub(crate) packet: &'a [u8],
    pub(crate) name: Name,
    pub(crate) qtype: u16,
    pub(crate) qclass: u16,
    /// Offset behind the question.
    pub(crate) question_end: usize,
    pub(crate) edns: Option<Edns>,
}

/// The requester's OPT record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edns {
    pub(crate) payload_len: u16,
    pub(crate) version: u8,
    pub(crate) dnssec_ok: bool,
    pub(crate) has_options: bool,
}

/// The question's name in lower case, as labels.
#[derive(Debug)]
pub(crate) struct Name {
    bytes: [u8; 255],
    /// Start and length of each label in `bytes` (and, plus 12, in the packet).
    labels: [(u8, u8); 127],
    count: usize,
    len: usize,
}

impl Name {
    pub(crate) fn label(&self, index: usize) -> &[u8] {
        let Some((start, len)) = self.labels.get(..self.count).and_then(|labels| labels.get(index)) else { return &[] };
        let start = usize::from(*start);
        self.bytes.get(start..start + usize::from(*len)).unwrap_or(&[])
    }

    /// Offset in the packet of the label at `index`, or of the final zero.
    pub(crate) fn offset(&self, index: usize) -> usize {
        match self.labels.get(..self.count).and_then(|labels| labels.get(index)) {
            Some((start, _)) => HEADER_LEN + usize::from(*start) - 1,
            None => HEADER_LEN + self.len - 1,
        }
    }

    /// Whether the last labels are `zone` (lower case). Gives the number of labels before it.
    pub(crate) fn below(&self, zone: &[Vec<u8>]) -> Option<usize> {
        let before = self.count.checked_sub(zone.len())?;
        (0..zone.len()).all(|i| self.label(before + i) == zone[i]).then_some(before)
    }

    /// The name in lower case as on the wire.
    pub(crate) fn wire(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }

    /// `None` when it is cut off, too long or compressed (a first name has nothing to point to).
    fn parse(packet: &[u8]) -> Option<Self> {
        let mut name = Self { bytes: [0; 255], labels: [(0, 0); 127], count: 0, len: 0 };
        loop {
            let length = *packet.get(HEADER_LEN + name.len)?;
            *name.bytes.get_mut(name.len)? = length;
            name.len += 1;
            match length {
                0 => return Some(name),
                1..=63 => {}
                _ => return None,
            }
            let (start, end) = (name.len, name.len + usize::from(length));
            let from = packet.get(HEADER_LEN + start..HEADER_LEN + end)?;
            let to = name.bytes.get_mut(start..end)?;
            to.copy_from_slice(from);
            to.make_ascii_lowercase();
            *name.labels.get_mut(name.count)? = (u8::try_from(start).ok()?, length);
            name.count += 1;
            name.len = end;
        }
    }
}

impl<'a> Query<'a> {
    pub(crate) fn parse(packet: &'a [u8]) -> Result<Self, Invalid> {
        let Some(header) = packet.get(..HEADER_LEN) else { return Err(Invalid::Ignore) };
        if header[2] & flags::RESPONSE != 0 {
            return Err(Invalid::Ignore); // answering answers would start a loop
        }
        if header[2] & flags::OPCODE != 0 {
            return Err(Invalid::Code(rcode::NOTIMP));
        }
        Self::body(packet).ok_or(Invalid::Code(rcode::FORMERR))
    }

    fn body(packet: &'a [u8]) -> Option<Self> {
        let count = |at| u16_at(packet, at);
        if count(4)? != 1 {
            return None;
        }
        let name = Name::parse(packet)?;
        let at = HEADER_LEN + name.len;
        let (qtype, qclass) = (u16_at(packet, at)?, u16_at(packet, at + 2)?);
        let question_end = at + 4;
        let mut edns = None;
        let mut at = question_end;
        let others = u32::from(count(6)?) + u32::from(count(8)?);
        for index in 0..others + u32::from(count(10)?) {
            let (record, next) = scan::record(packet, at)?;
            if record.rtype == rtype::OPT && index >= others {
                if edns.is_some() {
                    return None; // RFC 6891 section 6.1.1
                }
                edns = Some(Edns {
                    payload_len: record.class,
                    version: record.ttl.to_be_bytes()[1],
                    dnssec_ok: record.ttl & 0x8000 != 0,
                    has_options: record.data_len > 0,
                });
            }
            at = next;
        }
        Some(Self { packet, name, qtype, qclass, question_end, edns })
    }

    pub(crate) fn recursion_desired(&self) -> bool {
        self.packet[2] & flags::RECURSION_DESIRED != 0
    }

    pub(crate) fn checking_disabled(&self) -> bool {
        self.packet[3] & flags::CHECKING_DISABLED != 0
    }
}

/// An answer of a header alone, for what could not be read.
pub(crate) fn error_reply(packet: &[u8], code: u8, out: &mut Vec<u8>) {
    out.clear();
    let Some(header) = packet.get(..HEADER_LEN) else { return };
    out.extend_from_slice(&header[..2]);
    out.push(flags::RESPONSE | header[2] & (flags::OPCODE | flags::RECURSION_DESIRED));
    out.push(code);
    out.extend_from_slice(&[0; 8]);
}
