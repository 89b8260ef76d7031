//! The reading side of event streams.

use bytes::{Buf as _, BytesMut};

/// Longest line that is kept, in bytes.
const MAX_LINE: usize = 16 << 20;

/// Cuts a byte stream into events. Pure: bytes in, events out.
#[derive(Debug, Default)]
pub struct EventParser {
    buffer: BytesMut,
    event: String,
    data: Vec<String>,
}

/// One event: its type (empty is the usual one) and its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawEvent {
    pub event: String,
    pub data: String,
}

impl EventParser {
    /// Takes more bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole event. Events without data are skipped.
    ///
    /// # Errors
    /// When a line is longer than any event of ours.
    pub fn next_event(&mut self) -> Result<Option<RawEvent>, String> {
        while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
            let line = self.buffer.split_to(end);
            self.buffer.advance(1);
            let line = String::from_utf8_lossy(&line);
            let line = line.strip_suffix('\r').unwrap_or(&line);
            if line.is_empty() {
                let (event, data) = (std::mem::take(&mut self.event), std::mem::take(&mut self.data));
                if !data.is_empty() {
                    return Ok(Some(RawEvent { event, data: data.join("\n") }));
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "data" => self.data.push(value.to_owned()),
                "event" => value.clone_into(&mut self.event),
                _ => {} // comments, ids, retry hints
            }
        }
        if self.buffer.len() > MAX_LINE {
            Err(format!("a line of the event stream is longer than {MAX_LINE} bytes"))
        } else {
            Ok(None)
        }
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
                    events.push((event.event, event.data));
                }
            }
            let wanted = [("", "{\"a\":1}"), ("error", "gone"), ("", "x\ny")];
            assert_eq!(events, wanted.map(|(event, data)| (event.to_owned(), data.to_owned())), "{size}");
        }
    }
}
