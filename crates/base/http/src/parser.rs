//! The reading side of event streams.

use bytes::{Buf as _, BytesMut};

/// Longest event in bytes.
const MAX_EVENT: usize = 16 << 20;

/// Cuts a byte stream into events. Pure: bytes in, events out.
#[derive(Debug, Default)]
pub struct EventParser {
    buffer: BytesMut,
    /// Bytes at the front of the buffer that hold no line feed.
    searched: usize,
    current: RawEvent,
    has_data: bool,
}

/// One event: its type (empty is the usual one), its data, and its id if it has one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawEvent {
    pub event: String,
    pub data: String,
    pub id: Option<String>,
}

impl EventParser {
    /// Takes more bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole event. Events without data are skipped.
    ///
    /// # Errors
    /// When an event is longer than any of ours.
    pub fn next_event(&mut self) -> Result<Option<RawEvent>, String> {
        while let Some(end) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
            let line = self.buffer.split_to(self.searched + end);
            self.buffer.advance(1);
            self.searched = 0;
            let line = String::from_utf8_lossy(&line);
            let line = line.strip_suffix('\r').unwrap_or(&line);
            if line.is_empty() {
                let event = std::mem::take(&mut self.current);
                if std::mem::take(&mut self.has_data) {
                    return Ok(Some(event));
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            self.take_field(field, value.strip_prefix(' ').unwrap_or(value));
            self.check(self.current.data.len())?;
        }
        self.searched = self.buffer.len();
        self.check(self.buffer.len())?;
        Ok(None)
    }

    fn take_field(&mut self, field: &str, value: &str) {
        match field {
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.current.data.push('\n');
                }
                self.current.data.push_str(value);
            }
            "event" => value.clone_into(&mut self.current.event),
            "id" => self.current.id = Some(value.to_owned()),
            _ => {} // comments, retry hints
        }
    }

    fn check(&self, length: usize) -> Result<(), String> {
        if length > MAX_EVENT { Err(format!("an event is longer than {MAX_EVENT} bytes")) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_out_however_the_bytes_are_cut() {
        let bytes = b":\nid: 7\ndata: {\"a\":1}\n\n:\n\nevent: error\ndata: gone\n\ndata:x\r\ndata: y\r\n\r\n";
        for size in 1..bytes.len() {
            let (mut parser, mut events) = (EventParser::default(), Vec::new());
            for piece in bytes.chunks(size) {
                parser.push(piece);
                while let Some(event) = parser.next_event().unwrap() {
                    events.push((event.event, event.data, event.id));
                }
            }
            let wanted = [("", "{\"a\":1}", Some("7")), ("error", "gone", None), ("", "x\ny", None)];
            let wanted = wanted.map(|(event, data, id)| (event.to_owned(), data.to_owned(), id.map(str::to_owned)));
            assert_eq!(events, wanted, "{size}");
        }
    }

    #[test]
    fn endless_lines_and_endless_events_are_refused() {
        let mut parser = EventParser::default();
        let line = [b'x'; 1 << 16];
        let refused = (0..1000).any(|_| {
            parser.push(&line);
            parser.next_event().is_err()
        });
        assert!(refused);
        let (mut parser, line) = (EventParser::default(), [b"data: ".as_slice(), &[b'x'; 1 << 16], b"\n"].concat());
        let refused = (0..1000).any(|_| {
            parser.push(&line);
            parser.next_event().is_err()
        });
        assert!(refused);
    }
}
