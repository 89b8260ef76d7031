//! Routes as the router uses them: parsed, checked, and put together with what serves them.

use std::sync::Arc;

use flynn_types::router::{Route, RouteKind};
use http::HeaderValue;
use rustls::sign::CertifiedKey;

use crate::metrics::RouteMetrics;
use crate::proxy_protocol::Version as ProxyVersion;
use crate::service::Service;
use crate::table::{Mount, canonical};

/// Why a route cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRoute {
    #[error("route has no id")]
    NoId,
    #[error("route {0} names no service")]
    NoService(Box<str>),
    #[error("route {id} has the domain {domain:?}, which is no name, `*.name` or `*`")]
    Domain { id: Box<str>, domain: Box<str> },
    #[error("route {id} has the path {path:?}, which does not begin with a slash")]
    Path { id: Box<str>, path: Box<str> },
    #[error("route {0} is for TCP and has no port")]
    NoPort(Box<str>),
    #[error("route {id} is for TCP on port {port}, which is the router's own")]
    OwnPort { id: Box<str>, port: u16 },
    #[error("route {id} has the backend protocol {protocol:?}, which is neither `http1` nor `h2c`")]
    BackendProtocol { id: Box<str>, protocol: Box<str> },
    #[error("route {id} has the PROXY protocol {version:?}, which is neither `v1` nor `v2`")]
    ProxyProtocol { id: Box<str>, version: Box<str> },
}

/// An HTTP route that requests can take.
#[derive(Debug)]
pub(crate) struct HttpRoute {
    pub(crate) service: Arc<Service>,
    pub(crate) leader: bool,
    pub(crate) sticky: bool,
    /// Whether connections to backends are used again.
    pub(crate) keep_alive: bool,
    pub(crate) protocol: BackendProtocol,
    /// Requests get a page instead of a backend.
    pub(crate) maintenance: bool,
    /// Longest request body in bytes.
    pub(crate) max_body: Option<u64>,
    pub(crate) certificate: Option<Arc<CertifiedKey>>,
    /// What comes in clear is sent to HTTPS.
    pub(crate) https_redirect: bool,
    /// `Strict-Transport-Security` of answers over HTTPS.
    pub(crate) hsts: Option<HeaderValue>,
    pub(crate) metrics: RouteMetrics,
}

/// A TCP route.
#[derive(Debug)]
pub(crate) struct TcpRoute {
    pub(crate) id: Arc<str>,
    pub(crate) service: Arc<Service>,
    pub(crate) leader: bool,
    /// What backends get before the client's bytes.
    pub(crate) proxy_header: Option<ProxyVersion>,
    pub(crate) metrics: RouteMetrics,
}

/// How an HTTP route's backends are spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BackendProtocol {
    Http1,
    /// HTTP/2 in clear text, from the first byte.
    H2c,
}

/// Where a route belongs, and how its backends are spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Http { mount: Mount, protocol: BackendProtocol },
    Tcp { port: u16, proxy_header: Option<ProxyVersion> },
}

/// Checks a route and finds its place. Pure.
pub(crate) fn place(route: &Route) -> Result<Place, InvalidRoute> {
    let id = || Box::<str>::from(&*route.id);
    if route.id.is_empty() {
        return Err(InvalidRoute::NoId);
    }
    if route.service.is_empty() {
        return Err(InvalidRoute::NoService(id()));
    }
    match route.kind {
        RouteKind::Tcp if route.port == 0 => Err(InvalidRoute::NoPort(id())),
        RouteKind::Tcp => {
            let proxy_header = match &*route.proxy_protocol {
                "" => None,
                "v1" => Some(ProxyVersion::V1),
                "v2" => Some(ProxyVersion::V2),
                version => return Err(InvalidRoute::ProxyProtocol { id: id(), version: version.into() }),
            };
            Ok(Place::Tcp { port: route.port, proxy_header })
        }
        RouteKind::Http => {
            let domain = canonical(&route.domain);
            // `*.` is a wildcard of nothing, not the catch-all with a final dot.
            if !is_domain(&domain) || route.domain == "*." {
                return Err(InvalidRoute::Domain { id: id(), domain: (*route.domain).into() });
            }
            let path = match &*route.path {
                "" => "/".into(),
                path if !path.starts_with('/') => return Err(InvalidRoute::Path { id: id(), path: path.into() }),
                path if path.ends_with('/') => path.into(),
                path => format!("{path}/").into(),
            };
            let protocol = match &*route.backend_protocol {
                "" | "http1" => BackendProtocol::Http1,
                "h2c" => BackendProtocol::H2c,
                protocol => return Err(InvalidRoute::BackendProtocol { id: id(), protocol: protocol.into() }),
            };
            Ok(Place::Http { mount: Mount { port: route.port, domain: domain.into(), path }, protocol })
        }
    }
}

fn is_domain(domain: &str) -> bool {
    let name = domain.strip_prefix("*.").unwrap_or(domain);
    domain == "*"
        || (!name.is_empty()
            && name.len() <= 255
            && !name.contains(|c: char| c == '*' || c == '/' || c.is_whitespace()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(domain: &str, path: &str) -> Result<Place, InvalidRoute> {
        let route = Route { id: "r".into(), service: "s".into(), ..Route::default() };
        place(&Route { domain: domain.into(), path: path.into(), ..route })
    }

    #[test]
    fn places_are_canonical() {
        let mount = |domain: &str, path: &str| Place::Http {
            mount: Mount { port: 0, domain: domain.into(), path: path.into() },
            protocol: BackendProtocol::Http1,
        };
        assert_eq!(http("Foo.COM.", ""), Ok(mount("foo.com", "/")));
        assert_eq!(http("*.foo.com", "/3"), Ok(mount("*.foo.com", "/3/")));
        assert_eq!(http("*", "/a/b/"), Ok(mount("*", "/a/b/")));
    }

    #[test]
    fn routes_that_mean_nothing_are_refused() {
        for domain in ["", "*.", "a.*", "a b", "**", "*a", "a/b"] {
            assert!(matches!(http(domain, "/"), Err(InvalidRoute::Domain { .. })), "{domain}");
        }
        assert!(matches!(http("a", "x/"), Err(InvalidRoute::Path { .. })));
        assert_eq!(place(&Route::default()), Err(InvalidRoute::NoId));
        let tcp = Route { id: "r".into(), service: "s".into(), kind: RouteKind::Tcp, ..Route::default() };
        assert_eq!(place(&tcp), Err(InvalidRoute::NoPort("r".into())));
        let tcp = Route { port: 3000, ..tcp };
        assert_eq!(place(&tcp), Ok(Place::Tcp { port: 3000, proxy_header: None }));
        let with = |version: &str| place(&Route { proxy_protocol: version.into(), ..tcp.clone() });
        assert_eq!(with("v2"), Ok(Place::Tcp { port: 3000, proxy_header: Some(ProxyVersion::V2) }));
        assert!(matches!(with("v3"), Err(InvalidRoute::ProxyProtocol { .. })));
        let http = Route { id: "r".into(), service: "s".into(), domain: "a".into(), ..Route::default() };
        let with = |protocol: &str| place(&Route { backend_protocol: protocol.into(), ..http.clone() });
        assert!(matches!(with("h2c"), Ok(Place::Http { protocol: BackendProtocol::H2c, .. })));
        assert!(matches!(with("h3"), Err(InvalidRoute::BackendProtocol { .. })));
    }
}
