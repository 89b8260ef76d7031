//! One log message: RFC 5424 as log muxes write it (spec operations H2).

use std::ops::Range;

use chrono::{DateTime, Utc};
use flynn_types::time::GoTime;
use serde::Serialize;

use crate::frames::MESSAGE_LEN;

/// Where a process's line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
    Init,
    Unknown,
}

impl Stream {
    /// As the API names it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Init => "init",
            Self::Unknown => "unknown",
        }
    }

    fn of(message_id: &str) -> Self {
        match message_id {
            "ID1" => Self::Stdout,
            "ID2" => Self::Stderr,
            "ID3" => Self::Init,
            _ => Self::Unknown,
        }
    }
}

/// A message as it came, and where its parts are.
#[derive(Debug)]
pub(crate) struct Message {
    raw: Box<[u8]>,
    /// Unix time in microseconds.
    pub(crate) micros: i64,
    /// Number that the host gave it.
    pub(crate) seq: u64,
    pub(crate) stream: Stream,
    host: Range<u16>,
    app: Range<u16>,
    process: Range<u16>,
    text: u16,
}

/// Why a message is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Rejected {
    #[error("missing structured data")]
    NoStructuredData,
    #[error("no message of RFC 5424: {0}")]
    Malformed(&'static str),
}

impl Message {
    pub(crate) fn parse(raw: &[u8]) -> Result<Self, Rejected> {
        if raw.len() > MESSAGE_LEN {
            return Err(Rejected::Malformed("too long"));
        }
        let mut header = Header { raw, at: 0 };
        let priority = header.field()?;
        let known = priority.strip_prefix('<').and_then(|rest| rest.strip_suffix(">1"));
        if known.is_none_or(|number| number.parse::<u8>().is_err()) {
            return Err(Rejected::Malformed("its priority or version is missing"));
        }
        let time = DateTime::parse_from_rfc3339(header.field()?);
        let micros = time.map_err(|_| Rejected::Malformed("its time is none"))?.timestamp_micros();
        let (host, app, process) = (header.range()?, header.range()?, header.range()?);
        let stream = Stream::of(header.field()?);
        let (seq, end) = structured_data(&raw[header.at..])?;
        let seq = seq.ok_or(Rejected::NoStructuredData)?;
        let mut text = header.at + end;
        match raw.get(text) {
            None => {}
            Some(b' ') => text += 1,
            Some(_) => return Err(Rejected::Malformed("there is something behind its structured data")),
        }
        Ok(Self { raw: raw.into(), micros, seq, stream, host, app, process, text: place(text) })
    }

    pub(crate) fn raw(&self) -> &[u8] {
        &self.raw
    }

    pub(crate) fn host(&self) -> &str {
        self.field(&self.host)
    }

    /// The channel that the message belongs to.
    pub(crate) fn app(&self) -> &str {
        self.field(&self.app)
    }

    /// Process type, empty without one, and job.
    pub(crate) fn process(&self) -> (&str, &str) {
        let process = self.field(&self.process);
        process.split_once('.').unwrap_or(("", process))
    }

    pub(crate) fn time(&self) -> GoTime {
        GoTime(DateTime::<Utc>::from_timestamp_micros(self.micros))
    }

    /// Appends the message as the API shows it, with a line feed.
    pub(crate) fn write_json(&self, out: &mut Vec<u8>) {
        let (process_type, job_id) = self.process();
        let text = String::from_utf8_lossy(self.raw.get(usize::from(self.text)..).unwrap_or_default());
        let shown = Shown {
            host_id: self.host(),
            job_id,
            msg: &text,
            process_type,
            source: "app",
            stream: self.stream.name(),
            timestamp: self.time(),
        };
        // Writing plain strings into memory cannot fail.
        let _ = serde_json::to_writer(&mut *out, &shown);
        out.push(b'\n');
    }

    fn field(&self, range: &Range<u16>) -> &str {
        let bytes = self.raw.get(usize::from(range.start)..usize::from(range.end)).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

/// Empty texts are left out, in the order of the Go implementation.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    host_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    job_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    msg: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    process_type: &'a str,
    source: &'a str,
    stream: &'a str,
    timestamp: GoTime,
}

/// Goes through the fields in front of the structured data.
struct Header<'a> {
    raw: &'a [u8],
    at: usize,
}

impl<'a> Header<'a> {
    /// The next field, ASCII and not empty, and the space behind it.
    fn range(&mut self) -> Result<Range<u16>, Rejected> {
        let rest = &self.raw[self.at..];
        let length = rest.iter().position(|byte| *byte == b' ').ok_or(Rejected::Malformed("its header is cut off"))?;
        if length == 0 || !rest[..length].iter().all(u8::is_ascii_graphic) {
            return Err(Rejected::Malformed("a field of its header is empty or not ASCII"));
        }
        let range = place(self.at)..place(self.at + length);
        self.at += length + 1;
        Ok(range)
    }

    fn field(&mut self) -> Result<&'a str, Rejected> {
        let begin = self.at;
        self.range()?;
        std::str::from_utf8(&self.raw[begin..self.at - 1]).map_err(|_| Rejected::Malformed("its header is not ASCII"))
    }
}

fn place(at: usize) -> u16 {
    u16::try_from(at).expect("messages are shorter than 11000 bytes")
}

/// The number in the element `flynn`, and the length of all elements (RFC 5424 section 6.3).
fn structured_data(bytes: &[u8]) -> Result<(Option<u64>, usize), Rejected> {
    const CUT: Rejected = Rejected::Malformed("its structured data is cut off");
    if bytes.first() == Some(&b'-') {
        return Ok((None, 1));
    }
    let (mut seq, mut at) = (None, 0);
    while bytes.get(at) == Some(&b'[') {
        let name_end = |from: usize| {
            let ends = |byte: &u8| matches!(byte, b' ' | b']' | b'=');
            bytes[from..].iter().position(ends).map(|length| from + length).ok_or(CUT)
        };
        let mut end = name_end(at + 1)?;
        let ours = &bytes[at + 1..end] == b"flynn";
        while bytes[end] == b' ' {
            let begin = end + 1;
            end = name_end(begin)?;
            let is_seq = ours && &bytes[begin..end] == b"seq";
            let value = bytes[end..].strip_prefix(b"=\"").ok_or(Rejected::Malformed("a parameter has no value"))?;
            let length = value_length(value).ok_or(CUT)?;
            if is_seq {
                seq = std::str::from_utf8(&value[..length]).ok().and_then(|number| number.parse().ok());
            }
            end += 2 + length + 1;
            if end >= bytes.len() {
                return Err(CUT);
            }
        }
        if bytes[end] != b']' {
            return Err(Rejected::Malformed("an element of its structured data does not end"));
        }
        at = end + 1;
    }
    if at == 0 { Err(Rejected::Malformed("its structured data is missing")) } else { Ok((seq, at)) }
}

/// Length up to the quote that ends a value; a backslash takes the next byte with it.
fn value_length(value: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match value.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests;
