//! Which fields may come behind a body.

use http::HeaderMap;

/// Fields that say how a message is framed or routed, who sends it, or how it is to be read, and that a recipient who
/// merges trailers with headers would believe (RFC 9110 section 6.5.1).
const FORBIDDEN: [&str; 24] = [
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "max-forwards",
    "proxy-authorization",
    "proxy-connection",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-for",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-request-id",
    "x-request-start",
];

/// Drops what is no trailer.
pub(crate) fn strip_trailers(trailers: &mut HeaderMap) {
    for name in FORBIDDEN {
        trailers.remove(name);
    }
}
