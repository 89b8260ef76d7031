//! Bodies of the host API, of discoverd and of the router: no panic, and what was read is written and read again as the same.
#![no_main]

use flynn_types::{discoverd, host, image, router};

fn check<T: serde::Serialize + serde::de::DeserializeOwned>(input: &[u8]) {
    let Ok(value) = serde_json::from_slice::<T>(input) else { return };
    let written = serde_json::to_string(&value).expect("wire objects have text keys");
    let again: T = serde_json::from_str(&written).expect("own JSON is good");
    assert_eq!(serde_json::to_string(&again).expect("as above"), written);
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    check::<host::Job>(input);
    check::<host::ActiveJob>(input);
    check::<host::HostStatus>(input);
    check::<host::AttachRequest>(input);
    check::<host::VolumeInfo>(input);
    check::<discoverd::Instance>(input);
    check::<discoverd::ServiceMeta>(input);
    check::<discoverd::Event>(input);
    check::<image::Artifact>(input);
    check::<router::Route>(input);
    check::<router::StreamEvent>(input);
});
