//! The fuzzer's doors to parsers that are not public.

use std::path::Path;

use crate::guard::{Frames, Scanner};
use crate::route::place;
use crate::source::file;

/// Heads of HTTP/1: the same passes and the same is refused, however the bytes are cut into pieces. Whole lines only: one
/// that is not finished may be refused at once or at its end.
///
/// # Panics
/// When that is not so.
pub fn request_heads(bytes: &[u8], size: usize) {
    let lines = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let bytes = &bytes[..lines];
    let whole = scanned(bytes.len().max(1), bytes);
    assert_eq!(scanned(size.max(1), bytes), whole);
}

/// Bytes that passed, and whether what follows was refused.
fn scanned(size: usize, bytes: &[u8]) -> (usize, bool) {
    let (mut scanner, mut held, mut passed) = (Scanner::default(), Vec::new(), 0);
    for piece in bytes.chunks(size) {
        held.extend_from_slice(piece);
        let scanned = scanner.feed(&held);
        assert!(scanned.cleared <= held.len());
        passed += scanned.cleared;
        held.drain(..scanned.cleared);
        if scanned.refused.is_some() {
            return (passed, true);
        }
    }
    (passed, false)
}

/// Frames of HTTP/2: the same passes, however the bytes are cut into pieces.
///
/// # Panics
/// When that is not so.
pub fn http2_frames(bytes: &[u8], size: usize) {
    assert_eq!(watched(size.max(1), bytes), watched(bytes.len().max(1), bytes));
}

fn watched(size: usize, bytes: &[u8]) -> (usize, bool) {
    let (mut frames, mut held, mut passed) = (Frames::default(), Vec::new(), 0);
    for piece in bytes.chunks(size) {
        held.extend_from_slice(piece);
        let watched = frames.feed(&held);
        passed += watched.cleared;
        held.drain(..watched.cleared);
        if watched.is_flood {
            return (passed, true);
        }
    }
    (passed, false)
}

/// A route file, and what becomes of its routes.
pub fn route_file(bytes: &[u8]) {
    if let Ok(crate::source::Change::Everything { routes, .. }) = file::parse(Path::new("routes.json"), bytes) {
        for route in &routes {
            let _ = place(route);
        }
    }
}
