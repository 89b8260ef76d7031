//! Server-sent events: the same events, however the bytes are cut into pieces.
#![no_main]

use flynn_http::EventParser;

libfuzzer_sys::fuzz_target!(|input: (u8, &[u8])| {
    let (size, bytes) = input;
    let whole = events([bytes].into_iter());
    let pieces = events(bytes.chunks(usize::from(size).max(1)));
    assert_eq!(whole, pieces);
});

/// All events, and whether they ended with an error.
fn events<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<String>, bool) {
    let (mut parser, mut found) = (EventParser::default(), Vec::new());
    for piece in pieces {
        parser.push(piece);
        loop {
            match parser.next_event() {
                Ok(Some(event)) => found.push(format!("{event:?}")),
                Ok(None) => break,
                Err(_) => return (found, true),
            }
        }
    }
    (found, false)
}
