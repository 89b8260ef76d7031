//! Certificates and keys as users paste them: no panic.
#![no_main]

use flynn_router::DefaultCertificate;

libfuzzer_sys::fuzz_target!(|input: (&str, &str)| {
    let (chain, key) = input;
    let _ = DefaultCertificate::from_pem(chain, key);
    // Most find their way deeper with one text for both.
    let both = format!("{chain}\n{key}");
    let _ = DefaultCertificate::from_pem(&both, &both);
});
