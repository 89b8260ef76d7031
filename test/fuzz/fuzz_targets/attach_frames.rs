//! Frames of an attach stream: no panic, and what was decoded encodes to the bytes it came from.
#![no_main]

use flynn_types::host::attach::Frame;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    while let Ok(Some((frame, used))) = Frame::decode(rest) {
        assert!(used > 0 && used <= rest.len());
        let encoded = frame.encode();
        let (again, _) = Frame::decode(&encoded).expect("own frames are good").expect("own frames are whole");
        assert_eq!(again, frame);
        rest = &rest[used..];
    }
});
