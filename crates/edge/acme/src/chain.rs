//! What a certificate says of itself. Pure.

use chrono::{DateTime, Utc};
use rcgen::PublicKeyData as _;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::extensions::GeneralName;

use crate::domain::Domain;
use crate::managed::KeyPem;

/// From when to when a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub not_before: DateTime<Utc>,
    pub not_after: DateTime<Utc>,
}

/// Why a chain is not what was ordered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidChain {
    #[error("the chain is no PEM of certificates")]
    Pem,
    #[error("the chain's first certificate cannot be read: {0}")]
    Certificate(String),
    #[error("the key cannot be read")]
    Key,
    #[error("the certificate is for another key")]
    OtherKey,
    #[error("the certificate does not name {0}")]
    OtherDomain(Domain),
    #[error("the certificate ended at {0}")]
    Expired(DateTime<Utc>),
}

/// Checks that a chain, leaf first, is for this domain and key and still good.
pub(crate) fn check(chain: &str, key: &KeyPem, domain: &Domain, now: DateTime<Utc>) -> Result<Validity, InvalidChain> {
    let leaf = CertificateDer::pem_slice_iter(chain.as_bytes()).next().ok_or(InvalidChain::Pem)?;
    let leaf = leaf.map_err(|_| InvalidChain::Pem)?;
    let unreadable = |err: &dyn std::fmt::Display| InvalidChain::Certificate(err.to_string());
    let (_, leaf) = x509_parser::parse_x509_certificate(&leaf).map_err(|err| unreadable(&err))?;
    let key = rcgen::KeyPair::from_pem(key.reveal()).map_err(|_| InvalidChain::Key)?;
    if leaf.public_key().raw != key.subject_public_key_info() {
        return Err(InvalidChain::OtherKey);
    }
    let names = leaf.subject_alternative_name().map_err(|err| unreadable(&err))?;
    let named = names.is_some_and(|names| {
        let is_it = |name: &GeneralName<'_>| matches!(name, GeneralName::DNSName(name) if name.eq_ignore_ascii_case(domain.as_str()));
        names.value.general_names.iter().any(is_it)
    });
    if !named {
        return Err(InvalidChain::OtherDomain(domain.clone()));
    }
    let time = |time: x509_parser::time::ASN1Time| DateTime::from_timestamp(time.timestamp(), 0);
    let (Some(not_before), Some(not_after)) = (time(leaf.validity().not_before), time(leaf.validity().not_after))
    else {
        return Err(unreadable(&"its validity is out of range"));
    };
    if not_after <= now {
        return Err(InvalidChain::Expired(not_after));
    }
    Ok(Validity { not_before, not_after })
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn made(names: &[&str], not_after_year: i32) -> (String, KeyPem) {
        let key = KeyPair::generate().unwrap();
        let names = names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(not_after_year, 1, 1);
        (params.self_signed(&key).unwrap().pem(), KeyPem::new(key.serialize_pem()))
    }

    #[test]
    fn a_chain_is_taken_only_when_it_is_what_was_ordered() {
        let domain: Domain = "a.example.com".parse().unwrap();
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(20_000); // 2024
        let (chain, key) = made(&["b.example.com", "A.example.com"], 2030);
        let validity = check(&chain, &key, &domain, now).unwrap();
        assert_eq!((validity.not_before.timestamp(), validity.not_after.timestamp()), (1_577_836_800, 1_893_456_000));
        assert_eq!(check("", &key, &domain, now), Err(InvalidChain::Pem));
        assert_eq!(check(&chain, &made(&["x.y"], 2030).1, &domain, now), Err(InvalidChain::OtherKey));
        assert_eq!(check(&chain, &KeyPem::new("x".into()), &domain, now), Err(InvalidChain::Key));
        let (other, key) = made(&["example.com"], 2030);
        assert_eq!(check(&other, &key, &domain, now), Err(InvalidChain::OtherDomain(domain.clone())));
        let (old, key) = made(&["a.example.com"], 2021);
        assert!(matches!(check(&old, &key, &domain, now), Err(InvalidChain::Expired(_))));
        let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(check(damaged, &key, &domain, now), Err(InvalidChain::Certificate(_))));
    }
}
