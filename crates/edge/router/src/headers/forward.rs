//! Rewriting for the next hop.

use bytes::{BufMut as _, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    X_FORWARDED_FOR, X_FORWARDED_PORT, X_FORWARDED_PROTO, X_REQUEST_ID, X_REQUEST_START, connection_tokens,
    is_acceptable_request_id, wants_upgrade,
};

const TRAILERS: HeaderName = HeaderName::from_static("trailers");

/// What is told about the way a client came, made once for each connection.
#[derive(Clone, Debug)]
pub(crate) struct Via {
    /// The client's address without a port.
    pub(crate) client: HeaderValue,
    /// `http` or `https`
    pub(crate) proto: HeaderValue,
    /// The router's port.
    pub(crate) port: HeaderValue,
    pub(crate) claims: Claims,
}

/// What becomes of `X-Forwarded-*` that a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claims {
    /// Ours is added to it.
    AddedTo,
    /// The client is a proxy whose word counts: it stays as it is, and ours is for what it does not say.
    Believed,
    /// Ours takes its place.
    Dropped,
}

/// Turns a client's headers into those that the backend gets.
///
/// `fresh_id` makes a request id where the client has sent none that is acceptable; the id in use is returned.
pub(crate) fn rewrite_request(
    headers: &mut HeaderMap,
    via: &Via,
    unix_ms: u64,
    fresh_id: impl FnOnce() -> HeaderValue,
) -> HeaderValue {
    let takes_trailers = headers.contains_key(TE) && takes_trailers(headers);
    strip_hop_by_hop(headers);
    if takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    for (name, value) in
        [(X_FORWARDED_FOR, &via.client), (X_FORWARDED_PROTO, &via.proto), (X_FORWARDED_PORT, &via.port)]
    {
        match via.claims {
            Claims::AddedTo => append(headers, name, value),
            Claims::Believed if headers.contains_key(&name) => {}
            Claims::Believed | Claims::Dropped => {
                headers.insert(name, value.clone());
            }
        }
    }
    headers.insert(X_REQUEST_START, HeaderValue::from(unix_ms));
    let id = match headers.get(&X_REQUEST_ID) {
        Some(id) if is_acceptable_request_id(id.as_bytes()) => return id.clone(),
        _ => fresh_id(),
    };
    headers.insert(X_REQUEST_ID, id.clone());
    id
}

/// Turns a backend's headers into those that the client gets.
pub(crate) fn rewrite_response(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    headers.remove(TE);
}

/// Removes what was meant for this hop only. The headers of an upgrade stay as they are but for the framing.
fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let upgrade = wants_upgrade(headers);
    if !upgrade {
        if headers.contains_key(CONNECTION) {
            let named: Vec<HeaderName> = connection_tokens(headers)
                .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
                // Who could have these removed could change where the message goes or ends.
                .filter(|name| *name != HOST && *name != CONTENT_LENGTH)
                .collect();
            for name in named {
                headers.remove(name);
            }
            headers.remove(CONNECTION);
        }
        headers.remove(UPGRADE);
    }
    headers.remove(TE);
    headers.remove(TRAILERS);
    headers.remove(TRANSFER_ENCODING);
}

fn takes_trailers(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(TE).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|token| token.trim().eq_ignore_ascii_case("trailers"))
}

/// Adds to a list that is one header, whatever it was before.
fn append(headers: &mut HeaderMap, name: HeaderName, value: &HeaderValue) {
    let joined = join(headers, &name, b", ", Some(value));
    headers.insert(name, joined.unwrap_or_else(|| value.clone()));
}

/// HTTP/2 sends cookies in as many fields as it likes; backends know one.
pub(crate) fn fold_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_some()
        && let Some(joined) = join(headers, &COOKIE, b"; ", None)
    {
        headers.insert(COOKIE, joined);
    }
}

/// All values of a header and one more in one; `None` without such a header.
fn join(headers: &HeaderMap, name: &HeaderName, by: &[u8], last: Option<&HeaderValue>) -> Option<HeaderValue> {
    if !headers.contains_key(name) {
        return None;
    }
    let mut joined = BytesMut::new();
    for value in headers.get_all(name).iter().chain(last) {
        if value.is_empty() {
            continue;
        }
        if !joined.is_empty() {
            joined.put_slice(by);
        }
        joined.put_slice(value.as_bytes());
    }
    HeaderValue::from_maybe_shared(joined.freeze()).ok()
}
