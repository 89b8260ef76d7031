//! The optional key of the host API (spec flynn-host section 4.2).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use flynn_http::Failure;
use flynn_types::error::{ApiError, ErrorCode};

use crate::host::Host;

/// Requests without a valid key that one address may send in [`WINDOW`].
const UNAUTHENTICATED: u32 = 100;
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses that are counted at once; beyond it the counts begin anew.
const ADDRESSES: usize = 10_000;

/// Counts failures per address in fixed windows.
#[derive(Debug, Default)]
pub(crate) struct FailureLimit {
    windows: Mutex<HashMap<IpAddr, (Instant, u32)>>,
}

impl FailureLimit {
    /// Counts one more; `false` when it is one too many.
    fn admit(&self, address: IpAddr, now: Instant) -> bool {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        if windows.len() >= ADDRESSES {
            windows.retain(|_, (began, _)| now.duration_since(*began) < WINDOW);
            if windows.len() >= ADDRESSES {
                windows.clear();
            }
        }
        let (began, count) = windows.entry(address).or_insert((now, 0));
        if now.duration_since(*began) >= WINDOW {
            (*began, *count) = (now, 0);
        }
        *count += 1;
        *count <= UNAUTHENTICATED
    }
}

/// Refuses requests without the key, when one is configured.
pub(super) async fn require_key(State(host): State<Arc<Host>>, request: Request, next: Next) -> Response {
    let Some(key) = host.auth_key() else { return next.run(request).await };
    if presented(request.headers()).is_some_and(|given| equal(given.as_bytes(), key.as_bytes())) {
        return next.run(request).await;
    }
    let address = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    let admitted = address.is_none_or(|address| host.failures().admit(address, Instant::now()));
    if !admitted {
        let error =
            ApiError::new(ErrorCode::RateLimited, "too many requests without a valid key, try again in a minute");
        return Failure::from(error.retryable()).into_response();
    }
    let mut response = Failure::from(ApiError::new(ErrorCode::Unauthorized, "authentication required")).into_response();
    let challenge = HeaderValue::from_static("Basic realm=\"flynn-host\"");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    response
}

/// The key in `Auth-Key`, or the password of HTTP Basic.
fn presented(headers: &HeaderMap) -> Option<String> {
    if let Some(key) = headers.get("auth-key") {
        return key.to_str().ok().map(str::to_owned);
    }
    let basic = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Basic ")?;
    let decoded = String::from_utf8(base64::prelude::BASE64_STANDARD.decode(basic.trim()).ok()?).ok()?;
    decoded.split_once(':').map(|(_, password)| password.to_owned())
}

/// Compares in a time that depends on the lengths only.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (x, y)| differs | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_101st_failure_within_a_minute_is_one_too_many() {
        let (limit, now) = (FailureLimit::default(), Instant::now());
        let (one, other) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        assert!((0..UNAUTHENTICATED).all(|_| limit.admit(one, now)));
        assert!(!limit.admit(one, now) && limit.admit(other, now));
        assert!(limit.admit(one, now + WINDOW));
    }

    #[test]
    fn the_key_comes_as_a_header_or_as_a_password() {
        let headers = |name: &'static str, value: &'static str| {
            HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_static(value))])
        };
        assert_eq!(presented(&headers("auth-key", "k")), Some("k".into()));
        assert_eq!(presented(&headers("authorization", "Basic OnNlY3JldA==")), Some("secret".into()));
        assert_eq!(presented(&headers("authorization", "Bearer x")), None);
        assert!(equal(b"a", b"a") && !equal(b"a", b"b") && !equal(b"a", b"aa"));
    }
}
