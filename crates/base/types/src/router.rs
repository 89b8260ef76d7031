//! Routes and certificates as the controller's API and the router's event stream write them (spec router section 4).

use serde::{Deserialize, Serialize};

use crate::host::{is_default, null_as_default};
use crate::time::GoTime;

/// What a route carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteKind {
    #[default]
    Http,
    Tcp,
}

/// Maps an external name or port to a service.
///
/// One struct for both kinds, as on the wire; fields that a kind does not know are left at their default.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Route {
    #[serde(rename = "type")]
    pub kind: RouteKind,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub id: String,
    /// `controller/apps/<app id>`
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub parent_ref: String,
    /// Name in discoverd.
    #[serde(deserialize_with = "null_as_default")]
    pub service: String,
    /// HTTP: 0 for the default ports, else one of the additional ones. TCP: the port that listens.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub port: u16,
    /// Only the service's leader gets requests.
    #[serde(deserialize_with = "null_as_default")]
    pub leader: bool,
    pub created_at: GoTime,
    pub updated_at: GoTime,
    /// An exact name, `*.name`, or `*`.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub domain: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Certificate>,
    /// Older form of `certificate`, which wins over it; existing clients send it.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub tls_cert: String,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub tls_key: String,
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub sticky: bool,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub path: String,
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub drain_backends: bool,
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub disable_keep_alives: bool,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub managed_certificate_domain: String,
    /// Plain HTTP is answered with a redirect to HTTPS. Unknown to Go clients.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "null_as_default")]
    pub https_redirect: bool,
    /// Browsers are told to come by HTTPS only. Unknown to Go clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hsts: Option<Hsts>,
}

/// HTTP Strict Transport Security (RFC 6797).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hsts {
    /// Seconds that browsers remember it; 0 makes them forget.
    pub max_age: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub include_subdomains: bool,
    /// The owner agrees that browsers ship with the domain in their lists.
    #[serde(skip_serializing_if = "is_default")]
    pub preload: bool,
}

impl Route {
    /// The PEM texts of chain and key that the route brings, if any.
    pub fn key_pair(&self) -> Option<(&str, &str)> {
        if !self.tls_cert.is_empty() || !self.tls_key.is_empty() {
            return Some((&self.tls_cert, &self.tls_key));
        }
        let certificate = self.certificate.as_ref()?;
        let given = !certificate.cert.is_empty() || !certificate.key.is_empty();
        given.then_some((&certificate.cert, &certificate.key))
    }

    /// The route without anything secret, for event streams and logs.
    #[must_use]
    pub fn without_key(mut self) -> Self {
        self.certificate = None;
        self.tls_cert.clear();
        self.tls_key.clear();
        self
    }
}

/// What identifies the route; never a key.
impl std::fmt::Debug for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut route = f.debug_struct("Route");
        route.field("kind", &self.kind).field("id", &self.id).field("domain", &self.domain).field("port", &self.port);
        route.field("path", &self.path).field("service", &self.service).finish_non_exhaustive()
    }
}

/// A certificate chain with its key, both PEM.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Certificate {
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub id: String,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub routes: Vec<String>,
    /// Leaf first.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub cert: String,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub key: String,
    pub created_at: GoTime,
    pub updated_at: GoTime,
}

/// Without the key.
impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate").field("id", &self.id).field("routes", &self.routes).finish_non_exhaustive()
    }
}

/// An instance as the router's events name it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Backend {
    pub service: String,
    /// `ip:port`
    pub addr: String,
    pub app: String,
    /// `<host>-<uuid>`
    pub job_id: String,
}

/// What happened to a route or a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StreamEventKind {
    Set,
    Remove,
    BackendUp,
    BackendDown,
    /// Nothing is in flight any more to a backend that is down.
    BackendDrained,
}

impl StreamEventKind {
    /// The name on the wire, which clients ask for.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::Remove => "remove",
            Self::BackendUp => "backend-up",
            Self::BackendDown => "backend-down",
            Self::BackendDrained => "backend-drained",
        }
    }
}

/// An item of the router's event stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamEvent {
    pub event: StreamEventKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<Route>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<Backend>,
}

impl StreamEvent {
    /// An event that says nothing more.
    pub fn new(event: StreamEventKind) -> Self {
        Self { event, route: None, backend: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_keeps_the_bytes_of_existing_clusters() {
        let text = r#"{"type":"http","id":"2b3b2004-38f1-4e68-b856-7d8af3e4c6e1","parent_ref":"controller/apps/9b1d","service":"shop-web","leader":false,"created_at":"2026-05-01T10:00:00.123456Z","updated_at":"0001-01-01T00:00:00Z","domain":"shop.example.com","path":"/","drain_backends":true}"#;
        let route: Route = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&route).unwrap(), text);
        assert!(route.drain_backends && !route.sticky);
    }

    #[test]
    fn what_go_clients_do_not_know_is_written_only_when_it_is_set() {
        let text = r#"{"type":"http","service":"s","leader":false,"created_at":"0001-01-01T00:00:00Z","updated_at":"0001-01-01T00:00:00Z","managed_certificate_domain":"a.b","https_redirect":true,"hsts":{"max_age":60,"include_subdomains":true}}"#;
        let route: Route = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&route).unwrap(), text);
        let off = serde_json::to_string(&Route { https_redirect: false, hsts: None, ..route }).unwrap();
        assert!(!off.contains("hsts") && !off.contains("https_redirect"), "{off}");
    }

    #[test]
    fn the_older_form_of_a_certificate_wins() {
        let pair = |text: &str| {
            let route: Route = serde_json::from_str(text).unwrap();
            route.key_pair().map(|(cert, key)| (cert.to_owned(), key.to_owned()))
        };
        let both = r#"{"certificate":{"cert":"new","key":"new"},"tls_cert":"old","tls_key":"old"}"#;
        assert_eq!(pair(both), Some(("old".into(), "old".into())));
        assert_eq!(pair(r#"{"certificate":{"cert":"c","key":"k"}}"#), Some(("c".into(), "k".into())));
        assert_eq!(pair(r#"{"certificate":{"id":"only"}}"#), None);
        assert_eq!(pair(r#"{"certificate":null}"#), None);
    }

    #[test]
    fn events_have_the_names_that_schedulers_ask_for() {
        let backend = Backend { service: "s".into(), addr: "10.0.0.1:80".into(), ..Backend::default() };
        for kind in [
            StreamEventKind::Set,
            StreamEventKind::Remove,
            StreamEventKind::BackendUp,
            StreamEventKind::BackendDown,
            StreamEventKind::BackendDrained,
        ] {
            let event = StreamEvent { backend: Some(backend.clone()), ..StreamEvent::new(kind) };
            let text = format!(
                r#"{{"event":"{}","backend":{{"service":"s","addr":"10.0.0.1:80","app":"","job_id":""}}}}"#,
                kind.as_str()
            );
            assert_eq!(serde_json::to_string(&event).unwrap(), text);
            assert_eq!(serde_json::from_str::<StreamEvent>(&text).unwrap(), event);
        }
    }

    #[test]
    fn nothing_secret_is_printed() {
        let secret = Certificate { key: "SECRET".into(), ..Certificate::default() };
        assert!(!format!("{secret:?}").contains("SECRET"));
        let route = Route { certificate: Some(secret), tls_key: "SECRET".into(), ..Route::default() };
        assert!(!serde_json::to_string(&route.without_key()).unwrap().contains("SECRET"));
    }
}
