//! What clients send over HTTP/2: no panic, and the same is a flood however the bytes are cut into pieces.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: (u8, &[u8])| {
    let (size, bytes) = input;
    flynn_router::fuzz::http2_frames(bytes, usize::from(size));
});
