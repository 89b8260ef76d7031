//! Whatever arrives on port 53: no panic, and what is answered fits the buffer that was asked for.
#![no_main]

libfuzzer_sys::fuzz_target!(|packet: &[u8]| flynn_dns::fuzz_query(packet));
