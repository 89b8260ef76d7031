//! Finds the heads of HTTP/1 requests in a stream of bytes and refuses those that two programs could read in two ways.
//! Pure.
//!
//! hyper parses the same bytes afterwards. It drops a `Content-Length` beside a `Transfer-Encoding` before anybody could
//! refuse the request, so the framing is checked here, where the bytes are still as the client wrote them.

use super::{REFUSED_METHOD, Refusal};

/// Most header fields of a request, as many as hyper takes.
pub(crate) const MAX_FIELDS: usize = 100;
/// Longest head of a request in bytes (spec router section 13).
pub(crate) const MAX_HEAD: usize = 1 << 20;
/// Longest line of a chunk's size.
const MAX_CHUNK_LINE: usize = 16 * 1024;

/// Where in the stream we are.
#[derive(Debug)]
pub(crate) struct Scanner {
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// At a head, or in one of which so many bytes were parsed and hold no end.
    Head {
        searched: usize,
    },
    /// In a body with so many bytes left.
    Body(u64),
    Chunks(Chunk),
    /// Another protocol, or a message that hyper refuses: nothing more is looked at.
    Opaque,
}

#[derive(Debug, PartialEq, Eq)]
enum Chunk {
    /// In the line of a chunk's size: what is read of it, and whether its digits are over.
    Size {
        size: u64,
        digits: bool,
        length: usize,
        cr: bool,
    },
    Data(u64),
    /// Behind the data, before its CR LF.
    DataEnd {
        cr: bool,
    },
    /// In the trailer section, with the bytes of the present line and of all.
    Trailer {
        line: usize,
        length: usize,
        cr: bool,
    },
}

/// What became of the bytes that were fed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Scanned {
    /// So many of them may pass on. The rest is the begin of a head: feed it again, with more behind it.
    pub(crate) cleared: usize,
    /// Behind the cleared bytes is a head that has to be refused.
    pub(crate) refused: Option<Refusal>,
}

impl Default for Scanner {
    fn default() -> Self {
        Self { state: State::Head { searched: 0 } }
    }
}

impl Scanner {
    /// Whether the next byte belongs to a head.
    pub(crate) fn at_head(&self) -> bool {
        matches!(self.state, State::Head { .. })
    }

    /// Whether the next byte belongs to a body.
    pub(crate) fn in_body(&self) -> bool {
        matches!(self.state, State::Body(_) | State::Chunks(_))
    }

    /// Whether nothing is known of the bytes any more.
    pub(crate) fn is_opaque(&self) -> bool {
        self.state == State::Opaque
    }

    /// Looks at the bytes that follow those cleared so far.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Scanned {
        let mut cleared = 0;
        while cleared < bytes.len() {
            let rest = &bytes[cleared..];
            match &mut self.state {
                State::Opaque => return Scanned { cleared: bytes.len(), refused: None },
                State::Body(left) => {
                    let part = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= part as u64;
                    cleared += part;
                    if *left == 0 {
                        self.state = State::Head { searched: 0 };
                    }
                }
                State::Chunks(chunk) => {
                    let (used, next) = chunk.feed(rest);
                    cleared += used;
                    if let Some(next) = next {
                        self.state = next;
                    }
                }
                State::Head { searched } => {
                    // Empty lines before a request are skipped, as RFC 9112 section 2.2 wants it.
                    let blank = rest.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
                    if blank > 0 {
                        cleared += blank;
                        *searched = 0;
                        continue;
                    }
                    // Parsed anew at the end of each line, of which a head has few: a slow client costs little.
                    let is_new_line = rest[*searched..].contains(&b'\n');
                    if *searched > 0 && !is_new_line {
                        *searched = rest.len();
                        let refused = (rest.len() > MAX_HEAD).then_some(Refusal::HeadTooLarge);
                        return Scanned { cleared, refused };
                    }
                    match head(rest) {
                        Ok(Some((length, state))) => {
                            cleared += length;
                            self.state = state;
                        }
                        Ok(None) => {
                            *searched = rest.len();
                            let refused = (rest.len() > MAX_HEAD).then_some(Refusal::HeadTooLarge);
                            return Scanned { cleared, refused };
                        }
                        Err(refusal) => return Scanned { cleared, refused: Some(refusal) },
                    }
                }
            }
        }
        Scanned { cleared, refused: None }
    }
}

/// Length of the head at the begin of `bytes`, and what follows it; `None` while it is incomplete.
fn head(bytes: &[u8]) -> Result<Option<(usize, State)>, Refusal> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::HeadTooLarge),
        Err(_) => return Err(Refusal::Malformed("the request is not HTTP")),
    };
    if length > MAX_HEAD {
        return Err(Refusal::HeadTooLarge);
    }
    let minor = request.version.unwrap_or(0);
    let mut framing = framing(request.headers, minor)?;
    match request.method {
        Some(REFUSED_METHOD) => return Err(Refusal::Malformed("the method is reserved")),
        // Its answer ends the connection.
        Some("CONNECT") => framing = State::Opaque,
        _ => {}
    }
    Ok(Some((length, framing)))
}

/// What the fields of a head say about the body behind it.
fn framing(fields: &[httparse::Header<'_>], minor_version: u8) -> Result<State, Refusal> {
    let (mut length, mut chunked, mut hosts, mut upgrade) = (None, false, 0, false);
    for field in fields {
        if field.name.eq_ignore_ascii_case("content-length") {
            let value = decimal(field.value).ok_or(Refusal::Malformed("Content-Length is no number"))?;
            if length.is_some_and(|known| known != value) {
                return Err(Refusal::Malformed("Content-Length is given twice"));
            }
            length = Some(value);
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            if chunked || minor_version == 0 || !field.value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                return Err(Refusal::Malformed("Transfer-Encoding is other than chunked"));
            }
            chunked = true;
        } else if field.name.eq_ignore_ascii_case("host") {
            hosts += 1;
        } else if field.name.eq_ignore_ascii_case("connection") {
            let mut tokens = field.value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            upgrade |= tokens.any(|token| token.eq_ignore_ascii_case(b"upgrade"));
        }
    }
    if hosts > 1 {
        return Err(Refusal::Malformed("Host is given twice"));
    }
    if hosts == 0 && minor_version > 0 {
        return Err(Refusal::NoHost);
    }
    match (length, chunked) {
        (Some(_), true) => Err(Refusal::Malformed("Content-Length and Transfer-Encoding exclude each other")),
        // The connection ends with the answer or becomes a tunnel: no other request follows.
        _ if upgrade => Ok(State::Opaque),
        (None, true) => Ok(State::Chunks(Chunk::SIZE)),
        (None | Some(0), false) => Ok(State::Head { searched: 0 }),
        (Some(length), false) => Ok(State::Body(length)),
    }
}

/// Digits and nothing else: no sign, no list, no blanks inside.
fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

impl Chunk {
    const SIZE: Self = Self::Size { size: 0, digits: true, length: 0, cr: false };

    /// Takes bytes in; gives how many, and the state that follows when it is another one.
    fn feed(&mut self, bytes: &[u8]) -> (usize, Option<State>) {
        if let Self::Data(left) = self {
            let part = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
            *left -= part as u64;
            let next = (*left == 0).then_some(State::Chunks(Self::DataEnd { cr: false }));
            return (part, next);
        }
        for (index, byte) in bytes.iter().enumerate() {
            if let Some(next) = self.step(*byte) {
                return (index + 1, Some(next));
            }
        }
        (bytes.len(), None)
    }

    /// What is wrong makes the rest opaque: hyper, which is as strict, ends such a connection itself.
    fn step(&mut self, byte: u8) -> Option<State> {
        let (Self::Size { cr, .. } | Self::DataEnd { cr } | Self::Trailer { cr, .. }) = self else { return None };
        let after_cr = std::mem::replace(cr, byte == b'\r');
        if after_cr != (byte == b'\n') {
            return Some(State::Opaque);
        }
        match self {
            Self::Data(_) => None,
            Self::DataEnd { .. } => match byte {
                b'\r' => None,
                b'\n' => Some(State::Chunks(Self::SIZE)),
                _ => Some(State::Opaque),
            },
            Self::Size { size, digits, length, .. } => {
                *length += 1;
                if byte == b'\n' {
                    let next = match *size {
                        0 => Self::Trailer { line: 0, length: 0, cr: false },
                        size => Self::Data(size),
                    };
                    return Some(State::Chunks(next));
                }
                match char::from(byte).to_digit(16).filter(|_| *digits) {
                    Some(digit) => match size.checked_mul(16) {
                        Some(shifted) => *size = shifted | u64::from(digit),
                        None => return Some(State::Opaque),
                    },
                    None => *digits = false,
                }
                (*length > MAX_CHUNK_LINE).then_some(State::Opaque)
            }
            Self::Trailer { line, length, .. } => {
                *length += 1;
                match byte {
                    b'\n' if *line == 0 => return Some(State::Head { searched: 0 }),
                    b'\n' => *line = 0,
                    b'\r' => {}
                    _ => *line += 1,
                }
                (*length > MAX_HEAD).then_some(State::Opaque)
            }
        }
    }
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
