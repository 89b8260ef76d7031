//! Certificates with their keys, from PEM.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};

/// Why a certificate cannot be presented.
#[derive(Debug, thiserror::Error)]
pub enum InvalidCertificate {
    #[error("the certificate is no PEM")]
    Pem(#[source] rustls_pki_types::pem::Error),
    #[error("the certificate's text holds none")]
    Empty,
    #[error("the key is no PEM of a PKCS#1, PKCS#8 or SEC1 key")]
    Key(#[source] rustls_pki_types::pem::Error),
    #[error("the key is encrypted: give it without a passphrase (openssl pkey -in … -out …)")]
    EncryptedKey,
    #[error("the key does not belong to the certificate, which must be the first of the chain")]
    OtherKey,
    #[error("certificate and key cannot be used")]
    Pair(#[source] rustls::Error),
}

/// Reads a chain, leaf first, and its key. The chain is presented as it stands.
pub(crate) fn certified_key(chain: &str, key: &str) -> Result<CertifiedKey, InvalidCertificate> {
    let (chain, key) = read(chain, key)?;
    CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(|err| match err {
        rustls::Error::InconsistentKeys(_) => InvalidCertificate::OtherKey,
        err => InvalidCertificate::Pair(err),
    })
}

/// A pair that we have just made. It may hold a critical extension that is for authorities only, which a check refuses.
pub(super) fn own_key_pair(chain: &str, key: &str) -> Result<CertifiedKey, InvalidCertificate> {
    let (chain, key) = read(chain, key)?;
    let key = aws_lc_rs::default_provider().key_provider.load_private_key(key).map_err(InvalidCertificate::Pair)?;
    Ok(CertifiedKey::new(chain, key))
}

fn read(chain: &str, key: &str) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), InvalidCertificate> {
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>().map_err(InvalidCertificate::Pem)?;
    if chain.is_empty() {
        return Err(InvalidCertificate::Empty);
    }
    // In PKCS#8, and as openssl of old wrote it.
    if key.contains("BEGIN ENCRYPTED PRIVATE KEY") || key.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(InvalidCertificate::EncryptedKey);
    }
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(InvalidCertificate::Key)?;
    Ok((chain, key))
}

/// The certificate for names without one of their own.
#[derive(Clone, Debug)]
pub struct DefaultCertificate(pub(crate) Arc<CertifiedKey>);

impl DefaultCertificate {
    /// Reads a chain, leaf first, and its key.
    ///
    /// # Errors
    /// When they are no pair that can be presented.
    pub fn from_pem(chain: &str, key: &str) -> Result<Self, InvalidCertificate> {
        certified_key(chain, key).map(|certified| Self(Arc::new(certified)))
    }
}

/// Certificates in use, so that many routes with one certificate hold it once and a change of routes parses nothing anew.
#[derive(Debug, Default)]
pub(crate) struct CertificateCache {
    known: HashMap<[u8; 32], Weak<CertifiedKey>>,
}

impl CertificateCache {
    /// The pair of these texts.
    pub(crate) fn get(&mut self, chain: &str, key: &str) -> Result<Arc<CertifiedKey>, InvalidCertificate> {
        let mut hash = Sha256::new();
        for text in [chain, key] {
            hash.update(text.len().to_le_bytes());
            hash.update(text);
        }
        let hash: [u8; 32] = hash.finalize().into();
        if let Some(known) = self.known.get(&hash).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let certified = Arc::new(certified_key(chain, key)?);
        self.known.insert(hash, Arc::downgrade(&certified));
        Ok(certified)
    }

    /// Forgets what no route uses.
    pub(crate) fn prune(&mut self) {
        self.known.retain(|_, certificate| certificate.strong_count() > 0);
    }
}
