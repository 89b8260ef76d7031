//! Certificates that routes bring (H6).

use flynn_types::router::Route;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::error::{Result, invalid};

/// Chain and key in PEM, trimmed and checked to belong together.
pub(super) fn pair(route: &Route) -> Result<Option<(String, String)>> {
    let Some((cert, key)) = route.key_pair() else { return Ok(None) };
    let trim = |text: &str| text.trim_matches([' ', '\n', '\r']).to_owned();
    let (cert, key) = (trim(cert), trim(key));
    check(&cert, &key)?;
    Ok(Some((cert, key)))
}

/// Whether chain and key are a pair, in the words that existing clients know.
pub(crate) fn check(cert: &str, key: &str) -> Result<()> {
    reason(cert, key).map_or(Ok(()), |reason| Err(invalid("", format!("Certificate invalid: {reason}"))))
}

fn reason(cert: &str, key: &str) -> Option<String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(cert.as_bytes()).collect();
    let chain = match chain {
        Ok(chain) if chain.is_empty() => return Some("tls: failed to find any PEM data in certificate input".into()),
        Ok(chain) => chain,
        Err(err) => return Some(format!("tls: failed to parse the certificate: {err}")),
    };
    let key = match PrivateKeyDer::from_pem_slice(key.as_bytes()) {
        Ok(key) => key,
        Err(rustls_pki_types::pem::Error::NoItemsFound) => {
            return Some("tls: failed to find any PEM data in key input".into());
        }
        Err(err) => return Some(format!("tls: failed to parse private key: {err}")),
    };
    let Ok(key) = any_supported_type(&key) else { return Some("tls: failed to parse private key".into()) };
    match CertifiedKey::new(chain, key).keys_match() {
        Ok(()) => None,
        Err(rustls::Error::InconsistentKeys(_)) => Some("tls: private key does not match public key".into()),
        Err(err) => Some(format!("tls: failed to parse the certificate: {err}")),
    }
}
