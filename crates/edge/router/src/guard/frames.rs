//! Watches the frames of an HTTP/2 client for floods of such as cost it nothing and us time. Pure.
//!
//! The h2 crate below hyper limits header blocks and what is queued, and answers all else for ever. A client gets credit
//! for frames without content by time and by what it does besides, so that one that works is never stopped.

use std::time::Duration;

/// What a client's connection begins with (RFC 9113 section 3.4).
const PREFACE: usize = 24;
/// Bytes of a frame's head.
pub(super) const HEAD: usize = 9;

/// Kinds of frames (RFC 9113 section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Looks at what a client sends.
#[derive(Debug)]
pub(crate) struct Frames {
    /// Bytes of the preface or of a frame's payload that are to come.
    left: usize,
    /// Between the frames of a header block, where h2 allows nothing else.
    in_block: bool,
    /// Pings, settings, priorities, empty data and unknown frames.
    control: Credit,
    windows: Credit,
    resets: Credit,
}

/// Frames that may come for nothing.
#[derive(Debug)]
struct Credit {
    /// In thousandths of a frame.
    left: u64,
    most: u64,
    per_ms: u64,
}

impl Credit {
    const fn new(burst: u64, per_second: u64) -> Self {
        Self { left: burst * 1000, most: burst * 1000, per_ms: per_second }
    }

    fn add(&mut self, thousandths: u64) {
        self.left = self.left.saturating_add(thousandths).min(self.most);
    }

    fn spend(&mut self) -> bool {
        let enough = self.left >= 1000;
        self.left = self.left.saturating_sub(1000);
        enough
    }
}

/// What became of the bytes that were fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Watched {
    /// So many of them may pass on; behind them is a frame's head that is not there completely, or a flood.
    pub(crate) cleared: usize,
    pub(crate) is_flood: bool,
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            left: PREFACE,
            in_block: false,
            control: Credit::new(1000, 50),
            windows: Credit::new(10_000, 500),
            resets: Credit::new(500, 20),
        }
    }
}

impl Frames {
    /// Time has passed, and so many bytes were sent to the client.
    pub(crate) fn earn(&mut self, passed: Duration, sent: u64) {
        let ms = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        for credit in [&mut self.control, &mut self.windows, &mut self.resets] {
            credit.add(ms.saturating_mul(credit.per_ms));
        }
        // A frame for each 1 KiB, and one that opens a window for each 16 bytes: clients answer even tiny pieces so.
        self.control.add(sent);
        self.windows.add(sent.saturating_mul(62));
    }

    /// Looks at the bytes that follow those cleared so far.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Watched {
        let mut cleared = 0;
        loop {
            let part = self.left.min(bytes.len() - cleared);
            self.left -= part;
            cleared += part;
            let Some(head) = bytes[cleared..].first_chunk::<HEAD>() else {
                return Watched { cleared, is_flood: false };
            };
            if self.is_flood(head) {
                return Watched { cleared, is_flood: true };
            }
            self.left = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            cleared += HEAD;
        }
    }

    fn is_flood(&mut self, head: &[u8; HEAD]) -> bool {
        let (is_empty, kind, flags) = (head[..3] == [0; 3], head[3], head[4]);
        let was_in_block =
            std::mem::replace(&mut self.in_block, matches!(kind, HEADERS | CONTINUATION) && flags & END_HEADERS == 0);
        let has_credit = match kind {
            // What is wrong within a header block is h2's to find, and floods of its parts, too.
            _ if was_in_block => true,
            CONTINUATION => true,
            HEADERS => {
                // Half of all requests may be called off, whatever their number.
                self.resets.add(500);
                true
            }
            DATA if !is_empty || flags & END_STREAM != 0 => {
                self.control.add(500);
                true
            }
            RST_STREAM => self.resets.spend(),
            WINDOW_UPDATE => self.windows.spend(),
            _ => self.control.spend(),
        };
        !has_credit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], &vec![0; payload]].concat()
    }

    fn begun() -> Frames {
        let mut frames = Frames::default();
        assert_eq!(frames.feed(&[7; PREFACE]), Watched { cleared: PREFACE, is_flood: false });
        frames
    }

    /// How many of these in a row it takes until they are a flood.
    fn until_flood(each: &[Vec<u8>], pause: Duration) -> Option<usize> {
        let mut frames = begun();
        for count in 0..100_000 {
            frames.earn(pause, 0);
            for frame in each {
                if frames.feed(frame).is_flood {
                    return Some(count);
                }
            }
        }
        None
    }

    #[test]
    fn floods_of_what_costs_nothing_are_seen() {
        let none = Duration::ZERO;
        for (name, frame, count) in [
            ("ping", frame(6, 0, 8), 1000),
            ("settings", frame(4, 0, 6), 1000),
            ("priority", frame(2, 0, 5), 1000),
            ("empty data", frame(0, 0, 0), 1000),
            ("unknown", frame(99, 0, 0), 1000),
            ("window", frame(8, 0, 4), 10_000),
            ("reset", frame(3, 0, 4), 500),
        ] {
            assert_eq!(until_flood(&[frame], none), Some(count), "{name}");
        }
        let rapid_reset = [frame(HEADERS, END_HEADERS, 10), frame(RST_STREAM, 0, 4)];
        assert_eq!(until_flood(&rapid_reset, none), Some(999));
    }

    #[test]
    fn clients_that_work_are_never_stopped() {
        let none = Duration::ZERO;
        let request = frame(HEADERS, END_HEADERS | END_STREAM, 10);
        assert_eq!(until_flood(&[request.clone(), request.clone(), frame(RST_STREAM, 0, 4)], none), None);
        assert_eq!(until_flood(&[frame(DATA, 0, 5), frame(DATA, 0, 5), frame(6, 0, 8)], none), None);
        assert_eq!(until_flood(&[frame(6, 0, 8)], Duration::from_millis(20)), None);
        assert_eq!(until_flood(&[request, frame(DATA, END_STREAM, 0)], none), None);
        let mut frames = begun();
        for _ in 0..100_000 {
            // Two windows for each small piece of a response.
            frames.earn(Duration::ZERO, 40);
            assert!(!frames.feed(&[frame(8, 0, 4), frame(8, 0, 4)].concat()).is_flood);
        }
    }

    proptest::proptest! {
        #[test]
        fn pieces_are_as_good_as_the_whole(
            kinds in proptest::collection::vec((0..12_u8, 0..8_u8, 0..40_usize), 0..60),
            size in 1..50_usize,
        ) {
            let bytes: Vec<u8> = kinds.iter().flat_map(|(kind, flags, payload)| frame(*kind, *flags, *payload)).collect();
            let mut pieces = begun();
            let mut held = Vec::new();
            for piece in bytes.chunks(size) {
                held.extend_from_slice(piece);
                let watched = pieces.feed(&held);
                proptest::prop_assert!(!watched.is_flood);
                held.drain(..watched.cleared);
                proptest::prop_assert!(held.len() < HEAD);
            }
            proptest::prop_assert!(held.is_empty());
        }
    }
}
