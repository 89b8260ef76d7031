//! Lines as RFC 5424 messages in RFC 6587 frames (spec flynn-host 10.1 and 10.2).

use std::ops::Range;

use chrono::{DateTime, Utc};

/// Longest message that readers accept.
pub(crate) const MESSAGE_LEN: usize = 11_000;
/// Longest frame: length, space, message, newline.
pub(crate) const FRAME_LEN: usize = MESSAGE_LEN + 8;
/// Facility local7, severity informational, version 1.
const PRIORITY: &str = "<190>1 ";
/// Length of `2006-01-02T15:04:05.000000Z`.
const TIME_LEN: usize = 27;

/// What all messages of a job have in common.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// ` <host> <app> <process id> ID`, with spaces.
    middle: String,
}

impl Source {
    pub(crate) fn new(host: &str, app: &str, process_type: &str, job: &str) -> Self {
        let process_type = field(process_type, 48).replace('.', "_");
        let process = if process_type == "-" { job.to_owned() } else { format!("{process_type}.{job}") };
        Self { middle: format!(" {} {} {} ID", field(host, 255), field(app, 48), field(&process, 192)) }
    }
}

/// A header field: printable ASCII without spaces, `-` when empty.
pub(crate) fn field(text: &str, most: usize) -> String {
    let text: String = text.chars().take(most).map(|c| if c.is_ascii_graphic() { c } else { '_' }).collect();
    if text.is_empty() { "-".to_owned() } else { text }
}

/// Writes times; remembers the last second's digits.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    second: Option<i64>,
    digits: String,
}

impl Clock {
    /// Writes unix microseconds as UTC.
    fn write(&mut self, micros: i64, out: &mut Vec<u8>) {
        let (second, fraction) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
        if self.second != Some(second) {
            let time = DateTime::<Utc>::from_timestamp(second, 0).unwrap_or_default();
            self.digits = time.format("%Y-%m-%dT%H:%M:%S").to_string();
            self.second = Some(second);
        }
        out.extend_from_slice(self.digits.as_bytes());
        let mut digits = *b".000000Z";
        let mut rest = fraction;
        for digit in digits[1..7].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        out.extend_from_slice(&digits);
    }
}

/// Appends a frame with its newline.
pub(crate) fn write_frame(
    out: &mut Vec<u8>,
    clock: &mut Clock,
    source: &Source,
    micros: i64,
    seq: u32,
    stream: u8,
    text: &[u8],
) {
    let mut number = itoa(seq);
    let number = number.digits();
    let message = PRIORITY.len()
        + TIME_LEN
        + source.middle.len()
        + 1
        + " [flynn seq=\"".len()
        + number.len()
        + "\"]".len()
        + if text.is_empty() { 0 } else { 1 + text.len() };
    let mut length = itoa(message as u32);
    out.extend_from_slice(length.digits());
    out.push(b' ');
    out.extend_from_slice(PRIORITY.as_bytes());
    clock.write(micros, out);
    out.extend_from_slice(source.middle.as_bytes());
    out.push(b'0' + stream);
    out.extend_from_slice(b" [flynn seq=\"");
    out.extend_from_slice(number);
    out.extend_from_slice(b"\"]");
    if !text.is_empty() {
        out.push(b' ');
        out.extend_from_slice(text);
    }
    out.push(b'\n');
}

struct Digits {
    bytes: [u8; 10],
    start: usize,
}

impl Digits {
    fn digits(&mut self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

fn itoa(mut number: u32) -> Digits {
    let mut digits = Digits { bytes: [b'0'; 10], start: 10 };
    loop {
        digits.start -= 1;
        digits.bytes[digits.start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return digits;
        }
    }
}

/// A message taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    /// Unix time in microseconds.
    pub(crate) micros: i64,
    pub(crate) host: &'a str,
    pub(crate) app: &'a str,
    pub(crate) process: &'a str,
    pub(crate) message_id: &'a str,
    pub(crate) seq: u32,
    pub(crate) text: &'a [u8],
}

impl<'a> Message<'a> {
    /// `None` when it was not written by a log mux.
    pub(crate) fn parse(message: &'a [u8]) -> Option<Self> {
        let rest = message.strip_prefix(PRIORITY.as_bytes())?;
        let (time, rest) = rest.split_at_checked(TIME_LEN)?;
        let micros = parse_time(time)?;
        let rest = rest.strip_prefix(b" ")?;
        let mut fields = rest.splitn(5, |byte| *byte == b' ');
        let mut text_field = || std::str::from_utf8(fields.next()?).ok();
        let (host, app, process, message_id) = (text_field()?, text_field()?, text_field()?, text_field()?);
        let rest = fields.next()?.strip_prefix(b"[flynn seq=\"")?;
        let quote = rest.iter().take(11).position(|byte| *byte == b'"')?;
        let seq = std::str::from_utf8(&rest[..quote]).ok()?.parse().ok()?;
        let rest = rest[quote..].strip_prefix(b"\"]")?;
        let text = rest.strip_prefix(b" ").unwrap_or(rest);
        Some(Self { micros, host, app, process, message_id, seq, text })
    }

    /// Job and process type.
    pub(crate) fn job(&self) -> (&'a str, &'a str) {
        match self.process.split_once('.') {
            Some((process_type, job)) => (job, process_type),
            None => (self.process, ""),
        }
    }

    pub(crate) fn is_of_job(&self, job: &str) -> bool {
        let rest = self.process.strip_suffix(job);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }

    /// 1 stdout, 2 stderr, 3 init log, 0 anything else.
    pub(crate) fn stream(&self) -> u8 {
        match self.message_id {
            "ID1" => 1,
            "ID2" => 2,
            "ID3" => 3,
            _ => 0,
        }
    }
}

fn parse_time(text: &[u8]) -> Option<i64> {
    let number = |range: Range<usize>| {
        text.get(range)?.iter().try_fold(0u32, |sum, byte| {
            let digit = byte.wrapping_sub(b'0');
            (digit < 10).then_some(sum * 10 + u32::from(digit))
        })
    };
    if text.len() != TIME_LEN || text[10] != b'T' || text[26] != b'Z' {
        return None;
    }
    let date = chrono::NaiveDate::from_ymd_opt(i32::try_from(number(0..4)?).ok()?, number(5..7)?, number(8..10)?)?;
    let time = date.and_hms_micro_opt(number(11..13)?, number(14..16)?, number(17..19)?, number(20..26)?)?;
    Some(time.and_utc().timestamp_micros())
}

/// The first frame of a file's bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// The message's place, and the length of the whole frame.
    Whole(Range<usize>, usize),
    /// More bytes are needed.
    Cut,
    /// No frame begins here.
    Broken,
}

pub(crate) fn first_frame(bytes: &[u8]) -> Frame {
    let mut length = 0usize;
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'0'..=b'9' if at < 5 => length = length * 10 + usize::from(byte - b'0'),
            b' ' if at > 0 => {
                let (start, end) = (at + 1, at + 1 + length);
                return match bytes.get(end) {
                    _ if length > MESSAGE_LEN => Frame::Broken,
                    Some(b'\n') => Frame::Whole(start..end, end + 1),
                    Some(_) => Frame::Broken,
                    None => Frame::Cut,
                };
            }
            _ => return Frame::Broken,
        }
    }
    Frame::Cut
}

/// Calls `each` with the messages of whole frames from the start; gives how many bytes those are. What is no frame is
/// passed over up to the next newline.
pub(crate) fn frames<'a>(bytes: &'a [u8], mut each: impl FnMut(&'a [u8])) -> usize {
    let mut at = 0;
    loop {
        match first_frame(&bytes[at..]) {
            Frame::Whole(range, len) => {
                each(&bytes[at + range.start..at + range.end]);
                at += len;
            }
            Frame::Cut => return at,
            Frame::Broken => match bytes[at..].iter().position(|byte| *byte == b'\n') {
                Some(newline) => at += newline + 1,
                None if bytes.len() - at > FRAME_LEN => return bytes.len(),
                None => return at,
            },
        }
    }
}

#[cfg(test)]
mod tests;
