//! What a route says about HTTPS: redirects to it, and the header that makes browsers keep to it. Pure.

use flynn_acme::challenge::HTTP_PATH;
use flynn_types::router::Hsts;
use http::{HeaderName, HeaderValue};

pub(crate) const STRICT_TRANSPORT_SECURITY: HeaderName = HeaderName::from_static("strict-transport-security");

/// The value of the header (RFC 6797 section 6.1).
pub(crate) fn hsts(hsts: &Hsts) -> HeaderValue {
    let subdomains = if hsts.include_subdomains { "; includeSubDomains" } else { "" };
    let preload = if hsts.preload { "; preload" } else { "" };
    let text = format!("max-age={}{subdomains}{preload}", hsts.max_age);
    HeaderValue::from_str(&text).expect("numbers and words are a header value")
}

/// Where a request that came in clear should have gone; `None` for what stays in clear: challenges of authorities, also of
/// those that an app answers itself, and hosts that make no URL.
///
/// `host` is as the client wrote it. A port in it means that the client does not use the usual ones: `https_port` is the
/// router's own then.
pub(crate) fn redirect(host: &str, path_and_query: &str, https_port: u16) -> Option<HeaderValue> {
    if path_and_query.starts_with(HTTP_PATH) {
        return None;
    }
    let (name, has_port) = match host.rfind(':').filter(|colon| !host[*colon..].contains(']')) {
        Some(colon) => (&host[..colon], true),
        None => (host, false),
    };
    let port = if has_port && https_port != 443 { format!(":{https_port}") } else { String::new() };
    let is_sound = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:[]%".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_sound) {
        return None;
    }
    let path = if path_and_query.starts_with('/') { path_and_query } else { "/" };
    HeaderValue::from_str(&format!("https://{name}{port}{path}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_keeps_host_path_and_query() {
        for (host, path, port, to) in [
            ("a.org", "/x/y?z=1&y=%20", 443, Some("https://a.org/x/y?z=1&y=%20")),
            ("a.org", "/", 4433, Some("https://a.org/")),
            ("a.org:80", "/", 443, Some("https://a.org/")),
            ("a.org:8080", "/x", 4433, Some("https://a.org:4433/x")),
            ("[::1]:8080", "/", 4433, Some("https://[::1]:4433/")),
            ("[::1]", "/", 4433, Some("https://[::1]/")),
            ("a.org", "*", 443, Some("https://a.org/")),
            ("a.org", "/.well-known/acme-challenge/t", 443, None),
            ("", "/", 443, None),
            ("a.org/evil", "/", 443, None),
            ("a.org@evil", "/", 443, None),
            ("a b", "/", 443, None),
        ] {
            let found = redirect(host, path, port);
            assert_eq!(found.as_ref().map(|to| to.to_str().unwrap()), to, "{host}{path}");
        }
    }

    #[test]
    fn the_header_says_what_the_route_says() {
        let all = Hsts { max_age: 31_536_000, include_subdomains: true, preload: true };
        assert_eq!(hsts(&all), "max-age=31536000; includeSubDomains; preload");
        assert_eq!(hsts(&Hsts { max_age: 0, ..Hsts::default() }), "max-age=0");
    }
}
