//! Names that a certificate can be ordered for.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A DNS name in lower case without a final dot, as `shop.example.com`. Fit for the name of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Domain(Arc<str>);

/// Why no certificate can be ordered for a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDomain {
    #[error(
        "{0:?} is a wildcard, for which authorities demand a DNS challenge that is not offered: give the route a certificate"
    )]
    Wildcard(String),
    #[error("{0:?} is an address: give the route a certificate, or name a domain")]
    Address(String),
    #[error("{0:?} is no DNS name of at least two labels")]
    Name(String),
}

impl Domain {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Domain {
    type Err = InvalidDomain;

    fn from_str(text: &str) -> Result<Self, InvalidDomain> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if name.starts_with("*.") || name == "*" {
            return Err(InvalidDomain::Wildcard(text.to_owned()));
        }
        if name.parse::<IpAddr>().is_ok() {
            return Err(InvalidDomain::Address(text.to_owned()));
        }
        let labels = name.split('.').count();
        if labels < 2 || name.len() > 253 || !name.split('.').all(is_label) {
            return Err(InvalidDomain::Name(text.to_owned()));
        }
        Ok(Self(name.into()))
    }
}

/// Letters, digits and inner hyphens (RFC 1123 section 2.1), at most 63.
fn is_label(label: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    !label.is_empty()
        && label.len() <= 63
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(inner)
}

impl TryFrom<String> for Domain {
    type Error = InvalidDomain;

    fn try_from(text: String) -> Result<Self, InvalidDomain> {
        text.parse()
    }
}

impl From<Domain> for String {
    fn from(domain: Domain) -> Self {
        domain.0.as_ref().to_owned()
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_canonical() {
        assert_eq!("Shop.Example.COM.".parse::<Domain>().unwrap().as_str(), "shop.example.com");
        assert_eq!("xn--bcher-kva.example".parse::<Domain>().unwrap().as_str(), "xn--bcher-kva.example");
    }

    #[test]
    fn what_no_authority_certifies_this_way_is_refused_with_a_reason() {
        for (text, reason) in [
            ("*.example.com", "wildcard"),
            ("*", "wildcard"),
            ("10.0.0.1", "address"),
            ("::1", "address"),
            ("localhost", "DNS name"),
            ("", "DNS name"),
            ("a..b", "DNS name"),
            ("a_b.c", "DNS name"),
            ("-a.b", "DNS name"),
            ("../a.b", "DNS name"),
            ("bücher.example", "DNS name"),
        ] {
            let err = text.parse::<Domain>().unwrap_err().to_string();
            assert!(err.contains(reason), "{text}: {err}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_domain_is_a_safe_file_name(text in ".*") {
            if let Ok(domain) = text.parse::<Domain>() {
                let name = domain.as_str();
                proptest::prop_assert!(!name.starts_with('.') && !name.contains('/') && name.is_ascii());
                proptest::prop_assert_eq!(name.parse::<Domain>().unwrap(), domain);
            }
        }
    }
}
