//! Stands between a client's connection and hyper: passes on only request heads that are sound, and limits idle time.

mod conversation;
mod crowd;
mod frames;
mod http2;
mod io;
mod linger;
mod scan;
mod stall;

pub(crate) use conversation::{Busy, Conversation};
pub(crate) use crowd::Crowd;
pub(crate) use http2::GuardedHttp2;
pub(crate) use io::Guarded;
pub(crate) use scan::{MAX_FIELDS, MAX_HEAD};
#[cfg(fuzzing)]
pub(crate) use {frames::Frames, scan::Scanner};

/// Why a request is refused before anybody looks at what it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// HTTP/1.1 demands a `Host`.
    NoHost,
    Malformed(&'static str),
    HeadTooLarge,
}

/// Method of the stand-in for a refused request.
///
/// hyper gets it in place of the refused head, so that the refusal is answered in the request's turn, by the same code as
/// all else. No client can send it: the scanner refuses it.
pub(crate) const REFUSED_METHOD: &str = "FLYNN-REFUSED";

/// The head that hyper gets instead of a refused one.
const STAND_IN: &[u8] = b"FLYNN-REFUSED / HTTP/1.1\r\nhost: refused\r\n\r\n";
