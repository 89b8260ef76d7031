//! Challenges of certificate authorities that are pending, as requests and handshakes find them.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use flynn_acme::challenge::HTTP_PATH;
use flynn_acme::{Challenge, ChallengeKind};
use rustls::sign::CertifiedKey;
use tracing::error;

use super::certificate::own_key_pair;

/// The answers to all pending challenges, by domain.
#[derive(Clone, Debug, Default)]
pub(crate) struct Challenges {
    texts: HashMap<Box<str>, Text>,
    certificates: HashMap<Box<str>, Arc<CertifiedKey>>,
}

#[derive(Clone, Debug)]
struct Text {
    token: Box<str>,
    answer: Bytes,
}

impl Challenges {
    pub(crate) fn new<'a>(pending: impl IntoIterator<Item = &'a Challenge>) -> Self {
        let mut this = Self::default();
        for challenge in pending {
            let domain = challenge.domain.as_str().into();
            match challenge.kind {
                ChallengeKind::Http01 => {
                    let answer = Bytes::from(challenge.key_authorization.clone());
                    this.texts.insert(domain, Text { token: (*challenge.token).into(), answer });
                }
                ChallengeKind::TlsAlpn01 => match presented(challenge) {
                    Ok(certificate) => drop(this.certificates.insert(domain, Arc::new(certificate))),
                    Err(reason) => error!(%challenge.domain, reason, "challenge cannot be answered"),
                },
            }
        }
        this
    }

    /// The answer to a request for this path, if that is asked for now: `None` for all other requests.
    pub(crate) fn text(&self, host: &str, path: &str) -> Option<&Bytes> {
        if self.texts.is_empty() {
            return None;
        }
        let token = path.strip_prefix(HTTP_PATH)?;
        self.texts.get(host).filter(|text| *text.token == *token).map(|text| &text.answer)
    }

    /// The certificate for a handshake that is a challenge.
    pub(crate) fn certificate(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        self.certificates.get(name)
    }
}

fn presented(challenge: &Challenge) -> Result<CertifiedKey, String> {
    let (chain, key) = challenge.certificate().map_err(|err| err.to_string())?;
    own_key_pair(&chain, key.reveal()).map_err(|err| err.to_string())
}
