//! What is kept of a domain whose certificate is automatic.

use std::collections::BTreeSet;
use std::fmt;

use chrono::{DateTime, Utc};
use flynn_types::acme::{ManagedCertificate, ManagedCertificateError, ManagedCertificateStatus};
use serde::{Deserialize, Serialize};

use crate::challenge::ChallengeKind;
use crate::domain::Domain;

/// A private key in PEM. It is not printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyPem(String);

impl KeyPem {
    pub fn new(pem: String) -> Self {
        Self(pem)
    }

    /// The PEM text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for KeyPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPem(…)")
    }
}

/// One domain: its certificate, the order that is open, the failure since the last success. One record, so that no
/// crash can leave parts that do not belong together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Managed {
    /// A UUID, by which the API names it.
    pub id: String,
    pub domain: Domain,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued: Option<Issued>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<OpenOrder>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// A certificate that was issued, with its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// PEM, leaf first.
    pub chain: String,
    pub key: KeyPem,
    pub not_before: DateTime<Utc>,
    pub not_after: DateTime<Utc>,
    /// URL of the directory of who issued it.
    pub directory: String,
    /// How the domain was proven: the way that is tried first the next time.
    pub challenge: ChallengeKind,
}

/// An order that a server knows and that is not over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenOrder {
    /// URL of the directory that it was made at.
    pub directory: String,
    pub url: String,
    /// The key of the certificate to come.
    pub key: KeyPem,
    pub challenge: ChallengeKind,
}

/// Why there is no newer certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Failed tries since the last success.
    pub count: u32,
    /// For an operator: what failed, why, and what can be done.
    pub last_error: String,
    /// URN of the problem (RFC 8555 section 6.7), where the server named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    pub last_error_at: DateTime<Utc>,
    /// Nothing is tried before.
    pub retry_at: DateTime<Utc>,
    /// Challenges that the authority could not verify in this round.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub refused: BTreeSet<ChallengeKind>,
}

impl Managed {
    /// A domain that nothing is known of yet.
    pub fn new(domain: Domain, id: String, now: DateTime<Utc>) -> Self {
        Self { id, domain, issued: None, order: None, failure: None, created_at: now, updated_at: now }
    }

    /// What the API calls the state.
    pub fn status(&self) -> ManagedCertificateStatus {
        match (&self.issued, &self.order, &self.failure) {
            (Some(_), Some(_), _) => ManagedCertificateStatus::Renewing,
            (Some(_), None, _) => ManagedCertificateStatus::Issued,
            (None, None, Some(_)) => ManagedCertificateStatus::Failed,
            (None, ..) => ManagedCertificateStatus::Pending,
        }
    }
}

/// The object of the API.
impl From<&Managed> for ManagedCertificate {
    fn from(managed: &Managed) -> Self {
        let failure = managed.failure.as_ref();
        let error = failure.and_then(|failure| {
            let kind = failure.problem.clone()?;
            Some(ManagedCertificateError { kind, detail: failure.last_error.clone() })
        });
        Self {
            id: managed.id.clone(),
            domain: managed.domain.to_string(),
            route_id: String::new(),
            status: managed.status(),
            cert: managed.issued.as_ref().map(|issued| issued.chain.clone()).unwrap_or_default(),
            key: managed.issued.as_ref().map(|issued| issued.key.reveal().to_owned()).unwrap_or_default(),
            expires_at: managed.issued.as_ref().map(|issued| issued.not_after.into()).unwrap_or_default(),
            last_error: failure.map(|failure| failure.last_error.clone()).unwrap_or_default(),
            last_error_at: failure.map(|failure| failure.last_error_at.into()).unwrap_or_default(),
            order_url: managed.order.as_ref().map(|order| order.url.clone()).unwrap_or_default(),
            errors: error.into_iter().collect(),
            certificate: None,
            created_at: managed.created_at.into(),
            updated_at: managed.updated_at.into(),
        }
    }
}

#[cfg(test)]
mod tests;
