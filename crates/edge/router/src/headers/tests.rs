use super::*;
use http::HeaderValue;

fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers
}

fn forwarded(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    forwarded_with(Claims::AddedTo, lines)
}

fn forwarded_with(claims: Claims, lines: &[(&'static str, &'static str)]) -> HeaderMap {
    let via = Via {
        claims,
        client: HeaderValue::from_static("1.2.3.4"),
        proto: HeaderValue::from_static("https"),
        port: HeaderValue::from_static("443"),
    };
    let mut headers = headers(lines);
    let fresh = || HeaderValue::from_static("fresh");
    let id = rewrite_request(&mut headers, &via, 1_700_000_000_123, fresh);
    assert_eq!(headers[X_REQUEST_ID], id);
    headers
}

fn value<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    assert!(headers.get_all(name).iter().count() <= 1, "{name} is one header");
    headers.get(name).map_or("", |value| value.to_str().unwrap())
}

#[test]
fn b3_forwarded_headers_are_appended_in_one_line() {
    let plain = forwarded(&[]);
    assert_eq!(value(&plain, "x-forwarded-for"), "1.2.3.4");
    assert_eq!(value(&plain, "x-forwarded-proto"), "https");
    assert_eq!(value(&plain, "x-forwarded-port"), "443");
    let chained = forwarded(&[
        ("x-forwarded-proto", "fakeproto"),
        ("x-forwarded-port", "8080"),
        ("x-forwarded-for", "9.9.9.9, 8.8.8.8"),
        ("x-forwarded-for", ""),
        ("x-forwarded-for", "7.7.7.7"),
    ]);
    assert_eq!(value(&chained, "x-forwarded-proto"), "fakeproto, https");
    assert_eq!(value(&chained, "x-forwarded-port"), "8080, 443");
    assert_eq!(value(&chained, "x-forwarded-for"), "9.9.9.9, 8.8.8.8, 7.7.7.7, 1.2.3.4");
}

#[test]
fn with_trusted_proxies_their_word_counts_and_nobody_elses() {
    let lines = [("x-forwarded-for", "9.9.9.9"), ("x-forwarded-proto", "http")];
    let values = |claims| {
        let map = forwarded_with(claims, &lines);
        ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-port"].map(|name| value(&map, name).to_owned())
    };
    assert_eq!(values(Claims::AddedTo), ["9.9.9.9, 1.2.3.4", "http, https", "443"]);
    assert_eq!(values(Claims::Believed), ["9.9.9.9", "http", "443"]);
    assert_eq!(values(Claims::Dropped), ["1.2.3.4", "https", "443"]);
}

#[test]
fn b5_the_start_of_a_request_is_ours() {
    assert_eq!(value(&forwarded(&[("x-request-start", "1")]), "x-request-start"), "1700000000123");
}

#[test]
fn b2_b4_unfit_request_ids_are_replaced() {
    let kept = "12345678901234567890";
    assert_eq!(value(&forwarded(&[("x-request-id", kept)]), "x-request-id"), kept);
    assert_eq!(value(&forwarded(&[("x-request-id", "123456789012")]), "x-request-id"), "fresh");
    assert_eq!(value(&forwarded(&[]), "x-request-id"), "fresh");
}

/// Headers of which some are left out, by what `Connection` says.
const HOP: [(&str, &str); 5] = [
    ("another-option", "1"),
    ("custom-conn-header", "2"),
    ("keep-alive", "3"),
    ("transfer-encoding", "chunked"),
    ("upgrade", "4"),
];

#[test]
fn b8_b9_b10_connection_decides_what_stays() {
    let all = ["another-option", "custom-conn-header", "keep-alive", "upgrade"];
    for (connection, left) in [
        (vec![], vec!["another-option", "custom-conn-header", "keep-alive"]),
        (vec!["close"], vec!["another-option", "custom-conn-header", "keep-alive"]),
        (vec!["keep-alive"], vec!["another-option", "custom-conn-header"]),
        (vec!["custom-conn-header"], vec!["another-option", "keep-alive"]),
        (vec!["custom-conn-header,   ,another-option"], vec!["keep-alive"]),
        (vec!["Custom-Conn-Header", "another-option"], vec!["keep-alive"]),
        (vec!["upgrade"], all.to_vec()),
        (vec!["upGrade, custom-Conn-header,   ,Another-option"], all.to_vec()),
    ] {
        let mut lines = HOP.to_vec();
        lines.extend(connection.iter().map(|value| ("connection", *value)));
        let mut response = headers(&lines);
        rewrite_response(&mut response);
        for map in [forwarded(&lines), response] {
            let found: Vec<_> = HOP.iter().map(|(name, _)| *name).filter(|name| map.contains_key(*name)).collect();
            assert_eq!(found, left, "{connection:?}");
            assert_eq!(map.contains_key("connection"), left.len() == 4, "{connection:?}");
        }
    }
}

#[test]
fn nobody_removes_what_says_where_a_message_goes_or_ends() {
    let map =
        forwarded(&[("connection", "host, content-length, x-forwarded-for"), ("host", "h"), ("content-length", "1")]);
    assert!(map.contains_key("host") && map.contains_key("content-length") && map.contains_key("x-forwarded-for"));
}

#[test]
fn b6_b12_other_headers_pass() {
    let lines = [
        ("proxy-authenticate", "a"),
        ("proxy-authorization", "b"),
        ("proxy-connection", "c"),
        ("via", "d"),
        ("forwarded", "e"),
        ("x-forwarded-host", "f"),
        ("trailer", "g"),
        ("expect", "100-continue"),
    ];
    let map = forwarded(&lines);
    for (name, expected) in lines {
        assert_eq!(value(&map, name), expected);
    }
    for name in ["via", "forwarded", "x-forwarded-host", "user-agent", "accept-encoding"] {
        assert!(!forwarded(&[]).contains_key(name), "{name} is not made up");
    }
}

#[test]
fn c11_te_says_only_whether_trailers_are_welcome() {
    assert_eq!(value(&forwarded(&[("te", "gzip, Trailers"), ("connection", "te")]), "te"), "trailers");
    assert_eq!(value(&forwarded(&[("te", "gzip")]), "te"), "");
}

#[test]
fn cookies_of_several_fields_become_one() {
    let mut map = headers(&[("cookie", "a=b"), ("cookie", "c=d")]);
    fold_cookies(&mut map);
    assert_eq!(value(&map, "cookie"), "a=b; c=d");
}
