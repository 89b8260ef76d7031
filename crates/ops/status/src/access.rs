//! Who may know how the cluster is (spec operations section 13.1).

use std::net::IpAddr;

use base64::Engine as _;
use http::{HeaderMap, header};
use ipnet::IpNet;

/// Networks whose addresses need no key: private ones and those for documentation, as in the Go implementation.
const PRIVATE: [&str; 10] = [
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "127.0.0.0/8",
    "fd00::/8",
    "::1/128",
    "192.0.2.0/24",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "100.64.0.0/10",
];

#[derive(Clone, Debug)]
pub(crate) struct Access {
    /// Without one, everybody may.
    key: Option<String>,
    private: Vec<IpNet>,
}

impl Access {
    pub(crate) fn new(key: Option<String>) -> Self {
        Self { key, private: PRIVATE.iter().filter_map(|network| network.parse().ok()).collect() }
    }

    /// Whether a request may be answered. Routers append the client's address to `X-Forwarded-For`.
    pub(crate) fn allows(&self, peer: IpAddr, headers: &HeaderMap, query: Option<&str>) -> bool {
        let Some(key) = &self.key else { return true };
        let Some(address) = client(peer, headers) else {
            return key_of(headers, query).is_some_and(|got| same(&got, key));
        };
        self.private.iter().any(|network| network.contains(&address))
            || key_of(headers, query).is_some_and(|got| same(&got, key))
    }
}

/// `None` when the header does not tell an address.
fn client(peer: IpAddr, headers: &HeaderMap) -> Option<IpAddr> {
    let forwarded = headers.get_all("x-forwarded-for").iter().next_back();
    let Some(forwarded) = forwarded else { return Some(peer.to_canonical()) };
    let last = forwarded.to_str().ok()?.rsplit(',').next()?.trim();
    Some(last.parse::<IpAddr>().ok()?.to_canonical())
}

/// The password of Basic authentication, or the parameter `key`.
fn key_of(headers: &HeaderMap, query: Option<&str>) -> Option<String> {
    password(headers).or_else(|| {
        let mut pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        pairs.find(|(name, _)| name == "key").map(|(_, value)| value.into_owned())
    })
}

fn password(headers: &HeaderMap) -> Option<String> {
    let encoded = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Basic ")?;
    let decoded = base64::prelude::BASE64_STANDARD.decode(encoded.trim()).ok()?;
    String::from_utf8(decoded).ok()?.split_once(':').map(|(_, password)| password.to_owned())
}

fn same(one: &str, other: &str) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(one.as_bytes(), other.as_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn all_private_networks_are_networks() {
        assert_eq!(Access::new(None).private.len(), PRIVATE.len());
    }

    #[test]
    fn g4_private_addresses_need_no_key_and_others_do() {
        let access = Access::new(Some("secret".to_owned()));
        let basic = |key: &str| format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(key));
        for (peer, forwarded, authorization, query, allowed) in [
            ("10.1.2.3", None, None, None, true),
            ("::ffff:10.1.2.3", None, None, None, true),
            ("8.8.8.8", None, None, None, false),
            ("8.8.8.8", None, Some(basic(":secret")), None, true),
            ("8.8.8.8", None, Some(basic("me:secret")), None, true),
            ("8.8.8.8", None, Some(basic("me:wrong")), Some("key=secret"), false),
            ("8.8.8.8", None, Some("Basic ?".to_owned()), Some("a=b&key=secret"), true),
            ("8.8.8.8", None, None, Some("key=wrong"), false),
            ("8.8.8.8", None, None, Some("key="), false),
            // Through the router.
            ("10.1.2.3", Some("8.8.8.8"), None, None, false),
            ("10.1.2.3", Some("10.9.9.9, 8.8.8.8"), None, None, false),
            ("10.1.2.3", Some("8.8.8.8, 192.168.1.1"), None, None, true),
            ("10.1.2.3", Some("8.8.8.8"), None, Some("key=secret"), true),
            ("10.1.2.3", Some("unknown"), None, None, false),
            ("10.1.2.3", Some(""), None, None, false),
            ("fd00::1", None, None, None, true),
            ("2001:db8::1", None, None, None, false),
            ("100.127.0.1", None, None, None, true),
        ] {
            let mut headers = HeaderMap::new();
            let values = [("x-forwarded-for", forwarded.map(str::to_owned)), ("authorization", authorization)];
            for (name, value) in values.into_iter().filter_map(|(name, value)| Some((name, value?))) {
                headers.insert(name, HeaderValue::from_str(&value).unwrap());
            }
            assert_eq!(access.allows(peer.parse().unwrap(), &headers, query), allowed, "{peer} {headers:?} {query:?}");
        }
        assert!(Access::new(None).allows("8.8.8.8".parse().unwrap(), &HeaderMap::new(), None));
    }
}
