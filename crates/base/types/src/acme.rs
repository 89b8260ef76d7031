//! Automatic certificates as the controller's API writes them (spec router section 20.1).

use serde::{Deserialize, Serialize};

use crate::host::{is_default, null_as_default};
use crate::router::Certificate;
use crate::time::GoTime;

/// Where an automatic certificate stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ManagedCertificateStatus {
    /// Of the object without a domain that ends a list on an event stream.
    #[default]
    #[serde(rename = "")]
    None,
    Pending,
    Issued,
    Failed,
    /// There is one, and a newer one is being ordered.
    Renewing,
}

/// What went wrong with an order, as the certificate authority says it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ManagedCertificateError {
    /// A URN of RFC 8555 section 6.7.
    #[serde(rename = "type", deserialize_with = "null_as_default")]
    pub kind: String,
    #[serde(deserialize_with = "null_as_default")]
    pub detail: String,
}

/// A certificate that the cluster orders and renews by itself.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ManagedCertificate {
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub id: String,
    #[serde(deserialize_with = "null_as_default")]
    pub domain: String,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub route_id: String,
    pub status: ManagedCertificateStatus,
    /// PEM, leaf first.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub cert: String,
    /// PEM.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub key: String,
    #[serde(skip_serializing_if = "is_default")]
    pub expires_at: GoTime,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub last_error: String,
    #[serde(skip_serializing_if = "is_default")]
    pub last_error_at: GoTime,
    /// Not stored by existing controllers.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub order_url: String,
    /// Not stored by existing controllers.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub errors: Vec<ManagedCertificateError>,
    /// Not stored by existing controllers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Certificate>,
    #[serde(skip_serializing_if = "is_default")]
    pub created_at: GoTime,
    #[serde(skip_serializing_if = "is_default")]
    pub updated_at: GoTime,
}

/// What identifies it and where it stands; never the key.
impl std::fmt::Debug for ManagedCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut certificate = f.debug_struct("ManagedCertificate");
        certificate.field("id", &self.id).field("domain", &self.domain).field("status", &self.status);
        certificate.field("expires_at", &self.expires_at).field("last_error", &self.last_error).finish_non_exhaustive()
    }
}

/// How the cluster orders certificates.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AcmeConfig {
    pub enabled: bool,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub contact_email: String,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub directory_url: String,
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub terms_of_service_agreed: bool,
    /// PEM of an EC key; only between parts of the cluster.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub account_key: String,
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub has_account_key: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub created_at: GoTime,
    #[serde(skip_serializing_if = "is_default")]
    pub updated_at: GoTime,
}

impl AcmeConfig {
    /// What the API answers: whether there is a key, and not which.
    #[must_use]
    pub fn without_key(mut self) -> Self {
        self.has_account_key |= !self.account_key.is_empty();
        self.account_key.clear();
        self
    }
}

/// Without the key.
impl std::fmt::Debug for AcmeConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut config = f.debug_struct("AcmeConfig");
        config.field("enabled", &self.enabled).field("contact_email", &self.contact_email);
        config.field("directory_url", &self.directory_url).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a text, checks that it is written the same way, and gives what was read.
    fn same<T: Serialize + for<'de> Deserialize<'de>>(text: &str) -> T {
        let value: T = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&value).unwrap(), text);
        value
    }

    #[test]
    fn a_managed_certificate_has_its_names_on_the_wire() {
        let full: ManagedCertificate = same(
            r#"{"id":"5f2c","domain":"a.example.com","route_id":"http/1","status":"renewing","cert":"C","key":"K","expires_at":"2026-05-01T10:00:00Z","last_error":"no","last_error_at":"2026-05-01T10:00:00.1Z","order_url":"https://ca/order/1","errors":[{"type":"urn:ietf:params:acme:error:dns","detail":"NXDOMAIN"}],"certificate":{"cert":"C","created_at":"0001-01-01T00:00:00Z","updated_at":"0001-01-01T00:00:00Z"},"created_at":"2026-05-01T10:00:00Z","updated_at":"2026-05-01T10:00:00Z"}"#,
        );
        assert_eq!(full.status, ManagedCertificateStatus::Renewing);
        for status in ["pending", "issued", "failed", "renewing"] {
            same::<ManagedCertificate>(&format!(r#"{{"domain":"a","status":"{status}"}}"#));
        }
        let end: ManagedCertificate = same(r#"{"domain":"","status":""}"#);
        assert_eq!(end, ManagedCertificate::default());
    }

    #[test]
    fn a_configuration_tells_that_there_is_a_key_and_not_which() {
        let config: AcmeConfig = same(
            r#"{"enabled":true,"contact_email":"a@b.c","directory_url":"https://ca/dir","terms_of_service_agreed":true,"account_key":"SECRET","created_at":"2026-05-01T10:00:00Z","updated_at":"2026-05-01T10:00:00Z"}"#,
        );
        let told = serde_json::to_string(&config.without_key()).unwrap();
        assert!(told.contains(r#""has_account_key":true"#) && !told.contains("SECRET"), "{told}");
        same::<AcmeConfig>(r#"{"enabled":false}"#);
    }

    #[test]
    fn nothing_secret_is_printed() {
        let certificate = ManagedCertificate { key: "SECRET".into(), ..ManagedCertificate::default() };
        let config = AcmeConfig { account_key: "SECRET".into(), ..AcmeConfig::default() };
        assert!(!format!("{certificate:?} {config:?}").contains("SECRET"));
    }
}
