//! Route files: no panic, and what becomes of their routes is decided.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| flynn_router::fuzz::route_file(bytes));
