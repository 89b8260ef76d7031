//! What clients send over HTTP/1: no panic, and the same is refused however the bytes are cut into pieces.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: (u8, &[u8])| {
    let (size, bytes) = input;
    flynn_router::fuzz::request_heads(bytes, usize::from(size));
});
