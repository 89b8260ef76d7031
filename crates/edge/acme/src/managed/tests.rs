use super::*;

/// The format of version 1, with everything in it: what one version writes, the next one reads.
const GOLDEN: &str = r#"{"id":"5f2c","domain":"a.example.com","issued":{"chain":"C","key":"SECRET","not_before":"2026-05-01T10:00:00Z","not_after":"2026-07-30T10:00:00Z","directory":"https://ca/dir","challenge":"http-01"},"order":{"directory":"https://ca/dir","url":"https://ca/order/1","key":"SECRET","challenge":"tls-alpn-01"},"failure":{"count":2,"last_error":"the name does not resolve","problem":"urn:ietf:params:acme:error:dns","last_error_at":"2026-07-01T10:00:00Z","retry_at":"2026-07-01T10:10:00Z","refused":["http-01"]},"created_at":"2026-05-01T10:00:00Z","updated_at":"2026-07-01T10:00:00Z"}"#;

#[test]
fn a_record_keeps_its_format() {
    let managed: Managed = serde_json::from_str(GOLDEN).unwrap();
    assert_eq!(serde_json::to_string(&managed).unwrap(), GOLDEN);
}

#[test]
fn keys_are_not_printed() {
    let managed: Managed = serde_json::from_str(GOLDEN).unwrap();
    assert!(!format!("{managed:?}").contains("SECRET"));
}

#[test]
fn the_api_sees_where_a_certificate_stands() {
    let full: Managed = serde_json::from_str(GOLDEN).unwrap();
    let wire = ManagedCertificate::from(&full);
    assert_eq!((&*wire.domain, &*wire.cert, &*wire.last_error), ("a.example.com", "C", "the name does not resolve"));
    assert_eq!((&*wire.errors[0].kind, &*wire.order_url), ("urn:ietf:params:acme:error:dns", "https://ca/order/1"));
    for (change, status) in [
        (full.clone(), ManagedCertificateStatus::Renewing),
        (Managed { order: None, ..full.clone() }, ManagedCertificateStatus::Issued),
        (Managed { issued: None, ..full.clone() }, ManagedCertificateStatus::Pending),
        (Managed { issued: None, order: None, ..full.clone() }, ManagedCertificateStatus::Failed),
        (Managed { issued: None, order: None, failure: None, ..full }, ManagedCertificateStatus::Pending),
    ] {
        assert_eq!(change.status(), status);
    }
}
