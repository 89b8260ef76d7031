//! The attach protocol after the 101 response (spec flynn-host section 4.6): frames of a type byte and a payload, all
//! integers big-endian. Pure: bytes in, frames out.

use bytes_reader::Reader;

/// Value of the `Upgrade` header.
pub const PROTOCOL: &str = "flynn-attach/0";

pub const FLAG_STDOUT: u8 = 1;
pub const FLAG_STDERR: u8 = 2;
pub const FLAG_STDIN: u8 = 4;
pub const FLAG_LOGS: u8 = 8;
pub const FLAG_STREAM: u8 = 16;
pub const FLAG_INIT_LOG: u8 = 32;

pub const STREAM_STDIN: u8 = 0;
pub const STREAM_STDOUT: u8 = 1;
pub const STREAM_STDERR: u8 = 2;
pub const STREAM_INIT_LOG: u8 = 3;

/// Texts that clients compare.
pub const ALREADY_ATTACHED: &str = "host: job is attached";
pub const NOT_RUNNING: &str = "host: job not running";
pub const STDIN_CLOSED: &str = "stdin is closed";

/// Longest payload of one data frame that is accepted, in bytes; longer ones end the connection.
pub const MAX_PAYLOAD: usize = 16 << 20;

const SUCCESS: u8 = 0;
const WAITING: u8 = 1;
const ERROR: u8 = 2;
const DATA: u8 = 3;
const SIGNAL: u8 = 4;
const EXIT: u8 = 5;
const RESIZE: u8 = 6;

/// One frame in either direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Server: attached, frames follow.
    Success,
    /// Server: the job does not exist yet; success or error follows.
    Waiting,
    /// Server: then it closes.
    Error(String),
    /// Both: an empty payload ends that stream.
    Data { stream: u8, payload: Vec<u8> },
    /// Client.
    Signal(u32),
    /// Server: the exit status, the last frame.
    Exit(i32),
    /// Client: terminal size in characters.
    Resize { height: u16, width: u16 },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFrame {
    #[error("unknown attach frame type {0}")]
    Type(u8),
    #[error("attach frame of {0} bytes is longer than {MAX_PAYLOAD}")]
    TooLong(usize),
}

impl Frame {
    /// The frame's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Success => out.push(SUCCESS),
            Self::Waiting => out.push(WAITING),
            Self::Error(message) => {
                out.push(ERROR);
                put_bytes(&mut out, message.as_bytes());
            }
            Self::Data { stream, payload } => {
                out.reserve(payload.len() + 6);
                out.extend([DATA, *stream]);
                put_bytes(&mut out, payload);
            }
            Self::Signal(signal) => {
                out.push(SIGNAL);
                out.extend(signal.to_be_bytes());
            }
            Self::Exit(status) => {
                out.push(EXIT);
                out.extend(status.to_be_bytes());
            }
            Self::Resize { height, width } => {
                out.push(RESIZE);
                out.extend(height.to_be_bytes());
                out.extend(width.to_be_bytes());
            }
        }
        out
    }

    /// Takes one frame from the front of `input`: the frame and how many bytes it took, or `None` if more are needed.
    pub fn decode(input: &[u8]) -> Result<Option<(Self, usize)>, InvalidFrame> {
        let mut reader = Reader { input, at: 0 };
        let frame = match Self::read(&mut reader)? {
            Some(frame) => frame,
            None => return Ok(None),
        };
        Ok(Some((frame, reader.at)))
    }

    fn read(reader: &mut Reader<'_>) -> Result<Option<Self>, InvalidFrame> {
        let Some([kind]) = reader.array::<1>() else { return Ok(None) };
        let frame = match kind {
            SUCCESS => Some(Self::Success),
            WAITING => Some(Self::Waiting),
            ERROR => reader.bytes()?.map(|bytes| Self::Error(String::from_utf8_lossy(bytes).into_owned())),
            DATA => match reader.array::<1>() {
                Some([stream]) => reader.bytes()?.map(|bytes| Self::Data { stream, payload: bytes.to_vec() }),
                None => None,
            },
            SIGNAL => reader.array().map(|bytes| Self::Signal(u32::from_be_bytes(bytes))),
            EXIT => reader.array().map(|bytes| Self::Exit(i32::from_be_bytes(bytes))),
            RESIZE => reader.array::<4>().map(|[h1, h2, w1, w2]| Self::Resize {
                height: u16::from_be_bytes([h1, h2]),
                width: u16::from_be_bytes([w1, w2]),
            }),
            other => return Err(InvalidFrame::Type(other)),
        };
        Ok(frame)
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).expect("payloads are made in pieces far below 4 GiB");
    out.extend(len.to_be_bytes());
    out.extend_from_slice(bytes);
}

mod bytes_reader {
    use super::{InvalidFrame, MAX_PAYLOAD};

    pub(super) struct Reader<'a> {
        pub(super) input: &'a [u8],
        pub(super) at: usize,
    }

    impl<'a> Reader<'a> {
        pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
            let bytes = self.input.get(self.at..self.at + N)?;
            self.at += N;
            bytes.try_into().ok()
        }

        /// A length and that many bytes.
        pub(super) fn bytes(&mut self) -> Result<Option<&'a [u8]>, InvalidFrame> {
            let Some(len) = self.array::<4>() else { return Ok(None) };
            let len = u32::from_be_bytes(len) as usize;
            if len > MAX_PAYLOAD {
                return Err(InvalidFrame::TooLong(len));
            }
            let bytes = self.input.get(self.at..self.at + len);
            self.at += bytes.map_or(0, <[u8]>::len);
            Ok(bytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn frames_have_the_bytes_of_the_specification() {
        for (frame, bytes) in [
            (Frame::Success, b"\x00".as_slice()),
            (Frame::Waiting, b"\x01"),
            (Frame::Error("no".into()), b"\x02\x00\x00\x00\x02no"),
            (Frame::Data { stream: 1, payload: vec![] }, b"\x03\x01\x00\x00\x00\x00"),
            (Frame::Data { stream: 0, payload: b"abc".to_vec() }, b"\x03\x00\x00\x00\x00\x03abc"),
            (Frame::Signal(15), b"\x04\x00\x00\x00\x0f"),
            (Frame::Exit(7), b"\x05\x00\x00\x00\x07"),
            (Frame::Exit(-1), b"\x05\xff\xff\xff\xff"),
            (Frame::Resize { height: 24, width: 80 }, b"\x06\x00\x18\x00\x50"),
        ] {
            assert_eq!(frame.encode(), bytes);
            assert_eq!(Frame::decode(bytes), Ok(Some((frame, bytes.len()))));
        }
    }

    #[test]
    fn what_is_no_frame_is_refused_before_its_payload_arrives() {
        assert_eq!(Frame::decode(&[9]), Err(InvalidFrame::Type(9)));
        assert_eq!(Frame::decode(b"\x03\x00\xff\xff\xff\xff"), Err(InvalidFrame::TooLong(u32::MAX as usize)));
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_frame_an_error_or_a_request_for_more(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(Some((frame, used))) = Frame::decode(&bytes) {
                prop_assert!(used <= bytes.len());
                if !matches!(frame, Frame::Error(_)) { // which may replace invalid UTF-8
                    prop_assert_eq!(frame.encode(), &bytes[..used]);
                }
            }
        }

        #[test]
        fn every_prefix_of_a_frame_asks_for_more(payload in proptest::collection::vec(any::<u8>(), 0..64)) {
            let bytes = Frame::Data { stream: 2, payload }.encode();
            for cut in 0..bytes.len() {
                prop_assert_eq!(Frame::decode(&bytes[..cut]), Ok(None));
            }
        }
    }
}
