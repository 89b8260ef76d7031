//! PROXY headers of both versions: no panic, a header is told from its first bytes on, and what we write is what we read.
#![no_main]

use std::net::SocketAddr;

use flynn_router::proxy_protocol::{Parsed, Version, header, parse};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(Parsed::Header { length, source }) = parse(bytes) else { return };
    assert!(length <= bytes.len());
    assert_eq!(parse(&bytes[..length]), Ok(Parsed::Header { length, source }));
    for part in 0..length {
        assert_eq!(parse(&bytes[..part]), Ok(Parsed::Incomplete));
    }
    let Some(source) = source else { return };
    for version in [Version::V1, Version::V2] {
        let ours = header(version, source, SocketAddr::from(([127, 0, 0, 1], 80)));
        let Ok(Parsed::Header { length, source: Some(read) }) = parse(&ours) else { panic!("{ours:?}") };
        assert_eq!((length, read.port()), (ours.len(), source.port()));
        assert_eq!(read.ip().to_canonical(), source.ip().to_canonical());
    }
});
