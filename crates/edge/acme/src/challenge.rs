//! What routers answer to an authority that verifies a domain.

use std::fmt;

use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::domain::Domain;
use crate::managed::KeyPem;

/// Path of HTTP-01 answers, before the token (RFC 8555 section 8.3).
pub const HTTP_PATH: &str = "/.well-known/acme-challenge/";
/// Protocol that authorities ask for by ALPN (RFC 8737 section 4).
pub const ALPN: &[u8] = b"acme-tls/1";

/// How a domain is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ChallengeKind {
    /// A text at a path on port 80 (RFC 8555 section 8.3).
    #[serde(rename = "http-01")]
    Http01,
    /// A certificate on port 443 (RFC 8737).
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
}

impl fmt::Display for ChallengeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http01 => "http-01",
            Self::TlsAlpn01 => "tls-alpn-01",
        })
    }
}

impl std::str::FromStr for ChallengeKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "http-01" => Ok(Self::Http01),
            "tls-alpn-01" => Ok(Self::TlsAlpn01),
            _ => Err(format!("{text:?} is no challenge: it must be http-01 or tls-alpn-01")),
        }
    }
}

/// A challenge that is pending: an authority may ask any router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    pub domain: Domain,
    pub kind: ChallengeKind,
    pub token: String,
    /// The token and the thumbprint of the account's key (RFC 8555 section 8.1).
    pub key_authorization: String,
}

impl Challenge {
    /// The certificate that answers TLS-ALPN-01, with its key. Each call makes another one, and any is right.
    ///
    /// # Errors
    /// When the provider of cryptography makes no key.
    pub fn certificate(&self) -> Result<(String, KeyPem), rcgen::Error> {
        let digest = Sha256::digest(self.key_authorization.as_bytes());
        let mut params = CertificateParams::new(vec![self.domain.to_string()])?;
        params.distinguished_name = DistinguishedName::new();
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(&digest)];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        Ok((certificate.pem(), KeyPem::new(key.serialize_pem())))
    }
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject as _;

    use super::*;

    #[test]
    fn the_answer_by_certificate_is_that_of_rfc_8737() {
        let domain: Domain = "a.example.com".parse().unwrap();
        let kind = ChallengeKind::TlsAlpn01;
        let challenge = Challenge { domain, kind, token: "t".into(), key_authorization: "t.thumb".into() };
        let (chain, _) = challenge.certificate().unwrap();
        let der = CertificateDer::from_pem_slice(chain.as_bytes()).unwrap();
        let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
        let named = |oid: &str| certificate.extensions().iter().find(|extension| extension.oid.to_id_string() == oid);
        let identifier = named("1.3.6.1.5.5.7.1.31").unwrap();
        let digest = Sha256::digest(b"t.thumb");
        assert!(identifier.critical);
        assert_eq!(identifier.value, [&[4, 32], &digest[..]].concat(), "an octet string of the digest");
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        assert_eq!(format!("{:?}", names.value.general_names), "[DNSName(\"a.example.com\")]");
    }

    #[test]
    fn kinds_have_the_names_of_the_registry() {
        for kind in [ChallengeKind::Http01, ChallengeKind::TlsAlpn01] {
            assert_eq!(kind.to_string().parse(), Ok(kind));
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{kind}\""));
        }
        assert!("dns-01".parse::<ChallengeKind>().unwrap_err().contains("tls-alpn-01"));
    }
}
