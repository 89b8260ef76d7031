//! Cookies of clients: no panic, and nothing opens that we did not seal.
#![no_main]

use flynn_router::{CookieKey, cookie};
use http::{HeaderMap, HeaderValue, header};

libfuzzer_sys::fuzz_target!(|lines: Vec<&[u8]>| {
    let mut headers = HeaderMap::new();
    for line in lines.iter().take(100) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(header::COOKIE, value);
        }
    }
    if let Some(value) = cookie::find(&headers) {
        assert_eq!(CookieKey::new(&[7; 32]).open(value), None);
    }
    for line in lines {
        let _ = CookieKey::from_base64(&String::from_utf8_lossy(line));
    }
});
