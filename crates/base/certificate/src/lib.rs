//! The certificate of a cluster's domain, which no public authority signs: [`issue`] makes one, and clients know it by its
//! [`pin`].
//!
//! **Invariant:** the authority's key is forgotten at once: nothing else can ever be signed with it.

#![forbid(unsafe_code)]

use base64::prelude::{BASE64_STANDARD, Engine as _};
use chrono::{Datelike as _, Utc};
use flynn_types::controller::TlsCert;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};

/// How long the certificate is good.
const YEARS: i32 = 5;
const ORGANISATION: &str = "Flynn";

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("make a certificate for {hosts}: {err}")]
    Issue { hosts: String, err: rcgen::Error },
    #[error("read a certificate: {0}")]
    Read(rustls_pki_types::pem::Error),
}

/// A certificate for these hosts, the first of which is its name, of an authority of its own.
pub fn issue(hosts: &[String]) -> Result<TlsCert, CertificateError> {
    let (ca_cert, cert, key) = make(hosts).map_err(|err| CertificateError::Issue { hosts: hosts.join(", "), err })?;
    let pin = pin(&cert)?;
    Ok(TlsCert { ca_cert, cert, pin, key })
}

/// What clients check of a chain of certificates in PEM: base64 of the SHA-256 of its leaf.
pub fn pin(cert: &str) -> Result<String, CertificateError> {
    let leaf = CertificateDer::from_pem_slice(cert.as_bytes()).map_err(CertificateError::Read)?;
    Ok(BASE64_STANDARD.encode(Sha256::digest(&leaf)))
}

/// Elliptic curve keys (P-256): a handshake takes a tenth of the work that one of RSA takes.
fn make(hosts: &[String]) -> Result<(String, String, String), rcgen::Error> {
    let ca_key = KeyPair::generate()?;
    let mut ca = params(&[], "Flynn Ephemeral CA")?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_cert = ca.self_signed(&ca_key)?.pem();
    let issuer = Issuer::from_params(&ca, &ca_key);
    let key = KeyPair::generate()?;
    let mut leaf = params(hosts, hosts.first().map_or("", String::as_str))?;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    let cert = leaf.signed_by(&key, &issuer)?.pem();
    Ok((ca_cert, cert, key.serialize_pem()))
}

fn params(hosts: &[String], name: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(hosts.to_vec())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, ORGANISATION);
    params.distinguished_name.push(DnType::CommonName, name);
    // A day early: clocks differ.
    let (from, to) = (Utc::now() - chrono::Duration::days(1), Utc::now());
    params.not_before = date_time_ymd(from.year(), byte(from.month()), byte(from.day()));
    params.not_after = date_time_ymd(to.year() + YEARS, byte(to.month()), byte(to.day().min(28)));
    Ok(params)
}

/// Months and days are small.
fn byte(number: u32) -> u8 {
    u8::try_from(number).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_made_for_hosts_and_the_pin_is_its_hash() {
        let made = issue(&["flynn.example".to_owned(), "*.flynn.example".to_owned()]).unwrap();
        assert!(made.key.contains("PRIVATE KEY") && made.ca_cert.contains("CERTIFICATE"));
        assert_eq!(pin(&made.cert).unwrap(), made.pin);
        assert_ne!(pin(&made.ca_cert).unwrap(), made.pin);
    }

    #[test]
    fn what_is_no_host_and_no_certificate_is_named() {
        let err = issue(&["ünï".to_owned()]).unwrap_err().to_string();
        assert!(err.starts_with("make a certificate for ünï: "), "{err}");
        assert!(pin("x").unwrap_err().to_string().starts_with("read a certificate: "));
    }
}
