//! The cluster's certificate.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use chrono::{Datelike as _, Utc};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Outcome;
use crate::error::{Doing as _, Result};
use crate::manifest::Step;
use crate::run::Run;

/// How long the certificate is good.
const YEARS: i32 = 5;
const ORGANISATION: &str = "Flynn";

/// Makes a certificate of an authority that is forgotten at once, unless authority, certificate and key are given.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct GenTlsCert {
    hosts: Vec<String>,
    ca_cert: String,
    cert: String,
    key: String,
}

/// PEM texts, and the pin that clients check: base64 of the SHA-256 of the leaf.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Certificate {
    pub(crate) ca_cert: String,
    pub(crate) cert: String,
    pub(crate) pin: String,
    pub(crate) key: String,
}

impl GenTlsCert {
    pub(super) async fn run(self, step: &Step, run: &mut Run) -> Result<Outcome> {
        let planned = run.state.planned(&step.id)?;
        let made: Certificate = match planned {
            Some(made) => made,
            None => self.make()?,
        };
        run.state.plan(&step.id, &made)?;
        let shown = Some(format!("pin: {}", made.pin));
        Ok(Outcome { shown, ..Outcome::secret(&made)? })
    }

    fn make(self) -> Result<Certificate> {
        let given = ![&self.ca_cert, &self.cert, &self.key].into_iter().any(String::is_empty);
        let (ca_cert, cert, key) = if given {
            (self.ca_cert, self.cert, self.key)
        } else {
            issue(&self.hosts).doing(|| "make a certificate".into())?
        };
        let pin = pin(&cert)?;
        Ok(Certificate { ca_cert, cert, pin, key })
    }
}

/// What clients check of a chain of certificates: the hash of its leaf.
pub(crate) fn pin(cert: &str) -> Result<String> {
    let leaf = CertificateDer::from_pem_slice(cert.as_bytes()).doing(|| "read the certificate".into())?;
    Ok(BASE64_STANDARD.encode(Sha256::digest(&leaf)))
}

/// Elliptic curve keys (P-256): a handshake takes a tenth of the work that one of RSA takes.
fn issue(hosts: &[String]) -> Result<(String, String, String), rcgen::Error> {
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
    use crate::error::words;

    #[test]
    fn the_certificate_is_for_the_hosts_and_the_pin_is_its_hash() {
        let hosts = vec!["flynn.example".to_owned(), "*.flynn.example".to_owned()];
        let made = GenTlsCert { hosts, ..GenTlsCert::default() }.make().map_err(|err| words(&err)).unwrap();
        assert!(made.key.contains("PRIVATE KEY") && made.ca_cert.contains("CERTIFICATE"));
        let again = GenTlsCert {
            hosts: Vec::new(),
            ca_cert: made.ca_cert.clone(),
            cert: made.cert.clone(),
            key: made.key.clone(),
        };
        let again = again.make().map_err(|err| words(&err)).unwrap();
        assert_eq!((again.pin, again.cert), (made.pin, made.cert), "a given one is taken as it is");
    }
}
