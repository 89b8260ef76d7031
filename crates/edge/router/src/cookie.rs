//! The cookie of sticky routes (spec router section 11.1), as the Go router writes and reads it. Pure but for the nonce.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crypto_secretbox::aead::{Aead as _, KeyInit as _};
use crypto_secretbox::{Key, Nonce, XSalsa20Poly1305};
use http::{HeaderMap, HeaderValue, header};

/// Name of the cookie.
pub const NAME: &str = "_backend";
const NONCE_BYTES: usize = 24;

/// The key that all routers of a cluster share, so that each knows the others' cookies.
#[derive(Clone)]
pub struct CookieKey {
    cipher: XSalsa20Poly1305,
    /// Of which other keys are derived.
    secret: [u8; 32],
}

/// Why a text is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCookieKey {
    #[error("COOKIE_KEY is missing: it must be 32 bytes in standard base64")]
    Missing,
    #[error("COOKIE_KEY is no standard base64")]
    Base64,
    #[error("COOKIE_KEY has {0} bytes, it must have 32")]
    Length(usize),
}

impl std::fmt::Debug for CookieKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CookieKey(…)")
    }
}

impl CookieKey {
    pub fn new(key: &[u8; 32]) -> Self {
        Self { cipher: XSalsa20Poly1305::new(Key::from_slice(key)), secret: *key }
    }

    /// What all routers of the cluster know and nobody else.
    pub(crate) fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// A key that no other router has.
    pub fn random() -> Self {
        Self::new(&rand::random())
    }

    /// Reads the variable `COOKIE_KEY`.
    ///
    /// # Errors
    /// When it is not the base64 of exactly 32 bytes.
    pub fn from_base64(text: &str) -> Result<Self, InvalidCookieKey> {
        if text.is_empty() {
            return Err(InvalidCookieKey::Missing);
        }
        let bytes = STANDARD.decode(text).map_err(|_| InvalidCookieKey::Base64)?;
        let key = bytes.as_slice().try_into().map_err(|_| InvalidCookieKey::Length(bytes.len()))?;
        Ok(Self::new(key))
    }

    /// The value of a cookie that pins to `backend`, with a fresh nonce.
    pub fn seal(&self, backend: SocketAddr) -> String {
        self.seal_with(backend, rand::random())
    }

    fn seal_with(&self, backend: SocketAddr, nonce: [u8; NONCE_BYTES]) -> String {
        let plain = backend.to_string();
        let sealed =
            self.cipher.encrypt(Nonce::from_slice(&nonce), plain.as_bytes()).expect("an address is not too long");
        STANDARD.encode([&nonce[..], &sealed].concat())
    }

    /// The backend that a cookie pins to; `None` for what no router of this cluster wrote.
    pub fn open(&self, value: &str) -> Option<SocketAddr> {
        let bytes = STANDARD.decode(value).ok()?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_BYTES)?;
        let plain = self.cipher.decrypt(Nonce::from_slice(nonce), sealed).ok()?;
        std::str::from_utf8(&plain).ok()?.parse().ok()
    }
}

/// The value of the sticky cookie in a request, not yet opened.
pub fn find(headers: &HeaderMap) -> Option<&str> {
    let lines = headers.get_all(header::COOKIE).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(';')).find_map(|pair| pair.trim().strip_prefix(NAME)?.strip_prefix('='))
}

/// `Set-Cookie` for a value: the browser forgets it when it is closed.
pub fn set_cookie(value: &str) -> HeaderValue {
    HeaderValue::from_str(&format!("{NAME}={value}; Path=/")).expect("base64 is a header value")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> CookieKey {
        CookieKey::new(&std::array::from_fn(|n| n as u8))
    }

    #[test]
    fn e3_cookies_are_those_of_the_go_router() {
        let value = "ZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXp7+qpl9W8dL2BpOTyjuaM7rDOJqecLhv7HhNMUrg+0myg=";
        let backend: SocketAddr = "100.100.4.7:8080".parse().unwrap();
        assert_eq!(key().open(value), Some(backend));
        assert_eq!(key().seal_with(backend, std::array::from_fn(|n| 100 + n as u8)), value);
        assert_ne!(key().seal(backend), key().seal(backend), "each cookie has its own nonce");
        assert_eq!(key().open(&key().seal(backend)), Some(backend));
    }

    #[test]
    fn e3_what_another_wrote_is_no_cookie() {
        let foreign = CookieKey::random().seal("10.0.0.1:80".parse().unwrap());
        for value in ["", "x", "====", "AAAA", &foreign] {
            assert_eq!(key().open(value), None, "{value}");
        }
    }

    #[test]
    fn the_cookie_is_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=b; _backendx=no"));
        assert_eq!(find(&headers), None);
        headers.append(header::COOKIE, HeaderValue::from_static("c=d;_backend=abc=; e=f"));
        assert_eq!(find(&headers), Some("abc="));
    }

    #[test]
    fn l1_a_key_is_32_bytes_of_base64() {
        let error = |text: &str| CookieKey::from_base64(text).unwrap_err();
        assert_eq!(error(""), InvalidCookieKey::Missing);
        assert_eq!(error("???"), InvalidCookieKey::Base64);
        assert_eq!(error(&STANDARD.encode([0; 31])), InvalidCookieKey::Length(31));
        assert!(CookieKey::from_base64(&STANDARD.encode([0; 32])).is_ok());
        assert!(error("").to_string().contains("COOKIE_KEY"));
    }

    proptest::proptest! {
        #[test]
        fn no_value_upsets_the_key(value in ".*") {
            proptest::prop_assert_eq!(key().open(&value), None);
        }
    }
}
